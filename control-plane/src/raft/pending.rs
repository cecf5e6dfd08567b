//! The proposals that this node owes an answer for, by id.
//!
//! A proposal is answered when the entry that carries its id is applied HERE, wherever it was
//! appended; never by its place in a queue, because a leader change reorders and drops entries. What
//! is known about each decides what its deadline means: one that no leader's log can hold was
//! certainly not applied, any other is unknown. Pure bookkeeping; `driver` is the only caller.

use std::collections::{BTreeMap, HashMap, VecDeque};

use super::exchange::{ForwardOutcome, Token};

/// Proposals in flight on one node. More are refused as busy: memory stays bounded when the fleet
/// has no leader and callers keep trying.
pub(crate) const LIMIT: usize = 4_096;

/// The same by size, 64 MiB: payloads are kept until they are applied, to be offered again.
const LIMIT_BYTES: usize = 64 << 20;

/// Answered requests that a node remembers. A copy that arrives after this many others would be
/// appended again; a connection delivers no copies, only a broken network device does.
const REMEMBERED: usize = 4_096;

#[derive(Default)]
pub(crate) struct Pending {
    proposals: BTreeMap<u128, Proposal>,
    bytes: usize,
    /// Forwarded requests on their way, by request id.
    requests: HashMap<u64, u128>,
}

struct Proposal {
    token: Token,
    deadline: u64,
    payload: Vec<u8>,
    kind: Kind,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Command,
    Membership,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// In no log: nobody has taken it, or its entry was overwritten.
    Waiting,
    /// Sent to a leader that has not answered.
    Forwarded { request: u64 },
    /// Can only ever be committed as this entry.
    Appended { index: u64 },
}

/// A proposal that leaves the table without having been applied here.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Failed {
    pub(crate) token: Token,
    pub(crate) kind: Kind,
    /// Whether some log may still hold it.
    pub(crate) maybe_applied: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Busy,
    Duplicate,
}

impl Pending {
    pub(crate) fn insert(
        &mut self,
        token: Token,
        id: u128,
        payload: Vec<u8>,
        kind: Kind,
        deadline: u64,
    ) -> Result<(), Refusal> {
        if self.proposals.contains_key(&id) {
            return Err(Refusal::Duplicate);
        }
        if self.proposals.len() >= LIMIT || self.bytes + payload.len() > LIMIT_BYTES {
            return Err(Refusal::Busy);
        }
        self.bytes += payload.len();
        self.proposals.insert(id, Proposal { token, deadline, payload, kind, stage: Stage::Waiting });
        Ok(())
    }

    /// Commands that still need a leader, in the order of their tokens: first come, first tried.
    pub(crate) fn waiting(&self) -> Vec<u128> {
        let mut waiting: Vec<_> = self
            .proposals
            .iter()
            .filter(|(_, p)| p.stage == Stage::Waiting && p.kind == Kind::Command)
            .map(|(id, p)| (p.token, *id))
            .collect();
        waiting.sort_unstable();
        waiting.into_iter().map(|(_, id)| id).collect()
    }

    pub(crate) fn payload(&self, id: u128) -> Option<&[u8]> {
        self.proposals.get(&id).map(|proposal| proposal.payload.as_slice())
    }

    pub(crate) fn appended(&mut self, id: u128, index: u64) {
        if let Some(proposal) = self.proposals.get_mut(&id) {
            proposal.stage = Stage::Appended { index };
        }
    }

    pub(crate) fn forwarded(&mut self, id: u128, request: u64) {
        if let Some(proposal) = self.proposals.get_mut(&id) {
            proposal.stage = Stage::Forwarded { request };
            self.requests.insert(request, id);
        }
    }

