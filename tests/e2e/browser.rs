//! The dashboard in a real browser: it sees the fleet, drains an endpoint, and watches it end.

use std::process::Command;

use serde_json::json;

use crate::support::eventually;
use crate::support::fleet::{Fleet, READY};
use crate::support::http::H2;
use crate::support::traffic::download;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_dashboard_shows_the_fleet_and_drains_an_endpoint() {
    let fleet = Fleet::with_demo(3, json!({ "kind": "cookie" })).await;
    run(&fleet, "dashboard.mjs").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_dashboard_starts_a_switchover_and_rolls_it_back() {
    let fleet = Fleet::with_demo(1, json!({ "kind": "cookie" })).await;
    for (endpoint, revision) in fleet.endpoints.iter().zip(["v1", "v1", "v2"]) {
        let path = format!("/v1/pools/demo/endpoints/{}", endpoint.name);
        let body = json!({ "address": endpoint.address.to_string(), "revision": revision });
        fleet.nodes[0].api.put(&path, body).await;
    }
    // Something that lasts on the old side, or it would be over before it is rolled back.
    let mut streams = Vec::new();
    for _ in 0..12 {
        let h2 = H2::connect(fleet.nodes[0].http).await.expect("a connection");
        streams.push(tokio::spawn(async move { download(&h2, "", 600, 1_000, 100).await }));
    }
    eventually("the streams run", READY, async || {
        let pool = fleet.nodes[0].api.get("/v1/pools/demo").await;
        let running = pool["endpoints"].as_array()?.iter().filter_map(|endpoint| endpoint["requests"].as_u64());
        (running.sum::<u64>() == 12).then_some(())
    })
    .await;
    run(&fleet, "switchover.mjs").await;
    streams.iter().for_each(tokio::task::JoinHandle::abort);
}

/// Runs a script of tests/browser against the first node.
pub(crate) async fn run(fleet: &Fleet, script: &str) {
    let url = format!("http://{}/", fleet.nodes[0].api.0);
    let clients = format!("ws://{}", fleet.nodes[0].http);
    let script = format!("{}/tests/browser/{script}", env!("CARGO_MANIFEST_DIR"));
    let run = tokio::task::spawn_blocking(move || {
        let mut node = Command::new("node");
        node.arg(script).env("TIDELOCK_ADMIN_URL", url).env("TIDELOCK_URL", clients).env("ENDPOINT", "app-2");
        node.output().expect("node runs")
    });
    let output = run.await.expect("no panic");
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    println!("{text}");
}
