//! Holding: what becomes of requests while a pool has no endpoint for them.

use serde::{Deserialize, Serialize};

/// How long, and how many, requests wait when no endpoint of the pool may be used, or none can be
/// reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HoldSpec {
    /// At most so long, in milliseconds, up to 60,000; then 503. 2,000: phoenix.js falls back to long
    /// polling after 2,500. 0 answers at once.
    pub max_ms: HoldMillis,
    /// So many at a time on one node: 1,024. One more is answered 503 at once.
    pub max_requests: u32,
}

impl Default for HoldSpec {
    fn default() -> Self {
        HoldSpec { max_ms: HoldMillis(2_000), max_requests: 1_024 }
    }
}

impl HoldSpec {
    pub(crate) fn is_default(&self) -> bool {
        *self == HoldSpec::default()
    }
}

/// 0 to 60,000 milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct HoldMillis(u32);

impl HoldMillis {
    pub fn get(self) -> u32 {
        self.0
    }
}

impl TryFrom<u32> for HoldMillis {
    type Error = String;

    fn try_from(value: u32) -> Result<Self, String> {
        match value {
            0..=60_000 => Ok(HoldMillis(value)),
            _ => Err(format!("{value} is not a number of milliseconds from 0 to 60000")),
        }
    }
}

impl From<HoldMillis> for u32 {
    fn from(value: HoldMillis) -> u32 {
        value.0
    }
}
