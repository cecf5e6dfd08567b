//! What this node sees of endpoints that it looks after, as it tells the control plane.

use std::time::Duration;

use serde_json::json;
use tidelock_balancer::Config;
use tidelock_core::command::Command;
use tidelock_core::health::Verdict;
use tidelock_core::id::{EndpointId, NodeId};
use tidelock_core::report::Observed;

use crate::fleet::{Endpoint, Fleet, config, name};
use crate::frames::{Event, Peer, headers};
use crate::hpack::field;
use crate::http1::Http1;

/// A pool whose endpoints are checked every 40 ms; this node looks after them.
async fn checked(config: Config, spec: serde_json::Value, check: serde_json::Value, endpoints: &[&Endpoint]) -> Fleet {
    let mut spec = spec;
    spec["health"] =
        json!({"check": check, "interval_ms": 40, "timeout_ms": 200, "healthy_threshold": 2, "unhealthy_threshold": 2});
    let fleet = Fleet::with_pool(config, serde_json::from_value(spec).unwrap(), endpoints).await;
    observers(&fleet, &[1]).await;
    fleet
}

async fn observers(fleet: &Fleet, nodes: &[u64]) {
    fleet.apply(Command::SetObservers { nodes: nodes.iter().map(|id| NodeId(*id)).collect() });
    fleet.adopted().await;
}

/// Waits until this node sees the endpoint so; `down` gives the reason.
async fn seen(fleet: &Fleet, id: EndpointId, is: &str) -> String {
    let says = |observed: Option<&Observed>| match observed {
        None => "up",
        Some(Observed::Pending) => "pending",
        Some(Observed::Down { .. }) => "down",
    };
    let report = fleet.reported(|report| says(report.health.get(&id)) == is).await;
    match report.health.get(&id) {
        Some(Observed::Down { detail }) => detail.clone(),
        _ => String::new(),
    }
}

async fn judge(fleet: &Fleet, endpoint: &Endpoint, verdict: Verdict) {
    let id = fleet.id(endpoint);
    let (pool, endpoint) = (name("app"), name(&endpoint.name));
    fleet.apply(Command::SetHealth { pool, endpoint, id, verdict, detail: String::new() });
    fleet.adopted().await;
}

