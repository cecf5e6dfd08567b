//! `tidelock drain`, and the wait that `tidelock endpoint drain --wait` shares with it.

use std::time::Duration;

use clap::Subcommand;
use tidelock_core::id::DrainId;

use super::client::Api;
use super::output::{Table, bar, print};
use super::pool::print_raw;
use super::wait::{self, Waited, count, cut_in};
use super::{Outcome, duration, view};

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
    wait::wait::<view::Drain>(api, &format!("/v1/drains/{id}"), id, timeout).await
}

impl Waited for view::Drain {
    fn left(&self) -> u64 {
        self.requests
    }

    fn over(&self) -> Option<(Outcome, String)> {
        let (id, endpoint, pool) = (&self.id, &self.endpoint, &self.pool);
        match self.state.as_str() {
            // With sessions a quiet moment is no end.
            "draining" if self.safe && self.mode == "streams" => {
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

    fn line(&self, most: u64, now_ms: u64) -> (String, String) {
        let drain = self;
        let requests = drain.requests.saturating_sub(drain.websockets + drain.event_streams);
        let missing = match drain.missing.as_slice() {
            [] => String::new(),
            nodes => format!(", waiting for {}", nodes.join(", ")),
        };
        let bar = bar(most.saturating_sub(drain.requests), most, 20);
        let sessions = drain.sessions.map(|sessions| format!("; about {} lately", count(sessions, "session")));
        let left = format!(
            "{}, {} and {} left{}",
            count(requests, "request"),
            count(drain.websockets, "WebSocket"),
            count(drain.event_streams, "event stream"),
            sessions.unwrap_or_default(),
        );
        let steady = format!("{}: [{bar}] {left}{missing}", drain.id);
        (steady, cut_in(drain.deadline_ms, now_ms))
    }

    fn unfinished() -> &'static str {
        "not safe"
    }
}

pub(super) fn list(drains: &[view::Drain]) -> String {
    let mut table = Table::new([
        "DRAIN",
        "POOL",
        "ENDPOINT",
        "MODE",
        "PACE",
        "STATE",
        "REQUESTS",
        "WEBSOCKETS",
        "EVENTS",
        "POLLS",
        "MISSING",
        "REASON",
    ]);
    for drain in drains {
        table.row([
            drain.id.clone(),
            drain.pool.clone(),
            drain.endpoint.clone(),
            drain.sessions.map_or_else(|| drain.mode.clone(), |sessions| format!("{}, about {sessions}", drain.mode)),
            drain.pace.map_or_else(|| "-".into(), |pace| format!("{pace}/s")),
            if drain.safe && drain.state == "draining" { "draining, safe".into() } else { drain.state.clone() },
            drain.requests.to_string(),
            drain.websockets.to_string(),
            drain.event_streams.to_string(),
            drain.long_polls.to_string(),
            if drain.missing.is_empty() { "-".into() } else { drain.missing.join(",") },
            drain.reason.clone(),
        ]);
    }
    if table.is_empty() { "no drains\n".into() } else { table.render() }
}

fn show(drain: &view::Drain) -> String {
    let mut nodes = Table::new(["NODE", "REPORTED", "REQUESTS", "WEBSOCKETS", "EVENTS", "POLLS"]);
    for node in &drain.nodes {
        let counts = |count: u64| if node.reported { count.to_string() } else { "?".into() };
        let reported = if node.reported { "yes" } else { "no" };
        let (requests, websockets) = (counts(node.requests), counts(node.websockets));
        let (event_streams, long_polls) = (counts(node.event_streams), counts(node.long_polls));
        nodes.row([node.node.clone(), reported.into(), requests, websockets, event_streams, long_polls]);
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
            "id": "d9", "state": "draining", "requests": 4, "websockets": 1, "event_streams": 1, "missing": ["c"], "deadline_ms": 65_000
        }));
        let (steady, live) = drain.line(8, 5_000);
        assert_eq!(steady, "d9: [##########----------] 2 requests, 1 WebSocket and 1 event stream left, waiting for c");
        assert_eq!(live, ", cut in 1m 0s");
    }

    #[test]
    fn who_waits_for_sessions_hears_how_many_still_come() {
        let drain = drain(serde_json::json!({ "id": "d9", "mode": "sessions", "sessions": 12 }));
        assert!(drain.line(0, 0).0.ends_with("left; about 12 sessions lately"), "{:?}", drain.line(0, 0));
        assert!(list(&[drain]).contains("sessions, about 12"));
    }

    #[test]
    fn only_zero_everywhere_is_safe() {
        let ends = |json| drain(json).over().map(|(outcome, _)| outcome);
        use serde_json::json;
        assert!(ends(json!({"state": "draining", "mode": "streams", "safe": false})).is_none());
        assert!(ends(json!({"state": "draining", "mode": "sessions", "safe": true})).is_none());
        assert!(matches!(ends(json!({"state": "draining", "mode": "streams", "safe": true})), Some(Outcome::Done)));
        assert!(matches!(ends(json!({"state": "drained"})), Some(Outcome::Done)));
        assert!(matches!(ends(json!({"state": "forced"})), Some(Outcome::TimedOut)));
        assert!(matches!(ends(json!({"state": "cancelled"})), Some(Outcome::Refused)));
    }
}
