//! One run: faults and operations for a while, then peace, then the reckoning.

use std::collections::BTreeMap;

use rand::Rng;
use rand::seq::IteratorRandom;

use super::world::{Network, World};
use crate::raft::driver::Config;
use crate::raft::exchange::Input;
use crate::raft::membership::Change;
use crate::raft::storage::memory::{CrashPoint, Faults};

#[derive(Debug, Clone, Copy)]
pub(super) struct Chaos {
    /// Units of time with faults. A tick is about ten.
    pub(super) duration: u64,
    /// The planted bug: disks that make only every n-th write durable and say nothing.
    pub(super) lazy_disks: Option<u64>,
    /// The planted bug: disks that are one effect late, as with a driver that sends before it writes.
    pub(super) late_disks: bool,
}

impl Default for Chaos {
    fn default() -> Self {
        Self { duration: 2_500, lazy_disks: None, late_disks: false }
    }
}

/// Sizes of fleets, by seed. One is where nobody else can have what a node forgets.
const FOUNDERS: [u64; 6] = [5, 3, 1, 5, 3, 3];

/// A node that is added, promoted, demoted and removed while the faults happen.
const GUEST: u64 = 9;

/// How often each thing happened that a run is for.
pub(super) type Happened = BTreeMap<&'static str, u64>;

/// Runs a seed and returns the final state, by which two runs can be compared.
pub(super) fn run(seed: u64, chaos: Chaos) -> (Vec<u64>, u64, Happened) {
    // Small limits, so that compaction and snapshots happen all the time.
    let config = Config { snapshot_every: 20, keep_entries: 8, ..Config::default() };
    let mut world = World::new(seed, FOUNDERS[(seed % 6) as usize], config);
    world.add_newcomer(GUEST);
    let ids: Vec<u64> = world.nodes.keys().copied().collect();
    for node in world.nodes.values() {
        if chaos.late_disks {
            node.power.set_late_disk(true);
        } else {
            node.disk.set_faults(Faults { lazy: chaos.lazy_disks, crash: None });
        }
    }
    while world.now < chaos.duration {
        disturb(&mut world, &ids, chaos);
        operate(&mut world, &ids);
        world.advance();
    }
    settle(&mut world, &ids);
    let (writes, applied) = judge(&mut world);
    (writes, applied, world.happened)
}

fn disturb(world: &mut World, ids: &[u64], chaos: Chaos) {
    let victim = *ids.iter().choose(&mut world.rng).expect("a fleet has nodes");
    match world.rng.random_range(0..1_000) {
        0..3 => {
            world.count("power lost at rest");
            world.crash(victim);
        }
        // In the middle of a write: before or after it became durable. A disk that is late has no such
        // middle: its last write would land on what it has not written yet.
        3..8 if !chaos.late_disks => {
            let crash = CrashPoint { commit: world.rng.random_range(1..4), written: world.rng.random() };
            world.nodes[&victim].disk.set_faults(Faults { lazy: chaos.lazy_disks, crash: Some(crash) });
        }
        // Between two steps of the Ready loop.
        8..18 => world.nodes[&victim].power.fail_before(world.rng.random_range(1..20)),
        18..48 if !world.is_up(victim) => {
            world.count("restarted");
            world.start(victim);
        }
        48..52 => {
            world.count("one node parted");
            world.partition(&[victim]);
        }
        52..55 => {
            let half: Vec<u64> = ids.iter().copied().filter(|_| world.rng.random()).collect();
            world.partition(&half);
        }
        // One way only: a leader that is heard and hears nobody, a follower that hears and is not heard.
        55..59 => {
            let towards = world.rng.random();
            world.count(if towards { "one node deaf" } else { "one node mute" });
            world.silence(&[victim], towards);
        }
        59..61 => {
            let half: Vec<u64> = ids.iter().copied().filter(|_| world.rng.random()).collect();
            world.silence(&half, true);
        }
        61..76 => world.heal(),
        76..82 => {
            world.network = Network {
                loss: world.rng.random_range(0..30),
                duplication: world.rng.random_range(0..30),
                delay: world.rng.random_range(1..40),
            };
        }
        _ => {}
    }
}

fn operate(world: &mut World, ids: &[u64]) {
    let node = *ids.iter().choose(&mut world.rng).expect("a fleet has nodes");
    if !world.is_up(node) {
        return;
    }
    let ticks = world.rng.random_range(5..60);
    match world.rng.random_range(0..1_000) {
        0..120 => _ = world.write(node, ticks),
        120..160 => _ = world.read(node, ticks),
        160..164 => {
            world.input(node, Input::TransferLeader(None));
            if world.leader() == Some(node) {
                world.count("leader handed over");
            }
        }
        164..170 => {
            let other = *ids.iter().choose(&mut world.rng).expect("a fleet has nodes");
            let changes: &[Change] = match world.rng.random_range(0..5) {
                0 => &[Change::AddLearner(GUEST)],
                1 => &[Change::AddVoter(GUEST)],
                2 => &[Change::Remove(GUEST)],
                3 => &[Change::AddVoter(GUEST), Change::AddLearner(other)],
                _ => &[Change::AddVoter(other)],
            };
            if let Some(leader) = world.leader() {
                world.change(leader, changes, ticks);
            }
        }
        _ => {}
    }
}

/// Peace: everybody is up and reaches everybody, and the fleet must come back to life by itself.
fn settle(world: &mut World, ids: &[u64]) {
    world.heal();
    world.network = Network::GOOD;
    for id in ids {
        world.nodes[id].power.restore();
        world.nodes[id].power.set_late_disk(false);
        if !world.is_up(*id) {
            world.start(*id);
        }
    }
    world.until(2_000, "every operation is answered", World::is_quiet);
    world.until(2_000, "a leader", |world| world.leader().is_some());
    let leader = world.leader().expect("waited for it");
    let last = world.write(leader, 100);
    world.until(1_500, "a write in peace", |world| world.outcomes.contains_key(&last));
    assert!(world.outcomes[&last].is_ok(), "a write in peace failed: {:?}", world.outcomes[&last]);
    world.until(3_000, "every member catches up, on one majority", |world| {
        let Some(leader) = world.leader() else { return false };
        let leader = world.status(leader);
        !leader.membership.is_joint()
            && leader.membership.ids().all(|id| {
                let status = world.status(id);
                status.applied == leader.commit && status.leader == Some(leader.id)
            })
    });
}

fn judge(world: &mut World) -> (Vec<u64>, u64) {
    let leader = world.status(world.leader().expect("settle found one"));
    let writes = world.writes(leader.id).to_vec();
    world.checker().final_state(&writes);
    for id in leader.membership.ids() {
        assert_eq!(world.writes(id), writes, "node {id} differs at index {}", leader.applied);
    }
    (writes, leader.applied)
}
