//! One TLS connection: its handshake, its reader and its writer.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use super::super::frame::{self, Hello, PeerMessage};
use super::{Event, HANDSHAKE, IDLE, PING, Queue, Queued, Shared};

pub(super) async fn accepted(shared: Arc<Shared>, stream: TcpStream, from: SocketAddr) {
    let handshake = async {
        stream.set_nodelay(true)?;
        let stream = TlsAcceptor::from(shared.identities.current().server).accept(stream).await?;
        greet(&shared, TlsStream::Server(stream)).await
    };
    let (stream, hello) = match within(handshake).await {
        Ok(greeted) => greeted,
        Err(error) => {
            tracing::warn!(%from, %error, "a connection to the fleet's port was refused; is it a node with another secret or certificate?");
            return;
        }
    };
    shared.take_hello(&hello);
    let (reader, writer) = tokio::io::split(stream);
    // Whichever ends first ends the connection.
    let ended = tokio::select! {
        ended = read(&shared, reader, hello.id, None) => ended,
        ended = write(&shared, writer, None) => ended,
    };
    tracing::debug!(%from, ?ended, "a peer's connection ended");
}

/// Dials `address`, which may be a host name: it is resolved each time, since a pod's IP changes.
pub(super) async fn dial(shared: &Arc<Shared>, address: &str) -> io::Result<(TlsStream<TcpStream>, Hello)> {
    within(async {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let identity = shared.identities.current();
        let stream = TlsConnector::from(identity.client).connect(identity.name, stream).await?;
        greet(shared, TlsStream::Client(stream)).await
    })
    .await
}

/// Carries the queue's messages to a dialled peer until the connection breaks.
pub(super) async fn carry(
    shared: &Arc<Shared>,
    stream: TlsStream<TcpStream>,
    peer: u64,
    address: &str,
    queue: &Queue,
    receiver: &mut mpsc::Receiver<Queued>,
) -> io::Result<()> {
    let (reader, writer) = tokio::io::split(stream);
    tokio::select! {
        ended = read(shared, reader, peer, Some(address)) => ended,
        ended = write(shared, writer, Some((peer, queue, receiver))) => ended,
    }
}

async fn within<T>(handshake: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(HANDSHAKE, handshake).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn greet(shared: &Shared, mut stream: TlsStream<TcpStream>) -> io::Result<(TlsStream<TcpStream>, Hello)> {
    let own = PeerMessage::Hello(shared.hello.borrow().clone()).encode();
    frame::write(&mut stream, &own).await?;
    match PeerMessage::decode(&frame::read(&mut stream).await?) {
        Some(PeerMessage::Hello(hello)) if hello.id != 0 => Ok((stream, hello)),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the peer did not begin with a Hello that this version reads",
        )),
    }
}

async fn read(
    shared: &Arc<Shared>,
    mut reader: impl AsyncRead + Unpin,
    peer: u64,
    dialled: Option<&str>,
) -> io::Result<()> {
    loop {
        let frame = timeout(IDLE, frame::read(&mut reader)).await.map_err(|_| io::ErrorKind::TimedOut)??;
        shared.book.seen(peer);
        match PeerMessage::decode(&frame) {
            Some(PeerMessage::Ping) => {}
            Some(PeerMessage::Hello(hello)) if hello.id == peer => {
                shared.take_hello(&hello);
                if let Some(address) = dialled {
                    shared.heard.send_modify(|heard| _ = heard.insert(address.to_owned(), hello));
                }
            }
            Some(PeerMessage::Hello(_)) => {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the peer changed its id"));
            }
            Some(message) => (shared.handler)(Event::Message { from: peer, message }),
            // A newer version may send what this one does not know.
            None => tracing::debug!(peer, "ignored a frame that this version cannot read"),
        }
    }
}

async fn write(
    shared: &Shared,
    mut writer: impl AsyncWrite + Unpin,
    queue: Option<(u64, &Queue, &mut mpsc::Receiver<Queued>)>,
) -> io::Result<()> {
    let mut hello = shared.hello.subscribe();
    // It may have changed since the greeting: say it once more rather than miss it.
    hello.mark_changed();
    let mut ping_at = Instant::now() + PING;
    let (peer, budget, mut receiver) = match queue {
        Some((peer, queue, receiver)) => (peer, Some(&queue.bytes), Some(receiver)),
        None => (0, None, None),
    };
    loop {
        let next = tokio::select! {
            // Hellos first: founders wait for them.
            biased;
            Ok(()) = hello.changed() => PeerMessage::Hello(hello.borrow_and_update().clone()).encode(),
            () = tokio::time::sleep_until(ping_at) => {
                ping_at = Instant::now() + PING;
                PeerMessage::Ping.encode()
            }
            Some(queued) = next(&mut receiver) => {
                let Queued { frame, about } = queued;
                if let Some(bytes) = budget {
                    bytes.fetch_sub(frame.len(), Ordering::Relaxed);
                }
                let sent = send(&mut writer, &frame).await;
                let event = match sent {
                    Ok(()) => Event::Sent { to: peer, about },
                    Err(_) => Event::Undelivered { to: peer, about: about.possibly_sent() },
                };
                (shared.handler)(event);
                sent?;
                continue;
            }
            else => return Ok(()),
        };
        send(&mut writer, &next).await?;
    }
}

async fn next(receiver: &mut Option<&mut mpsc::Receiver<Queued>>) -> Option<Queued> {
    match receiver {
        Some(receiver) => receiver.recv().await,
        None => std::future::pending().await,
    }
}

/// Time for a frame to leave: the idle limit, and more for a long one at one MiB a second.
async fn send(writer: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    let limit = IDLE + std::time::Duration::from_secs((bytes.len() >> 20) as u64);
    timeout(limit, frame::write(writer, bytes)).await.map_err(|_| io::ErrorKind::TimedOut)?
}
