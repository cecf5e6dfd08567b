//! The consensus driver: the raft crate's state machine, a store and ours, turned by one caller.
//!
//! It has no thread, clock or socket. `tick` and `step` tell it what happened, `ready` is the one
//! place where something comes of it, in the order that Raft's safety depends on. `thread` turns
//! one for a node; the simulation in `sim` turns several under a seed. Each rule that the raft crate
//! leaves to its driver has its reason beside the line that keeps it, and a test in `driver/tests`.

mod config;
mod operations;
mod snapshots;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use raft::prelude::{Entry, EntryType, HardState, Message, MessageType};
use raft::{LightReady, RawNode, Ready, SnapshotStatus, StateRole};

pub use self::config::Config;
pub(crate) use self::operations::unframe;
use super::StateMachine;
use super::exchange::{
    Answer, Applied, ForwardOutcome, Input, MembershipError, Outbox, Outgoing, ProposeError, ReadError, Token,
};
use super::log::Log;
use super::membership::{self, Membership};
use super::pending::{Failed, Kind, Pending, Seen};
use super::reads::Reads;
use super::storage::{LogStart, Position, Store, StoreError, Write};

/// Why a node cannot go on. Its process must end: what it has promised may not be on its disk.
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(
        "this node's disk has lost entries that the node acknowledged (the leader knows of {acknowledged}, the disk \
         ends at {last}). It cannot take part under this id any more: remove the id from the fleet, delete the data \
         directory and add the node again as a new one"
    )]
    LostLog { acknowledged: u64, last: u64 },
    #[error("the state of snapshot {index} cannot be restored: {reason}")]
    Restore { index: u64, reason: String },
    #[error("Raft refused its state: {0}")]
    Raft(#[from] raft::Error),
    #[error("cannot start the consensus thread: {0}")]
    Thread(#[source] std::io::Error),
    #[error("Raft stopped on a violated invariant: {0}")]
    Panic(String),
}

pub struct Driver<S: Store, M: StateMachine> {
    node: RawNode<Log>,
    store: S,
    machine: M,
    config: Config,
    /// Ticks since the start.
    now: u64,
    applied: u64,
    /// Last index that a snapshot from a leader brought while this process runs.
    restored: u64,
    /// Requests forwarded in this term or an earlier one may have been answered by an earlier life.
    first_term: u64,
    leader: Option<u64>,
    pending: Pending,
    seen: Seen,
    reads: Reads,
    next_request: u64,
    commit_saved: CommitSaved,
}

/// Whether the disk knows how far this node knows the log to be committed. Raft does not need it there
/// (a leader tells again), so it is not worth a write that an answer waits for: it goes along with the
/// next entries, or by itself within a tick. A node that restarts without a quorum serves what it knew
/// as committed then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CommitSaved {
    Yes,
    NotYet,
    /// It has waited for a tick.
    Due,
}

/// A node's place in the fleet as it sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    pub id: u64,
    pub role: Role,
    pub leader: Option<u64>,
    pub term: u64,
    /// Last index known to be committed.
    pub commit: u64,
    /// Last index in this node's state machine.
    pub applied: u64,
    pub membership: Membership,
    /// On the leader: the last index that each member is known to have on disk.
    pub matched: BTreeMap<u64, u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Not started: the founders have not all been heard yet, or the fleet has yet to add this node.
    Founding,
    Follower,
    Candidate,
    Leader,
    Learner,
    /// Not in the membership: not added yet, or removed.
    Outsider,
}

/// What an applied entry's proposer is told, if it waits on this node.
type Owed<A> = Option<(Token, Answer<A>)>;

impl<S: Store, M: StateMachine> Driver<S, M> {
    /// Reads the store, restores the machine and starts Raft where it stopped. `ready` must follow:
    /// it applies what was committed after the snapshot.
    pub fn open(config: Config, mut store: S, mut machine: M) -> Result<Self, Fatal> {
        let loaded = store.load()?;
        loaded.check()?;
        let id = loaded.node;
        let applied = loaded.snapshot.get_metadata().index;
        if applied > 0 {
            restore(&mut machine, applied, &loaded.snapshot.data)?;
            machine.applied(applied);
        }
        let first_term = loaded.hard_state.term;
        let raft_config = config.for_raft(id, applied);
        let node = RawNode::new(&raft_config, Log::new(loaded), &super::logger::logger(id))?;
        let mut driver = Self {
            node,
            store,
            machine,
            now: 0,
            applied,
            restored: applied,
            first_term,
            leader: None,
            pending: Pending::default(),
            seen: Seen::default(),
            reads: Reads::new(id, config.nonce),
            // Half the range, so that counting up never meets its end.
            next_request: config.nonce >> 1,
            commit_saved: CommitSaved::Yes,
            config,
        };
        // Nobody else can win: a fleet of one need not wait for its own timeout.
        if driver.membership().voters == [id] && !driver.membership().is_joint() {
            driver.node.campaign()?;
        }
        Ok(driver)
    }

