//! The fleet's verdict on an endpoint: up or down, one log entry each time it changes.
//!
//! A few nodes look at each endpoint ([`observers`]), so that what it is asked does not grow with the
//! fleet, and most of them must agree, so that a node that has lost its way to an endpoint does not
//! take it from all others. What a single node cannot reach it passes over by itself, for the one
//! request. Observers come from the replicated state: every node knows who looks at what.

use serde::{Deserialize, Serialize};

use crate::command::Command;
use crate::drain::Seen;
use crate::id::{EndpointId, Epoch, NodeId};
use crate::report::Observed;
use crate::ring;
use crate::spec::HealthSpec;
use crate::state::{Endpoint, State};

/// Nodes that look at one endpoint, if the fleet has so many. Two of three can be wrong about nothing
/// that the third sees.
pub const OBSERVERS: usize = 3;

/// An endpoint that keeps falling stays down for this long after its second fall, twice as long after
/// each further one, at most [`HOLD_MAX_MS`].
const HOLD_MS: u64 = 10_000;
const HOLD_MAX_MS: u64 = 300_000;
/// A fall is forgiven when the endpoint was up for this long before it.
const FORGIVEN_AFTER_MS: u64 = 600_000;

/// What the fleet has agreed on about an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Health {
    pub verdict: Verdict,
    /// Unix time in milliseconds; of an endpoint that never fell, when it was added.
    pub since_ms: u64,
    /// How often it has fallen lately.
    #[serde(default)]
    pub falls: u32,
    /// What an observer saw.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Also before anybody has looked.
    #[default]
    Up,
    Down,
}

impl Verdict {
    pub fn as_str(self) -> &'static str {
        match self {
            Verdict::Up => "up",
            Verdict::Down => "down",
        }
    }
}

impl Health {
    /// Of an endpoint that nobody has looked at.
    pub fn new(now_ms: u64) -> Health {
        Health { since_ms: now_ms, ..Health::default() }
    }

    pub(crate) fn set(&mut self, verdict: Verdict, detail: &str, now_ms: u64) {
        if self.verdict == verdict {
            return;
        }
        if verdict == Verdict::Down {
            let is_forgiven = now_ms.saturating_sub(self.since_ms) >= FORGIVEN_AFTER_MS;
            self.falls = if is_forgiven { 1 } else { self.falls.saturating_add(1) };
        }
        (self.verdict, self.since_ms, self.detail) = (verdict, now_ms, detail.to_owned());
    }

    /// Whether it stays down, whatever is seen. A time to come was said by a clock that is ahead, which
    /// holds nothing.
    fn is_held(&self, now_ms: u64) -> bool {
        let hold = match self.falls {
            0 | 1 => 0,
            falls => HOLD_MS.saturating_mul(1 << (falls - 2).min(16)).min(HOLD_MAX_MS),
        };
        now_ms.checked_sub(self.since_ms).is_some_and(|down_for| down_for < hold)
    }
}

/// What one observer makes of its checks, one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Streak {
    /// None until it has looked often enough.
    seen: Option<Verdict>,
    last: Verdict,
    /// Checks in a row with the outcome of the last one.
    length: u8,
}

impl Streak {
    /// Takes an outcome; says whether it is settled now, or about to change its mind.
    pub fn take(&mut self, passed: bool, spec: &HealthSpec) -> bool {
        let outcome = if passed { Verdict::Up } else { Verdict::Down };
        self.length = if outcome == self.last { self.length.saturating_add(1) } else { 1 };
        self.last = outcome;
        let needed = if passed { spec.healthy_threshold } else { spec.unhealthy_threshold };
        if self.length >= needed.get() {
            self.seen = Some(outcome);
        }
        self.seen == Some(outcome)
    }

    pub fn seen(&self) -> Option<Verdict> {
        self.seen
    }
}

/// The nodes that look at `endpoint`: those of `nodes` that score highest for it, so that a node
/// that comes or goes changes no more than its own share (rendezvous hashing, Thaler and Ravishankar
/// 1998).
pub fn observers(endpoint: EndpointId, nodes: &[NodeId]) -> Vec<NodeId> {
    let score = |node: &NodeId| {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&endpoint.0.to_be_bytes());
        bytes[8..].copy_from_slice(&node.0.to_be_bytes());
        std::cmp::Reverse((ring::position(&bytes), *node))
    };
    let mut nodes = nodes.to_vec();
    nodes.sort_unstable_by_key(score);
    nodes.truncate(OBSERVERS);
    nodes
}

