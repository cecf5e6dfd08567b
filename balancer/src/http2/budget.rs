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
        // The clock is looked at when it may matter.
        if self.count >= self.most && self.since.elapsed() >= window {
            (self.since, self.count) = (Instant::now(), 0);
        }
        self.count += 1;
        self.count > self.most
    }
}
