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
use super::wait::now_ms;

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
    /// Make a token by which one node joins the fleet (fleet.join_token_file), list or revoke them
    #[command(
        args_conflicts_with_subcommands = true,
        subcommand_negates_reqs = true,
        after_help = "\
Examples:
  tidelock node join-token --role voter
  tidelock node join-token list
  tidelock node join-token revoke 3fa1b2c4d5e6"
    )]
    JoinToken {
        #[command(subcommand)]
        command: Option<JoinToken>,
        #[arg(long, value_parser = ["voter", "learner"], required = true)]
        role: Option<String>,
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

#[derive(Subcommand)]
pub(super) enum JoinToken {
    /// The tokens that are out and still good; the tokens themselves are not kept anywhere
    List,
    /// Take a token back; a node that it has let in already stays
    Revoke {
        /// As the list shows it
        id: String,
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
        Command::JoinToken { command: Some(JoinToken::List), .. } => {
            let tokens: view::JoinTokens = api.get("/v1/join-tokens").await?;
            print(&join_tokens(&tokens.tokens, now_ms()))?;
        }
        Command::JoinToken { command: Some(JoinToken::Revoke { id }), .. } => {
            let applied = api.write(Method::DELETE, &format!("/v1/join-tokens/{id}"), None).await?;
            print_line(&format!("join token {id}: revoked at epoch {}", applied.epoch))?;
        }
        Command::JoinToken { command: None, role, ttl } => {
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

fn join_tokens(tokens: &[view::JoinToken], now_ms: u64) -> String {
    let mut table = Table::new(["ID", "ROLE", "GOOD FOR"]);
    for token in tokens {
        let seconds = token.expires_ms.saturating_sub(now_ms) / 1_000;
        let left = match seconds {
            0..60 => format!("{seconds}s"),
            60..3_600 => format!("{}m", seconds / 60),
            _ => format!("{}h", seconds / 3_600),
        };
        table.row([token.id.clone(), token.role.clone(), left]);
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(subcommand)]
        command: Command,
    }

    fn parse(line: &str) -> Result<Command, clap::Error> {
        Line::try_parse_from(line.split(' ')).map(|line| line.command)
    }

    #[test]
    fn a_join_token_is_made_with_a_role_and_listed_without() {
        assert!(matches!(
            parse("node join-token --role voter"),
            Ok(Command::JoinToken { command: None, role: Some(role), .. }) if role == "voter"
        ));
        assert!(parse("node join-token").is_err(), "a token has a role");
        assert!(matches!(parse("node join-token list"), Ok(Command::JoinToken { command: Some(JoinToken::List), .. })));
        assert!(parse("node join-token list --role voter").is_err());
        assert!(parse("node join-token revoke 3fa1b2c4d5e6").is_ok());
    }

    #[test]
    fn join_tokens_are_shown_with_the_time_they_are_good_for() {
        let token = |id: &str, expires_ms| view::JoinToken { id: id.into(), role: "voter".into(), expires_ms };
        let shown = join_tokens(&[token("aa", 60_000), token("bb", 3_700_000), token("cc", 9_000_000)], 50_000);
        let rows: Vec<Vec<&str>> = shown.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows, [["aa", "voter", "10s"], ["bb", "voter", "1h"], ["cc", "voter", "2h"]]);
    }
}
