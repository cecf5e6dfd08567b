//! All nodes are restarted, one after the other, and no client notices.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::Method;
use serde_json::json;
use tokio::task::JoinSet;

use crate::support::api::Api;
use crate::support::eventually;
use crate::support::fleet::{Fleet, Node, READY};
use crate::support::http::{H1, H2, NotWhole, get, h1};
use crate::support::traffic::{Account, check_pattern};
use crate::support::writes::{Writes, until_agreed};

/// How a node is found behind a Service of Kubernetes or an anycast address: whoever connects comes to
/// one that said "ready" a moment ago. That moment is far below the nodes' settle time of 200 ms.
struct Service {
    nodes: Vec<(SocketAddr, AtomicBool)>,
    stop: AtomicBool,
}

const PROBED_EVERY: Duration = Duration::from_millis(20);

impl Service {
    fn of(fleet: &Fleet) -> Arc<Service> {
        let nodes = fleet.nodes.iter().map(|node| (node.http, AtomicBool::new(true))).collect();
        Arc::new(Service { nodes, stop: AtomicBool::new(false) })
    }

    async fn probe(self: Arc<Service>, i: usize, api: Api) {
        while !self.stop.load(Ordering::Relaxed) {
            let answer = api.send(Method::GET, "/readyz", None).await;
            self.nodes[i].1.store(answer.is_ok_and(|answer| answer.status == 200), Ordering::Relaxed);
            tokio::time::sleep(PROBED_EVERY).await;
        }
    }

    /// Any node that is ready.
    fn pick(&self) -> Result<SocketAddr, NotWhole> {
        let ready: Vec<SocketAddr> =
            self.nodes.iter().filter(|(_, ready)| ready.load(Ordering::Relaxed)).map(|(node, _)| *node).collect();
        if ready.is_empty() {
            return Err(NotWhole("no node is ready".into()));
        }
        Ok(ready[rand::random_range(0..ready.len())])
    }
}

const BODY: usize = 3 * 2_000;
const PATH: &str = "/stream?chunks=3&bytes=2000&interval_ms=5";

/// Requests on one HTTP/2 connection as long as it takes them, then on another.
async fn h2_client(service: Arc<Service>, account: Arc<Account>) {
    while !service.stop.load(Ordering::Relaxed) {
        let connected = async { H2::connect(service.pick()?).await }.await;
        let connection = match connected {
            Ok(connection) => connection,
            Err(error) => {
                account.count("an HTTP/2 connection", Err(error)).await;
                continue;
            }
        };
        while !service.stop.load(Ordering::Relaxed) {
            let Some(answer) = connection.get_if_open(PATH, "").await else { break };
            account.count("an HTTP/2 request", answer.and_then(|answer| check_pattern(&answer.body, BODY))).await;
        }
    }
}

/// The same over HTTP/1.1.
async fn h1_client(service: Arc<Service>, account: Arc<Account>) {
    while !service.stop.load(Ordering::Relaxed) {
        let connected = async { H1::connect(service.pick()?).await }.await;
        let mut connection = match connected {
            Ok(connection) => connection,
            Err(error) => {
                account.count("an HTTP/1.1 connection", Err(error)).await;
                continue;
            }
        };
        while !service.stop.load(Ordering::Relaxed) {
            let Some(answer) = connection.get_if_open(PATH).await else { break };
            account.count("an HTTP/1.1 request", answer.and_then(|answer| check_pattern(&answer.body, BODY))).await;
        }
    }
}

/// A connection for each request.
async fn new_client_each_time(service: Arc<Service>, account: Arc<Account>) {
    while !service.stop.load(Ordering::Relaxed) {
        let answer = async { h1(service.pick()?, get(PATH, "")).await }.await;
        account.count("a new client", answer.and_then(|answer| check_pattern(&answer.body, BODY))).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_of_the_fleet_under_load_fails_no_request() {
    let mut fleet = Fleet::with_demo(3, json!({ "kind": "cookie" })).await;
    let service = Service::of(&fleet);
    let account = Arc::new(Account::default());
    let mut tasks = JoinSet::new();
    for (i, node) in fleet.nodes.iter().enumerate() {
        tasks.spawn(service.clone().probe(i, node.api));
    }
    for _ in 0..6 {
        tasks.spawn(h2_client(service.clone(), account.clone()));
        tasks.spawn(h1_client(service.clone(), account.clone()));
        tasks.spawn(new_client_each_time(service.clone(), account.clone()));
    }
    let everywhere: Vec<_> = fleet.nodes.iter().map(|node| node.api).collect();
    let writes = Writes::start("write", &everywhere);
    for i in 0..fleet.nodes.len() {
        fleet.nodes[i].process.as_ref().expect("it runs").signal("TERM");
        fleet.nodes[i].until_ended().await;
        let served = account.done.load(Ordering::Relaxed);
        eventually("the others serve", READY, async || {
            (account.done.load(Ordering::Relaxed) > served + 50).then_some(())
        })
        .await;
        fleet.nodes[i].start();
        fleet.nodes[i].until_ready().await;
        // As a StatefulSet would: the next one goes when this one is back in the fleet.
        fleet.until_led().await;
        writes.until_more(5).await;
    }
    let acknowledged = writes.stop().await;
    service.stop.store(true, Ordering::Relaxed);
    while let Some(result) = tasks.join_next().await {
        result.expect("no client panicked");
    }
    account.assert_clean().await;
    // What a client sends again because it was not processed was not: the nodes have seen each request once.
    let done = account.done.load(Ordering::Relaxed) as usize;
    let seen = |node: &Node| {
        let log = std::fs::read_to_string(&node.log).unwrap_or_default();
        log.lines().filter(|line| line.contains(r#""path":"/stream""#)).count()
    };
    eventually("each request is in a log once", READY, async || {
        (fleet.nodes.iter().map(seen).sum::<usize>() == done).then_some(())
    })
    .await;
    until_agreed(&fleet, &acknowledged).await;
}
