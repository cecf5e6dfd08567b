//! An endpoint that hangs: the fleet agrees that it is down, and that it is up again.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::fleet::{Fleet, READY};
use crate::support::http::H2;
use crate::support::traffic::Steady;

/// What the fleet says of an endpoint.
async fn health(fleet: &Fleet, endpoint: &str) -> Value {
    let pool = fleet.nodes[0].api.get("/v1/pools/demo").await;
    let endpoints = pool["endpoints"].as_array().expect("a list");
    endpoints.iter().find(|known| known["name"] == endpoint).expect("an endpoint")["health"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_hangs_is_judged_by_the_fleet() {
    let mut fleet = Fleet::with_demo(3, json!({ "kind": "cookie" })).await;
    let check = json!({"kind": "http", "path": "/counter"});
    let checks = json!({"check": check, "interval_ms": 200, "timeout_ms": 300, "unhealthy_threshold": 2});
    let spec = json!({"protocol": "h2c", "health": checks, "timeouts": {"first_byte_ms": 10_000}});
    let last = fleet.nodes[1].api.put("/v1/pools/demo", spec).await;
    fleet.until_epoch(last["epoch"].as_u64().expect("an epoch")).await;
    eventually("three observers see app-1 up", READY, async || {
        let health = health(&fleet, "app-1").await;
        let observers = health["observers"].as_array()?.clone();
        (observers.len() == 3 && observers.iter().all(|observer| observer["sees"] == "up")).then_some(())
    })
    .await;

    // A session that lives on app-1.
    let h2 = H2::connect(fleet.nodes[2].http).await.expect("a connection");
    let pin = eventually("a session on app-1", READY, async || {
        let answer = h2.get("/counter", "").await.ok()?;
        (answer.header("tidelock-endpoint") == Some("app-1")).then(|| answer.cookie("tidelock").expect("a pin"))
    })
    .await;
    fleet.endpoint("app-1").process.freeze();
    eventually("app-1 is down", READY, async || {
        let health = health(&fleet, "app-1").await;
        (health["verdict"] == "down" && health["detail"] == "no answer in 300 ms").then_some(())
    })
    .await;
    // From here on nothing goes there, on any node.
    let epoch = fleet.nodes[0].api.get("/v1/status").await["epoch"].as_u64().expect("an epoch");
    fleet.until_epoch(epoch).await;
    let moved = h2.get("/counter", &pin).await.expect("an answer");
    assert_eq!(moved.header("tidelock-affinity"), Some("moved:unhealthy"));
    let addresses: Vec<_> = fleet.nodes.iter().map(|node| node.http).collect();
    let steady = Steady::start(&addresses, 8);
    tokio::time::sleep(Duration::from_millis(500)).await;
    steady.stop().await.assert_clean().await;

    fleet.endpoint("app-1").process.signal("CONT");
    eventually("app-1 is up again", READY, async || (health(&fleet, "app-1").await["verdict"] == "up").then_some(()))
        .await;
    eventually("it takes sessions again", READY, async || {
        let answer = h2.get("/counter", "").await.ok()?;
        (answer.header("tidelock-endpoint") == Some("app-1")).then_some(())
    })
    .await;
    let metrics = fleet.nodes[0].api.send(Method::GET, "/metrics", None).await.expect("the metrics");
    let metrics = String::from_utf8_lossy(&metrics.body);
    assert!(metrics.contains("tidelock_endpoint_up{pool=\"demo\",endpoint=\"app-1\"} 1\n"), "{metrics}");
}