    /// The leader's word on a forwarded request. `applied` and `restored` are the last index this
    /// node has applied and the last one it got through a snapshot.
    pub(crate) fn replied(
        &mut self,
        request: u64,
        outcome: ForwardOutcome,
        applied: u64,
        restored: u64,
    ) -> Option<Failed> {
        let id = self.requests.remove(&request)?;
        let proposal = self.proposals.get_mut(&id)?;
        if proposal.stage != (Stage::Forwarded { request }) {
            return None;
        }
        proposal.stage = match outcome {
            ForwardOutcome::Refused => Stage::Waiting,
            // A snapshot brought the entry's effect or another's in its place; there is no telling.
            ForwardOutcome::Appended { index } if index <= restored => return self.fail(id, true),
            // Had its own entry been applied there, the proposal would have left the table.
            ForwardOutcome::Appended { index } if index <= applied => Stage::Waiting,
            ForwardOutcome::Appended { index } => Stage::Appended { index },
        };
        None
    }

    /// The entry at `index`, which carries `id` if it carries one, is being applied.
    pub(crate) fn applied(&mut self, index: u64, id: Option<u128>) -> Option<Token> {
        let token = id.and_then(|id| self.remove(id)).map(|proposal| proposal.token);
        // Whoever waited for this index and is not its owner was overwritten by another leader, and
        // an entry's place is its only chance: it can be proposed again without happening twice.
        for proposal in self.proposals.values_mut() {
            if proposal.stage == (Stage::Appended { index }) {
                proposal.stage = Stage::Waiting;
            }
        }
        token
    }

    /// Membership changes are not tried again by themselves; those that lost their place fail.
    pub(crate) fn overwritten_memberships(&mut self) -> Vec<Failed> {
        self.fail_where(|p| p.kind == Kind::Membership && p.stage == Stage::Waiting)
    }

    /// A snapshot replaced the entries up to `index`.
    pub(crate) fn restored(&mut self, index: u64) -> Vec<Failed> {
        self.fail_where(|p| matches!(p.stage, Stage::Appended { index: at } if at <= index))
    }

    /// The caller has been answered otherwise.
    pub(crate) fn forget(&mut self, id: u128) {
        self.remove(id);
    }

    pub(crate) fn expire(&mut self, now: u64) -> Vec<Failed> {
        self.fail_where(|p| p.deadline <= now)
    }

    fn fail_where(&mut self, condition: impl Fn(&Proposal) -> bool) -> Vec<Failed> {
        let ids: Vec<u128> = self.proposals.iter().filter(|(_, p)| condition(p)).map(|(id, _)| *id).collect();
        ids.into_iter()
            .filter_map(|id| {
                let maybe_applied = self.proposals.get(&id)?.stage != Stage::Waiting;
                self.fail(id, maybe_applied)
            })
            .collect()
    }

    fn fail(&mut self, id: u128, maybe_applied: bool) -> Option<Failed> {
        let proposal = self.remove(id)?;
        Some(Failed { token: proposal.token, kind: proposal.kind, maybe_applied })
    }

    fn remove(&mut self, id: u128) -> Option<Proposal> {
        let proposal = self.proposals.remove(&id)?;
        self.bytes -= proposal.payload.len();
        if let Stage::Forwarded { request } = proposal.stage {
            self.requests.remove(&request);
        }
        Some(proposal)
    }
}

/// What this node has answered to forwarded requests, so that a second copy of one gets the same
/// answer instead of a second entry, or a refusal that would invite one.
#[derive(Default)]
pub(crate) struct Seen {
    outcomes: HashMap<(u64, u64), ForwardOutcome>,
    order: VecDeque<(u64, u64)>,
}

impl Seen {
    pub(crate) fn outcome(&self, from: u64, request: u64) -> Option<ForwardOutcome> {
        self.outcomes.get(&(from, request)).copied()
    }

    pub(crate) fn remember(&mut self, from: u64, request: u64, outcome: ForwardOutcome) {
        if self.order.len() == REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.outcomes.remove(&oldest);
        }
        self.order.push_back((from, request));
        self.outcomes.insert((from, request), outcome);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(id: u128, deadline: u64) -> Pending {
        let mut pending = Pending::default();
        pending.insert(Token(1), id, vec![], Kind::Command, deadline).unwrap();
        pending
    }

