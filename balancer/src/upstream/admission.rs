//! How fast WebSockets begin at one endpoint. When an endpoint or a balancer breaks, thousands of clients
//! come back at once: each endpoint that is left gets its part at the rate that its pool allows.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// All workers take their turns from one word, each the next free one: who came first begins first.
#[derive(Debug)]
pub(crate) struct Admission {
    /// The last turn that was given, in microseconds of its clock; it may be in the future.
    last: AtomicU64,
    start: Instant,
}

/// What the clock shows at the start, in microseconds: no turn was given for longer than any interval.
const AT_START: u64 = 1_000_000;

impl Default for Admission {
    fn default() -> Admission {
        Admission { last: AtomicU64::new(0), start: Instant::now() }
    }
}

impl Admission {
    /// When the next one may begin. None, and no turn is taken, where that is later than in `most`.
    pub(super) fn turn(&self, per_second: NonZeroU32, most: Duration) -> Option<Instant> {
        let interval = 1_000_000 / u64::from(per_second.get());
        let now = AT_START + self.start.elapsed().as_micros() as u64;
        let latest = now + most.as_micros() as u64;
        let due = |last: u64| (last + interval).max(now);
        let next = |last| Some(due(last)).filter(|due| *due <= latest);
        let last = self.last.fetch_update(Ordering::AcqRel, Ordering::Acquire, next).ok()?;
        Some(self.start + Duration::from_micros(due(last) - AT_START))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn turns_come_at_the_rate_and_none_is_saved_up() {
        let admission = Admission::default();
        let fifty = NonZeroU32::new(50).unwrap();
        let (second, interval) = (Duration::from_secs(1), Duration::from_millis(20));
        for _ in 0..2 {
            let now = Instant::now();
            for number in 0..=50 {
                assert_eq!(admission.turn(fifty, second), Some(now + interval * number));
            }
            assert_eq!(admission.turn(fifty, second), None, "more than a second");
            tokio::time::advance(interval).await;
            assert_eq!(admission.turn(fifty, second), Some(now + interval * 51), "what was refused took no turn");
            tokio::time::sleep(Duration::from_secs(10)).await;
        }
    }
}
