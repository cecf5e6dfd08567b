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
        Fleet { state: State::default(), raft, away: Vec::new() }
    }

    fn want(mut self, node: u64, wanted: Wanted) -> Fleet {
        self.state.members.insert(NodeId(node), wanted);
        self
    }

    fn away(mut self, node: u64) -> Fleet {
        self.away.push(node);
        self
    }

    fn next(&self) -> Step {
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
                report: NodeReport::default(),
            })),
        };
        let members: Vec<Member> = self.raft.membership.ids().map(member).collect();
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
    assert_eq!(fleet.next(), Step::HandOver(NodeId(2)));
    assert_eq!(fleet.away(2).next(), Step::Nothing, "two of the others must be there to decide");
    let mut joint = Fleet::new(&[1, 2, 3], &[]).want(4, Wanted::Learner);
    joint.raft.membership.voters_outgoing = vec![1, 2];
    assert_eq!(joint.next(), Step::Nothing, "one change at a time");
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
    assert_eq!(joining(&state, &membership, &peers, 500), [], "too late");
    state.apply(Epoch(3), &Proposal { at_ms: 200, key: None, command: used });
    assert_eq!(joining(&state, &membership, &peers, 300), []);
}
