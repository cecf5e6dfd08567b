//! Nodes die, come back and lose their majority; what was acknowledged stays, and traffic goes on.

use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::json;

use crate::support::eventually;
use crate::support::fleet::{Fleet, READY};
use crate::support::traffic::Steady;

fn cookie_affinity() -> serde_json::Value {
    json!({ "kind": "cookie" })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_know_each_other_by_the_certificates_that_the_environment_names() {
    let mut fleet = Fleet::configured(2, None);
    fleet.certify_by_environment();
    fleet.start_all().await;
    let written = fleet.nodes[1].api.put("/v1/pools/app", json!({})).await;
    fleet.until_epoch(written["epoch"].as_u64().expect("an epoch")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_through_any_node_is_seen_on_all() {
    let fleet = Fleet::start(3).await;
    for (i, node) in fleet.nodes.iter().enumerate() {
        let written = node.api.put(&format!("/v1/pools/pool-{i}"), json!({})).await;
        let epoch = written["epoch"].as_u64().expect("an epoch");
        fleet.until_epoch(epoch).await;
        for reader in &fleet.nodes {
            reader.api.get(&format!("/v1/pools/pool-{i}")).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killing_the_leader_loses_no_request_and_no_acknowledged_write() {
    let mut fleet = Fleet::with_demo(3, cookie_affinity()).await;
    let leader = fleet.leader().await;
    let survivors: Vec<_> = (0..3).filter(|i| *i != leader).collect();
    let addresses: Vec<_> = survivors.iter().map(|i| fleet.nodes[*i].http).collect();
    let steady = Steady::start(&addresses, 8);
    let before = fleet.nodes[leader].api.put("/v1/pools/before", json!({})).await;
    assert!(before["epoch"].as_u64().is_some());

    fleet.nodes[leader].kill();
    // A write right into the election: it may be refused or unknown, but not half done.
    let api = fleet.nodes[survivors[0]].api;
    eventually("a write after the election", READY, async || {
        let answer = api.send(Method::PUT, "/v1/pools/after", Some(json!({}))).await.ok()?;
        assert!([200, 503].contains(&answer.status.as_u16()), "{answer:?}");
        (answer.status == StatusCode::OK).then_some(())
    })
    .await;
    let account = steady.stop().await;
    account.assert_clean().await;
    assert!(account.done.load(std::sync::atomic::Ordering::Relaxed) > 20, "there was traffic");

    fleet.nodes[leader].start();
    fleet.nodes[leader].until_ready().await;
    let back = fleet.nodes[leader].api;
    eventually("the node that was killed catches up", READY, async || {
        let answer = back.send(Method::GET, "/v1/pools/after", None).await.ok()?;
        (answer.status == StatusCode::OK).then_some(())
    })
    .await;
    back.get("/v1/pools/before").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_traffic_goes_on_and_writes_are_refused() {
    let mut fleet = Fleet::with_demo(3, cookie_affinity()).await;
    let steady = Steady::start(&[fleet.nodes[2].http], 4);
    fleet.nodes[0].kill();
    fleet.nodes[1].kill();
    let api = fleet.nodes[2].api;
    eventually("the last node knows that nobody leads", READY, async || {
        (api.get("/v1/status").await["quorum"] == false).then_some(())
    })
    .await;
    let answer = api.send(Method::PUT, "/v1/pools/refused", Some(json!({}))).await.expect("an answer");
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{:?}", answer.body);
    steady.stop().await.assert_clean().await;

    // It also starts again without a majority, from its disk.
    fleet.nodes[2].kill();
    fleet.nodes[2].start();
    let address = fleet.nodes[2].http;
    crate::support::fleet::until_listening("the restarted node", address).await;
    let steady = Steady::start(&[address], 2);
    tokio::time::sleep(Duration::from_millis(300)).await;
    let account = steady.stop().await;
    account.assert_clean().await;

    fleet.nodes[0].start();
    fleet.until_led().await;
    api.put("/v1/pools/accepted", json!({})).await;
    let refused = api.send(Method::GET, "/v1/pools/refused", None).await.expect("an answer");
    assert!([200, 404].contains(&refused.status.as_u16()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_nodes_killed_at_once_come_back_with_every_acknowledged_write() {
    let mut fleet = Fleet::with_demo(3, cookie_affinity()).await;
    let api = fleet.nodes[0].api;
    let mut acknowledged = Vec::new();
    let end = std::time::Instant::now() + Duration::from_millis(700);
    let mut i = 0;
    while std::time::Instant::now() < end {
        let name = format!("w{i}");
        api.put(&format!("/v1/pools/{name}"), json!({})).await;
        acknowledged.push(name);
        i += 1;
    }
    for node in &mut fleet.nodes {
        node.kill();
    }
    for node in &mut fleet.nodes {
        node.start();
    }
    fleet.until_led().await;
    let pools = fleet.nodes[1].api.get("/v1/pools?consistency=linearizable").await;
    let names: Vec<&str> =
        pools["pools"].as_array().expect("pools").iter().filter_map(|p| p["name"].as_str()).collect();
    for name in &acknowledged {
        assert!(names.contains(&name.as_str()), "{name} was acknowledged and is gone");
    }
    let addresses: Vec<_> = fleet.nodes.iter().map(|node| node.http).collect();
    let steady = Steady::start(&addresses, 3);
    tokio::time::sleep(Duration::from_millis(200)).await;
    steady.stop().await.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_told_to_go_finishes_what_runs() {
    let mut fleet = Fleet::with_demo(3, cookie_affinity()).await;
    let leaving = fleet.leader().await;
    let h2 = crate::support::http::H2::connect(fleet.nodes[leaving].http).await.expect("a connection");
    let download = tokio::spawn(async move { crate::support::traffic::download(&h2, "", 20, 1_000, 100).await });
    let pool = fleet.nodes[(leaving + 1) % 3].api;
    eventually("the download runs", READY, async || {
        let pool = pool.get("/v1/pools/demo").await;
        let running: u64 = pool["endpoints"].as_array()?.iter().filter_map(|e| e["requests"].as_u64()).sum();
        (running > 0).then_some(())
    })
    .await;
    let process = fleet.nodes[leaving].process.as_mut().expect("it runs");
    process.signal("TERM");
    download.await.expect("no panic").expect("the download is whole");
    let status = fleet.nodes[leaving].process.as_mut().expect("it runs").wait(READY);
    assert!(status.success(), "{status}");
    let log = fleet.nodes[leaving].process.as_ref().expect("its log").log();
    let event = log.lines().find(|line| line.contains(r#""path":"/stream""#)).expect("the last event is not lost");
    assert!(event.contains(r#""end":"whole""#), "{event}");
    fleet.nodes[leaving].kill();
    fleet.leader().await;
}
