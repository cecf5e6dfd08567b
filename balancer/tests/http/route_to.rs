//! An endpoint answers that a request is another one's: it is sent there, whole, once.

use serde_json::json;
use tidelock_core::command::{Command, DrainMode};

use crate::fleet::{Endpoint, Fleet, H1, H2c, Speaks, config, name};
use crate::frames::Peer;
use crate::hpack::field;

/// Two endpoints whose apps are called app@a and app@b; requests begin at a.
async fn fleet(speaks: Speaks, a: &Endpoint, b: &Endpoint) -> Fleet {
    let protocol = if speaks == H2c { "h2c" } else { "http1" };
    let spec = json!({ "protocol": protocol, "route_to": true, "hold": { "max_ms": 0 } });
    let fleet = Fleet::with_pool(config(), serde_json::from_value(spec).unwrap(), &[]).await;
    for endpoint in [a, b] {
        put(&fleet, endpoint);
    }
    fleet.adopted().await;
    // Nothing new goes to b by itself, and what is sent there gets in.
    fleet.drain(b, DrainMode::Sessions, None).await;
    fleet
}

fn put(fleet: &Fleet, endpoint: &Endpoint) {
    let node = format!("app@{}", endpoint.name);
    let spec = json!({ "address": endpoint.address.to_string(), "node": node });
    let spec = serde_json::from_value(spec).unwrap();
    fleet.apply(Command::PutEndpoint { pool: name("app"), name: name(&endpoint.name), spec });
}

const TO_B: (&str, &str) = ("tidelock-route-to", "node=app@b");

async fn send_on(upstream: &mut Peer, stream: u32, to: (&str, &str)) {
    upstream.headers(stream, &[(":status", "307"), to], true).await;
}

#[tokio::test]
async fn a_request_goes_where_the_endpoint_says_with_its_body() {
    let (a, b) = (Endpoint::listen("a").await, Endpoint::listen("b").await);
    let fleet = fleet(H2c, &a, &b).await;
    let mut client = fleet.h2().await;
    let stream = client.request("POST", "/room/7", &[("content-length", "4"), ("x-mine", "kept")], false).await;
    client.data(stream, b"body", true).await;
    let mut from_a = a.h2().await;
    let request = from_a.expect_request().await;
    assert_eq!(request.body, b"body");
    send_on(&mut from_a, request.stream, TO_B).await;
    let mut from_b = b.h2().await;
    let again = from_b.expect_request().await;
    assert_eq!((again.body, field(&again.fields, ":path")), (b"body".to_vec(), Some("/room/7")));
    assert_eq!(field(&again.fields, "x-mine"), Some("kept"));
    from_b.respond(again.stream, "200", b"there").await;
    let response = client.response(stream).await;
    assert_eq!(response.whole(), ("200", &b"there"[..]));
    assert_eq!((response.field("tidelock-endpoint"), response.field("tidelock-affinity")), (Some("b"), Some("routed")));
    assert_eq!(response.field("set-cookie"), None, "its session lives where it lived");
    assert_eq!(fleet.metric("tidelock_requests_routed_total"), 1);

    // By a key, as every node places it; here only a may take new ones.
    let stream = client.get("/").await;
    let request = from_a.expect_request().await;
    send_on(&mut from_a, request.stream, ("tidelock-route-to", "key=room-7")).await;
    let again = from_a.expect_request().await;
    from_a.respond(again.stream, "200", b"").await;
    assert_eq!(client.response(stream).await.field("tidelock-endpoint"), Some("a"));
}

#[tokio::test]
async fn over_http1_and_for_websockets_too() {
    let (a, b) = (Endpoint::listen("a").await, Endpoint::listen("b").await);
    let fleet = fleet(H1, &a, &b).await;
    let mut client = fleet.h1().await;
    client.request("POST / HTTP/1.1\r\ncontent-length: 4\r\n", "body").await;
    let mut from_a = a.h1().await;
    from_a.head().await;
    assert_eq!(from_a.exact(4).await.unwrap(), b"body");
    from_a.write("HTTP/1.1 204 No Content\r\ntidelock-route-to: node=app@b\r\n\r\n").await;
    let mut from_b = b.h1().await;
    assert_eq!(from_b.head().await.start, "POST / HTTP/1.1");
    assert_eq!(from_b.exact(4).await.unwrap(), b"body");
    from_b.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntidelock-route-to: node=app@c\r\n\r\n").await;
    let (head, _) = client.response().await;
    assert_eq!((head.status(), head.field("tidelock-reason")), ("502", Some("routed-twice")));

    let mut client = fleet.h1().await;
    let upgrade = "GET /socket HTTP/1.1\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
        sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n";
    client.request(upgrade, "").await;
    let mut from_a = a.upgrade().await;
    from_a.head().await;
    from_a.write("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\ntidelock-route-to: node=app@b\r\n\r\n").await;
    let mut from_b = b.upgrade().await;
    let head = from_b.head().await;
    assert_eq!((head.start.as_str(), head.field("upgrade")), ("GET /socket HTTP/1.1", Some("websocket")));
    let switch = "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
        sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    from_b.write(switch).await;
    assert_eq!(client.head().await.status(), "101");
}

