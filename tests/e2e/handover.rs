//! A new process takes over from the old one on the same host, and no client notices.

use std::path::Path;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::Method;
use serde_json::json;
use tokio::task::JoinSet;

use crate::support::eventually;
use crate::support::fleet::{Fleet, READY};
use crate::support::http::{H1, H2, get, h1};
use crate::support::process::Process;
use crate::support::traffic::{Account, check_pattern};

const BODY: usize = 3 * 2_000;
const PATH: &str = "/stream?chunks=3&bytes=2000&interval_ms=5";

fn configuration(fleet: &Fleet) -> String {
    fleet.nodes[0].data.with_extension("toml").display().to_string()
}

fn successor(configuration: &str, log: &Path) -> Process {
    Process::tidelock(&["serve", "--config", configuration, "--take-over"], log.to_owned())
}

async fn end_of(mut process: Process) -> ExitStatus {
    tokio::task::spawn_blocking(move || process.wait(READY)).await.expect("the wait ends")
}

async fn until_logged(process: &Process, text: &str) {
    eventually(&format!("the log says: {text}"), READY, async || process.log().contains(text).then_some(())).await;
}

/// Clients on `http` until `stop`: new connections, kept ones, HTTP/2.
fn clients(fleet: &Fleet, account: &Arc<Account>, stop: &Arc<AtomicBool>) -> JoinSet<()> {
    let http = fleet.nodes[0].http;
    let mut tasks = JoinSet::new();
    for _ in 0..4 {
        let (counted, stopped) = (account.clone(), stop.clone());
        tasks.spawn(async move {
            while !stopped.load(Ordering::Relaxed) {
                let answer = h1(http, get(PATH, "")).await;
                counted.count("a new client", answer.and_then(|answer| check_pattern(&answer.body, BODY))).await;
            }
        });
        let (counted, stopped) = (account.clone(), stop.clone());
        tasks.spawn(async move {
            while !stopped.load(Ordering::Relaxed) {
                let mut connection = match H1::connect(http).await {
                    Ok(connection) => connection,
                    Err(error) => {
                        counted.count("an HTTP/1.1 connection", Err(error)).await;
                        continue;
                    }
                };
                while !stopped.load(Ordering::Relaxed) {
                    let Some(answer) = connection.get_if_open(PATH).await else { break };
                    let whole = answer.and_then(|answer| check_pattern(&answer.body, BODY));
                    counted.count("an HTTP/1.1 request", whole).await;
                }
            }
        });
        let (counted, stopped) = (account.clone(), stop.clone());
        tasks.spawn(async move {
            while !stopped.load(Ordering::Relaxed) {
                let connection = match H2::connect(http).await {
                    Ok(connection) => connection,
                    Err(error) => {
                        counted.count("an HTTP/2 connection", Err(error)).await;
                        continue;
                    }
                };
                while !stopped.load(Ordering::Relaxed) {
                    let Some(answer) = connection.get_if_open(PATH, "").await else { break };
                    let whole = answer.and_then(|answer| check_pattern(&answer.body, BODY));
                    counted.count("an HTTP/2 request", whole).await;
                }
            }
        });
    }
    tasks
}

