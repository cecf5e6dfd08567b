//! Draining: nothing new, nothing broken, and a count that reaches zero when all is over.

use std::time::Duration;

use tidelock_core::command::{Command, DrainMode};
use tidelock_core::report::Counts;

use crate::fleet::{Endpoint, Fleet, H1, H2c, Speaks, config, name, route};
use crate::frames::{Ended, Event, Peer};
use crate::hpack::field;
use crate::http1::Http1;

pub(crate) fn counts(requests: u64, websockets: u64) -> Counts {
    Counts { requests, websockets, ..Counts::default() }
}

/// A download that has begun: its streams here and there, and the session's cookie.
async fn download(client: &mut Peer, upstream: &mut Peer) -> (u32, u32, String) {
    let stream = client.get("/download").await;
    let at = upstream.expect_request().await.stream;
    upstream.headers(at, &[(":status", "200")], false).await;
    upstream.data(at, b"one ", false).await;
    let (_, head, _) = client.expect_headers().await;
    assert_eq!(client.expect_data().await.1, b"one ");
    let cookie = field(&head, "set-cookie").unwrap().split(';').next().unwrap().to_owned();
    (stream, at, cookie)
}

/// The first request of a worker opens the connection that the others use.
async fn opened(endpoint: &Endpoint, client: &mut Peer) -> Peer {
    let stream = client.get("/").await;
    let mut upstream = endpoint.h2().await;
    let at = upstream.expect_request().await.stream;
    upstream.respond(at, "200", b"").await;
    client.response(stream).await.whole();
    upstream
}

/// One request that shall be answered by `endpoint`.
async fn answered_by(client: &mut Peer, upstream: &mut Peer, endpoint: &Endpoint, cookie: Option<&str>) -> String {
    let cookie = cookie.map(|cookie| ("cookie", cookie));
    let stream = client.request("GET", "/", &cookie.into_iter().collect::<Vec<_>>(), true).await;
    let at = upstream.expect_request().await.stream;
    upstream.respond(at, "200", b"").await;
    let response = client.response(stream).await;
    assert_eq!(response.whole().0, "200");
    assert_eq!(response.field("tidelock-endpoint"), Some(endpoint.name.as_str()));
    response.field("tidelock-affinity").unwrap().to_owned()
}

pub(crate) async fn closed(upstream: &mut Peer) {
    loop {
        match upstream.next().await {
            Event::GoAway { .. } => {}
            event => break assert_eq!(event, Event::Closed),
        }
    }
}

#[tokio::test]
async fn what_runs_finishes_while_all_else_goes_elsewhere() {
    let (a, b) = (Endpoint::listen("a").await, Endpoint::listen("b").await);
    let fleet = Fleet::serving(config(), H2c, &[&a]).await;
    let mut client = fleet.h2().await;
    let mut from_a = opened(&a, &mut client).await;
    let (down, down_at, cookie) = download(&mut client, &mut from_a).await;
    let up = client.request("POST", "/upload", &[], false).await;
    client.data(up, b"first ", false).await;
    let (up_at, ..) = from_a.expect_headers().await;
    assert_eq!(from_a.expect_data().await.1, b"first ");
    fleet.add(&b);
    fleet.drain(&a, DrainMode::Streams, None).await;
    fleet.counted(&a, counts(2, 0)).await;

    let mut other = fleet.h2().await;
    let stream = other.get("/").await;
    let mut from_b = b.h2().await;
    let at = from_b.expect_request().await.stream;
    from_b.respond(at, "200", b"").await;
    assert_eq!(other.response(stream).await.field("tidelock-endpoint"), Some("b"));
    let affinity = answered_by(&mut other, &mut from_b, &b, Some(&cookie)).await;
    assert_eq!(affinity, "moved:draining", "pinned sessions go too");

    client.data(up, b"second", true).await;
    assert_eq!(from_a.expect_data().await, (up_at, b"second".to_vec(), true));
    from_a.respond(up_at, "201", b"stored").await;
    assert_eq!(client.response(up).await.whole(), ("201", &b"stored"[..]));
    fleet.counted(&a, counts(1, 0)).await;
    from_a.data(down_at, b"two", false).await;
    assert_eq!(client.expect_data().await, (down, b"two".to_vec(), false));
    from_a.quiet().await;
    assert_eq!(fleet.count_now(&a), counts(1, 0), "not before the last byte");
    from_a.data(down_at, b"", true).await;
    assert_eq!(client.expect_data().await, (down, vec![], true));
    fleet.counted(&a, counts(0, 0)).await;
    closed(&mut from_a).await;
}

