//! What goes into the driver and what comes out of it, as data.
//!
//! The driver knows no channels: an operation carries a [`Token`], and its answer comes out of the
//! [`Outbox`] under that token. So the thread with its channels and the seeded simulation run the
//! very same driver.

use raft::prelude::Message;

use super::membership::Change;

/// Names one operation of this node's callers until it has been answered. Never reused by a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// What the driver is told.
#[derive(Debug)]
pub enum Input {
    /// A decoded message; its sender and receiver have been checked against the connection.
    Peer(Box<Message>),
    Propose {
        token: Token,
        /// Names this command in the log. A second proposal under an id that is still in flight on
        /// this node is refused; idempotence beyond that is the state machine's.
        id: u128,
        payload: Vec<u8>,
        /// Ticks until the caller is answered whatever happened.
        ticks: u64,
    },
    /// Read at an index that is at least as new as every write acknowledged before this call.
    ReadIndex {
        token: Token,
        ticks: u64,
    },
    /// From the local API only; answered on the leader only.
    ChangeMembership {
        token: Token,
        id: u128,
        changes: Vec<Change>,
        ticks: u64,
    },
    /// To the named voter, or to the one that has most of the log.
    TransferLeader(Option<u64>),
    /// A follower's proposal.
    Forward {
        from: u64,
        forward: Forward,
    },
    ForwardReply {
        request: u64,
        outcome: ForwardOutcome,
    },
    /// A `Forward` that was certainly not sent.
    ForwardDropped {
        request: u64,
    },
    Unreachable(u64),
    SnapshotSent {
        to: u64,
        delivered: bool,
    },
    /// Addresses worth remembering over a restart.
    Addresses(Vec<(u64, String)>),
}

/// A proposal on its one hop from a follower to the leader it knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forward {
    pub request: u64,
    /// The leader must still be the leader of this term: a delayed copy must not be appended again
    /// by a later leader.
    pub term: u64,
    pub id: u128,
    pub payload: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum ForwardOutcome {
    /// In the leader's log, not yet committed. The follower waits for its own state machine.
    Appended { index: u64 },
    /// Not appended; safe to try again.
    Refused,
}

/// Where the driver's effects go, in the order in which they must happen.
pub trait Outbox<A> {
    fn send(&mut self, to: u64, message: Outgoing);
    fn answer(&mut self, token: Token, answer: Answer<A>);
}

#[derive(Debug, Clone)]
pub enum Outgoing {
    Raft(Box<Message>),
    Forward(Forward),
    ForwardReply { request: u64, outcome: ForwardOutcome },
}

#[derive(Debug)]
pub enum Answer<A> {
    Proposal(Result<Applied<A>, ProposeError>),
    Read(Result<u64, ReadError>),
    Membership(Result<u64, MembershipError>),
}

/// A command that this node has applied, so a read on this node sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied<A> {
    /// The log index, which is the epoch.
    pub index: u64,
    pub answer: A,
}

/// Why a proposal was not answered with its effect. Only `Unknown` leaves open whether it happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    #[error("no leader took the command in time; it was not applied and may be sent again")]
    NoLeader,
    #[error(
        "the command's outcome is unknown: it was handed to a leader and no answer came in time; it may or may not be applied later"
    )]
    Unknown,
    #[error("too many commands are in flight on this node; it was not applied")]
    Busy,
    #[error("a command with this id is in flight on this node")]
    Duplicate,
    #[error("the command of {size} bytes is larger than {limit}")]
    TooLarge { size: usize, limit: usize },
    #[error("this node is stopping; whether the command was applied is unknown")]
    Stopped,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    #[error("no leader confirmed the read in time")]
    NoLeader,
    #[error("too many reads are in flight on this node")]
    Busy,
    #[error("this node is stopping")]
    Stopped,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MembershipError {
    #[error("this node is not the leader{}", leader.map(|id| format!("; node {id:016x} is")).unwrap_or_default())]
    NotLeader { leader: Option<u64> },
    #[error("another membership change is still running")]
    InProgress,
    #[error("the change is refused: {0}")]
    Invalid(String),
    #[error("the change's outcome is unknown; read the membership before trying again")]
    Unknown,
    #[error("this node is stopping; whether the change was applied is unknown")]
    Stopped,
}
