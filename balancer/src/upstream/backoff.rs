//! When an endpoint that could not be reached is tried again: requests go elsewhere meanwhile, and
//! do not wait for a connection that will not come.

use std::cell::Cell;
use std::time::Duration;

use tokio::time::Instant;

/// After the first failure; it doubles with each further one.
const FIRST: Duration = Duration::from_millis(100);
/// An endpoint that comes back is found again in this time.
const LONGEST: Duration = Duration::from_secs(2);

#[derive(Debug, Default)]
pub(crate) struct Backoff(Cell<Option<Resting>>);

#[derive(Debug, Clone, Copy)]
struct Resting {
    failures: u32,
    failed: Instant,
    until: Instant,
}

impl Backoff {
    /// A connection failed; says whether that is news. Half of the pause is left to `random`, so
    /// that a fleet does not come back all at once.
    pub(crate) fn failed(&self, random: u64) -> bool {
        let now = Instant::now();
        let before = self.0.get();
        if let Some(before) = before
            && now < before.until
        {
            // It was tried before the pause began.
            self.0.set(Some(Resting { failed: now, ..before }));
            return false;
        }
        let failures = before.map_or(0, |before| before.failures + 1);
        let most = FIRST.saturating_mul(1 << failures.min(10)).min(LONGEST);
        let jitter = most / 2 * (random % 1_024) as u32 / 1_024;
        self.0.set(Some(Resting { failures, failed: now, until: now + most / 2 + jitter }));
        before.is_none()
    }

    /// Somebody has nowhere else to go: the pause is a short one.
    pub(crate) fn hurry(&self) {
        if let Some(resting) = self.0.get() {
            let until = resting.until.min(resting.failed + FIRST);
            self.0.set(Some(Resting { until, ..resting }));
        }
    }

    /// A connection came about; says whether that is news.
    pub(crate) fn succeeded(&self) -> bool {
        self.0.take().is_some()
    }

    /// Whether whoever asked at `asked` should go elsewhere.
    pub(crate) fn rests(&self, asked: Instant) -> bool {
        self.0.get().is_some_and(|resting| resting.failed >= asked || asked < resting.until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pauses_double_to_a_bound_and_end_with_success() {
        let backoff = Backoff::default();
        assert!(!backoff.rests(Instant::now()));
        let mut pauses = Vec::new();
        for failure in 0..7 {
            let asked = Instant::now();
            assert_eq!(backoff.failed(1_023), failure == 0);
            assert!(backoff.rests(asked), "who asked before it failed goes elsewhere");
            assert!(!backoff.failed(0), "one of the same time counts once");
            while backoff.rests(Instant::now() + Duration::from_millis(1)) {
                tokio::time::advance(Duration::from_millis(1)).await;
            }
            pauses.push((asked.elapsed().as_millis() + 50) / 100);
            tokio::time::advance(Duration::from_millis(5)).await;
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 20, 20]);
        backoff.failed(1_023);
        backoff.hurry();
        tokio::time::advance(FIRST).await;
        assert!(!backoff.rests(Instant::now() + Duration::from_millis(1)), "one who waits has it tried at once");
        assert!(backoff.succeeded() && !backoff.succeeded());
        assert!(!backoff.rests(Instant::now() + Duration::from_millis(1)));
        assert!(backoff.failed(0), "it begins again");
    }
}