    pub fn tick(&mut self, out: &mut impl Outbox<M::Answer>) {
        self.now += 1;
        if self.commit_saved == CommitSaved::NotYet {
            self.commit_saved = CommitSaved::Due;
        }
        self.node.tick();
        self.leave_stuck_joint();
        for failed in self.pending.expire(self.now) {
            out.answer(failed.token, failure(&failed));
        }
        for token in self.reads.expire(self.now) {
            out.answer(token, Answer::Read(Err(ReadError::NoLeader)));
        }
        self.offer_waiting(out);
        self.ask_reads();
    }

    pub fn step(&mut self, input: Input, out: &mut impl Outbox<M::Answer>) -> Result<(), Fatal> {
        match input {
            Input::Peer(message) => self.receive(*message)?,
            Input::Propose { token, id, payload, ticks } => self.propose(token, id, payload, ticks, out),
            Input::ReadIndex { token, ticks } => self.read_index(token, ticks, out),
            Input::ChangeMembership { token, id, changes, ticks } => {
                self.change_membership(token, id, &changes, ticks, out);
            }
            Input::TransferLeader(to) => self.transfer_leader(to),
            Input::Forward { from, forward } => self.take_forward(from, forward, out),
            Input::ForwardReply { request, outcome } => self.take_reply(request, outcome, out),
            Input::ForwardDropped { request } => {
                self.take_reply(request, ForwardOutcome::Refused, out);
            }
            Input::Unreachable(id) => self.node.report_unreachable(id),
            // Without a report the receiver stays paused in the leader's eyes for good.
            Input::SnapshotSent { to, delivered: true } => self.node.report_snapshot(to, SnapshotStatus::Finish),
            Input::SnapshotSent { to, delivered: false } => self.node.report_snapshot(to, SnapshotStatus::Failure),
            Input::Addresses(addresses) => {
                self.store.commit(&Write { addresses: Some(&addresses), ..Write::default() })?;
            }
        }
        Ok(())
    }

    /// Carries out whatever `tick` and `step` led to. After it returns, everything it promised to
    /// others is on disk. On an error the driver is finished and so must be the process.
    pub fn ready(&mut self, out: &mut impl Outbox<M::Answer>) -> Result<(), Fatal> {
        while self.node.has_ready() {
            let mut ready = self.node.ready();

            // 1. A leader's messages go out before its own disk has the entries: followers write in
            //    parallel, and its own vote for an entry is counted only once step 3 is done
            //    (thesis 10.2.1). Raft puts anything that promises something into step 4, but for one
            //    thing: a lone voter elects itself in one step, and its learners would hear of a term
            //    that it forgets in a crash. It would lead that term twice, with other entries.
            let saved_term = self.node.raft.store().hard_state().term;
            let speaks_early = ready.hs().is_none_or(|state| state.term == saved_term);
            let mut messages = ready.take_messages();
            if speaks_early {
                send(std::mem::take(&mut messages), out);
            }

            // 2. A snapshot from the leader goes into the machine before it goes to disk: one that
            //    cannot be restored must not become what this node starts from.
            self.install(&ready, out)?;

            // 3. Entries, hard state and snapshot in ONE durable transaction: a crash leaves all or
            //    none, so the log never disagrees with the vote and the commit beside it.
            self.persist(&ready)?;

            // 4. Votes and acknowledgements: the others count on what they say, so only now.
            send(messages, out);
            send(ready.take_persisted_messages(), out);

            // 5. Reads learn their index; they wait for the state machine to get there.
            for read in ready.take_read_states() {
                self.reads.confirmed(&read.request_ctx, read.index);
            }

            // 6. Entries that were known as committed. What is applied is on disk only as a snapshot,
            //    which is written with its commit, so a restart never finds more applied than committed.
            self.apply(ready.take_committed_entries(), out)?;

            // 7. Raft learns that its entries are stable. A leader may commit by that: a majority has
            //    them on disk, so they can be applied and answered.
            let light = self.node.advance_append(ready);
            self.finish(light, out)?;
        }
        self.notice_leader(out);
        self.answer_reads(out);
        self.compact()?;
        if self.commit_saved == CommitSaved::Due {
            self.save_commit()?;
        }
        Ok(())
    }

