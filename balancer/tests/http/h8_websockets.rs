//! H8: WebSockets over both protocols, and the codes with which they close.

use std::time::Duration;

use tidelock_core::command::{Command, DrainMode};

use crate::drains::websocket;
use crate::fleet::{Endpoint, Fleet, H1, H2c, config, name};
use crate::frames::{CANCEL, Event, Peer};
use crate::hpack::field;
use crate::http1::{Head, Http1};

const CONNECT: &[(&str, &str)] =
    &[(":protocol", "websocket"), ("sec-websocket-version", "13"), ("origin", "http://app.test")];

/// What a server answers to the key in `head` (RFC 6455 section 4.2.2).
pub(crate) fn accept(head: &Head) -> String {
    let key = head.field("sec-websocket-key").expect("a key");
    let salted = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    use base64::Engine as _;
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, salted.as_bytes());
    base64::engine::general_purpose::STANDARD.encode(digest)
}

/// An open WebSocket by an extended CONNECT, bridged to an upgrade.
pub(crate) async fn bridged(client: &mut Peer, endpoint: &Endpoint) -> (u32, Http1) {
    let stream = client.request("CONNECT", "/socket?vsn=2", CONNECT, false).await;
    let mut upstream = endpoint.upgrade().await;
    let head = upstream.head().await;
    assert_eq!(head.start, "GET /socket?vsn=2 HTTP/1.1");
    assert_eq!((head.field("upgrade"), head.field("connection")), (Some("websocket"), Some("upgrade")));
    assert_eq!((head.field("host"), head.field("origin")), (Some("app.test"), Some("http://app.test")));
    assert_eq!((head.field("transfer-encoding"), head.field("content-length")), (None, None));
    let accept = accept(&head);
    let switch = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nx-more: 1\r\n";
    upstream.write(format!("{switch}sec-websocket-accept: {accept}\r\n\r\n\u{1}\u{1}a")).await;
    let (of, fields, end) = client.expect_headers().await;
    assert_eq!((of, field(&fields, ":status"), end), (stream, Some("200"), false));
    assert_eq!((field(&fields, "x-more"), field(&fields, "sec-websocket-accept")), (Some("1"), None));
    assert!(field(&fields, "set-cookie").is_some(), "its session is pinned");
    assert_eq!(client.expect_data().await, (stream, b"\x01\x01a".to_vec(), false), "behind the 101");
    (stream, upstream)
}

#[tokio::test]
async fn an_extended_connect_becomes_an_upgrade() {
    for protocol in [H1, H2c] {
        let endpoint = Endpoint::listen("a").await;
        let fleet = Fleet::serving(config(), protocol, &[&endpoint]).await;
        let mut client = fleet.h2().await;
        let (stream, mut upstream) = bridged(&mut client, &endpoint).await;
        client.data(stream, b"\x82\x81\0\0\0\0u", false).await;
        assert_eq!(upstream.exact(7).await.unwrap(), b"\x82\x81\0\0\0\0u");
        let large = [&b"\x82\x7f\0\0\0\0\0\x01\x86\xa0"[..], &[7; 100_000]].concat();
        upstream.write(&large).await;
        let mut got = Vec::new();
        client.reads = true;
        while got.len() < large.len() {
            let (_, bytes, end) = client.expect_data().await;
            assert!(!end);
            got.extend(bytes);
        }
        assert!(got == large);
        // A close, its answer, and the end of both sides.
        upstream.write(b"\x88\x02\x03\xe8").await;
        assert_eq!(client.expect_data().await, (stream, b"\x88\x02\x03\xe8".to_vec(), false));
        client.data(stream, b"\x88\x82\0\0\0\0\x03\xe8", true).await;
        assert_eq!(upstream.rest().await, b"\x88\x82\0\0\0\0\x03\xe8");
        drop(upstream);
        assert_eq!(client.expect_data().await, (stream, Vec::new(), true), "{protocol:?}");
    }
}

