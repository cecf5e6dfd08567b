//! H12, H18: what a client may cost is bounded, and whoever goes beyond it pays alone.

use std::time::Duration;

use tidelock_balancer::{Config, Limits};
use tidelock_core::report::Counts;

use crate::fleet::{Endpoint, Fleet, H1, H2c, config};
use crate::frames::{CANCEL, Event, Peer};
use crate::h8_websockets::bridged;
use crate::http1::Http1;

const ENHANCE_YOUR_CALM: u32 = 0xb;

/// The paced rapid reset: each request reaches the endpoint before it is broken off, so that the
/// HTTP/2 library sees nothing wrong with it.
#[tokio::test]
async fn a_client_that_breaks_off_too_much_loses_its_connection() {
    let endpoint = Endpoint::listen("a").await;
    let limits = Limits { max_resets_per_connection: 20, ..Limits::default() };
    let fleet = Fleet::serving(Config { limits, ..config() }, H2c, &[&endpoint]).await;
    let mut other = fleet.h2().await;
    let running = other.get("/").await;
    let mut upstream = endpoint.h2().await;
    let at = upstream.expect_request().await.stream;

    let mut client = fleet.h2().await;
    for n in 0..=20 {
        let stream = client.get("/").await;
        let theirs = upstream.expect_request().await.stream;
        if n % 2 == 0 {
            // Waiting for a part of the response makes it no cheaper.
            upstream.headers(theirs, &[(":status", "200")], false).await;
            upstream.data(theirs, b"part", false).await;
            assert_eq!(client.expect_headers().await.0, stream);
            assert_eq!(client.expect_data().await.0, stream);
        }
        client.reset(stream, CANCEL).await;
        assert_eq!(upstream.expect_reset(theirs).await, CANCEL);
    }
    calmed(&mut client).await;
    upstream.respond(at, "200", b"ok").await;
    assert_eq!(other.response(running).await.whole(), ("200", &b"ok"[..]), "nobody else notices");
    assert_eq!(fleet.metric("tidelock_downstream_connections_calmed_total{cause=\"resets\"}"), 1);
}

async fn calmed(client: &mut Peer) {
    loop {
        match client.next().await {
            Event::GoAway { code, .. } => break assert_eq!(code, ENHANCE_YOUR_CALM),
            Event::Closed => panic!("without a word"),
            _of_what_ran => {}
        }
    }
    assert_eq!(client.next().await, Event::Closed);
}

/// Each has cost an endpoint a connection.
#[tokio::test]
async fn websockets_that_are_reset_count_too() {
    let endpoint = Endpoint::listen("a").await;
    let limits = Limits { max_resets_per_connection: 2, ..Limits::default() };
    let fleet = Fleet::serving(Config { limits, ..config() }, H1, &[&endpoint]).await;
    let mut client = fleet.h2().await;
    for _ in 0..=2 {
        let (stream, mut upstream) = bridged(&mut client, &endpoint).await;
        client.reset(stream, CANCEL).await;
        assert!(upstream.rest().await.is_empty());
    }
    calmed(&mut client).await;
}

/// A client that opens no window, its request, and the endpoint that has it.
async fn windowless(fleet: &Fleet, endpoint: &Endpoint) -> (Peer, u32, Peer, u32) {
    let mut client = fleet.h2().await;
    // SETTINGS_INITIAL_WINDOW_SIZE 0.
    client.frame(4, 0, 0, &[0, 4, 0, 0, 0, 0]).await;
    client.ping().await;
    let stream = client.get("/").await;
    let mut upstream = endpoint.h2().await;
    let theirs = upstream.expect_request().await.stream;
    (client, stream, upstream, theirs)
}

