//! How fast this node closes what lasts on one endpoint: its part of a drain's pace, kept by all
//! workers together.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// A close that came late may be made up for within this much time. So much of a second is a
/// fortieth: no second sees more than that above the pace.
const CATCH_UP_US: u64 = 25_000;

/// Of one close in 1,000 seconds.
const LONGEST_INTERVAL_US: u64 = 1_000_000_000;

/// Closes are spaced evenly (a leaky bucket without a bucket): the next one is due one interval
/// after the last.
#[derive(Debug)]
pub(crate) struct NodePace {
    /// Closes in 1,000 seconds; 0 closes nothing.
    rate: AtomicU64,
    /// At least so many, since the node leaves.
    leaving: AtomicU64,
    /// When the last close was due, by `now`.
    last: AtomicU64,
    start: Instant,
    /// How much of the first interval is over when closing begins, in 65,536ths. Whoever has a part of a pace
    /// begins at one moment: at one phase they would close in waves, and a second might see one wave more.
    phase: u64,
}

impl Default for NodePace {
    fn default() -> NodePace {
        let phase = u64::from(RandomState::new().hash_one(0) as u16);
        let zero = AtomicU64::default;
        NodePace { rate: zero(), leaving: zero(), last: zero(), start: Instant::now(), phase }
    }
}

impl NodePace {
    /// This node's part of a drain's pace.
    pub(crate) fn set(&self, rate: u64) {
        self.begin(rate);
        self.rate.store(rate, Ordering::Release);
    }

    /// At least so much, whatever the drain says: the node leaves.
    pub(crate) fn leave(&self, rate: u64) {
        self.begin(rate);
        self.leaving.store(rate, Ordering::Release);
    }

    fn begin(&self, rate: u64) {
        if !self.closes()
            && let Some(interval) = interval(rate)
        {
            // Also the first close waits for its time.
            let over = ((u128::from(interval) * u128::from(self.phase)) >> 16) as u64;
            self.last.store(self.now() - over, Ordering::Release);
        }
    }

    fn rate(&self) -> u64 {
        self.rate.load(Ordering::Acquire).max(self.leaving.load(Ordering::Acquire))
    }

    pub(crate) fn closes(&self) -> bool {
        self.rate() > 0
    }

    /// In microseconds; there is a whole interval before the start, however long it is.
    fn now(&self) -> u64 {
        LONGEST_INTERVAL_US + self.start.elapsed().as_micros() as u64
    }

    /// Takes the next close if it is due, or says how long it is until one is. None: nothing shall be
    /// closed any more.
    pub(crate) fn take(&self) -> Option<Result<(), Duration>> {
        let interval = interval(self.rate())?;
        let now = self.now();
        let taken = self.last.fetch_update(Ordering::AcqRel, Ordering::Acquire, |last| {
            let due = last + interval;
            (due <= now).then_some(due.max(now.saturating_sub(CATCH_UP_US)))
        });
        Some(taken.map(|_| ()).map_err(|last| Duration::from_micros((last + interval).saturating_sub(now).max(1))))
    }
}

/// Between two closes, in microseconds. None: nothing is closed.
fn interval(rate: u64) -> Option<u64> {
    LONGEST_INTERVAL_US.checked_div(rate)
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

    /// Fifteen that begin together and are woken a little late: no second sees more than the pace, and their
    /// closes are no waves.
    #[tokio::test(start_paused = true)]
    async fn those_who_share_a_pace_do_not_close_in_waves() {
        let paces: Vec<NodePace> = (0..15).map(|_| NodePace::default()).collect();
        let start = Instant::now();
        paces.iter().for_each(|pace| pace.set(4_000));
        let mut closes = Vec::new();
        while start.elapsed() < Duration::from_secs(5) {
            tokio::time::advance(Duration::from_millis(7)).await;
            for pace in &paces {
                while let Some(Ok(())) = pace.take() {
                    closes.push(start.elapsed());
                }
            }
        }
        let within = |limit: Duration| {
            let most = |from: &Duration| closes.iter().filter(|at| (*from..*from + limit).contains(*at)).count();
            closes.iter().map(most).max().unwrap()
        };
        assert!(closes.len() >= 4 * 15 * 5 - 15, "{}", closes.len());
        assert!(within(Duration::from_secs(1)) <= 66, "{} in a second", within(Duration::from_secs(1)));
        assert!(within(Duration::from_millis(20)) <= 10, "{} at once", within(Duration::from_millis(20)));
    }
}