/// Answers each check with `status`, until the check after `until` has passed.
async fn answers(endpoint: &Endpoint, status: &str) -> ! {
    loop {
        let mut check = Http1::over(endpoint.accept_patiently().await);
        let Some(head) = check.try_head().await else { continue };
        assert_eq!(head.start, "GET /healthz?full=1 HTTP/1.1");
        assert_eq!(head.field("host"), Some("app.test"));
        assert_eq!(head.field("user-agent"), Some("tidelock-health"));
        check.write(format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n")).await;
    }
}

async fn while_answering<T>(endpoint: &Endpoint, status: &str, wait: impl Future<Output = T>) -> T {
    tokio::select! {
        never = answers(endpoint, status) => never,
        done = wait => done,
    }
}

#[tokio::test]
async fn what_an_endpoint_answers_is_what_is_seen() {
    let endpoint = Endpoint::listen("a").await;
    let check = json!({"kind": "http", "path": "/healthz?full=1", "host": "app.test"});
    let fleet = checked(config(), json!({}), check, &[&endpoint]).await;
    let id = fleet.id(&endpoint);
    seen(&fleet, id, "pending").await;
    while_answering(&endpoint, "204", seen(&fleet, id, "up")).await;
    let why = while_answering(&endpoint, "503", seen(&fleet, id, "down")).await;
    assert_eq!(why, "GET /healthz?full=1 was answered 503");
    while_answering(&endpoint, "302", seen(&fleet, id, "up")).await;
    // Nobody answers any more.
    assert_eq!(seen(&fleet, id, "down").await, "no answer in 200 ms");
    assert!(fleet.metric("tidelock_health_checks_total") > 6);
    assert!(fleet.metric("tidelock_health_checks_failed_total") > 2);
}

#[tokio::test]
async fn a_refused_connection_is_down_and_a_taken_one_is_up() {
    let endpoint = Endpoint::listen("a").await;
    let address = endpoint.address;
    let fleet = checked(config(), json!({"protocol": "h2c"}), json!({"kind": "tcp"}), &[&endpoint]).await;
    let id = fleet.id(&endpoint);
    seen(&fleet, id, "up").await;
    drop(endpoint);
    let why = seen(&fleet, id, "down").await;
    assert!(why.contains("refused"), "{why}");
    let back = tokio::net::TcpListener::bind(address).await.unwrap();
    seen(&fleet, id, "up").await;
    // What is not looked at any more is not told of.
    drop(back);
    seen(&fleet, id, "down").await;
    fleet.change(json!({"protocol": "h2c"})).await;
    seen(&fleet, id, "up").await;
}

/// A verdict, and whatever else does not concern its checks, leaves an endpoint's checks alone.
#[tokio::test]
async fn a_verdict_does_not_begin_the_checks_anew() {
    let endpoint = Endpoint::listen("a").await;
    let health = json!({"check": {"kind": "tcp"}, "interval_ms": 8_000, "healthy_threshold": 1});
    let fleet =
        Fleet::with_pool(config(), serde_json::from_value(json!({"health": health})).unwrap(), &[&endpoint]).await;
    observers(&fleet, &[1]).await;
    seen(&fleet, fleet.id(&endpoint), "up").await;
    judge(&fleet, &endpoint, Verdict::Down).await;
    assert!(fleet.balancer.reports().borrow().health.is_empty(), "it was seen up, and is not asked again for a while");
}

/// The checks of an HTTP/2 pool are HTTP/2, and gRPC has a protocol of its own for them.
#[tokio::test]
async fn checks_speak_what_requests_speak() {
    let endpoint = Endpoint::listen("a").await;
    let check = json!({"kind": "http", "path": "/up", "status": 200});
    let fleet = checked(config(), json!({"protocol": "h2c"}), check, &[&endpoint]).await;
    let id = fleet.id(&endpoint);
    let answer = |status: &'static str| {
        let endpoint = &endpoint;
        async move {
            loop {
                let mut peer = Peer::endpoint(endpoint.accept_patiently().await, &[]).await;
                let request = peer.expect_request().await;
                assert_eq!(field(&request.fields, ":path"), Some("/up"));
                peer.respond(request.stream, status, b"").await;
                // Closing over what it has not read would take the answer along.
                while !matches!(peer.next().await, Event::Closed) {}
            }
        }
    };
    tokio::select! {
        () = answer("200") => {}
        _ = seen(&fleet, id, "up") => {}
    }
    tokio::select! {
        () = answer("204") => {}
        why = seen(&fleet, id, "down") => assert_eq!(why, "GET /up was answered 204"),
    }
}

#[tokio::test]
async fn grpc_says_whether_it_serves() {
    let endpoint = Endpoint::listen("a").await;
    let check = json!({"kind": "grpc", "service": "shop"});
    let fleet = checked(config(), json!({"protocol": "h2c"}), check, &[&endpoint]).await;
    let id = fleet.id(&endpoint);
    let answer = |message: &'static [u8], status: &'static str| {
        let endpoint = &endpoint;
        async move {
            loop {
                let mut peer = Peer::endpoint(endpoint.accept_patiently().await, &[]).await;
                let request = peer.expect_request().await;
                assert_eq!(field(&request.fields, ":path"), Some("/grpc.health.v1.Health/Check"));
                assert_eq!(field(&request.fields, "content-type"), Some("application/grpc"));
                assert_eq!(request.body, b"\0\0\0\0\x06\x0a\x04shop");
                let at = request.stream;
                peer.headers(at, &[(":status", "200"), ("content-type", "application/grpc")], false).await;
                peer.data(at, message, false).await;
                peer.raw(&headers(at, &[("grpc-status", status)], true)).await;
                while !matches!(peer.next().await, Event::Closed) {}
            }
        }
    };
    tokio::select! {
        () = answer(b"\0\0\0\0\x02\x08\x01", "0") => {}
        _ = seen(&fleet, id, "up") => {}
    }
    for (message, status, why) in
        [(&b"\0\0\0\0\x02\x08\x02"[..], "0", "gRPC says that it does not serve"), (b"", "5", "gRPC status 5")]
    {
        tokio::select! {
            () = answer(message, status) => {}
            got = seen(&fleet, id, "down") => assert_eq!(got, why),
        }
        tokio::select! {
            () = answer(b"\0\0\0\0\x02\x08\x01", "0") => {}
            _ = seen(&fleet, id, "up") => {}
        }
    }
}

