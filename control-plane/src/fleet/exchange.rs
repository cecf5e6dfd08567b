//! Carries bulletins: this node's to all others, theirs into the roster.
//!
//! Loss is normal here. A bulletin is the whole truth about its node, so a later one replaces an
//! earlier one, and nothing is ever sent again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tidelock_core::command::LEVEL;
use tidelock_core::id::{Name, NodeId};
use tidelock_core::member::Wanted;
use tidelock_core::report::NodeReport;
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;

use super::consensus::Consensus;
use super::leave::{Leave, LeaveState};
use super::roster::{Bulletin, Roster};
use crate::publish::Published;
use crate::raft::Report;

/// A changed report goes out at most this often: counts change with every request.
const CHANGED_EVERY: Duration = Duration::from_millis(200);
/// An unchanged one still goes out this often, as a sign of life.
const ALIVE_EVERY: Duration = Duration::from_secs(1);

pub(crate) struct Exchange {
    pub(crate) consensus: Consensus,
    pub(crate) published: Published,
    pub(crate) name: Name,
    pub(crate) admin: Option<String>,
    /// From this node's data plane.
    pub(crate) reports: watch::Receiver<NodeReport>,
    /// From the other nodes.
    pub(crate) received: mpsc::Receiver<Report>,
    pub(crate) leave: Leave,
    pub(crate) roster: watch::Sender<Roster>,
}

impl Exchange {
    /// Runs until it is dropped. When the data plane has gone away its last report is not repeated:
    /// this node then goes missing, which is the truth.
    pub(crate) async fn run(mut self) {
        let mut alive = tokio::time::interval(ALIVE_EVERY);
        alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut changed = tokio::time::interval(CHANGED_EVERY);
        changed.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut peers_open, mut reporting) = (true, true);
        loop {
            tokio::select! {
                _ = alive.tick(), if reporting => {
                    self.leave_if_removed(false);
                    self.send();
                }
                _ = changed.tick(), if reporting => match self.reports.has_changed() {
                    Ok(true) => {
                        self.send();
                        alive.reset();
                    }
                    Ok(false) => {}
                    Err(_) => {
                        tracing::warn!("the data plane reports no more: this node counts as missing in drains");
                        reporting = false;
                    }
                },
                bulletin = self.received.recv(), if peers_open => match bulletin {
                    Some(report) => self.hear(&report),
                    None => peers_open = false,
                },
                else => return,
            }
        }
    }

    fn send(&mut self) {
        let mut report = self.reports.borrow_and_update().clone();
        // The node has been asked before its data plane knows.
        report.leaving |= self.leave.state() != LeaveState::Serving;
        let (name, admin) = (self.name.clone(), self.admin.clone());
        let removed = self.removed();
        let bulletin = Bulletin { name, admin, level: LEVEL, removed, report };
        self.consensus.broadcast(bulletin.encode());
        self.note(NodeId(self.consensus.status().id), bulletin);
    }

    fn hear(&self, report: &Report) {
        let node = NodeId(report.from);
        match Bulletin::decode(&report.bytes) {
            Ok(bulletin) => {
                self.leave_if_removed(bulletin.removed.contains(&NodeId(self.consensus.status().id)));
                self.note(node, bulletin);
            }
            Err(error) => tracing::warn!(%node, %error, "a node's bulletin cannot be read and is dropped"),
        }
    }

    /// Connected nodes that are no members any more. They get no entries: this is how they hear of it.
    fn removed(&self) -> Vec<NodeId> {
        let (state, membership) = (self.published.state(), self.consensus.status().membership);
        let is_gone = |id: &NodeId| state.members.get(id) == Some(&Wanted::Gone) && !membership.contains(id.0);
        self.consensus
            .peers()
            .iter()
            .filter(|peer| peer.connected)
            .map(|peer| NodeId(peer.id))
            .filter(is_gone)
            .collect()
    }

    /// A node that shall be gone sends its clients away and ends: nobody would count what it still
    /// serves. It knows from the log, or from others if it was away.
    fn leave_if_removed(&self, told: bool) {
        let own = NodeId(self.consensus.status().id);
        let is_gone = told || self.published.state().members.get(&own) == Some(&Wanted::Gone);
        if is_gone && self.leave.state() == LeaveState::Serving {
            tracing::warn!(
                node = %own,
                "this node has been removed from the fleet and leaves; wipe its data directory before it joins again"
            );
            self.leave.request();
        }
    }

    fn note(&self, node: NodeId, bulletin: Bulletin) {
        self.roster.send_if_modified(|roster| roster.hear(node, Arc::new(bulletin), Instant::now()));
    }
}
