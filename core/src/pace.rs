//! How fast a drain closes what does not end by itself, and which node closes which part of it.
//!
//! A pace holds for the fleet. Who may close how much is one log entry, so it survives a leader and
//! is the same for all. A node that has not heard of its smaller part still closes at its larger one;
//! so nobody gets more before everybody who had to give up something has reported that it did.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::command::{Command, DrainMode};
use crate::drain::Seen;
use crate::id::{DrainId, NodeId, SwitchoverId};
use crate::state::{Drain, DrainState, State};

/// Closes in a second, summed over the fleet, 1 to 100,000. Of a switchover: over all its drains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Pace(u32);

impl Pace {
    pub const MAX: u32 = 100_000;
    /// What 5,000 WebSockets of an endpoint take 100 seconds for, and their next endpoints hardly
    /// notice.
    pub const DEFAULT: Pace = Pace(50);

    pub fn get(self) -> u32 {
        self.0
    }

    /// In the unit of shares, which divides small paces without fractions: closes in 1,000 seconds.
    fn whole(self) -> u64 {
        u64::from(self.0) * 1_000
    }

    /// How long so many closes take, in milliseconds.
    pub fn time_for(self, closes: u64) -> u64 {
        closes.saturating_mul(1_000).div_ceil(self.0.into())
    }
}

impl TryFrom<u32> for Pace {
    type Error = String;

    fn try_from(value: u32) -> Result<Self, String> {
        match value {
            1..=Pace::MAX => Ok(Pace(value)),
            _ => Err(format!("{value} is not a pace: closes in a second, 1 to {}", Pace::MAX)),
        }
    }
}

impl From<Pace> for u32 {
    fn from(pace: Pace) -> u32 {
        pace.0
    }
}

/// What shares one pace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Group {
    Drain(DrainId),
    Switchover(SwitchoverId),
}

type Drains<'a> = Vec<(DrainId, &'a Drain)>;
type Shares = BTreeMap<(DrainId, NodeId), u64>;

/// The drains that close at a pace now, by what they share it with.
fn groups(state: &State) -> BTreeMap<Group, (Pace, Drains<'_>)> {
    let mut groups = BTreeMap::<Group, (Pace, Drains<'_>)>::new();
    for (id, drain) in &state.drains {
        let closes = drain.state == DrainState::Draining && drain.mode == DrainMode::Streams;
        let Some(pace) = drain.pace.filter(|_| closes) else { continue };
        let group = drain.switchover.map_or(Group::Drain(*id), Group::Switchover);
        groups.entry(group).or_insert((pace, Vec::new())).1.push((*id, drain));
    }
    groups
}

/// The parts that fit what is left where, when the present ones do not: what the leader proposes next.
pub fn shares(state: &State, nodes: &[Seen<'_>]) -> Option<Command> {
    let mut changed = BTreeMap::<DrainId, BTreeMap<NodeId, u64>>::new();
    for (pace, drains) in groups(state).into_values() {
        if let Some(shares) = reshared(pace, &drains, nodes) {
            for (drain, _) in &drains {
                changed.entry(*drain).or_default();
            }
            for ((drain, node), share) in shares {
                changed.entry(drain).or_default().insert(node, share);
            }
        }
    }
    (!changed.is_empty()).then_some(Command::ShareClosing { shares: changed, seen: state.epoch })
}

fn reshared(pace: Pace, drains: &[(DrainId, &Drain)], nodes: &[Seen<'_>]) -> Option<Shares> {
    let now: Shares =
        drains.iter().flat_map(|(id, drain)| drain.shares.iter().map(|(node, share)| ((*id, *node), *share))).collect();
    let since = drains.iter().filter_map(|(_, drain)| drain.shared).max();
    // Who has a part, or had one that was taken away, may still close at it until it says that it
    // knows better. A node that is away says nothing: then all goes on as it is.
    let has_part = |node: NodeId| now.keys().any(|(_, holder)| *holder == node);
    let knows = |seen: &Seen<'_>| seen.report.is_some_and(|report| report.epoch >= since);
    if nodes.iter().any(|seen| has_part(seen.node) && !knows(seen)) {
        return None;
    }
    let mut left = Shares::new();
    for seen in nodes {
        let Some(report) = seen.report else { continue };
        for (id, drain) in drains {
            let lasting = report.endpoints.get(&drain.endpoint_id).map_or(0, |counts| counts.lasting());
            if lasting > 0 {
                left.insert((*id, seen.node), lasting);
            }
        }
    }
    let total: u64 = left.values().sum();
    if total == 0 {
        return None;
    }
    let whole = pace.whole();
    // A part that is not zero closes something, however late.
    let part = |lasting: u64| (u128::from(whole) * u128::from(lasting) / u128::from(total)).max(1) as u64;
    let ideal: Shares = left.into_iter().map(|(holder, lasting)| (holder, part(lasting))).collect();
    let share_of = |shares: &Shares, holder: &(DrainId, NodeId)| shares.get(holder).copied().unwrap_or(0);
    let is_short = |(holder, ideal): (&(DrainId, NodeId), &u64)| {
        let now = share_of(&now, holder);
        now == 0 || ideal.saturating_sub(now) > (now / 4).max(whole / 100)
    };
    if !ideal.iter().any(is_short) {
        return None;
    }
    let holders: std::collections::BTreeSet<_> = now.keys().chain(ideal.keys()).copied().collect();
    let most: u64 = holders.iter().map(|holder| share_of(&now, holder).max(share_of(&ideal, holder))).sum();
    if most <= whole + holders.len() as u64 {
        return Some(ideal);
    }
    // Somebody has to give before somebody may take.
    let less = now.iter().map(|(holder, share)| (*holder, (*share).min(share_of(&ideal, holder)))).collect();
    (less != now).then_some(less)
}

/// The `sessions` drains whose sessions have had their time: what is left needs the rest of it to be
/// closed at the pace.
pub fn sessions_over(state: &State, nodes: &[Seen<'_>], now_ms: u64) -> Vec<Command> {
    let with_sessions =
        state.drains.iter().filter(|(_, d)| d.state == DrainState::Draining && d.mode == DrainMode::Sessions);
    with_sessions
        .filter_map(|(id, drain)| {
            let (pace, deadline) = (drain.pace?, drain.deadline_ms?);
            let shares_it = |(other, sibling): &(&DrainId, &Drain)| *other == id || is_sibling(drain, sibling);
            let endpoints: Vec<_> = state.drains.iter().filter(shares_it).map(|(_, drain)| drain.endpoint_id).collect();
            let reports = nodes.iter().filter_map(|seen| seen.report);
            let counts = reports.flat_map(|report| endpoints.iter().filter_map(|id| report.endpoints.get(id)));
            let left: u64 = counts.map(|counts| counts.lasting()).sum();
            let needed = pace.time_for(left).saturating_add(CLOSING_TIME_MS);
            (left > 0 && now_ms.saturating_add(needed) >= deadline).then_some(Command::EndSessions { drain: *id })
        })
        .collect()
}

/// What the last closes take, and what clocks may differ.
const CLOSING_TIME_MS: u64 = 5_000;

fn is_sibling(drain: &Drain, other: &Drain) -> bool {
    other.state == DrainState::Draining && drain.switchover.is_some() && drain.switchover == other.switchover
}

#[cfg(test)]
mod tests;
