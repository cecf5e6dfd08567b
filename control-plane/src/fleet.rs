//! The control plane of one node, put together: Raft, the leader's chores, the exchange of reports
//! and the Admin API.
//!
//! The binary's wiring starts it with a stream of the data plane's reports and gets a stream of
//! tables back; that is all that passes between the planes. Nothing of the data plane ever waits
//! for anything here. Every task is owned by [`ControlPlane`] and ends with it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidelock_core::command::Command;
use tidelock_core::id::{Epoch, Name, NodeId};
use tidelock_core::report::NodeReport;
use tidelock_core::state::State;
use tidelock_core::table::Table;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::api::auth::BearerToken;
use crate::api::events::{self, Events};
use crate::api::listener::AdminListener;
use crate::api::{self, Context, explain};
use crate::apply::Machine;
use crate::metrics::MetricsHook;
use crate::publish::{self, Published};
use crate::raft::{self, Question, RedbStore, Report, Role};
use chores::Chores;
use consensus::Consensus;
use exchange::Exchange;
use leave::Leave;
use roster::Roster;

mod chores;
pub(crate) mod clock;
pub(crate) mod consensus;
mod exchange;
pub(crate) mod leave;
mod members;
pub(crate) mod recovery;
pub(crate) mod roster;

/// How long answers that are under way may take when the node stops; then they are cut. The answer
/// to `leave?wait=true` is among them.
pub(crate) const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// How long a client that has connected may take to begin with its request then.
const FIRST_WORDS: Duration = Duration::from_millis(500);

/// A hand-over of leadership takes two round trips; Raft itself gives up within an election's time.
const ANOTHER_LEADS_WITHIN: Duration = Duration::from_secs(2);

pub struct ControlPlaneConfig {
    /// Unique in the fleet.
    pub name: Name,
    /// For Raft's log; made when it is not there. A second process on it is refused.
    pub data_dir: PathBuf,
    /// None is a fleet of one, which opens no port for peers.
    pub fleet: Option<FleetConfig>,
    pub admin: AdminConfig,
    /// The pools and routes of the configuration, in an order in which they can be applied: the
    /// first leader proposes them as one batch to a new fleet. Empty: nothing.
    pub initial: Vec<Command>,
    /// Appends the data plane's metrics to `/metrics`.
    pub metrics: Option<MetricsHook>,
    pub sockets: GivenSockets,
    /// The admin API answers from this table on; requests wait until then. Above zero for a node that was
    /// there a moment ago, which must not say that it has none.
    pub answers_from: Epoch,
    /// The node's leaving, which outlives a control plane that is stopped and started again.
    pub leave: Leave,
}

/// Listening sockets that somebody else has bound, or for somebody else. One that is missing is bound at the start.
#[derive(Debug, Default)]
pub struct GivenSockets {
    pub admin: Option<std::net::TcpListener>,
    pub peers: Option<std::net::TcpListener>,
}

impl GivenSockets {
    pub fn try_clone(&self) -> std::io::Result<GivenSockets> {
        let again = |socket: &Option<std::net::TcpListener>| socket.as_ref().map(|it| it.try_clone()).transpose();
        Ok(GivenSockets { admin: again(&self.admin)?, peers: again(&self.peers)? })
    }
}

/// This node's place among others.
#[derive(Clone)]
pub struct FleetConfig {
    /// For peers, over mutual TLS.
    pub listen: SocketAddr,
    /// As peers reach this node, host and port.
    pub advertise: String,
    /// The nodes that begin the fleet. One that is not among them waits to be added.
    pub founders: Vec<String>,
    pub credentials: raft::Credentials,
    /// By which a node that is no founder asks to be let in.
    pub join_token: Option<String>,
}

#[derive(Debug, Clone)]
pub struct AdminConfig {
    /// Port 0 takes a free one.
    pub listen: SocketAddr,
    /// The API's URL as people reach it.
    pub advertise: Option<String>,
    /// Without one everybody who reaches the socket may write: the wiring asks for a loopback
    /// address then.
    pub token: Option<BearerToken>,
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the admin API cannot listen on {address}")]
    ListenAdmin { address: SocketAddr, source: std::io::Error },
    #[error("cannot listen for peers on {address}")]
    ListenPeers { address: SocketAddr, source: std::io::Error },
    #[error("Raft cannot start from {}", data_dir.display())]
    Raft { data_dir: PathBuf, source: raft::StartError },
}

/// A running control plane.
pub struct ControlPlane {
    table: watch::Receiver<Arc<Table>>,
    admin_addr: SocketAddr,
    leave: Leave,
    stop: CancellationToken,
    tasks: JoinSet<&'static str>,
    consensus: Consensus,
    published: Published,
    roster: watch::Receiver<Roster>,
    sockets: GivenSockets,
}