/// Checks follow the table: who looks, at what, and whether at all.
#[tokio::test]
async fn only_observers_look() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = checked(config(), json!({}), json!({"kind": "tcp"}), &[&endpoint]).await;
    let id = fleet.id(&endpoint);
    seen(&fleet, id, "up").await;
    observers(&fleet, &[2, 3, 4, 5]).await;
    let begun = fleet.metric("tidelock_health_checks_total");
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(fleet.metric("tidelock_health_checks_total") <= begun + 1, "one may have been under way");
    observers(&fleet, &[1]).await;
    let more = async {
        while fleet.metric("tidelock_health_checks_total") < begun + 4 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    crate::frames::soon("checks again", more).await;
    seen(&fleet, id, "up").await;
}

/// A verdict moves sessions and new requests; with too few left, all are used.
#[tokio::test]
async fn an_endpoint_that_is_down_gets_nothing() {
    let (a, b) = (Endpoint::listen("a").await, Endpoint::listen("b").await);
    let health = json!({"check": {"kind": "tcp"}, "interval_ms": 60_000});
    let fleet = Fleet::with_pool(config(), serde_json::from_value(json!({"health": health})).unwrap(), &[&a]).await;
    let answer = async |endpoint: &Endpoint| {
        let mut upstream = endpoint.h1().await;
        upstream.head().await;
        upstream.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok").await;
    };
    let mut client = fleet.h1().await;
    client.get("/").await;
    answer(&a).await;
    let (head, _) = client.response().await;
    let pin = format!("GET / HTTP/1.1\r\ncookie: {}\r\n", head.field("set-cookie").unwrap().split(';').next().unwrap());
    fleet.add(&b);
    judge(&fleet, &a, Verdict::Down).await;
    client.request(&pin, "").await;
    answer(&b).await;
    assert_eq!(client.response().await.0.field("tidelock-affinity"), Some("moved:unhealthy"));
    for _ in 0..8 {
        client.get("/").await;
        answer(&b).await;
        assert_eq!(client.response().await.0.field("tidelock-endpoint"), Some("b"));
    }
    // None is up: more probably the checks are wrong.
    judge(&fleet, &b, Verdict::Down).await;
    client.request(&pin, "").await;
    answer(&a).await;
    assert_eq!(client.response().await.0.field("tidelock-affinity"), Some("kept"));
}

/// A request that finds an endpoint gone does not wait for the next check to be due.
#[tokio::test]
async fn a_failed_connection_is_looked_at_soon() {
    let endpoint = Endpoint::listen("a").await;
    let health =
        json!({"check": {"kind": "tcp"}, "interval_ms": 1_000, "healthy_threshold": 1, "unhealthy_threshold": 1});
    let fleet = Fleet::with_pool(
        config(),
        serde_json::from_value(json!({"health": health, "hold": {"max_ms": 0}})).unwrap(),
        &[&endpoint],
    )
    .await;
    let id = fleet.id(&endpoint);
    observers(&fleet, &[1]).await;
    seen(&fleet, id, "up").await;
    drop(endpoint);
    let begun = std::time::Instant::now();
    let mut client = fleet.h1().await;
    client.get("/").await;
    assert_eq!(client.response().await.0.status(), "503");
    seen(&fleet, id, "down").await;
    assert!(begun.elapsed() < Duration::from_millis(700), "{:?}", begun.elapsed());
}

/// A node that leaves looks after nobody, and says all the same which table it reads: drains of others
/// wait for that.
#[tokio::test]
async fn a_node_that_leaves_goes_on_reporting() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = checked(config(), json!({}), json!({"kind": "tcp"}), &[&endpoint]).await;
    let mut client = fleet.h1().await;
    seen(&fleet, fleet.id(&endpoint), "up").await;
    client.write(b"GET / HTTP/1.1\r\nhost: app.test\r\n").await;
    fleet.balancer.leave();
    fleet.reported(|report| report.leaving).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    judge(&fleet, &endpoint, Verdict::Down).await;
}