    pub fn status(&self) -> Status {
        let raft = &self.node.raft;
        let membership = self.membership();
        let role = match raft.state {
            StateRole::Leader => Role::Leader,
            StateRole::Candidate | StateRole::PreCandidate => Role::Candidate,
            StateRole::Follower if membership.learners.contains(&raft.id) => Role::Learner,
            StateRole::Follower if membership.contains(raft.id) => Role::Follower,
            StateRole::Follower => Role::Outsider,
        };
        let matched = match role {
            Role::Leader => raft.prs().iter().map(|(id, progress)| (*id, progress.matched)).collect(),
            _ => BTreeMap::new(),
        };
        Status {
            id: raft.id,
            role,
            leader: Some(raft.leader_id).filter(|id| *id != 0),
            term: raft.term,
            commit: raft.raft_log.committed,
            applied: self.applied,
            membership,
            matched,
        }
    }

    pub fn machine(&self) -> &M {
        &self.machine
    }

    fn receive(&mut self, message: Message) -> Result<(), Fatal> {
        let raft = &self.node.raft;
        if message.to != raft.id {
            return Ok(());
        }
        // A leader's heartbeat repeats what this node acknowledged to it. Having less means that the
        // disk went back in time or was emptied under the same id; raft would panic on it.
        let last = raft.raft_log.last_index();
        if message.get_msg_type() == MessageType::MsgHeartbeat && message.term >= raft.term && message.commit > last {
            return Err(Fatal::LostLog { acknowledged: message.commit, last });
        }
        if let Err(error) = self.node.step(message) {
            // Answers of nodes that were removed meanwhile, and the like: Raft is built to lose them.
            tracing::debug!(%error, "raft did not take a message");
        }
        Ok(())
    }

    fn install(&mut self, ready: &Ready, out: &mut impl Outbox<M::Answer>) -> Result<(), Fatal> {
        let snapshot = ready.snapshot();
        if snapshot.is_empty() {
            return Ok(());
        }
        let index = snapshot.get_metadata().index;
        restore(&mut self.machine, index, &snapshot.data)?;
        (self.applied, self.restored) = (index, index);
        for failed in self.pending.restored(index) {
            out.answer(failed.token, failure(&failed));
        }
        Ok(())
    }

    fn persist(&mut self, ready: &Ready) -> Result<(), Fatal> {
        let snapshot = Some(ready.snapshot()).filter(|snapshot| !snapshot.is_empty());
        let write = Write {
            snapshot,
            log: snapshot.map_or(LogStart::Keep, |snapshot| {
                let metadata = snapshot.get_metadata();
                LogStart::ResetTo(Position { index: metadata.index, term: metadata.term })
            }),
            entries: ready.entries(),
            hard_state: ready.hs(),
            ..Write::default()
        };
        if write.snapshot.is_none() && write.entries.is_empty() {
            let Some(hard_state) = write.hard_state else { return Ok(()) };
            // Neither a vote nor a term: nothing that others count on.
            if !ready.must_sync() {
                self.remember_commit(&hard_state.clone());
                return Ok(());
            }
        }
        self.commit(&write)?;
        if snapshot.is_some() {
            self.machine.applied(self.applied);
        }
        Ok(())
    }

    fn finish(&mut self, mut light: LightReady, out: &mut impl Outbox<M::Answer>) -> Result<(), Fatal> {
        if let Some(commit) = light.commit_index() {
            let mut hard_state = self.node.raft.store().hard_state().clone();
            hard_state.commit = commit;
            self.remember_commit(&hard_state);
        }
        send(light.take_messages(), out);
        self.apply(light.take_committed_entries(), out)?;
        // 8. Raft may now propose the way out of a joint change that was applied above.
        self.node.advance_apply();
        Ok(())
    }

    /// Durable first, then visible to raft: it never reads what a crash could take back, but for how
    /// far the log is committed.
    fn commit(&mut self, write: &Write<'_>) -> Result<(), Fatal> {
        // The newest hard state goes along with whatever is written.
        let known = self.node.raft.raft_log.store.hard_state().clone();
        let waiting = (self.commit_saved != CommitSaved::Yes).then_some(&known);
        let write = Write { hard_state: write.hard_state.or(waiting), ..*write };
        self.store.commit(&write)?;
        self.node.raft.raft_log.store.mirror(&write);
        if write.hard_state.is_some() {
            self.commit_saved = CommitSaved::Yes;
        }
        Ok(())
    }

    fn remember_commit(&mut self, hard_state: &HardState) {
        self.node.raft.raft_log.store.mirror(&Write { hard_state: Some(hard_state), ..Write::default() });
        if self.commit_saved == CommitSaved::Yes {
            self.commit_saved = CommitSaved::NotYet;
        }
    }