/// What differs between Raft and the tests' stand-in for it.
struct Agreement {
    consensus: Consensus,
    published: Published,
    /// Other nodes' bulletins.
    received: mpsc::Receiver<Report>,
    /// And what they ask.
    questions: mpsc::Receiver<Question>,
}

impl ControlPlane {
    /// Starts everything, within the caller's tokio runtime. A node that has been in a fleet finds its
    /// last table on its disk a moment later, with or without the others; a new one has the empty
    /// table until the fleet has begun.
    ///
    /// `reports` is the data plane's word: with no epoch until it reads a first table. It may end;
    /// this node then counts as missing.
    pub async fn start(
        mut config: ControlPlaneConfig,
        reports: watch::Receiver<NodeReport>,
    ) -> Result<ControlPlane, StartError> {
        let fleet = match &config.fleet {
            Some(fleet) => {
                let address = fleet.listen;
                let failed = |source| StartError::ListenPeers { address, source };
                let listener = listen(address, &mut config.sockets.peers).await.map_err(failed)?;
                Some(place(&config, fleet, listener))
            }
            None => None,
        };
        ControlPlane::replicated(config, fleet, reports).await
    }

    /// Starts over Raft.
    async fn replicated(
        config: ControlPlaneConfig,
        fleet: Option<raft::Fleet>,
        reports: watch::Receiver<NodeReport>,
    ) -> Result<ControlPlane, StartError> {
        let (publisher, published) = publish::channel();
        let options = raft::Options { fleet, ..raft::Options::default() };
        let data_dir = config.data_dir.clone();
        let failed = |source| StartError::Raft { data_dir, source };
        let started = RedbStore::open(&config.data_dir, None)
            .map_err(raft::StartError::from)
            .and_then(|store| raft::start(options, store, Machine::new(publisher)));
        let (raft, received, questions) = started.map_err(failed)?;
        let consensus = Consensus::Raft(raft);
        let agreement = Agreement { consensus: consensus.clone(), published, received, questions };
        let assembled = ControlPlane::assemble(config, reports, agreement).await;
        if assembled.is_err() {
            consensus.stop().await;
        }
        assembled
    }

    async fn assemble(
        mut config: ControlPlaneConfig,
        reports: watch::Receiver<NodeReport>,
        agreement: Agreement,
    ) -> Result<ControlPlane, StartError> {
        let Agreement { consensus, published, received, questions } = agreement;
        let address = config.admin.listen;
        let failed = |source| StartError::ListenAdmin { address, source };
        let cut = CancellationToken::new();
        let listener =
            AdminListener::new(listen(address, &mut config.sockets.admin).await.map_err(failed)?, cut.clone());
        let admin_addr = listener.address().map_err(failed)?;

        let (roster, roster_rx) = watch::channel(Roster::new());
        let (leave, stop) = (config.leave, CancellationToken::new());
        let exchange = Exchange {
            consensus: consensus.clone(),
            published: published.clone(),
            name: config.name.clone(),
            admin: config.admin.advertise.clone(),
            reports,
            received,
            leave: leave.clone(),
            roster,
        };
        let chores = Chores {
            consensus: consensus.clone(),
            published: published.clone(),
            roster: roster_rx.clone(),
            leave: leave.clone(),
            initial: config.initial,
        };
        let table = published.table.clone();
        let context = Context {
            consensus: consensus.clone(),
            published: published.clone(),
            roster: roster_rx.clone(),
            events: Events::new(),
            leave: leave.clone(),
            node: config.name,
            admin: config.admin.advertise.map(Arc::from),
            token: config.admin.token,
            metrics: config.metrics,
            stop: stop.clone(),
        };

        let mut tasks = JoinSet::new();
        owned(&mut tasks, "report exchange", &stop, exchange.run());
        owned(&mut tasks, "leader's chores", &stop, chores.run());
        owned(&mut tasks, "event broadcast", &stop, events::broadcast(context.clone()));
        owned(&mut tasks, "answers to nodes", &stop, explain::answer(context.clone(), questions));
        owned(&mut tasks, "Raft", &stop, ended(consensus.clone()));
        let (mut seen, stopped) = (table.clone(), stop.clone());
        tasks.spawn(async move {
            let has_it = seen.wait_for(|table| table.epoch >= config.answers_from);
            // None: stopped before. An error is the end of the tables, which another task reports.
            let _ = stopped.run_until_cancelled(has_it).await;
            serve(listener, context, stopped, cut).await
        });
        tracing::info!(address = %admin_addr, "the admin API listens");
        Ok(ControlPlane {
            table,
            admin_addr,
            leave,
            stop,
            tasks,
            consensus,
            published,
            roster: roster_rx,
            sockets: config.sockets,
        })
    }

    /// The newest table; at the start the empty one, with epoch 0.
    pub fn table(&self) -> watch::Receiver<Arc<Table>> {
        self.table.clone()
    }

    /// The newest state, of which the table is made; at the start the empty one.
    pub fn state(&self) -> watch::Receiver<Arc<State>> {
        self.published.state.clone()
    }

