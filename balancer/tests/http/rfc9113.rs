//! RFC 9113 against clients that break it: each fault costs its stream or its connection what the specification
//! says, and no other client anything.

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
            Event::Closed => panic!("closed"),
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

/// Each ends its connection with a GOAWAY that says why; another client's goes on.
#[tokio::test]
async fn what_breaks_a_connection() {
    let block = hpack::encode(&GET);
    let cases: Vec<(&str, u32, Vec<u8>)> = vec![
        ("4.2: a frame that is too large", FRAME_SIZE_ERROR, of(&[post(1), data(1, &[0; 16_385], false)])),
        ("4.2: headers that are too large", FRAME_SIZE_ERROR, frame(HEADERS, END_HEADERS, 1, &[0; 16_385])),
        ("4.3: no header block", COMPRESSION_ERROR, frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0x80])),
        (
            "4.3: a table larger than allowed",
            COMPRESSION_ERROR,
            frame(HEADERS, END_HEADERS, 1, &[0x3f, 0xff, 0xff, 0x7f]),
        ),
        ("5.1: DATA for a stream that has not begun", PROTOCOL_ERROR, data(1, b"x", true)),
        ("5.1: RST_STREAM for one", PROTOCOL_ERROR, word(RST_STREAM, 1, 8)),
        ("5.1: WINDOW_UPDATE for one", PROTOCOL_ERROR, word(WINDOW_UPDATE, 1, 8)),
        ("5.1: CONTINUATION for one", PROTOCOL_ERROR, frame(CONTINUATION, END_HEADERS, 1, &block)),
        ("5.1.1: a stream of the server's", PROTOCOL_ERROR, get(2)),
        ("5.1.1: numbers that go down", PROTOCOL_ERROR, of(&[get(5), get(3)])),
        ("5.3.1: a stream that depends on itself", PROTOCOL_ERROR, frame(PRIORITY, 0, 1, &[0, 0, 0, 1, 0])),
        ("6.1: DATA for no stream", PROTOCOL_ERROR, data(0, b"x", true)),
        ("6.1: more padding than payload", PROTOCOL_ERROR, of(&[post(1), frame(DATA, PADDED, 1, b"\x05abc")])),
        ("6.1: padding without its length", FRAME_SIZE_ERROR, of(&[post(1), frame(DATA, PADDED, 1, b"")])),
        ("6.2: HEADERS for no stream", PROTOCOL_ERROR, get(0)),
        ("6.2: more padding than payload", PROTOCOL_ERROR, frame(HEADERS, PADDED | END_HEADERS, 1, b"\x05abc")),
        ("6.2: a priority that is cut off", FRAME_SIZE_ERROR, frame(HEADERS, PRIORITISED | END_HEADERS, 1, b"\0\0\0")),
        (
            "6.2: another frame within a block",
            PROTOCOL_ERROR,
            of(&[frame(HEADERS, 0, 1, &block[..9]), frame(PING, 0, 0, &[0; 8])]),
        ),
        (
            "6.2: another stream's block within a block",
            PROTOCOL_ERROR,
            of(&[frame(HEADERS, 0, 1, &block[..9]), get(3)]),
        ),
        (
            "6.2: an unknown frame within a block",
            PROTOCOL_ERROR,
            of(&[frame(HEADERS, 0, 1, &block[..9]), frame(0x77, 0, 1, b"")]),
        ),
        ("6.3: PRIORITY for no stream", PROTOCOL_ERROR, frame(PRIORITY, 0, 0, &[0; 5])),
        ("6.3: PRIORITY of four bytes", FRAME_SIZE_ERROR, frame(PRIORITY, 0, 1, &[0; 4])),
        ("6.4: RST_STREAM for no stream", PROTOCOL_ERROR, word(RST_STREAM, 0, 8)),
        ("6.4: RST_STREAM of three bytes", FRAME_SIZE_ERROR, of(&[post(1), frame(RST_STREAM, 0, 1, &[0; 3])])),
        ("6.5: SETTINGS for a stream", PROTOCOL_ERROR, frame(SETTINGS, 0, 1, &[])),
        ("6.5: SETTINGS of five bytes", FRAME_SIZE_ERROR, frame(SETTINGS, 0, 0, &[0; 5])),
        ("6.5: an acknowledgement that says something", FRAME_SIZE_ERROR, frame(SETTINGS, 1, 0, &[0; 6])),
        ("6.5.2: ENABLE_PUSH of 2", PROTOCOL_ERROR, settings(&[(2, 2)])),
        ("6.5.2: a window of 2^31", FLOW_CONTROL_ERROR, settings(&[(4, 1 << 31)])),
        ("6.5.2: frames below 2^14", PROTOCOL_ERROR, settings(&[(5, 16_383)])),
        ("6.5.2: frames above 2^24-1", PROTOCOL_ERROR, settings(&[(5, 1 << 24)])),
        ("8441: ENABLE_CONNECT_PROTOCOL of 2", PROTOCOL_ERROR, settings(&[(8, 2)])),
        ("8441: ENABLE_CONNECT_PROTOCOL taken back", PROTOCOL_ERROR, settings(&[(8, 1), (8, 0)])),
        ("6.6: a client pushes", PROTOCOL_ERROR, of(&[post(1), frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2])])),
        ("6.7: PING for a stream", PROTOCOL_ERROR, frame(PING, 0, 1, &[0; 8])),
        ("6.7: PING of seven bytes", FRAME_SIZE_ERROR, frame(PING, 0, 0, &[0; 7])),
        ("6.8: GOAWAY for a stream", PROTOCOL_ERROR, frame(GOAWAY, 0, 1, &[0; 8])),
        ("6.8: GOAWAY of seven bytes", FRAME_SIZE_ERROR, frame(GOAWAY, 0, 0, &[0; 7])),
        ("6.9: a window that grows by nothing", PROTOCOL_ERROR, word(WINDOW_UPDATE, 0, 0)),
        ("6.9: WINDOW_UPDATE of three bytes", FRAME_SIZE_ERROR, frame(WINDOW_UPDATE, 0, 0, &[0; 3])),
        (
            "6.9.1: a window beyond 2^31-1",
            FLOW_CONTROL_ERROR,
            of(&[word(WINDOW_UPDATE, 0, 0x7fff_ffff), word(WINDOW_UPDATE, 0, 1)]),
        ),
        (
            "6.9.2: a stream's window beyond 2^31-1",
            FLOW_CONTROL_ERROR,
            of(&[post(1), word(WINDOW_UPDATE, 1, 0x7fff_0000), settings(&[(4, 0x7fff_ffff)])]),
        ),
        (
            "6.10: CONTINUATION behind a whole block",
            PROTOCOL_ERROR,
            of(&[get(1), frame(CONTINUATION, END_HEADERS, 1, &block)]),
        ),
        (
            "6.10: CONTINUATION for no stream",
            PROTOCOL_ERROR,
            of(&[frame(HEADERS, 0, 1, &block[..9]), frame(CONTINUATION, END_HEADERS, 0, &block[9..])]),
        ),
    ];
    let (fleet, endpoint) = fleet().await;
    let mut other = fleet.h2().await;
    for (nth, (what, code, bytes)) in cases.into_iter().enumerate() {
        let mut client = fleet.h2().await;
        client.raw(&bytes).await;
        loop {
            match client.next().await {
                Event::GoAway { code: said, .. } => break assert_eq!(said, code, "{what}"),
                Event::Closed => panic!("{what}: closed without a word"),
                _of_what_ran => {}
            }
        }
        assert_eq!(client.next().await, Event::Closed, "{what}");
        serves(&mut other, &endpoint, 2 * nth as u32 + 1).await;
    }
}