/// The end of a response that its client gives no window for does not keep the connection.
#[tokio::test]
async fn a_client_without_a_window_is_not_kept_for_ever() {
    let endpoint = Endpoint::listen("a").await;
    let mut config = config();
    config.timeouts.downstream_idle = Duration::from_millis(200);
    config.timeouts.handshake = Duration::from_millis(200);
    let spec = serde_json::json!({ "protocol": "h2c", "timeouts": { "idle_ms": 200 } });
    let fleet = Fleet::with_pool(config, serde_json::from_value(spec).unwrap(), &[&endpoint]).await;
    let (mut client, stream, mut upstream, theirs) = windowless(&fleet, &endpoint).await;
    upstream.respond(theirs, "200", b"never read").await;
    assert_eq!(client.expect_headers().await.0, stream);
    loop {
        match client.next().await {
            Event::Closed => break,
            Event::GoAway { .. } | Event::Reset { .. } => {}
            other => panic!("{other:?}"),
        }
    }
}

/// What an endpoint has answered in full keeps no place there, whatever its client reads.
#[tokio::test]
async fn a_client_without_a_window_does_not_keep_its_endpoint() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H2c, &[&endpoint]).await;
    let (mut client, stream, mut upstream, theirs) = windowless(&fleet, &endpoint).await;
    fleet.counted(&endpoint, Counts { requests: 1, ..Counts::default() }).await;
    upstream.respond(theirs, "200", b"read late").await;
    assert_eq!(client.expect_headers().await.0, stream);
    fleet.counted(&endpoint, Counts::default()).await;
    client.window_update(stream, 4).await;
    assert_eq!(client.expect_data().await, (stream, b"read".to_vec(), false));
    client.window_update(stream, 100).await;
    assert_eq!(client.expect_data().await, (stream, b" late".to_vec(), true));
}

/// The client's own fault, not the endpoint's.
#[tokio::test]
async fn a_client_that_stops_in_its_upload_is_told_so() {
    for protocol in [H1, H2c] {
        let endpoint = Endpoint::listen("a").await;
        let spec = serde_json::json!({ "protocol": tidelock_core::spec::Protocol::from(protocol), "timeouts": { "idle_ms": 150 } });
        let fleet = Fleet::with_pool(config(), serde_json::from_value(spec).unwrap(), &[&endpoint]).await;
        let mut client = fleet.h1().await;
        client.request("POST / HTTP/1.1\r\ncontent-length: 10\r\n", "hello").await;
        let (head, _) = client.response().await;
        assert_eq!((head.status(), head.field("tidelock-reason")), ("408", Some("slow-request")), "{protocol:?}");
    }
}

