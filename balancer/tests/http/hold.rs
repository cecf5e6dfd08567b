//! Holding: without an endpoint requests wait a little, in their order, and are then served or told.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::drains::websocket;
use crate::fleet::{Endpoint, Fleet, H1, H2c, Speaks, config};
use crate::frames::Ended;

const HELD: &str = "tidelock_requests_held_total";
const EXPIRED: &str = "tidelock_holds_expired_total";
const REFUSED: &str = "tidelock_holds_refused_total";

async fn until_held(fleet: &Fleet, requests: u64) {
    while fleet.metric(HELD) < requests {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn what_waits_is_served_in_its_order_when_an_endpoint_comes() {
    let a = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H2c, &[]).await;
    let mut client = fleet.h2().await;
    let first = [client.get("/0").await, client.get("/1").await];
    let upload = client.request("POST", "/2", &[("content-length", "4")], false).await;
    client.data(upload, b"body", true).await;
    until_held(&fleet, 3).await;
    fleet.add(&a);
    let mut upstream = a.h2().await;
    for (i, stream) in first.into_iter().chain([upload]).enumerate() {
        let request = upstream.expect_request().await;
        assert_eq!(crate::hpack::field(&request.fields, ":path"), Some(format!("/{i}").as_str()));
        assert_eq!(request.body, if i == 2 { &b"body"[..] } else { b"" });
        upstream.respond(request.stream, "200", b"").await;
        client.response(stream).await.whole();
    }
    assert_eq!((fleet.metric(HELD), fleet.metric(EXPIRED)), (3, 0));
}

#[tokio::test]
async fn a_websocket_waits_too() {
    let a = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H1, &[]).await;
    let add = async {
        until_held(&fleet, 1).await;
        fleet.add(&a);
    };
    tokio::join!(websocket(&fleet, &a), add);
}

#[tokio::test]
async fn nothing_waits_longer_than_the_pool_allows() {
    let fleet = Fleet::serving(config(), H2c, &[]).await;
    fleet.change(json!({ "protocol": "h2c", "hold": { "max_ms": 300, "max_requests": 1 } })).await;
    let mut client = fleet.h2().await;
    let start = Instant::now();
    let stream = client.get("/").await;
    until_held(&fleet, 1).await;
    // One more than may wait is told at once.
    let second = client.get("/").await;
    let refused = client.response(second).await;
    assert_eq!((refused.status(), refused.field("tidelock-reason")), ("503", Some("no-endpoint")));
    assert!(start.elapsed() < Duration::from_millis(250), "{:?}", start.elapsed());
    let told = client.response(stream).await;
    assert_eq!((told.status(), told.field("retry-after")), ("503", Some("1")));
    let waited = start.elapsed();
    assert!((300..900).contains(&waited.as_millis()), "{waited:?}");
    assert_eq!((fleet.metric(EXPIRED), fleet.metric(REFUSED)), (1, 1));
    // Its place is free again.
    let stream = client.get("/").await;
    until_held(&fleet, 2).await;
    client.reset(stream, 8).await;
    client.ping().await;
    client.get("/").await;
    until_held(&fleet, 3).await;
    fleet.change(json!({ "protocol": "h2c", "hold": { "max_ms": 0 } })).await;
    let stream = client.get("/").await;
    assert_eq!(client.response(stream).await.status(), "503", "0 holds nothing");
}

/// An endpoint that restarts in its place: nobody says a word, it only refuses for a while. Several times:
/// one may be lucky.
#[tokio::test]
async fn an_endpoint_that_refuses_connections_is_waited_for() {
    let restarts = [H2c, H1, H2c, H1, H2c, H1].map(|protocol| Box::pin(restart_in_place(protocol)));
    futures_util::future::join_all(restarts).await;
}

async fn restart_in_place(protocol: Speaks) {
    let gone = Endpoint::listen("a").await;
    let address = gone.address;
    let fleet = Fleet::serving(config(), protocol, &[&gone]).await;
    drop(gone);
    let mut client = fleet.h2().await;
    // It has been refused for long enough to be left alone for a while.
    for _ in 0..5 {
        let stream = client.get("/").await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        client.reset(stream, 8).await;
    }
    let stream = client.request("POST", "/", &[("content-length", "4")], false).await;
    client.data(stream, b"body", true).await;
    until_held(&fleet, 6).await;
    tokio::time::sleep(Duration::from_millis(1_000)).await;
    let back = Endpoint::bind("a", address).await;
    let start = Instant::now();
    match protocol {
        H2c => {
            let mut upstream = back.h2().await;
            let request = upstream.expect_request().await;
            assert_eq!(request.body, b"body");
            upstream.respond(request.stream, "200", b"").await;
        }
        H1 => {
            let mut upstream = back.h1().await;
            upstream.head().await;
            assert_eq!(upstream.exact(4).await.unwrap(), b"body");
            upstream.write("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        }
    }
    assert_eq!(client.response(stream).await.ended(), Ended::Whole);
    assert!(start.elapsed() < Duration::from_millis(450), "it was found after {:?}", start.elapsed());
}

/// Waiting is for what nobody has worked on: a request that an endpoint broke off is not sent again and
/// again until the hold is over.
#[tokio::test]
async fn what_an_endpoint_may_have_worked_on_is_not_held() {
    let (a, gone) = (Endpoint::listen("a").await, Endpoint::listen("b").await);
    let fleet = Fleet::serving(config(), H1, &[&a, &gone]).await;
    drop(gone);
    let mut client = fleet.h2().await;
    let sent = std::cell::Cell::new(0);
    let break_off = async {
        loop {
            let mut upstream = crate::http1::Http1::over(a.accept_patiently().await);
            if upstream.try_head().await.is_some() {
                sent.set(sent.get() + 1);
            }
        }
    };
    let ask = async {
        for request in 1..=6 {
            let stream = client.get("/").await;
            let status = client.response(stream).await.status().to_owned();
            assert!(["502", "503"].contains(&status.as_str()), "{status}");
            assert!(sent.get() <= request * tidelock_core::retry::MAX_ATTEMPTS, "{} for {request}", sent.get());
        }
    };
    tokio::select! {
        () = ask => {}
        () = break_off => {}
    }
    assert!(sent.get() >= 6);
}