/// Each costs its stream, and the connection goes on.
#[tokio::test]
async fn what_breaks_a_stream() {
    let with = |fields: &[(&str, &str)], end: bool| headers(1, &[&GET[..], fields].concat(), end);
    let only = |fields: &[(&str, &str)]| headers(1, fields, true);
    let cases: Vec<(&str, u32, Vec<u8>)> = vec![
        ("5.1: DATA behind the end", STREAM_CLOSED, of(&[get(1), data(1, b"x", true)])),
        ("5.1: HEADERS behind the end", STREAM_CLOSED, of(&[get(1), get(1)])),
        (
            "5.1: DATA behind the client's reset",
            STREAM_CLOSED,
            of(&[post(1), word(RST_STREAM, 1, 8), data(1, b"x", true)]),
        ),
        ("5.3.1: a stream that depends on itself", PROTOCOL_ERROR, {
            let payload = [&[0, 0, 0, 1, 0][..], &hpack::encode(&GET)].concat();
            frame(HEADERS, END_HEADERS | END_STREAM | PRIORITISED, 1, &payload)
        }),
        ("6.9: a window that grows by nothing", PROTOCOL_ERROR, of(&[post(1), word(WINDOW_UPDATE, 1, 0)])),
        ("6.9.1: a window beyond 2^31-1", FLOW_CONTROL_ERROR, of(&[post(1), word(WINDOW_UPDATE, 1, 0x7fff_ffff)])),
        ("8.1: a second head", PROTOCOL_ERROR, of(&[post(1), headers(1, &GET, false)])),
        ("8.1: trailers with a pseudo-header", PROTOCOL_ERROR, of(&[post(1), headers(1, &[(":path", "/")], true)])),
        (
            "8.1.1: less than content-length",
            PROTOCOL_ERROR,
            of(&[with(&[("content-length", "5")], false), data(1, b"four", true)]),
        ),
        (
            "8.1.1: more than content-length",
            PROTOCOL_ERROR,
            of(&[with(&[("content-length", "3")], false), data(1, b"four", false)]),
        ),
        ("8.1.1: nothing of content-length", PROTOCOL_ERROR, with(&[("content-length", "5")], true)),
        (
            "8.1.1: trailers instead of content-length",
            PROTOCOL_ERROR,
            of(&[with(&[("content-length", "5")], false), headers(1, &[("a", "b")], true)]),
        ),
        ("8.2.1: a name in upper case", PROTOCOL_ERROR, with(&[("X-Upper", "1")], true)),
        ("8.2.1: a name with a space", PROTOCOL_ERROR, with(&[("x y", "1")], true)),
        ("8.2.1: a name with a colon", PROTOCOL_ERROR, with(&[("x:y", "1")], true)),
        ("8.2.1: no name", PROTOCOL_ERROR, with(&[("", "1")], true)),
        ("8.2.1: a value with a line feed", PROTOCOL_ERROR, with(&[("x", "1\nhost: evil")], true)),
        ("8.2.1: a value with a return", PROTOCOL_ERROR, with(&[("x", "1\r")], true)),
        ("8.2.1: a value with a zero", PROTOCOL_ERROR, with(&[("x", "1\0")], true)),
        ("8.2.1: a value that begins with a blank", PROTOCOL_ERROR, with(&[("x", " 1")], true)),
        ("8.2.1: a value that ends with a tab", PROTOCOL_ERROR, with(&[("x", "1\t")], true)),
        ("8.2.2: connection", PROTOCOL_ERROR, with(&[("connection", "close")], true)),
        ("8.2.2: keep-alive", PROTOCOL_ERROR, with(&[("keep-alive", "1")], true)),
        ("8.2.2: proxy-connection", PROTOCOL_ERROR, with(&[("proxy-connection", "close")], true)),
        ("8.2.2: transfer-encoding", PROTOCOL_ERROR, with(&[("transfer-encoding", "chunked")], true)),
        ("8.2.2: upgrade", PROTOCOL_ERROR, with(&[("upgrade", "h2c")], true)),
        ("8.2.2: te", PROTOCOL_ERROR, with(&[("te", "gzip")], true)),
        ("8.3: a pseudo-header that is unknown", PROTOCOL_ERROR, with(&[(":own", "1")], true)),
        ("8.3: a response's", PROTOCOL_ERROR, with(&[(":status", "200")], true)),
        ("8.3: behind a field", PROTOCOL_ERROR, only(&[GET[0], GET[1], GET[2], ("x", "1"), GET[3]])),
        ("8.3: twice", PROTOCOL_ERROR, with(&[(":method", "GET")], true)),
        ("8.3.1: no method", PROTOCOL_ERROR, only(&GET[1..])),
        ("8.3.1: no scheme", PROTOCOL_ERROR, only(&[GET[0], GET[2], GET[3]])),
        ("8.3.1: no path", PROTOCOL_ERROR, only(&[GET[0], GET[1], GET[3]])),
        ("8.3.1: an empty path", PROTOCOL_ERROR, only(&[GET[0], GET[1], (":path", ""), GET[3]])),
        ("8.3.1: a path without a slash", PROTOCOL_ERROR, only(&[GET[0], GET[1], (":path", "x"), GET[3]])),
        ("8.3.1: a path with a space", PROTOCOL_ERROR, only(&[GET[0], GET[1], (":path", "/a HTTP/1.1"), GET[3]])),
        ("8.3.1: a method with a space", PROTOCOL_ERROR, only(&[(":method", "GET /x"), GET[1], GET[2], GET[3]])),
        (
            "8.3.1: an authority with a path",
            PROTOCOL_ERROR,
            only(&[GET[0], GET[1], GET[2], (":authority", "app.test/x")]),
        ),
        ("8.5: CONNECT with a path", PROTOCOL_ERROR, only(&[(":method", "CONNECT"), (":path", "/"), GET[3]])),
        ("8.5: CONNECT to nobody", PROTOCOL_ERROR, only(&[(":method", "CONNECT")])),
        ("8441: a protocol without CONNECT", PROTOCOL_ERROR, with(&[(":protocol", "websocket")], true)),
    ];
    let (fleet, endpoint) = fleet().await;
    for (what, code, bytes) in cases {
        let mut client = fleet.h2().await;
        client.raw(&bytes).await;
        assert_eq!(client.expect_reset(1).await, code, "{what}");
        serves(&mut client, &endpoint, 3).await;
    }
}

