//! Hand-overs that come to nothing: the old process is back in full service, whatever became of the new one.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::Method;
use serde_json::json;

use super::{clients, configuration, end_of, handed_over, served_more, successor, until_logged};
use crate::support::eventually;
use crate::support::fleet::{Fleet, READY};
use crate::support::http::{H2, get, h1};
use crate::support::process::Process;
use crate::support::traffic::Account;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_successor_that_fails_leaves_the_old_one_in_full_service() {
    let fleet = Fleet::with_demo(1, json!({ "kind": "cookie" })).await;
    let (account, stop) = (Arc::new(Account::default()), Arc::new(AtomicBool::new(false)));
    let mut tasks = clients(fleet.nodes[0].http, &account, &stop);
    let old = fleet.nodes[0].process.as_ref().expect("it runs");
    let log = fleet.log_of("successor");
    // A configuration that is none: the old one is not even asked.
    let good = configuration(&fleet, 0);
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
    let _new = successor(&configuration(&fleet, 0), &fleet.log_of("successor"));
    fleet.nodes[0].until_ready().await;
}

/// A process that is killed closes its end of the stream: the test does, after each step of the protocol.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_successor_that_dies_at_any_step_leaves_the_old_one_in_full_service() {
    let fleet = Fleet::with_demo(1, json!({ "kind": "cookie" })).await;
    let (account, stop) = (Arc::new(Account::default()), Arc::new(AtomicBool::new(false)));
    let mut tasks = clients(fleet.nodes[0].http, &account, &stop);
    let old = fleet.nodes[0].process.as_ref().expect("it runs");
    let path = fleet.nodes[0].data.join("handover.sock");
    // It has not even asked.
    drop(UnixStream::connect(&path).expect("it listens"));
    until_logged(old, "in vain").await;
    // It has asked; it has two of the sockets; it has all of them. It never says that it serves.
    for (times, received) in [0, 2, usize::MAX].into_iter().enumerate() {
        let path = path.clone();
        let died = tokio::task::spawn_blocking(move || {
            let mut stream = UnixStream::connect(&path).expect("it listens");
            stream.write_all(b"T").expect("it hears");
            let mut byte = [0];
            for _ in 0..received {
                stream.read_exact(&mut byte).expect("it goes on");
                if byte[0] == b'E' {
                    break;
                }
                assert_eq!(byte[0], b'S');
            }
        });
        died.await.expect("it took what it was given");
        eventually("back in full service", READY, async || {
            (old.log().matches("back in full service").count() > times).then_some(())
        })
        .await;
        let path = format!("/v1/pools/after-{times}");
        fleet.nodes[0].api.put(&path, json!({ "protocol": "h2c" })).await;
    }
    served_more(&account, 50).await;
    stop.store(true, Ordering::Relaxed);
    while let Some(result) = tasks.join_next().await {
        result.expect("no client panicked");
    }
    account.assert_clean().await;
    // And one that works is still welcome.
    let mut fleet = fleet;
    let old = handed_over(&mut fleet, "successor").await;
    assert!(end_of(old).await.success());
    fleet.nodes[0].until_ready().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_old_one_may_be_killed_when_the_new_one_serves() {
    let mut fleet = Fleet::with_demo(1, json!({ "kind": "cookie" })).await;
    let on_the_old = H2::connect(fleet.nodes[0].http).await.expect("a connection");
    let mut stream = on_the_old.open("/stream?chunks=200&bytes=10&interval_ms=100", "").await.expect("it begins");
    let mut old = handed_over(&mut fleet, "successor").await;
    let (account, stop) = (Arc::new(Account::default()), Arc::new(AtomicBool::new(false)));
    let mut tasks = clients(fleet.nodes[0].http, &account, &stop);
    served_more(&account, 20).await;
    old.kill();
    until_logged(fleet.nodes[0].process.as_ref().expect("it runs"), "the old process has gone").await;
    let lost = loop {
        match stream.next().await {
            Ok(Some(_)) => {}
            ended => break ended,
        }
    };
    assert!(lost.is_err(), "what was on the old one breaks off and does not look whole");
    served_more(&account, 50).await;
    fleet.nodes[0].api.put("/v1/pools/after", json!({ "protocol": "h2c" })).await;
    stop.store(true, Ordering::Relaxed);
    while let Some(result) = tasks.join_next().await {
        result.expect("no client panicked");
    }
    account.assert_clean().await;
}

/// A successor that holds the data directory and stays: it has a listener whose path somebody listens on, who
/// is asked whether he does and never answers.
fn stuck(fleet: &Fleet) -> (Process, Vec<OwnedFd>) {
    let path = fleet.log_of("taken");
    let listener = UnixListener::bind(&path).expect("a new path");
    // A queue for one connection, which is in it.
    rustix::net::listen(&listener, 0).expect("it listens already");
    let first = UnixStream::connect(&path).expect("there is room for one");
    let toml = std::fs::read_to_string(configuration(fleet, 0)).expect("it was written");
    let config = fleet.log_of("stuck.toml");
    std::fs::write(&config, format!("{toml}\n[[listeners]]\naddress = \"unix:{}\"\n", path.display()))
        .expect("written");
    (successor(&config.display().to_string(), &fleet.log_of("stuck")), vec![listener.into(), first.into()])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_successor_that_is_killed_with_the_data_directory_in_its_hand() {
    let fleet = Fleet::with_demo(1, json!({ "kind": "cookie" })).await;
    let old = fleet.nodes[0].process.as_ref().expect("it runs");
    let (mut new, _taken) = stuck(&fleet);
    until_logged(&new, "the admin API listens").await;
    assert!(!old.log().contains("back in full service"));
    new.kill();
    until_logged(old, "back in full service").await;
    fleet.nodes[0].api.put("/v1/pools/after", json!({ "protocol": "h2c" })).await;
    assert_eq!(h1(fleet.nodes[0].http, get("/counter", "")).await.expect("an answer").status, 200);
}

/// SIGTERM meanwhile is not kept waiting for the one that would take over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_stopped_during_a_hand_over_leaves() {
    let mut fleet = Fleet::with_demo(1, json!({ "kind": "cookie" })).await;
    let (new, _taken) = stuck(&fleet);
    until_logged(&new, "the admin API listens").await;
    fleet.nodes[0].process.as_ref().expect("it runs").signal("TERM");
    // Well below the time that the successor has.
    let mut old = fleet.nodes[0].process.take().expect("it runs");
    let ended = tokio::task::spawn_blocking(move || old.wait(READY / 2));
    assert!(ended.await.expect("it leaves").success());
}

/// The same if nobody kills it but the old process, when its time is over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_successor_that_does_not_end_is_killed() {
    let fleet = Fleet::with_demo(1, json!({ "kind": "cookie" })).await;
    let old = fleet.nodes[0].process.as_ref().expect("it runs");
    let (new, _taken) = stuck(&fleet);
    // 30 s in which it might serve, and 5 s in which it might end.
    let ended = tokio::task::spawn_blocking(move || {
        let mut new = new;
        new.wait(READY * 2)
    });
    assert_eq!(ended.await.expect("the wait ends").signal(), Some(9));
    until_logged(old, "back in full service").await;
    fleet.nodes[0].api.put("/v1/pools/after", json!({ "protocol": "h2c" })).await;
}
