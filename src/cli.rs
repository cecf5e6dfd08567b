//! The command line: what can be typed, and which function answers it. Commands other than
//! `serve`, `demo` and `check-config` are clients of the admin API and know nothing of a node's
//! inside.

mod apply;
mod check_config;
pub(crate) mod client;
mod drain;
mod duration;
mod endpoint;
mod explain;
mod node;
mod output;
mod pool;
mod prestop;
mod recover;
mod route;
mod sessions;
mod status;
mod switchover;
mod view;
mod wait;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::{Config, Environment, Flags};
use crate::{demo, demo_endpoint};
use client::{Api, Failure};

#[derive(Parser)]
#[command(
    name = "tidelock",
    version,
    about = "A load balancer that keeps every session on its endpoint and drains without breaking a stream",
    propagate_version = true,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "\
Examples:
  tidelock demo                                    three nodes and three endpoints on this machine
  tidelock serve --config tidelock.toml            run a node
  tidelock pool put app --protocol h2c             what the endpoints speak
  tidelock endpoint put app app-1 --address 10.0.0.5:4000
  tidelock route put web --pool app --host example.com
  tidelock endpoint drain app app-1 --wait         empty an endpoint, return when it is safe to stop
  tidelock switchover start app --from-revision v1 --to-revision v2 --wait
  tidelock top                                     watch it

Exit codes:
  0  done
  1  refused: the answer says why, and nothing has changed
  2  a mistake in the command or in a file
  3  a wait ended with something left
  4  no node was reached, or it is not known whether a change has happened"
)]
struct Cli {
    #[command(flatten)]
    api: ApiOptions,
    #[command(subcommand)]
    command: Command,
}

/// How to reach the admin API.
#[derive(Args)]
struct ApiOptions {
    /// The admin API of any node; of several, separated by commas, the first that answers is asked
    #[arg(
        long,
        global = true,
        env = "TIDELOCK_API",
        value_name = "URL",
        default_value = "http://127.0.0.1:9900",
        value_delimiter = ',',
        help_heading = "Admin API"
    )]
    api: Vec<String>,
    /// A file with the bearer token; the variable TIDELOCK_TOKEN holds the token itself
    #[arg(long, global = true, value_name = "FILE", help_heading = "Admin API")]
    token_file: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// Run one node of the fleet
    #[command(after_help = "\
The configuration is a file, then TIDELOCK_<SECTION>_<FIELD> in the environment, then flags; the last one wins.

Examples:
  tidelock serve --config /etc/tidelock/tidelock.toml
  TIDELOCK_NODE_NAME=b tidelock serve --config tidelock.toml --admin-listen 127.0.0.1:9901
  tidelock serve                                   a fleet of one on port 8080, admin on 127.0.0.1:9900")]
    Serve(ServeOptions),
    /// Say what is wrong with a configuration, or what it would run
    #[command(after_help = "\
Reads the file, the environment and the files that it names, as `serve` would, and reports every problem at once.
Exit code 0 when `serve` would start, 2 when it would not.

Example:
  tidelock check-config --config tidelock.toml")]
    CheckConfig(ConfigOptions),
    /// Run a fleet of three nodes with three endpoints on this machine, to see how it behaves
    #[command(after_help = "\
Examples:
  tidelock demo                                    ports 8080 to 8082 and 9900 to 9902
  tidelock demo --http-port 0                      any free ports
  tidelock demo --dir ./demo --keep                keep configuration and logs
  tidelock demo --endpoints elixir                 BEAM nodes, from a checkout of the repository")]
    Demo(demo::Options),
    /// Run a small stateful app to put behind the balancer
    #[command(after_help = "\
Pages: / (shows who serves you), /counter, /ws (WebSocket), /sse, /stream?chunks=20&interval_ms=500&bytes=1024,
/upload, /early (429 without reading the body), /hang, /headers, /status/CODE.
It speaks HTTP/1.1 and HTTP/2 by prior knowledge on one port. SIGTERM: it finishes what runs, up to 5 s.

