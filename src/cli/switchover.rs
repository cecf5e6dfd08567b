//! `tidelock switchover`: replacing one side of a pool by another.

use std::collections::BTreeSet;
use std::time::Duration;

use clap::{Args, Subcommand};
use http::Method;
use serde_json::json;
use tidelock_core::id::{Name, SwitchoverId};

use super::client::{Api, Failure};
use super::output::{Table, bar, print, print_line};
use super::pool::print_raw;
use super::wait::{self, GRACE, Waited, count, cut_in};
use super::{Outcome, drain, duration, view};

#[derive(Subcommand)]
pub(super) enum Command {
    /// Replace one side of a pool by another, when the other is up
    #[command(after_help = "\
Each side is a revision, or a list of endpoints. Nothing changes until --min-ready endpoints of the new side are up.
Then new sessions go there, and the old side drains: WebSockets (1012) and event streams are closed at the pace,
summed over the fleet; at the deadline the rest is cut. With --max-errors it goes back by itself when the new side
fails.

With --wait it returns 0 when the old side is empty, 1 when it was rolled back, 3 when time is over.

Examples:
  tidelock switchover start app --from-revision v1 --to-revision v2 --min-ready 3 --wait
  tidelock switchover start app --from app-1,app-2 --to app-3,app-4 --pace 200 --deadline 10m
  tidelock switchover start app --from-revision v1 --to-revision v2 --max-errors 5")]
    Start(Box<StartOptions>),
    /// Switchovers that are under way, and those that ended lately
    List {
        /// Print the API's JSON
        #[arg(long)]
        json: bool,
    },
    /// One switchover, endpoint by endpoint
    Show {
        switchover: SwitchoverId,
        /// Print the API's JSON
        #[arg(long)]
        json: bool,
    },
    /// Return when the switchover has ended
    #[command(after_help = "\
Exit codes: 0 when done, 1 when it was rolled back, 3 when time is over.

Example:
  tidelock switchover wait s9 --timeout 10m")]
    Wait {
        switchover: SwitchoverId,
        /// For how long
        #[arg(long, value_name = "TIME", value_parser = duration::parse, default_value = "1h")]
        timeout: Duration,
    },
    /// Go back: the old side is active again, what had gone to the new side drains
    #[command(after_help = "Example:\n  tidelock switchover rollback s9 --reason latency")]
    Rollback {
        switchover: SwitchoverId,
        /// For people who look at the switchover
        #[arg(long, default_value = "")]
        reason: String,
    },
}