#[tokio::test]
async fn a_stream_that_is_reset_ends_its_websocket() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H1, &[&endpoint]).await;
    let mut client = fleet.h2().await;
    let (stream, mut upstream) = bridged(&mut client, &endpoint).await;
    client.reset(stream, CANCEL).await;
    assert!(upstream.rest().await.is_empty());
    // And the other way round: the endpoint's crash is no clean end.
    let (stream, upstream) = bridged(&mut client, &endpoint).await;
    upstream.io.set_zero_linger().unwrap();
    drop(upstream);
    assert_eq!(client.expect_reset(stream).await, CANCEL);
}

#[tokio::test]
async fn what_is_no_websocket_is_not_bridged() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H1, &[&endpoint]).await;
    let mut client = fleet.h2().await;
    // Another protocol.
    let stream = client.request("CONNECT", "/", &[(":protocol", "connect-udp")], false).await;
    assert_eq!(client.response(stream).await.field("tidelock-reason"), Some("no-connect"));
    // The endpoint refuses: its answer is the client's.
    let mut client = fleet.h2().await;
    let stream = client.request("CONNECT", "/socket", CONNECT, false).await;
    let mut upstream = endpoint.h1().await;
    upstream.head().await;
    upstream.write("HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno").await;
    let (of, fields, _) = client.expect_headers().await;
    assert_eq!((of, field(&fields, ":status")), (stream, Some("403")));
    assert_eq!(client.expect_data().await, (stream, b"no".to_vec(), true));
    // It changes to something else, or does not know what the key means.
    for switch in ["upgrade: websocket\r\nsec-websocket-accept: AAAA\r\n", "upgrade: websocket\r\n", "upgrade: h2c\r\n"]
    {
        let mut client = fleet.h2().await;
        let stream = client.request("CONNECT", "/socket", CONNECT, false).await;
        let mut upstream = endpoint.h1().await;
        upstream.head().await;
        upstream.write(format!("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\n{switch}\r\n")).await;
        let (of, fields, _) = client.expect_headers().await;
        assert_eq!((of, field(&fields, ":status")), (stream, Some("502")), "{switch}");
        assert!(upstream.rest().await.is_empty());
    }
}

/// Bandit closes with 1000 when it stops, and phoenix.js does not come back after that.
#[tokio::test]
async fn a_normal_close_of_an_endpoint_on_its_way_out_is_a_restart() {
    for (drained, code) in [(false, b'\xe8'), (true, b'\xf4')] {
        let endpoint = Endpoint::listen("a").await;
        let fleet = Fleet::serving(config(), H1, &[&endpoint]).await;
        let (mut client, mut upstream) = websocket(&fleet, &endpoint).await;
        if drained {
            fleet.drain(&endpoint, DrainMode::Sessions, None).await;
        }
        // Cut in the middle of the code.
        upstream.write(b"\x82\x01x\x88\x06\x03").await;
        assert_eq!(client.exact(6).await.unwrap(), b"\x82\x01x\x88\x06\x03");
        upstream.write(b"\xe8bye!").await;
        assert_eq!(client.exact(5).await.unwrap(), [&[code][..], b"bye!"].concat());
    }
}

