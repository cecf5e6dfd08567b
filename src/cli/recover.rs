//! `tidelock recover`: out of a lost majority, by hand.

use std::path::PathBuf;

use clap::Args;
use tidelock_control_plane::recovery::Plan;
use tidelock_core::id::NodeId;

use super::Outcome;
use super::client::Failure;
use super::output::print_line;

#[derive(Args)]
pub(super) struct Options {
    /// The node's data directory; the node must not run
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// The id of the node that goes on alone, as this command shows it without the option
    #[arg(long, value_name = "ID")]
    confirm: Option<NodeId>,
}

pub(super) fn run(options: Options) -> anyhow::Result<Outcome> {
    let data_dir = options.data_dir.display();
    let plan = Plan::read(&options.data_dir).map_err(|error| Failure::Mistake(error.to_string()))?;
    let node = plan.node();
    let lost: Vec<String> = plan.lost().iter().map(ToString::to_string).collect();
    let lost = if lost.is_empty() { "none".to_owned() } else { lost.join(", ") };
    match options.confirm {
        None => {
            let (last, commit) = plan.last();
            print_line(&format!(
                "\
node             {node}
last entry       {last}, known to be committed up to {commit}
other members    {lost}

This node would go on alone, with all entries of its log, and the others would be removed for good. Do it only when
a majority of the voters is lost: writes that only they have are lost with them, and if they come back under the same
secret there are two fleets. Of several survivors take the one with the highest last entry.

  1. tidelock recover --data-dir {data_dir} --confirm {node}
  2. Give it a new fleet secret (fleet.secret_file), so that none of the others can reach it, and start it.
  3. Start the others with the new secret, empty data directories and fleet.join, and add them:
     tidelock node put NAME --role voter

Nothing has been changed."
            ))?;
            Ok(Outcome::Refused)
        }
        Some(confirmed) if confirmed != node => {
            let reason = format!("{data_dir} belongs to node {node}, not to {confirmed}: nothing has been changed");
            Err(Failure::Mistake(reason).into())
        }
        Some(_) => {
            plan.carry_out().map_err(|error| Failure::Mistake(error.to_string()))?;
            print_line(&format!(
                "node {node} is a fleet of one now; removed: {lost}. Give it a new fleet secret before you start it."
            ))?;
            Ok(Outcome::Done)
        }
    }
}
