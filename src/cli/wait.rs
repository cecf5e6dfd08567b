//! Waiting for something that the fleet works at, with its progress.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::client::{Api, Failure};
use super::output::{Progress, print_line};
use super::{Outcome, duration};

/// Behind the deadline the leader waits a little for nodes that are away, then ends a drain.
pub(super) const GRACE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(500);
/// A fleet that changes its leader or a node that restarts is back by then.
const PATIENCE: Duration = Duration::from_secs(15);

/// What can be waited for.
pub(super) trait Waited: DeserializeOwned {
    /// What the bar counts down.
    fn left(&self) -> u64;

    /// What changes seldom, and what moves with the clock. `most` is what was left at most.
    fn line(&self, most: u64, now_ms: u64) -> (String, String);

    /// What it has come to, if it is over.
    fn over(&self) -> Option<(Outcome, String)>;

    /// When the time is over and it is not.
    fn unfinished() -> &'static str;
}

/// Shows the progress of what is at `path` until it is over.
pub(super) async fn wait<W: Waited>(api: &mut Api, path: &str, id: &str, timeout: Duration) -> anyhow::Result<Outcome> {
    let end = Instant::now() + timeout;
    let mut heard = Instant::now();
    let mut progress = Progress::new();
    let mut most = 0;
    loop {
        match api.get::<W>(path).await {
            Ok(waited) => {
                heard = Instant::now();
                most = most.max(waited.left());
                let (steady, live) = waited.line(most, now_ms());
                progress.update(&steady, &live);
                if let Some((outcome, message)) = waited.over() {
                    progress.finish();
                    print_line(&message)?;
                    return Ok(outcome);
                }
            }
            // The node that was asked may be the one that restarts.
            Err(Failure::Unreachable { .. }) if heard.elapsed() < PATIENCE => {
                progress.update(&format!("{id}: no node answers, trying again"), "");
            }
            Err(failure) => {
                progress.finish();
                return Err(failure.into());
            }
        }
        if Instant::now() >= end {
            progress.finish();
            let (unfinished, time) = (W::unfinished(), duration::show(timeout.as_secs()));
            print_line(&format!("{id}: {unfinished} after {time}; it goes on"))?;
            return Ok(Outcome::TimedOut);
        }
        tokio::time::sleep(POLL.min(end.saturating_duration_since(Instant::now()))).await;
    }
}

pub(super) fn count(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// `, cut in 5m`: what is left until a deadline.
pub(super) fn cut_in(deadline_ms: Option<u64>, now_ms: u64) -> String {
    let left = deadline_ms.map(|deadline| deadline.saturating_sub(now_ms) / 1_000);
    left.map(|seconds| format!(", cut in {}", duration::show(seconds))).unwrap_or_default()
}

pub(super) fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}
