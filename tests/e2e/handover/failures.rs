//! Hand-overs that come to nothing: the old process is back in full service, whatever became of the new one.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::Method;
use serde_json::json;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::{clients, configuration, end_of, handed_over, served_more, successor, until_logged};
use crate::support::eventually;
use crate::support::fleet::{Fleet, READY};
use crate::support::http::{H2, get, h1};
use crate::support::process::{BINARY, Process};
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
    // It has not even asked; it has asked, and is gone when it is looked for.
    drop(UnixStream::connect(&path).expect("it listens"));
    until_logged(old, "in vain").await;
    UnixStream::connect(&path).expect("it listens").write_all(b"T").expect("it hears");
    eventually("it is not looked for any more", READY, async || {
        let log = old.log();
        (log.matches("in vain").count() == 2 || log.contains("back in full service")).then_some(())
    })
    .await;
    let before = old.log().matches("back in full service").count();
    // It has two of the sockets; it has all of them. It never says that it serves.
    for (times, received) in [2, usize::MAX].into_iter().enumerate() {
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
            (old.log().matches("back in full service").count() > before + times).then_some(())
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

/// `stuck`, when it cannot do anything any more.
async fn until_stuck(new: &Process) {
    until_logged(new, "the admin API listens").await;
    // It is blocked in the system call behind that; nothing tells.
    tokio::time::sleep(Duration::from_secs(1)).await;
}

/// SIGTERM meanwhile is not kept waiting for the one that would take over, and that does not stay: it has
/// the sockets, and would leave whoever connects waiting.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_stopped_during_a_hand_over_leaves_nobody_behind() {
    let mut fleet = Fleet::with_demo(1, json!({ "kind": "cookie" })).await;
    let (new, _taken) = stuck(&fleet);
    until_stuck(&new).await;
    let mut old = fleet.nodes[0].process.take().expect("it runs");
    old.signal("TERM");
    // Well below the time that the successor has.
    let ended = tokio::task::spawn_blocking(move || old.wait(READY / 2));
    assert!(ended.await.expect("it leaves").success());
    let ended = tokio::task::spawn_blocking(move || {
        let mut new = new;
        new.wait(READY)
    });
    assert_eq!(ended.await.expect("it is not there any more").signal(), Some(9));
    assert!(TcpStream::connect(fleet.nodes[0].http).await.is_err(), "nobody holds the sockets");
}

/// It comes to itself when the old one has been told to leave: it must not think that the node is its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_successor_hears_that_the_old_one_is_stopped() {
    let mut fleet = Fleet::with_demo(1, json!({ "kind": "cookie" })).await;
    let connection = H2::connect(fleet.nodes[0].http).await.expect("a connection");
    let mut stream =
        connection.open("/stream?chunks=50&bytes=10&interval_ms=100", "").await.expect("it begins on the old one");
    let (new, taken) = stuck(&fleet);
    until_stuck(&new).await;
    let old = fleet.nodes[0].process.take().expect("it runs");
    old.signal("TERM");
    until_logged(&old, "this node is to leave").await;
    drop(taken);
    let status = end_of(new).await;
    assert_eq!(status.code(), Some(1), "it has not taken over");
    while stream.next().await.expect("what runs on the old one ends in order").is_some() {}
    drop(connection);
    assert!(end_of(old).await.success());
}

/// A drain with sessions that began before: what comes to the old process meanwhile is known to the new one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_old_one_serves_meanwhile_counts() {
    let fleet = Fleet::with_demo(1, json!({ "kind": "cookie" })).await;
    let (api, http) = (fleet.nodes[0].api, fleet.nodes[0].http);
    let answer = h1(http, get("/whoami", "")).await.expect("an answer");
    let home = answer.header("tidelock-endpoint").expect("exposed").to_owned();
    let cookie = answer.cookie("tidelock").expect("a cookie");
    let (new, taken) = stuck(&fleet);
    until_logged(&new, "the admin API listens").await;
    // The control plane is the new one's already; it drains, and the old one hears of it.
    let drain = api.drain("demo", &home, json!({ "mode": "sessions" })).await;
    let connection = H2::connect(http).await.expect("a connection");
    let stream = connection.open("/stream?chunks=1000&bytes=10&interval_ms=100", &cookie).await.expect("it begins");
    assert_eq!(stream.header("tidelock-endpoint"), Some(home.as_str()));
    let shown = eventually("the old one's request is known", READY, async || {
        // The stream may have begun before the old one had heard of the drain: a session is seen by what comes then.
        h1(http, get("/whoami", &cookie)).await.expect("an answer");
        let drain = api.get(&format!("/v1/drains/{drain}")).await;
        (drain["requests"] == 1 && drain["sessions"] == 1).then_some(drain)
    })
    .await;
    assert_eq!(shown["missing"], json!([]), "{shown}");
    drop((stream, connection, taken));
}

/// An old process, as far as a new one hears of it: no sockets, a table that it has to reach, and a report.
fn old_process(fleet: &Fleet, epoch: u64) -> JoinHandle<UnixStream> {
    std::fs::create_dir_all(&fleet.nodes[0].data).expect("a folder");
    let listener = UnixListener::bind(fleet.nodes[0].data.join("handover.sock")).expect("a new path");
    tokio::task::spawn_blocking(move || {
        let (mut stream, _) = listener.accept().expect("it asks");
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("it asks");
        stream.write_all(&[&b"E"[..], &epoch.to_be_bytes()].concat()).expect("it hears");
        let report = r#"{"report":{"epoch":9999999,"leaving":false,"version":"x","endpoints":{}},"for_others":false}"#;
        say(&mut stream, b'r', report.as_bytes());
        stream
    })
}

