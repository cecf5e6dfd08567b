//! How much of something a peer may do in a time.

use std::time::Duration;

use tokio::time::Instant;

/// Counts what happens in a window of time, which begins anew when it is over.
#[derive(Debug)]
pub(crate) struct Budget {
    most: usize,
    count: usize,
    since: Instant,
}

impl Budget {
    pub(crate) fn new(most: usize) -> Budget {
        Budget { most, count: 0, since: Instant::now() }
    }

    /// Counts one more, and says whether it is one too many in `window`.
    pub(crate) fn is_spent(&mut self, window: Duration) -> bool {
        self.spend(1, window);
        self.count > self.most
    }

    /// Counts so many more.
    pub(crate) fn spend(&mut self, amount: usize, window: Duration) {
        let now = Instant::now();
        if now - self.since >= window {
            (self.since, self.count) = (now, 0);
        }
        self.count = self.count.saturating_add(amount);
    }

    /// Whether more was counted than is allowed, and `window` is not over.
    pub(crate) fn is_over(&self, window: Duration) -> bool {
        self.count > self.most && self.since.elapsed() < window
    }

    /// Whether anything was counted in the `window` that runs.
    pub(crate) fn is_touched(&self, window: Duration) -> bool {
        self.count > 0 && self.since.elapsed() < window
    }
}
