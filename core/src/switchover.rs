//! Replacing one side of a pool by another: the new side must be up, then new sessions go there and
//! the old side drains at a pace. It goes back when the new side fails, or by request.
//!
//! A switchover is a record in the state; the leader finds its next step from the record and from
//! what nodes report ([`Watch::next`]), so a new leader goes on where the old one stopped.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::command::{Command, DrainMode};
use crate::drain::Seen;
use crate::health::{self, Verdict};
use crate::id::{DrainId, EndpointId, Epoch, Name, NodeId, SwitchoverId};
use crate::pace::Pace;
use crate::report::Outcomes;
use crate::spec::Millis;
use crate::state::{DrainState, Endpoint, Phase, Pool, State};

/// What replaces what, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SwitchoverSpec {
    pub from: Side,
    pub to: Side,
    /// How the old side drains.
    #[serde(default = "streams")]
    pub mode: DrainMode,
    #[serde(default = "default_pace")]
    pub pace: Pace,
    /// From the shift on; what is left on the old side then is cut. 5 minutes.
    #[serde(default = "default_deadline")]
    pub deadline_ms: Millis,
    /// So many endpoints of the new side must be up: 1.
    #[serde(default = "one")]
    pub min_ready: u32,
    /// For how long to wait for them, then nothing is changed: 10 minutes.
    #[serde(default = "default_wait")]
    pub wait_ms: Millis,
    /// Go back when more than so many percent of what the new side is asked fails; None never does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_error_percent: Option<u8>,
    /// For people.
    #[serde(default)]
    pub reason: String,
}

fn streams() -> DrainMode {
    DrainMode::Streams
}

fn default_pace() -> Pace {
    Pace::DEFAULT
}

fn default_deadline() -> Millis {
    Millis::try_from(300_000).expect("it is in the range")
}

fn default_wait() -> Millis {
    Millis::try_from(600_000).expect("it is in the range")
}

fn one() -> u32 {
    1
}

/// Some endpoints of a pool: a deployed version, whatever its endpoints are called, or a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Side {
    Revision(Name),
    Endpoints(BTreeSet<Name>),
}

impl Side {
    fn holds(&self, name: &Name, endpoint: &Endpoint) -> bool {
        match self {
            Side::Revision(revision) => endpoint.spec.revision.as_ref() == Some(revision),
            Side::Endpoints(names) => names.contains(name),
        }
    }
}

impl SwitchoverSpec {
    /// What its parts must be to go together.
    pub fn check(&self) -> Result<(), String> {
        let overlaps = match (&self.from, &self.to) {
            (Side::Endpoints(from), Side::Endpoints(to)) => !from.is_disjoint(to),
            (from, to) => from == to,
        };
        if overlaps {
            return Err("from and to name the same endpoints: nothing would be replaced".into());
        }
        let is_empty = |side: &Side| matches!(side, Side::Endpoints(names) if names.is_empty());
        if is_empty(&self.from) || is_empty(&self.to) {
            return Err("from and to each name a revision, or at least one endpoint".into());
        }
        if self.min_ready == 0 {
            return Err("min_ready is at least 1: a side without an endpoint serves nobody".into());
        }
        if self.max_error_percent.is_some_and(|percent| percent > 100) {
            return Err("max_error_percent is 0 to 100".into());
        }
        Ok(())
    }

    /// The active endpoints of the old side.
    pub fn old_side<'a>(&'a self, pool: &'a Pool) -> impl Iterator<Item = (&'a Name, &'a Endpoint)> {
        active(pool).filter(|(name, endpoint)| self.from.holds(name, endpoint) && !self.to.holds(name, endpoint))
    }

    /// The active endpoints of the new side.
    pub fn new_side<'a>(&'a self, pool: &'a Pool) -> impl Iterator<Item = (&'a Name, &'a Endpoint)> {
        active(pool).filter(|(name, endpoint)| self.to.holds(name, endpoint))
    }
}

fn active(pool: &Pool) -> impl Iterator<Item = (&Name, &Endpoint)> {
    pool.endpoints.iter().filter(|(_, endpoint)| matches!(endpoint.phase, Phase::Active {}))
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Switchover {
    pub pool: Name,
    pub spec: SwitchoverSpec,
    pub started_ms: u64,
    pub stage: Stage,
    /// Of the old side, since the shift.
    pub drains: Vec<DrainId>,
    /// When new sessions began to go to the new side, Unix time in milliseconds.
    pub shifted_ms: Option<u64>,
    pub ended_ms: Option<u64>,
    /// Why it went back.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// For the new side to be up. Nothing has changed.
    Waiting,
    /// New sessions go to the new side, the old one empties.
    Draining,
    /// The old side is empty.
    Done,
    /// What of the old side had not drained yet is in use again; what had gone to the new one drains.
    RolledBack,
}

impl Stage {
    pub fn as_str(self) -> &'static str {
        match self {
            Stage::Waiting => "waiting",
            Stage::Draining => "draining",
            Stage::Done => "done",
            Stage::RolledBack => "rolled-back",
        }
    }

    pub fn is_under_way(self) -> bool {
        matches!(self, Stage::Waiting | Stage::Draining)
    }
}