/// The message under way is finished first, and what follows it is not begun.
#[tokio::test]
async fn at_the_deadline_the_client_is_told_to_come_back_between_two_messages() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H1, &[&endpoint]).await;
    let mut h2 = fleet.h2().await;
    let (stream, mut bridged) = bridged(&mut h2, &endpoint).await;
    let (mut client, mut upstream) = websocket(&fleet, &endpoint).await;
    // A fragmented message has begun on each.
    upstream.write(b"\x01\x03one").await;
    assert_eq!(client.exact(5).await.unwrap(), b"\x01\x03one");
    fleet.drain(&endpoint, DrainMode::Sessions, Some(Duration::from_millis(100))).await;
    // The endpoint is told at once: nothing of the client's is under way.
    let told = upstream.exact(8).await.unwrap();
    assert_eq!(told[..2], *b"\x88\x82");
    assert_eq!([told[6] ^ told[2], told[7] ^ told[3]], *b"\x03\xe9");
    bridged.exact(8).await.unwrap();
    // A ping does not end the message, its last frame does; the next message is not begun.
    upstream.write(b"\x89\x00\x80\x03two\x82\x05three").await;
    assert_eq!(client.exact(7).await.unwrap(), b"\x89\x00\x80\x03two");
    assert_eq!(client.exact(4).await.unwrap(), b"\x88\x02\x03\xf4");
    client.write(b"\x88\x82\0\0\0\0\x03\xf4").await;
    assert!(client.rest().await.is_empty());
    // The other one's message had begun before the balancer saw it: its end is awaited too.
    bridged.write(b"\x80\x00").await;
    assert_eq!(h2.expect_data().await, (stream, b"\x80\x00\x88\x02\x03\xf4".to_vec(), false));
    h2.data(stream, b"\x88\x82\0\0\0\0\x03\xf4", false).await;
    assert_eq!(h2.expect_data().await, (stream, Vec::new(), true));
}

/// What the endpoint says itself, in the middle of a message that the balancer waits for, keeps nobody away either.
#[tokio::test]
async fn a_normal_close_within_a_message_becomes_a_restart() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H1, &[&endpoint]).await;
    let (mut client, mut upstream) = websocket(&fleet, &endpoint).await;
    upstream.write(b"\x01\x03one").await;
    assert_eq!(client.exact(5).await.unwrap(), b"\x01\x03one");
    fleet.drain(&endpoint, DrainMode::Sessions, Some(Duration::from_millis(100))).await;
    upstream.exact(8).await.unwrap();
    upstream.write(b"\x88\x02\x03\xe8").await;
    assert_eq!(client.exact(4).await.unwrap(), b"\x88\x02\x03\xf4");
}

/// A client that does not answer is not waited for.
#[tokio::test]
async fn a_close_does_not_wait_for_ever() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H1, &[&endpoint]).await;
    let (mut client, mut upstream) = websocket(&fleet, &endpoint).await;
    // In the middle of a frame that will never end.
    upstream.write(b"\x82\x7eab").await;
    assert_eq!(client.exact(4).await.unwrap(), b"\x82\x7eab");
    fleet.drain(&endpoint, DrainMode::Streams, Some(Duration::from_millis(50))).await;
    assert!(client.rest().await.is_empty(), "no close frame within a frame");
    assert_eq!(upstream.rest().await.len(), 8);
}

/// SETTINGS_ENABLE_CONNECT_PROTOCOL (RFC 8441 section 3).
const TAKES_CONNECT: &[(u16, u32)] = &[(8, 1)];

const UPGRADE: &str = "GET /socket HTTP/1.1\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
    sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n";

/// A client that asks for a WebSocket.
async fn asks(fleet: &Fleet) -> Http1 {
    let mut h1 = fleet.h1().await;
    h1.request(UPGRADE, "").await;
    h1
}

/// The endpoint's side of an extended CONNECT, which it accepts.
async fn connected(upstream: &mut Peer, path: &str) -> u32 {
    let (stream, fields, end) = upstream.expect_headers().await;
    let is = |name| field(&fields, name);
    assert_eq!((is(":method"), is(":protocol"), end), (Some("CONNECT"), Some("websocket"), false));
    assert_eq!((is(":path"), is(":authority"), is(":scheme")), (Some(path), Some("app.test"), Some("http")));
    assert_eq!(is("sec-websocket-version"), Some("13"));
    for gone in ["sec-websocket-key", "connection", "upgrade", "host"] {
        assert_eq!(is(gone), None, "{gone}");
    }
    upstream.headers(stream, &[(":status", "200"), ("sec-websocket-protocol", "phoenix")], false).await;
    stream
}

