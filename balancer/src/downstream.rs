//! Connections from clients: which protocol they speak, and their end.

pub(crate) mod detect;
mod framing;
pub(crate) mod h1;
pub(crate) mod h2;
pub(crate) mod linger;

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tracing::debug;

use crate::headers::Client;
use crate::worker::Worker;
use detect::{Detected, detect};

/// Serves one accepted connection to its end.
pub(crate) async fn serve(worker: Rc<Worker>, stream: TcpStream, peer: SocketAddr, tls: Option<Arc<TlsAcceptor>>) {
    let limit = worker.config.timeouts.handshake;
    let Some(acceptor) = tls else {
        match tokio::time::timeout(limit, detect(stream)).await {
            Ok(Ok(Detected::H2(io))) => serve_h2(worker, io, peer, false).await,
            Ok(Ok(Detected::H1(io))) => serve_h1(worker, io, peer, false).await,
            Ok(Ok(Detected::Closed)) => {}
            Ok(Err(_)) | Err(_) => worker.counters.handshakes_failed.add(),
        }
        return;
    };
    match tokio::time::timeout(limit, acceptor.accept(stream)).await {
        // The protocol is what ALPN agreed on (RFC 7301); without ALPN it is HTTP/1.1.
        Ok(Ok(io)) if io.get_ref().1.alpn_protocol() == Some(b"h2") => serve_h2(worker, io, peer, true).await,
        Ok(Ok(io)) => serve_h1(worker, io, peer, true).await,
        Ok(Err(error)) => {
            debug!(%peer, %error, "the TLS handshake failed");
            worker.counters.handshakes_failed.add();
        }
        Err(_) => worker.counters.handshakes_failed.add(),
    }
}

async fn serve_h2<S>(worker: Rc<Worker>, io: S, peer: SocketAddr, tls: bool)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    h2::serve(worker, io, Rc::new(Client::new(peer.ip(), tls))).await;
}

async fn serve_h1<S>(worker: Rc<Worker>, io: S, peer: SocketAddr, tls: bool)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    h1::serve(worker, io, Rc::new(Client::new(peer.ip(), tls))).await;
}
