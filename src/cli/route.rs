//! `tidelock route`.

use clap::{Args, Subcommand};
use http::Method;
use serde_json::json;
use tidelock_core::id::Name;
use tidelock_core::spec::{Affinity, HostPattern, PathPrefix, RouteSpec, Token};

use super::client::Api;
use super::output::{Table, print, print_line};
use super::pool::print_raw;
use super::{Outcome, view};

#[derive(Subcommand)]
pub(super) enum Command {
    /// All routes
    List {
        /// Print the API's JSON
        #[arg(long)]
        json: bool,
    },
    /// Make a route, or replace it
    #[command(after_help = "\
Affinity keeps the requests of a session on one endpoint:
  cookie             our own sealed cookie
  app-cookie:NAME    a cookie that the app sets
  header:NAME        a request header
  none               nothing: the less busy of two endpoints

Examples:
  tidelock route put web --pool app
  tidelock route put shop --pool app --host *.example.com --path-prefix /shop --affinity app-cookie:_shop_key
  tidelock route put api --pool api --path-prefix /api --affinity header:x-user --expose")]
    Put(PutOptions),
    /// Remove a route; its requests are answered 404, unless another route takes them
    Delete { route: Name },
}

#[derive(Args)]
pub(super) struct PutOptions {
    route: Name,
    /// The pool that serves it
    #[arg(long)]
    pool: Name,
    /// example.com, or *.example.com for one more label; without it, every host
    #[arg(long, value_parser = host)]
    host: Option<HostPattern>,
    /// Whole segments that the path begins with
    #[arg(long, value_name = "PATH", default_value = "/", value_parser = path_prefix)]
    path_prefix: PathPrefix,
    /// cookie, none, app-cookie:NAME or header:NAME
    #[arg(long, default_value = "cookie", value_parser = affinity)]
    affinity: Affinity,
    /// Tell clients in headers which endpoint served them
    #[arg(long)]
    expose: bool,
}

fn host(text: &str) -> Result<HostPattern, String> {
    HostPattern::try_from(text.to_owned())
}

fn path_prefix(text: &str) -> Result<PathPrefix, String> {
    PathPrefix::try_from(text.to_owned())
}

fn affinity(text: &str) -> Result<Affinity, String> {
    let token = |name: &str| Token::try_from(name.to_owned());
    match text.split_once(':') {
        None if text == "cookie" => Ok(Affinity::Cookie),
        None if text == "none" => Ok(Affinity::None {}),
        Some(("app-cookie", name)) => Ok(Affinity::AppCookie { name: token(name)? }),
        Some(("header", name)) => Ok(Affinity::Header { name: token(name)? }),
        _ => Err("use cookie, none, app-cookie:NAME or header:NAME".into()),
    }
}

pub(super) async fn run(command: Command, api: &mut Api) -> anyhow::Result<Outcome> {
    match command {
        Command::List { json: true } => print_raw(api, "/v1/routes").await?,
        Command::List { json: false } => {
            let routes: view::Routes = api.get("/v1/routes").await?;
            print(&list(&routes.routes))?;
        }
        Command::Put(PutOptions { route, pool, host, path_prefix, affinity, expose }) => {
            let spec = RouteSpec { host, path_prefix, pool, affinity, expose };
            let applied = api.write(Method::PUT, &format!("/v1/routes/{route}"), Some(json!(spec))).await?;
            print_line(&format!("route {route}: applied at epoch {}", applied.epoch))?;
        }
        Command::Delete { route } => {
            let applied = api.write(Method::DELETE, &format!("/v1/routes/{route}"), None).await?;
            print_line(&format!("route {route}: deleted at epoch {}", applied.epoch))?;
        }
    }
    Ok(Outcome::Done)
}

pub(super) fn list(routes: &[view::Route]) -> String {
    let mut table = Table::new(["ROUTE", "HOST", "PATH", "POOL", "AFFINITY", "EXPOSE"]);
    for route in routes {
        table.row([
            route.name.clone(),
            route.spec.host.clone().unwrap_or_else(|| "any".into()),
            route.spec.path_prefix.clone(),
            route.spec.pool.clone(),
            route.spec.affinity.show(),
            if route.spec.expose { "yes" } else { "no" }.into(),
        ]);
    }
    if table.is_empty() { "no routes yet: tidelock route put NAME --pool POOL\n".into() } else { table.render() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn affinities_are_written_as_they_are_shown() {
        for text in ["cookie", "none", "app-cookie:_key", "header:x-user"] {
            let json = json!(affinity(text).unwrap());
            let shown: view::Affinity = serde_json::from_value(json).unwrap();
            assert_eq!(shown.show(), text);
        }
        for bad in ["", "cookies", "header", "header:", "header:a b", "none:x"] {
            assert!(affinity(bad).is_err(), "{bad:?}");
        }
    }
}
