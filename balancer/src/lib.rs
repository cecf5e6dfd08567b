//! Tidelock's data plane: sockets, TLS, HTTP, upstream connections, running drains.
//!
//! It sees the control plane through one `watch` of tables and tells it what it observes through
//! one `watch` of reports. It never waits for it: without a control plane it serves the last
//! table. The life of a request goes through [`listener`], [`tls`], [`downstream`], [`proxy`],
//! [`exchange`] (`tidelock_core::choose`, [`headers`]), [`attempt`] (a stream lent by [`upstream`])
//! and back.

mod access;
mod attempt;
mod body;
mod budget;
mod clients;
mod config;
mod downstream;
mod exchange;
mod feed;
mod flag;
mod h1;
mod headers;
mod health;
mod http2;
mod learned;
mod lease;
mod listener;
mod outbox;
mod pace;
mod proxy;
mod respond;
mod sessions;
mod socket;
mod source;
mod telemetry;
mod timers;
mod tls;
mod turn;
mod upload;
mod upstream;
mod websocket;
mod worker;

use std::io;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tidelock_core::report::NodeReport;
use tidelock_core::table::Table;
use tokio::sync::{mpsc, watch};
use tokio_util::task::TaskTracker;
use tracing::{error, warn};

pub use config::{ClientAuth, Config, Limits, ListenAddress, ListenerConfig, ListenerTls, Timeouts, TlsFiles};
pub use listener::Bound;
pub use tls::TlsError;

use clients::Clients;
use feed::Registry;
use health::{Observations, Observer};
use listener::Listener;
use telemetry::{AccessLog, Counters};
use tls::{Certificates, FleetTickets, Follow, Handshakes};
use worker::{Shared, Stage, Worker};

/// A running data plane.
pub struct Balancer {
    addresses: Vec<ListenAddress>,
    reports: watch::Receiver<NodeReport>,
    counters: Vec<Arc<Counters>>,
    stage: watch::Sender<Stage>,
    workers: Vec<JoinHandle<()>>,
    /// The name of each worker whose thread has ended.
    ended: mpsc::Receiver<String>,
    /// Ends after the workers, when the last access event is written.
    log_writer: Option<JoinHandle<()>>,
    open: Arc<AtomicUsize>,
    registry: Arc<Registry>,
    /// Each listening socket once more, to be given to another process. None from the leaving on: they
    /// would keep open what nobody accepts from.
    sockets: Mutex<Vec<Bound>>,
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot listen on {address}")]
    Bind { address: ListenAddress, source: io::Error },
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("cannot start a worker: {0}")]
    Thread(io::Error),
}

/// Metrics in OpenMetrics text; cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics(Vec<Arc<Counters>>);

impl Metrics {
    pub fn write(&self, text: &mut String) {
        telemetry::write_metrics(&self.0, text);
    }
}

impl Balancer {
    /// Binds the listeners, starts the workers, and follows `tables`. Must be called within a
    /// tokio runtime, which carries the feed.
    pub fn start(config: Config, tables: watch::Receiver<Arc<Table>>) -> Result<Balancer, StartError> {
        Balancer::start_on(config, Vec::new(), tables)
    }

