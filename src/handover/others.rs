//! Other processes of this node, which have clients and no control plane.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tidelock_core::report::NodeReport;
use tokio::sync::watch;

/// By a number that this process gave each.
#[derive(Debug, Clone, Default)]
pub(crate) struct Guests {
    known: BTreeMap<u64, Guest>,
    /// They may have ended before they became guests.
    ended: BTreeSet<u64>,
}

#[derive(Debug, Clone, PartialEq)]
enum Guest {
    /// What runs there is not known.
    Silent,
    Says(NodeReport),
}

#[derive(Debug, Clone)]
pub(crate) struct Others {
    guests: Arc<watch::Sender<Guests>>,
    next: Arc<AtomicU64>,
}

impl Others {
    pub(crate) fn new() -> Others {
        Others { guests: Arc::new(watch::Sender::default()), next: Arc::default() }
    }

    pub(super) fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// It has clients from now on, which end; until it says what they are nobody knows.
    pub(super) fn enters(&self, number: u64) {
        self.guests.send_modify(|guests| {
            if !guests.ended.contains(&number) {
                guests.known.entry(number).or_insert(Guest::Silent);
            }
        });
    }

    pub(super) fn says(&self, number: u64, report: NodeReport) {
        self.set(number, Guest::Says(report));
    }

    /// It serves, and is not understood.
    pub(super) fn is_silent(&self, number: u64) {
        self.set(number, Guest::Silent);
    }

    fn set(&self, number: u64, guest: Guest) {
        self.guests.send_if_modified(|guests| {
            let known = guests.known.get_mut(&number);
            known.is_some_and(|known| std::mem::replace(known, guest.clone()) != guest)
        });
    }

    /// It owns the node.
    pub(super) fn owns(&self, number: u64) {
        self.guests.send_modify(|guests| drop(guests.known.remove(&number)));
    }

    pub(super) fn ends(&self, number: u64) {
        self.guests.send_modify(|guests| {
            guests.known.remove(&number);
            guests.ended.insert(number);
        });
    }

    pub(super) fn is_any(&self) -> bool {
        !self.guests.borrow().known.is_empty()
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Guests> {
        self.guests.subscribe()
    }

    /// Returns when it has said what runs there, or has ended.
    pub(super) async fn first_word(&self, number: u64) {
        let heard = |guests: &Guests| guests.known.get(&number) != Some(&Guest::Silent);
        // An error is the end of this process.
        let _ = self.watch().wait_for(heard).await;
    }
}

/// What this node reports: what runs on all its processes, and the lowest epoch, so that no drain is called
/// safe by a table that one of them does not have. Without a word of one there is no epoch. Until this
/// process serves, `own` is none.
pub(crate) fn merged(own: Option<&NodeReport>, guests: &Guests) -> NodeReport {
    let said = guests.known.values().filter_map(|guest| match guest {
        Guest::Says(report) => Some(report),
        Guest::Silent => None,
    });
    let mut reports = own.into_iter().chain(said);
    let mut node = reports.next().cloned().unwrap_or_default();
    for report in reports {
        node.epoch = node.epoch.zip(report.epoch).map(|(one, other)| one.min(other));
        for (endpoint, counts) in &report.endpoints {
            *node.endpoints.entry(*endpoint).or_default() += *counts;
        }
        for (endpoint, outcomes) in &report.outcomes {
            *node.outcomes.entry(*endpoint).or_default() += *outcomes;
        }
        for (endpoint, sessions) in &report.sessions {
            *node.sessions.entry(*endpoint).or_default() += sessions;
        }
    }
    if guests.known.values().any(|guest| *guest == Guest::Silent) {
        node.epoch = None;
    }
    node
}

#[cfg(test)]
mod tests {
    use tidelock_core::id::{EndpointId, Epoch};
    use tidelock_core::report::Counts;

    use super::*;

    fn report(epoch: u64, requests: u64) -> NodeReport {
        NodeReport {
            epoch: Some(Epoch(epoch)),
            endpoints: [(EndpointId(1), Counts { requests, ..Counts::default() })].into(),
            sessions: [(EndpointId(2), requests)].into(),
            ..NodeReport::default()
        }
    }

    #[test]
    fn a_node_has_the_lowest_epoch_and_all_that_runs() {
        let others = Others::new();
        let node = |own: Option<&NodeReport>| merged(own, &others.watch().borrow());
        let own = report(9, 2);
        assert_eq!(node(Some(&own)), own);
        assert_eq!(node(None), NodeReport::default());
        let (first, second) = (others.number(), others.number());
        others.says(first, report(1, 1));
        assert_eq!(node(Some(&own)), own, "whoever owns the node counts for itself");
        others.enters(first);
        assert_eq!(node(Some(&own)), NodeReport { epoch: None, ..own.clone() }, "it has not said yet");
        others.says(first, report(7, 3));
        assert_eq!(node(Some(&own)), report(7, 5));
        assert_eq!(node(None), report(7, 3), "this one does not serve yet");
        others.enters(second);
        others.says(second, report(8, 1));
        assert_eq!(node(Some(&own)), report(7, 6));
        others.is_silent(second);
        assert_eq!(node(Some(&own)), NodeReport { epoch: None, ..report(7, 5) });
        others.ends(first);
        others.ends(second);
        others.enters(second);
        assert_eq!(node(Some(&own)), own, "what has ended does not come back");
    }
}