fn say(stream: &mut UnixStream, tag: u8, payload: &[u8]) {
    let length = (payload.len() as u32).to_be_bytes();
    stream.write_all(&[&[tag][..], &length, payload].concat()).expect("it hears");
}

/// What comes until the end, as it comes.
fn frames(mut stream: UnixStream) -> mpsc::Receiver<(u8, Vec<u8>)> {
    let (to, frames) = mpsc::channel(1_024);
    std::thread::spawn(move || {
        let mut head = [0; 5];
        while stream.read_exact(&mut head).is_ok() {
            let mut payload = vec![0; u32::from_be_bytes(head[1..].try_into().expect("four bytes")) as usize];
            if stream.read_exact(&mut payload).is_err() || to.blocking_send((head[0], payload)).is_err() {
                return;
            }
        }
    });
    frames
}

/// Clients that came to a successor that was too late are the node's, too: it lets go of the data directory and
/// reports them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_a_successor_that_was_too_late_count() {
    let mut fleet = Fleet::configured(1, None);
    fleet.add_endpoint("app-1").await;
    let asked = old_process(&fleet, 0);
    fleet.nodes[0].process = Some(successor(&configuration(&fleet, 0), &fleet.log_of("new")));
    let mut stream = asked.await.expect("no panic");
    let mut said = frames(stream.try_clone().expect("a clone"));
    let mut until = async |tag: u8| loop {
        let (next, payload) = tokio::time::timeout(READY, said.recv()).await.expect("in time").expect("it goes on");
        if next == tag {
            return payload;
        }
    };
    until(b'R').await;
    let api = fleet.nodes[0].api;
    let address = fleet.endpoints[0].address.to_string();
    api.put("/v1/pools/demo", json!({ "protocol": "h2c" })).await;
    api.put("/v1/pools/demo/endpoints/app-1", json!({ "address": address })).await;
    let route = api.put("/v1/routes/demo", json!({ "pool": "demo" })).await;
    fleet.until_epoch(route["epoch"].as_u64().expect("an epoch")).await;
    let connection = H2::connect(fleet.nodes[0].http).await.expect("a connection");
    let running = connection.open("/stream?chunks=1000&bytes=10&interval_ms=100", "").await.expect("it begins");
    say(&mut stream, b'X', b"");
    loop {
        let said: serde_json::Value = serde_json::from_slice(&until(b'r').await).expect("a report");
        if said["report"]["endpoints"].as_object().is_some_and(|all| all.values().any(|counts| counts["requests"] == 1))
        {
            break;
        }
    }
    drop((running, connection));
    assert_eq!(end_of(fleet.nodes[0].process.take().expect("it runs")).await.code(), Some(1));
    // Somebody else may have the data directory at once.
    assert!(until(b'r').await.len() > 2, "the last report");
}

/// One that is told to end before it serves says nothing to the service manager: it is not the node.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_successor_that_is_told_to_end_does_not_speak_for_the_service() {
    let fleet = Fleet::configured(1, None);
    // Its table is never reached.
    let asked = old_process(&fleet, 1_000_000);
    let path = fleet.log_of("notify");
    let manager = UnixDatagram::bind(&path).expect("a new path");
    let mut command = Command::new(BINARY);
    command.args(["serve", "--config", &configuration(&fleet, 0), "--take-over", "--exit-with-parent"]);
    command.env("NOTIFY_SOCKET", &path);
    let new = Process::start(command, fleet.log_of("new"));
    let _stream = asked.await.expect("no panic");
    until_logged(&new, "the admin API listens").await;
    new.signal("TERM");
    assert!(end_of(new).await.success());
    manager.set_nonblocking(true).expect("a socket");
    assert!(manager.recv(&mut [0; 64]).is_err(), "it spoke for the service");
}

/// A, B and C: when B dies nobody hears of A any more, and A may be there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_middle_one_of_three_dies_the_first_is_not_forgotten() {
    let mut fleet = Fleet::with_demo(1, json!({ "kind": "cookie" })).await;
    let connection = H2::connect(fleet.nodes[0].http).await.expect("a connection");
    let mut stream = connection.open("/stream?chunks=1000&bytes=10&interval_ms=100", "").await.expect("it begins");
    let home = stream.header("tidelock-endpoint").expect("exposed").to_owned();
    let _first = handed_over(&mut fleet, "second").await;
    let mut second = handed_over(&mut fleet, "third").await;
    second.kill();
    let api = fleet.nodes[0].api;
    let drain = api.drain("demo", &home, json!({ "mode": "streams", "pace": 0 })).await;
    let waited = api.send(Method::GET, &format!("/v1/drains/{drain}?wait=safe&timeout_seconds=4"), None).await;
    let waited = waited.expect("an answer").json();
    assert_eq!(waited["safe"], false, "{waited}");
    assert!(matches!(stream.next().await, Ok(Some(_))), "it was true");
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
