//! What the leader does of its own accord: the first configuration, the cookie key, the ends of
//! drains, verdicts on endpoints, members.
//!
//! [`next`] decides, without I/O, from what is known now; [`Chores::run`] proposes what it says.
//! Every chore is found again from the state alone, so a new leader goes on where the old one
//! stopped, and two leaders that overlap propose things that the state machine takes once.

use std::time::{Duration, Instant};

use tidelock_core::affinity::{CookieKey, KeySecret};
use tidelock_core::command::{Command, IdempotencyKey, LEVEL};
use tidelock_core::drain;
use tidelock_core::health;
use tidelock_core::id::{Epoch, NodeId};
use tidelock_core::pace;
use tidelock_core::state::{DrainState, Outcome, State};
use tidelock_core::switchover::Watch;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use super::clock;
use super::consensus::Consensus;
use super::leave::{Leave, LeaveState};
use super::members::{self, Step};
use super::roster::{self, Member, Roster};
use crate::publish::Published;
use crate::raft::Role;

/// How often the leader looks. A drain ends at most this much later than it could; looking costs a
/// walk over the drains that are under way.
const EVERY: Duration = Duration::from_millis(200);

/// A hand-over that came to nothing is tried again after this: Raft gives one up within an election's
/// time.
const HAND_OVER_EVERY: Duration = Duration::from_secs(3);

/// The keys under which a fleet's first entries are proposed: a new leader that has not applied yet
/// what the old one did proposes them again, and they must not replace what is there.
const INITIAL_KEY: &str = "tidelock-initial-configuration";
const FIRST_COOKIE_KEY: &str = "tidelock-first-cookie-key";

/// One thing to propose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Chore {
    /// The configuration that the node was started with.
    Initial,
    /// A first cookie key, distributed before any node seals with it.
    MakeKey,
    /// All live nodes have the key: let them seal with it.
    PromoteKey(CookieKey),
    FinishDrain(Command),
    /// A drain's sessions have had their time.
    EndSessions(Command),
    /// What is left has moved: other nodes close other parts of it.
    ShareClosing(Command),
    /// A switchover's next step.
    SwitchOver(Command),
    /// Other nodes are there to look after endpoints.
    NameObservers(Command),
    /// Most observers of an endpoint say so.
    Judge(Command),
    /// A node has shown a token.
    LetIn(Command),
    /// Every member knows this much of the log's language.
    RaiseLevel(u32),
}

/// What a leader remembers of its own time: lost with it, and rebuilt by the next one.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    /// The initial configuration was refused. It is told once, not five times a second.
    initial_refused: bool,
    /// The key that waits for promotion, and an epoch at which it was in the state for certain.
    waiting: Option<(u8, Epoch)>,
    /// When this node, leaving, last asked another one to lead.
    handed_over: Option<Instant>,
    /// The observers that should be named, and since when that is so.
    observers: Option<(Command, u64)>,
    switchovers: Watch,
}

impl Memory {
    fn may_hand_over(&self, now: Instant) -> bool {
        self.handed_over.is_none_or(|at| now.duration_since(at) >= HAND_OVER_EVERY)
    }
}

/// Nodes come and go for a moment; those that look after endpoints are named anew after this.
const OBSERVERS_AFTER_MS: u64 = 5_000;

/// The observers to name, when it has been clear for long enough who they are. At once where there
/// are none: until then nobody looks.
fn observers(state: &State, members: &[Member], memory: &mut Memory, now_ms: u64) -> Option<Chore> {
    let stays = |member: &&Member| member.report().is_some_and(|report| !report.leaving);
    let live: Vec<NodeId> = members.iter().filter(stays).map(|member| member.id).collect();
    let Some(command) = health::observers_change(state, &live) else {
        memory.observers = None;
        return None;
    };
    let since = match &memory.observers {
        Some((known, since)) if *known == command => *since,
        _ => memory.observers.insert((command.clone(), now_ms)).1,
    };
    let is_due = state.observers.nodes.is_empty() || now_ms.saturating_sub(since) >= OBSERVERS_AFTER_MS;
    is_due.then_some(Chore::NameObservers(command))
}