/// An upgrade becomes a stream, next to others on a connection of their own: they last, and requests need their streams.
#[tokio::test]
async fn an_endpoint_that_takes_websockets_on_streams_gets_them() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H2c, &[&endpoint]).await;
    let mut h1 = asks(&fleet).await;
    let mut upstream = Peer::endpoint(endpoint.accept().await, TAKES_CONNECT).await;
    let of_h1 = connected(&mut upstream, "/socket").await;
    let head = h1.head().await;
    assert_eq!((head.status(), head.field("upgrade")), ("101", Some("websocket")));
    assert_eq!(head.field("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    assert_eq!(head.field("sec-websocket-protocol"), Some("phoenix"));
    let mut h2 = fleet.h2().await;
    let of_client = h2.request("CONNECT", "/other", CONNECT, false).await;
    let of_h2 = connected(&mut upstream, "/other").await;
    let (_, fields, end) = h2.expect_headers().await;
    assert_eq!((field(&fields, ":status"), end), (Some("200"), false));
    fleet.counted(&endpoint, crate::drains::counts(2, 2)).await;
    // Both ways, on both.
    h1.write(b"\x82\x82\0\0\0\0up").await;
    assert_eq!(upstream.expect_data().await, (of_h1, b"\x82\x82\0\0\0\0up".to_vec(), false));
    upstream.data(of_h1, b"\x82\x04down", false).await;
    assert_eq!(h1.exact(6).await.unwrap(), b"\x82\x04down");
    h2.data(of_client, b"\x82\x81\0\0\0\0u", false).await;
    assert_eq!(upstream.expect_data().await, (of_h2, b"\x82\x81\0\0\0\0u".to_vec(), false));
    upstream.data(of_h2, b"\x82\x01d", false).await;
    assert_eq!(h2.expect_data().await, (of_client, b"\x82\x01d".to_vec(), false));
    // A request goes elsewhere.
    let stream = h2.get("/").await;
    let mut requests = Peer::endpoint(endpoint.accept().await, TAKES_CONNECT).await;
    let request = requests.expect_request().await;
    requests.respond(request.stream, "204", b"").await;
    assert_eq!(h2.response(stream).await.status(), "204");
    // A close and its answer, then both sides' ends.
    upstream.data(of_h1, b"\x88\x02\x03\xe8", true).await;
    assert_eq!(h1.exact(4).await.unwrap(), b"\x88\x02\x03\xe8");
    h1.write(b"\x88\x82\0\0\0\0\x03\xe8").await;
    drop(h1);
    assert_eq!(upstream.expect_data().await, (of_h1, b"\x88\x82\0\0\0\0\x03\xe8".to_vec(), false));
    assert_eq!(upstream.expect_data().await, (of_h1, Vec::new(), true));
    // Resets in either direction.
    h2.reset(of_client, CANCEL).await;
    assert_eq!(upstream.expect_reset(of_h2).await, CANCEL);
    let of_client = h2.request("CONNECT", "/again", CONNECT, false).await;
    let of_h2 = connected(&mut upstream, "/again").await;
    h2.expect_headers().await;
    upstream.reset(of_h2, CANCEL).await;
    assert_eq!(h2.expect_reset(of_client).await, CANCEL);
    fleet.counted(&endpoint, crate::drains::counts(0, 0)).await;
    assert!(endpoint.nobody(), "one connection for each use");
}

#[tokio::test]
async fn an_endpoint_that_refuses_a_websocket_on_a_stream_is_heard() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H2c, &[&endpoint]).await;
    let mut h1 = asks(&fleet).await;
    let mut upstream = Peer::endpoint(endpoint.accept().await, TAKES_CONNECT).await;
    let (stream, _, _) = upstream.expect_headers().await;
    upstream.respond(stream, "403", b"no").await;
    let (head, body) = h1.response().await;
    assert_eq!((head.status(), &body[..]), ("403", &b"no"[..]));
    assert_eq!(upstream.expect_data().await, (stream, Vec::new(), true), "the request has ended");
    // One that was not looked at is asked for again.
    h1.request(UPGRADE, "").await;
    let (stream, _, _) = upstream.expect_headers().await;
    upstream.reset(stream, crate::frames::REFUSED_STREAM).await;
    connected(&mut upstream, "/socket").await;
    assert_eq!(h1.head().await.status(), "101");
}

