//! `tidelock prestop`: what a pod runs before it stops.

use std::time::Duration;

use clap::Args;
use tidelock_core::spec::Address;
use tokio::time::Instant;

use super::client::Api;
use super::output::print_line;
use super::{Outcome, duration, view};

/// Between two tries when no node answers.
const AGAIN: Duration = Duration::from_millis(500);

#[derive(Args)]
pub(super) struct Options {
    /// Where the endpoint listens, as the fleet knows it: host:port
    #[arg(long, value_name = "HOST:PORT", env = "TIDELOCK_PRESTOP_ADDRESS")]
    address: Address,
    /// For all of it; below the pod's terminationGracePeriodSeconds
    #[arg(long, value_name = "TIME", value_parser = duration::parse, default_value = "25s")]
    timeout: Duration,
    /// WebSockets and event streams closed in a second [default: as many as the time needs, at least 50]
    #[arg(long, value_name = "PER-SECOND")]
    pace: Option<u32>,
}

pub(super) async fn run(options: Options, api: &mut Api) -> anyhow::Result<Outcome> {
    let Options { address, timeout, pace } = options;
    let end = Instant::now() + timeout;
    let pace = pace.map(|pace| format!("&pace={pace}")).unwrap_or_default();
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let seconds = left.as_secs().max(1);
        let path = format!("/v1/prestop?address={address}&timeout_seconds={seconds}{pace}");
        // Saying it twice is no harm: an endpoint that drains is waited for.
        match api.post_once(&path, None, left + Duration::from_secs(5)).await {
            Ok(answer) => {
                let prestop: view::Prestop = serde_json::from_slice(&answer)?;
                return told(&address, &prestop);
            }
            Err(failure) if failure.may_pass() && Instant::now() + AGAIN < end => {
                api.turn_to_next();
                tokio::time::sleep(AGAIN).await;
            }
            Err(failure) => return Err(failure.into()),
        }
    }
}

fn told(address: &Address, prestop: &view::Prestop) -> anyhow::Result<Outcome> {
    if prestop.safe {
        let text = if prestop.drains.is_empty() { "no pool has it" } else { "nothing is left on it" };
        print_line(&format!("{address}: safe to stop, {text}"))?;
        return Ok(Outcome::Done);
    }
    let left: u64 = prestop.drains.iter().map(|drain| drain.requests).sum();
    let missing: Vec<&str> = prestop.drains.iter().flat_map(|drain| drain.missing.iter().map(String::as_str)).collect();
    let missing = if missing.is_empty() { String::new() } else { format!(", not heard of: {}", missing.join(", ")) };
    print_line(&format!("{address}: {left} requests were left when the time was over{missing}"))?;
    Ok(Outcome::TimedOut)
}
