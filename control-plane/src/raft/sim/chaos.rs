//! One run: faults and operations for a while, then peace, then the reckoning.

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
}

impl Default for Chaos {
    fn default() -> Self {
        Self { duration: 2_500, lazy_disks: None }
    }
}

/// A node that is added, promoted, demoted and removed while the faults happen.
const GUEST: u64 = 9;

/// Runs a seed and returns the final state, by which two runs can be compared.
pub(super) fn run(seed: u64, chaos: Chaos) -> (Vec<u64>, u64) {
    // Small limits, so that compaction and snapshots happen all the time.
    let config = Config { snapshot_every: 20, keep_entries: 8, ..Config::default() };
    let mut world = World::new(seed, if seed.is_multiple_of(3) { 5 } else { 3 }, config);
    world.add_newcomer(GUEST);
    let ids: Vec<u64> = world.nodes.keys().copied().collect();
    for node in world.nodes.values() {
        node.disk.set_faults(Faults { lazy: chaos.lazy_disks, crash: None });
    }
    while world.now < chaos.duration {
        disturb(&mut world, &ids, chaos);
        operate(&mut world, &ids);
        world.advance();
    }
    settle(&mut world, &ids);
    judge(&mut world)
}

fn disturb(world: &mut World, ids: &[u64], chaos: Chaos) {
    let victim = *ids.iter().choose(&mut world.rng).expect("a fleet has nodes");
    match world.rng.random_range(0..1_000) {
        0..3 => world.crash(victim),
        // In the middle of a write: before or after it became durable.
        3..8 => {
            let crash = CrashPoint { commit: world.rng.random_range(1..4), written: world.rng.random() };
            world.nodes[&victim].disk.set_faults(Faults { lazy: chaos.lazy_disks, crash: Some(crash) });
        }
        8..38 if !world.is_up(victim) => world.start(victim),
        38..42 => world.partition(&[victim]),
        42..45 => {
            let half: Vec<u64> = ids.iter().copied().filter(|_| world.rng.random()).collect();
            world.partition(&half);
        }
        45..60 => world.heal(),
        60..66 => {
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
        160..164 => world.input(node, Input::TransferLeader(None)),
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
        let lazy = None;
        world.nodes[id].disk.set_faults(Faults { lazy, crash: None });
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
