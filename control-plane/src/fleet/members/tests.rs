use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tidelock_core::command::Proposal;
use tidelock_core::id::Epoch;
use tidelock_core::member::JoinToken;
use tidelock_core::report::NodeReport;

use super::*;
use crate::fleet::roster::Bulletin;
use crate::raft::Role;

/// A leader, node 1, with voters and learners; those in `away` are not heard of.
struct Fleet {
    state: State,
    raft: Status,
    away: Vec<u64>,
    leaving: Vec<u64>,
}

impl Fleet {
    fn new(voters: &[u64], learners: &[u64]) -> Fleet {
        let membership = Membership { learners: learners.to_vec(), ..Membership::of_voters(voters) };
        let matched: BTreeMap<u64, u64> = membership.ids().map(|id| (id, 1_000)).collect();
        let raft = Status {
            id: 1,
            role: Role::Leader,
            leader: Some(1),
            term: 3,
            commit: 1_000,
            applied: 1_000,
            membership,
            matched,
        };
        Fleet { state: State::default(), raft, away: Vec::new(), leaving: Vec::new() }
    }

    fn want(mut self, node: u64, wanted: Wanted) -> Fleet {
        self.state.members.insert(NodeId(node), wanted);
        self
    }

    fn away(mut self, node: u64) -> Fleet {
        self.away.push(node);
        self
    }

    fn members(&self) -> Vec<Member> {
        let member = |id: u64| Member {
            id: NodeId(id),
            role: Role::Follower,
            local: id == 1,
            label: format!("n{id}"),
            age: Some(if self.away.contains(&id) { Duration::from_secs(60) } else { Duration::ZERO }),
            bulletin: Some(Arc::new(Bulletin {
                name: "n".parse().unwrap(),
                admin: None,
                level: 2,
                removed: Vec::new(),
                report: NodeReport { leaving: self.leaving.contains(&id), ..NodeReport::default() },
            })),
        };
        self.raft.membership.ids().map(member).collect()
    }

    fn next(&self) -> Step {
        let members = self.members();
        let peers: Vec<Peer> = (1..=9).filter(|id| !self.away.contains(id)).map(|id| peer(id, None)).collect();
        next(&self.state, &self.raft, &members, &peers)
    }
}

fn peer(id: u64, token: Option<&str>) -> Peer {
    Peer {
        id,
        name: String::new(),
        address: String::new(),
        admin: String::new(),
        version: String::new(),
        last_seen: None,
        connected: true,
        join_token: token.map(crate::raft::sha256),
    }
}

#[test]
fn a_node_learns_before_it_votes() {
    let fleet = Fleet::new(&[1, 2, 3], &[]);
    assert_eq!(fleet.next(), Step::Nothing);
    assert_eq!(fleet.want(4, Wanted::Voter).next(), Step::Change(vec![Change::AddLearner(4)]));
    let mut fleet = Fleet::new(&[1, 2, 3], &[4]).want(4, Wanted::Voter);
    fleet.raft.matched.insert(4, 899);
    assert_eq!(fleet.next(), Step::Nothing, "it has not caught up");
    fleet.raft.matched.insert(4, 900);
    assert_eq!(fleet.next(), Step::Change(vec![Change::AddVoter(4)]));
    assert_eq!(Fleet::new(&[1, 2, 3], &[4]).want(4, Wanted::Voter).away(4).next(), Step::Nothing);
    assert_eq!(Fleet::new(&[1, 2, 3], &[]).want(4, Wanted::Learner).next(), Step::Change(vec![Change::AddLearner(4)]));
    assert_eq!(Fleet::new(&[1, 2, 3], &[4]).want(4, Wanted::Learner).next(), Step::Nothing);
    assert_eq!(Fleet::new(&[1, 2, 3], &[]).want(3, Wanted::Learner).next(), Step::Change(vec![Change::AddLearner(3)]));
}

/// Nobody is added who is not there: drains wait for every member's word.
#[test]
fn a_node_that_is_not_there_is_not_added() {
    let fleet = Fleet::new(&[1, 2, 3], &[]).want(4, Wanted::Learner).away(4);
    assert_eq!(fleet.next(), Step::Nothing);
    assert_eq!(Fleet::new(&[1, 2, 3], &[]).want(77, Wanted::Voter).next(), Step::Nothing, "nobody has this id");
}

#[test]
fn a_dead_node_is_replaced_in_one_change() {
    let fleet = Fleet::new(&[1, 2, 3], &[4]).away(3).want(3, Wanted::Gone).want(4, Wanted::Voter);
    assert_eq!(fleet.next(), Step::Change(vec![Change::Remove(3), Change::AddVoter(4)]));
}

/// Of three voters one is away: who takes another away leaves nobody to decide.
#[test]
fn no_step_takes_the_majority_away() {
    let fleet = Fleet::new(&[1, 2, 3], &[]).away(3).want(2, Wanted::Gone);
    assert_eq!(fleet.next(), Step::Nothing);
    let fleet = fleet.want(3, Wanted::Gone);
    assert_eq!(fleet.next(), Step::Change(vec![Change::Remove(3)]), "the dead one goes first");
    assert_eq!(Fleet::new(&[1], &[]).want(1, Wanted::Gone).next(), Step::Nothing, "the last one stays");
}