/// The verdicts that change: what the leader proposes next.
pub fn verdicts(state: &State, nodes: &[Seen<'_>], now_ms: u64) -> Vec<Command> {
    let mut commands = Vec::new();
    // Nothing changes about an endpoint that is up and that nobody calls down.
    let is_suspect = |id: EndpointId| {
        let calls_down = |seen: &Seen<'_>| {
            seen.report.is_some_and(|report| matches!(report.health.get(&id), Some(Observed::Down { .. })))
        };
        nodes.iter().any(calls_down)
    };
    for (pool_name, pool) in state.pools.iter().filter(|(_, pool)| pool.spec.health.is_some()) {
        for (name, endpoint) in &pool.endpoints {
            let health = &endpoint.health;
            if health.verdict == Verdict::Up && !is_suspect(endpoint.id) {
                continue;
            }
            let votes = votes(state, endpoint.id, nodes);
            let (verdict, detail) = match health.verdict {
                Verdict::Up if votes.down >= votes.needed => (Verdict::Down, votes.detail),
                Verdict::Down if votes.up >= votes.needed && !health.is_held(now_ms) => (Verdict::Up, String::new()),
                _ => continue,
            };
            let (pool, endpoint, id) = (pool_name.clone(), name.clone(), endpoint.id);
            commands.push(Command::SetHealth { pool, endpoint, id, verdict, detail });
        }
    }
    commands
}