#[derive(Args)]
pub(super) struct StartOptions {
    pool: Name,
    #[command(flatten)]
    from: From,
    #[command(flatten)]
    to: To,
    /// How the old side drains: running streams go on, or whole sessions
    #[arg(long, value_parser = ["streams", "sessions"], default_value = "streams")]
    mode: String,
    /// WebSockets and event streams closed in a second, summed over the fleet
    #[arg(long, value_name = "PER-SECOND", default_value = "50")]
    pace: u32,
    /// When what is left on the old side is cut, from the shift on
    #[arg(long, value_name = "TIME", value_parser = duration::parse, default_value = "5m")]
    deadline: Duration,
    /// So many endpoints of the new side must be up
    #[arg(long, value_name = "COUNT", default_value = "1")]
    min_ready: u32,
    /// For how long to wait for them; then nothing is changed
    #[arg(long, value_name = "TIME", value_parser = duration::parse, default_value = "10m")]
    ready_timeout: Duration,
    /// Go back when more than so many percent of the attempts on the new side fail
    #[arg(long, value_name = "PERCENT")]
    max_errors: Option<u8>,
    /// For people who look at the switchover
    #[arg(long, default_value = "")]
    reason: String,
    /// Return when it has ended
    #[arg(long)]
    wait: bool,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct From {
    /// The old side: endpoints
    #[arg(long, value_name = "ENDPOINTS", value_delimiter = ',')]
    from: Vec<Name>,
    /// The old side: a revision
    #[arg(long, value_name = "REVISION")]
    from_revision: Option<Name>,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct To {
    /// The new side: endpoints
    #[arg(long, value_name = "ENDPOINTS", value_delimiter = ',')]
    to: Vec<Name>,
    /// The new side: a revision
    #[arg(long, value_name = "REVISION")]
    to_revision: Option<Name>,
}

fn side(revision: Option<Name>, endpoints: Vec<Name>) -> serde_json::Value {
    match revision {
        Some(revision) => json!({ "revision": revision }),
        None => json!({ "endpoints": endpoints.into_iter().collect::<BTreeSet<Name>>() }),
    }
}

pub(super) async fn run(command: Command, api: &mut Api) -> anyhow::Result<Outcome> {
    match command {
        Command::Start(options) => return start(*options, api).await,
        Command::List { json: true } => print_raw(api, "/v1/switchovers").await?,
        Command::List { json: false } => {
            let switchovers: view::Switchovers = api.get("/v1/switchovers").await?;
            print(&list(&switchovers.switchovers))?;
        }
        Command::Show { switchover, json: true } => print_raw(api, &format!("/v1/switchovers/{switchover}")).await?,
        Command::Show { switchover, json: false } => {
            let switchover: view::Switchover = api.get(&format!("/v1/switchovers/{switchover}")).await?;
            print(&format!("{}\n{}", list(std::slice::from_ref(&switchover)), drain::list(&switchover.drains)))?;
        }
        Command::Wait { switchover, timeout } => return wait(api, &switchover.to_string(), timeout).await,
        Command::Rollback { switchover, reason } => {
            let path = format!("/v1/switchovers/{switchover}");
            let applied = api.write(Method::DELETE, &path, Some(json!({ "reason": reason }))).await?;
            print_line(&format!("{switchover}: rolled back at epoch {}", applied.epoch))?;
        }
    }
    Ok(Outcome::Done)
}

async fn start(options: StartOptions, api: &mut Api) -> anyhow::Result<Outcome> {
    let seconds = |time: Duration| time.as_millis().div_ceil(1_000).max(1) as u64;
    let limit = options.ready_timeout + options.deadline + GRACE;
    let mut body = json!({
        "from": side(options.from.from_revision, options.from.from),
        "to": side(options.to.to_revision, options.to.to),
        "mode": options.mode,
        "pace": options.pace,
        "deadline_seconds": seconds(options.deadline),
        "min_ready": options.min_ready,
        "wait_seconds": seconds(options.ready_timeout),
        "reason": options.reason,
    });
    if let Some(percent) = options.max_errors {
        body["max_error_percent"] = json!(percent);
    }
    let pool = options.pool;
    let applied = api.write(Method::POST, &format!("/v1/pools/{pool}/switchovers"), Some(body)).await?;
    let missing = || Failure::Foreign { url: api.url().into(), reason: "it names no switchover".into() };
    let id = applied.switchover.ok_or_else(missing)?;
    print_line(&format!("pool {pool}: switching over as {id}, from epoch {}", applied.epoch))?;
    if options.wait { wait(api, &id, limit).await } else { Ok(Outcome::Done) }
}

/// Shows a switchover's progress until it has ended.
async fn wait(api: &mut Api, id: &str, timeout: Duration) -> anyhow::Result<Outcome> {
    wait::wait::<view::Switchover>(api, &format!("/v1/switchovers/{id}"), id, timeout).await
}

impl Waited for view::Switchover {
    fn left(&self) -> u64 {
        self.requests
    }

    fn over(&self) -> Option<(Outcome, String)> {
        let (id, pool) = (&self.id, &self.pool);
        match self.stage.as_str() {
            "waiting" | "draining" => None,
            "done" => {
                let cut = self.drains.iter().filter(|drain| drain.state == "forced").count();
                let told = match cut {
                    0 => String::new(),
                    cut => format!("; the deadline came first on {}", count(cut as u64, "endpoint")),
                };
                Some((Outcome::Done, format!("{id}: the old side of {pool} is empty, safe to stop{told}")))
            }
            _ => Some((Outcome::Refused, format!("{id}: rolled back: {}", self.detail))),
        }
    }

    fn line(&self, most: u64, now_ms: u64) -> (String, String) {
        let view::Switchover { id, requests, websockets, event_streams, .. } = self;
        if self.stage == "waiting" {
            return (format!("{id}: {} of {} new endpoints are up", self.ready, self.min_ready), String::new());
        }
        let bar = bar(most.saturating_sub(*requests), most, 20);
        let steady = format!(
            "{id}: [{bar}] {}, {} and {} left",
            count(requests.saturating_sub(websockets + event_streams), "request"),
            count(*websockets, "WebSocket"),
            count(*event_streams, "event stream"),
        );
        (steady, cut_in(self.deadline_ms, now_ms))
    }

    fn unfinished() -> &'static str {
        "not over"
    }
}

fn list(switchovers: &[view::Switchover]) -> String {
    let mut table = Table::new([
        "SWITCHOVER",
        "POOL",
        "FROM",
        "TO",
        "STAGE",
        "READY",
        "PACE",
        "REQUESTS",
        "WEBSOCKETS",
        "EVENTS",
        "DETAIL",
    ]);
    for switchover in switchovers {
        let detail = if switchover.detail.is_empty() { &switchover.reason } else { &switchover.detail };
        table.row([
            switchover.id.clone(),
            switchover.pool.clone(),
            switchover.from.show(),
            switchover.to.show(),
            switchover.stage.clone(),
            format!("{}/{}", switchover.ready, switchover.min_ready),
            format!("{}/s", switchover.pace),
            switchover.requests.to_string(),
            switchover.websockets.to_string(),
            switchover.event_streams.to_string(),
            detail.clone(),
        ]);
    }
    if table.is_empty() { "no switchovers\n".into() } else { table.render() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn switchover(json: serde_json::Value) -> view::Switchover {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn the_line_tells_what_it_waits_for_and_what_is_left() {
        let waiting = switchover(json!({ "id": "s9", "stage": "waiting", "ready": 1, "min_ready": 3 }));
        assert_eq!(waiting.line(0, 0).0, "s9: 1 of 3 new endpoints are up");
        let draining = switchover(json!({
            "id": "s9", "stage": "draining", "requests": 8, "websockets": 5, "event_streams": 1, "deadline_ms": 65_000
        }));
        let (steady, live) = draining.line(16, 5_000);
        assert_eq!(steady, "s9: [##########----------] 2 requests, 5 WebSockets and 1 event stream left");
        assert_eq!(live, ", cut in 1m 0s");
    }

    #[test]
    fn a_switchover_that_went_back_is_no_success() {
        let ends = |json| switchover(json).over();
        assert!(ends(json!({ "stage": "waiting" })).is_none() && ends(json!({ "stage": "draining" })).is_none());
        let (outcome, told) = ends(json!({ "stage": "done", "drains": [{ "state": "forced" }] })).unwrap();
        assert!(matches!(outcome, Outcome::Done) && told.contains("deadline came first on 1 endpoint"));
        let (outcome, told) = ends(json!({ "id": "s9", "stage": "rolled-back", "detail": "x" })).unwrap();
        assert!(matches!(outcome, Outcome::Refused) && told == "s9: rolled back: x");
    }

    #[test]
    fn sides_are_shown_as_they_are_typed() {
        let shown = switchover(json!({ "from": { "revision": "v1" }, "to": { "endpoints": ["a", "b"] } }));
        assert_eq!((shown.from.show(), shown.to.show()), ("v1".into(), "a,b".into()));
    }
}