/// Cowboy ends a connection with ten malformed requests: no handshake of one client ends the WebSockets of others.
#[tokio::test]
async fn handshakes_that_an_endpoint_finds_malformed_are_spread() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H2c, &[&endpoint]).await;
    let mut quiet = asks(&fleet).await;
    let mut upstream = Peer::endpoint(endpoint.accept().await, TAKES_CONNECT).await;
    let stream = connected(&mut upstream, "/socket").await;
    assert_eq!(quiet.head().await.status(), "101");
    let mut refused = 0;
    while endpoint.nobody() {
        let mut h1 = asks(&fleet).await;
        let next = tokio::time::timeout(Duration::from_millis(500), upstream.expect_headers()).await;
        let Ok((stream, ..)) = next else { break };
        upstream.reset(stream, crate::frames::PROTOCOL_ERROR).await;
        assert_eq!(h1.head().await.status(), "502");
        refused += 1;
        assert!(refused < 10, "the endpoint has ended the connection");
    }
    assert!(refused > 0);
    upstream.data(stream, b"\x82\x04down", false).await;
    assert_eq!(quiet.exact(6).await.unwrap(), b"\x82\x04down");
}

/// At a drain's deadline it is told to come back, on a connection that others share.
#[tokio::test]
async fn a_websocket_on_a_stream_closes_at_the_deadline() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H2c, &[&endpoint]).await;
    let mut h1 = asks(&fleet).await;
    let mut upstream = Peer::endpoint(endpoint.accept().await, TAKES_CONNECT).await;
    let stream = connected(&mut upstream, "/socket").await;
    assert_eq!(h1.head().await.status(), "101");
    fleet.drain(&endpoint, DrainMode::Streams, Some(Duration::from_millis(100))).await;
    assert_eq!(h1.exact(4).await.unwrap(), b"\x88\x02\x03\xf4");
    let (of, told, end) = upstream.expect_data().await;
    assert_eq!((of, &told[..2], end), (stream, &b"\x88\x82"[..], false));
    h1.write(b"\x88\x82\0\0\0\0\x03\xf4").await;
    assert!(h1.rest().await.is_empty());
    fleet.counted(&endpoint, crate::drains::counts(0, 0)).await;
}

/// The connection of WebSockets closes after its last, and is one like any other again when the drain is cancelled.
#[tokio::test]
async fn the_connection_of_websockets_goes_with_a_drain_and_comes_back() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H2c, &[&endpoint]).await;
    let mut h1 = asks(&fleet).await;
    let mut upstream = Peer::endpoint(endpoint.accept().await, TAKES_CONNECT).await;
    let stream = connected(&mut upstream, "/socket").await;
    assert_eq!(h1.head().await.status(), "101");
    fleet.drain(&endpoint, DrainMode::Streams, None).await;
    upstream.data(stream, b"\x82\x04down", false).await;
    assert_eq!(h1.exact(6).await.unwrap(), b"\x82\x04down");
    drop(h1);
    while !matches!(upstream.next().await, Event::GoAway { .. }) {}
    drop(upstream);

    fleet.cancel_drain(&endpoint).await;
    let mut first = asks(&fleet).await;
    let mut upstream = Peer::endpoint(endpoint.accept().await, TAKES_CONNECT).await;
    connected(&mut upstream, "/socket").await;
    assert_eq!(first.head().await.status(), "101");
    let mut second = asks(&fleet).await;
    connected(&mut upstream, "/socket").await;
    assert_eq!(second.head().await.status(), "101");
}

/// What an endpoint does not know it is not asked again, unless it has a new connection.
#[tokio::test]
async fn an_endpoint_without_extended_connect_is_asked_once() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H2c, &[&endpoint]).await;
    let (client, upstream) = websocket(&fleet, &endpoint).await;
    // The connection that told it goes: it is of no use.
    endpoint.forget();
    fleet.h2().await.quiet().await;
    let mut more = fleet.h1().await;
    more.request(UPGRADE, "").await;
    assert_eq!(endpoint.h1().await.head().await.start, "GET /socket HTTP/1.1");
    drop((client, upstream));
}

