//! `tidelock check-config`: the problems of a configuration, or what it would run.

use tidelock_core::command::Command;

use super::output::print;
use super::{ConfigOptions, Outcome};
use crate::config::{AccessLog, Config};

pub(super) fn run(options: ConfigOptions) -> anyhow::Result<Outcome> {
    match options.load() {
        Ok(config) => {
            print(&summary(&config))?;
            Ok(Outcome::Done)
        }
        Err(problems) => {
            let count = problems.len();
            eprintln!("{problems}\n{count} problem{}", if count == 1 { "" } else { "s" });
            Ok(Outcome::Mistaken)
        }
    }
}

fn summary(config: &Config) -> String {
    let node = &config.node;
    let mut lines =
        vec![format!("node      {}, {} workers, data in {}", node.name, node.workers, node.data_dir.display())];
    lines.push(match &config.fleet {
        None => "fleet     of one".into(),
        Some(fleet) => {
            let founders: Vec<&str> = fleet.founders.iter().map(|founder| founder.as_str()).collect();
            format!("fleet     {}, reached as {}, founded by {}", fleet.listen, fleet.advertise, founders.join(", "))
        }
    });
    let token = if config.admin.token.is_some() { "with a token" } else { "without a token" };
    lines.push(format!("admin     http://{} {token}", config.admin.listen));
    for listener in &config.listeners {
        let scheme = if listener.tls.is_some() { "https" } else { "http" };
        lines.push(format!("listener  {scheme}://{}", listener.address));
    }
    let access_log = match config.access_log {
        AccessLog::Json => "JSON on standard output",
        AccessLog::Off => "off",
    };
    lines.push(format!("access    {access_log}"));
    let drain = config.drain;
    lines.push(format!("leaving   {:?} to settle, at most {:?} in all", drain.settle, drain.deadline));
    let count = |kind: fn(&Command) -> bool| config.initial.commands.iter().filter(|command| kind(command)).count();
    let pools = count(|command| matches!(command, Command::PutPool { .. }));
    let endpoints = count(|command| matches!(command, Command::PutEndpoint { .. }));
    let routes = count(|command| matches!(command, Command::PutRoute { .. }));
    if pools + routes > 0 {
        lines.push(format!("initial   {pools} pools, {endpoints} endpoints, {routes} routes, for an empty fleet"));
    }
    lines.push("ok".into());
    lines.iter().map(|line| format!("{line}\n")).collect()
}
