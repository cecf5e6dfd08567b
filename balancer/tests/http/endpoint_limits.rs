//! H18: a pool's limits on its endpoints refuse exactly the excess, and what waits is served in
//! its turn.

use std::time::Duration;

use serde_json::json;
use tidelock_balancer::Config;

use crate::fleet::{Endpoint, Fleet, config};
use crate::frames::Peer;
use crate::http1::Http1;

async fn limited(config: Config, spec: serde_json::Value, endpoints: &[&Endpoint]) -> Fleet {
    Fleet::with_pool(config, serde_json::from_value(spec).unwrap(), endpoints).await
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

async fn answer(upstream: &mut Http1) {
    upstream.head().await;
    upstream.write(OK).await;
}

/// The queue is full: one more is told so at once, and when to come back.
#[tokio::test]
async fn requests_beyond_the_limit_wait_and_those_beyond_the_queue_are_refused() {
    for protocol in ["http1", "h2c"] {
        let endpoint = Endpoint::listen("a").await;
        let limits = json!({"max_requests": 1, "max_pending": 1});
        let fleet = limited(config(), json!({"protocol": protocol, "limits": limits}), &[&endpoint]).await;
        let mut clients = [fleet.h2().await, fleet.h2().await, fleet.h2().await];
        let mut streams = Vec::new();
        for client in &mut clients[..2] {
            streams.push(client.get("/").await);
            client.quiet().await;
        }
        let refused = clients[2].get("/").await;
        let refused = clients[2].response(refused).await;
        assert_eq!((refused.status(), refused.field("tidelock-reason")), ("503", Some("endpoint-full")));
        assert_eq!(refused.field("retry-after"), Some("1"));
        assert_eq!(fleet.metric("tidelock_endpoint_full_total"), 1);
        let mut h1 = None;
        let mut h2 = None;
        for (client, stream) in clients.iter_mut().zip(&streams) {
            if protocol == "http1" {
                let upstream = match &mut h1 {
                    Some(upstream) => upstream,
                    none => none.insert(endpoint.h1().await),
                };
                answer(upstream).await;
            } else {
                let upstream = match &mut h2 {
                    Some(upstream) => upstream,
                    none => none.insert(endpoint.h2().await),
                };
                let request = upstream.expect_request().await;
                upstream.quiet().await;
                upstream.respond(request.stream, "200", b"ok").await;
            }
            assert_eq!(client.response(*stream).await.whole(), ("200", &b"ok"[..]), "{protocol}");
        }
        // All places are free again.
        let stream = clients[2].get("/").await;
        match (h1, h2) {
            (Some(mut upstream), _) => answer(&mut upstream).await,
            (_, Some(mut upstream)) => {
                let request = upstream.expect_request().await;
                upstream.respond(request.stream, "200", b"ok").await;
            }
            _ => unreachable!("one of them was opened"),
        }
        assert_eq!(clients[2].response(stream).await.status(), "200");
    }
}

/// New sessions and what nothing keeps anywhere go to an endpoint that has room; a session that
/// lives there does not leave it for a moment's load.
#[tokio::test]
async fn a_full_endpoint_loses_no_session() {
    let (a, b) = (Endpoint::listen("a").await, Endpoint::listen("b").await);
    let spec = json!({"limits": {"max_requests": 1, "max_pending": 0}});
    let fleet = limited(config(), spec, &[&a]).await;
    let mut first = fleet.h1().await;
    first.get("/").await;
    let mut from_a = a.h1().await;
    answer(&mut from_a).await;
    let (head, _) = first.response().await;
    let cookie = head.field("set-cookie").unwrap().split(';').next().unwrap().to_owned();
    fleet.add(&b);
    fleet.adopted().await;
    // It is busy with one request of the session's.
    let pinned = format!("GET / HTTP/1.1\r\ncookie: {cookie}\r\n");
    first.request(&pinned, "").await;
    from_a.head().await;
    let mut second = fleet.h1().await;
    second.request(&pinned, "").await;
    assert_eq!(second.response().await.0.field("tidelock-reason"), Some("endpoint-full"));
    assert!(b.nobody());
    // Whoever is new goes on to the other, wherever the ring would have put him.
    for _ in 0..8 {
        let mut client = fleet.h1().await;
        client.get("/").await;
        let mut from_b = b.h1().await;
        answer(&mut from_b).await;
        assert_eq!(client.response().await.0.field("tidelock-endpoint"), Some("b"));
    }
    from_a.write(OK).await;
    assert_eq!(first.response().await.0.field("tidelock-affinity"), Some("kept"));
}

/// Whoever waits too long is told so; whoever leaves the queue gives his turn on.
#[tokio::test]
async fn a_wait_ends_with_the_time_for_connections() {
    let endpoint = Endpoint::listen("a").await;
    let spec = json!({"limits": {"max_requests": 1}, "timeouts": {"connect_ms": 300}});
    let fleet = limited(config(), spec, &[&endpoint]).await;
    let mut running = fleet.h1().await;
    running.get("/").await;
    let mut upstream = endpoint.h1().await;
    upstream.head().await;
    let mut late = fleet.h1().await;
    late.get("/").await;
    assert_eq!(late.response().await.0.field("tidelock-reason"), Some("endpoint-full"));
    // One waits and leaves, the next one waits behind it.
    let mut leaves = fleet.h2().await;
    let stream = leaves.get("/").await;
    leaves.quiet().await;
    let mut stays = fleet.h2().await;
    let stayed = stays.get("/").await;
    stays.quiet().await;
    leaves.reset(stream, crate::frames::CANCEL).await;
    leaves.quiet().await;
    upstream.write(OK).await;
    assert_eq!(running.response().await.0.status(), "200");
    answer(&mut upstream).await;
    assert_eq!(stays.response(stayed).await.status(), "200");
}

/// Over HTTP/1.1 a request has a connection to itself: the second one waits for the first one's.
#[tokio::test]
async fn no_more_connections_are_opened_than_the_limit_says() {
    let endpoint = Endpoint::listen("a").await;
    // Less than the time after which idle connections are looked at.
    let spec = json!({"limits": {"max_connections": 1}, "timeouts": {"connect_ms": 1_500}});
    let fleet = limited(config(), spec, &[&endpoint]).await;
    let (mut first, mut second) = (fleet.h1().await, fleet.h1().await);
    first.get("/1").await;
    let mut upstream = endpoint.h1().await;
    assert_eq!(upstream.head().await.start, "GET /1 HTTP/1.1");
    second.get("/2").await;
    let mut third = fleet.h2().await;
    let stream = third.get("/3").await;
    third.quiet().await;
    assert!(endpoint.nobody());
    upstream.write(OK).await;
    assert_eq!(first.response().await.0.status(), "200");
    // In the order in which they came.
    assert_eq!(upstream.head().await.start, "GET /2 HTTP/1.1");
    upstream.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok").await;
    assert_eq!(second.response().await.0.status(), "200");
    // That one has closed: there may be one more.
    let mut upstream = endpoint.h1().await;
    assert_eq!(upstream.head().await.start, "GET /3 HTTP/1.1");
    upstream.write(OK).await;
    assert_eq!(third.response(stream).await.status(), "200");
    // A WebSocket takes the idle one's place and holds it.
    let (mut client, mut upgraded) = crate::drains::websocket(&fleet, &endpoint).await;
    first.get("/4").await;
    assert!(endpoint.nobody());
    client.write(b"\x88\x80\0\0\0\0").await;
    drop(client);
    upgraded.rest().await;
    drop(upgraded);
    answer(&mut endpoint.h1().await).await;
    assert_eq!(first.response().await.0.status(), "200");
}

/// Who has just been served goes behind those who wait, though his connection comes back to him.
#[tokio::test]
async fn a_pipelining_client_waits_for_its_turn() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = limited(config(), json!({"limits": {"max_connections": 1}}), &[&endpoint]).await;
    let (mut greedy, mut other) = (fleet.h1().await, fleet.h2().await);
    greedy.write("GET /1 HTTP/1.1\r\nhost: app.test\r\n\r\nGET /3 HTTP/1.1\r\nhost: app.test\r\n\r\n").await;
    let mut upstream = endpoint.h1().await;
    assert_eq!(upstream.head().await.start, "GET /1 HTTP/1.1");
    let stream = other.get("/2").await;
    other.quiet().await;
    upstream.write(OK).await;
    assert_eq!(upstream.head().await.start, "GET /2 HTTP/1.1");
    upstream.write(OK).await;
    assert_eq!(upstream.head().await.start, "GET /3 HTTP/1.1");
    upstream.write(OK).await;
    assert_eq!(other.response(stream).await.status(), "200");
    for _ in 0..2 {
        assert_eq!(greedy.response().await.0.status(), "200");
    }
}

