//! `tidelock endpoint`: putting, draining and removing the processes of a pool.

use std::time::Duration;

use clap::{Args, Subcommand};
use http::Method;
use serde_json::json;
use tidelock_core::id::Name;
use tidelock_core::spec::{Address, EndpointSpec, NodeName, Weight};

use super::client::{Api, Failure};
use super::output::{Table, print, print_line};
use super::pool::print_raw;
use super::{Outcome, drain, duration, view, wait};

#[derive(Subcommand)]
pub(super) enum Command {
    /// The endpoints of a pool, or of all
    List {
        pool: Option<Name>,
        /// Print the API's JSON
        #[arg(long)]
        json: bool,
    },
    /// Add an endpoint, or change it
    #[command(after_help = "\
Another address is another process: it starts active and gets no pinned session of the old one.

Examples:
  tidelock endpoint put app app-1 --address 10.0.0.5:4000
  tidelock endpoint put app app-2 --address [fd00::5]:4000 --weight 2 --revision v1")]
    Put(PutOptions),
    /// Remove an endpoint at once; drain it first, unless it is gone anyway
    Delete { pool: Name, endpoint: Name },
    /// Empty an endpoint without breaking a stream
    #[command(after_help = "\
Draining takes no new sessions. In mode `streams` the next request of a session moves it elsewhere, and only what is
running finishes; in mode `sessions` sessions stay as long as the deadline allows. WebSockets (1012) and event streams
are closed at the pace, summed over the fleet, and reconnect elsewhere. At the deadline the rest is cut.

With --wait it returns 0 when every node has reported that nothing is left: the endpoint is safe to stop. It returns
3 when something was left or a node did not report.

Examples:
  tidelock endpoint drain app app-1 --wait
  tidelock endpoint drain app app-1 --pace 200 --deadline 10m
  tidelock endpoint drain app app-1 --mode sessions --deadline 1h --reason kernel-update
  tidelock endpoint undrain app app-1")]
    Drain(DrainOptions),
    /// Cancel a drain: the endpoint is active again
    Undrain { pool: Name, endpoint: Name },
}

#[derive(Args)]
pub(super) struct PutOptions {
    pool: Name,
    endpoint: Name,
    /// Where it listens: host:port
    #[arg(long, value_name = "HOST:PORT")]
    address: Address,
    /// Its share against its neighbours', 1 to 100
    #[arg(long, default_value = "1", value_parser = weight)]
    weight: Weight,
    /// The deployed version of the app
    #[arg(long)]
    revision: Option<Name>,
    /// What the app there calls itself: an Erlang node's name
    #[arg(long, value_name = "NAME")]
    node: Option<NodeName>,
}

fn weight(text: &str) -> Result<Weight, String> {
    let number: u32 = text.parse().map_err(|_| format!("{text:?} is not a number from 1 to 100"))?;
    Weight::try_from(number)
}

#[derive(Args)]
pub(super) struct DrainOptions {
    pool: Name,
    endpoint: Name,
    /// What may go on: running streams, or whole sessions
    #[arg(long, value_parser = ["streams", "sessions"], default_value = "streams")]
    mode: String,
    /// When what is left is cut
    #[arg(long, value_name = "TIME", value_parser = duration::parse, default_value = "5m")]
    deadline: Duration,
    /// WebSockets and event streams closed in a second, summed over the fleet; 0 leaves them until the deadline
    #[arg(long, value_name = "PER-SECOND")]
    pace: Option<u32>,
    /// For people who look at the drain
    #[arg(long, default_value = "")]
    reason: String,
    /// Return when the endpoint is safe to stop
    #[arg(long)]
    wait: bool,
}

