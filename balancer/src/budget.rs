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

/// How much of something there may be at once, and how much of it comes back evenly in a time: both together are the most in any
/// time of that length, whenever it begins. (A leaky bucket as a meter, told by when it will be empty.)
#[derive(Debug)]
pub(crate) struct Allowance {
    /// All there may be at once, by how long it takes to come back.
    all: Duration,
    /// One of it.
    each: Duration,
    empty_at: Instant,
}

impl Allowance {
    pub(crate) fn new(at_once: u32, comes_back: u32, window: Duration) -> Allowance {
        let each = window / comes_back;
        Allowance { all: each * at_once, each, empty_at: Instant::now() }
    }

    /// Counts so many, and says how much of what there may be at once is spent: from 1.0 on all of it.
    pub(crate) fn spend(&mut self, amount: u32) -> f32 {
        let now = Instant::now();
        self.empty_at = self.empty_at.max(now) + self.each * amount;
        (self.empty_at - now).as_secs_f32() / self.all.as_secs_f32()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// However they are spread, there are never more than allowed within the window.
    #[tokio::test(start_paused = true)]
    async fn an_allowance_holds_in_any_window() {
        for pause in [0, 1, 9, 40, 900, 4_900] {
            let mut allowance = Allowance::new(300, 100, Duration::from_secs(10));
            let mut times = Vec::new();
            let end = Instant::now() + Duration::from_secs(40);
            while Instant::now() < end {
                // As many as there may be, then a pause.
                while allowance.spend(1) < 1.0 {
                    times.push(Instant::now());
                }
                tokio::time::sleep(Duration::from_millis(pause.max(1))).await;
            }
            let most = times
                .iter()
                .map(|from| times.iter().filter(|at| (*from..*from + Duration::from_secs(10)).contains(at)).count());
            let most = most.max().unwrap();
            assert!((250..=400).contains(&most), "{most} with pauses of {pause} ms");
        }
    }
}
