//! `tidelock pool`.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use http::Method;
use serde_json::json;
use tidelock_core::id::Name;
use tidelock_core::spec::{
    Authorities, Check, EndpointLimits, EndpointTls, HealthSpec, HoldMillis, HoldSpec, Millis, PoolSpec, Protocol,
    ServerName, Timeouts, Verify,
};

use super::client::{Api, Failure};
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
  tidelock pool put app --protocol h2 --tls-authorities ca.pem --tls-server-name app.internal
  tidelock pool put app --check http:/healthz --slow-start 30s
  tidelock pool put reports --first-byte-timeout 5m --max-requests 20")]
    Put(Box<PutOptions>),
    /// Remove a pool with its endpoints; refused while a route uses it
    Delete { pool: Name },
}

#[derive(Args)]
pub(super) struct PutOptions {
    pool: Name,
    /// What the endpoints speak: HTTP/1.1, HTTP/2 in cleartext, HTTP/2 over TLS, or whichever each agrees to over TLS
    #[arg(long, value_parser = ["http1", "h2c", "h2", "auto"], default_value = "http1")]
    protocol: String,
    /// Speak TLS to the endpoints; h2, auto and the --tls-* options imply it
    #[arg(long)]
    tls: bool,
    /// PEM file of those who may have signed the endpoints' certificates [default: the public authorities]
    #[arg(long, value_name = "FILE")]
    tls_authorities: Option<PathBuf>,
    /// The name that is asked for and must be in the certificate [default: the host of each address]
    #[arg(long, value_name = "NAME", value_parser = server_name)]
    tls_server_name: Option<ServerName>,
    /// Take any certificate: whoever can answer at the address is believed
    #[arg(long)]
    tls_no_verify: bool,
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
    /// For all of a request, from its head to the end of its response; not of a WebSocket [default: no limit]
    #[arg(long, value_name = "TIME", value_parser = millis)]
    total_timeout: Option<Millis>,
    /// For which an HTTP/1.1 connection is kept without a request; below the endpoints' own [default: 50s]
    #[arg(long, value_name = "TIME", value_parser = millis)]
    keep_alive: Option<Millis>,
    /// From which on a connection takes no new request [default: 1h]
    #[arg(long, value_name = "TIME", value_parser = millis)]
    connection_age: Option<Millis>,
    /// Check the endpoints: tcp, http:/PATH or grpc, grpc:SERVICE [default: not at all]
    #[arg(long, value_name = "CHECK", value_parser = check)]
    check: Option<Check>,
    /// Between two checks of one node [default: 5s]
    #[arg(long, value_name = "TIME", value_parser = millis, requires = "check")]
    check_interval: Option<Millis>,
    /// For a check to pass [default: 2s]
    #[arg(long, value_name = "TIME", value_parser = millis, requires = "check")]
    check_timeout: Option<Millis>,
    /// Over which an endpoint that is new, or up again, gets to its share [default: at once]
    #[arg(long, value_name = "TIME", value_parser = millis, requires = "check")]
    slow_start: Option<Millis>,
    /// Connections of one node to one endpoint [default: no limit]
    #[arg(long, value_name = "N")]
    max_connections: Option<NonZeroU32>,
    /// Requests of one node in flight at one endpoint [default: no limit]
    #[arg(long, value_name = "N")]
    max_requests: Option<NonZeroU32>,
    /// Requests of one node that wait for one endpoint [default: 1024]
    #[arg(long, value_name = "N")]
    max_pending: Option<u32>,
    /// WebSockets that begin in a second at one endpoint, through one node [default: no limit]
    #[arg(long, value_name = "N")]
    max_websockets_per_second: Option<NonZeroU32>,
    /// Requests wait this long for an endpoint while there is none, then 503; 0s answers at once [default: 2s]
    #[arg(long, value_name = "TIME", value_parser = hold)]
    hold: Option<HoldMillis>,
    /// Requests of one node that wait for an endpoint [default: 1024]
    #[arg(long, value_name = "N")]
    max_held: Option<u32>,
    /// Endpoints may answer that a request is another one's (tidelock-route-to: node=NAME or key=KEY)
    #[arg(long)]
    route_to: bool,
}

