//! Clocks of nodes are wrong and jump: nothing that the fleet agrees on comes from a clock.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;

use crate::support::eventually;
use crate::support::fleet::{Fleet, READY};
use crate::support::http::H2;
use crate::support::traffic::Steady;
use crate::support::writes::{Writes, until_agreed};

/// The library that shows a process another time of day, of Debian's package libfaketime.
fn library() -> PathBuf {
    let folders = std::fs::read_dir("/usr/lib").expect("a folder").filter_map(Result::ok);
    let mut found =
        folders.map(|folder| folder.path().join("faketime/libfaketimeMT.so.1")).filter(|path| path.exists());
    found.next().expect("libfaketime is missing: make setup installs it")
}

/// Moves the clock of the node that reads this file.
fn set(file: &Path, offset_seconds: i64) {
    let new = file.with_extension("new");
    std::fs::write(&new, format!("{offset_seconds:+}\n")).expect("the offset is written");
    std::fs::rename(new, file).expect("it is replaced at once");
}

const HOUR: i64 = 3_600;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clocks_that_jump_move_no_session_and_no_leader() {
    let library = library();
    let mut fleet = Fleet::configured(3, None);
    let mut clocks = Vec::new();
    for node in &mut fleet.nodes {
        let clock = node.log.with_extension("clock");
        set(&clock, 0);
        node.enter = vec![
            "env".to_owned(),
            format!("LD_PRELOAD={}", library.display()),
            format!("FAKETIME_TIMESTAMP_FILE={}", clock.display()),
            "FAKETIME_NO_CACHE=1".to_owned(),
            // Timers run by the monotonic clock, which does not jump in the world either.
            "FAKETIME_DONT_FAKE_MONOTONIC=1".to_owned(),
        ];
        clocks.push(clock);
    }
    fleet.start_all().await;
    fleet.add_demo(json!({ "kind": "cookie" })).await;
    let check = json!({"kind": "http", "path": "/counter"});
    let checks = json!({"check": check, "interval_ms": 200, "timeout_ms": 2_000});
    fleet.nodes[0].api.put("/v1/pools/demo", json!({ "protocol": "h2c", "health": checks })).await;
    let leader = fleet.leader().await;
    let follower = (leader + 1) % 3;
    let addresses: Vec<_> = fleet.nodes.iter().map(|node| node.http).collect();
    let everywhere: Vec<_> = fleet.nodes.iter().map(|node| node.api).collect();
    let steady = Steady::start(&addresses, 6);
    let writes = Writes::start("write", &everywhere);
    let h2 = H2::connect(addresses[leader]).await.expect("a connection");
    let pin = h2.get("/counter", "").await.expect("an answer").cookie("tidelock").expect("a pin");
    let term = fleet.nodes[leader].metric("tidelock_raft_term").await;

    for (at, offset) in [(leader, HOUR), (follower, -24 * HOUR), (leader, -HOUR)] {
        set(&clocks[at], offset);
        eventually("the node lives in that time", READY, async || {
            let log = fleet.nodes[at].process.as_ref()?.log();
            let events = log.lines().rev().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
            let newest = events.filter_map(|event| event["time_ms"].as_i64()).next()?;
            let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time after 1970").as_secs() as i64;
            ((newest / 1_000 - now - offset).abs() < 60).then_some(())
        })
        .await;
        writes.until_more(10).await;
        for address in &addresses {
            let h2 = H2::connect(*address).await.expect("a connection");
            let answer = h2.get("/counter", &pin).await.expect("an answer");
            assert_eq!(answer.header("tidelock-affinity"), Some("kept"), "at {offset} seconds");
        }
        assert_eq!(fleet.nodes[leader].metric("tidelock_raft_is_leader").await, 1);
        assert_eq!(fleet.nodes[leader].metric("tidelock_raft_term").await, term);
    }
    let pool = fleet.nodes[0].api.get("/v1/pools/demo").await;
    for endpoint in pool["endpoints"].as_array().expect("endpoints") {
        assert_eq!(
            (&endpoint["health"]["verdict"], &endpoint["health"]["falls"]),
            (&json!("up"), &json!(0)),
            "{endpoint}"
        );
    }
    let acknowledged = writes.stop().await;
    until_agreed(&fleet, &acknowledged).await;
    steady.stop().await.assert_clean().await;
}