    /// Before a node ends in order, too: it then starts again from what it has served.
    pub fn save_commit(&mut self) -> Result<(), Fatal> {
        if self.commit_saved == CommitSaved::Yes { Ok(()) } else { self.commit(&Write::default()) }
    }

    fn apply(&mut self, entries: Vec<Entry>, out: &mut impl Outbox<M::Answer>) -> Result<(), Fatal> {
        let mut answers = Vec::new();
        for entry in &entries {
            let answer = match entry.get_entry_type() {
                EntryType::EntryNormal => self.apply_command(entry),
                EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => self.apply_change(entry)?,
            };
            answers.extend(answer);
            self.applied = entry.index;
        }
        if entries.is_empty() {
            return Ok(());
        }
        // The new table is out before anybody is told about it: an answered write is in force here.
        self.machine.applied(self.applied);
        for (token, answer) in answers {
            out.answer(token, answer);
        }
        for failed in self.pending.overwritten_memberships() {
            out.answer(failed.token, failure(&failed));
        }
        Ok(())
    }

    fn apply_command(&mut self, entry: &Entry) -> Owed<M::Answer> {
        // A new leader's first entry is empty; so is a conf change that raft found untimely.
        let Some((id, payload)) = operations::unframe(&entry.data) else {
            self.pending.applied(entry.index, None);
            return None;
        };
        let answer = self.machine.apply(entry.index, payload);
        let token = self.pending.applied(entry.index, Some(id))?;
        Some((token, Answer::Proposal(Ok(Applied { index: entry.index, answer }))))
    }

    fn apply_change(&mut self, entry: &Entry) -> Result<Owed<M::Answer>, Fatal> {
        let changes = membership::decode(&entry.data)
            .ok_or_else(|| StoreError::Corrupt { what: format!("entry {} is no membership change", entry.index) })?;
        let id = entry.context.as_ref().try_into().ok().map(u128::from_be_bytes);
        let token = self.pending.applied(entry.index, id);
        // An error leaves the membership as it was, and it does so on every node.
        let answer = match self.node.apply_conf_change(&membership::to_conf_change(&changes)) {
            Ok(state) => {
                tracing::info!(index = entry.index, membership = ?Membership::from(&state), "membership changed");
                self.step_down_if_removed();
                Ok(entry.index)
            }
            Err(error) => Err(MembershipError::Invalid(error.to_string())),
        };
        Ok(token.map(|token| (token, Answer::Membership(answer))))
    }

    /// Raft 0.7 lets a leader that was removed or demoted lead on, and panics at the next
    /// acknowledgement it gets (`maybe_commit` looks for its own progress). The remaining voters have
    /// the entry, or they could not have committed it, and elect one of them.
    fn step_down_if_removed(&mut self) {
        let raft = &mut self.node.raft;
        if raft.state == StateRole::Leader && !raft.prs().conf().voters().contains(raft.id) {
            let term = raft.term;
            raft.become_follower(term, raft::INVALID_ID);
        }
    }

    fn notice_leader(&mut self, out: &mut impl Outbox<M::Answer>) {
        let leader = Some(self.node.raft.leader_id).filter(|id| *id != 0);
        if leader == self.leader {
            return;
        }
        self.leader = leader;
        let term = self.node.raft.term;
        match leader {
            Some(leader) => tracing::info!(leader = %format_args!("{leader:016x}"), term, "leader known"),
            None => tracing::info!(term, "no leader"),
        }
        self.offer_waiting(out);
        self.ask_reads();
    }

    fn answer_reads(&mut self, out: &mut impl Outbox<M::Answer>) {
        for (token, index) in self.reads.ready(self.applied) {
            out.answer(token, Answer::Read(Ok(index)));
        }
    }

    fn membership(&self) -> Membership {
        Membership::from(&self.node.raft.prs().conf().to_conf_state())
    }
}

fn restore<M: StateMachine>(machine: &mut M, index: u64, data: &[u8]) -> Result<(), Fatal> {
    machine.restore(index, data).map_err(|reason| Fatal::Restore { index, reason })
}

fn send<A>(messages: Vec<Message>, out: &mut impl Outbox<A>) {
    for message in messages {
        out.send(message.to, Outgoing::Raft(Box::new(message)));
    }
}

fn failure<A>(failed: &Failed) -> Answer<A> {
    match (failed.kind, failed.maybe_applied) {
        (Kind::Command, true) => Answer::Proposal(Err(ProposeError::Unknown)),
        (Kind::Command, false) => Answer::Proposal(Err(ProposeError::NoLeader)),
        (Kind::Membership, true) => Answer::Membership(Err(MembershipError::Unknown)),
        (Kind::Membership, false) => Answer::Membership(Err(MembershipError::InProgress)),
    }
}
