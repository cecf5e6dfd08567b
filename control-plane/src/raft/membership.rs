//! Changes of who votes and who learns, in our own words, and their form in the log.
//!
//! The raft crate wants protobuf in a conf-change entry and parses it itself. So these entries are
//! only ever built here, from a [`Change`] of the local API; on the wire and on disk they travel as
//! [`Change`]s (see `wire`), and no protobuf parser sees a byte that came from the network.

use protobuf::Message as _;
use raft::prelude::{ConfChangeSingle, ConfChangeType, ConfChangeV2, ConfState};
use serde::{Deserialize, Serialize};

/// One step of a membership change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// Votes and counts for quorums. A learner is promoted by this.
    AddVoter(u64),
    /// Receives the log and never counts. A voter is demoted by this.
    AddLearner(u64),
    Remove(u64),
}

/// Who belongs to the fleet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    pub voters: Vec<u64>,
    pub learners: Vec<u64>,
    /// The old majority that must still agree while a joint change runs; else empty.
    pub voters_outgoing: Vec<u64>,
    pub learners_next: Vec<u64>,
    pub auto_leave: bool,
}

impl Membership {
    pub fn of_voters(ids: &[u64]) -> Self {
        Self { voters: ids.to_vec(), ..Self::default() }
    }

    pub fn contains(&self, id: u64) -> bool {
        self.ids().any(|member| member == id)
    }

    pub fn is_joint(&self) -> bool {
        !self.voters_outgoing.is_empty()
    }

    /// Every member, one that is leaving included; ids may repeat during a joint change.
    pub fn ids(&self) -> impl Iterator<Item = u64> + '_ {
        [&self.voters, &self.learners, &self.voters_outgoing, &self.learners_next].into_iter().flatten().copied()
    }
}

/// Sorted, because raft keeps sets: equal memberships compare and encode equal.
impl From<&ConfState> for Membership {
    fn from(state: &ConfState) -> Self {
        let sorted = |ids: &[u64]| {
            let mut ids = ids.to_vec();
            ids.sort_unstable();
            ids
        };
        Self {
            voters: sorted(state.get_voters()),
            learners: sorted(state.get_learners()),
            voters_outgoing: sorted(state.get_voters_outgoing()),
            learners_next: sorted(state.get_learners_next()),
            auto_leave: state.auto_leave,
        }
    }
}

impl From<&Membership> for ConfState {
    fn from(membership: &Membership) -> Self {
        let mut state = ConfState::default();
        state.set_voters(membership.voters.clone());
        state.set_learners(membership.learners.clone());
        state.set_voters_outgoing(membership.voters_outgoing.clone());
        state.set_learners_next(membership.learners_next.clone());
        state.auto_leave = membership.auto_leave;
        state
    }
}

/// More than one change goes through joint consensus and leaves it by itself (`Auto`); an empty
/// list is the entry that leaves.
pub(crate) fn to_conf_change(changes: &[Change]) -> ConfChangeV2 {
    let mut out = ConfChangeV2::default();
    for change in changes {
        let (kind, id) = match *change {
            Change::AddVoter(id) => (ConfChangeType::AddNode, id),
            Change::AddLearner(id) => (ConfChangeType::AddLearnerNode, id),
            Change::Remove(id) => (ConfChangeType::RemoveNode, id),
        };
        let mut single = ConfChangeSingle::default();
        single.set_change_type(kind);
        single.node_id = id;
        out.mut_changes().push(single);
    }
    out
}

/// Bytes of a conf-change entry, as the raft crate wants them.
pub(crate) fn encode(changes: &[Change]) -> Vec<u8> {
    to_conf_change(changes).write_to_bytes().expect("protobuf writes any message without required fields")
}

/// Reads an entry of OUR log back; `None` if it was not made by [`encode`].
pub(crate) fn decode(data: &[u8]) -> Option<Vec<Change>> {
    let mut conf_change = ConfChangeV2::default();
    conf_change.merge_from_bytes(data).ok()?;
    let changes = conf_change
        .get_changes()
        .iter()
        .map(|single| match single.get_change_type() {
            ConfChangeType::AddNode => Change::AddVoter(single.node_id),
            ConfChangeType::AddLearnerNode => Change::AddLearner(single.node_id),
            ConfChangeType::RemoveNode => Change::Remove(single.node_id),
        })
        .collect();
    Some(changes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_survives_the_log() {
        let changes = [Change::AddVoter(7), Change::Remove(3), Change::AddLearner(u64::MAX)];
        assert_eq!(decode(&encode(&changes)).unwrap(), changes);
    }

    #[test]
    fn leaving_a_joint_change_is_an_empty_entry() {
        assert!(encode(&[]).is_empty());
        assert_eq!(decode(&[]).unwrap(), []);
    }

    #[test]
    fn equal_memberships_compare_equal_whatever_order_raft_keeps() {
        let mut state = ConfState::default();
        state.set_voters(vec![3, 1, 2]);
        assert_eq!(Membership::from(&state), Membership::of_voters(&[1, 2, 3]));
    }
}
