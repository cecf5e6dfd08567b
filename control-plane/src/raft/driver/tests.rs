//! The rules that a driver of the raft crate must keep, one by one, on quiet networks.
//! `sim` tries them all at once on bad ones.

use std::sync::{Arc, Mutex};

use raft::prelude::MessageType;

use super::*;
use crate::raft::bootstrap;
use crate::raft::exchange::Forward;
use crate::raft::membership::Change;
use crate::raft::sim::checker::{Checker, Register};
use crate::raft::sim::world::{Network, World};
use crate::raft::storage::Loaded;
use crate::raft::storage::memory::{CrashPoint, Disk, Faults, MemoryStore};

const PATIENCE: u64 = 2_000;

fn small() -> Config {
    Config { snapshot_every: 20, keep_entries: 5, election_spread: 1, ..Config::default() }
}

fn led(founders: u64) -> (World, u64) {
    let mut world = World::new(1, founders, small());
    world.until(PATIENCE, "a leader", |world| {
        world.leader().is_some_and(|leader| world.up().all(|id| world.status(id).leader == Some(leader)))
    });
    let leader = world.leader().unwrap();
    (world, leader)
}

#[track_caller]
fn write(world: &mut World, node: u64) -> u64 {
    let token = world.write(node, 100);
    world.until(PATIENCE, "a write", |world| world.outcomes.contains_key(&token));
    world.outcomes[&token].clone().expect("the write is applied")
}

#[track_caller]
fn change(world: &mut World, changes: &[Change]) -> Result<u64, String> {
    let leader = world.leader().unwrap();
    let token = world.change(leader, changes, 100);
    world.until(PATIENCE, "a change", |world| world.outcomes.contains_key(&token));
    world.outcomes[&token].clone()
}

/// What a driver did, in order.
#[derive(Debug, Clone, PartialEq)]
enum Did {
    Sent(MessageType),
    Persisted { entries: usize },
    Published,
    Answered,
}

type Diary = Arc<Mutex<Vec<Did>>>;

struct Watched(MemoryStore, Diary);

impl Store for Watched {
    fn load(&mut self) -> Result<Loaded, StoreError> {
        self.0.load()
    }

    fn commit(&mut self, write: &Write<'_>) -> Result<(), StoreError> {
        self.1.lock().unwrap().push(Did::Persisted { entries: write.entries.len() });
        self.0.commit(write)
    }
}

struct Observed(Register, Diary);

impl StateMachine for Observed {
    type Answer = usize;

    fn apply(&mut self, index: u64, data: &[u8]) -> usize {
        self.0.apply(index, data)
    }

    fn snapshot(&self) -> Vec<u8> {
        self.0.snapshot()
    }

    fn restore(&mut self, index: u64, bytes: &[u8]) -> Result<(), String> {
        self.0.restore(index, bytes)
    }

    fn applied(&mut self, _: u64) {
        self.1.lock().unwrap().push(Did::Published);
    }
}

struct Post(Diary, Vec<(u64, Outgoing)>);

impl Outbox<usize> for Post {
    fn send(&mut self, to: u64, message: Outgoing) {
        if let Outgoing::Raft(message) = &message {
            self.0.lock().unwrap().push(Did::Sent(message.get_msg_type()));
        }
        self.1.push((to, message));
    }

    fn answer(&mut self, _: Token, _: Answer<usize>) {
        self.0.lock().unwrap().push(Did::Answered);
    }
}

/// A single driver of a fleet of `founders`, without its peers.
fn alone(id: u64, founders: &[u64]) -> (Driver<Watched, Observed>, Post, Diary) {
    let disk = Disk::new(id);
    bootstrap::found(&mut disk.store(), founders, Vec::new()).unwrap();
    let diary = Diary::default();
    let machine = Observed(Register::new(Arc::<Mutex<Checker>>::default()), diary.clone());
    let mut driver = Driver::open(small(), Watched(disk.store(), diary.clone()), machine).unwrap();
    let mut post = Post(diary.clone(), Vec::new());
    driver.ready(&mut post).unwrap();
    diary.lock().unwrap().clear();
    (driver, post, diary)
}

