//! Pools: what their endpoints speak, and how long they are waited for.

use serde::{Deserialize, Serialize};

/// How to talk to a pool's endpoints, and for how long to wait for them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PoolSpec {
    pub protocol: Protocol,
    /// Leave `content-length` out towards the endpoint once it has been checked here: Bandit then
    /// cannot log "Received END_STREAM with byte still pending" (measured: 30 of 30 to 0).
    pub strip_content_length: bool,
    pub timeouts: Timeouts,
}

/// What the endpoints of one pool speak. It is never mixed in one pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Protocol {
    /// HTTP/1.1 with keep-alive.
    #[default]
    #[serde(rename = "http1")]
    Http1,
    /// HTTP/2 in cleartext by prior knowledge (RFC 9113 section 3.3).
    #[serde(rename = "h2c")]
    H2c,
}

/// Upper bounds on waiting for an endpoint, in milliseconds, each at least 1 and at most a day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// For a connection to be there: 5 s, then the next endpoint is tried.
    pub connect_ms: Millis,
    /// From the end of the request to the response's head: 60 s, then 504.
    pub first_byte_ms: Millis,
    /// Without a byte in either direction of a stream that has begun: 60 s, then the stream is
    /// cut. A killed BEAM process sends nothing for ever, so there is no "off".
    pub idle_ms: Millis,
    /// Without a byte in either direction of a WebSocket: 1 h. Phoenix beats every 30 s.
    pub websocket_idle_ms: Millis,
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts {
            connect_ms: Millis(5_000),
            first_byte_ms: Millis(60_000),
            idle_ms: Millis(60_000),
            websocket_idle_ms: Millis(3_600_000),
        }
    }
}

/// A length of time in whole milliseconds, 1 to 86,400,000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct Millis(u64);

impl Millis {
    pub const MAX: u64 = 86_400_000;

    pub fn get(self) -> u64 {
        self.0
    }

    pub fn duration(self) -> std::time::Duration {
        std::time::Duration::from_millis(self.0)
    }
}

impl TryFrom<u64> for Millis {
    type Error = String;

    fn try_from(value: u64) -> Result<Self, String> {
        match value {
            1..=Self::MAX => Ok(Millis(value)),
            _ => Err(format!("{value} is not a number of milliseconds from 1 to {}", Self::MAX)),
        }
    }
}

impl From<Millis> for u64 {
    fn from(value: Millis) -> u64 {
        value.0
    }
}
