//! A fleet of fifty: five vote, the others learn, all of them let in one after the other as an operator
//! would. What it must do under loss and a partition, and what an entry costs on the network.

use super::world::{Network, World};
use crate::raft::driver::Config;
use crate::raft::exchange::Token;
use crate::raft::membership::Change;

const VOTERS: u64 = 5;

/// Ticks and units of time that anything may take here.
const TICKS: u64 = 300;
const PATIENCE: u64 = 20_000;

/// A founded fleet of `size` whose last members are learners.
fn fleet(seed: u64, voters: u64, size: u64) -> World {
    let mut world = World::new(seed, voters, Config { snapshot_every: 40, keep_entries: 20, ..Config::default() });
    world.until(PATIENCE, "a leader", |world| world.leader().is_some());
    for id in voters + 1..=size {
        world.add_newcomer(id);
        let joined = |world: &World| world.leader().is_some_and(|leader| world.status(leader).membership.contains(id));
        while !joined(&world) {
            let leader = world.leader().expect("nothing disturbs the fleet yet");
            let change = world.change(leader, &[Change::AddLearner(id)], TICKS);
            world.until(PATIENCE, "a learner is let in", |world| world.outcomes.contains_key(&change));
        }
    }
    caught_up(&mut world);
    world
}

fn caught_up(world: &mut World) {
    world.until(PATIENCE, "every member has everything", |world| {
        let Some(leader) = world.leader() else { return false };
        let leader = world.status(leader);
        leader.applied == leader.commit && leader.membership.ids().all(|id| world.status(id).applied == leader.commit)
    });
}

fn all_answered(world: &mut World, writes: &[Token]) {
    world.until(PATIENCE, "writes are answered", |world| writes.iter().all(|write| world.outcomes.contains_key(write)));
}

#[test]
fn sim_a_fleet_of_fifty_agrees_under_loss_and_through_a_partition() {
    for seed in 0..2 {
        let mut world = fleet(seed, VOTERS, 50);
        world.network = Network { loss: 5, duplication: 5, delay: 15 };
        let first_leader = world.leader().expect("it has one");
        // The leader, another voter and a third of the learners on the smaller side.
        let other = if first_leader == 1 { 2 } else { 1 };
        let parted: Vec<u64> = [first_leader, other].into_iter().chain(VOTERS + 1..=20).collect();
        let mut writes = Vec::new();
        for round in 0..90 {
            match round {
                20 => world.partition(&parted),
                60 => world.heal(),
                _ => {}
            }
            // Some arrive where there is no majority; those wait, or are denied, or stay unknown.
            for node in [1, 4, 7 + round % 13, 21 + round % 29] {
                writes.push(world.write(node, TICKS));
            }
            (0..25).for_each(|_| world.advance());
        }
        all_answered(&mut world, &writes);
        world.network = Network::GOOD;
        caught_up(&mut world);

        let applied = writes.iter().filter(|write| world.outcomes[write].is_ok()).count();
        assert!(applied > writes.len() / 2, "only {applied} of {} writes", writes.len());
        let leader = world.leader().expect("it has one");
        let state = world.writes(leader).to_vec();
        world.checker().final_state(&state);
        for id in 1..=50 {
            assert_eq!(world.writes(id), state, "node {id}");
        }
        assert!(world.happened.contains_key("snapshot sent"), "learners begin with a snapshot");
    }
}

/// What the table in docs/scaling.md says. `cargo nextest run -p tidelock-control-plane sim_an_entry
/// --no-capture` prints it.
#[test]
fn sim_an_entry_costs_each_node_a_few_messages_whatever_the_size() {
    for (voters, size) in [(3, 3), (5, 5), (5, 20), (5, 50)] {
        let mut world = fleet(1, voters, size);
        let leader = world.leader().expect("it has one");
        // One connection to each peer: nothing overtakes, or rejected appends would count.
        world.network = Network { delay: 1, ..Network::GOOD };

        let before = world.traffic;
        // A tick is ten units on average.
        (0..1_000).for_each(|_| world.advance());
        let idle = (world.traffic.0 - before.0) as f64 / 100.0;

        let (entries, start, before) = (64, world.now, world.traffic);
        for _ in 0..entries {
            let write = world.write(leader, TICKS);
            all_answered(&mut world, &[write]);
        }
        caught_up(&mut world);
        let ticks = (world.now - start) as f64 / 10.0;
        let messages = ((world.traffic.0 - before.0) as f64 - idle * ticks) / entries as f64;
        // A heartbeat and its answer have 16 bytes each.
        let bytes = ((world.traffic.1 - before.1) as f64 - 16.0 * idle * ticks) / entries as f64;
        println!("{size:>3} nodes: {idle:.0} messages a tick; an entry {messages:.0} messages, {bytes:.0} bytes");
        let others = size as f64 - 1.0;
        // A heartbeat and its answer every other tick.
        assert!(idle <= 1.2 * others, "{idle} messages a tick without work to {others} others");
        // The entry, that it is committed, and an answer to each.
        assert!(messages <= 4.5 * others, "{messages} messages for an entry to {others} others");
        assert!(bytes <= 120.0 * others, "{bytes} bytes for an entry of 24 to {others} others");
    }
}
