//! An app whose every answer is known from its path: bodies, event streams, WebSockets, and POSTs that are counted.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Response};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::Kind;
use super::network::Dice;
use crate::fleet::{H1, H2c};
use crate::h8_websockets::accept;
use crate::http1::{Head, Http1};

/// How often each POST has run, and what arrived that nobody sent.
#[derive(Default)]
pub(super) struct Ran {
    pub(super) posts: Mutex<HashMap<String, u32>>,
    pub(super) wrong: Mutex<Vec<String>>,
}

/// The byte at `place` of the body that `seed` names.
fn byte(seed: u64, place: usize) -> u8 {
    (seed.wrapping_mul(31).wrapping_add(place as u64 / 7) ^ place as u64) as u8
}

pub(super) fn blob(seed: u64, length: usize) -> Vec<u8> {
    (0..length).map(|place| byte(seed, place)).collect()
}

pub(super) fn events(seed: u64, count: usize) -> Vec<String> {
    (0..count).map(|nth| format!("id: {nth}\ndata: {seed}-{nth}\n\n")).collect()
}

/// The close that ends a WebSocket whose every message was sent.
pub(super) const CLOSE: [u8; 4] = [0x88, 2, 0x03, 0xe8];

/// A WebSocket's messages, each a frame: from the app as they are, from a client masked.
pub(super) fn messages(seed: u64, count: usize, masked: bool) -> Vec<Vec<u8>> {
    let mut dice = Dice(seed + 1);
    let mut message = |nth: usize| {
        let payload = blob(seed + nth as u64, dice.roll(700) as usize);
        let mask = if masked { 0x80 } else { 0 };
        let mut frame = vec![0x82];
        match payload.len() {
            length @ 0..126 => frame.push(mask | length as u8),
            length => frame.extend([mask | 126, (length >> 8) as u8, length as u8]),
        }
        // A mask of zeros changes nothing.
        frame.extend_from_slice(if masked { &[0; 4] } else { &[] });
        frame.extend(payload);
        frame
    };
    (0..count).map(&mut message).collect()
}

enum Answer {
    Body(Vec<u8>),
    Events(Vec<String>),
    Socket { messages: Vec<Vec<u8>>, expected: Vec<u8> },
}

impl Ran {
    /// What the app answers to `path`, when the request's body is whole.
    fn answer(&self, path: &str) -> Answer {
        let words: Vec<&str> = path.split('/').skip(1).collect();
        match words[..] {
            ["blob", seed, length] => Answer::Body(blob(seed.parse().unwrap(), length.parse().unwrap())),
            ["events", seed, count] => Answer::Events(events(seed.parse().unwrap(), count.parse().unwrap())),
            ["socket", seed, count] => {
                let (seed, count) = (seed.parse().unwrap(), count.parse().unwrap());
                let expected = messages(seed, count, true).concat();
                Answer::Socket { messages: messages(seed, count, false), expected }
            }
            ["once", id] => {
                *self.posts.lock().unwrap().entry(id.to_owned()).or_default() += 1;
                Answer::Body(b"done".to_vec())
            }
            _ => panic!("{path}"),
        }
    }

    /// What a WebSocket's client has sent is the beginning of what it should have, if it is not all.
    fn received(&self, path: &str, expected: &[u8], received: &[u8]) {
        let common = received.len().min(expected.len());
        // Behind its messages comes a close, whose mask the balancer may have chosen.
        if received[..common] != expected[..common] && !is_closed_before(expected, received) {
            self.wrong.lock().unwrap().push(format!("{path}: {} bytes", received.len()));
        }
    }
}

/// Whether a masked close frame follows the beginning of what was expected.
fn is_closed_before(expected: &[u8], received: &[u8]) -> bool {
    let common = expected.iter().zip(received).take_while(|(one, other)| one == other).count();
    received[common..].starts_with(&[0x88])
}

/// Serves on a port of its own.
pub(super) async fn serve(kind: Kind, tls: Option<Arc<TlsAcceptor>>, ran: Arc<Ran>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (ran, tls) = (ran.clone(), tls.clone());
            tokio::spawn(async move {
                match tls {
                    None => connection(kind, stream, ran).await,
                    Some(tls) => {
                        let Ok(stream) = tls.accept(stream).await else { return };
                        connection(kind, stream, ran).await;
                    }
                }
            });
        }
    });
    address
}

async fn connection(kind: Kind, stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, ran: Arc<Ran>) {
    match kind.protocol {
        H2c => app_h2(stream, ran).await,
        H1 => app_h1(stream, ran).await,
    }
}

const PAUSE: Duration = Duration::from_millis(1);

