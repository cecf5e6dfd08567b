//! RFC 9113 against peers that break it: each fault costs its stream or its connection what the specification says, and no
//! other client anything.

mod connection;
mod endpoint;
mod floods;
mod streams;
mod windows;

use tidelock_balancer::{Config, Limits};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::fleet::{Endpoint, Fleet, H2c, config};
use crate::frames::{Event, PATIENCE, PROTOCOL_ERROR, Peer, REFUSED_STREAM, data, frame, headers, soon};
use crate::hpack;

const FLOW_CONTROL_ERROR: u32 = 3;
const STREAM_CLOSED: u32 = 5;
const FRAME_SIZE_ERROR: u32 = 6;
const COMPRESSION_ERROR: u32 = 9;
const ENHANCE_YOUR_CALM: u32 = 0xb;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITISED: u8 = 0x20;
const GET: [(&str, &str); 4] = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "app.test")];
const POST: [(&str, &str); 4] = [(":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", "app.test")];

async fn fleet() -> (Fleet, Endpoint) {
    let endpoint = Endpoint::listen("a").await;
    (Fleet::serving(config(), H2c, &[&endpoint]).await, endpoint)
}

/// A request that is served, on a connection that had to bear something.
async fn serves(client: &mut Peer, endpoint: &Endpoint, stream: u32) {
    client.headers(stream, &GET, true).await;
    let mut upstream = endpoint.h2().await;
    let at = loop {
        match upstream.next().await {
            Event::Headers { stream, end: true, .. } => break stream,
            // A cancelled upload may have left too little of that one's window.
            Event::Closed => upstream = endpoint.h2().await,
            _of_others => {}
        }
    };
    upstream.respond(at, "200", b"fine").await;
    assert_eq!(client.response(stream).await.whole(), ("200", &b"fine"[..]));
}

fn settings(pairs: &[(u16, u32)]) -> Vec<u8> {
    let payload: Vec<u8> =
        pairs.iter().flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()).collect();
    frame(SETTINGS, 0, 0, &payload)
}

fn get(stream: u32) -> Vec<u8> {
    headers(stream, &GET, true)
}

fn post(stream: u32) -> Vec<u8> {
    headers(stream, &POST, false)
}

fn word(kind: u8, stream: u32, word: u32) -> Vec<u8> {
    frame(kind, 0, stream, &word.to_be_bytes())
}

fn of(parts: &[Vec<u8>]) -> Vec<u8> {
    parts.concat()
}