fn message(kind: MessageType, from: u64, to: u64, term: u64) -> Message {
    let mut message = Message::default();
    message.set_msg_type(kind);
    (message.from, message.to, message.term) = (from, to, term);
    message
}

#[test]
fn a_vote_is_on_disk_before_it_is_sent() {
    let (mut driver, mut post, diary) = alone(1, &[1, 2, 3]);
    let mut request = message(MessageType::MsgRequestVote, 2, 1, 5);
    (request.index, request.log_term) = (9, 4);
    driver.step(Input::Peer(Box::new(request)), &mut post).unwrap();
    driver.ready(&mut post).unwrap();
    let vote = Did::Sent(MessageType::MsgRequestVoteResponse);
    assert_eq!(*diary.lock().unwrap(), [Did::Persisted { entries: 0 }, vote]);
}

#[test]
fn entries_are_on_disk_before_they_are_acknowledged() {
    let (mut driver, mut post, diary) = alone(1, &[1, 2, 3]);
    let mut append = message(MessageType::MsgAppend, 2, 1, 5);
    (append.index, append.log_term) = (1, 1);
    let mut entry = Entry::default();
    (entry.index, entry.term) = (2, 5);
    append.mut_entries().push(entry);
    driver.step(Input::Peer(Box::new(append)), &mut post).unwrap();
    driver.ready(&mut post).unwrap();
    let acknowledged = Did::Sent(MessageType::MsgAppendResponse);
    assert_eq!(*diary.lock().unwrap(), [Did::Persisted { entries: 1 }, acknowledged]);
}

#[test]
fn a_leader_sends_before_its_own_disk_and_publishes_before_it_answers() {
    let (mut driver, mut post, diary) = alone(1, &[1, 2, 3]);
    let mut ticks = 0;
    while driver.status().role != Role::Leader {
        ticks += 1;
        assert!(ticks < 40, "node 2 grants every vote, so this one is elected");
        driver.tick(&mut post);
        driver.ready(&mut post).unwrap();
        for kind in [MessageType::MsgRequestPreVoteResponse, MessageType::MsgRequestVoteResponse] {
            let term = driver.status().term + u64::from(kind == MessageType::MsgRequestPreVoteResponse);
            driver.step(Input::Peer(Box::new(message(kind, 2, 1, term))), &mut post).unwrap();
            driver.ready(&mut post).unwrap();
        }
    }
    let acknowledge = |driver: &mut Driver<Watched, Observed>, post: &mut Post| {
        let mut response = message(MessageType::MsgAppendResponse, 2, 1, driver.status().term);
        response.index = driver.node.raft.raft_log.last_index();
        driver.step(Input::Peer(Box::new(response)), post).unwrap();
        driver.ready(post).unwrap();
    };
    acknowledge(&mut driver, &mut post);
    diary.lock().unwrap().clear();

    let payload = 7u64.to_be_bytes().to_vec();
    driver.step(Input::Propose { token: Token(1), id: 1, payload, ticks: 10 }, &mut post).unwrap();
    driver.ready(&mut post).unwrap();
    assert_eq!(*diary.lock().unwrap(), [Did::Sent(MessageType::MsgAppend), Did::Persisted { entries: 1 }]);
    diary.lock().unwrap().clear();
    acknowledge(&mut driver, &mut post);
    let diary = diary.lock().unwrap();
    let at = |did: Did| diary.iter().position(|other| *other == did).unwrap_or_else(|| panic!("{did:?} in {diary:?}"));
    assert!(at(Did::Published) < at(Did::Answered), "{diary:?}");
    assert!(!diary.contains(&Did::Persisted { entries: 0 }), "no answer waits for the commit's own write: {diary:?}");
    let applied = driver.status().applied;
    drop(diary);
    // Within a tick it is on disk all the same.
    driver.tick(&mut post);
    driver.ready(&mut post).unwrap();
    assert_eq!(driver.store.load().unwrap().hard_state.commit, applied);
}

