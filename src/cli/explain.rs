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
    print_nodes(explained.agree, &explained.nodes)?;
    Ok(Outcome::Done)
}

/// One line if all nodes would do that and find the same up, else what each says.
fn print_nodes(agree: Option<bool>, nodes: &[view::NodeExplains]) -> anyhow::Result<()> {
    let finds_all_up =
        |node: &view::NodeExplains| node.explains.as_ref().is_some_and(|says| says.finds_down.is_empty());
    if agree == Some(true) && nodes.iter().all(finds_all_up) {
        return match nodes.len() {
            1 => print_line("the fleet is this node alone"),
            count => print_line(&format!("all {count} nodes agree")),
        };
    }
    print_line(match agree {
        Some(true) => "the nodes agree",
        Some(false) => "the nodes do not agree:",
        None => "the nodes that were reached agree",
    })?;
    let mut table = Table::new(["NODE", "EPOCH", "ENDPOINT", "PLACEMENT", "FINDS DOWN", "WHY"]);
    let known = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
    for node in nodes {
        let epoch = node.epoch.map_or_else(|| "-".into(), |epoch| epoch.to_string());
        let name = node.node.clone();
        match &node.explains {
            Some(says) => {
                let down = Some(says.finds_down.join(" ")).filter(|down| !down.is_empty());
                let verdict = says.verdict.clone();
                table.row([name, epoch, known(&says.endpoint), known(&says.placement), known(&down), verdict]);
            }
            None => {
                let why = format!("not reached: {}", known(&node.not_reached));
                table.row([name, epoch, "-".into(), "-".into(), "-".into(), why]);
            }
        }
    }
    print(&table.render())
}