/// RFC 9113 section 5.1: behind its end nothing comes of a stream.
#[tokio::test]
async fn frames_for_a_stream_that_is_over() {
    let (fleet, endpoint) = fleet().await;
    for (what, bytes) in [("DATA", data(1, b"x", true)), ("HEADERS", get(1))] {
        let mut client = fleet.h2().await;
        serves(&mut client, &endpoint, 1).await;
        client.raw(&bytes).await;
        assert!(matches!(client.next().await, Event::GoAway { code: STREAM_CLOSED, .. }), "{what}");
        assert_eq!(client.next().await, Event::Closed, "{what}");
    }
    let mut client = fleet.h2().await;
    serves(&mut client, &endpoint, 1).await;
    let late = of(&[word(WINDOW_UPDATE, 1, 10), word(RST_STREAM, 1, 8), frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 7])]);
    client.raw(&late).await;
    serves(&mut client, &endpoint, 3).await;
}

/// What was on its way when a stream was reset is no fault.
#[tokio::test]
async fn what_crosses_a_reset_is_passed_over() {
    let (fleet, endpoint) = fleet().await;
    let mut client = fleet.h2().await;
    // No authority: the response comes before the body.
    client.headers(1, &[POST[0], POST[1], POST[2]], false).await;
    assert_eq!(client.expect_headers().await.1[0], (":status".into(), "400".into()));
    client.expect_data().await;
    assert_eq!(client.expect_reset(1).await, 0, "the response was whole: no failure");
    let trailers = headers(1, &[("x", "1")], true);
    client.raw(&of(&[data(1, &[0; 9_000], false), data(1, b"x", false), trailers])).await;
    serves(&mut client, &endpoint, 3).await;
    // The table of header fields went on, too.
    client.raw(&frame(HEADERS, END_HEADERS, 5, b"\x82\x86\x84\x41\x08app.test\x40\x01X\x011")).await;
    assert_eq!(client.expect_reset(5).await, PROTOCOL_ERROR);
    client.raw(&frame(HEADERS, END_HEADERS | END_STREAM, 7, b"\x82\x86\x84\xbf")).await;
    let mut upstream = endpoint.h2().await;
    let request = upstream.expect_request().await;
    assert_eq!(hpack::field(&request.fields, ":authority"), Some("app.test"));
    upstream.respond(request.stream, "204", b"").await;
    assert_eq!(client.response(7).await.whole(), ("204", &b""[..]));
}