    #[test]
    fn the_deadline_of_a_command_in_no_log_says_not_applied() {
        let mut pending = with(7, 10);
        assert_eq!(pending.expire(9), []);
        assert_eq!(pending.expire(10), [Failed { token: Token(1), kind: Kind::Command, maybe_applied: false }]);
    }

    #[test]
    fn the_deadline_of_a_command_in_a_log_says_unknown() {
        for stage in 0..2 {
            let mut pending = with(7, 10);
            match stage {
                0 => pending.appended(7, 4),
                _ => pending.forwarded(7, 99),
            }
            assert!(pending.expire(10)[0].maybe_applied);
        }
    }

    #[test]
    fn answers_go_by_id_and_not_by_order() {
        let mut pending = with(7, 10);
        pending.insert(Token(2), 8, vec![], Kind::Command, 10).unwrap();
        pending.appended(7, 4);
        pending.appended(8, 5);
        assert_eq!(pending.applied(4, Some(8)), Some(Token(2)));
        assert_eq!(pending.waiting(), [7], "entry 4 went to another: proposal 7 may try again");
    }

    #[test]
    fn an_id_in_flight_is_not_taken_twice() {
        let mut pending = with(7, 10);
        assert_eq!(pending.insert(Token(2), 7, vec![], Kind::Command, 10), Err(Refusal::Duplicate));
    }

    #[test]
    fn the_table_is_bounded() {
        let mut pending = Pending::default();
        for id in 0..LIMIT as u128 {
            pending.insert(Token(1), id, vec![], Kind::Command, 10).unwrap();
        }
        assert_eq!(pending.insert(Token(1), u128::MAX, vec![], Kind::Command, 10), Err(Refusal::Busy));
    }

    #[test]
    fn the_table_is_bounded_in_bytes_and_gives_them_back() {
        let mut pending = Pending::default();
        pending.insert(Token(1), 1, vec![0; LIMIT_BYTES], Kind::Command, 10).unwrap();
        assert_eq!(pending.insert(Token(2), 2, vec![0], Kind::Command, 10), Err(Refusal::Busy));
        pending.applied(4, Some(1));
        pending.insert(Token(2), 2, vec![0], Kind::Command, 10).unwrap();
    }

    #[test]
    fn a_refused_or_unsent_forward_may_be_tried_again() {
        let mut pending = with(7, 10);
        pending.forwarded(7, 99);
        assert_eq!(pending.waiting(), []);
        assert_eq!(pending.replied(99, ForwardOutcome::Refused, 0, 0), None);
        assert_eq!(pending.waiting(), [7]);
    }

    #[test]
    fn a_late_acceptance_of_an_overwritten_entry_is_tried_again() {
        let mut pending = with(7, 10);
        pending.forwarded(7, 99);
        pending.applied(5, Some(1));
        pending.replied(99, ForwardOutcome::Appended { index: 5 }, 5, 0);
        assert_eq!(pending.waiting(), [7]);
    }

    #[test]
    fn what_a_snapshot_covers_is_unknown() {
        let mut pending = with(7, 10);
        pending.forwarded(7, 99);
        let failed = pending.replied(99, ForwardOutcome::Appended { index: 5 }, 9, 9).unwrap();
        assert!(failed.maybe_applied);

        let mut pending = with(7, 10);
        pending.appended(7, 5);
        assert!(pending.restored(9)[0].maybe_applied);
    }

    #[test]
    fn a_second_copy_of_a_request_gets_the_first_answer_while_memory_lasts() {
        let mut seen = Seen::default();
        let outcome = ForwardOutcome::Appended { index: 5 };
        seen.remember(1, 99, outcome);
        assert_eq!(seen.outcome(1, 99), Some(outcome));
        assert_eq!(seen.outcome(2, 99), None);
        for request in 0..REMEMBERED as u64 {
            seen.remember(3, request, ForwardOutcome::Refused);
        }
        assert_eq!(seen.outcome(1, 99), None, "the memory is bounded");
    }
}
