//! What a command came to, or why it could not be applied.

use serde::{Deserialize, Serialize};

use crate::id::{DrainId, Epoch, Name, NodeId, SwitchoverId};

/// What a command came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "outcome", deny_unknown_fields)]
pub enum Outcome {
    Applied {
        epoch: Epoch,
        drain: Option<DrainId>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        switchover: Option<SwitchoverId>,
    },
    Rejected {
        reason: Rejection,
    },
}

/// Why a valid command cannot be applied to the present state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case", tag = "code", deny_unknown_fields)]
pub enum Rejection {
    #[error("there is no pool {pool}")]
    UnknownPool { pool: Name },
    #[error("pool {pool} has no endpoint {endpoint}")]
    UnknownEndpoint { pool: Name, endpoint: Name },
    #[error("there is no route {route}")]
    UnknownRoute { route: Name },
    #[error("pool {pool} is used by route {route}: delete or change that first")]
    PoolInUse { pool: Name, route: Name },
    #[error("route {other} already has this host and path prefix")]
    DuplicateRoute { other: Name },
    #[error("endpoint {other} of this pool already has the address {address}")]
    DuplicateAddress { other: Name, address: String },
    #[error("endpoint {endpoint} of pool {pool} is {phase}, it cannot be drained again")]
    NotActive { pool: Name, endpoint: Name, phase: String },
    #[error("endpoint {endpoint} of pool {pool} is not draining or drained")]
    NotDraining { pool: Name, endpoint: Name },
    #[error("the drain {drain} is not under way")]
    UnknownDrain { drain: DrainId },
    #[error("the switchover {switchover} is not under way")]
    UnknownSwitchover { switchover: SwitchoverId },
    #[error("the switchover {switchover} of pool {pool} is under way: wait for it, or roll it back")]
    SwitchoverUnderWay { pool: Name, switchover: SwitchoverId },
    #[error("no active endpoint of pool {pool} is on the side that shall be replaced")]
    NothingToReplace { pool: Name },
    #[error("too few endpoints of the new side are up")]
    NotReady {},
    #[error("no endpoint of pool {pool} is left on the old side: there is nothing to go back to")]
    NothingToReturnTo { pool: Name },
    #[error(
        "this needs level {needed} of the fleet's language, and the fleet has {level}: not every node has been upgraded, or \
         heard of since. tidelock node list shows their versions"
    )]
    FleetTooOld { needed: u32, level: u32 },
    #[error("node {node} was removed, and its id is not used again: wipe its data directory, then it is another node")]
    NodeGone { node: NodeId },
    #[error("there is a cookie key {id} already: rotate again")]
    KeyExists { id: u8 },
    #[error("the cookie key {id} waits until every member of the fleet has it: rotate when it seals")]
    KeyWaiting { id: u8 },
    #[error("pool {pool} has no check")]
    NotChecked { pool: Name },
    #[error("there is no such join token: it is wrong, used, or too old")]
    UnknownJoinToken {},
    #[error("at most {limit} {what}")]
    LimitReached { what: String, limit: u64 },
    #[error("this node cannot read the command: {detail}")]
    Unreadable { detail: String },
    #[error("command {index} of the batch: {reason}")]
    InBatch { index: u64, reason: Box<Rejection> },
}

/// What a command has begun, or ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Made {
    Nothing,
    Drain(DrainId),
    Switchover(SwitchoverId),
}

impl Made {
    pub(super) fn drain(self) -> Option<DrainId> {
        if let Made::Drain(drain) = self { Some(drain) } else { None }
    }

    pub(super) fn switchover(self) -> Option<SwitchoverId> {
        if let Made::Switchover(switchover) = self { Some(switchover) } else { None }
    }

    /// Of two commands of a batch, the last that made something.
    pub(super) fn then(self, next: Made) -> Made {
        if next == Made::Nothing { self } else { next }
    }
}
