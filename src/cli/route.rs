//! `tidelock route`.

use std::num::NonZeroU32;

use clap::{Args, Subcommand};
use http::Method;
use serde_json::json;
use tidelock_core::id::Name;
use tidelock_core::spec::{Affinity, HostPattern, PathPrefix, Profile, RouteSpec, SameSite, Strength, Token};

use super::client::{Api, Failure};
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
  query:NAME         a parameter of the query
  path-segment:N     the N-th segment of the path
  client-ip          the client's address
  none               nothing: the less busy of two endpoints

Examples:
  tidelock route put web --pool app
  tidelock route put shop --pool app --host *.example.com --path-prefix /shop --affinity app-cookie:_shop_key
  tidelock route put api --pool api --path-prefix /api --affinity header:x-user --expose
  tidelock route put live --pool app --path-prefix /live --strict --cookie-name app-node --cookie-max-age 1h")]
    Put(Box<PutOptions>),
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
    /// cookie, none, app-cookie:NAME, header:NAME, query:NAME, path-segment:N or client-ip
    #[arg(long, default_value = "cookie", value_parser = affinity)]
    affinity: Affinity,
    /// A session whose endpoint cannot be used now waits and is answered 503, rather than moved
    #[arg(long)]
    strict: bool,
    /// What kind of app it is. phoenix: LiveView and Channels; long polling and form uploads are strict,
    /// silent WebSockets are left open for at least 75 s
    #[arg(long, value_name = "APP", value_parser = profile)]
    profile: Option<Profile>,
    /// The name of our own cookie [default: tidelock]
    #[arg(long, value_name = "NAME", value_parser = token)]
    cookie_name: Option<Token>,
    /// The path of our own cookie [default: the path prefix]
    #[arg(long, value_name = "PATH", value_parser = path_prefix)]
    cookie_path: Option<PathPrefix>,
    /// For how long browsers keep our own cookie [default: until they end]
    #[arg(long, value_name = "TIME", value_parser = super::duration::parse)]
    cookie_max_age: Option<std::time::Duration>,
    /// SameSite of our own cookie [default: lax]
    #[arg(long, value_name = "POLICY", value_parser = ["strict", "lax", "none"])]
    cookie_same_site: Option<String>,
    /// Our own cookie is Secure also without TLS here, behind a balancer that ends it
    #[arg(long)]
    cookie_secure: bool,
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

fn token(name: &str) -> Result<Token, String> {
    Token::try_from(name.to_owned())
}

fn profile(name: &str) -> Result<Profile, String> {
    match name {
        "phoenix" => Ok(Profile::Phoenix),
        _ => Err("there is one profile: phoenix".into()),
    }
}

fn affinity(text: &str) -> Result<Affinity, String> {
    match text.split_once(':') {
        None if text == "cookie" => Ok(Affinity::default()),
        None if text == "none" => Ok(Affinity::None {}),
        Some(("app-cookie", name)) => Ok(Affinity::AppCookie { name: token(name)? }),
        Some(("header", name)) => Ok(Affinity::Header { name: token(name)? }),
        Some(("query", name)) => Ok(Affinity::Query { name: name.to_owned().try_into()? }),
        Some(("path-segment", number)) => {
            let number = number.parse().map_err(|_| format!("{number:?} is not a segment's number, 1 to 255"))?;
            Ok(Affinity::PathSegment { number })
        }
        None if text == "client-ip" => Ok(Affinity::ClientIp {}),
        _ => Err("use cookie, none, app-cookie:NAME, header:NAME, query:NAME, path-segment:N or client-ip".into()),
    }
}

impl PutOptions {
    fn spec(self) -> Result<(Name, RouteSpec), Failure> {
        let mut affinity = self.affinity;
        let asked = [
            self.cookie_name.is_some(),
            self.cookie_path.is_some(),
            self.cookie_max_age.is_some(),
            self.cookie_same_site.is_some(),
            self.cookie_secure,
        ];
        match &mut affinity {
            Affinity::Cookie(cookie) => {
                if let Some(name) = self.cookie_name {
                    cookie.name = name;
                }
                cookie.path = self.cookie_path;
                cookie.max_age_s = match self.cookie_max_age {
                    None => None,
                    Some(age) => {
                        let seconds = NonZeroU32::new(u32::try_from(age.as_secs()).unwrap_or(u32::MAX));
                        let short = || Failure::Mistake("--cookie-max-age is at least 1s".into());
                        Some(seconds.ok_or_else(short)?)
                    }
                };
                cookie.same_site = match self.cookie_same_site.as_deref() {
                    Some("strict") => SameSite::Strict,
                    Some("none") => SameSite::None,
                    _ => SameSite::Lax,
                };
                cookie.secure = self.cookie_secure;
            }
            _ if asked.contains(&true) => {
                return Err(Failure::Mistake("--cookie-... is about our own cookie: use --affinity cookie".into()));
            }
            _ => {}
        }
        let strength = if self.strict { Strength::Strict } else { Strength::Prefer };
        let PutOptions { route, pool, host, path_prefix, profile, expose, .. } = self;
        let spec = RouteSpec { host, path_prefix, pool, affinity, strength, profile, expose };
        spec.check().map_err(Failure::Mistake)?;
        Ok((route, spec))
    }
}

pub(super) async fn run(command: Command, api: &mut Api) -> anyhow::Result<Outcome> {
    match command {
        Command::List { json: true } => print_raw(api, "/v1/routes").await?,
        Command::List { json: false } => {
            let routes: view::Routes = api.get("/v1/routes").await?;
            print(&list(&routes.routes))?;
        }
        Command::Put(options) => {
            let (route, spec) = options.spec()?;
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
            affinity_of(&route.spec),
            if route.spec.expose { "yes" } else { "no" }.into(),
        ]);
    }
    if table.is_empty() { "no routes yet: tidelock route put NAME --pool POOL\n".into() } else { table.render() }
}

fn affinity_of(spec: &view::RouteSpec) -> String {
    let strict = if spec.strength == "strict" { ", strict" } else { "" };
    let profile = spec.profile.as_ref().map(|profile| format!(", {profile}")).unwrap_or_default();
    format!("{}{strict}{profile}", spec.affinity.show())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn affinities_are_written_as_they_are_shown() {
        for text in ["cookie", "none", "app-cookie:_key", "header:x-user", "query:room", "path-segment:2", "client-ip"]
        {
            let json = json!(affinity(text).unwrap());
            let shown: view::Affinity = serde_json::from_value(json).unwrap();
            assert_eq!(shown.show(), text);
        }
        for bad in ["", "cookies", "header", "header:", "header:a b", "none:x"] {
            assert!(affinity(bad).is_err(), "{bad:?}");
        }
    }
}
