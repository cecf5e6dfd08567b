//! The dashboard in a real browser: it sees the fleet, drains an endpoint, and watches it end.

use std::process::Command;

use serde_json::json;

use crate::support::fleet::Fleet;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_dashboard_shows_the_fleet_and_drains_an_endpoint() {
    let fleet = Fleet::with_demo(3, json!({ "kind": "cookie" })).await;
    let url = format!("http://{}/", fleet.nodes[0].api.0);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/browser/dashboard.mjs");
    let run = tokio::task::spawn_blocking(move || {
        let mut node = Command::new("node");
        node.arg(script).env("TIDELOCK_ADMIN_URL", url).env("ENDPOINT", "app-2");
        node.output().expect("node runs")
    });
    let output = run.await.expect("no panic");
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
}
