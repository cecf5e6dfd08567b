//! A fleet of the release before is upgraded node by node while it serves: two builds share one log.

use std::path::PathBuf;

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::fleet::{Fleet, READY};
use crate::support::http::H2;
use crate::support::traffic::Steady;

/// What `tests/previous.sh` has built. None: the history was not there to build it from.
fn previous() -> Option<PathBuf> {
    let binary = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).parent()?.join("previous/tidelock");
    if binary.exists() {
        return Some(binary);
    }
    println!("not run: {} is not there (make previous)", binary.display());
    None
}

async fn try_put(fleet: &Fleet, node: usize, path: &str, body: Value) -> (StatusCode, Value) {
    let answer = fleet.nodes[node].api.send(Method::PUT, path, Some(body)).await.expect("an answer");
    (answer.status, answer.json())
}

/// The same pools and routes everywhere.
async fn agree(fleet: &Fleet) {
    eventually("all nodes have the same configuration", READY, async || {
        let mut seen = Vec::new();
        for node in &fleet.nodes {
            let status = node.api.get("/v1/status").await;
            let names = |list: &Value, of: &str| -> Vec<String> {
                let entries = list.as_array().into_iter().flatten();
                entries.map(|entry| format!("{of} {} {}", entry["name"], entry["spec"])).collect()
            };
            seen.push((status["epoch"].clone(), names(&status["pools"], "pool"), names(&status["routes"], "route")));
        }
        seen.iter().all(|of| *of == seen[0]).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_is_upgraded_node_by_node_while_it_serves() {
    let Some(previous) = previous() else { return };
    let mut fleet = Fleet::with_demo_of(&previous, 3, json!({ "kind": "cookie" })).await;
    let h2 = H2::connect(fleet.nodes[0].http).await.expect("a connection");
    let pin = h2.get("/counter", "").await.expect("an answer").cookie("tidelock").expect("a pin");
    let new_spec = json!({ "limits": { "max_websockets_per_second": 500 } });
    for upgraded in 0..3 {
        let others: Vec<usize> = (0..3).filter(|i| *i != upgraded).collect();
        let addresses: Vec<_> = others.iter().map(|i| fleet.nodes[*i].http).collect();
        let steady = Steady::start(&addresses, 4);
        fleet.nodes[upgraded].process.as_ref().expect("it runs").signal("TERM");
        fleet.nodes[upgraded].until_ended().await;
        fleet.nodes[upgraded].binary = None;
        fleet.nodes[upgraded].start();
        fleet.nodes[upgraded].until_ready().await;
        // Both builds write, whoever leads; what only one can read is refused by both alike.
        for node in 0..3 {
            let (status, answer) = try_put(&fleet, node, &format!("/v1/pools/by-{upgraded}-{node}"), json!({})).await;
            assert_eq!(status, StatusCode::OK, "{answer}");
            if upgraded < 2 && node <= upgraded {
                let (status, answer) = try_put(&fleet, node, "/v1/pools/new", new_spec.clone()).await;
                assert_eq!(
                    (status, &answer["type"]),
                    (StatusCode::CONFLICT, &json!("urn:tidelock:problem:fleet-too-old"))
                );
            }
        }
        // A drain that one build begins and the other ends.
        let drain = fleet.nodes[upgraded].api.drain("demo", "app-1", json!({})).await;
        let shown = fleet.nodes[others[0]].api.get(&format!("/v1/drains/{drain}?consistency=linearizable")).await;
        assert_eq!(shown["endpoint"], "app-1");
        fleet.nodes[others[1]].api.write(Method::DELETE, "/v1/pools/demo/endpoints/app-1/drain", None).await;
        agree(&fleet).await;
        steady.stop().await.assert_clean().await;
        // A pin of the old build is one of the new.
        let kept = H2::connect(fleet.nodes[upgraded].http).await.expect("a connection").get("/counter", &pin).await;
        let kept = kept.expect("an answer");
        assert!(["kept", "moved:draining"].contains(&kept.header("tidelock-affinity").expect("exposed")), "{kept:?}");
    }
    eventually("the fleet speaks the new language", READY, async || {
        let (status, _) = try_put(&fleet, 1, "/v1/pools/new", new_spec.clone()).await;
        (status == StatusCode::OK).then_some(())
    })
    .await;
    let drain = fleet.nodes[2].api.drain("demo", "app-1", json!({})).await;
    let shown = fleet.nodes[0].api.get(&format!("/v1/drains/{drain}?consistency=linearizable")).await;
    assert_eq!(shown["pace"], 50);
    agree(&fleet).await;
}