/// Each commit of a history is tried as the last one, durable and not: the node always comes back,
/// with everything it answered for.
/// A lone voter leads as soon as it asks for votes; its learners must not hear of a term that it could
/// forget and lead again, with other entries.
#[test]
fn a_lone_voter_speaks_in_its_new_term_only_when_it_is_on_disk() {
    let (mut world, leader) = led(1);
    world.add_newcomer(9);
    change(&mut world, &[Change::AddLearner(9)]).unwrap();
    // Until the snapshot names the learner: then it is known from the first step after a restart on.
    (0..30).for_each(|_| _ = write(&mut world, leader));
    let diary = Diary::default();
    let machine = Observed(Register::new(Arc::<Mutex<Checker>>::default()), diary.clone());
    let store = Watched(world.nodes[&leader].disk.store(), diary.clone());
    let mut driver = Driver::open(small(), store, machine).unwrap();
    diary.lock().unwrap().clear();
    driver.ready(&mut Post(diary.clone(), Vec::new())).unwrap();
    let diary = diary.lock().unwrap();
    assert!(diary.contains(&Did::Sent(MessageType::MsgAppend)), "the learner is told: {diary:?}");
    assert!(matches!(diary[0], Did::Persisted { .. }), "{diary:?}");
}

#[test]
fn a_crash_in_any_write_recovers() {
    for commit in 1..60 {
        for written in [false, true] {
            let mut world = World::new(commit, 1, Config { snapshot_every: 4, keep_entries: 2, ..Config::default() });
            world.nodes[&1].disk.set_faults(Faults { crash: Some(CrashPoint { commit, written }), lazy: None });
            for _ in 0..25 {
                if !world.is_up(1) {
                    break;
                }
                world.write(1, 10);
            }
            if world.is_up(1) {
                world.crash(1);
            }
            world.start(1);
            let writes = world.writes(1).to_vec();
            world.checker().final_state(&writes);
            write(&mut world, 1);
        }
    }
}

#[test]
fn a_learner_starts_from_a_fresh_snapshot_that_names_it() {
    // No compaction by itself: the only snapshot is the founders', which does not know node 9.
    let mut world = World::new(1, 3, Config { snapshot_every: 100_000, ..small() });
    world.until(PATIENCE, "a leader", |world| world.leader().is_some());
    let leader = world.leader().unwrap();
    for _ in 0..5 {
        write(&mut world, leader);
    }
    world.add_newcomer(9);
    change(&mut world, &[Change::AddLearner(9)]).unwrap();
    world.until(PATIENCE, "the learner catches up", |world| world.status(9).applied == world.status(leader).applied);
    assert_eq!(world.status(9).role, Role::Learner);
    assert_eq!(world.writes(9).len(), 5);
}

#[test]
fn a_follower_that_is_far_behind_catches_up_by_snapshot() {
    let (mut world, leader) = led(3);
    let behind = world.up().find(|id| *id != leader).unwrap();
    world.crash(behind);
    for _ in 0..60 {
        write(&mut world, leader);
    }
    world.start(behind);
    world.until(PATIENCE, "it catches up", |world| world.status(behind).applied == world.status(leader).applied);
    assert_eq!(world.writes(behind), world.writes(leader));
}

#[test]
fn a_lost_snapshot_is_sent_again() {
    let (mut world, leader) = led(3);
    let behind = world.up().find(|id| *id != leader).unwrap();
    world.crash(behind);
    for _ in 0..60 {
        write(&mut world, leader);
    }
    world.start(behind);
    // Every second message is lost, snapshots among them; the transport's reports unblock the leader.
    world.network = Network { loss: 50, duplication: 0, delay: 5 };
    for _ in 0..600 {
        world.advance();
    }
    world.network = Network::GOOD;
    world.until(PATIENCE, "it catches up", |world| {
        world.leader().is_some_and(|leader| world.status(behind).applied == world.status(leader).commit)
    });
}

#[test]
fn an_old_id_with_an_empty_disk_is_a_clear_end_and_no_panic() {
    let (mut world, leader) = led(3);
    write(&mut world, leader);
    let lost = world.up().find(|id| *id != leader).unwrap();
    world.until(PATIENCE, "all have it", |world| world.status(lost).applied == world.status(leader).applied);
    // The volume is gone and somebody gave the new one the old id.
    world.crash(lost);
    world.add_newcomer(lost);
    world.until(PATIENCE, "it gives up", |world| !world.is_up(lost));
    let fatal = world.nodes[&lost].fatal.as_ref().expect("it says why");
    assert!(matches!(fatal, Fatal::LostLog { last: 0, .. }), "{fatal}");
    assert!(fatal.to_string().contains("remove the id from the fleet"));
}