    /// This node's id, for as long as it has its data directory.
    pub fn node(&self) -> NodeId {
        NodeId(self.consensus.status().id)
    }

    pub fn admin_addr(&self) -> SocketAddr {
        self.admin_addr
    }

    /// The wiring's handle on leaving: it waits for [`Leave::requested`], carries the leaving out as
    /// on SIGTERM (for which it calls [`Leave::request`] itself, so that readiness ends), and says
    /// [`LeaveState::Left`](leave::LeaveState::Left) before it calls [`ControlPlane::shutdown`].
    pub fn leave(&self) -> Leave {
        self.leave.clone()
    }

    /// The listening sockets, for another process or another start.
    pub fn sockets(&self) -> std::io::Result<GivenSockets> {
        self.sockets.try_clone()
    }

    /// Returns when a part of the control plane has ended that never should, with its name: the
    /// wiring ends the process then.
    pub async fn failed(&mut self) -> String {
        match self.tasks.join_next().await {
            Some(Ok(part)) => part.to_owned(),
            Some(Err(error)) => error.to_string(),
            None => "everything".to_owned(),
        }
    }

    /// Lets another voter lead, if this node does and there is one: for a stop after which the node comes
    /// back. Returns when another one leads, or after a moment: then the others elect one.
    pub async fn hand_leadership_over(&self) {
        let mut status = self.consensus.watch_status();
        let raft = status.borrow_and_update().clone();
        if raft.role != Role::Leader {
            return;
        }
        let members = self.roster.borrow().members(&raft, &[], Instant::now());
        let Some(to) = members::successor(&self.published.state(), &raft, &members) else { return };
        self.consensus.hand_over(to);
        let another = status.wait_for(|now| now.leader.is_some_and(|leader| leader != raft.id));
        match tokio::time::timeout(ANOTHER_LEADS_WITHIN, another).await {
            Ok(_) => tracing::info!(%to, "this node has handed its leadership over"),
            Err(_) => tracing::warn!(%to, "the leadership was not taken in time: the others elect a leader"),
        }
    }

    /// Finishes the answers that are under way, for a moment, ends every task and closes the log.
    pub async fn shutdown(mut self) {
        // Kept open they would hold connections that nobody accepts.
        self.sockets = GivenSockets::default();
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
        self.consensus.stop().await;
    }
}

/// The given socket, else a new one, of which `given` keeps a clone.
async fn listen(address: SocketAddr, given: &mut Option<std::net::TcpListener>) -> std::io::Result<TcpListener> {
    let socket = match given.take() {
        Some(given) => given,
        None => TcpListener::bind(address).await?.into_std()?,
    };
    socket.set_nonblocking(true)?;
    *given = Some(socket.try_clone()?);
    TcpListener::from_std(socket)
}

fn place(config: &ControlPlaneConfig, fleet: &FleetConfig, listener: TcpListener) -> raft::Fleet {
    raft::Fleet {
        listener,
        advertise: fleet.advertise.clone(),
        founders: fleet.founders.clone(),
        credentials: fleet.credentials.clone(),
        join_token: fleet.join_token.clone(),
        name: config.name.to_string(),
        admin: config.admin.advertise.clone().unwrap_or_default(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

/// Returns when Raft's thread has ended.
async fn ended(consensus: Consensus) {
    let mut status = consensus.watch_status();
    while status.changed().await.is_ok() {}
}

/// Runs a task that only a stop may end.
fn owned(
    tasks: &mut JoinSet<&'static str>,
    name: &'static str,
    stop: &CancellationToken,
    task: impl Future<Output = ()> + Send + 'static,
) {
    let stop = stop.clone();
    tasks.spawn(async move {
        stop.run_until_cancelled(task).await;
        name
    });
}

/// Serves until the stop; what is under way then has [`LAST_ANSWERS`]. Returns when the last
/// connection has ended.
async fn serve(
    listener: AdminListener,
    context: Context,
    stop: CancellationToken,
    cut: CancellationToken,
) -> &'static str {
    let router = api::router(context);
    let (silent, stopped) = (listener.silent(), stop.clone());
    let quiet = async move {
        stopped.cancelled().await;
        let _ = tokio::time::timeout(FIRST_WORDS, silent.heard()).await;
    };
    let server = axum::serve(listener, router).with_graceful_shutdown(quiet);
    let mut server = std::pin::pin!(server.into_future());
    let late = async {
        stop.cancelled().await;
        tokio::time::sleep(LAST_ANSWERS).await;
    };
    tokio::select! {
        _ = &mut server => {}
        () = late => {
            tracing::debug!("answers of the admin API are cut at the node's end");
            cut.cancel();
            // Only a handler that never yields could outlast this; the node's end does not wait for it.
            let _ = tokio::time::timeout(LAST_ANSWERS, server).await;
        }
    }
    "admin API"
}

#[cfg(test)]
pub(crate) mod tests;
