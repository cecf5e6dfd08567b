//! `tidelock demo`: a fleet of three nodes and three endpoints on this machine, as real processes
//! with real files, so that what is learnt here holds elsewhere. The demo itself only starts,
//! watches and stops them, and puts a pool and a route through the API as anyone would.

mod child;
mod folder;
mod lesson;
mod parent;
mod ports;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use http::Method;
use serde_json::json;
use tokio::net::TcpStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::cli::client::Api;
use child::{Child, Kind, Plan};
use folder::{Folder, Node};
use lesson::say;

pub(crate) use parent::exit_with_parent;

const NODES: [&str; 3] = ["a", "b", "c"];
const ENDPOINTS: [&str; 3] = ["app-1", "app-2", "app-3"];
/// Elections take a second; a cold BEAM with a compile in front of it takes most of the rest.
const START: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(100);

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// What to balance: small ones of this binary, or BEAM nodes of a repository's checkout
    #[arg(long, value_enum, default_value_t = Endpoints::Builtin)]
    endpoints: Endpoints,
    /// Where configuration, data and logs go: a folder that is empty or not there; it is kept
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// The first of three ports for clients; 0 takes free ones, for the admin API too
    #[arg(long, value_name = "PORT", default_value_t = 8080)]
    http_port: u16,
    /// Keep the temporary folder
    #[arg(long)]
    keep: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Endpoints {
    Builtin,
    Elixir,
}

pub(crate) fn run(options: Options) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(demo(options))
}

async fn demo(options: Options) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let ports = ports::pick(options.http_port)?;
    let folder = Folder::create(options.dir.as_deref(), options.keep)?;
    let nodes = folder.write_nodes(&NODES, &ports)?;
    let plans = plans(options.endpoints, &folder, &nodes, &ports)?;

    let mut fleet = Fleet { children: Vec::new(), nodes, endpoint_ports: ports.endpoints };
    let started = tokio::select! {
        started = fleet.start(plans) => started,
        _ = terminate.recv() => Err(anyhow::anyhow!("stopped while starting")),
        _ = interrupt.recv() => Err(anyhow::anyhow!("stopped while starting")),
    };
    if started.is_ok() {
        say(&lesson::text(&fleet.lesson().await, &folder));
        let (stop, stopped) = watch::channel(());
        let mut watched = JoinSet::new();
        for child in fleet.children {
            watched.spawn(child.watch(stopped.clone()));
        }
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        say("\nstopping");
        stop.send_replace(());
        watched.join_all().await;
    } else {
        JoinSet::from_iter(fleet.children.into_iter().map(Child::stop)).join_all().await;
        folder.keep();
    }
    folder.close();
    started
}

/// What will be started: endpoints first, so that the nodes find them.
fn plans(endpoints: Endpoints, folder: &Folder, nodes: &[Node], ports: &ports::Ports) -> anyhow::Result<Vec<Plan>> {
    let own = std::env::current_exe().context("cannot tell where this program lies")?;
    let script = Path::new("tests/elixir/run.sh");
    if endpoints == Endpoints::Elixir && !script.is_file() {
        bail!("{} is not here: run --endpoints elixir in a checkout of the repository", script.display());
    }
    let endpoint = |(name, port): (&&str, &u16)| {
        let plan = Plan::new(Kind::Endpoint, name, folder.log(name));
        match endpoints {
            Endpoints::Builtin => {
                let listen = format!("127.0.0.1:{port}");
                plan.program(&own).args(["demo-endpoint", "--listen", &listen, "--name", name, "--exit-with-parent"])
            }
            Endpoints::Elixir => plan.program(script).variable("PORT", &port.to_string()).variable("NAME", name),
        }
    };
    let node = |node: &Node| {
        let plan = Plan::new(Kind::Node, &node.name, folder.log(&node.name)).program(&own);
        plan.args(["serve", "--exit-with-parent", "--config"]).args([&node.config])
    };
    let endpoints = ENDPOINTS.iter().zip(&ports.endpoints).map(endpoint);
    Ok(endpoints.chain(nodes.iter().map(node)).collect())
}

struct Fleet {
    children: Vec<Child>,
    nodes: Vec<Node>,
    endpoint_ports: [u16; 3],
}

impl Fleet {
    async fn start(&mut self, plans: Vec<Plan>) -> anyhow::Result<()> {
        say("starting three endpoints and three nodes");
        for plan in plans {
            self.children.push(Child::start(plan)?);
        }
        let end = Instant::now() + START;
        for (name, port) in ENDPOINTS.iter().zip(self.endpoint_ports) {
            self.wait(name, end, async || TcpStream::connect(("127.0.0.1", port)).await.is_ok()).await?;
            say(&format!("  endpoint {name} listens on 127.0.0.1:{port}"));
        }
        let nodes: Vec<(String, String)> = self.nodes.iter().map(|node| (node.name.clone(), node.api())).collect();
        for (name, url) in nodes {
            let ready = async || match Api::anonymous(&url) {
                Ok(mut api) => api.get_raw("/readyz").await.is_ok(),
                Err(_) => false,
            };
            self.wait(&name, end, ready).await?;
            say(&format!("  node {name} is ready, admin at {url}"));
        }
        self.configure().await
    }

    /// Asks until the answer is yes. A child that dies meanwhile ends it, with its last words.
    async fn wait(&mut self, what: &str, end: Instant, ready: impl AsyncFn() -> bool) -> anyhow::Result<()> {
        while !ready().await {
            self.children.iter_mut().try_for_each(Child::must_run)?;
            if Instant::now() >= end {
                bail!("{what} is not ready after {START:?}");
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    async fn configure(&self) -> anyhow::Result<()> {
        let mut api = Api::anonymous(&self.nodes[0].api())?;
        let mut put = async |path: String, body| api.write(Method::PUT, &path, Some(body)).await;
        put("/v1/pools/demo".into(), json!({"protocol": "h2c"})).await?;
        for (name, port) in ENDPOINTS.iter().zip(self.endpoint_ports) {
            let address = format!("127.0.0.1:{port}");
            let path = format!("/v1/pools/demo/endpoints/{name}");
            put(path, json!({"address": address, "revision": "v1"})).await?;
        }
        let applied = put("/v1/routes/demo".into(), json!({"pool": "demo", "expose": true})).await?;
        say(&format!("  pool and route \"demo\" are there since epoch {}", applied.epoch));
        Ok(())
    }

    async fn lesson(&self) -> lesson::Lesson {
        let leader = match Api::anonymous(&self.nodes[0].api()) {
            Ok(mut api) => api.get::<serde_json::Value>("/v1/status").await.ok(),
            Err(_) => None,
        };
        let leader = leader.and_then(|status| status["leader"].as_str().map(str::to_owned));
        let pid = |name: &str| self.children.iter().find(|child| child.name() == name).and_then(Child::pid);
        let nodes = self.nodes.iter().map(|node| lesson::NodeFacts {
            name: node.name.clone(),
            http: node.http,
            admin: node.admin,
            pid: pid(&node.name),
            leads: leader.as_deref() == Some(&node.name),
        });
        lesson::Lesson { nodes: nodes.collect() }
    }
}