Example:
  tidelock demo-endpoint --listen 127.0.0.1:4001 --name app-1")]
    DemoEndpoint(demo_endpoint::Options),
    /// Pools: endpoints that serve the same
    #[command(subcommand)]
    Pool(pool::Command),
    /// Endpoints: the processes of a pool; putting, draining and removing them
    #[command(subcommand)]
    Endpoint(endpoint::Command),
    /// Routes: which requests go to which pool, and what keeps a session together
    #[command(subcommand)]
    Route(route::Command),
    /// Drains: endpoints that are being emptied
    #[command(subcommand)]
    Drain(drain::Command),
    /// Switchovers: one side of a pool replaced by another
    #[command(subcommand)]
    Switchover(switchover::Command),
    /// Empty what is at an address, and return when it may be stopped: a pod's preStop hook
    #[command(after_help = "\
Exit codes: 0 safe to stop, 3 something was left when the time was over, 4 no node was reached.

Example, in a pod's spec (terminationGracePeriodSeconds: 60):
  tidelock prestop --api http://tidelock-admin:9900 --address 10.0.0.5:4000 --timeout 50s")]
    Prestop(prestop::Options),
    /// The keys that seal sessions' cookies
    #[command(subcommand)]
    Keys(sessions::Keys),
    /// The pins of sessions to endpoints
    #[command(subcommand)]
    Pins(sessions::Pins),
    /// Nodes of the fleet
    #[command(subcommand)]
    Node(node::Command),
    /// Make one survivor of a lost majority a fleet of one; without --confirm it only says what it would do
    Recover(recover::Options),
    /// Where a request would go, and why
    #[command(after_help = "\
The decision is the data plane's own, by the table of the node that is asked; nodes with another epoch are named.

Examples:
  tidelock explain example.com/cart
  tidelock explain example.com/live --cookie tidelock=AQEx...
  tidelock explain api.example.com --header x-user:7")]
    Explain(explain::Options),
    /// The fleet at a glance
    #[command(after_help = "Example:\n  tidelock status --json | jq .leader")]
    Status(status::StatusOptions),
    /// The fleet at a glance, again each second
    #[command(after_help = "Leave with Ctrl-C. Without a terminal it prints once, like `tidelock status`.")]
    Top,
    /// Put the pools, endpoints and routes of a file, in its order
    #[command(after_help = "\
The file is JSON or TOML, in the shapes of the API; what `tidelock status --json` prints can be applied. All of it is
checked before anything is sent. Nothing is deleted: what the file does not name stays.

