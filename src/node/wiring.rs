//! What the node gives a control plane, and what of it outlives one.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tidelock_control_plane::{
    AdminConfig, BearerToken, ControlPlane, ControlPlaneConfig, Credentials, FleetConfig, GivenFiles, GivenSockets,
    Leave,
};
use tidelock_core::id::Epoch;
use tidelock_core::report::NodeReport;
use tidelock_core::state::State;
use tidelock_core::table::Table;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tracing::warn;

use crate::config::{self, Config};
use crate::handover::{Guests, Link, Others, Process, Role, merged};

/// How long the old process waits before it tries to get the data directory back from one that did
/// not take over in time and may still be on it.
const BACK_EVERY: Duration = Duration::from_millis(300);
/// After this the data directory is another process' or cannot be read any more: the service manager's
/// restart is better than a node that nobody can configure.
const BACK_WITHIN: Duration = Duration::from_secs(60);

/// What outlives a control plane that is stopped for another process and started again.
pub(super) struct Wiring {
    pub(super) config: Arc<Config>,
    pub(super) metrics: MetricsSlot,
    pub(super) leave: Leave,
    /// This process' own reports, once it serves.
    own: watch::Sender<Option<NodeReport>>,
    process: Process,
    /// The newest table that the node has had in another process.
    oldest: Epoch,
}

impl Wiring {
    pub(super) fn new(config: Config, oldest: Epoch) -> Wiring {
        let (own, own_reports) = watch::channel(None);
        let (to_node, reports) = watch::channel(NodeReport::default());
        let others = Others::new();
        tokio::spawn(report(own_reports, others.watch(), to_node));
        let process = Process {
            others,
            reports,
            states: watch::Sender::default(),
            tables: watch::Sender::new(Arc::new(Table::empty())),
            clients_end_within: config.drain.settle + config.drain.deadline,
        };
        let (config, metrics, leave) = (Arc::new(config), MetricsSlot::default(), Leave::default());
        Wiring { config, metrics, leave, own, process, oldest }
    }

    /// The table, whichever control plane it comes from, also another process'.
    pub(super) fn table(&self) -> watch::Receiver<Arc<Table>> {
        self.process.tables.subscribe()
    }

    pub(super) fn epoch(&self) -> Epoch {
        self.process.tables.borrow().epoch
    }

    pub(super) fn link(&self, stream: UnixStream, role: Role) -> Link {
        Link::start(stream, role, &self.process)
    }

    /// This process serves: what it reports is the node's from now on.
    pub(super) fn serves(&self, mut reports: watch::Receiver<NodeReport>) {
        let own = self.own.clone();
        tokio::spawn(async move {
            loop {
                let report = reports.borrow_and_update().clone();
                // Nothing before the first table is read: what others say stands alone.
                if report.epoch.is_some() {
                    own.send_replace(Some(report));
                }
                if reports.changed().await.is_err() {
                    return;
                }
            }
        });
    }

    pub(super) async fn start(&mut self, sockets: GivenSockets) -> anyhow::Result<ControlPlane> {
        let mut config = control_plane_config(&self.config, sockets, &self.metrics, self.leave.clone())?;
        config.answers_from = self.oldest.max(self.epoch());
        let control_plane = ControlPlane::start(config, self.process.reports.clone()).await?;
        let newer = |one: &Arc<Table>, other: &Arc<Table>| one.epoch >= other.epoch && !Arc::ptr_eq(one, other);
        tokio::spawn(forward(control_plane.table(), self.process.tables.clone(), newer));
        let newer = |one: &Arc<State>, other: &Arc<State>| one.epoch > other.epoch;
        tokio::spawn(forward(control_plane.state(), self.process.states.clone(), newer));
        Ok(control_plane)
    }