#[test]
fn a_leader_without_a_majority_steps_down_and_a_partitioned_node_disturbs_nobody() {
    let (mut world, leader) = led(3);
    let term = world.status(leader).term;
    let follower = world.up().find(|id| *id != leader).unwrap();
    world.partition(&[follower]);
    for _ in 0..1_000 {
        world.advance();
    }
    assert_eq!(world.status(follower).term, term, "it asked before raising its term");
    world.heal();
    for _ in 0..300 {
        world.advance();
    }
    assert_eq!((world.leader(), world.status(leader).term), (Some(leader), term));

    world.partition(&[leader]);
    world.until(PATIENCE, "the old leader steps down", |world| world.status(leader).role != Role::Leader);
}

#[test]
fn a_write_on_a_follower_is_forwarded_and_applied_there_before_the_answer() {
    let (mut world, leader) = led(3);
    let follower = world.up().find(|id| *id != leader).unwrap();
    // `World::finish` checks that the proposer's own machine has the write.
    let index = write(&mut world, follower);
    assert!(world.status(follower).applied >= index);
}

#[test]
fn a_write_without_a_leader_waits_for_one_and_is_denied_at_its_deadline() {
    let (mut world, leader) = led(3);
    let others: Vec<u64> = world.up().filter(|id| *id != leader).collect();
    world.crash(leader);
    let patient = world.write(others[0], 200);
    world.until(PATIENCE, "the write outlives the election", |world| world.outcomes.contains_key(&patient));

    world.until(PATIENCE, "the next leader", |world| world.leader().is_some());
    world.crash(others[1]);
    world.until(PATIENCE, "no leader", |world| world.status(others[0]).leader.is_none());
    let denied = world.write(others[0], 10);
    world.until(PATIENCE, "the deadline", |world| world.outcomes.contains_key(&denied));
    assert!(world.outcomes[&denied].as_ref().unwrap_err().contains("was not applied"));
}

#[test]
fn a_write_that_a_lost_leader_took_is_unknown_or_applied_but_never_denied() {
    let (mut world, leader) = led(3);
    world.partition(&[leader]);
    let stranded = world.write(leader, 15);
    world.until(PATIENCE, "the deadline", |world| world.outcomes.contains_key(&stranded));
    assert!(world.outcomes[&stranded].as_ref().unwrap_err().contains("unknown"));
}

#[test]
fn a_second_copy_of_a_forwarded_write_is_not_appended_again() {
    let (mut driver, mut post, _) = alone(1, &[1]);
    let term = driver.status().term;
    let forward = Forward { request: 5, term, id: 8, payload: 3u64.to_be_bytes().to_vec() };
    for _ in 0..2 {
        driver.step(Input::Forward { from: 2, forward: forward.clone() }, &mut post).unwrap();
        // `Register::apply` fails on a write that comes twice.
        driver.ready(&mut post).unwrap();
    }
    let replies: Vec<_> = post.1.iter().filter(|(_, out)| matches!(out, Outgoing::ForwardReply { .. })).collect();
    assert_eq!(replies.len(), 2);
    assert_eq!(format!("{:?}", replies[0]), format!("{:?}", replies[1]));
}

#[test]
fn a_forwarded_write_of_another_term_is_refused_and_one_of_an_earlier_life_left_open() {
    let (mut driver, mut post, _) = alone(1, &[1]);
    for term in [driver.status().term + 1, 1] {
        let forward = Forward { request: term, term, id: 8, payload: vec![0; 8] };
        driver.step(Input::Forward { from: 2, forward }, &mut post).unwrap();
    }
    let replies: Vec<_> = post.1.iter().map(|(_, out)| format!("{out:?}")).collect();
    assert_eq!(replies.len(), 1, "the second might have been appended before a restart");
    assert!(replies[0].contains("Refused"), "{replies:?}");
}

#[test]
fn a_read_asked_before_there_is_a_leader_is_asked_again() {
    let mut world = World::new(1, 3, small());
    let read = world.read(2, 500);
    world.until(PATIENCE, "the read", |world| world.outcomes.contains_key(&read));
    assert!(world.outcomes[&read].is_ok());
}