/// A response that came first leaves nothing behind that a drain would wait for.
#[tokio::test]
async fn a_drain_without_anything_running_closes_the_connections_at_once() {
    for protocol in [H2c, H1] {
        let (a, b) = (Endpoint::listen("a").await, Endpoint::listen("b").await);
        let fleet = Fleet::serving(config(), protocol, &[&a]).await;
        let mut client = fleet.h2().await;
        match protocol {
            H2c => {
                let mut upstream = opened(&a, &mut client).await;
                fleet.add(&b);
                fleet.drain(&a, DrainMode::Streams, None).await;
                closed(&mut upstream).await;
            }
            H1 => {
                let mut upstream = served_h1(&a, &mut client).await;
                fleet.add(&b);
                fleet.drain(&a, DrainMode::Streams, None).await;
                assert!(upstream.rest().await.is_empty());
            }
        }
        fleet.counted(&a, counts(0, 0)).await;
    }
}

async fn served_h1(endpoint: &Endpoint, client: &mut Peer) -> Http1 {
    let stream = client.get("/").await;
    let mut upstream = endpoint.h1().await;
    upstream.head().await;
    upstream.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    client.response(stream).await.whole();
    upstream
}

pub(crate) async fn websocket(fleet: &Fleet, endpoint: &Endpoint) -> (Http1, Http1) {
    let (client, upstream) = asked_for_websocket(fleet, endpoint).await;
    websocket_opened(client, upstream).await
}

/// A client that has asked for a WebSocket, and an endpoint that has not answered.
pub(crate) async fn asked_for_websocket(fleet: &Fleet, endpoint: &Endpoint) -> (Http1, Http1) {
    let mut client = fleet.h1().await;
    let upgrade = "GET /socket HTTP/1.1\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
        sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n";
    client.request(upgrade, "").await;
    let mut upstream = endpoint.upgrade().await;
    let head = upstream.head().await;
    assert_eq!(head.start, "GET /socket HTTP/1.1");
    assert_eq!((head.field("upgrade"), head.field("connection")), (Some("websocket"), Some("upgrade")));
    assert_eq!(head.field("sec-websocket-key"), Some("dGhlIHNhbXBsZSBub25jZQ=="));
    (client, upstream)
}

