//! Nodes are killed again and again while the fleet is written to.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;

use crate::support::fleet::Fleet;
use crate::support::writes::{Writes, until_agreed};

/// Kill -9 of a node anywhere, every few hundred milliseconds, sometimes of a majority at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_killed_at_random_lose_no_acknowledged_write() {
    let seed: u64 =
        std::env::var("TIDELOCK_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().expect("a number"));
    println!("TIDELOCK_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut fleet = Fleet::with_demo(3, json!({ "kind": "cookie" })).await;
    let everywhere: Vec<_> = fleet.nodes.iter().map(|node| node.api).collect();
    let writes: Vec<Writes> = ["one", "two", "three"].map(|prefix| Writes::start(prefix, &everywhere)).into();
    let end = Instant::now() + Duration::from_secs(15);
    while Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(random.random_range(50..900))).await;
        let victim = random.random_range(0..fleet.nodes.len());
        fleet.nodes[victim].kill();
        if random.random_ratio(1, 3) {
            tokio::time::sleep(Duration::from_millis(random.random_range(0..600))).await;
        }
        fleet.nodes[victim].start();
    }
    fleet.until_led().await;
    let mut acknowledged = Vec::new();
    for writer in writes {
        writer.until_more(1).await;
        acknowledged.extend(writer.stop().await);
    }
    println!("{} writes were acknowledged", acknowledged.len());
    until_agreed(&fleet, &acknowledged).await;
}
