//! `tidelock status` and `tidelock top`: the same picture, once or each second.

use std::io::IsTerminal;
use std::time::Duration;

use clap::Args;

use super::client::{Api, Failure};
use super::output::{print, print_line};
use super::pool::print_raw;
use super::{Outcome, drain, endpoint, node, route, view};

const REDRAW: Duration = Duration::from_secs(1);

#[derive(Args)]
pub(super) struct StatusOptions {
    /// Print the API's JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(options: StatusOptions, api: &mut Api) -> anyhow::Result<Outcome> {
    if options.json {
        print_raw(api, "/v1/status").await?;
    } else {
        let status: view::Status = api.get("/v1/status").await?;
        print(&picture(&status))?;
    }
    Ok(Outcome::Done)
}

pub(super) async fn top(api: &mut Api) -> anyhow::Result<Outcome> {
    if !std::io::stdout().is_terminal() {
        return run(StatusOptions { json: false }, api).await;
    }
    // The alternate screen, without a cursor: the terminal is as it was afterwards.
    print("\x1b[?1049h\x1b[?25l")?;
    let ended = tokio::select! {
        ended = redraw(api) => ended,
        _ = tokio::signal::ctrl_c() => Ok(()),
    };
    print("\x1b[?25h\x1b[?1049l")?;
    ended.map(|()| Outcome::Done)
}

async fn redraw(api: &mut Api) -> anyhow::Result<()> {
    let mut interval = tokio::time::interval(REDRAW);
    loop {
        interval.tick().await;
        let text = match api.get::<view::Status>("/v1/status").await {
            Ok(status) => picture(&status),
            // A node that restarts comes back; the picture says so meanwhile.
            Err(failure @ (Failure::Unreachable { .. } | Failure::Unknown(_))) => format!("{failure}\n"),
            Err(failure) => return Err(failure.into()),
        };
        let lines: String = text.lines().map(|line| format!("{line}\x1b[K\n")).collect();
        print(&format!("\x1b[H{lines}\x1b[J"))?;
        print_line("Ctrl-C leaves")?;
    }
}

fn picture(status: &view::Status) -> String {
    let leader = match (&status.leader, status.quorum) {
        (Some(leader), true) => format!("leader {leader}"),
        (_, false) => "NO QUORUM: traffic goes on with the last table, changes do not".into(),
        (None, true) => "no leader at the moment".into(),
    };
    let away = status.nodes.iter().filter(|node| !node.reachable).count();
    let away = if away == 0 { String::new() } else { format!(", {away} away") };
    let heading =
        format!("epoch {}, {} nodes{away}, {leader} (asked {})\n", status.epoch, status.nodes.len(), status.node);
    let under_way: Vec<_> = status.drains.iter().filter(|drain| drain.state == "draining").collect();
    let mut parts =
        vec![heading, node::list(&status.nodes), endpoint::list(&status.pools), route::list(&status.routes)];
    if !under_way.is_empty() {
        parts.push(drain::list(&status.drains));
    }
    parts.join("\n")
}