async fn app_h2(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, ran: Arc<Ran>) {
    let mut builder = h2::server::Builder::new();
    let Ok(mut connection) = builder.enable_connect_protocol().handshake::<_, Bytes>(stream).await else { return };
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let ran = ran.clone();
        tokio::spawn(async move {
            let path = request.uri().path().to_owned();
            let is_socket = request.method() == Method::CONNECT;
            let mut body = request.into_body();
            if !is_socket && receive_h2(&mut body, &mut Vec::new()).await.is_none() {
                return;
            }
            let head = Response::builder();
            match ran.answer(&path) {
                Answer::Body(bytes) => {
                    // Without a length nothing but the end of the stream tells that a body is whole.
                    let head = if bytes.len() % 2 == 0 { head } else { head.header("content-length", bytes.len()) };
                    let head = head.body(()).unwrap();
                    let Ok(mut stream) = respond.send_response(head, bytes.is_empty()) else { return };
                    if !bytes.is_empty() {
                        send_h2(&mut stream, bytes.into(), true).await;
                    }
                }
                Answer::Events(events) => {
                    let head = head.header("content-type", "text/event-stream").body(()).unwrap();
                    let Ok(mut stream) = respond.send_response(head, false) else { return };
                    for event in events {
                        if send_h2(&mut stream, event.into(), false).await.is_none() {
                            return;
                        }
                        tokio::time::sleep(PAUSE).await;
                    }
                    let _ = stream.send_data(Bytes::new(), true);
                }
                Answer::Socket { messages, expected } => {
                    let Ok(mut stream) = respond.send_response(head.body(()).unwrap(), false) else { return };
                    let receive = async {
                        let mut received = Vec::new();
                        receive_h2(&mut body, &mut received).await;
                        ran.received(&path, &expected, &received);
                    };
                    let send = async {
                        for message in messages.into_iter().chain([CLOSE.to_vec()]) {
                            if send_h2(&mut stream, message.into(), false).await.is_none() {
                                return;
                            }
                            tokio::time::sleep(PAUSE).await;
                        }
                        let _ = stream.send_data(Bytes::new(), true);
                    };
                    tokio::join!(receive, send);
                }
            }
        });
    }
}

/// All of a body; none when it did not come to its end.
async fn receive_h2(body: &mut h2::RecvStream, received: &mut Vec<u8>) -> Option<()> {
    while let Some(piece) = body.data().await {
        let piece = piece.ok()?;
        let _ = body.flow_control().release_capacity(piece.len());
        received.extend(piece);
    }
    body.is_end_stream().then_some(())
}

pub(super) async fn send_h2(stream: &mut h2::SendStream<Bytes>, mut bytes: Bytes, is_last: bool) -> Option<()> {
    while !bytes.is_empty() {
        stream.reserve_capacity(bytes.len());
        let room = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await?.ok()?;
        let piece = bytes.split_to(room.min(bytes.len()));
        stream.send_data(piece, is_last && bytes.is_empty()).ok()?;
    }
    Some(())
}

async fn app_h1(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, ran: Arc<Ran>) {
    let mut connection = Http1::over(stream);
    while let Some(head) = connection.next_head().await {
        // A body that stalls is not waited for as long as a test would be.
        let body = tokio::time::timeout(Duration::from_secs(5), connection.body(&head)).await;
        let Ok(Ok(_)) = body else { return };
        match ran.answer(path(&head)) {
            Answer::Body(body) if body.len() % 2 == 0 => {
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
                connection.write([head.as_bytes(), &body].concat()).await;
            }
            Answer::Body(body) => {
                connection.write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
                for piece in body.chunks(5_000) {
                    connection.write(chunk(piece)).await;
                }
                connection.write("0\r\n\r\n").await;
            }
            Answer::Events(events) => {
                let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
                connection.write(head).await;
                for event in events {
                    connection.write(chunk(event.as_bytes())).await;
                    tokio::time::sleep(PAUSE).await;
                }
                connection.write("0\r\n\r\n").await;
            }
            Answer::Socket { messages, expected } => {
                let switch = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n";
                connection.write(format!("{switch}sec-websocket-accept: {}\r\n\r\n", accept(&head))).await;
                for message in messages.into_iter().chain([CLOSE.to_vec()]) {
                    connection.write(message).await;
                    tokio::time::sleep(PAUSE).await;
                }
                // The other's close is the last that comes.
                let rest = tokio::time::timeout(Duration::from_secs(2), connection.rest()).await;
                return ran.received(path(&head), &expected, &rest.unwrap_or_default());
            }
        }
    }
}

fn path(head: &Head) -> &str {
    head.start.split(' ').nth(1).unwrap()
}

fn chunk(bytes: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}
