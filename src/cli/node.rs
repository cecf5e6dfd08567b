//! `tidelock node`.

use std::time::Duration;

use clap::Subcommand;

use super::Outcome;
use super::client::Api;
use super::output::{Table, print, print_line};
use super::pool::print_raw;
use super::view;

/// Longer than any `drain.deadline_ms`: the node's own deadline ends the wait.
const LEAVE: Duration = Duration::from_secs(86_400 + 60);
const ANSWER: Duration = Duration::from_secs(30);

#[derive(Subcommand)]
pub(super) enum Command {
    /// The nodes of the fleet, as the asked one sees them
    List {
        /// Print the API's JSON
        #[arg(long)]
        json: bool,
    },
    /// Let the node at --api leave: it stops taking connections, finishes what runs, and exits
    #[command(after_help = "\
Examples:
  tidelock node leave --wait
  tidelock node leave --api http://10.0.0.1:9900")]
    Leave {
        /// Return when it has drained itself, or its own deadline is over
        #[arg(long)]
        wait: bool,
    },
}

pub(super) async fn run(command: Command, api: &mut Api) -> anyhow::Result<Outcome> {
    match command {
        Command::List { json: true } => print_raw(api, "/v1/nodes").await?,
        Command::List { json: false } => {
            let nodes: view::Nodes = api.get("/v1/nodes").await?;
            print(&list(&nodes.nodes))?;
        }
        Command::Leave { wait: false } => {
            api.post_once("/v1/nodes/self/leave", ANSWER).await?;
            print_line(&format!("the node at {} is leaving", api.url()))?;
        }
        Command::Leave { wait: true } => {
            api.post_once("/v1/nodes/self/leave?wait=true", LEAVE).await?;
            print_line(&format!("the node at {} has left", api.url()))?;
        }
    }
    Ok(Outcome::Done)
}

pub(super) fn list(nodes: &[view::Node]) -> String {
    let mut table = Table::new(["NODE", "ROLE", "STATE", "EPOCH", "VERSION", "ADMIN", "ID"]);
    for node in nodes {
        let state = match (node.reachable, node.leaving) {
            (false, _) => "away",
            (true, true) => "leaving",
            (true, false) => "ok",
        };
        let name = if node.is_self { format!("{} *", node.name) } else { node.name.clone() };
        table.row([
            name,
            node.role.clone(),
            state.into(),
            node.epoch.map_or_else(|| "-".into(), |epoch| epoch.to_string()),
            node.version.clone().unwrap_or_else(|| "-".into()),
            node.admin.clone().unwrap_or_else(|| "-".into()),
            node.id.clone(),
        ]);
    }
    format!("{}* answered this\n", table.render())
}
