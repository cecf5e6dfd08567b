//! Who shall be in the fleet: what operators want, as replicated state. Raft's own membership follows
//! it, carried out by whoever leads, one safe step after the other; so a wish can be written through
//! any node, and a leader that dies in the middle leaves nothing half done.

use serde::{Deserialize, Serialize};

/// What a node shall be. A node that nobody said anything about, a founder, stays what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wanted {
    /// Counts for quorums. It learns first, and votes when it has caught up.
    Voter,
    /// Has the log, balances, and never counts.
    Learner,
    /// Not in the fleet any more. Its id is not used again: its data directory must be wiped before it
    /// can come back, as another node.
    Gone,
}

impl Wanted {
    pub fn as_str(self) -> &'static str {
        match self {
            Wanted::Voter => "voter",
            Wanted::Learner => "learner",
            Wanted::Gone => "gone",
        }
    }
}

/// Lets one node join, once. The token itself is never kept, only the SHA-256 of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinToken {
    /// 64 hexadecimal digits.
    pub sha256: String,
    pub wanted: Wanted,
    /// Unix time in milliseconds.
    pub expires_ms: u64,
}

/// Wishes and removed ids that are kept. Fleets are far smaller; a removed id is never forgotten.
pub const MAX_MEMBERS: usize = 4_096;
/// Tokens out at one time.
pub const MAX_JOIN_TOKENS: usize = 64;