#[test]
fn a_leader_that_shall_go_hands_over_first() {
    let fleet = Fleet::new(&[1, 2, 3], &[]).want(1, Wanted::Gone);
    assert_eq!(fleet.next(), Step::HandOver(NodeId(3)));
    assert_eq!(fleet.away(2).next(), Step::Nothing, "two of the others must be there to decide");
    let mut joint = Fleet::new(&[1, 2, 3], &[]).want(4, Wanted::Learner);
    joint.raft.membership.voters_outgoing = vec![1, 2];
    assert_eq!(joint.next(), Step::Nothing, "one change at a time");
}

/// Not to one that leaves or shall not lead either, or it would come back at once.
#[test]
fn leadership_goes_to_one_that_stays_and_has_most_of_the_log() {
    let mut fleet = Fleet::new(&[1, 2, 3, 4, 5, 6], &[7]).away(6).want(5, Wanted::Learner);
    fleet.leaving.push(4);
    fleet.raft.matched.insert(2, 1_001);
    let next = |fleet: &Fleet| successor(&fleet.state, &fleet.raft, &fleet.members());
    assert_eq!(next(&fleet), Some(NodeId(2)));
    fleet.raft.matched.insert(2, 900);
    assert_eq!(next(&fleet), Some(NodeId(3)));
    let nobody = Fleet::new(&[1, 2], &[3]).away(2);
    assert_eq!(next(&nobody), None, "a learner cannot lead");
}

/// As long as it may be serving, drains ask it for its word.
#[test]
fn a_node_that_shall_be_gone_is_a_member_until_it_is_silent() {
    for (voters, learners) in [(&[1, 2, 3, 4][..], &[][..]), (&[1, 2, 3], &[4])] {
        let fleet = Fleet::new(voters, learners).want(4, Wanted::Gone);
        assert_eq!(fleet.next(), Step::Nothing);
        assert_eq!(fleet.away(4).next(), Step::Change(vec![Change::Remove(4)]));
    }
}

#[test]
fn a_young_fleet_s_learner_must_have_something() {
    let mut fleet = Fleet::new(&[1], &[2]).want(2, Wanted::Voter);
    fleet.raft.commit = 5;
    fleet.raft.matched.insert(2, 0);
    assert_eq!(fleet.next(), Step::Nothing);
    fleet.raft.matched.insert(2, 5);
    assert_eq!(fleet.next(), Step::Change(vec![Change::AddVoter(2)]));
}

#[test]
fn who_shows_a_good_token_joins() {
    let mut state = State::default();
    let token = JoinToken { sha256: crate::raft::sha256("secret"), wanted: Wanted::Voter, expires_ms: 500 };
    let put = Command::PutJoinToken { token };
    state.apply(Epoch(1), &Proposal { at_ms: 0, key: None, command: Command::SetLevel { level: 2 } });
    state.apply(Epoch(2), &Proposal { at_ms: 100, key: None, command: put });
    let peers = [peer(2, Some("secret")), peer(7, None), peer(8, Some("wrong")), peer(9, Some("secret"))];
    let membership = Membership::of_voters(&[1, 2]);
    let used = Command::UseJoinToken { sha256: crate::raft::sha256("secret"), node: NodeId(9) };
    assert_eq!(joining(&state, &membership, &peers, 200), std::slice::from_ref(&used));
    let stale = Peer { connected: false, ..peer(10, Some("secret")) };
    let with_stale = [&peers[..], &[stale]].concat();
    assert_eq!(joining(&state, &membership, &with_stale, 200), std::slice::from_ref(&used), "a disk that was lost");
    assert_eq!(joining(&state, &membership, &peers, 500), [], "too late");
    state.apply(Epoch(3), &Proposal { at_ms: 200, key: None, command: used });
    assert_eq!(joining(&state, &membership, &peers, 300), []);
}

/// As `DELETE /v1/join-tokens/{id}` does it: with the time that it is good until moved to the past.
#[test]
fn a_token_that_was_taken_back_lets_nobody_in() {
    let mut state = State::default();
    let token = JoinToken { sha256: crate::raft::sha256("secret"), wanted: Wanted::Voter, expires_ms: 500 };
    let put = |token| Proposal { at_ms: 100, key: None, command: Command::PutJoinToken { token } };
    state.apply(Epoch(1), &put(token.clone()));
    state.apply(Epoch(2), &put(JoinToken { expires_ms: 0, ..token }));
    assert_eq!(joining(&state, &Membership::of_voters(&[1]), &[peer(9, Some("secret"))], 200), []);
    let used = Command::UseJoinToken { sha256: crate::raft::sha256("secret"), node: NodeId(9) };
    assert!(state.check(200, &used).is_err());
}