/// Bytes keep coming, so no idle limit sees it. Takes the 20 s over which the rate is measured.
#[tokio::test]
async fn an_upload_that_crawls_is_told_so() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H2c, &[&endpoint]).await;
    let mut client = fleet.h1().await;
    client.request("POST / HTTP/1.1\r\ncontent-length: 1000\r\n", "hello").await;
    let begun = std::time::Instant::now();
    let refused = loop {
        client.write("x").await;
        let more = tokio::time::timeout(Duration::from_millis(500), client.more()).await;
        if let Ok(more) = more {
            assert!(more, "closed without a word");
            break client.response().await.0;
        }
        assert!(begun.elapsed() < Duration::from_secs(45), "it may crawl for ever");
    };
    assert_eq!(refused.status(), "408");
    assert!(begun.elapsed() >= Duration::from_secs(19), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn one_connection_too_many_of_a_client_is_closed_alone() {
    let endpoint = Endpoint::listen("a").await;
    let limits = Limits { max_connections_per_client: 2, ..Limits::default() };
    let fleet = Fleet::serving(Config { limits, ..config() }, H1, &[&endpoint]).await;
    let mut kept = Vec::new();
    for _ in 0..2 {
        let mut client = fleet.h1().await;
        assert!(is_served(&mut client, &endpoint).await);
        kept.push(client);
    }
    let mut third = fleet.h1().await;
    assert!(!is_served(&mut third, &endpoint).await);
    drop(kept.pop());
    // The place is free as soon as the balancer has seen the end.
    let begun = std::time::Instant::now();
    while !is_served(&mut fleet.h1().await, &endpoint).await {
        assert!(begun.elapsed() < Duration::from_secs(5));
    }
    assert!(is_served(&mut kept[0], &endpoint).await, "the others go on");
}

/// Many connections that each stay below their own limit are no way around it, and neither is the other protocol.
#[tokio::test]
async fn a_client_that_breaks_off_too_much_on_many_connections_stays_outside() {
    let endpoint = Endpoint::listen("a").await;
    let limits = Limits { max_resets_per_client: 5, ..Limits::default() };
    let fleet = Fleet::serving(Config { limits, ..config() }, H2c, &[&endpoint]).await;
    let mut upstream: Option<Peer> = None;
    let mut kept = fleet.h2().await;
    let mut stays = fleet.h1().await;
    for nth in 0..5 {
        let asked = if nth % 2 == 0 {
            let mut client = fleet.h2().await;
            let stream = client.get("/").await;
            (Some((client, stream)), None)
        } else {
            let mut client = fleet.h1().await;
            client.get("/").await;
            (None, Some(client))
        };
        let upstream = match &mut upstream {
            Some(upstream) => upstream,
            none => none.insert(endpoint.h2().await),
        };
        let theirs = upstream.expect_request().await.stream;
        match asked {
            (Some((mut client, stream)), _) => client.reset(stream, CANCEL).await,
            (_, client) => drop(client),
        }
        assert_eq!(upstream.expect_reset(theirs).await, CANCEL);
    }
    let upstream = upstream.as_mut().unwrap();
    kept.get("/").await;
    let theirs = upstream.expect_request().await.stream;
    kept.reset(1, CANCEL).await;
    assert_eq!(upstream.expect_reset(theirs).await, CANCEL);
    calmed(&mut kept).await;
    assert_eq!(fleet.h1().await.rest().await, b"", "a new connection is closed");
    assert!(fleet.metric("tidelock_downstream_connections_refused_of_clients_total") >= 1);
    // What has broken off nothing goes on.
    stays.get("/").await;
    let theirs = upstream.expect_request().await.stream;
    upstream.respond(theirs, "200", b"ok").await;
    assert_eq!(stays.response().await.0.status(), "200");
}

#[tokio::test]
async fn a_client_opens_connections_no_faster_than_allowed() {
    let endpoint = Endpoint::listen("a").await;
    let limits = Limits { max_new_connections_per_client: 3, ..Limits::default() };
    let fleet = Fleet::serving(Config { limits, ..config() }, H1, &[&endpoint]).await;
    for _ in 0..3 {
        assert!(is_served(&mut fleet.h1().await, &endpoint).await);
    }
    assert!(!is_served(&mut fleet.h1().await, &endpoint).await);
    // A proxy that is trusted brings many clients.
    let limits = Limits { max_new_connections_per_client: 3, ..Limits::default() };
    let trusted = vec!["127.0.0.0/8".parse().unwrap()];
    let fleet = Fleet::serving(Config { limits, trusted, ..config() }, H1, &[&endpoint]).await;
    for _ in 0..6 {
        assert!(is_served(&mut fleet.h1().await, &endpoint).await);
    }
}

async fn is_served(client: &mut Http1, endpoint: &Endpoint) -> bool {
    client.get("/").await;
    let answer = async {
        let mut upstream = endpoint.h1().await;
        upstream.head().await;
        upstream.write("HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
    };
    tokio::select! {
        head = client.try_head() => head.is_some(),
        () = answer => client.try_head().await.is_some(),
    }
}

#[tokio::test]
async fn a_head_that_crawls_is_told_so() {
    let endpoint = Endpoint::listen("a").await;
    let mut config = config();
    config.timeouts.request_head = Duration::from_millis(100);
    let fleet = Fleet::serving(config, H1, &[&endpoint]).await;
    let mut client = fleet.h1().await;
    client.write("GET / HTTP/1.1\r\nhost: app").await;
    let (head, _) = client.response().await;
    assert_eq!(
        (head.status(), head.field("tidelock-reason"), head.field("connection")),
        ("408", Some("slow-request"), Some("close"))
    );
    assert!(client.rest().await.is_empty());
}
