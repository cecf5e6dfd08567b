//! `tidelock recover`: a survivor of a lost majority becomes a fleet of one (`raft::recovery`).

use std::path::{Path, PathBuf};

use tidelock_core::command::{Command, LEVEL, Proposal};
use tidelock_core::id::NodeId;
use tidelock_core::member::Wanted;
use tidelock_core::state::Outcome;

use super::clock;
use crate::apply::Machine;
use crate::publish;
use crate::raft::recovery::{self, RecoveryError, Survivor};
use crate::raft::{RedbStore, StateMachine, StoreError};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("there is no Raft log in {}: name the data directory of a node of the fleet", .0.display())]
    NoLog(PathBuf),
    #[error(transparent)]
    Open(#[from] StoreError),
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
}

/// What would be done: to which node, and who is lost.
#[derive(Debug)]
pub struct Plan {
    store: RedbStore,
    survivor: Survivor,
}

impl Plan {
    /// Reads the log; the node must not run.
    pub fn read(data_dir: &Path) -> Result<Plan, Error> {
        // Opening would make one, and a mistyped directory would look like a node that lost all.
        if !data_dir.join("raft.redb").is_file() {
            return Err(Error::NoLog(data_dir.to_owned()));
        }
        let mut store = RedbStore::open(data_dir, None)?;
        let survivor = recovery::inspect(&mut store)?;
        Ok(Plan { store, survivor })
    }

    pub fn node(&self) -> NodeId {
        NodeId(self.survivor.id)
    }

    /// The other members, which will be removed for good.
    pub fn lost(&self) -> Vec<NodeId> {
        self.survivor.others.iter().map(|id| NodeId(*id)).collect()
    }

    /// The index of the last entry, and of the last one known as committed.
    pub fn last(&self) -> (u64, u64) {
        (self.survivor.last, self.survivor.commit)
    }

    /// Does it.
    pub fn carry_out(mut self) -> Result<(), Error> {
        let (publisher, _published) = publish::channel();
        recovery::recover(&mut self.store, Machine::new(publisher), |survivor, machine, mut index| {
            let gone = |id: &u64| Command::SetMember { node: NodeId(*id), wanted: Wanted::Gone };
            let others = Command::Batch { commands: survivor.others.iter().map(gone).collect() };
            // Refused where an operator wanted this very node gone: it would remove itself again.
            let itself = Command::SetMember { node: NodeId(survivor.id), wanted: Wanted::Voter };
            // A fleet of one knows what it can read.
            for command in [Command::SetLevel { level: LEVEL }, others, itself] {
                let proposal = Proposal { at_ms: clock::now_ms(), key: None, command };
                match machine.apply(index, &proposal.encode()) {
                    Outcome::Applied { .. } => index += 1,
                    Outcome::Rejected { reason } => return Err(reason.to_string()),
                }
            }
            Ok(index - 1)
        })?;
        Ok(())
    }
}
