//! Disks that are full, slow, torn or wiped: a node says so and ends, or goes on; it never forgets
//! what it acknowledged and goes on as if nothing had been.

use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use http::Method;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;

use crate::support::api::Api;
use crate::support::disk::{self, Stalling};
use crate::support::eventually;
use crate::support::fleet::{Fleet, READY};
use crate::support::network::in_a_network;
use crate::support::traffic::Steady;
use crate::support::writes::{Writes, until_agreed};

fn apis(fleet: &Fleet, nodes: &[usize]) -> Vec<Api> {
    nodes.iter().map(|i| fleet.nodes[*i].api).collect()
}

#[test]
fn a_node_with_a_full_disk_ends_with_a_clear_line_and_comes_back() {
    in_a_network(3, async |network| {
        let mut fleet = Fleet::configured(3, Some(network));
        disk::mount_small(&fleet, 0, 2_048);
        fleet.start_all().await;
        fleet.add_demo(json!({ "kind": "cookie" })).await;
        let steady = Steady::start(&[fleet.nodes[1].http, fleet.nodes[2].http], 4);
        let through = Writes::start("through", &apis(&fleet, &[0]));
        let others = Writes::start("others", &apis(&fleet, &[1, 2]));
        through.until_more(5).await;

        let filler = disk::data_of(&fleet, 0).join("filler");
        let mut file = std::fs::File::create(&filler).expect("a file");
        while file.write_all(&[0; 1_024]).is_ok() {}
        let status = fleet.nodes[0].process.as_mut().expect("it runs").wait(READY);
        assert!(!status.success(), "{status}");
        let log = fleet.nodes[0].process.as_ref().expect("its log").log();
        println!("{}", log.lines().last().unwrap_or_default());
        let said = log.lines().find(|line| line.contains("No space left")).expect("the reason");
        assert!(said.contains("raft.redb") && said.contains("start"), "{said}");
        assert!(!log.contains("panicked"), "{log}");
        others.until_more(10).await;

        // It says the same again while nothing has been done about it.
        std::fs::remove_file(&fleet.nodes[0].log).expect("its log");
        fleet.nodes[0].start();
        let status = fleet.nodes[0].process.as_mut().expect("it runs").wait(READY);
        let log = fleet.nodes[0].process.as_ref().expect("its log").log();
        assert!(!status.success() && log.contains("No space left") && !log.contains("panicked"), "{log}");

        drop(file);
        std::fs::remove_file(&filler).expect("room is made");
        fleet.nodes[0].start();
        fleet.nodes[0].until_ready().await;
        through.until_more(5).await;
        let mut acknowledged = through.stop().await;
        acknowledged.extend(others.stop().await);
        until_agreed(&fleet, &acknowledged).await;
        steady.stop().await.assert_clean().await;
    });
}

#[test]
fn a_leader_on_a_disk_that_stalls_loses_nothing_and_one_that_stands_still_is_replaced() {
    in_a_network(3, async |network| {
        let mut fleet = Fleet::configured(3, Some(network));
        let mut disk = Stalling::mount(&fleet, 0);
        fleet.start_all().await;
        fleet.add_demo(json!({ "kind": "cookie" })).await;
        let leader = fleet.leader().await;
        if leader != 0 {
            let path = format!("/v1/nodes/{}/lead", fleet.nodes[0].name);
            fleet.nodes[leader].api.send(Method::POST, &path, None).await.expect("an answer");
        }
        eventually("the node with the bad disk leads", READY, async || (fleet.leader().await == 0).then_some(())).await;
        let all: Vec<_> = fleet.nodes.iter().map(|node| node.http).collect();
        let steady = Steady::start(&all, 6);
        let writes = Writes::start("write", &apis(&fleet, &[0, 1, 2]));
        disk.stall(Duration::from_millis(400), Duration::from_millis(100));
        writes.until_more(20).await;

        disk.stand();
        let others = Writes::start("others", &apis(&fleet, &[1, 2]));
        eventually("another one leads", READY, async || {
            let status = fleet.nodes[1].api.get("/v1/status").await;
            status["leader"].as_str().is_some_and(|name| name != fleet.nodes[0].name).then_some(())
        })
        .await;
        others.until_more(20).await;
        disk.recover();
        let mut acknowledged = writes.stop().await;
        acknowledged.extend(others.stop().await);
        until_agreed(&fleet, &acknowledged).await;
        steady.stop().await.assert_clean().await;
    });
}