/// However many streams have come since.
#[tokio::test]
async fn what_crosses_a_reset_is_passed_over_late_too() {
    let (fleet, endpoint) = fleet().await;
    let mut client = fleet.h2().await;
    client.headers(1, &POST[..3], false).await;
    client.expect_headers().await;
    client.expect_data().await;
    assert_eq!(client.expect_reset(1).await, 0);
    for n in 1..=300 {
        client.headers(2 * n + 1, &GET[..3], true).await;
        assert_eq!(client.response(2 * n + 1).await.whole().0, "400");
    }
    client.raw(&data(1, &[0; 600], false)).await;
    client.ping().await;
    serves(&mut client, &endpoint, 2_001).await;
}

/// What means nothing here is passed over, and what is allowed is taken (4.1, 5.5, 6.1, 6.2, 6.5, 6.10).
#[tokio::test]
async fn what_is_allowed_is_taken() {
    let (fleet, endpoint) = fleet().await;
    let mut client = fleet.h2().await;
    let block = hpack::encode(&[&POST[..], &[("x-long", &"y".repeat(6_000))]].concat());
    let mut frames = vec![
        frame(0x77, 0xff, 0, b"unknown"),
        frame(0x77, 0xff, 9, b"unknown"),
        settings(&[(0x99, 7), (1, 0), (1, 4_096), (3, 0), (6, 1)]),
        frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 7]),
        frame(PRIORITY, 0, 101, &[0, 0, 0, 3, 7]),
        word(WINDOW_UPDATE, 0, 100),
        frame(HEADERS, PADDED | PRIORITISED, 1, &[&[3, 0x80, 0, 0, 0, 7][..], &block[..100], &[0; 3]].concat()),
    ];
    frames.extend(block[100..].chunks(700).map(|piece| frame(CONTINUATION, 0, 1, piece)));
    frames.push(frame(CONTINUATION, END_HEADERS, 1, b""));
    frames.push(frame(DATA, PADDED, 1, b"\x04hello\0\0\0\0"));
    frames.push(frame(DATA, PADDED, 1, b"\0, "));
    frames.push(frame(DATA, 0, 1, b""));
    frames.push(data(1, b"world", false));
    frames.push(headers(1, &[("x-sum", "7")], true));
    // Bit by bit, too.
    for piece in frames.concat().chunks(1_000) {
        client.raw(piece).await;
    }
    let mut upstream = endpoint.h2().await;
    let (stream, fields, _) = upstream.expect_headers().await;
    assert_eq!(hpack::field(&fields, "x-long").map(str::len), Some(6_000));
    let mut body = Vec::new();
    let trailers = loop {
        match upstream.next().await {
            Event::Data { bytes, .. } => body.extend(bytes),
            Event::Headers { fields, end: true, .. } => break fields,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((&body[..], hpack::field(&trailers, "x-sum")), (&b"hello, world"[..], Some("7")));
    upstream.respond(stream, "200", b"fine").await;
    assert_eq!(client.response(1).await.whole(), ("200", &b"fine"[..]));
}

/// The first frame has to be SETTINGS (section 3.4), and what is no preface is no HTTP/2.
#[tokio::test]
async fn a_connection_begins_as_it_must() {
    let (fleet, _endpoint) = fleet().await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    for first in [frame(PING, 0, 0, &[0; 8]), get(1), frame(SETTINGS, 1, 0, &[]), frame(0x77, 0, 0, b"")] {
        let mut client = TcpStream::connect(fleet.address()).await.unwrap();
        client.write_all(&of(&[preface.clone(), first])).await.unwrap();
        let mut read = Vec::new();
        soon("the end", client.read_to_end(&mut read)).await.unwrap();
        let goaway = [&[0, 0, 8, GOAWAY, 0, 0, 0, 0, 0][..], &[0; 4], &PROTOCOL_ERROR.to_be_bytes()].concat();
        assert!(read.ends_with(&goaway), "{read:?}");
    }
    let mut client = TcpStream::connect(fleet.address()).await.unwrap();
    client.write_all(&of(&[preface[..20].to_vec(), b"XXXX".to_vec(), settings(&[])])).await.unwrap();
    soon("the end", client.read_to_end(&mut Vec::new())).await.unwrap();
}

/// Section 6.9.2: the window of a stream may be below zero, and nothing is sent until it is above.
#[tokio::test]
async fn a_window_below_zero_is_kept() {
    let (fleet, endpoint) = fleet().await;
    let mut client = fleet.h2().await;
    client.raw(&settings(&[(4, 10)])).await;
    client.headers(1, &GET, true).await;
    let mut upstream = endpoint.h2().await;
    let at = upstream.expect_request().await.stream;
    upstream.respond(at, "200", &[b'x'; 40]).await;
    client.expect_headers().await;
    assert_eq!(client.expect_data().await.1.len(), 10);
    client.raw(&settings(&[(4, 4)])).await;
    client.quiet().await;
    client.window_update(1, 6).await;
    client.quiet().await;
    client.window_update(1, 3).await;
    assert_eq!(client.expect_data().await.1.len(), 3);
    client.raw(&settings(&[(4, 100)])).await;
    assert_eq!(client.expect_data().await, (1, vec![b'x'; 27], true));
}

/// What a client sends beyond its window costs it the stream, and the connection's the connection.
#[tokio::test]
async fn a_window_is_not_passed() {
    let (fleet, endpoint) = fleet().await;
    let mut client = fleet.h2().await;
    client.headers(1, &POST, false).await;
    // The endpoint never reads: 65,535 bytes are at it, and as many as the client's window says here.
    for _ in 0..40 {
        client.raw(&data(1, &[0; 16_384], false)).await;
    }
    assert_eq!(client.expect_reset(1).await, FLOW_CONTROL_ERROR);
    serves(&mut client, &endpoint, 3).await;
}

async fn calmed(client: &mut Peer, what: &str) {
    loop {
        match client.next().await {
            Event::GoAway { code, .. } => break assert_eq!(code, ENHANCE_YOUR_CALM, "{what}"),
            Event::Closed => panic!("{what}: closed without a word"),
            _of_what_ran => {}
        }
    }
    assert_eq!(client.next().await, Event::Closed, "{what}");
}

/// H12: what costs a client little and the balancer much has a limit.
#[tokio::test]
async fn floods_of_nothing_end_the_connection() {
    let (fleet, endpoint) = fleet().await;
    let block = hpack::encode(&GET);
    let head = || frame(HEADERS, 0, 1, &block[..9]);
    for (what, first, more) in [
        ("empty DATA", post(1), data(1, b"", false)),
        ("padding only", post(1), frame(DATA, PADDED, 1, b"\x03\0\0\0")),
        ("empty CONTINUATION", head(), frame(CONTINUATION, 0, 1, b"")),
        ("PRIORITY", Vec::new(), frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 7])),
        ("SETTINGS", Vec::new(), settings(&[(4, 7)])),
        ("unknown frames", Vec::new(), frame(0x77, 0, 1, b"")),
        ("DATA of a stream that was refused", headers(1, &GET[..3], false), data(1, b"", false)),
    ] {
        let mut client = fleet.h2().await;
        client.raw(&first).await;
        for _ in 0..21 {
            client.raw(&more.repeat(1_000)).await;
        }
        calmed(&mut client, what).await;
    }
    let mut client = fleet.h2().await;
    for _ in 0..30 {
        client.raw(&settings(&[(4, 1), (4, 2)].repeat(500))).await;
    }
    calmed(&mut client, "many settings in few frames").await;
    let mut client = fleet.h2().await;
    let long = [hpack::encode(&GET), hpack::encode(&[("x", &"y".repeat(80_000))])].concat();
    client.raw(&frame(HEADERS, 0, 1, &long[..16_000])).await;
    for piece in long[16_000..].chunks(16_000) {
        client.raw(&frame(CONTINUATION, 0, 1, piece)).await;
    }
    calmed(&mut client, "a head that does not end").await;
    serves(&mut fleet.h2().await, &endpoint, 1).await;
}

