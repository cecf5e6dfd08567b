//! Connections from clients: which protocol they speak, and their end.

mod detect;
mod h1;
mod h2;
mod preamble;

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use tracing::debug;

use crate::clients::Place;
use crate::h1::wire::Wire;
use crate::headers::Client;
use crate::socket::{Socket, Stream};
use crate::tls::Handshakes;
use crate::worker::Worker;
use detect::{Detected, detect};

/// Serves one accepted connection to its end.
pub(crate) async fn serve(
    worker: Rc<Worker>,
    stream: Stream,
    peer: SocketAddr,
    tls: Option<Arc<Handshakes>>,
    proxy_protocol: bool,
) {
    // The future of a connection lives as long as the connection: what only its beginning needs
    // is in a box that goes with it.
    let begun = {
        let begin = Box::pin(begin(&worker, stream, peer, tls, proxy_protocol));
        tokio::time::timeout(worker.config.timeouts.handshake, begin).await
    };
    let Begun { socket, first, is_h2, client, place } = match begun {
        Ok(Ok(Some(begun))) => begun,
        Ok(Ok(None)) => return,
        Ok(Err(error)) => {
            debug!(%peer, %error, "a connection did not begin well");
            return worker.counters.handshakes_failed.add();
        }
        Err(_) => return worker.counters.handshakes_failed.add(),
    };
    if is_h2 {
        Box::pin(h2::serve(worker, socket, first, client, place)).await;
    } else {
        h1::serve(worker, Wire::new(socket, &first), client, place).await;
    }
}

struct Begun {
    socket: Socket,
    /// What was read from the socket already.
    first: Bytes,
    is_h2: bool,
    client: Rc<Client>,
    place: Place,
}

/// Finds out whose connection it is and what is spoken; none when it was closed without a byte, or is one too many.
async fn begin(
    worker: &Worker,
    mut stream: Stream,
    peer: SocketAddr,
    tls: Option<Arc<Handshakes>>,
    proxy_protocol: bool,
) -> io::Result<Option<Begun>> {
    let client = if proxy_protocol { preamble::read(&mut stream, peer).await? } else { peer };
    let is_trusted = worker.config.trusted.iter().any(|range| range.contains(&client.ip().to_canonical()));
    // A proxy brings many clients.
    let place = if is_trusted { Some(Place::unlimited()) } else { worker.clients.enter(client.ip()) };
    let Some(place) = place else {
        debug!(client = %client.ip(), "one connection too many of this client");
        worker.counters.connections_refused_of_clients.add();
        return Ok(None);
    };
    let client = Client::new(client.ip(), tls.is_some(), is_trusted);
    let Some(handshakes) = tls else {
        let (first, is_h2) = match detect(&mut stream).await? {
            Detected::H1(first) => (first, false),
            Detected::H2(first) => (first, true),
            Detected::Closed => return Ok(None),
        };
        return Ok(Some(Begun { socket: Socket::Plain(stream), first, is_h2, client: Rc::new(client), place }));
    };
    let io = handshakes.current().accept(stream).await?;
    // The protocol is what ALPN agreed on (RFC 7301); without ALPN it is HTTP/1.1.
    let session = io.get_ref().1;
    let is_h2 = session.alpn_protocol() == Some(b"h2");
    let client = Rc::new(match session.peer_certificates() {
        Some([own, ..]) => client.certified(own),
        _ => client,
    });
    Ok(Some(Begun { socket: Socket::Tls(Box::new(io.into())), first: Bytes::new(), is_h2, client, place }))
}
