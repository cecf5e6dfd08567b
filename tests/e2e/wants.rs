//! What a node lacks: descriptors, and somebody who reads what it logs. It says so where it can, and takes it out on nobody.

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::json;

use crate::support::eventually;
use crate::support::fleet::{Fleet, Node, READY};
use crate::support::http::{H1, get, h1};

/// Its processor time so far.
fn processor_time(node: &Node) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", node.process.as_ref().expect("it runs").id()));
    let stat = stat.expect("it runs");
    // Behind the name: user's and the system's are the 12th and the 13th, in ticks of 10 ms.
    let fields = stat.rsplit(')').next().expect("its fields").split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("a number")).sum();
    Duration::from_millis(ticks * 10)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_descriptors_no_endpoint_is_to_blame_and_nothing_spins() {
    const MOST: usize = 128;
    let mut fleet = Fleet::configured(1, None);
    fleet.nodes[0].enter = vec!["prlimit".to_owned(), format!("--nofile={MOST}:{MOST}")];
    fleet.start_all().await;
    fleet.add_demo(json!({ "kind": "none" })).await;
    let node = &fleet.nodes[0];
    let health = json!({ "check": { "kind": "tcp" }, "interval_ms": 200, "timeout_ms": 300, "unhealthy_threshold": 2 });
    let pool = json!({ "protocol": "h2c", "hold": { "max_ms": 0 }, "health": health });
    let last = node.api.put("/v1/pools/demo", pool).await;
    fleet.until_epoch(last["epoch"].as_u64().expect("an epoch")).await;
    let mut kept = H1::connect(node.http).await.expect("a connection");
    // Its worker has a connection to one endpoint now, and none to the others.
    let first = kept.get_if_open("/counter").await.expect("it is open").expect("an answer");
    assert_eq!(first.status, 200);

    let mut takers = Vec::new();
    for _ in 0..2 * MOST {
        let mut taker = TcpStream::connect(node.http).expect("the kernel takes it");
        taker.write_all(b"GET / HTTP/1.1\r\n").expect("half a head");
        takers.push(taker);
    }
    let process = node.process.as_ref().expect("it runs");
    let unasked = || process.log().matches("this node cannot check an endpoint").count();
    eventually("its checks have failed", READY, async || (unasked() > 12).then_some(())).await;
    let before = processor_time(node);
    for _ in 0..6 {
        let answer = kept.get_if_open("/counter").await.expect("it is open").expect("an answer");
        assert!([200, 503].contains(&answer.status.as_u16()), "{}", answer.status);
    }
    let spent = processor_time(node) - before;
    assert!(spent < Duration::from_secs(1), "{spent:?}");

    drop(takers);
    eventually("it serves again", READY, async || {
        let answer = h1(node.http, get("/counter", "")).await.ok()?;
        (answer.status == 200).then_some(())
    })
    .await;
    assert_eq!(node.metric("tidelock_health_checks_failed_total").await, 0);
}

/// A pipe of which the node has the end for its standard error, and the test the other.
fn with_a_pipe(fleet: &mut Fleet) -> File {
    let node = &mut fleet.nodes[0];
    let pipe = node.data.with_extension("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.is_ok_and(|status| status.success()), "mkfifo");
    // Both ways, or it waits for the node, which waits for it.
    let ours = File::options().read(true).write(true).open(&pipe).expect("a pipe");
    // As small as it may be, a page: what a node says at its start is more.
    rustix::pipe::fcntl_setpipe_size(&ours, 4_096).expect("its size");
    let script = format!("exec env RUST_LOG=debug \"$0\" \"$@\" 2>{}", pipe.display());
    node.enter = ["sh", "-c", &script].map(str::to_owned).to_vec();
    ours
}

async fn serves_and_stops(fleet: &mut Fleet) {
    for _ in 0..50 {
        let answer = h1(fleet.nodes[0].http, get("/counter", "")).await.expect("an answer");
        assert_eq!(answer.status, 200);
    }
    fleet.nodes[0].process.as_ref().expect("it runs").signal("TERM");
    fleet.nodes[0].until_ended().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standard_error_that_nobody_reads_costs_lines_only() {
    let mut fleet = Fleet::configured(1, None);
    let mut pipe = with_a_pipe(&mut fleet);
    fleet.start_all().await;
    fleet.add_demo(json!({ "kind": "none" })).await;
    serves_and_stops(&mut fleet).await;
    let mut held = [0; 8_192];
    let read = pipe.read(&mut held).expect("what it holds");
    let held = String::from_utf8_lossy(&held[..read]);
    assert!(held.ends_with('\n') && !held.contains("this node has left"), "only the first lines: {held}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standard_error_that_is_gone_costs_lines_only() {
    let mut fleet = Fleet::configured(1, None);
    let pipe = with_a_pipe(&mut fleet);
    fleet.start_all().await;
    drop(pipe);
    fleet.add_demo(json!({ "kind": "none" })).await;
    serves_and_stops(&mut fleet).await;
}
