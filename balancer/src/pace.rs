//! How fast this node closes what lasts on one endpoint: its part of a drain's pace, kept by all
//! workers together.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// A close that came late may be made up for within this much time. So much of a second is a
/// twentieth: no second sees more than that above the pace.
const CATCH_UP_US: u64 = 50_000;

/// Closes are spaced evenly (a leaky bucket without a bucket): the next one is due one interval
/// after the last.
#[derive(Debug)]
pub(crate) struct NodePace {
    /// Closes in 1,000 seconds; 0 closes nothing.
    rate: AtomicU64,
    /// At least so many, since the node leaves.
    leaving: AtomicU64,
    /// When the last close was due, in microseconds after `start`.
    last: AtomicU64,
    start: Instant,
}

impl Default for NodePace {
    fn default() -> NodePace {
        NodePace { rate: AtomicU64::new(0), leaving: AtomicU64::new(0), last: AtomicU64::new(0), start: Instant::now() }
    }
}

impl NodePace {
    /// This node's part of a drain's pace.
    pub(crate) fn set(&self, rate: u64) {
        self.begin();
        self.rate.store(rate, Ordering::Release);
    }

    /// At least so much, whatever the drain says: the node leaves.
    pub(crate) fn leave(&self, rate: u64) {
        self.begin();
        self.leaving.store(rate, Ordering::Release);
    }

    fn begin(&self) {
        if !self.closes() {
            // Also the first close waits for its time: nodes begin together.
            self.last.store(self.now(), Ordering::Release);
        }
    }

    fn rate(&self) -> u64 {
        self.rate.load(Ordering::Acquire).max(self.leaving.load(Ordering::Acquire))
    }

    pub(crate) fn closes(&self) -> bool {
        self.rate() > 0
    }

    fn now(&self) -> u64 {
        self.start.elapsed().as_micros() as u64
    }

    /// Takes the next close if it is due, or says how long it is until one is. None: nothing shall be
    /// closed any more.
    pub(crate) fn take(&self) -> Option<Result<(), Duration>> {
        let interval = 1_000_000_000u64.checked_div(self.rate())?;
        let now = self.now();
        let taken = self.last.fetch_update(Ordering::AcqRel, Ordering::Acquire, |last| {
            let due = last + interval;
            (due <= now).then_some(due.max(now.saturating_sub(CATCH_UP_US)))
        });
        Some(taken.map(|_| ()).map_err(|last| Duration::from_micros((last + interval).saturating_sub(now).max(1))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn closes_in(pace: &NodePace, time: Duration) -> u32 {
        let end = Instant::now() + time;
        let mut closes = 0;
        loop {
            match pace.take() {
                Some(Ok(())) => closes += 1,
                Some(Err(wait)) if Instant::now() + wait <= end => tokio::time::sleep(wait).await,
                _ => return closes,
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn closes_come_at_the_rate_and_late_ones_are_made_up_for_a_little() {
        let pace = NodePace::default();
        assert!(pace.take().is_none());
        pace.set(100_000);
        assert!(matches!(pace.take(), Some(Err(_))), "the first waits for its time");
        assert_eq!(closes_in(&pace, Duration::from_secs(1)).await, 100);
        tokio::time::sleep(Duration::from_secs(10)).await;
        let closes = closes_in(&pace, Duration::from_secs(1)).await;
        assert!((100..=106).contains(&closes), "{closes}: what was not closed in 10 s is not saved up");
        pace.set(1_000);
        assert_eq!(closes_in(&pace, Duration::from_secs(10)).await, 10);
        pace.leave(10_000);
        pace.set(0);
        assert_eq!(
            closes_in(&pace, Duration::from_secs(1)).await,
            10,
            "what the drain says does not slow down a leave"
        );
        pace.leave(0);
        assert!(pace.take().is_none());
    }
}
