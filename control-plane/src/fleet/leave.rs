//! The node's own leaving, seen from both sides: the API asks for it, the binary's wiring carries
//! it out (the same way as on SIGTERM) and says how far it is.

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How far this node's leaving is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LeaveState {
    Serving,
    /// Not ready any more; what runs on this node runs to its end.
    Leaving,
    /// Nothing runs here any more, or the deadline cut it: the process may be stopped.
    Left,
}

impl LeaveState {
    pub fn name(self) -> &'static str {
        match self {
            LeaveState::Serving => "serving",
            LeaveState::Leaving => "leaving",
            LeaveState::Left => "left",
        }
    }
}

/// A clonable handle on the node's leaving. It only goes forward: a node that has begun to leave
/// does not come back but by a restart, because its clients have been sent away by then.
#[derive(Debug, Clone)]
pub struct Leave {
    requested: CancellationToken,
    state: watch::Sender<LeaveState>,
}

impl Default for Leave {
    fn default() -> Self {
        Leave { requested: CancellationToken::new(), state: watch::Sender::new(LeaveState::Serving) }
    }
}

impl Leave {
    /// Asks the wiring to begin. Asking again changes nothing. Readiness ends here and not when the
    /// wiring picks it up: a probe that comes between must not send clients.
    pub fn request(&self) {
        self.advance(LeaveState::Leaving);
        self.requested.cancel();
    }

    /// For the wiring: returns when somebody has asked.
    pub async fn requested(&self) {
        self.requested.cancelled().await;
    }

    /// For the wiring: says how far it is. A step back is ignored.
    pub fn advance(&self, to: LeaveState) {
        self.state.send_if_modified(|state| {
            let forward = to > *state;
            if forward {
                *state = to;
            }
            forward
        });
    }

    pub fn state(&self) -> LeaveState {
        *self.state.borrow()
    }

    /// Returns once this node has left.
    pub async fn left(&self) {
        let mut state = self.state.subscribe();
        // This handle holds a sender itself, so the channel cannot be closed meanwhile.
        let _ = state.wait_for(|state| *state == LeaveState::Left).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn leaving_only_goes_forward() {
        let leave = Leave::default();
        assert_eq!(leave.state(), LeaveState::Serving);
        leave.request();
        leave.requested().await;
        assert_eq!(leave.state(), LeaveState::Leaving);
        leave.advance(LeaveState::Left);
        leave.advance(LeaveState::Leaving);
        leave.request();
        leave.left().await;
        assert_eq!(leave.state(), LeaveState::Left);
    }
}