    /// The same with sockets that somebody else has bound, in the order of the configuration's
    /// listeners. A listener for which there is none is bound.
    pub fn start_on(
        config: Config,
        given: Vec<Vec<Bound>>,
        tables: watch::Receiver<Arc<Table>>,
    ) -> Result<Balancer, StartError> {
        let mut given = given.into_iter();
        let count = config.workers.max(1);
        let mut sockets: Vec<Vec<Listener>> = (0..count).map(|_| Vec::new()).collect();
        let mut addresses = Vec::new();
        let mut kept = Vec::new();
        let open = Arc::new(AtomicUsize::new(0));
        let tickets = FleetTickets::new();
        let mut followed: Vec<Arc<dyn Follow>> = Vec::new();
        for listener in &config.listeners {
            let tls = match &listener.tls {
                None => None,
                Some(tls) => {
                    let handshakes = Handshakes::read(tls, tickets.clone())?;
                    followed.push(handshakes.clone());
                    Some(handshakes)
                }
            };
            let given = given.next().unwrap_or_default();
            let bound = listener::bind_or_share(&listener.address, given, count);
            let address = listener.address.clone();
            let (address, bound) = bound.map_err(|source| StartError::Bind { address, source })?;
            kept.extend(
                listener::once_more(&bound).map_err(|source| StartError::Bind { address: address.clone(), source })?,
            );
            addresses.push(address);
            for (worker, share) in sockets.iter_mut().zip(bound) {
                for socket in share {
                    let (tls, open) = (tls.clone(), open.clone());
                    worker.push(Listener { socket, tls, proxy_protocol: listener.proxy_protocol, open });
                }
            }
        }
        let identity = match &config.endpoint_identity {
            None => None,
            Some(files) => {
                let read = Certificates::read(std::slice::from_ref(files))?;
                followed.push(read.clone());
                Some(read)
            }
        };
        let (node, identity_of_checks) = (config.node, identity.clone());
        let log = config.access_log.then(AccessLog::start).transpose().map_err(StartError::Thread)?;
        let (log, log_writer) = log.unzip();
        let registry = Registry::new(node, count);
        let (to_stage, stage_seen) = watch::channel(Stage::Serving);
        let clients = Clients::new(&config.limits);
        let (config, stage, stage_end) = (Arc::new(config), stage_seen.clone(), stage_seen.clone());
        let shared = Shared { config, registry: registry.clone(), clients, stage, log, identity };
        let (to_workers, tables_seen) = watch::channel(Arc::new(Table::empty()));
        // Before there is a worker: one without it would tell clients that there is no such host.
        let first = tables.borrow().clone();
        feed::give(&registry, &tickets, &to_workers, &Table::empty(), &first);
        let (reporter, reports) = watch::channel(NodeReport::default());
        let mut counters: Vec<Arc<Counters>> = (0..count).map(|_| Arc::default()).collect();
        let mut workers = Vec::new();
        let (tell_end, ended) = mpsc::channel(count + 1);
        for (index, listeners) in sockets.into_iter().enumerate() {
            let (shared, tables, counters) = (shared.clone(), tables_seen.clone(), counters[index].clone());
            let run = move || run_worker(index, shared, counters, listeners, tables);
            let started = spawn_worker(format!("worker-{index}"), tell_end.clone(), run);
            workers.push(started.map_err(StartError::Thread)?);
        }
        let observations = Arc::<Observations>::default();
        let counters_of_checks = Arc::<Counters>::default();
        let observer = Observer {
            node,
            observations: observations.clone(),
            registry: registry.clone(),
            identity: identity_of_checks,
            counters: counters_of_checks.clone(),
        };
        let stage_of_checks = stage_seen.clone();
        let run = move || run_observer(observer, tables_seen, stage_of_checks);
        workers.push(spawn_worker("health".to_owned(), tell_end, run).map_err(StartError::Thread)?);
        counters.push(counters_of_checks);
        tokio::spawn(feed::run(registry.clone(), observations, tickets, tables, to_workers, reporter, stage_seen));
        tokio::spawn(follow_certificates(followed, stage_end));
        Ok(Balancer {
            addresses,
            reports,
            counters,
            stage: to_stage,
            workers,
            ended,
            log_writer,
            open,
            registry,
            sockets: Mutex::new(kept),
        })
    }

    /// What the listeners are bound to, in the order of the configuration.
    pub fn addresses(&self) -> &[ListenAddress] {
        &self.addresses
    }

    pub fn reports(&self) -> watch::Receiver<NodeReport> {
        self.reports.clone()
    }

    pub fn metrics(&self) -> Metrics {
        Metrics(self.counters.clone())
    }

    /// The listening sockets, for another process that accepts from them too.
    pub fn sockets(&self) -> io::Result<Vec<Bound>> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner).iter().map(Bound::try_clone).collect()
    }

    /// Open downstream connections.
    pub fn open_connections(&self) -> usize {
        self.open.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Ends when a worker has, before it was told to: by a panic, or for want of a runtime. The
    /// node then serves with less than it was given and follows no more tables: it should end.
    pub async fn failed(&mut self) -> String {
        match self.ended.recv().await {
            Some(worker) => worker,
            None => std::future::pending().await,
        }
    }

    /// No new connection from here on; those that are open are told to go (GOAWAY, `connection:
    /// close`) and end with what runs on them.
    pub fn leave(&self) {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.stage.send_replace(Stage::Leaving);
    }

    /// Waits up to `deadline` for the last connection to end, cuts what is left, and joins the
    /// workers. WebSockets and event streams, which do not end by themselves, are closed one after the
    /// other before. Says whether nothing had to be cut.
    pub async fn end(self, deadline: Duration) -> bool {
        self.leave();
        let Balancer { workers, log_writer, stage, registry, .. } = self;
        registry.leave_within(deadline);
        stage.send_replace(Stage::Closing);
        // A thread that panicked has said so.
        let joined = tokio::task::spawn_blocking(move || workers.into_iter().for_each(|thread| drop(thread.join())));
        tokio::pin!(joined);
        let is_whole = match tokio::time::timeout(deadline, &mut joined).await {
            Ok(_) => true,
            Err(_) => {
                stage.send_replace(Stage::Ended);
                let _ = joined.await;
                false
            }
        };
        // A standard output that nobody reads does not keep the node. The thread is no task of the runtime's, whose end would
        // wait for it.
        if let Some(writer) = log_writer {
            let (ended, end) = tokio::sync::oneshot::channel();
            std::thread::spawn(move || {
                let _ = writer.join();
                let _ = ended.send(());
            });
            if tokio::time::timeout(LAST_LINES, end).await.is_err() {
                warn!("standard output takes no more: the last lines of the access log are lost");
            }
        }
        is_whole
    }
}

