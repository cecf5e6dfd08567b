//! What callers ask of the driver: proposals, forwarded ones, reads, membership, leadership.

use raft::{Changer, StateRole};

use super::super::StateMachine;
use super::super::exchange::{Answer, Forward, ForwardOutcome, MembershipError, Outbox, Outgoing, ProposeError, Token};
use super::super::membership::{self, Change};
use super::super::pending::{Kind, Refusal};
use super::super::storage::Store;
use super::{Driver, failure};

/// Ticks after which an unanswered read is asked for again: more than a round trip, and several
/// times within any sensible deadline.
const ASK_AGAIN: u64 = 5;

impl<S: Store, M: StateMachine> Driver<S, M> {
    pub(super) fn propose(
        &mut self,
        token: Token,
        id: u128,
        payload: Vec<u8>,
        ticks: u64,
        out: &mut impl Outbox<M::Answer>,
    ) {
        let (size, limit) = (payload.len(), self.config.max_payload);
        let refused = if size > limit {
            ProposeError::TooLarge { size, limit }
        } else {
            match self.pending.insert(token, id, payload, Kind::Command, self.now + ticks.max(1)) {
                Ok(()) => return self.offer(id, out),
                Err(Refusal::Busy) => ProposeError::Busy,
                Err(Refusal::Duplicate) => ProposeError::Duplicate,
            }
        };
        out.answer(token, Answer::Proposal(Err(refused)));
    }

    /// Gives waiting commands to whoever leads now. Called on each tick and on a change of leader:
    /// raft drops proposals without a leader, during a transfer and above its size limit.
    pub(super) fn offer_waiting(&mut self, out: &mut impl Outbox<M::Answer>) {
        for id in self.pending.waiting() {
            self.offer(id, out);
        }
    }

    fn offer(&mut self, id: u128, out: &mut impl Outbox<M::Answer>) {
        let Some(payload) = self.pending.payload(id) else { return };
        let raft = &self.node.raft;
        let (leader, term) = (raft.leader_id, raft.term);
        if raft.state == StateRole::Leader {
            let data = frame(id, payload);
            if let Some(index) = self.append(data) {
                self.pending.appended(id, index);
            }
        } else if leader != 0 {
            // Our own hop instead of raft's: that one has no request id, so nobody could tell
            // whether the leader ever took the command.
            let forward = Forward { request: self.next_request, term, id, payload: payload.to_vec() };
            self.next_request += 1;
            self.pending.forwarded(id, forward.request);
            out.send(leader, Outgoing::Forward(forward));
        }
    }

    fn append(&mut self, data: Vec<u8>) -> Option<u64> {
        self.node.propose(Vec::new(), data).ok()?;
        Some(self.node.raft.raft_log.last_index())
    }

    pub(super) fn take_forward(&mut self, from: u64, forward: Forward, out: &mut impl Outbox<M::Answer>) {
        let raft = &self.node.raft;
        // An earlier life of this node may have led that term and appended the command. It would
        // be wrong to call it refused; silence makes it "unknown" at the follower.
        if forward.term <= self.first_term {
            return;
        }
        let leads = raft.state == StateRole::Leader && raft.term == forward.term;
        let fits = forward.payload.len() <= self.config.max_payload;
        let outcome = self.seen.outcome(from, forward.request).unwrap_or_else(|| {
            let index = if leads && fits { self.append(frame(forward.id, &forward.payload)) } else { None };
            let outcome = index.map_or(ForwardOutcome::Refused, |index| ForwardOutcome::Appended { index });
            self.seen.remember(from, forward.request, outcome);
            outcome
        });
        out.send(from, Outgoing::ForwardReply { request: forward.request, outcome });
    }

    pub(super) fn take_reply(&mut self, request: u64, outcome: ForwardOutcome, out: &mut impl Outbox<M::Answer>) {
        if let Some(failed) = self.pending.replied(request, outcome, self.applied, self.restored) {
            out.answer(failed.token, failure(&failed));
        }
    }

