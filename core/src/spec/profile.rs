//! Profiles: what apps of one kind need, by one name.

use std::time::Duration;

use http::{HeaderMap, header};
use serde::{Deserialize, Serialize};

use super::affinity::Strength;

/// What kind of app a route leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// LiveView and Channels. A long-poll session is a process of one node, and a form's upload is work
    /// that is not begun twice: both are kept strictly. All else, WebSockets above all, rather moves than
    /// waits: the page joins anew wherever it comes.
    Phoenix,
}

/// Above two of phoenix.js' heartbeats, which come every 30 s.
const PHOENIX_WEBSOCKET_IDLE: Duration = Duration::from_secs(75);

impl Profile {
    /// How far the session of such a request is kept at least.
    pub(super) fn strength(self, path: &str, headers: &HeaderMap) -> Strength {
        let form = b"multipart/form-data";
        let is_upload = headers
            .get(header::CONTENT_TYPE)
            .and_then(|kind| kind.as_bytes().get(..form.len()))
            .is_some_and(|kind| kind.eq_ignore_ascii_case(form));
        if self.is_long_poll(path) || is_upload { Strength::Strict } else { Strength::Prefer }
    }

    /// Whether requests for `path` wait for something to happen.
    pub(super) fn is_long_poll(self, path: &str) -> bool {
        let Profile::Phoenix = self;
        // Phoenix mounts a socket's transports at the socket's path.
        path.strip_suffix('/').unwrap_or(path).ends_with("/longpoll")
    }

    /// For how long its WebSockets may be silent, by the pool's time.
    pub(super) fn websocket_idle(self, of_pool: Duration) -> Duration {
        let Profile::Phoenix = self;
        of_pool.max(PHOENIX_WEBSOCKET_IDLE)
    }
}
