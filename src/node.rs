//! One node: both planes in one process, put together and taken apart in the right order.
//!
//! At the start the control plane comes first, and the listeners only when there is a table: a
//! client is never told "no such host" by a node that does not know yet. At the end the order is
//! turned round: unready, settle, drain the clients, hand over the leadership, stop.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tidelock_balancer::Balancer;
use tidelock_control_plane::{
    AdminConfig, BearerToken, ControlPlane, ControlPlaneConfig, Credentials, FleetConfig, GivenFiles, Leave, LeaveState,
};
use tidelock_core::id::{Epoch, NodeId};
use tidelock_core::report::NodeReport;
use tidelock_core::table::Table;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::config::{self, Config};
use crate::systemd::{self, Told};

/// Threads for the control plane and the admin API; requests have the workers' own.
const CONTROL_THREADS: usize = 2;

/// Runs the node until it has left; an error ends the process with its text.
pub(crate) fn run(config: Config) -> anyhow::Result<()> {
    logging();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .thread_name("control")
        .enable_all()
        .build()
        .context("cannot start the control plane's threads")?;
    let result = runtime.block_on(serve(config));
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

async fn serve(config: Config) -> anyhow::Result<()> {
    let (to_control_plane, reports) = watch::channel(NodeReport::default());
    let metrics = MetricsSlot::default();
    let mut control_plane = start_control_plane(&config, reports, &metrics).await?;
    let leave = control_plane.leave();
    watch_signals(leave.clone())?;

    let mut table = control_plane.table();
    let mut balancer = tokio::select! {
        () = first_table(&mut table) => {
            let balancer = Balancer::start(balancer_config(&config, control_plane.node()), table).context("the data plane cannot start")?;
            for address in balancer.addresses() {
                info!(%address, "listening");
            }
            metrics.fill(balancer.metrics());
            systemd::tell(Told::Ready);
            Some(balancer)
        }
        () = leave.requested() => None,
        part = control_plane.failed() => anyhow::bail!("the control plane's {part} has ended"),
    };
    if let Some(balancer) = &mut balancer {
        tokio::spawn(forward_reports(balancer.reports(), to_control_plane));
        tokio::select! {
            () = leave.requested() => {}
            part = control_plane.failed() => anyhow::bail!("the control plane's {part} has ended"),
            worker = balancer.failed() => anyhow::bail!("the data plane's {worker} has ended"),
        }
    }

    systemd::tell(Told::Stopping);
    if let Some(balancer) = balancer {
        leave_clients(&config.drain, balancer).await;
    }
    leave.advance(LeaveState::Left);
    info!("this node has left");
    control_plane.shutdown().await;
    Ok(())
}

async fn start_control_plane(
    config: &Config,
    reports: watch::Receiver<NodeReport>,
    metrics: &MetricsSlot,
) -> anyhow::Result<ControlPlane> {
    let token = config.admin.token.as_ref().map(|token| BearerToken::new(&String::from_utf8_lossy(token.bytes())));
    let token = token.transpose().context("the admin token cannot be used")?;
    let control_plane = ControlPlaneConfig {
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
    };
    ControlPlane::start(control_plane, reports).await.context("the control plane cannot start")
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

/// Waits for the first table by which sessions can be kept: before the fleet has agreed on a key
/// for its cookies, a session that begins would be lost at its next request.
async fn first_table(table: &mut watch::Receiver<Arc<Table>>) {
    // An error means that the control plane has ended, which is noticed elsewhere.
    if table.wait_for(|table| table.epoch > Epoch(0) && table.sealer.can_seal()).await.is_err() {
        std::future::pending().await
    }
}

/// Sends the clients away: first the readiness ends and balancers in front of this one notice,
/// then connections are told to go and end with what runs on them.
async fn leave_clients(drain: &config::Drain, balancer: Balancer) {
    info!(settle_ms = drain.settle.as_millis() as u64, "leaving: not ready any more, still accepting");
    tokio::time::sleep(drain.settle).await;
    info!(
        connections = balancer.open_connections(),
        deadline_ms = drain.deadline.as_millis() as u64,
        "leaving: no new connections, the open ones end with what runs on them"
    );
    if !balancer.end(drain.deadline).await {
        warn!("the deadline has cut what was left");
    }
}

async fn forward_reports(mut reports: watch::Receiver<NodeReport>, to: watch::Sender<NodeReport>) {
    loop {
        let report = reports.borrow_and_update().clone();
        to.send_replace(report);
        if reports.changed().await.is_err() {
            return;
        }
    }
}

/// SIGTERM and SIGINT ask the node to leave; a second one ends the process at once.
fn watch_signals(leave: Leave) -> anyhow::Result<()> {
    let mut term = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut int = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    tokio::spawn(async move {
        loop {
            let name = tokio::select! {
                _ = term.recv() => "SIGTERM",
                _ = int.recv() => "SIGINT",
            };
            if leave.state() != LeaveState::Serving {
                warn!(signal = name, "ending at once");
                std::process::exit(1);
            }
            info!(signal = name, "leaving; the same signal again ends the process at once");
            leave.request();
        }
    });
    Ok(())
}

fn balancer_config(config: &Config, node: NodeId) -> tidelock_balancer::Config {
    let listeners = config.listeners.iter().map(|listener| tidelock_balancer::ListenerConfig {
        address: listener.address.clone(),
        tls: listener.tls.as_ref().map(listener_tls),
        proxy_protocol: listener.proxy_protocol == config::ProxyProtocol::Required,
    });
    let (limits, timeouts) = (&config.limits, &config.timeouts);
    tidelock_balancer::Config {
        node,
        workers: config.node.workers,
        listeners: listeners.collect(),
        endpoint_identity: config.endpoint_tls.as_ref().map(tls_files),
        limits: tidelock_balancer::Limits {
            max_connections: limits.max_connections,
            max_connections_per_client: limits.max_connections_per_client,
            max_resets_per_connection: limits.max_resets_per_connection,
            min_upload_bytes_per_second: limits.min_upload_bytes_per_second as u64,
            max_streams_per_connection: limits.max_streams_per_connection,
            max_header_bytes: limits.max_header_bytes as u32,
            max_header_count: limits.max_header_count,
            max_path_bytes: limits.max_path_bytes,
            retry_body_bytes: limits.retry_body_bytes,
            early_response_drain_bytes: limits.early_response_drain_bytes as u64,
        },
        timeouts: tidelock_balancer::Timeouts {
            handshake: timeouts.handshake,
            request_head: timeouts.request_head,
            downstream_idle: timeouts.downstream_idle,
            early_response_drain: timeouts.early_response_drain,
            body_hold_back: timeouts.body_hold_back,
        },
        access_log: matches!(config.access_log, config::AccessLog::Json),
        trusted: config.trusted.clone(),
    }
}

fn tls_files(files: &config::CertificateFiles) -> tidelock_balancer::TlsFiles {
    tidelock_balancer::TlsFiles { certificate: files.certificate.clone(), key: files.key.clone() }
}

fn listener_tls(tls: &config::ListenerTls) -> tidelock_balancer::ListenerTls {
    tidelock_balancer::ListenerTls {
        certificates: tls.certificates.iter().map(tls_files).collect(),
        client_auth: tls.client_ca.as_ref().map(|authorities| tidelock_balancer::ClientAuth {
            authorities: authorities.clone(),
            required: tls.client_auth == config::ClientAuth::Required,
        }),
    }
}

/// The place of the data plane's metrics in the control plane's, filled when there are any.
#[derive(Clone, Default)]
struct MetricsSlot(Arc<std::sync::OnceLock<tidelock_balancer::Metrics>>);

impl MetricsSlot {
    fn fill(&self, metrics: tidelock_balancer::Metrics) {
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

/// Events of the node go to standard error; standard output is the access log's.
fn logging() {
    use std::io::IsTerminal;
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() {
        builder.with_target(false).init();
    } else {
        builder.json().flatten_event(true).init();
    }
}
