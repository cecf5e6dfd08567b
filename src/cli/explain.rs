//! `tidelock explain`: where a request would go, and why.

use clap::Args;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::client::Api;
use super::output::{Table, print, print_line};
use super::pool::print_raw;
use super::{Outcome, view};

#[derive(Args)]
pub(super) struct Options {
    /// The request's host and path: example.com/cart?id=7
    target: String,
    /// Its Cookie field
    #[arg(long)]
    cookie: Option<String>,
    /// One more field: "x-user: 7"
    #[arg(long)]
    header: Option<String>,
    /// The client's address
    #[arg(long)]
    client: Option<std::net::IpAddr>,
    /// Print the API's JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(options: Options, api: &mut Api) -> anyhow::Result<Outcome> {
    let at = options.target.find('/').unwrap_or(options.target.len());
    let (host, path) = options.target.split_at(at);
    let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let mut query = format!("/v1/explain?host={}", encoded(host));
    let client = options.client.map(|client| client.to_string());
    let path = Some(path.to_owned()).filter(|path| !path.is_empty());
    for (name, value) in [("path", path), ("cookie", options.cookie), ("header", options.header), ("client", client)] {
        if let Some(value) = value {
            query.push_str(&format!("&{name}={}", encoded(&value)));
        }
    }
    if options.json {
        print_raw(api, &query).await?;
        return Ok(Outcome::Done);
    }
    let explained: view::Explanation = api.get(&query).await?;
    print_line(&explained.verdict)?;
    let known = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
    print_line(&format!("route {}, placement {}", known(&explained.route), known(&explained.placement)))?;
    if let Some(pin) = explained.pin {
        let revoked = if pin.revoked { ", revoked" } else { "" };
        print_line(&format!("the session is pinned to {}{revoked}", known(&pin.endpoint)))?;
    }
    let mut table = Table::new(["ENDPOINT", "PHASE", "HEALTH", "NEW SESSIONS", "PINNED SESSIONS"]);
    let yes = |is: bool| if is { "yes" } else { "no" }.to_owned();
    for endpoint in explained.endpoints {
        let (new, pinned) = (yes(endpoint.takes_new_sessions), yes(endpoint.takes_pinned_sessions));
        table.row([endpoint.endpoint, endpoint.phase, endpoint.health, new, pinned]);
    }
    if !table.is_empty() {
        print(&table.render())?;
    }
    for node in explained.nodes.iter().filter(|node| node.same != Some(true)) {
        let why = if node.same.is_none() { "is not heard of" } else { "decides by another epoch" };
        print_line(&format!("node {} {why}", node.node))?;
    }
    Ok(Outcome::Done)
}
