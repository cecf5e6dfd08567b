//! How far a drain is, and when it is over.
//!
//! A drain is safe when every node of the fleet has reported, from a table at or beyond the
//! drain's epoch, that nothing is left on the endpoint. A node that does not report is named; it
//! is never counted as zero.

use std::collections::BTreeMap;

use crate::command::{Command, DrainMode};
use crate::id::{DrainId, NodeId};
use crate::report::{Counts, NodeReport};
use crate::state::{Drain, DrainState, State};

/// How long after the deadline the fleet waits for nodes that are away before it ends the drain
/// without them.
pub const FORCE_AFTER_MS: u64 = 5_000;

/// A node of the fleet as another one sees it.
#[derive(Debug, Clone)]
pub struct Seen<'a> {
    pub node: NodeId,
    /// None: not heard of lately.
    pub report: Option<&'a NodeReport>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Progress {
    /// Over the nodes that reported.
    pub counts: Counts,
    pub by_node: BTreeMap<NodeId, NodeProgress>,
    /// Nothing is left, on any node.
    pub safe: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeProgress {
    /// Not heard of lately, or its table is older than the drain.
    Missing,
    Left(Counts),
}

impl NodeProgress {
    fn is_known(&self) -> bool {
        matches!(self, NodeProgress::Left(_))
    }
}

pub fn progress(id: DrainId, drain: &Drain, nodes: &[Seen<'_>]) -> Progress {
    // From where its gate is closed on; while its sessions may come back a quiet moment is no end.
    let epoch = drain.closed.unwrap_or(id.epoch());
    let may_be_safe = !nodes.is_empty() && drain.mode == DrainMode::Streams;
    let mut progress = Progress { safe: may_be_safe, ..Progress::default() };
    for seen in nodes {
        let reported = seen.report.filter(|report| report.epoch.is_some_and(|at| at >= epoch));
        let node = match reported {
            None => NodeProgress::Missing,
            Some(report) => NodeProgress::Left(report.endpoints.get(&drain.endpoint_id).copied().unwrap_or_default()),
        };
        match node {
            NodeProgress::Missing => progress.safe = false,
            NodeProgress::Left(counts) => {
                progress.counts += counts;
                progress.safe &= counts.is_zero();
            }
        }
        progress.by_node.insert(seen.node, node);
    }
    progress
}

/// The drains that are over: what the leader proposes next. In `sessions` mode a quiet moment is
/// no end: sessions may come back, so only the deadline ends it.
pub fn finished(state: &State, nodes: &[Seen<'_>], now_ms: u64) -> Vec<Command> {
    let under_way = state.drains.iter().filter(|(_, drain)| drain.state == DrainState::Draining);
    under_way
        .filter_map(|(id, drain)| {
            let progress = progress(*id, drain, nodes);
            let past = drain.deadline_ms.is_some_and(|deadline| now_ms >= deadline);
            let given_up = drain.deadline_ms.is_some_and(|deadline| now_ms >= deadline + FORCE_AFTER_MS);
            let is_quiet = progress.counts.is_zero() && progress.by_node.values().all(NodeProgress::is_known);
            if progress.safe || past && is_quiet && !progress.by_node.is_empty() {
                Some(Command::FinishDrain { drain: *id, forced: false })
            } else if given_up {
                Some(Command::FinishDrain { drain: *id, forced: true })
            } else {
                None
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{EndpointId, Epoch};

    fn drain(mode: DrainMode, deadline_ms: Option<u64>) -> Drain {
        Drain {
            pool: "p".parse().unwrap(),
            endpoint: "e".parse().unwrap(),
            endpoint_id: EndpointId(3),
            mode,
            started_ms: 0,
            deadline_ms,
            reason: String::new(),
            state: DrainState::Draining,
            ended_ms: None,
            pace: None,
            switchover: None,
            shares: BTreeMap::new(),
            closed: None,
            shared: None,
        }
    }

    fn report(epoch: u64, requests: u64) -> NodeReport {
        let counts = Counts { requests, ..Counts::default() };
        let endpoints = if requests == 0 { BTreeMap::new() } else { [(EndpointId(3), counts)].into() };
        NodeReport { epoch: Some(Epoch(epoch)), endpoints, ..NodeReport::default() }
    }

    fn seen(reports: &[Option<NodeReport>]) -> Vec<Seen<'_>> {
        reports.iter().enumerate().map(|(i, r)| Seen { node: NodeId(i as u64 + 1), report: r.as_ref() }).collect()
    }

    #[test]
    fn a_drain_is_safe_only_when_every_node_says_so() {
        let safe = |reports: &[Option<NodeReport>]| {
            progress(DrainId(9), &drain(DrainMode::Streams, None), &seen(reports)).safe
        };
        assert!(safe(&[Some(report(9, 0)), Some(report(10, 0))]));
        assert!(!safe(&[Some(report(9, 0)), Some(report(9, 1))]), "a request is left");
        assert!(!safe(&[Some(report(9, 0)), Some(report(8, 0))]), "an old table still takes new streams");
        assert!(!safe(&[Some(report(9, 0)), None]), "a node is away");
        assert!(!safe(&[]), "nobody is not everybody");
        let quiet = |drain: Drain| progress(DrainId(9), &drain, &seen(&[Some(report(9, 0))])).safe;
        assert!(!quiet(drain(DrainMode::Sessions, None)), "sessions may come back");
        let closed = |epoch| Drain { closed: Some(Epoch(epoch)), ..drain(DrainMode::Streams, None) };
        assert!(quiet(closed(9)) && !quiet(closed(10)), "its gate was still open to them");
    }

    #[test]
    fn the_leader_ends_what_is_over() {
        let ends = |mode, deadline, reports: &[Option<NodeReport>], now| {
            let mut state = State::default();
            state.drains.insert(DrainId(9), drain(mode, deadline));
            finished(&state, &seen(reports), now)
        };
        let done = |forced| vec![Command::FinishDrain { drain: DrainId(9), forced }];
        let quiet = [Some(report(9, 0))];
        let busy = [Some(report(9, 1))];
        assert_eq!(ends(DrainMode::Streams, None, &quiet, 0), done(false));
        assert_eq!(ends(DrainMode::Streams, None, &busy, 0), []);
        assert_eq!(ends(DrainMode::Sessions, Some(100), &quiet, 50), [], "sessions may come back");
        assert_eq!(ends(DrainMode::Sessions, Some(100), &quiet, 100), done(false));
        assert_eq!(ends(DrainMode::Streams, Some(100), &busy, 100), [], "being cut");
        assert_eq!(ends(DrainMode::Streams, Some(100), &[None], 100 + FORCE_AFTER_MS), done(true));
    }
}
