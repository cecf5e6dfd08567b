//! Connections from clients: which protocol they speak, and their end.

mod detect;
mod h1;
mod h2;

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tracing::debug;

use crate::h1::wire::Wire;
use crate::headers::Client;
use crate::socket::Socket;
use crate::worker::Worker;
use detect::{Detected, detect};

/// Serves one accepted connection to its end.
pub(crate) async fn serve(worker: Rc<Worker>, stream: TcpStream, peer: SocketAddr, tls: Option<Arc<TlsAcceptor>>) {
    // The future of a connection lives as long as the connection: what only its beginning needs
    // is in a box that goes with it.
    let Some((socket, first, is_h2)) = Box::pin(begin(&worker, stream, peer, tls)).await else { return };
    let client = Rc::new(Client::new(peer.ip(), matches!(socket, Socket::Tls(_))));
    if is_h2 {
        Box::pin(h2::serve(worker, socket, first, client)).await;
    } else {
        h1::serve(worker, Wire::new(socket, &first), client).await;
    }
}

/// Finds out what is spoken: the socket, what was read from it already, and whether it is HTTP/2.
async fn begin(
    worker: &Worker,
    mut stream: TcpStream,
    peer: SocketAddr,
    tls: Option<Arc<TlsAcceptor>>,
) -> Option<(Socket, Bytes, bool)> {
    let limit = worker.config.timeouts.handshake;
    let Some(acceptor) = tls else {
        return match tokio::time::timeout(limit, detect(&mut stream)).await {
            Ok(Ok(Detected::H2(first))) => Some((Socket::Plain(stream), first, true)),
            Ok(Ok(Detected::H1(first))) => Some((Socket::Plain(stream), first, false)),
            Ok(Ok(Detected::Closed)) => None,
            Ok(Err(_)) | Err(_) => {
                worker.counters.handshakes_failed.add();
                None
            }
        };
    };
    match tokio::time::timeout(limit, acceptor.accept(stream)).await {
        Ok(Ok(io)) => {
            // The protocol is what ALPN agreed on (RFC 7301); without ALPN it is HTTP/1.1.
            let is_h2 = io.get_ref().1.alpn_protocol() == Some(b"h2");
            Some((Socket::Tls(Box::new(io.into())), Bytes::new(), is_h2))
        }
        Ok(Err(error)) => {
            debug!(%peer, %error, "the TLS handshake failed");
            worker.counters.handshakes_failed.add();
            None
        }
        Err(_) => {
            worker.counters.handshakes_failed.add();
            None
        }
    }
}