/// The chores that are due. `initial` is the level of the node's own configuration, if it has one. A fleet without a cookie key is a new one: only then is the initial
/// configuration proposed, so that what an operator deletes later does not come back.
pub(crate) fn next(
    state: &State,
    members: &[Member],
    initial: Option<u32>,
    memory: &mut Memory,
    now_ms: u64,
) -> Vec<Chore> {
    let mut chores = Vec::new();
    // A node's last word counts, however old: it does not forget. One never heard of may be old.
    let known = members.iter().map(Member::level).min().flatten().unwrap_or(1).min(LEVEL);
    if known > state.level() {
        chores.push(Chore::RaiseLevel(known));
    }
    match state.cookie_keys.iter().find(|key| !key.promoted) {
        None if state.cookie_keys.is_empty() => {
            let empty = state.pools.is_empty() && state.routes.is_empty();
            let needed = initial.filter(|_| empty && !memory.initial_refused);
            // The key ends the beginning, so it waits for the configuration.
            if needed.is_none_or(|needed| needed <= state.level()) {
                chores.extend(needed.map(|_| Chore::Initial));
                chores.push(Chore::MakeKey);
            }
        }
        Some(key) => {
            let now = state.epoch.unwrap_or(Epoch(0));
            let since = match memory.waiting {
                Some((id, since)) if id == key.id => since,
                _ => memory.waiting.insert((key.id, now)).1,
            };
            // Of every member, heard of or not: one that is cut off still serves, and could not open what
            // the others seal.
            let has_it = |member: &Member| member.epoch().is_some_and(|at| at >= since);
            if !members.is_empty() && members.iter().all(has_it) {
                chores.push(Chore::PromoteKey(CookieKey { promoted: true, ..key.clone() }));
            }
        }
        None => {}
    }
    if state.drains.values().any(|drain| drain.state == DrainState::Draining) {
        let seen = roster::seen(members);
        chores.extend(drain::finished(state, &seen, now_ms).into_iter().map(Chore::FinishDrain));
        chores.extend(pace::sessions_over(state, &seen, now_ms).into_iter().map(Chore::EndSessions));
        chores.extend(pace::shares(state, &seen).map(Chore::ShareClosing));
    }
    if state.switchovers.values().any(|switchover| switchover.stage.is_under_way()) {
        let steps = memory.switchovers.next(state, &roster::seen(members), now_ms);
        chores.extend(steps.into_iter().map(Chore::SwitchOver));
    }
    chores.extend(observers(state, members, memory, now_ms));
    // Those of one look in one entry: when many endpoints go down at once, one table tells of all.
    let mut verdicts = health::verdicts(state, &roster::seen(members), now_ms);
    match verdicts.len() {
        0 | 1 => chores.extend(verdicts.pop().map(Chore::Judge)),
        _ => chores.push(Chore::Judge(Command::Batch { commands: verdicts })),
    }
    chores
}

pub(crate) struct Chores {
    pub(crate) consensus: Consensus,
    pub(crate) published: Published,
    pub(crate) roster: watch::Receiver<Roster>,
    pub(crate) leave: Leave,
    /// Pools and routes of the node's configuration.
    pub(crate) initial: Vec<Command>,
}

impl Chores {
    /// Runs until it is dropped.
    pub(crate) async fn run(self) {
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut memory = Memory::default();
        let initial = self.initial.iter().map(Command::level).max();
        loop {
            ticks.tick().await;
            let raft = self.consensus.status();
            if raft.role != Role::Leader {
                memory = Memory::default();
                continue;
            }
            let now = Instant::now();
            let members = self.roster.borrow().members(&raft, &[], now);
            if self.leave.state() != LeaveState::Serving && memory.may_hand_over(now) {
                // Nobody to hand over to is fine: the others elect one when this node is gone.
                if let Some(to) = members::successor(&self.published.state(), &raft, &members) {
                    tracing::info!(%to, "this node leaves and hands its leadership over");
                    memory.handed_over = Some(now);
                    self.consensus.hand_over(to);
                }
            }
            self.look_after_members(&members, &mut memory).await;
            // What was proposed meanwhile has taken its time: look again.
            let members = self.roster.borrow().members(&self.consensus.status(), &[], Instant::now());
            let state = self.published.state();
            for chore in next(&state, &members, initial, &mut memory, clock::now_ms()) {
                self.propose(chore, &mut memory).await;
            }
        }
    }

