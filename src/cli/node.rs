//! `tidelock node`.

use std::time::Duration;

use clap::Subcommand;
use http::Method;
use serde_json::json;

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
    /// Add a node that waits (its role is outsider), promote or demote one
    #[command(after_help = "\
A node learns first and votes when it has caught up; `tidelock node list` shows how far it is. A node that has the
fleet's secret and names a node of the fleet in fleet.join waits to be added, as does one that came back with an
empty data directory.

Examples:
  tidelock node put d --role voter
  tidelock node put 8d1f0c3a5b7e9d20 --role learner")]
    Put {
        /// Its name, or its id
        node: String,
        #[arg(long, value_parser = ["voter", "learner"])]
        role: String,
    },
    /// Remove a node for good: its id is not used again
    #[command(after_help = "\
Replace a dead node: add the new one as voter, remove the dead one. The leader does both in one step as soon as the new
one has caught up, and takes no step that would leave the fleet without a majority.")]
    Remove {
        /// Its name, or its id
        node: String,
    },
    /// Let a voter lead; to be asked of the leader
    Lead {
        /// Its name, or its id
        node: String,
    },
    /// Make a token by which one node joins the fleet (fleet.join_token_file)
    JoinToken {
        #[arg(long, value_parser = ["voter", "learner"])]
        role: String,
        /// For how long it is good [default: 1h]
        #[arg(long, value_name = "TIME", value_parser = super::duration::parse)]
        ttl: Option<Duration>,
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
        Command::Put { node, role } => {
            let body = Some(json!({ "role": role }));
            let applied = api.write(Method::PUT, &format!("/v1/nodes/{node}"), body).await?;
            print_line(&format!("node {node}: shall be a {role} from epoch {} on", applied.epoch))?;
        }
        Command::Remove { node } => {
            let applied = api.write(Method::DELETE, &format!("/v1/nodes/{node}"), None).await?;
            print_line(&format!("node {node}: shall be gone from epoch {} on", applied.epoch))?;
        }
        Command::Lead { node } => {
            api.post_once(&format!("/v1/nodes/{node}/lead"), None, ANSWER).await?;
            print_line(&format!("node {node} was asked to lead"))?;
        }
        Command::JoinToken { role, ttl } => {
            let seconds = ttl.map_or(3_600, |ttl| ttl.as_secs().max(1));
            let wish = json!({ "role": role, "ttl_seconds": seconds });
            let made = api.post_once("/v1/join-tokens", Some(wish), ANSWER).await?;
            let made: serde_json::Value = serde_json::from_slice(&made)?;
            print_line(made["token"].as_str().unwrap_or_default())?;
        }
        Command::Leave { wait: false } => {
            api.post_once("/v1/nodes/self/leave", None, ANSWER).await?;
            print_line(&format!("the node at {} is leaving", api.url()))?;
        }
        Command::Leave { wait: true } => {
            api.post_once("/v1/nodes/self/leave?wait=true", None, LEAVE).await?;
            print_line(&format!("the node at {} has left", api.url()))?;
        }
    }
    Ok(Outcome::Done)
}

pub(super) fn list(nodes: &[view::Node]) -> String {
    let mut table = Table::new(["NODE", "ROLE", "WANTED", "STATE", "EPOCH", "VERSION", "ADMIN", "ID"]);
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
            node.wanted.clone().unwrap_or_else(|| "-".into()),
            state.into(),
            node.epoch.map_or_else(|| "-".into(), |epoch| epoch.to_string()),
            node.version.clone().unwrap_or_else(|| "-".into()),
            node.admin.clone().unwrap_or_else(|| "-".into()),
            node.id.clone(),
        ]);
    }
    format!("{}* answered this\n", table.render())
}