/// CVE-2023-44487: what is broken off as soon as it was asked never reaches an endpoint.
#[tokio::test]
async fn a_rapid_reset_costs_no_endpoint_anything() {
    let endpoint = Endpoint::listen("a").await;
    let limits = Limits { max_resets_per_connection: 50, ..Limits::default() };
    let fleet = Fleet::serving(Config { limits, ..config() }, H2c, &[&endpoint]).await;
    let mut client = fleet.h2().await;
    let burst: Vec<u8> = (0..200).flat_map(|n| of(&[get(2 * n + 1), word(RST_STREAM, 2 * n + 1, 8)])).collect();
    client.raw(&burst).await;
    calmed(&mut client, "a burst").await;
    assert!(endpoint.nobody());
}

/// CVE-2025-8671: the balancer is made to reset streams itself, which costs as much.
#[tokio::test]
async fn made_you_reset_costs_the_connection() {
    let endpoint = Endpoint::listen("a").await;
    let limits = Limits { max_resets_per_connection: 50, ..Limits::default() };
    let fleet = Fleet::serving(Config { limits, ..config() }, H2c, &[&endpoint]).await;
    let faults: [fn(u32) -> Vec<u8>; 4] = [
        |stream| word(WINDOW_UPDATE, stream, 0),
        |stream| word(WINDOW_UPDATE, stream, 0x7fff_ffff),
        |stream| data(stream, b"x", false),
        |stream| get(stream),
    ];
    for (nth, fault) in faults.into_iter().enumerate() {
        let mut client = fleet.h2().await;
        for n in 0..=51 {
            client.raw(&of(&[get(2 * n + 1), fault(2 * n + 1)])).await;
        }
        calmed(&mut client, &format!("fault {nth}")).await;
    }
    let mut client = fleet.h2().await;
    for n in 0..=51 {
        client.raw(&headers(2 * n + 1, &[("X", "1")], true)).await;
    }
    calmed(&mut client, "malformed heads").await;
}

