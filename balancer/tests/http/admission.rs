//! WebSockets begin at an endpoint at the rate that its pool allows.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::fleet::{Endpoint, Fleet, config};

const UPGRADE: &str = "GET /socket HTTP/1.1\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
    sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n";

/// Clients of an endpoint that has broken come all at once; whoever takes them on does so at its rate.
#[tokio::test]
async fn websockets_begin_at_the_rate_of_the_pool() {
    const SOCKETS: usize = 12;
    let endpoint = Endpoint::listen("a").await;
    let spec = json!({"limits": {"max_websockets_per_second": 20}, "hold": {"max_ms": 1_000}});
    let fleet = Fleet::with_pool(config(), serde_json::from_value(spec).unwrap(), &[&endpoint]).await;
    let start = Instant::now();
    let mut clients = Vec::new();
    for _ in 0..SOCKETS {
        let mut client = fleet.h1().await;
        client.request(UPGRADE, "").await;
        clients.push(client);
    }
    // No request but a WebSocket's waits.
    let mut other = fleet.h1().await;
    other.get("/").await;
    let (mut began, mut upstreams, mut has_other) = (Vec::new(), Vec::new(), false);
    while began.len() < SOCKETS {
        let mut upstream = endpoint.h1().await;
        if upstream.head().await.field("upgrade").is_some() {
            began.push(start.elapsed());
        } else {
            has_other = true;
            assert!(began.len() < 3);
        }
        upstreams.push(upstream);
    }
    assert!(has_other);
    let interval = Duration::from_millis(50);
    for (number, at) in began.iter().enumerate() {
        // The first need not wait; the endpoint itself is as old as that.
        assert!(*at + Duration::from_millis(5) >= interval * number as u32, "{number}: {began:?}");
    }
    assert!(began[SOCKETS - 1] < interval * SOCKETS as u32 * 2, "{began:?}");
    assert!(fleet.metric("tidelock_websockets_held_back_total") >= SOCKETS as u64 - 2);

    // Whose turn would come after the hold is told, and its place is not lost for others.
    fleet.change(json!({"limits": {"max_websockets_per_second": 1}, "hold": {"max_ms": 0}})).await;
    let ask = async || {
        let mut client = fleet.h1().await;
        client.request(UPGRADE, "").await;
        let (head, _) = client.response().await;
        (
            head.status().to_owned(),
            head.field("tidelock-reason").map(str::to_owned),
            head.field("retry-after").is_some(),
        )
    };
    assert_eq!(ask().await, ("503".to_owned(), Some("endpoint-full".to_owned()), true));
    // Without a session it goes where there is room.
    let second = Endpoint::listen("b").await;
    fleet.add(&second);
    fleet.adopted().await;
    let (answer, ()) = tokio::join!(ask(), async {
        let mut upstream = second.upgrade().await;
        upstream.head().await;
        upstream.write("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n").await;
    });
    assert_eq!(answer.0, "404");
}

/// Those that wait hold no place at the endpoint.
#[tokio::test]
async fn websockets_that_wait_for_their_turn_are_in_nobodys_way() {
    let a = Endpoint::listen("a").await;
    let limits = json!({"max_requests": 4, "max_pending": 0, "max_websockets_per_second": 1});
    let spec = json!({"limits": limits, "hold": {"max_ms": 5_000}, "timeouts": {"connect_ms": 300}});
    let fleet = Fleet::with_pool(config(), serde_json::from_value(spec).unwrap(), &[&a]).await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        let mut client = fleet.h1().await;
        client.request(UPGRADE, "").await;
        clients.push(client);
    }
    let mut first = a.h1().await;
    assert!(first.head().await.field("upgrade").is_some());
    let mut other = fleet.h1().await;
    other.get("/").await;
    let mut upstream = a.h1().await;
    assert_eq!(upstream.head().await.start, "GET / HTTP/1.1", "one of four places is taken");
}