/// What the access log's last lines may take.
const LAST_LINES: Duration = Duration::from_secs(1);
/// How often certificates' files are looked at.
const CERTIFICATES_EVERY: Duration = Duration::from_secs(2);

/// Ends with the data plane.
async fn follow_certificates(followed: Vec<Arc<dyn Follow>>, mut stage: watch::Receiver<Stage>) {
    let mut interval = tokio::time::interval(CERTIFICATES_EVERY);
    while !followed.is_empty() {
        tokio::select! {
            _ = interval.tick() => {}
            // An error is the end of the balancer that would send it.
            _ = stage.wait_for(|stage| *stage >= Stage::Ended) => return,
        }
        let followed = followed.clone();
        // Files may be on a slow volume.
        let looked = tokio::task::spawn_blocking(move || followed.iter().for_each(|of| of.follow()));
        let _ = looked.await;
    }
}

/// Starts a worker's thread, which tells its end, however it ends.
fn spawn_worker(
    name: String,
    tell_end: mpsc::Sender<String>,
    run: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    struct Ends(String, mpsc::Sender<String>);
    impl Drop for Ends {
        fn drop(&mut self) {
            // There is room for each worker's one message.
            let _ = self.1.try_send(std::mem::take(&mut self.0));
        }
    }
    let ends = Ends(name.clone(), tell_end);
    std::thread::Builder::new().name(name).spawn(move || {
        let _ends = ends;
        run();
    })
}

/// The body of the thread that looks after endpoints. A node that leaves is asked no more.
fn run_observer(observer: Observer, tables: watch::Receiver<Arc<Table>>, mut stage: watch::Receiver<Stage>) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return error!(%error, "the checks have no runtime"),
    };
    let local = tokio::task::LocalSet::new();
    let observations = observer.observations.clone();
    local.block_on(&runtime, async move {
        tokio::select! {
            () = observer.run(tables) => {}
            _ = stage.wait_for(|stage| *stage >= Stage::Leaving) => {}
        }
    });
    // Nobody waits for a table that is not looked at any more: a drain would, for this node's word.
    observations.end();
}

/// The body of a worker's thread.
fn run_worker(
    index: usize,
    shared: Shared,
    counters: Arc<Counters>,
    listeners: Vec<Listener>,
    tables: watch::Receiver<Arc<Table>>,
) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return error!(%error, "a worker has no runtime"),
    };
    let local = tokio::task::LocalSet::new();
    let registry = shared.registry.clone();
    local.block_on(&runtime, async move {
        let mut stage = shared.stage.clone();
        let worker = Worker::new(index, shared, counters);
        tokio::task::spawn_local(worker.clone().await_leaving());
        // These have no end of their own; they end with the thread.
        tokio::task::spawn_local(worker.clone().follow(tables));
        tokio::task::spawn_local(worker.clone().sweep());
        tokio::task::spawn_local(timers::tick());
        let connections = TaskTracker::new();
        for listener in listeners {
            let (worker, tracker) = (worker.clone(), connections.clone());
            connections.spawn_local(async move {
                if let Err(error) = listener.run(worker, tracker).await {
                    error!(%error, "a listener ended");
                }
            });
        }
        // The listeners are tracked too: all is over when they and every connection have ended.
        connections.close();
        let rest = async {
            connections.wait().await;
            worker.tasks.close();
            // Connections to endpoints end by themselves only when idle; tunnels are waited for.
            worker.retire_all();
            worker.tasks.wait().await;
        };
        tokio::select! {
            () = rest => {}
            _ = stage.wait_for(|stage| *stage >= Stage::Ended) => {}
        }
    });
    // Nobody waits for a table that is not read any more, as long as others end.
    registry.ended(index);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_worker_that_panics_is_told_of() {
        let (tell_end, mut ended) = mpsc::channel(1);
        let thread = spawn_worker("worker-7".into(), tell_end, || panic!("as the test wants it")).unwrap();
        assert_eq!(ended.recv().await.as_deref(), Some("worker-7"));
        assert!(thread.join().is_err());
    }
}