/// What is done to the log's file while its node is down.
#[derive(Debug, Clone, Copy)]
enum Damage {
    /// So many bytes are left.
    Cut(u64),
    /// A byte is another one.
    Flip(u64),
    /// A page of 4 KiB is full of zeros, as after a lost write.
    Zero(u64),
}

const PAGE: u64 = 4_096;

impl Damage {
    fn all(length: u64, random: &mut StdRng) -> Vec<Damage> {
        let mut all = vec![Damage::Cut(0), Damage::Cut(1), Damage::Cut(length / 2), Damage::Cut(length - PAGE)];
        all.extend([0, 9, 32, 64, 128, 192].map(Damage::Flip));
        all.extend((0..10).map(|_| Damage::Flip(random.random_range(0..length))));
        all.extend((0..8).map(|_| Damage::Zero(random.random_range(0..length / PAGE) * PAGE)));
        all
    }

    fn inflict(self, file: &Path) {
        let file = std::fs::File::options().read(true).write(true).open(file);
        let mut file = file.expect("the log");
        match self {
            Damage::Cut(length) => file.set_len(length).expect("it is cut"),
            Damage::Flip(at) => {
                let mut byte = [0];
                file.seek(SeekFrom::Start(at)).and_then(|_| file.read_exact(&mut byte)).expect("it is read");
                byte[0] ^= 1 << (at % 8);
                file.seek(SeekFrom::Start(at)).and_then(|_| file.write_all(&byte)).expect("it is written");
            }
            Damage::Zero(at) => {
                file.seek(SeekFrom::Start(at))
                    .and_then(|_| file.write_all(&[0; PAGE as usize]))
                    .expect("it is written");
            }
        }
    }
}

/// Starts the node on what is in its data directory: either it has every one of `names`, or it has ended
/// with a line that says which file is bad and what to do.
async fn starts_whole_or_refuses(fleet: &mut Fleet, what: &str, names: &[String]) -> bool {
    let _ = std::fs::remove_file(&fleet.nodes[0].log);
    fleet.nodes[0].start();
    let end = Instant::now() + READY;
    let whole = loop {
        assert!(Instant::now() < end, "{what}: neither ready nor ended");
        if let Some(status) = fleet.nodes[0].process.as_mut().expect("it was started").ended() {
            assert!(!status.success(), "{what}: {status}");
            break false;
        }
        let ready = fleet.nodes[0].api.send(Method::GET, "/readyz", None).await;
        if ready.is_ok_and(|answer| answer.status == 200) {
            until_agreed(fleet, names).await;
            break true;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    let log = fleet.nodes[0].process.as_ref().expect("it was started").log();
    let last = log.lines().last().unwrap_or_default();
    println!("{what}: {}", if whole { "whole" } else { last });
    assert!(!log.contains("panicked at"), "{what}: {log}");
    assert!(whole || (last.contains("raft.redb") && last.contains("data directory")), "{what}: {log}");
    fleet.nodes[0].kill();
    whole
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_log_is_read_whole_or_refused() {
    let seed: u64 =
        std::env::var("TIDELOCK_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().expect("a number"));
    println!("TIDELOCK_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut fleet = Fleet::with_demo(1, json!({ "kind": "cookie" })).await;
    let writes = Writes::start("write", &apis(&fleet, &[0]));
    writes.until_more(30).await;
    fleet.nodes[0].kill();
    let names = writes.stop().await;
    let log = fleet.nodes[0].data.join("raft.redb");
    let kept: PathBuf = log.with_extension("kept");
    std::fs::copy(&log, &kept).expect("a copy");
    let length = std::fs::metadata(&kept).expect("the log").len();
    assert!(starts_whole_or_refuses(&mut fleet, "as it was", &names).await);
    let mut refused = 0;
    for damage in Damage::all(length, &mut random) {
        std::fs::copy(&kept, &log).expect("a copy");
        damage.inflict(&log);
        let whole = starts_whole_or_refuses(&mut fleet, &format!("{damage:?} of {length}"), &names).await;
        refused += usize::from(!whole);
    }
    assert!(refused > 0, "no damage was noticed");
}