/// Answers that nobody reads do not fill the memory: from some point on nothing more is read.
#[tokio::test]
async fn a_client_that_reads_no_answer_gets_no_more() {
    let (fleet, endpoint) = fleet().await;
    let mut client = TcpStream::connect(fleet.address()).await.unwrap();
    client.write_all(&of(&[b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), settings(&[])])).await.unwrap();
    let pings = frame(PING, 0, 0, &[7; 8]).repeat(1_000);
    let mut sent = 0;
    while let Ok(written) = tokio::time::timeout(PATIENCE / 10, client.write_all(&pings)).await {
        written.unwrap();
        sent += pings.len();
        assert!(sent < 64 << 20, "it would go on for ever");
    }
    serves(&mut fleet.h2().await, &endpoint, 1).await;
    // It reads again, and is answered.
    let mut read = vec![0; 1 << 20];
    soon("answers", client.read_exact(&mut read)).await.unwrap();
}

/// A byte of a header block may stand for four thousand.
#[tokio::test]
async fn a_block_that_unfolds_is_431() {
    let (fleet, endpoint) = fleet().await;
    let mut client = fleet.h2().await;
    let mut block = hpack::encode(&GET);
    // 0x40: kept in the table, where it is the newest one; then named again and again.
    block.extend(b"\x40\x01x\x7f");
    block.extend([0x81, 0x1d]);
    block.extend(vec![b'y'; 127 + 1 + (0x1d << 7)]);
    block.extend(vec![0xbe; 10_000]);
    client.raw(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &block)).await;
    let response = client.response(1).await;
    assert_eq!((response.whole().0, response.field("tidelock-reason")), ("431", Some("headers-too-large")));
    serves(&mut client, &endpoint, 3).await;
}

