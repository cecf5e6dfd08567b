//! `tidelock keys` and `tidelock pins`: what holds sessions.

use clap::Subcommand;
use http::Method;
use tidelock_core::id::Name;

use super::client::Api;
use super::output::{Table, print, print_line};
use super::pool::print_raw;
use super::{Outcome, view};

#[derive(Subcommand)]
pub(super) enum Keys {
    /// The keys that seal cookies, without their secrets
    List {
        /// Print the API's JSON
        #[arg(long)]
        json: bool,
    },
    /// Make a new key; it seals when every member of the fleet has it, and no session notices
    Rotate,
}

#[derive(Subcommand)]
pub(super) enum Pins {
    /// Place sessions anew: pins that were given until now count no more
    #[command(after_help = "\
Examples:
  tidelock pins revoke app
  tidelock pins revoke app app-1")]
    Revoke {
        pool: Name,
        /// Those that live there; without it, all of the pool
        endpoint: Option<Name>,
    },
}

pub(super) async fn keys(command: Keys, api: &mut Api) -> anyhow::Result<Outcome> {
    match command {
        Keys::List { json: true } => print_raw(api, "/v1/cookie-keys").await?,
        Keys::List { json: false } => {
            let keys: view::CookieKeys = api.get("/v1/cookie-keys").await?;
            let mut table = Table::new(["KEY", "STATE", "WAITS FOR"]);
            for key in keys.keys {
                let missing = if key.missing.is_empty() { "-".into() } else { key.missing.join(",") };
                table.row([key.id.to_string(), key.state, missing]);
            }
            print(&table.render())?;
        }
        Keys::Rotate => {
            let applied = api.write(Method::POST, "/v1/cookie-keys", None).await?;
            print_line(&format!("a new key at epoch {}; it seals when every member has it", applied.epoch))?;
        }
    }
    Ok(Outcome::Done)
}

pub(super) async fn pins(command: Pins, api: &mut Api) -> anyhow::Result<Outcome> {
    let Pins::Revoke { pool, endpoint } = command;
    let of = endpoint.as_ref().map(|endpoint| format!("&endpoint={endpoint}")).unwrap_or_default();
    let applied = api.write(Method::DELETE, &format!("/v1/pins?pool={pool}{of}"), None).await?;
    print_line(&format!("pins of {pool}: revoked at epoch {}", applied.epoch))?;
    Ok(Outcome::Done)
}