    /// Lets in who shows a good token, and takes the next step towards the members that operators want.
    async fn look_after_members(&self, members: &[Member], memory: &mut Memory) {
        let (state, raft, peers) = (self.published.state(), self.consensus.status(), self.consensus.peers());
        match members::next(&state, &raft, members, &peers) {
            Step::Nothing => {}
            Step::HandOver(to) if memory.may_hand_over(Instant::now()) => {
                tracing::info!(%to, "this node shall not vote any more and hands its leadership over");
                memory.handed_over = Some(Instant::now());
                self.consensus.hand_over(to);
            }
            Step::HandOver(_) => {}
            Step::Change(changes) => match self.consensus.change_membership(changes.clone()).await {
                Ok(()) => tracing::info!(?changes, "the leader changed the membership"),
                // What is still wanted then is found at the next look.
                Err(error) => tracing::info!(?changes, %error, "the membership was not changed yet"),
            },
        }
        for command in members::joining(&state, &raft.membership, &peers, clock::now_ms()) {
            self.propose(Chore::LetIn(command), memory).await;
        }
    }

    async fn propose(&self, chore: Chore, memory: &mut Memory) {
        let (command, key) = match &chore {
            Chore::Initial => (Command::Batch { commands: self.initial.clone() }, Some(INITIAL_KEY)),
            Chore::MakeKey => {
                // The first key seals at once: no node serves before it has a key, so none is out
                // there that could not open what this one seals. Later keys wait for every node.
                let key = CookieKey { id: 1, secret: KeySecret(rand::random()), promoted: true };
                (Command::PutCookieKey { key }, Some(FIRST_COOKIE_KEY))
            }
            Chore::RaiseLevel(level) => (Command::SetLevel { level: *level }, None),
            Chore::PromoteKey(key) => (Command::PutCookieKey { key: key.clone() }, None),
            Chore::FinishDrain(command)
            | Chore::EndSessions(command)
            | Chore::ShareClosing(command)
            | Chore::SwitchOver(command)
            | Chore::NameObservers(command)
            | Chore::Judge(command)
            | Chore::LetIn(command) => (command.clone(), None),
        };
        let key = key.map(|key| IdempotencyKey::try_from(key.to_owned()).expect("the keys above are printable ASCII"));
        let command_told = command.clone();
        match self.consensus.propose(command, key).await {
            Ok(Outcome::Applied { epoch, .. }) => {
                match &command_told {
                    Command::SetHealth { pool, endpoint, verdict, detail, .. } => {
                        tracing::info!(%epoch, %pool, %endpoint, verdict = verdict.as_str(), detail, "verdict on an endpoint");
                    }
                    _ => tracing::info!(%epoch, chore = chore.name(), "the leader did a chore"),
                }
                self.published.reached(epoch).await;
            }
            Ok(Outcome::Rejected { reason }) => {
                memory.initial_refused |= chore == Chore::Initial;
                tracing::warn!(%reason, chore = chore.name(), "a chore of the leader was refused");
            }
            // It is due again at the next look, at whoever leads then.
            Err(error) => tracing::debug!(%error, chore = chore.name(), "a chore of the leader got no answer"),
        }
    }
}

impl Chore {
    fn name(&self) -> &'static str {
        match self {
            Chore::Initial => "propose the initial configuration",
            Chore::MakeKey => "make a cookie key",
            Chore::PromoteKey(_) => "promote the cookie key",
            Chore::FinishDrain(_) => "end a drain",
            Chore::EndSessions(_) => "end a drain's sessions",
            Chore::ShareClosing(_) => "share out a drain's pace",
            Chore::SwitchOver(_) => "go on with a switchover",
            Chore::NameObservers(_) => "name who looks after endpoints",
            Chore::Judge(_) => "judge an endpoint",
            Chore::LetIn(_) => "let a node in",
            Chore::RaiseLevel(_) => "raise the level of the log's language",
        }
    }
}

#[cfg(test)]
mod tests;