fn hold(text: &str) -> Result<HoldMillis, String> {
    let time = if text.trim_end_matches(char::is_alphabetic) == "0" { Duration::ZERO } else { duration::parse(text)? };
    HoldMillis::try_from(u32::try_from(time.as_millis()).unwrap_or(u32::MAX))
}

/// `tcp`, `http:/healthz`, `grpc`, `grpc:SERVICE`.
fn check(text: &str) -> Result<Check, String> {
    match text.split_once(':').unwrap_or((text, "")) {
        ("tcp", "") => Ok(Check::Tcp {}),
        ("http", path) => Ok(Check::Http { path: path.to_owned().try_into()?, host: None, status: None }),
        ("grpc", service) => Ok(Check::Grpc { service: service.to_owned().try_into()? }),
        _ => Err("write tcp, http:/PATH, grpc or grpc:SERVICE".to_owned()),
    }
}

fn server_name(text: &str) -> Result<ServerName, String> {
    text.to_owned().try_into()
}

fn millis(text: &str) -> Result<Millis, String> {
    let time: Duration = duration::parse(text)?;
    Millis::try_from(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

impl PutOptions {
    fn spec(&self) -> anyhow::Result<PoolSpec> {
        let default = Timeouts::default();
        let protocol = match self.protocol.as_str() {
            "h2c" => Protocol::H2c,
            "h2" => Protocol::H2,
            "auto" => Protocol::Auto,
            _ => Protocol::Http1,
        };
        let spec = PoolSpec {
            protocol,
            strip_content_length: self.strip_content_length,
            timeouts: Timeouts {
                connect_ms: self.connect_timeout.unwrap_or(default.connect_ms),
                first_byte_ms: self.first_byte_timeout.unwrap_or(default.first_byte_ms),
                idle_ms: self.idle_timeout.unwrap_or(default.idle_ms),
                websocket_idle_ms: self.websocket_idle_timeout.unwrap_or(default.websocket_idle_ms),
                total_ms: self.total_timeout,
                keep_alive_ms: self.keep_alive,
                connection_age_ms: self.connection_age,
            },
            tls: self.endpoint_tls(protocol)?,
            health: self.check.clone().map(|check| {
                let default = HealthSpec::new(check);
                HealthSpec {
                    interval_ms: self.check_interval.unwrap_or(default.interval_ms),
                    timeout_ms: self.check_timeout.unwrap_or(default.timeout_ms),
                    slow_start_ms: self.slow_start,
                    ..default
                }
            }),
            limits: EndpointLimits {
                max_connections: self.max_connections,
                max_requests: self.max_requests,
                max_pending: self.max_pending.unwrap_or(EndpointLimits::default().max_pending),
                max_websockets_per_second: self.max_websockets_per_second,
            },
            route_to: self.route_to,
            hold: HoldSpec {
                max_ms: self.hold.unwrap_or(HoldSpec::default().max_ms),
                max_requests: self.max_held.unwrap_or(HoldSpec::default().max_requests),
            },
        };
        spec.check().map_err(Failure::Mistake)?;
        Ok(spec)
    }

    fn endpoint_tls(&self, protocol: Protocol) -> anyhow::Result<Option<EndpointTls>> {
        let is_asked =
            self.tls || self.tls_no_verify || self.tls_authorities.is_some() || self.tls_server_name.is_some();
        if !is_asked && !matches!(protocol, Protocol::H2 | Protocol::Auto) {
            return Ok(None);
        }
        let authorities = self.tls_authorities.as_ref().map(|path| {
            let read = std::fs::read_to_string(path).map_err(|error| error.to_string()).and_then(Authorities::try_from);
            read.map_err(|reason| Failure::Mistake(format!("{}: {reason}", path.display())))
        });
        Ok(Some(EndpointTls {
            authorities: authorities.transpose()?,
            server_name: self.tls_server_name.clone(),
            verify: if self.tls_no_verify { Verify::None } else { Verify::Full },
        }))
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
            let spec = json!(options.spec()?);
            let applied = api.write(Method::PUT, &format!("/v1/pools/{}", options.pool), Some(spec)).await?;
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
