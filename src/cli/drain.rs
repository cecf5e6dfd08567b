//! `tidelock drain`, and the wait that `tidelock endpoint drain --wait` shares with it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Subcommand;
use tidelock_core::id::DrainId;
use tokio::time::Instant;

use super::client::{Api, Failure};
use super::output::{Progress, Table, bar, print, print_line};
use super::pool::print_raw;
use super::{Outcome, duration, view};

/// Behind the deadline the leader waits a little for nodes that are away, then ends the drain.
pub(super) const GRACE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(500);
/// A fleet that changes its leader or a node that restarts is back by then.
const PATIENCE: Duration = Duration::from_secs(15);

#[derive(Subcommand)]
pub(super) enum Command {
    /// Drains that are under way, and those that ended lately
    List {
        /// Print the API's JSON
        #[arg(long)]
        json: bool,
    },
    /// One drain, node by node
    Show {
        drain: DrainId,
        /// Print the API's JSON
        #[arg(long)]
        json: bool,
    },
    /// Return when the drain's endpoint is safe to stop
    #[command(after_help = "\
Exit codes: 0 when safe, 1 when the drain was cancelled or its endpoint is gone, 3 when time is over.

Example:
  tidelock drain wait d9 --timeout 10m")]
    Wait {
        drain: DrainId,
        /// For how long
        #[arg(long, value_name = "TIME", value_parser = duration::parse, default_value = "1h")]
        timeout: Duration,
    },
}

pub(super) async fn run(command: Command, api: &mut Api) -> anyhow::Result<Outcome> {
    match command {
        Command::List { json: true } => print_raw(api, "/v1/drains").await?,
        Command::List { json: false } => {
            let drains: view::Drains = api.get("/v1/drains").await?;
            print(&list(&drains.drains))?;
        }
        Command::Show { drain, json: true } => print_raw(api, &format!("/v1/drains/{drain}")).await?,
        Command::Show { drain, json: false } => {
            let drain: view::Drain = api.get(&format!("/v1/drains/{drain}")).await?;
            print(&show(&drain))?;
        }
        Command::Wait { drain, timeout } => return wait(api, &drain.to_string(), timeout).await,
    }
    Ok(Outcome::Done)
}

/// Shows a drain's progress until it is over.
pub(super) async fn wait(api: &mut Api, id: &str, timeout: Duration) -> anyhow::Result<Outcome> {
    let end = Instant::now() + timeout;
    let mut heard = Instant::now();
    let mut progress = Progress::new();
    let mut most = 0;
    let path = format!("/v1/drains/{id}");
    loop {
        match api.get::<view::Drain>(&path).await {
            Ok(drain) => {
                heard = Instant::now();
                most = most.max(drain.requests);
                let (steady, live) = line(&drain, most, now_ms());
                progress.update(&steady, &live);
                if let Some((outcome, message)) = over(&drain) {
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
            print_line(&format!("{id}: not safe after {}; it goes on", duration::show(timeout.as_secs())))?;
            return Ok(Outcome::TimedOut);
        }
        tokio::time::sleep(POLL.min(end.saturating_duration_since(Instant::now()))).await;
    }
}

/// What a drain has come to, if it is over.
fn over(drain: &view::Drain) -> Option<(Outcome, String)> {
    let (id, endpoint, pool) = (&drain.id, &drain.endpoint, &drain.pool);
    match drain.state.as_str() {
        // With sessions a quiet moment is no end.
        "draining" if drain.safe && drain.mode == "streams" => {
            Some((Outcome::Done, format!("{id}: {endpoint} of {pool} is safe to stop")))
        }
        "draining" => None,
        "drained" => Some((Outcome::Done, format!("{id}: {endpoint} of {pool} is drained, safe to stop"))),
        "forced" => Some((Outcome::TimedOut, format!("{id}: the deadline came first, what was left has been cut"))),
        "cancelled" => Some((Outcome::Refused, format!("{id}: the drain was cancelled, {endpoint} is active"))),
        "removed" => Some((Outcome::Refused, format!("{id}: {endpoint} was deleted or replaced meanwhile"))),
        other => Some((Outcome::Refused, format!("{id}: {other}"))),
    }
}

/// What changes seldom, and what moves with the clock.
fn line(drain: &view::Drain, most: u64, now_ms: u64) -> (String, String) {
    let requests = drain.requests - drain.websockets.min(drain.requests);
    let missing = match drain.missing.as_slice() {
        [] => String::new(),
        nodes => format!(", waiting for {}", nodes.join(", ")),
    };
    let bar = bar(most.saturating_sub(drain.requests), most, 20);
    let left = format!("{} and {} left", count(requests, "request"), count(drain.websockets, "WebSocket"));
    let steady = format!("{}: [{bar}] {left}{missing}", drain.id);
    let live = drain.deadline_ms.map(|deadline| deadline.saturating_sub(now_ms) / 1_000);
    let live = live.map(|seconds| format!(", cut in {}", duration::show(seconds))).unwrap_or_default();
    (steady, live)
}

fn count(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

pub(super) fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn list(drains: &[view::Drain]) -> String {
    let mut table =
        Table::new(["DRAIN", "POOL", "ENDPOINT", "MODE", "STATE", "REQUESTS", "WEBSOCKETS", "MISSING", "REASON"]);
    for drain in drains {
        table.row([
            drain.id.clone(),
            drain.pool.clone(),
            drain.endpoint.clone(),
            drain.mode.clone(),
            if drain.safe && drain.state == "draining" { "draining, safe".into() } else { drain.state.clone() },
            drain.requests.to_string(),
            drain.websockets.to_string(),
            if drain.missing.is_empty() { "-".into() } else { drain.missing.join(",") },
            drain.reason.clone(),
        ]);
    }
    if table.is_empty() { "no drains\n".into() } else { table.render() }
}

fn show(drain: &view::Drain) -> String {
    let mut nodes = Table::new(["NODE", "REPORTED", "REQUESTS", "WEBSOCKETS"]);
    for node in &drain.nodes {
        let counts = |count: u64| if node.reported { count.to_string() } else { "?".into() };
        let reported = if node.reported { "yes" } else { "no" };
        nodes.row([node.node.clone(), reported.into(), counts(node.requests), counts(node.websockets)]);
    }
    format!("{}\n{}", list(std::slice::from_ref(drain)), nodes.render())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(json: serde_json::Value) -> view::Drain {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn the_line_tells_what_is_left_and_who_is_missing() {
        let drain = drain(serde_json::json!({
            "id": "d9", "state": "draining", "requests": 3, "websockets": 1, "missing": ["c"], "deadline_ms": 65_000
        }));
        let (steady, live) = line(&drain, 4, 5_000);
        assert_eq!(steady, "d9: [#####---------------] 2 requests and 1 WebSocket left, waiting for c");
        assert_eq!(live, ", cut in 1m 0s");
    }

    #[test]
    fn only_zero_everywhere_is_safe() {
        let ends = |json| over(&drain(json)).map(|(outcome, _)| outcome);
        use serde_json::json;
        assert!(ends(json!({"state": "draining", "mode": "streams", "safe": false})).is_none());
        assert!(ends(json!({"state": "draining", "mode": "sessions", "safe": true})).is_none());
        assert!(matches!(ends(json!({"state": "draining", "mode": "streams", "safe": true})), Some(Outcome::Done)));
        assert!(matches!(ends(json!({"state": "drained"})), Some(Outcome::Done)));
        assert!(matches!(ends(json!({"state": "forced"})), Some(Outcome::TimedOut)));
        assert!(matches!(ends(json!({"state": "cancelled"})), Some(Outcome::Refused)));
    }
}