#[tokio::test]
async fn what_cannot_be_sent_on_is_told() {
    let (a, b) = (Endpoint::listen("a").await, Endpoint::listen("b").await);
    let fleet = fleet(H2c, &a, &b).await;
    let mut client = fleet.h2().await;
    let mut from_a = None;
    for (to, reason) in [("node=app@nowhere", "routed-nowhere"), ("node=app@b", "unreachable-b")] {
        if reason == "unreachable-b" {
            // It takes nobody any more.
            fleet.apply(Command::CancelDrain { pool: name("app"), endpoint: name("b") });
            fleet.drain(&b, DrainMode::Streams, None).await;
        }
        let stream = client.get("/").await;
        let from_a = match &mut from_a {
            Some(known) => known,
            None => from_a.insert(a.h2().await),
        };
        let request = from_a.expect_request().await;
        send_on(from_a, request.stream, ("tidelock-route-to", to)).await;
        let response = client.response(stream).await;
        assert_eq!((response.status(), response.field("tidelock-reason")), ("503", Some("routed-nowhere")), "{to}");
    }
    // What was sent there and broke off may have been done: the client is not told to try again.
    fleet.apply(Command::CancelDrain { pool: name("app"), endpoint: name("b") });
    fleet.drain(&b, DrainMode::Sessions, None).await;
    let from_a = from_a.as_mut().unwrap();
    let stream = client.request("POST", "/", &[], true).await;
    let request = from_a.expect_request().await;
    send_on(from_a, request.stream, TO_B).await;
    let mut from_b = b.h2().await;
    let at = from_b.expect_request().await.stream;
    from_b.reset(at, 2).await;
    let response = client.response(stream).await;
    assert_eq!((response.status(), response.field("tidelock-reason")), ("502", Some("broken-off")));
    // A body that was too long to be kept.
    let length = (2 << 20).to_string();
    let stream = client.request("POST", "/", &[("content-length", &length)], false).await;
    let (at, ..) = from_a.expect_headers().await;
    let mut sent = 0;
    while sent < 100_000 {
        let part = client.may_send(stream).min(16_384);
        if part > 0 {
            client.data(stream, &vec![b'x'; part], false).await;
            sent += part;
        }
        for event in from_a.ping().await.into_iter().chain(client.ping().await) {
            if let crate::frames::Event::Data { stream: on, bytes, .. } = event
                && on == at
            {
                from_a.window_update(at, bytes.len() as u32).await;
                from_a.window_update(0, bytes.len() as u32).await;
            }
        }
    }
    send_on(from_a, at, TO_B).await;
    let response = client.response(stream).await;
    assert_eq!((response.status(), response.field("tidelock-reason")), ("502", Some("routed-too-late")));
}

/// Pools that were not told to believe their endpoints do not: there it is a field like any other. Where they
/// were, nobody outside sees it, also when it says nothing.
#[tokio::test]
async fn only_where_the_pool_allows_it() {
    let (a, b) = (Endpoint::listen("a").await, Endpoint::listen("b").await);
    let fleet = fleet(H2c, &a, &b).await;
    fleet.change(json!({ "protocol": "h2c" })).await;
    let mut client = fleet.h2().await;
    let stream = client.get("/").await;
    let mut from_a = a.h2().await;
    let request = from_a.expect_request().await;
    send_on(&mut from_a, request.stream, TO_B).await;
    let response = client.response(stream).await;
    assert_eq!((response.status(), response.field("tidelock-route-to")), ("307", Some("node=app@b")));
    fleet.change(json!({ "protocol": "h2c", "route_to": true })).await;
    let stream = client.get("/").await;
    let request = from_a.expect_request().await;
    send_on(&mut from_a, request.stream, ("tidelock-route-to", "somewhere")).await;
    let response = client.response(stream).await;
    assert_eq!((response.status(), response.field("tidelock-route-to")), ("307", None));
}