/// A worker without a connection gets one, or it could never serve: those of others are not its
/// own.
#[tokio::test]
async fn each_worker_may_have_one_connection() {
    for protocol in ["http1", "h2c"] {
        let endpoint = Endpoint::listen("a").await;
        let limits = json!({"max_connections": 1});
        let spec = json!({"protocol": protocol, "limits": limits, "timeouts": {"connect_ms": 500}});
        let fleet = limited(Config { workers: 2, ..config() }, spec, &[&endpoint]).await;
        let serve = async {
            loop {
                let stream = endpoint.accept_patiently().await;
                tokio::spawn(async move {
                    if protocol == "h2c" {
                        let mut upstream = Peer::endpoint(stream, &[]).await;
                        while let crate::frames::Event::Headers { stream, .. } = upstream.next().await {
                            upstream.respond(stream, "200", b"ok").await;
                        }
                    } else {
                        let mut upstream = Http1::over(stream);
                        while upstream.try_head().await.is_some() {
                            upstream.write(OK).await;
                        }
                    }
                });
            }
        };
        let ask = async {
            // Each client is some worker's.
            for _ in 0..32 {
                let mut client = fleet.h1().await;
                client.get("/").await;
                assert_eq!(client.response().await.0.status(), "200", "{protocol}");
            }
        };
        tokio::select! {
            () = serve => {}
            () = ask => {}
        }
    }
}