#[test]
fn a_read_sees_what_was_acknowledged_elsewhere() {
    let (mut world, leader) = led(3);
    let follower = world.up().find(|id| *id != leader).unwrap();
    write(&mut world, leader);
    // `World::finish` checks that the reader has seen every earlier acknowledgement.
    let read = world.read(follower, 100);
    world.until(PATIENCE, "the read", |world| world.outcomes.contains_key(&read));
    assert!(world.outcomes[&read].is_ok());
}

#[test]
fn leadership_goes_to_the_named_voter_and_writes_go_on() {
    let (mut world, leader) = led(3);
    write(&mut world, leader);
    let heir = world.up().find(|id| *id != leader).unwrap();
    world.input(leader, Input::TransferLeader(Some(heir)));
    world.until(PATIENCE, "the heir leads", |world| world.leader() == Some(heir));
    write(&mut world, leader);
}

#[test]
fn several_changes_at_once_pass_through_a_joint_membership_and_leave_it() {
    let (mut world, leader) = led(3);
    let leaving = world.up().find(|id| *id != leader).unwrap();
    world.add_newcomer(9);
    change(&mut world, &[Change::AddVoter(9), Change::Remove(leaving)]).unwrap();
    world.until(PATIENCE, "the joint membership is left", |world| {
        let membership = world.status(leader).membership;
        !membership.is_joint() && membership.voters.contains(&9) && !membership.contains(leaving)
    });
    write(&mut world, leader);
}

/// raft 0.7 panics in `maybe_commit` when a leader outlives its own membership; found by `sim`.
#[test]
fn a_leader_that_is_removed_steps_down_and_the_others_go_on() {
    let (mut world, leader) = led(3);
    change(&mut world, &[Change::Remove(leader)]).unwrap();
    assert_ne!(world.status(leader).role, Role::Leader);
    world.until(PATIENCE, "another leads", |world| world.leader().is_some_and(|id| id != leader));
    let next = world.leader().unwrap();
    write(&mut world, next);
    assert!(!world.status(next).membership.contains(leader));
}

#[test]
fn a_change_that_leaves_nobody_to_vote_is_refused_before_the_log() {
    let (mut world, leader) = led(1);
    let error = change(&mut world, &[Change::Remove(leader)]).unwrap_err();
    assert!(error.contains("refused"), "{error}");
    write(&mut world, leader);
}

#[test]
fn a_change_on_a_follower_names_the_leader() {
    let (mut world, leader) = led(3);
    let follower = world.up().find(|id| *id != leader).unwrap();
    let token = world.change(follower, &[Change::AddLearner(9)], 10);
    let error = world.outcomes[&token].as_ref().unwrap_err();
    assert!(error.contains(&format!("{leader:016x}")), "{error}");
}

#[test]
fn too_large_and_doubled_proposals_are_refused_at_once() {
    let (mut driver, mut post, diary) = alone(1, &[1, 2, 3]);
    let payload = vec![0; small().max_payload + 1];
    driver.step(Input::Propose { token: Token(1), id: 1, payload, ticks: 10 }, &mut post).unwrap();
    assert_eq!(*diary.lock().unwrap(), [Did::Answered]);
    for token in [2, 3] {
        driver.step(Input::Propose { token: Token(token), id: 1, payload: vec![0; 8], ticks: 10 }, &mut post).unwrap();
    }
    assert_eq!(*diary.lock().unwrap(), [Did::Answered, Did::Answered], "the large one holds no id, the second 1 does");
}

#[test]
fn the_log_is_bounded_by_entries() {
    let (mut world, leader) = led(1);
    for _ in 0..200 {
        write(&mut world, leader);
    }
    let loaded = world.nodes[&leader].disk.store().load().unwrap();
    assert!(loaded.entries.len() <= 26, "{} entries are kept", loaded.entries.len());
}

#[test]
fn raft_runs_with_the_settings_that_its_defaults_leave_off() {
    let config = Config::default().for_raft(1, 0);
    config.validate().unwrap();
    assert!(config.pre_vote && config.check_quorum);
    assert!(config.max_size_per_msg >= 1 << 20 && config.max_uncommitted_size < u64::MAX);
    assert!(config.max_committed_size_per_ready < u64::MAX);
}