pub(crate) async fn websocket_opened(mut client: Http1, mut upstream: Http1) -> (Http1, Http1) {
    let switch = "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
        sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    upstream.write([switch.as_bytes(), b"\x81\x05hello"].concat()).await;
    let head = client.head().await;
    assert_eq!((head.status(), head.field("upgrade")), ("101", Some("websocket")));
    assert_eq!(head.field("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    assert_eq!(client.exact(7).await.unwrap(), b"\x81\x05hello", "bytes right behind the 101");
    (client, upstream)
}

async fn echo(client: &mut Http1, upstream: &mut Http1) {
    client.write(b"\x82\x82\0\0\0\0up").await;
    assert_eq!(upstream.exact(8).await.unwrap(), b"\x82\x82\0\0\0\0up");
    upstream.write(b"\x82\x04down").await;
    assert_eq!(client.exact(6).await.unwrap(), b"\x82\x04down");
}

/// Endpoints that speak HTTP/2 take WebSockets by HTTP/1.1 on the same port.
#[tokio::test]
async fn a_websocket_outlives_the_start_of_a_drain() {
    for protocol in [H1, H2c] {
        let (a, b) = (Endpoint::listen("a").await, Endpoint::listen("b").await);
        let fleet = Fleet::serving(config(), protocol, &[&a]).await;
        let (mut client, mut upstream) = websocket(&fleet, &a).await;
        echo(&mut client, &mut upstream).await;
        fleet.counted(&a, counts(1, 1)).await;
        fleet.add(&b);
        fleet.drain(&a, DrainMode::Streams, None).await;
        echo(&mut client, &mut upstream).await;
        let (mut new, mut from_b) = websocket(&fleet, &b).await;
        echo(&mut new, &mut from_b).await;
        fleet.counted(&a, counts(1, 1)).await;
        // Either side's end is passed on.
        drop(client);
        assert!(upstream.rest().await.is_empty());
        drop(upstream);
        fleet.counted(&a, counts(0, 0)).await;
        drop(from_b);
        assert!(new.rest().await.is_empty());
    }
}

#[tokio::test]
async fn sessions_stay_where_a_drain_lets_them() {
    let (a, b) = (Endpoint::listen("a").await, Endpoint::listen("b").await);
    let fleet = Fleet::serving(config(), H2c, &[&a]).await;
    let mut client = fleet.h2().await;
    let mut from_a = opened(&a, &mut client).await;
    let (_, _, cookie) = download(&mut client, &mut from_a).await;
    fleet.add(&b);
    fleet.drain(&a, DrainMode::Sessions, None).await;
    let stream = client.get("/").await;
    let mut from_b = b.h2().await;
    let at = from_b.expect_request().await.stream;
    from_b.respond(at, "200", b"").await;
    assert_eq!(client.response(stream).await.field("tidelock-endpoint"), Some("b"), "a new session");
    assert_eq!(answered_by(&mut client, &mut from_a, &a, Some(&cookie)).await, "kept");
    from_a.quiet().await;
}

#[tokio::test]
async fn the_deadline_cuts_what_is_left() {
    for protocol in [H2c, H1] {
        let (a, b) = (Endpoint::listen("a").await, Endpoint::listen("b").await);
        let fleet = Fleet::serving(config(), protocol, &[&a]).await;
        let mut client = fleet.h2().await;
        let stream = client.get("/").await;
        let mut socket = None;
        let (mut h1, mut h2) = (None, None);
        match protocol {
            H2c => {
                let mut upstream = a.h2().await;
                let at = upstream.expect_request().await.stream;
                upstream.headers(at, &[(":status", "200")], false).await;
                h2 = Some(upstream);
            }
            H1 => {
                let mut upstream = a.h1().await;
                upstream.head().await;
                upstream.write("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n").await;
                h1 = Some(upstream);
                socket = Some(websocket(&fleet, &a).await);
            }
        }
        client.expect_headers().await;
        fleet.add(&b);
        fleet.drain(&a, DrainMode::Streams, Some(Duration::from_millis(300))).await;
        assert!(matches!(client.response(stream).await.ended(), Ended::Reset(_)));
        if let Some(mut upstream) = h2 {
            closed(&mut upstream).await;
        }
        if let Some(mut upstream) = h1 {
            assert!(upstream.rest().await.is_empty());
        }
        if let Some((mut client, mut upstream)) = socket {
            // Not a cut where a word can be said: the client is told to come back.
            assert_eq!(client.rest().await, b"\x88\x02\x03\xf4");
            assert_eq!(upstream.rest().await.len(), 8, "the endpoint is told too");
        }
        fleet.counted(&a, counts(0, 0)).await;
    }
}

/// Between the deadline and the fleet's next word a session that lived there moves at once.
#[tokio::test]
async fn behind_the_deadline_pinned_sessions_move() {
    for protocol in [H2c, H1] {
        let (a, b) = (Endpoint::listen("a").await, Endpoint::listen("b").await);
        let fleet = Fleet::serving(config(), protocol, &[&a]).await;
        let mut client = fleet.h2().await;
        let running = client.get("/").await;
        let (mut h1, mut h2) = (None, None);
        match protocol {
            H2c => {
                let upstream = h2.insert(a.h2().await);
                let at = upstream.expect_request().await.stream;
                upstream.headers(at, &[(":status", "200")], false).await;
            }
            H1 => {
                let upstream = h1.insert(a.h1().await);
                upstream.head().await;
                upstream.write("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n").await;
            }
        }
        let (_, head, _) = client.expect_headers().await;
        let cookie = field(&head, "set-cookie").unwrap().split(';').next().unwrap().to_owned();
        fleet.add(&b);
        fleet.drain(&a, DrainMode::Sessions, Some(Duration::from_millis(200))).await;
        assert!(matches!(client.response(running).await.ended(), Ended::Reset(_)), "the deadline");
        let stream = client.request("GET", "/", &[("cookie", &cookie)], true).await;
        answer(&b, protocol).await;
        let response = client.response(stream).await;
        assert_eq!(response.whole(), ("200", &b"hi"[..]));
        assert_eq!(response.field("tidelock-endpoint"), Some("b"), "{protocol:?}");
        assert!(a.nobody(), "{protocol:?}: it is not dialled any more");
    }
}

async fn answer(endpoint: &Endpoint, protocol: Speaks) {
    match protocol {
        H2c => {
            let mut upstream = endpoint.h2().await;
            let at = upstream.expect_request().await.stream;
            upstream.respond(at, "200", b"hi").await;
            upstream.quiet().await;
        }
        H1 => {
            let mut upstream = endpoint.h1().await;
            upstream.head().await;
            upstream.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi").await;
        }
    }
}

#[tokio::test]
async fn a_cancelled_drain_opens_the_endpoint_again() {
    for protocol in [H2c, H1] {
        let a = Endpoint::listen("a").await;
        let fleet = Fleet::serving(config(), protocol, &[&a]).await;
        let mut client = fleet.h2().await;
        let before = client.get("/").await;
        answer(&a, protocol).await;
        client.response(before).await.whole();
        fleet.drain(&a, DrainMode::Streams, Some(Duration::from_millis(250))).await;
        let refused = client.get("/").await;
        let response = client.response(refused).await;
        assert_eq!((response.whole().0, response.field("retry-after")), ("503", Some("1")));
        fleet.cancel_drain(&a).await;

        let running = client.get("/").await;
        let mut upstream = match protocol {
            H2c => {
                let mut upstream = a.h2().await;
                let at = upstream.expect_request().await.stream;
                upstream.headers(at, &[(":status", "200")], false).await;
                client.expect_headers().await;
                // Beyond what was the deadline: it is void.
                tokio::time::sleep(Duration::from_millis(300)).await;
                upstream.data(at, b"whole", true).await;
                Some(upstream)
            }
            H1 => {
                let mut upstream = a.h1().await;
                upstream.head().await;
                upstream.write("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n").await;
                client.expect_headers().await;
                tokio::time::sleep(Duration::from_millis(300)).await;
                upstream.write("whole").await;
                None
            }
        };
        let response = client.response(running).await;
        assert_eq!((response.ended(), &response.body[..]), (Ended::Whole, &b"whole"[..]), "{protocol:?}");
        if let Some(upstream) = &mut upstream {
            upstream.quiet().await;
        }
    }
}

#[tokio::test]
async fn a_removed_endpoint_finishes_what_runs() {
    let (a, b) = (Endpoint::listen("a").await, Endpoint::listen("b").await);
    let fleet = Fleet::serving(config(), H2c, &[&a]).await;
    let mut client = fleet.h2().await;
    let mut from_a = opened(&a, &mut client).await;
    let (down, at, cookie) = download(&mut client, &mut from_a).await;
    let (mut ws_client, mut ws_endpoint) = websocket(&fleet, &a).await;
    fleet.add(&b);
    fleet.remove(&a).await;
    let stream = client.request("GET", "/", &[("cookie", &cookie)], true).await;
    let mut from_b = b.h2().await;
    let to_b = from_b.expect_request().await.stream;
    from_b.respond(to_b, "200", b"").await;
    let response = client.response(stream).await;
    assert_eq!(response.field("tidelock-affinity"), Some("moved:gone"));

    echo(&mut ws_client, &mut ws_endpoint).await;
    from_a.data(at, b"two", true).await;
    assert_eq!(client.expect_data().await, (down, b"two".to_vec(), true));
    closed(&mut from_a).await;
    echo(&mut ws_client, &mut ws_endpoint).await;
}

#[tokio::test]
async fn an_edit_of_another_pool_disturbs_nothing() {
    let (a, other) = (Endpoint::listen("a").await, Endpoint::listen("other").await);
    let fleet = Fleet::serving(config(), H2c, &[&a]).await;
    let mut client = fleet.h2().await;
    let mut from_a = opened(&a, &mut client).await;
    let (down, at, cookie) = download(&mut client, &mut from_a).await;
    let (mut ws_client, mut ws_endpoint) = websocket(&fleet, &a).await;
    fleet.apply(Command::PutPool { name: name("other"), spec: Default::default() });
    let address = serde_json::json!({ "address": other.address.to_string() });
    for pool in 0..20 {
        let spec = serde_json::from_value(address.clone()).unwrap();
        fleet.apply(Command::PutEndpoint { pool: name("other"), name: name("x"), spec });
        let json = format!(r#"{{"pool":"other","path_prefix":"/other{pool}"}}"#);
        fleet.apply(Command::PutRoute { name: name("other"), spec: route(&json) });
        fleet.adopted().await;
        fleet.apply(Command::DeleteEndpoint { pool: name("other"), name: name("x") });
        fleet.adopted().await;
        assert_eq!(answered_by(&mut client, &mut from_a, &a, Some(&cookie)).await, "kept");
    }
    echo(&mut ws_client, &mut ws_endpoint).await;
    from_a.data(at, b"two", true).await;
    assert_eq!(client.expect_data().await, (down, b"two".to_vec(), true));
    from_a.quiet().await;
    assert!(a.nobody(), "the same connection all the time");
}

/// The fleet has ended the drain by its deadline; this node's clock is late, or it was away when the drain began.
#[tokio::test]
async fn a_drain_that_the_fleet_has_ended_cuts_what_is_left() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H2c, &[&endpoint]).await;
    let mut client = fleet.h2().await;
    let stream = client.get("/slow").await;
    let mut upstream = endpoint.h2().await;
    upstream.expect_request().await;
    fleet.drain(&endpoint, DrainMode::Streams, Some(Duration::from_secs(3_600))).await;
    fleet.force_drain(&endpoint).await;
    let response = tokio::time::timeout(Duration::from_secs(2), client.response(stream)).await.expect("at once");
    assert_eq!(response.status(), "502");
}

/// A drain was cut off, cancelled, and begins again as one that keeps sessions, before a worker has seen it between the two.
#[tokio::test]
async fn a_drain_that_follows_another_at_once_is_not_cut_off_by_it() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H2c, &[&endpoint]).await;
    let mut client = fleet.h2().await;
    let stream = client.get("/").await;
    let mut upstream = endpoint.h2().await;
    let request = upstream.expect_request().await;
    upstream.respond(request.stream, "200", b"").await;
    let cookie = client.response(stream).await.field("set-cookie").unwrap().split(';').next().unwrap().to_owned();
    fleet.drain(&endpoint, DrainMode::Streams, Some(Duration::from_millis(20))).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let (pool, a) = (name("app"), name("a"));
    fleet.apply(Command::CancelDrain { pool: pool.clone(), endpoint: a.clone() });
    let (mode, reason) = (DrainMode::Sessions, String::new());
    fleet.apply(Command::StartDrain { pool, endpoint: a, mode, deadline_ms: None, reason, pace: None });
    fleet.adopted().await;
    let stream = client.request("GET", "/", &[("cookie", &cookie)], true).await;
    let mut upstream = endpoint.h2().await;
    let request = upstream.expect_request().await;
    upstream.respond(request.stream, "200", b"kept").await;
    assert_eq!(client.response(stream).await.whole(), ("200", &b"kept"[..]));
}