/// The endpoints whose outcomes a switchover under way is decided by.
pub fn watched(state: &State) -> BTreeSet<EndpointId> {
    let judged = state.switchovers.values().filter(|s| s.stage == Stage::Draining);
    let judged = judged.filter(|switchover| switchover.spec.max_error_percent.is_some());
    judged
        .filter_map(|switchover| Some((switchover, state.pools.get(&switchover.pool)?)))
        .flat_map(|(switchover, pool)| switchover.spec.new_side(pool).map(|(_, endpoint)| endpoint.id))
        .collect()
}

/// Fewer outcomes than these in a window say nothing.
const MIN_OUTCOMES: u64 = 20;
/// Failures are counted anew after this: an old trouble must not hide behind many good answers, nor
/// good answers behind it.
const WINDOW_MS: u64 = 30_000;

/// What a leader remembers of switchovers: lost with it, and seen again by the next one.
#[derive(Debug, Default)]
pub struct Watch {
    /// The new side as it waits, and an epoch at which it was in the state for certain.
    candidates: BTreeMap<SwitchoverId, (Vec<EndpointId>, Epoch)>,
    windows: BTreeMap<SwitchoverId, Window>,
}

/// Nodes count since they started, so what each has said first of each endpoint is what it begins
/// with, whenever that is.
#[derive(Debug, Default)]
struct Window {
    since_ms: u64,
    before: BTreeMap<(NodeId, EndpointId), Outcomes>,
}

impl Watch {
    /// The steps that are due: what the leader proposes next.
    pub fn next(&mut self, state: &State, nodes: &[Seen<'_>], now_ms: u64) -> Vec<Command> {
        let under_way = |id: &SwitchoverId| state.switchovers.get(id).is_some_and(|s| s.stage.is_under_way());
        self.candidates.retain(|id, _| under_way(id));
        self.windows.retain(|id, _| under_way(id));
        let mut commands = Vec::new();
        for (id, switchover) in state.switchovers.iter().filter(|(_, s)| s.stage.is_under_way()) {
            let back = |reason: String| Command::RollBackSwitchover { switchover: *id, reason };
            match switchover.stage {
                Stage::Waiting => {
                    let wait = switchover.spec.wait_ms.get();
                    let is_late = now_ms.saturating_sub(switchover.started_ms) >= wait;
                    if self.is_ready(*id, switchover, state, nodes) && !is_late {
                        commands.push(Command::ShiftSwitchover { switchover: *id });
                    } else if is_late {
                        commands.push(back(format!("the new side was not up within {} s", wait.div_ceil(1_000))));
                    }
                }
                _ => {
                    let is_over = |id| state.drains.get(id).is_none_or(|d| d.state != DrainState::Draining);
                    // First: what is empty, or gone, is nothing to go back to.
                    if switchover.drains.iter().all(is_over) {
                        commands.push(Command::FinishSwitchover { switchover: *id });
                    } else if let Some(percent) = self.fails(*id, switchover, state, nodes, now_ms) {
                        commands.push(back(format!("{percent} % of what the new side was asked failed")));
                    }
                }
            }
        }
        commands
    }

    /// Whether enough of the new side is up, by those who have looked.
    fn is_ready(&mut self, id: SwitchoverId, switchover: &Switchover, state: &State, nodes: &[Seen<'_>]) -> bool {
        let Some(pool) = state.pools.get(&switchover.pool) else { return false };
        let new: Vec<&Endpoint> = switchover.spec.new_side(pool).map(|(_, endpoint)| endpoint).collect();
        let ids: Vec<EndpointId> = new.iter().map(|endpoint| endpoint.id).collect();
        let epoch = state.epoch.unwrap_or(Epoch(0));
        // A report from before an endpoint was added says nothing of it, which must not count as "up".
        let since = match self.candidates.get(&id) {
            Some((known, since)) if *known == ids => *since,
            _ => self.candidates.entry(id).insert_entry((ids, epoch)).get().1,
        };
        let is_checked = pool.spec.health.is_some();
        let is_up = |endpoint: &&&Endpoint| match is_checked {
            true => health::is_seen_up(state, endpoint, since, nodes),
            false => endpoint.health.verdict == Verdict::Up,
        };
        new.iter().filter(is_up).count() >= switchover.spec.min_ready as usize
    }

    /// The percentage of failures, when there are too many.
    fn fails(
        &mut self,
        id: SwitchoverId,
        switchover: &Switchover,
        state: &State,
        nodes: &[Seen<'_>],
        now_ms: u64,
    ) -> Option<u64> {
        let limit = u64::from(switchover.spec.max_error_percent?);
        let pool = state.pools.get(&switchover.pool)?;
        let window = self.windows.entry(id).or_default();
        if now_ms.saturating_sub(window.since_ms) >= WINDOW_MS {
            *window = Window { since_ms: now_ms, ..Window::default() };
        }
        let (mut good, mut failed) = (0, 0);
        for (_, endpoint) in switchover.spec.new_side(pool) {
            for seen in nodes {
                let Some(now) = seen.report.and_then(|report| report.outcomes.get(&endpoint.id)) else { continue };
                let before = window.before.entry((seen.node, endpoint.id)).or_insert(*now);
                if now.good < before.good || now.failed < before.failed {
                    // It has started anew.
                    *before = Outcomes::default();
                }
                good += now.good - before.good;
                failed += now.failed - before.failed;
            }
        }
        let total = good + failed;
        if total >= MIN_OUTCOMES && failed * 100 > limit * total {
            return Some(failed * 100 / total);
        }
        None
    }
}

#[cfg(test)]
mod tests;
