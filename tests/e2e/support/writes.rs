//! Writes one after the other, and what became of each.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::api::Api;
use super::eventually;
use super::fleet::{Fleet, READY};

/// One writer that goes from node to node, until stopped.
pub(crate) struct Writes {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    task: JoinHandle<Vec<String>>,
}

/// A writer does not wait longer for an answer: it goes on, and never counts that write.
const PATIENCE: Duration = Duration::from_secs(2);

impl Writes {
    pub(crate) fn start(prefix: &'static str, nodes: &[Api]) -> Writes {
        let (stop, acknowledged) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (nodes, stopped, count) = (nodes.to_vec(), stop.clone(), acknowledged.clone());
        let task = tokio::spawn(async move {
            let mut names = Vec::new();
            for (i, api) in (0..).zip(nodes.iter().cycle()) {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let name = format!("{prefix}-{i}");
                if write(*api, &name).await {
                    names.push(name);
                    count.fetch_add(1, Ordering::Relaxed);
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            names
        });
        Writes { stop, acknowledged, task }
    }

    /// Waits until `more` writes have been acknowledged from now on.
    pub(crate) async fn until_more(&self, more: u64) {
        let goal = self.acknowledged.load(Ordering::Relaxed) + more;
        eventually(&format!("{more} more writes are acknowledged"), READY, async || {
            (self.acknowledged.load(Ordering::Relaxed) >= goal).then_some(())
        })
        .await;
    }

    /// The names that were acknowledged.
    pub(crate) async fn stop(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.expect("the writer did not panic")
    }
}

/// Whether the write of this pool was acknowledged.
async fn write(api: Api, name: &str) -> bool {
    let path = format!("/v1/pools/{name}");
    let written = tokio::time::timeout(PATIENCE, api.send(Method::PUT, &path, Some(json!({})))).await;
    let Ok(Ok(answer)) = written else { return false };
    if answer.status != StatusCode::OK {
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{:?}", answer.body);
        return false;
    }
    assert_eq!(answer.json()["outcome"], "applied");
    true
}

/// What a node has agreed to: its epoch, routes, and pools without what runs on them.
async fn configuration(api: Api) -> Option<Value> {
    let mut status = api.send(Method::GET, "/v1/status", None).await.ok()?.json();
    for pool in status["pools"].as_array_mut()? {
        for endpoint in pool["endpoints"].as_array_mut()? {
            for moving in ["health", "requests", "websockets", "by_node"] {
                endpoint.as_object_mut()?.remove(moving);
            }
        }
    }
    Some(json!([status["epoch"], status["routes"], status["pools"]]))
}

/// All nodes come to the same configuration, and it holds every write of `names`.
pub(crate) async fn until_agreed(fleet: &Fleet, names: &[String]) {
    let agreed = eventually("all nodes agree", READY, async || {
        let first = configuration(fleet.nodes[0].api).await?;
        for node in &fleet.nodes[1..] {
            if configuration(node.api).await? != first {
                return None;
            }
        }
        Some(first)
    })
    .await;
    let pools: std::collections::BTreeSet<&str> =
        agreed[2].as_array().expect("pools").iter().filter_map(|pool| pool["name"].as_str()).collect();
    let lost: Vec<&String> = names.iter().filter(|name| !pools.contains(name.as_str())).collect();
    assert!(lost.is_empty(), "acknowledged and gone: {lost:?}");
    assert!(!names.is_empty(), "nothing was acknowledged");
}