Example of a file:
  [[pools]]
  name = \"app\"
  spec = { protocol = \"h2c\" }
  endpoints = [{ name = \"app-1\", address = \"10.0.0.5:4000\" }]

  [[routes]]
  name = \"web\"
  spec = { pool = \"app\", host = \"example.com\" }

Examples:
  tidelock apply -f app.toml
  tidelock status --json | tidelock apply -f - --api http://other-fleet:9900")]
    Apply(apply::Options),
}

#[derive(Args)]
struct ConfigOptions {
    /// The configuration file; without one, defaults and the environment
    #[arg(long, env = "TIDELOCK_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// The node's name, unique in the fleet (node.name)
    #[arg(long)]
    name: Option<String>,
    /// Where Raft's log and the last table are kept (node.data_dir)
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// The address of API, dashboard, probes and metrics (admin.listen)
    #[arg(long, value_name = "IP:PORT")]
    admin_listen: Option<String>,
}

#[derive(Args)]
struct ServeOptions {
    #[command(flatten)]
    config: ConfigOptions,
    /// Exit when standard input closes: the demo holds its other end
    #[arg(long, hide = true)]
    exit_with_parent: bool,
    /// Take the sockets over from the process that runs on the data directory, which then leaves; without
    /// one start as usual. SIGUSR2 makes a running node start its successor so
    #[arg(long)]
    take_over: bool,
}

impl ConfigOptions {
    fn load(self) -> Result<Config, crate::config::Problems> {
        let flags = Flags { name: self.name, data_dir: self.data_dir, admin_listen: self.admin_listen };
        Config::load(self.config.as_deref(), flags, &Environment::of_process())
    }
}

/// What a command came to, when nothing failed.
enum Outcome {
    Done,
    /// Something was left when the time was over.
    TimedOut,
    /// The drain that was waited for was cancelled, or its endpoint is no longer there.
    Refused,
    /// Problems have been printed.
    Mistaken,
}

/// Parses the process's arguments and does what they say.
pub(crate) fn run() -> ExitCode {
    let cli = Cli::parse();
    match dispatch(cli) {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Refused) => ExitCode::from(1),
        Ok(Outcome::Mistaken) => ExitCode::from(2),
        Ok(Outcome::TimedOut) => ExitCode::from(3),
        Err(error) => {
            // Whoever reads our output has seen enough: `tidelock pool list | head`.
            let closed = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
            if closed == Some(std::io::ErrorKind::BrokenPipe) {
                return ExitCode::SUCCESS;
            }
            // Standard error may be gone; the exit code is what is left then.
            let _ = writeln!(std::io::stderr(), "tidelock: {error:#}");
            match error.downcast_ref::<Failure>() {
                Some(failure) => ExitCode::from(failure.exit_code()),
                None => ExitCode::from(1),
            }
        }
    }
}

fn dispatch(cli: Cli) -> anyhow::Result<Outcome> {
    match cli.command {
        Command::Serve(options) => serve(options),
        Command::CheckConfig(options) => check_config::run(options),
        Command::Recover(options) => recover::run(options),
        Command::Demo(options) => demo::run(options).map(|()| Outcome::Done),
        Command::DemoEndpoint(options) => {
            if options.exit_with_parent {
                demo::exit_with_parent();
            }
            demo_endpoint::run(options).map(|()| Outcome::Done)
        }
        client => {
            let api = Api::new(&cli.api.api, cli.api.token_file.as_deref())?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(ask(client, api))
        }
    }
}

async fn ask(command: Command, mut api: Api) -> anyhow::Result<Outcome> {
    let api = &mut api;
    match command {
        Command::Pool(command) => pool::run(command, api).await,
        Command::Endpoint(command) => endpoint::run(command, api).await,
        Command::Route(command) => route::run(command, api).await,
        Command::Drain(command) => drain::run(command, api).await,
        Command::Switchover(command) => switchover::run(command, api).await,
        Command::Explain(options) => explain::run(options, api).await,
        Command::Prestop(options) => prestop::run(options, api).await,
        Command::Keys(command) => sessions::keys(command, api).await,
        Command::Pins(command) => sessions::pins(command, api).await,
        Command::Node(command) => node::run(command, api).await,
        Command::Status(options) => status::run(options, api).await,
        Command::Top => status::top(api).await,
        Command::Apply(options) => apply::run(options, api).await,
        Command::Serve(_)
        | Command::CheckConfig(_)
        | Command::Recover(_)
        | Command::Demo(_)
        | Command::DemoEndpoint(_) => {
            unreachable!("dispatch has answered it")
        }
    }
}

fn serve(options: ServeOptions) -> anyhow::Result<Outcome> {
    if options.exit_with_parent {
        demo::exit_with_parent();
    }
    match options.config.load() {
        Ok(config) => crate::node::run(config, options.take_over).map(|()| Outcome::Done),
        Err(problems) => {
            eprintln!("{problems}");
            Ok(Outcome::Mistaken)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_example_of_the_help_parses() {
        fn collect(command: &clap::Command, lines: &mut Vec<String>) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            lines.extend(help.lines().map(str::to_owned));
            command.get_subcommands().for_each(|sub| collect(sub, lines));
        }
        let mut lines = Vec::new();
        collect(&Cli::command(), &mut lines);
        // An example is indented by two; a remark follows after two blanks.
        let examples: Vec<&str> = lines
            .iter()
            .filter_map(|line| line.strip_prefix("  "))
            .filter_map(|line| line.find("tidelock ").map(|at| &line[at..]))
            .map(|line| line.split("  ").next().unwrap_or(line).split(" | ").next().unwrap_or(line))
            .collect();
        assert!(examples.len() > 15, "{examples:?}");
        for example in examples {
            if let Err(error) = Cli::try_parse_from(example.split_whitespace()) {
                panic!("{example}\n{error}");
            }
        }
    }
}
