//! For a moment there is no endpoint at all: requests take longer, and none fails.

use std::time::{Duration, Instant};

use http::Method;
use serde_json::json;
use tokio::task::JoinSet;

use crate::support::fleet::{Fleet, until_listening};
use crate::support::http::{H2, NotWhole};
use crate::support::process::Process;
use crate::support::websocket::WebSocket;

const GAP: Duration = Duration::from_millis(1_500);
/// What a pool holds requests for unless it says otherwise.
const HOLD: Duration = Duration::from_secs(2);

/// Requests and WebSockets, each begun in the gap; the longest that one took.
async fn across(fleet: &Fleet, gap: impl Future<Output = ()>) -> Duration {
    let mut clients = JoinSet::new();
    let gap = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        gap.await;
    };
    let traffic = async {
        for i in 0..60 {
            let address = fleet.nodes[i % fleet.nodes.len()].http;
            clients.spawn(async move {
                let start = Instant::now();
                if i % 3 == 0 {
                    let mut socket = WebSocket::open(address, "").await?;
                    socket.echo("there").await?;
                } else {
                    let answer = H2::connect(address).await?.get("/counter", "").await?;
                    if answer.status != 200 {
                        return Err(NotWhole(format!("status {}", answer.status)));
                    }
                }
                Ok(start.elapsed())
            });
            tokio::time::sleep(Duration::from_millis(40)).await;
        }
    };
    tokio::join!(gap, traffic);
    let mut longest = Duration::ZERO;
    while let Some(result) = clients.join_next().await {
        longest = longest.max(result.expect("no client panicked").expect("no client sees the gap"));
    }
    longest
}

/// The last endpoint is taken out of the pool before the first new one is put in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_without_endpoints_for_a_moment_costs_time_and_no_errors() {
    let fleet = Fleet::with_demo(3, json!({ "kind": "cookie" })).await;
    let api = fleet.nodes[1].api;
    for i in 2..=3 {
        api.write(Method::DELETE, &format!("/v1/pools/demo/endpoints/app-{i}"), None).await;
    }
    let gap = async {
        let removed = api.write(Method::DELETE, "/v1/pools/demo/endpoints/app-1?wait=fleet", None).await;
        assert!(removed["epoch"].is_u64());
        tokio::time::sleep(GAP).await;
        let address = fleet.endpoints[1].address.to_string();
        api.put("/v1/pools/demo/endpoints/app-2", json!({ "address": address })).await;
    };
    let longest = across(&fleet, gap).await;
    assert!(longest >= GAP / 2, "{longest:?}: somebody was in the gap");
    assert!(longest <= HOLD + Duration::from_millis(500), "{longest:?}");
}

/// The only endpoint is killed and started again in its place: nobody tells the fleet of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_restarts_in_its_place_costs_time_and_no_errors() {
    let mut fleet = Fleet::with_demo(3, json!({ "kind": "cookie" })).await;
    for i in 2..=3 {
        fleet.nodes[0].api.write(Method::DELETE, &format!("/v1/pools/demo/endpoints/app-{i}?wait=fleet"), None).await;
    }
    let mut endpoint = fleet.endpoints.remove(0);
    // Before the first request: what runs on a process that is killed is lost, whoever balances it.
    endpoint.process.kill();
    let listen = endpoint.address.to_string();
    let log = fleet.log_of("app-1-again");
    let gap = async {
        tokio::time::sleep(GAP - Duration::from_millis(300)).await;
        endpoint.process = Process::tidelock(&["demo-endpoint", "--listen", &listen, "--name", "app-1"], log);
        until_listening("app-1", endpoint.address).await;
    };
    let longest = across(&fleet, gap).await;
    assert!(longest >= GAP / 2, "{longest:?}: somebody was in the gap");
    assert!(longest <= HOLD + Duration::from_millis(500), "{longest:?}");
}