/// Whether `endpoint` is up by its verdict, and by most of its observers in reports from `since` on: an
/// endpoint counts as up before anybody has looked.
pub fn is_seen_up(state: &State, endpoint: &Endpoint, since: Epoch, nodes: &[Seen<'_>]) -> bool {
    let is_late = |seen: &&Seen<'_>| seen.report.is_some_and(|report| report.epoch >= Some(since));
    let late: Vec<Seen<'_>> = nodes.iter().filter(is_late).cloned().collect();
    let votes = votes(state, endpoint.id, &late);
    endpoint.health.verdict == Verdict::Up && votes.up >= votes.needed
}

struct Votes {
    up: usize,
    down: usize,
    needed: usize,
    detail: String,
}

/// What the observers say of `endpoint`. One that is not heard of, has not looked yet or does not
/// know that it should, says nothing.
fn votes(state: &State, endpoint: EndpointId, nodes: &[Seen<'_>]) -> Votes {
    let observers = observers(endpoint, &state.observers.nodes);
    // Without an observer nobody has a majority.
    let mut votes = Votes { up: 0, down: 0, needed: observers.len() / 2 + 1, detail: String::new() };
    let knows = |seen: &&Seen<'_>| seen.report.is_some_and(|report| report.epoch >= state.observers.since);
    for report in nodes.iter().filter(|seen| observers.contains(&seen.node)).filter(knows).filter_map(|s| s.report) {
        match report.health.get(&endpoint) {
            None => votes.up += 1,
            Some(Observed::Pending) => {}
            Some(Observed::Down { detail }) => {
                votes.down += 1;
                if votes.detail.is_empty() {
                    votes.detail.clone_from(detail);
                }
            }
        }
    }
    votes
}

/// The nodes that should look at endpoints, when they are not those that do. `live` are the members
/// that are heard of and stay.
pub fn observers_change(state: &State, live: &[NodeId]) -> Option<Command> {
    let is_asked = state.pools.values().any(|pool| pool.spec.health.is_some());
    let mut nodes = live.to_vec();
    nodes.sort_unstable();
    (is_asked && !nodes.is_empty() && nodes != state.observers.nodes).then_some(Command::SetObservers { nodes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Proposal;
    use crate::id::Name;
    use crate::report::NodeReport;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    /// A pool of one checked endpoint, which nodes 1 to `nodes` look at.
    struct Fleet {
        state: State,
        reports: Vec<(NodeId, Option<NodeReport>)>,
        now_ms: u64,
    }

    impl Fleet {
        fn new(nodes: u64) -> Fleet {
            let mut fleet = Fleet { state: State::default(), reports: Vec::new(), now_ms: 1_000_000 };
            fleet.apply(Command::SetLevel { level: crate::command::LEVEL });
            let spec = serde_json::json!({"health": {"check": {"kind": "tcp"}}});
            fleet.apply(Command::PutPool { name: name("app"), spec: serde_json::from_value(spec).unwrap() });
            let spec = serde_json::from_value(serde_json::json!({"address": "a:1"})).unwrap();
            fleet.apply(Command::PutEndpoint { pool: name("app"), name: name("a"), spec });
            let nodes: Vec<NodeId> = (1..=nodes).map(NodeId).collect();
            let command = observers_change(&fleet.state, &nodes).unwrap();
            fleet.apply(command);
            let epoch = fleet.state.epoch;
            fleet.reports =
                nodes.iter().map(|node| (*node, Some(NodeReport { epoch, ..NodeReport::default() }))).collect();
            fleet
        }

        fn apply(&mut self, command: Command) {
            let epoch = Epoch(self.state.epoch.map_or(0, |epoch| epoch.0) + 1);
            let proposal = Proposal { at_ms: self.now_ms, key: None, command };
            let outcome = self.state.apply(epoch, &proposal);
            assert!(matches!(outcome, crate::state::Outcome::Applied { .. }), "{outcome:?}");
        }

        fn id(&self) -> EndpointId {
            self.state.pools[&name("app")].endpoints[&name("a")].id
        }

        fn says(&mut self, node: usize, observed: Option<Observed>) {
            let id = self.id();
            let report = self.reports[node].1.as_mut().unwrap();
            match observed {
                Some(observed) => drop(report.health.insert(id, observed)),
                None => drop(report.health.remove(&id)),
            }
        }

        /// Carries out what the leader would propose now, and says what it is.
        fn judge(&mut self) -> Option<Verdict> {
            let seen: Vec<Seen<'_>> =
                self.reports.iter().map(|(node, report)| Seen { node: *node, report: report.as_ref() }).collect();
            let commands = verdicts(&self.state, &seen, self.now_ms);
            assert!(commands.len() <= 1);
            let command = commands.into_iter().next()?;
            let Command::SetHealth { verdict, .. } = command else { panic!("{command:?}") };
            self.apply(command);
            Some(verdict)
        }
    }

    fn down() -> Option<Observed> {
        Some(Observed::Down { detail: "connection refused".into() })
    }

    #[test]
    fn most_observers_must_agree() {
        let mut fleet = Fleet::new(3);
        assert_eq!(fleet.judge(), None);
        fleet.says(0, down());
        assert_eq!(fleet.judge(), None, "one node that cannot reach it ejects nobody");
        fleet.says(1, down());
        assert_eq!(fleet.judge(), Some(Verdict::Down));
        assert_eq!(fleet.judge(), None, "once");
        let health = fleet.state.pools[&name("app")].endpoints[&name("a")].health.clone();
        assert_eq!((health.falls, health.detail.as_str()), (1, "connection refused"));
        fleet.says(0, Some(Observed::Pending));
        assert_eq!(fleet.judge(), None);
        fleet.says(0, None);
        assert_eq!(fleet.judge(), Some(Verdict::Up));
        // Two nodes must both see it, one decides for itself.
        let mut fleet = Fleet::new(2);
        fleet.says(0, down());
        assert_eq!(fleet.judge(), None);
        let mut fleet = Fleet::new(1);
        fleet.says(0, down());
        assert_eq!(fleet.judge(), Some(Verdict::Down));
    }

    #[test]
    fn who_is_not_heard_of_or_behind_says_nothing() {
        let mut fleet = Fleet::new(3);
        fleet.says(0, down());
        fleet.says(1, down());
        fleet.reports[1].1.as_mut().unwrap().epoch = Some(Epoch(1));
        assert_eq!(fleet.judge(), None, "it looks at what an older table says");
        fleet.reports[1].1 = None;
        assert_eq!(fleet.judge(), None);
        fleet.says(2, down());
        assert_eq!(fleet.judge(), Some(Verdict::Down));
        fleet.says(2, None);
        fleet.reports[0].1 = None;
        assert_eq!(fleet.judge(), None, "silence is no good word either");
    }

    #[test]
    fn an_endpoint_that_keeps_falling_stays_down_longer() {
        let mut fleet = Fleet::new(1);
        for hold_s in [0, 10, 20, 40, 80, 160, 300, 300] {
            fleet.says(0, down());
            assert_eq!(fleet.judge(), Some(Verdict::Down));
            fleet.says(0, None);
            if hold_s > 0 {
                fleet.now_ms += hold_s * 1_000 - 1;
                assert_eq!(fleet.judge(), None, "{hold_s}");
                fleet.now_ms += 1;
            }
            assert_eq!(fleet.judge(), Some(Verdict::Up), "{hold_s}");
        }
        // A clock that was ahead when it said so.
        fleet.says(0, down());
        assert_eq!(fleet.judge(), Some(Verdict::Down));
        fleet.says(0, None);
        fleet.now_ms -= 1_000;
        assert_eq!(fleet.judge(), Some(Verdict::Up));
        fleet.now_ms += FORGIVEN_AFTER_MS + 1_000;
        fleet.says(0, down());
        assert_eq!(fleet.judge(), Some(Verdict::Down));
        fleet.says(0, None);
        assert_eq!(fleet.judge(), Some(Verdict::Up), "a long time ago");
    }

    #[test]
    fn an_observer_looks_more_than_once() {
        let spec = serde_json::json!({"check": {"kind": "tcp"}, "healthy_threshold": 2, "unhealthy_threshold": 3});
        let spec: HealthSpec = serde_json::from_value(spec).unwrap();
        let mut streak = Streak::default();
        let (up, down) = (Some(Verdict::Up), Some(Verdict::Down));
        for (passed, settled, seen) in [
            (true, false, None),
            (true, true, up),
            (false, false, up),
            (false, false, up),
            (true, true, up),
            (false, false, up),
            (false, false, up),
            (false, true, down),
            (true, false, down),
            (false, true, down),
            (true, false, down),
            (true, true, up),
        ] {
            assert_eq!((streak.take(passed, &spec), streak.seen()), (settled, seen));
        }
        let mut fresh = Streak::default();
        assert!(!fresh.take(false, &spec) && !fresh.take(false, &spec));
        assert!(fresh.take(false, &spec) && fresh.seen() == down);
    }

    #[test]
    fn each_endpoint_has_three_observers_and_a_node_its_share() {
        let nodes: Vec<NodeId> = (1..=10).map(NodeId).collect();
        let mut looks = std::collections::BTreeMap::new();
        let mut moved = 0;
        for id in 0..1_000 {
            let chosen = observers(EndpointId(id), &nodes);
            assert_eq!(chosen.len(), OBSERVERS);
            chosen.iter().for_each(|node| *looks.entry(*node).or_insert(0) += 1);
            let without = observers(EndpointId(id), &nodes[..9]);
            moved += chosen.iter().filter(|node| !without.contains(node)).count();
        }
        assert!(looks.values().all(|looks| (220..380).contains(looks)), "{looks:?}");
        assert_eq!(moved, looks[&NodeId(10)], "only what the lost node looked at");
        assert_eq!(observers(EndpointId(1), &nodes[..2]).len(), 2);
        assert!(observers(EndpointId(1), &[]).is_empty());
    }

    #[test]
    fn observers_are_named_only_where_something_is_checked() {
        let mut fleet = Fleet::new(2);
        assert_eq!(observers_change(&fleet.state, &[NodeId(2), NodeId(1)]), None);
        assert_eq!(observers_change(&fleet.state, &[]), None, "somebody must look");
        assert!(observers_change(&fleet.state, &[NodeId(1)]).is_some());
        fleet.says(0, down());
        fleet.says(1, down());
        assert_eq!(fleet.judge(), Some(Verdict::Down));
        // Without checks nothing is down.
        fleet.apply(Command::PutPool { name: name("app"), spec: Default::default() });
        assert_eq!(fleet.state.pools[&name("app")].endpoints[&name("a")].health.verdict, Verdict::Up);
        assert_eq!(observers_change(&fleet.state, &[NodeId(1)]), None);
    }
}