/// HTTP/2 shares one connection where it may have no more, and its streams are what runs out.
#[tokio::test]
async fn streams_wait_where_no_connection_may_be_added() {
    let endpoint = Endpoint::listen("a").await;
    let spec = json!({"protocol": "h2c", "limits": {"max_connections": 1}});
    let fleet = limited(config(), spec, &[&endpoint]).await;
    let mut client = fleet.h2().await;
    let first = client.get("/").await;
    // One stream at a time.
    let mut upstream = Peer::endpoint(endpoint.accept().await, &[(3, 1)]).await;
    let request = upstream.expect_request().await;
    upstream.ping().await;
    let second = client.get("/").await;
    client.quiet().await;
    upstream.quiet().await;
    assert!(endpoint.nobody());
    upstream.respond(request.stream, "204", b"").await;
    assert_eq!(client.response(first).await.status(), "204");
    let request = upstream.expect_request().await;
    upstream.respond(request.stream, "204", b"").await;
    assert_eq!(client.response(second).await.status(), "204");
}

/// A limit that changes holds from then on.
#[tokio::test]
async fn a_changed_limit_holds_at_once() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = limited(config(), json!({}), &[&endpoint]).await;
    let spec = |most: u32| json!({"limits": {"max_requests": most, "max_pending": 0}});
    fleet.change(spec(1)).await;
    let (mut first, mut second) = (fleet.h1().await, fleet.h1().await);
    first.get("/").await;
    let mut one = endpoint.h1().await;
    one.head().await;
    second.get("/").await;
    assert_eq!(second.response().await.0.status(), "503");
    fleet.change(spec(2)).await;
    second.get("/").await;
    answer(&mut endpoint.h1().await).await;
    assert_eq!(second.response().await.0.status(), "200");
    one.write(OK).await;
    tokio::time::timeout(Duration::from_secs(5), first.response()).await.unwrap();
}

/// Without a queue there is still the way to a connection.
#[tokio::test]
async fn who_waits_for_a_connection_is_in_no_queue() {
    for protocol in ["http1", "h2c"] {
        let endpoint = Endpoint::listen("a").await;
        let spec = json!({"protocol": protocol, "limits": {"max_pending": 0}});
        let fleet = limited(config(), spec, &[&endpoint]).await;
        let mut client = fleet.h1().await;
        client.get("/").await;
        if protocol == "http1" {
            answer(&mut endpoint.h1().await).await;
        } else {
            let mut upstream = endpoint.h2().await;
            let request = upstream.expect_request().await;
            upstream.respond(request.stream, "200", b"ok").await;
        }
        assert_eq!(client.response().await.0.status(), "200", "{protocol}");
    }
}

/// A connection that takes no more streams, and has long ones left, is not in the way of others:
/// not of the limit of its worker, nor of the pool's.
#[tokio::test]
async fn connections_on_their_way_out_are_not_in_the_way() {
    for limits in [json!({}), json!({"max_connections": 1})] {
        let endpoint = Endpoint::listen("a").await;
        let spec = json!({"protocol": "h2c", "limits": limits, "timeouts": {"connect_ms": 2_000}});
        let fleet = limited(config(), spec, &[&endpoint]).await;
        let mut client = fleet.h2().await;
        let mut leaving = Vec::new();
        for _ in 0..10 {
            let stream = client.get("/long").await;
            let mut upstream = endpoint.h2().await;
            let request = upstream.expect_request().await;
            upstream.go_away(request.stream, crate::frames::NO_ERROR).await;
            upstream.ping().await;
            leaving.push((stream, request.stream, upstream));
        }
        for (stream, at, mut upstream) in leaving {
            upstream.respond(at, "204", b"").await;
            assert_eq!(client.response(stream).await.status(), "204");
        }
    }
}
