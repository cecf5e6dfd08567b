//! The tests' stand-in for Raft: one node that agrees with itself at once, over the real state
//! machine, and fails when told to.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tidelock_core::command::Proposal;
use tidelock_core::id::NodeId;
use tidelock_core::state::Outcome;
use tokio::sync::watch;

use super::ProposeError;
use crate::apply::Machine;
use crate::raft::{Membership, Role, StateMachine, Status};

#[derive(Clone)]
pub(crate) struct Local {
    pub(crate) status: watch::Sender<Status>,
    machine: Arc<Mutex<Machine>>,
    failure: Arc<Mutex<Option<ProposeError>>>,
    /// Every bulletin that was broadcast.
    pub(crate) sent: watch::Sender<Vec<Vec<u8>>>,
}

impl Local {
    /// A leader with `members`, itself being the first of them.
    pub(crate) fn new(machine: Machine, members: &[u64]) -> Local {
        Local {
            status: watch::Sender::new(leading(members)),
            machine: Arc::new(Mutex::new(machine)),
            failure: Arc::default(),
            sent: watch::Sender::new(Vec::new()),
        }
    }

    /// Lets every following proposal and read fail, or work again.
    pub(crate) fn fail(&self, failure: Option<ProposeError>) {
        *self.failure.lock().unwrap() = failure;
    }

    pub(super) fn propose(&self, proposal: Proposal) -> Result<Outcome, ProposeError> {
        if let Some(failure) = *self.failure.lock().unwrap() {
            return Err(failure);
        }
        // The lock is held to the end: entries are applied and published in the order of the log.
        let mut machine = self.machine.lock().unwrap();
        let index = self.status.borrow().applied + 1;
        let outcome = machine.apply(index, &proposal.encode());
        machine.applied(index);
        self.status.send_modify(|status| (status.commit, status.applied) = (index, index));
        Ok(outcome)
    }

    pub(super) fn read_index(&self) -> Result<(), ProposeError> {
        self.failure.lock().unwrap().map_or(Ok(()), Err)
    }

    pub(super) fn broadcast(&self, bulletin: Vec<u8>) {
        self.sent.send_modify(|sent| sent.push(bulletin));
    }

    pub(super) fn hand_over(&self, to: NodeId) {
        self.status.send_modify(|status| (status.role, status.leader) = (Role::Follower, Some(to.0)));
    }
}

/// The status of the first of `members`, which leads them.
pub(crate) fn leading(members: &[u64]) -> Status {
    Status {
        id: members[0],
        role: Role::Leader,
        leader: Some(members[0]),
        term: 1,
        commit: 1,
        applied: 1,
        membership: Membership::of_voters(members),
        matched: BTreeMap::new(),
    }
}