async fn served_more(account: &Account, more: u64) {
    let before = account.done.load(Ordering::Relaxed);
    eventually("more requests", READY, async || (account.done.load(Ordering::Relaxed) > before + more).then_some(()))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hand_over_after_hand_over_under_load_fails_no_request() {
    let mut fleet = Fleet::with_demo(1, json!({ "kind": "cookie" })).await;
    let (account, stop) = (Arc::new(Account::default()), Arc::new(AtomicBool::new(false)));
    let mut tasks = clients(&fleet, &account, &stop);
    let first = configuration(&fleet);
    let toml = std::fs::read_to_string(&first).expect("it was written");
    let log = fleet.log_of("successors");
    let mut old = fleet.nodes[0].process.take().expect("it runs");
    // Fewer and more workers than there are sockets: every queue is still emptied.
    for workers in [2, 1, 3, 2] {
        served_more(&account, 50).await;
        std::fs::write(&first, toml.replace("workers = 2", &format!("workers = {workers}"))).expect("written");
        let new = successor(&first, &log);
        let status = end_of(old).await;
        assert!(status.success(), "{status}");
        fleet.nodes[0].until_ready().await;
        old = new;
    }
    served_more(&account, 50).await;
    stop.store(true, Ordering::Relaxed);
    while let Some(result) = tasks.join_next().await {
        result.expect("no client panicked");
    }
    account.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_successor_that_fails_leaves_the_old_one_in_full_service() {
    let fleet = Fleet::with_demo(1, json!({ "kind": "cookie" })).await;
    let (account, stop) = (Arc::new(Account::default()), Arc::new(AtomicBool::new(false)));
    let mut tasks = clients(&fleet, &account, &stop);
    let old = fleet.nodes[0].process.as_ref().expect("it runs");
    let log = fleet.log_of("successor");
    // A configuration that is none: the old one is not even asked.
    let good = configuration(&fleet);
    let bad = fleet.log_of("bad");
    std::fs::write(&bad, "[node]\nnonsense = 1\n").expect("written");
    let status = end_of(successor(&bad.display().to_string(), &log)).await;
    assert_eq!(status.code(), Some(2));
    assert!(!old.log().contains("takes over"), "{}", old.log());

    // One that cannot serve: it has a listener that it cannot bind. It has stopped the old one's control
    // plane by then and has had the data directory.
    let taken = fleet.endpoints[0].address;
    let toml = std::fs::read_to_string(&good).expect("it was written");
    std::fs::write(&bad, format!("{toml}\n[[listeners]]\naddress = \"{taken}\"\n")).expect("written");
    let status = end_of(successor(&bad.display().to_string(), &log)).await;
    assert_eq!(status.code(), Some(1));
    until_logged(old, "back in full service").await;
    fleet.nodes[0].until_ready().await;
    // Writes work: the control plane is back.
    let put = fleet.nodes[0].api.send(Method::PUT, "/v1/pools/after", Some(json!({ "protocol": "h2c" }))).await;
    assert!(put.expect("an answer").status.is_success());
    served_more(&account, 50).await;
    stop.store(true, Ordering::Relaxed);
    while let Some(result) = tasks.join_next().await {
        result.expect("no client panicked");
    }
    account.assert_clean().await;
}

#[tokio::test]
async fn with_nobody_to_take_over_from_a_node_starts_as_usual() {
    let mut fleet = Fleet::with_demo(1, json!({ "kind": "cookie" })).await;
    // It leaves its socket behind.
    fleet.nodes[0].kill();
    let _new = successor(&configuration(&fleet), &fleet.log_of("successor"));
    fleet.nodes[0].until_ready().await;
}

/// The same by the signal, which starts what is at the binary's path.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_signal_starts_a_successor() {
    let mut fleet = Fleet::with_demo(1, json!({ "kind": "cookie" })).await;
    let old = fleet.nodes[0].process.take().expect("it runs");
    let connection = H2::connect(fleet.nodes[0].http).await.expect("a connection");
    let mut open = connection.open("/stream?chunks=10&bytes=10&interval_ms=100", "").await.expect("it begins");
    old.signal("USR2");
    until_logged(&old, "this one ends with what runs on it").await;
    let answer = h1(fleet.nodes[0].http, get("/whoami", "")).await.expect("the successor answers");
    assert!(answer.status.as_u16() < 500, "{}", answer.status);
    let mut bytes = 0;
    while let Some(chunk) = open.next().await.expect("what runs on the old one goes on") {
        bytes += chunk.len();
    }
    assert_eq!(bytes, 100);
    drop(connection);
    assert!(end_of(old).await.success());
}