/// What counts is the connection that was made last, whatever one before it says at its end.
#[tokio::test]
async fn the_last_words_of_an_old_connection_are_not_how_an_endpoint_is() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H2c, &[&endpoint]).await;
    let mut client = fleet.h2().await;
    let slow = client.get("/slow").await;
    let mut old = endpoint.h2().await;
    let at = old.expect_request().await.stream;
    old.go_away(at, crate::frames::NO_ERROR).await;
    old.ping().await;
    client.get("/new").await;
    let mut new = Peer::endpoint(endpoint.accept().await, TAKES_CONNECT).await;
    new.expect_request().await;
    new.ping().await;
    old.go_away(at, crate::frames::NO_ERROR).await;
    old.ping().await;
    let mut h1 = asks(&fleet).await;
    let mut upstream = Peer::endpoint(endpoint.accept().await, TAKES_CONNECT).await;
    connected(&mut upstream, "/socket").await;
    assert_eq!(h1.head().await.status(), "101");
    old.respond(at, "204", b"").await;
    assert_eq!(client.response(slow).await.status(), "204");
}

/// The pool says for how long a WebSocket may be silent; the profile of a Phoenix app knows better.
#[tokio::test]
async fn a_silent_websocket_ends_in_the_pools_time_unless_its_app_is_known() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H1, &[&endpoint]).await;
    fleet.change(serde_json::json!({ "timeouts": { "websocket_idle_ms": 300 } })).await;
    let (mut silent, _upstream) = websocket(&fleet, &endpoint).await;
    let route = crate::fleet::route(r#"{"pool":"app","expose":true,"profile":"phoenix"}"#);
    fleet.apply(Command::PutRoute { name: name("web"), spec: route });
    fleet.adopted().await;
    let (mut known, mut upstream) = websocket(&fleet, &endpoint).await;
    silent.rest().await;
    tokio::time::sleep(Duration::from_millis(400)).await;
    known.write(b"\x82\x82\0\0\0\0up").await;
    assert_eq!(upstream.exact(8).await.unwrap(), b"\x82\x82\0\0\0\0up");
}

/// An endpoint that closes with a reason, and whose kernel resets since it has not read all.
#[tokio::test]
async fn the_last_words_of_an_endpoint_that_resets_are_an_end() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H1, &[&endpoint]).await;
    let mut client = fleet.h2().await;
    let (stream, mut upstream) = crate::h8_websockets::bridged(&mut client, &endpoint).await;
    // A ping that the endpoint does not read.
    client.data(stream, b"\x89\x80\0\0\0\0", false).await;
    client.quiet().await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    upstream.write(b"\x88\x02\x03\xe9").await;
    drop(upstream);
    assert_eq!(client.expect_data().await, (stream, b"\x88\x02\x03\xe9".to_vec(), false));
    let next = client.next().await;
    assert!(matches!(next, Event::Data { end: true, .. }), "{next:?}");
}

/// The same for a client that speaks HTTP/1.1.
#[tokio::test]
async fn the_last_words_reach_an_h1_client() {
    for _ in 0..20 {
        let endpoint = Endpoint::listen("a").await;
        let fleet = Fleet::serving(config(), H1, &[&endpoint]).await;
        let (mut client, mut upstream) = crate::drains::websocket(&fleet, &endpoint).await;
        client.write(b"\x89\x80\0\0\0\0").await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        upstream.write(b"\x88\x02\x03\xe9").await;
        drop(upstream);
        client.write(b"\x89\x80\0\0\0\0").await;
        client.write(b"\x89\x80\0\0\0\0").await;
        client.write(b"\x89\x80\0\0\0\0").await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(client.rest().await, b"\x88\x02\x03\xe9");
    }
}