    pub(super) fn read_index(&mut self, token: Token, ticks: u64, out: &mut impl Outbox<M::Answer>) {
        match self.reads.insert(token, self.now, self.now + ticks.max(1)) {
            Ok(()) => self.ask_reads(),
            Err(error) => out.answer(token, Answer::Read(Err(error))),
        }
    }

    pub(super) fn ask_reads(&mut self) {
        if self.node.raft.leader_id == 0 {
            return;
        }
        for context in self.reads.due(self.now, ASK_AGAIN) {
            self.node.read_index(context);
        }
    }

    pub(super) fn change_membership(
        &mut self,
        token: Token,
        id: u128,
        changes: &[Change],
        ticks: u64,
        out: &mut impl Outbox<M::Answer>,
    ) {
        if let Err(error) = self.propose_change(token, id, changes, ticks) {
            out.answer(token, Answer::Membership(Err(error)));
        }
    }

    fn propose_change(
        &mut self,
        token: Token,
        id: u128,
        changes: &[Change],
        ticks: u64,
    ) -> Result<(), MembershipError> {
        let raft = &self.node.raft;
        if raft.state != StateRole::Leader {
            return Err(MembershipError::NotLeader { leader: Some(raft.leader_id).filter(|id| *id != 0) });
        }
        // Raft would turn the entry into an empty one; say so at once.
        if raft.has_pending_conf() || self.membership().is_joint() {
            return Err(MembershipError::InProgress);
        }
        if changes.is_empty() {
            return Err(MembershipError::Invalid("no change is named".into()));
        }
        let conf_change = membership::to_conf_change(changes);
        // Tried on a copy first: what raft cannot apply must not get into the log.
        let mut changer = Changer::new(raft.prs());
        match conf_change.enter_joint() {
            Some(auto_leave) => changer.enter_joint(auto_leave, conf_change.get_changes()),
            None => changer.simple(conf_change.get_changes()),
        }
        .map_err(|error| MembershipError::Invalid(error.to_string()))?;
        self.pending
            .insert(token, id, Vec::new(), Kind::Membership, self.now + ticks.max(1))
            .map_err(|_| MembershipError::InProgress)?;
        match self.node.propose_conf_change(id.to_be_bytes().to_vec(), conf_change) {
            Ok(()) => self.pending.appended(id, self.node.raft.raft_log.last_index()),
            // A transfer of leadership is running, or the log is full of uncommitted entries.
            Err(_) => {
                self.pending.forget(id);
                return Err(MembershipError::InProgress);
            }
        }
        Ok(())
    }

    /// Raft leaves a joint change by itself, unless its leader stepped down before it applied the
    /// entering entry and was elected again after. A fleet must not stay on two majorities.
    pub(super) fn leave_stuck_joint(&mut self) {
        let raft = &self.node.raft;
        let stuck = raft.state == StateRole::Leader && !raft.has_pending_conf() && self.membership().is_joint();
        if stuck && let Err(error) = self.node.propose_conf_change(Vec::new(), membership::to_conf_change(&[])) {
            tracing::debug!(%error, "cannot leave the joint membership yet");
        }
    }

    pub(super) fn transfer_leader(&mut self, to: Option<u64>) {
        let raft = &self.node.raft;
        let voters = self.membership().voters;
        let most_complete = || {
            let others = raft.prs().iter().filter(|(id, _)| **id != raft.id && voters.contains(id));
            others.max_by_key(|(id, progress)| (progress.recent_active, progress.matched, **id)).map(|(id, _)| *id)
        };
        if let Some(to) = to.or_else(most_complete) {
            self.node.transfer_leader(to);
        }
    }
}

/// A command in the log: its id, then its payload.
fn frame(id: u128, payload: &[u8]) -> Vec<u8> {
    [&id.to_be_bytes(), payload].concat()
}

pub(crate) fn unframe(data: &[u8]) -> Option<(u128, &[u8])> {
    let (id, payload) = data.split_first_chunk::<16>()?;
    Some((u128::from_be_bytes(*id), payload))
}
