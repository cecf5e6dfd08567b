//! `tidelock pool`.

use std::time::Duration;

use clap::{Args, Subcommand};
use http::Method;
use serde_json::json;
use tidelock_core::id::Name;
use tidelock_core::spec::{Millis, PoolSpec, Protocol, Timeouts};

use super::client::Api;
use super::output::{Table, print, print_line};
use super::{Outcome, duration, endpoint, view};

#[derive(Subcommand)]
pub(super) enum Command {
    /// All pools
    List {
        /// Print the API's JSON
        #[arg(long)]
        json: bool,
    },
    /// One pool with its endpoints
    Show {
        pool: Name,
        /// Print the API's JSON
        #[arg(long)]
        json: bool,
    },
    /// Make a pool, or replace what it says about its endpoints
    #[command(after_help = "\
What is not given has its default: the whole specification is replaced. Endpoints stay.

Examples:
  tidelock pool put app --protocol h2c
  tidelock pool put reports --first-byte-timeout 5m")]
    Put(PutOptions),
    /// Remove a pool with its endpoints; refused while a route uses it
    Delete { pool: Name },
}

#[derive(Args)]
pub(super) struct PutOptions {
    pool: Name,
    /// What the endpoints speak
    #[arg(long, value_parser = ["http1", "h2c"], default_value = "http1")]
    protocol: String,
    /// Leave content-length out towards the endpoints, once it has been checked
    #[arg(long)]
    strip_content_length: bool,
    /// For a connection to an endpoint [default: 5s]
    #[arg(long, value_name = "TIME", value_parser = millis)]
    connect_timeout: Option<Millis>,
    /// For a response to begin [default: 60s]
    #[arg(long, value_name = "TIME", value_parser = millis)]
    first_byte_timeout: Option<Millis>,
    /// Without a byte in either direction [default: 60s]
    #[arg(long, value_name = "TIME", value_parser = millis)]
    idle_timeout: Option<Millis>,
    /// Without a byte in either direction of a WebSocket [default: 1h]
    #[arg(long, value_name = "TIME", value_parser = millis)]
    websocket_idle_timeout: Option<Millis>,
}

fn millis(text: &str) -> Result<Millis, String> {
    let time: Duration = duration::parse(text)?;
    Millis::try_from(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

impl PutOptions {
    fn spec(&self) -> PoolSpec {
        let default = Timeouts::default();
        PoolSpec {
            protocol: if self.protocol == "h2c" { Protocol::H2c } else { Protocol::Http1 },
            strip_content_length: self.strip_content_length,
            timeouts: Timeouts {
                connect_ms: self.connect_timeout.unwrap_or(default.connect_ms),
                first_byte_ms: self.first_byte_timeout.unwrap_or(default.first_byte_ms),
                idle_ms: self.idle_timeout.unwrap_or(default.idle_ms),
                websocket_idle_ms: self.websocket_idle_timeout.unwrap_or(default.websocket_idle_ms),
            },
        }
    }
}

pub(super) async fn run(command: Command, api: &mut Api) -> anyhow::Result<Outcome> {
    match command {
        Command::List { json: true } => print_raw(api, "/v1/pools").await?,
        Command::List { json: false } => {
            let pools: view::Pools = api.get("/v1/pools").await?;
            print(&list(&pools.pools))?;
        }
        Command::Show { pool, json: true } => print_raw(api, &format!("/v1/pools/{pool}")).await?,
        Command::Show { pool, json: false } => {
            let pool: view::Pool = api.get(&format!("/v1/pools/{pool}")).await?;
            print_line(&format!("pool {}, {}", pool.name, pool.spec.protocol))?;
            print(&endpoint::list(&[pool]))?;
        }
        Command::Put(options) => {
            let applied =
                api.write(Method::PUT, &format!("/v1/pools/{}", options.pool), Some(json!(options.spec()))).await?;
            print_line(&format!("pool {}: applied at epoch {}", options.pool, applied.epoch))?;
        }
        Command::Delete { pool } => {
            let applied = api.write(Method::DELETE, &format!("/v1/pools/{pool}"), None).await?;
            print_line(&format!("pool {pool}: deleted at epoch {}", applied.epoch))?;
        }
    }
    Ok(Outcome::Done)
}

/// The answer as it came, and a newline.
pub(super) async fn print_raw(api: &mut Api, path: &str) -> anyhow::Result<()> {
    let body = api.get_raw(path).await?;
    print_line(&String::from_utf8_lossy(&body))
}

fn list(pools: &[view::Pool]) -> String {
    let mut table = Table::new(["POOL", "PROTOCOL", "ENDPOINTS", "REQUESTS", "WEBSOCKETS"]);
    for pool in pools {
        let active = pool.endpoints.iter().filter(|endpoint| endpoint.phase == "active").count();
        table.row([
            pool.name.clone(),
            pool.spec.protocol.clone(),
            format!("{active} of {} active", pool.endpoints.len()),
            pool.endpoints.iter().map(|endpoint| endpoint.requests).sum::<u64>().to_string(),
            pool.endpoints.iter().map(|endpoint| endpoint.websockets).sum::<u64>().to_string(),
        ]);
    }
    if table.is_empty() { "no pools yet: tidelock pool put NAME\n".into() } else { table.render() }
}
