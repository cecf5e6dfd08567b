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

/// Asks `upstream`, who sends it on for a while or not, or answers.
async fn is_asked(upstream: &mut Peer, path: &str, says: &[(&str, &str)]) {
    let request = upstream.expect_request().await;
    assert_eq!(field(&request.fields, ":path"), Some(path));
    match says {
        [] => upstream.respond(request.stream, "200", b"").await,
        says => {
            let fields: Vec<_> = [(":status", "307")].into_iter().chain(says.iter().copied()).collect();
            upstream.headers(request.stream, &fields, true).await;
        }
    }
}

const FOR_A_MINUTE: (&str, &str) = ("tidelock-route-for", "60");
const AS_LEARNED: &str = "tidelock_requests_routed_as_learned_total";

/// An endpoint may spare requests to come the detour; it ends with its time, when it turns out to be wrong,
/// or when whoever was named cannot be used.
#[tokio::test]
async fn what_an_endpoint_says_of_requests_to_come_is_a_guess() {
    let (a, b) = (Endpoint::listen("a").await, Endpoint::listen("b").await);
    let fleet = fleet(H2c, &a, &b).await;
    let mut client = fleet.h2().await;
    let stream = client.get("/room/7?first").await;
    let mut from_a = a.h2().await;
    is_asked(&mut from_a, "/room/7?first", &[TO_B, FOR_A_MINUTE]).await;
    let mut from_b = b.h2().await;
    let at = from_b.expect_request().await.stream;
    from_b.headers(at, &[(":status", "200"), FOR_A_MINUTE], true).await;
    let response = client.response(stream).await;
    assert_eq!((response.status(), response.field("tidelock-route-for")), ("200", None), "it is between them and us");
    assert_eq!(fleet.metric(AS_LEARNED), 0);

    // At once, whatever the query; other paths are not meant.
    let stream = client.get("/room/7?second").await;
    is_asked(&mut from_b, "/room/7?second", &[]).await;
    let response = client.response(stream).await;
    assert_eq!((response.field("tidelock-endpoint"), response.field("tidelock-affinity")), (Some("b"), Some("routed")));
    assert_eq!(fleet.metric(AS_LEARNED), 1);
    let stream = client.get("/room/8").await;
    is_asked(&mut from_a, "/room/8", &[("tidelock-route-to", "node=app@b"), ("tidelock-route-for", "1")]).await;
    is_asked(&mut from_b, "/room/8", &[]).await;
    client.response(stream).await.whole();
    tokio::time::sleep(std::time::Duration::from_millis(1_050)).await;
    let stream = client.get("/room/8").await;
    is_asked(&mut from_a, "/room/8", &[]).await;
    client.response(stream).await.whole();

    // The room has moved: b says so, and that is not a second hop. From then on nobody guesses.
    let stream = client.get("/room/7").await;
    is_asked(&mut from_b, "/room/7", &[("tidelock-route-to", "node=app@a")]).await;
    is_asked(&mut from_a, "/room/7", &[]).await;
    assert_eq!(client.response(stream).await.status(), "200");
    let stream = client.get("/room/7").await;
    is_asked(&mut from_a, "/room/7", &[TO_B, FOR_A_MINUTE]).await;
    is_asked(&mut from_b, "/room/7", &[]).await;
    client.response(stream).await.whole();

    // It breaks off: the request goes on as if nothing had been learned.
    let stream = client.get("/room/7").await;
    let at = from_b.expect_request().await.stream;
    from_b.reset(at, 7).await;
    is_asked(&mut from_a, "/room/7", &[TO_B, FOR_A_MINUTE]).await;
    is_asked(&mut from_b, "/room/7", &[]).await;
    assert_eq!(client.response(stream).await.status(), "200");

    // It goes away.
    fleet.remove(&b).await;
    for _ in 0..2 {
        let stream = client.get("/room/7").await;
        is_asked(&mut from_a, "/room/7", &[]).await;
        assert_eq!(client.response(stream).await.field("tidelock-endpoint"), Some("a"));
    }
}

/// Nothing but a word about another request keeps it there: where there is no room it goes on.
#[tokio::test]
async fn a_guess_at_a_full_endpoint_goes_elsewhere() {
    let (a, b) = (Endpoint::listen("a").await, Endpoint::listen("b").await);
    let fleet = fleet(H2c, &a, &b).await;
    let limits = json!({ "max_requests": 1, "max_pending": 0 });
    let spec = json!({ "protocol": "h2c", "route_to": true, "hold": { "max_ms": 0 }, "limits": limits });
    fleet.change(spec).await;
    let mut client = fleet.h2().await;
    let stream = client.get("/room/7").await;
    let mut from_a = a.h2().await;
    is_asked(&mut from_a, "/room/7", &[TO_B, FOR_A_MINUTE]).await;
    let mut from_b = b.h2().await;
    is_asked(&mut from_b, "/room/7", &[]).await;
    client.response(stream).await.whole();
    client.get("/room/7").await;
    from_b.expect_request().await;
    let stream = client.get("/room/7").await;
    is_asked(&mut from_a, "/room/7", &[]).await;
    assert_eq!(client.response(stream).await.field("tidelock-endpoint"), Some("a"));
}
