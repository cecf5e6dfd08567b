//! An endpoint is drained while a thousand mixed streams run: nothing is lost, nothing is cut.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::eventually;
use crate::support::fleet::{Fleet, READY};
use crate::support::http::{H2, get};
use crate::support::traffic::{Account, Steady, mixed};

const STREAMS: usize = 1_000;

/// Streams on all three nodes, drained in their middle; `kill_leader` takes the leader away
/// meanwhile (its own clients are not counted: their balancer died).
async fn drain_under_load(kill_leader: bool) {
    let mut fleet = Fleet::with_demo(3, json!({ "kind": "cookie" })).await;
    let leader = fleet.leader().await;
    let entries: Vec<usize> = (0..3).filter(|i| !(kill_leader && *i == leader)).collect();
    let addresses: Vec<_> = entries.iter().map(|i| fleet.nodes[*i].http).collect();
    let account = Arc::new(Account::default());
    let mut streams = JoinSet::new();
    let mut connection = H2::connect(addresses[0]).await.expect("a connection");
    for i in 0..STREAMS {
        let address = addresses[i / 50 % addresses.len()];
        if i % 50 == 0 {
            connection = H2::connect(address).await.expect("a connection");
        }
        // A session of its own, spread over the endpoints; half of the streams come pinned.
        let cookie = match i % 2 {
            0 => connection.get("/counter", "").await.expect("a session begins").cookie("tidelock").expect("a pin"),
            _ => String::new(),
        };
        let (h2, account) = (connection.clone(), account.clone());
        streams.spawn(async move {
            let result = mixed(i, address, h2, cookie).await;
            account.count(&format!("stream {i}"), result).await;
        });
    }
    let steady = Steady::start(&addresses, 4);
    let api = fleet.nodes[entries[0]].api;
    let busy = async || {
        let pool = api.get("/v1/pools/demo").await;
        let endpoint = pool["endpoints"].as_array()?.iter().find(|e| e["name"] == "app-1")?.clone();
        Some((endpoint["requests"].as_u64()?, endpoint["websockets"].as_u64()?))
    };
    eventually("streams and WebSockets on app-1", READY, async || {
        busy().await.filter(|(requests, websockets)| *requests > 5 && *websockets > 0)
    })
    .await;

    let drain = api.drain("demo", "app-1", json!({ "mode": "streams", "reason": "a test", "pace": 0 })).await;
    let at_drain = busy().await.expect("counts");
    if kill_leader {
        fleet.nodes[leader].kill();
        // A node that is away is named, never counted as zero: it must come back for a "safe".
        fleet.nodes[leader].start();
    }
    let safe = eventually("the drain is safe", Duration::from_secs(60), async || {
        let answer =
            api.send(http::Method::GET, &format!("/v1/drains/{drain}?wait=safe&timeout_seconds=30"), None).await;
        let drain = answer.ok()?.json();
        (drain["safe"] == true).then_some(drain)
    })
    .await;
    assert_eq!(safe["requests"], 0, "{safe}");
    assert!(at_drain.0 > 0, "there was something to drain");

    // Safe means safe: the endpoint may be stopped now.
    fleet.endpoint("app-1").process.signal("TERM");
    while let Some(result) = streams.join_next().await {
        result.expect("no client panicked");
    }
    steady.stop().await.assert_clean().await;
    account.assert_clean().await;
    assert_eq!(account.done.load(std::sync::atomic::Ordering::Relaxed), STREAMS as u64);
    eventually("the endpoint is drained", READY, async || {
        let pool = api.get("/v1/pools/demo").await;
        let drained = pool["endpoints"].as_array()?.iter().any(|e| e["name"] == "app-1" && e["phase"] == "drained");
        drained.then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_under_load_loses_nothing_and_cuts_nothing() {
    drain_under_load(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killing_the_leader_during_a_drain_changes_nothing_of_that() {
    drain_under_load(true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_the_deadline_what_is_left_is_cut_and_a_cancelled_drain_cuts_nothing() {
    let fleet = Fleet::with_demo(1, json!({ "kind": "cookie" })).await;
    let api = fleet.nodes[0].api;
    let h2 = H2::connect(fleet.nodes[0].http).await.expect("a connection");
    let start = h2.get("/counter", "").await.expect("an answer");
    let home = start.header("tidelock-endpoint").expect("exposed").to_owned();
    let cookie = start.cookie("tidelock").expect("a pin");

    api.drain("demo", &home, json!({ "mode": "sessions", "deadline_seconds": 1 })).await;
    let path = format!("/v1/pools/demo/endpoints/{home}/drain");
    api.write(http::Method::DELETE, &path, None).await;
    let kept = h2.exchange(get("/stream?chunks=3&bytes=10&interval_ms=700", &cookie), 1).await.expect("nothing is cut");
    assert_eq!((kept.body.len(), kept.header("tidelock-affinity")), (30, Some("kept")));

    let drain = api.drain("demo", &home, json!({ "mode": "sessions", "deadline_seconds": 1 })).await;
    let cut = h2.exchange(get("/stream?chunks=100&bytes=10&interval_ms=200", &cookie), 1).await;
    assert!(cut.is_err(), "a stream beyond the deadline is cut, and does not look whole: {cut:?}");
    let ended = eventually("the drain has ended", READY, async || {
        let all = api.get("/v1/drains").await;
        let is_over = |one: &Value| one["id"] == json!(drain) && one["state"] != "draining";
        all["drains"].as_array()?.iter().any(is_over).then(|| all["epoch"].as_u64())?
    })
    .await;
    // Requests hear of it a moment later: until then the endpoint could not be reached, and that is the reason told.
    fleet.until_epoch(ended).await;
    let moved = h2.get("/counter", &cookie).await.expect("an answer");
    assert_eq!(moved.header("tidelock-affinity"), Some("moved:draining"));
}