    /// Tried for a while: the process that did not take over may hold the data directory until it ends.
    /// None when the node has been asked to leave meanwhile.
    pub(super) async fn start_again(&mut self, sockets: GivenSockets) -> anyhow::Result<Option<ControlPlane>> {
        let end = tokio::time::Instant::now() + BACK_WITHIN;
        let mut told = false;
        loop {
            let error = match sockets.try_clone() {
                Ok(sockets) => match self.start(sockets).await {
                    Ok(control_plane) => return Ok(Some(control_plane)),
                    Err(error) => error,
                },
                Err(error) => error.into(),
            };
            if tokio::time::Instant::now() > end {
                return Err(error);
            }
            if !told {
                warn!(error = format!("{error:#}"), "the control plane cannot start again yet; clients are served on");
                told = true;
            }
            tokio::select! {
                () = tokio::time::sleep(BACK_EVERY) => {}
                () = self.leave.requested() => return Ok(None),
            }
        }
    }
}

/// Passes on what is newer, of one control plane after the other: one that has just started has older ones
/// until it has read its log.
async fn forward<T: Clone>(mut from: watch::Receiver<T>, to: watch::Sender<T>, newer: impl Fn(&T, &T) -> bool) {
    loop {
        let next = from.borrow_and_update().clone();
        to.send_if_modified(|current| {
            let newer = newer(&next, current);
            if newer {
                current.clone_from(&next);
            }
            newer
        });
        if from.changed().await.is_err() {
            return;
        }
    }
}

/// The node's reports, of this process and of others that have clients.
async fn report(
    mut own: watch::Receiver<Option<NodeReport>>,
    mut others: watch::Receiver<Guests>,
    node: watch::Sender<NodeReport>,
) {
    loop {
        node.send_replace(merged(own.borrow_and_update().as_ref(), &others.borrow_and_update()));
        tokio::select! {
            Ok(()) = own.changed() => {}
            Ok(()) = others.changed() => {}
            // The process ends.
            else => return,
        }
    }
}

fn control_plane_config(
    config: &Config,
    sockets: GivenSockets,
    metrics: &MetricsSlot,
    leave: Leave,
) -> anyhow::Result<ControlPlaneConfig> {
    let token = config.admin.token.as_ref().map(|token| BearerToken::new(&String::from_utf8_lossy(token.bytes())));
    let token = token.transpose().context("the admin token cannot be used")?;
    Ok(ControlPlaneConfig {
        name: config.node.name.clone(),
        data_dir: config.node.data_dir.clone(),
        fleet: config.fleet.as_ref().map(|fleet| FleetConfig {
            listen: fleet.listen,
            advertise: fleet.advertise.to_string(),
            founders: fleet.founders.iter().map(ToString::to_string).collect(),
            credentials: credentials(&fleet.trust),
            join_token: fleet.join_token.as_ref().map(|token| String::from_utf8_lossy(token.bytes()).into_owned()),
        }),
        admin: AdminConfig { listen: config.admin.listen, advertise: admin_url(&config.admin), token },
        initial: config.initial.commands.clone(),
        metrics: Some(metrics.hook()),
        sockets,
        answers_from: Epoch(0),
        leave,
    })
}

fn credentials(trust: &config::PeerTrust) -> Credentials {
    match trust {
        config::PeerTrust::Secret { secret, previous } => Credentials::Secret {
            secret: secret.bytes().to_vec(),
            previous: previous.as_ref().map(|previous| previous.bytes().to_vec()),
        },
        config::PeerTrust::Given { authorities, own, name } => Credentials::Given(GivenFiles {
            authorities: authorities.clone(),
            certificate: own.certificate.clone(),
            key: own.key.clone(),
            name: name.clone(),
        }),
    }
}

/// Where people find the admin API: as configured, else where it listens if that is one address.
fn admin_url(admin: &config::Admin) -> Option<String> {
    let listens = (!admin.listen.ip().is_unspecified()).then(|| format!("http://{}", admin.listen));
    admin.advertise.clone().or(listens)
}

/// The place of the data plane's metrics in the control plane's, filled when there are any.
#[derive(Clone, Default)]
pub(super) struct MetricsSlot(Arc<std::sync::OnceLock<tidelock_balancer::Metrics>>);

impl MetricsSlot {
    pub(super) fn fill(&self, metrics: tidelock_balancer::Metrics) {
        let _ = self.0.set(metrics);
    }

    fn hook(&self) -> Arc<dyn Fn(&mut String) + Send + Sync> {
        let slot = self.0.clone();
        Arc::new(move |text| {
            if let Some(metrics) = slot.get() {
                metrics.write(text);
            }
        })
    }
}