/// The burst at a connection's beginning, before its client knows the limit.
#[tokio::test]
async fn streams_beyond_the_limit_are_refused_and_may_come_again() {
    let endpoint = Endpoint::listen("a").await;
    let limits = Limits { max_streams_per_connection: 3, ..Limits::default() };
    let fleet = Fleet::serving(Config { limits, ..config() }, H2c, &[&endpoint]).await;
    let mut client = fleet.h2().await;
    client.raw(&(0..1_000).flat_map(|n| get(2 * n + 1)).collect::<Vec<u8>>()).await;
    for n in 3..1_000 {
        assert_eq!(client.expect_reset(2 * n + 1).await, REFUSED_STREAM);
    }
    let mut upstream = endpoint.h2().await;
    for n in 0..3 {
        let at = upstream.expect_request().await.stream;
        upstream.respond(at, "200", b"fine").await;
        assert_eq!(client.response(2 * n + 1).await.whole().0, "200");
    }
    drop(upstream);
    serves(&mut client, &endpoint, 2_001).await;
}

/// RFC 9113 section 6.8: what a GOAWAY has said is not taken back, and the connection ends with its last stream.
#[tokio::test]
async fn a_second_goaway_promises_no_more_than_the_first() {
    let endpoint = Endpoint::listen("a").await;
    let mut config = config();
    config.timeouts.downstream_idle = std::time::Duration::from_millis(100);
    let fleet = Fleet::serving(config, H2c, &[&endpoint]).await;
    let mut client = fleet.h2().await;
    serves(&mut client, &endpoint, 1).await;
    assert_eq!(client.next().await, Event::GoAway { last: 0x7fff_ffff, code: 0 });
    // It answers the PING behind it when it reads it, and hears which stream was the last.
    client.raw(&post(3)).await;
    let (mut seen, mut end) = (Vec::new(), Vec::new());
    while seen.is_empty() {
        match client.next().await {
            Event::GoAway { last, .. } => seen.push(last),
            Event::Closed => panic!("too early"),
            _of_what_ran => {}
        }
    }
    client.raw(&of(&[get(5), word(WINDOW_UPDATE, 0, 0)])).await;
    loop {
        match client.next().await {
            Event::GoAway { last, .. } => end.push(last),
            Event::Closed => break,
            _of_what_ran => {}
        }
    }
    assert_eq!(seen, end, "5 came too late, and may be sent again elsewhere");
}