pub(super) async fn run(command: Command, api: &mut Api) -> anyhow::Result<Outcome> {
    match command {
        Command::List { pool: None, json: true } => print_raw(api, "/v1/pools").await?,
        Command::List { pool: None, json: false } => {
            let pools: view::Pools = api.get("/v1/pools").await?;
            print(&list(&pools.pools))?;
        }
        Command::List { pool: Some(pool), json: true } => print_raw(api, &format!("/v1/pools/{pool}")).await?,
        Command::List { pool: Some(pool), json: false } => {
            let pool: view::Pool = api.get(&format!("/v1/pools/{pool}")).await?;
            print(&list(&[pool]))?;
        }
        Command::Put(PutOptions { pool, endpoint, address, weight, revision, node }) => {
            let spec = EndpointSpec { address, weight, revision, node };
            let applied = api.write(Method::PUT, &path(&pool, &endpoint), Some(json!(spec))).await?;
            print_line(&format!("endpoint {endpoint} of {pool}: applied at epoch {}", applied.epoch))?;
        }
        Command::Delete { pool, endpoint } => {
            let applied = api.write(Method::DELETE, &path(&pool, &endpoint), None).await?;
            print_line(&format!("endpoint {endpoint} of {pool}: deleted at epoch {}", applied.epoch))?;
        }
        Command::Drain(options) => return start_drain(options, api).await,
        Command::Undrain { pool, endpoint } => {
            let applied = api.write(Method::DELETE, &format!("{}/drain", path(&pool, &endpoint)), None).await?;
            print_line(&format!("endpoint {endpoint} of {pool}: active again at epoch {}", applied.epoch))?;
        }
    }
    Ok(Outcome::Done)
}

async fn start_drain(options: DrainOptions, api: &mut Api) -> anyhow::Result<Outcome> {
    let DrainOptions { pool, endpoint, mode, deadline, pace, reason, wait } = options;
    // The API counts in seconds: a part of one is a whole one.
    let seconds = deadline.as_millis().div_ceil(1_000).max(1) as u64;
    let mut body = json!({"mode": mode, "deadline_seconds": seconds, "reason": reason});
    if let Some(pace) = pace {
        body["pace"] = json!(pace);
    }
    let applied = api.write(Method::POST, &format!("{}/drain", path(&pool, &endpoint)), Some(body)).await?;
    let missing = || Failure::Foreign { url: api.url().into(), reason: "it names no drain".into() };
    let id = applied.drain.ok_or_else(missing)?;
    print_line(&format!("endpoint {endpoint} of {pool}: draining as {id}, from epoch {}", applied.epoch))?;
    if wait { drain::wait(api, &id, deadline + wait::GRACE).await } else { Ok(Outcome::Done) }
}

fn path(pool: &Name, endpoint: &Name) -> String {
    format!("/v1/pools/{pool}/endpoints/{endpoint}")
}

pub(super) fn list(pools: &[view::Pool]) -> String {
    let mut table =
        Table::new(["POOL", "ENDPOINT", "ADDRESS", "WEIGHT", "REVISION", "PHASE", "HEALTH", "REQUESTS", "WEBSOCKETS"]);
    for (pool, endpoint) in pools.iter().flat_map(|pool| pool.endpoints.iter().map(move |e| (pool, e))) {
        let phase = match &endpoint.drain {
            Some(drain) => format!("{} ({drain})", endpoint.phase),
            None => endpoint.phase.clone(),
        };
        let health = match &endpoint.health {
            None => "-".to_owned(),
            Some(health) if health.detail.is_empty() => health.verdict.clone(),
            Some(health) => format!("{} ({})", health.verdict, health.detail),
        };
        table.row([
            pool.name.clone(),
            endpoint.name.clone(),
            endpoint.address.clone(),
            endpoint.weight.to_string(),
            endpoint.revision.clone().unwrap_or_else(|| "-".into()),
            phase,
            health,
            endpoint.requests.to_string(),
            endpoint.websockets.to_string(),
        ]);
    }
    if table.is_empty() {
        "no endpoints yet: tidelock endpoint put POOL NAME --address HOST:PORT\n".into()
    } else {
        table.render()
    }
}
