//! The one door to Raft: what the fleet's tasks and the API ask of it, in the core's words.
//!
//! A concrete wrapper and not a trait: there is one Raft. The tests' stand-in agrees with itself in
//! memory and can be told to have no leader or to lose an answer, which a real single node never
//! does on demand.

use std::time::Duration;

use tidelock_core::command::{Command, IdempotencyKey, Proposal};
use tidelock_core::id::NodeId;
use tidelock_core::state::Outcome;
use tokio::sync::watch;

use super::clock;
use crate::raft::{self, AskError, Change, MembershipError, Peer, Question, ReadError, Status};

#[cfg(test)]
pub(crate) mod local;

/// For an entry's outcome or a read's index: an election takes one to two seconds, so this outlasts
/// a few of them. After it the answer is "unknown". The dashboard waits longer than this.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a proposal has no outcome, or a read no index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProposeError {
    /// Nobody could be asked: the entry was not made.
    #[error("the fleet has no leader at the moment")]
    NoLeader,
    /// This node has too many proposals in flight: the entry was not made.
    #[error("too many writes are in flight on this node")]
    Busy,
    /// The entry was not made.
    #[error("the write is larger than an entry of the log may be")]
    TooLarge,
    /// Asked and not answered: the entry may be committed, or still be.
    #[error("the fleet did not answer in time")]
    Unknown,
    /// Raft on this node has ended meanwhile; as with `Unknown`, nothing is known about the entry.
    #[error("this node is shutting down")]
    Stopped,
}

impl From<raft::ProposeError> for ProposeError {
    fn from(error: raft::ProposeError) -> ProposeError {
        match error {
            raft::ProposeError::NoLeader => ProposeError::NoLeader,
            raft::ProposeError::Busy => ProposeError::Busy,
            raft::ProposeError::TooLarge { .. } => ProposeError::TooLarge,
            // Ids are drawn at random, so a duplicate is not ours to explain: nothing is known.
            raft::ProposeError::Unknown | raft::ProposeError::Duplicate => ProposeError::Unknown,
            raft::ProposeError::Stopped => ProposeError::Stopped,
        }
    }
}

impl From<ReadError> for ProposeError {
    fn from(error: ReadError) -> ProposeError {
        match error {
            ReadError::NoLeader => ProposeError::NoLeader,
            ReadError::Busy => ProposeError::Busy,
            ReadError::Stopped => ProposeError::Stopped,
        }
    }
}

#[derive(Clone)]
pub(crate) enum Consensus {
    Raft(raft::Raft<Outcome>),
    #[cfg(test)]
    Local(local::Local),
}

impl Consensus {
    /// Proposes from any node and answers what this node's own state machine made of the entry,
    /// after it has published the result.
    pub(crate) async fn propose(&self, command: Command, key: Option<IdempotencyKey>) -> Result<Outcome, ProposeError> {
        let proposal = Proposal { at_ms: clock::now_ms(), key, command };
        match self {
            Consensus::Raft(raft) => {
                let applied = raft.propose(rand::random(), proposal.encode(), ANSWER_TIMEOUT).await?;
                Ok(applied.answer)
            }
            #[cfg(test)]
            Consensus::Local(local) => local.propose(proposal),
        }
    }

    /// Returns once this node has applied everything that was committed when it was called.
    pub(crate) async fn read_index(&self) -> Result<(), ProposeError> {
        match self {
            Consensus::Raft(raft) => Ok(raft.read_index(ANSWER_TIMEOUT).await.map(|_| ())?),
            #[cfg(test)]
            Consensus::Local(local) => local.read_index(),
        }
    }

    pub(crate) fn status(&self) -> Status {
        self.watch_status().borrow().clone()
    }

    /// Closed when Raft has ended on this node.
    pub(crate) fn watch_status(&self) -> watch::Receiver<Status> {
        match self {
            Consensus::Raft(raft) => raft.status(),
            #[cfg(test)]
            Consensus::Local(local) => local.status.subscribe(),
        }
    }

    /// Raft's thread works.
    pub(crate) fn alive(&self) -> bool {
        self.watch_status().has_changed().is_ok()
    }

    /// What is known of the other nodes beside their bulletins.
    pub(crate) fn peers(&self) -> Vec<Peer> {
        match self {
            Consensus::Raft(raft) => raft.peers(),
            #[cfg(test)]
            Consensus::Local(_) => Vec::new(),
        }
    }

    /// Sends a bulletin to every peer, once and without an answer. A lost one is followed by the
    /// next within a second.
    pub(crate) fn broadcast(&self, bulletin: Vec<u8>) {
        match self {
            Consensus::Raft(raft) => raft.broadcast_report(bulletin),
            #[cfg(test)]
            Consensus::Local(local) => local.broadcast(bulletin),
        }
    }

    /// Puts a question to one peer, beside the log.
    pub(crate) async fn ask(&self, to: NodeId, question: Vec<u8>, timeout: Duration) -> Result<Vec<u8>, AskError> {
        match self {
            Consensus::Raft(raft) => raft.ask(to.0, question, timeout).await,
            #[cfg(test)]
            Consensus::Local(_) => Err(AskError::NotConnected),
        }
    }

    pub(crate) fn reply(&self, question: &Question, answer: Vec<u8>) {
        match self {
            Consensus::Raft(raft) => raft.reply(question, answer),
            #[cfg(test)]
            Consensus::Local(_) => {}
        }
    }

    /// Changes who votes and who learns; on the leader only.
    pub(crate) async fn change_membership(&self, changes: Vec<Change>) -> Result<(), MembershipError> {
        match self {
            Consensus::Raft(raft) => raft.change_membership(changes, ANSWER_TIMEOUT).await.map(|_| ()),
            #[cfg(test)]
            Consensus::Local(_) => Ok(()),
        }
    }

    /// Asks that another voter leads. Whether it does is seen in the status.
    pub(crate) fn hand_over(&self, to: NodeId) {
        match self {
            Consensus::Raft(raft) => raft.transfer_leader(Some(to.0)),
            #[cfg(test)]
            Consensus::Local(local) => local.hand_over(to),
        }
    }

    /// Ends Raft on this node and closes its log.
    pub(crate) async fn stop(&self) {
        match self {
            Consensus::Raft(raft) => raft.stop().await,
            #[cfg(test)]
            Consensus::Local(_) => {}
        }
    }
}
