//! H8: WebSockets over both protocols, and the codes with which they close.

use std::time::Duration;

use tidelock_core::command::DrainMode;

use crate::drains::websocket;
use crate::fleet::{Endpoint, Fleet, H1, H2c, config};
use crate::frames::{CANCEL, Peer};
use crate::hpack::field;
use crate::http1::{Head, Http1};

const CONNECT: &[(&str, &str)] =
    &[(":protocol", "websocket"), ("sec-websocket-version", "13"), ("origin", "http://app.test")];

/// What a server answers to the key in `head` (RFC 6455 section 4.2.2).
fn accept(head: &Head) -> String {
    let key = head.field("sec-websocket-key").expect("a key");
    let salted = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    use base64::Engine as _;
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, salted.as_bytes());
    base64::engine::general_purpose::STANDARD.encode(digest)
}

/// An open WebSocket by an extended CONNECT, bridged to an upgrade.
pub(crate) async fn bridged(client: &mut Peer, endpoint: &Endpoint) -> (u32, Http1) {
    let stream = client.request("CONNECT", "/socket?vsn=2", CONNECT, false).await;
    let mut upstream = endpoint.h1().await;
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
