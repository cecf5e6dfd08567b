//! One node: both planes in one process, put together and taken apart in the right order.
//!
//! At the start the control plane comes first, and the listeners only when there is a table: a
//! client is never told "no such host" by a node that does not know yet. At the end the order is
//! turned round: unready, settle, drain the clients, hand over the leadership, stop.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tidelock_balancer::Balancer;
use tidelock_control_plane::{ControlPlane, GivenSockets, Leave, LeaveState};
use tidelock_core::id::{Epoch, NodeId};
use tidelock_core::report::NodeReport;
use tidelock_core::table::Table;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::activation::Sockets;
use crate::config::{self, Config};
use crate::handover::{self, Offer, Predecessor};
use crate::successor;
use crate::systemd::{self, Told};

use wiring::Wiring;

mod wiring;

/// Threads for the control plane and the admin API; requests have the workers' own.
const CONTROL_THREADS: usize = 2;

/// Runs the node until it has left; an error ends the process with its text.
pub(crate) fn run(config: Config, take_over: bool) -> anyhow::Result<()> {
    logging();
    // Before there is a second thread: it changes the environment.
    let sockets =
        Sockets::from_service_manager(&config).context("the sockets of the service manager cannot be used")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .thread_name("control")
        .enable_all()
        .build()
        .context("cannot start the control plane's threads")?;
    let taken = if take_over {
        let _within = runtime.enter();
        handover::take(&config.node.data_dir).context("cannot take over")?
    } else {
        None
    };
    let (predecessor, sockets) = match taken {
        None => (None, sockets),
        Some((predecessor, given)) => {
            let sockets =
                Sockets::from_predecessor(&config, given).context("the old process' sockets cannot be used")?;
            (Some(predecessor), sockets)
        }
    };
    let result = runtime.block_on(serve(config, sockets, predecessor));
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

async fn serve(config: Config, sockets: Sockets, mut predecessor: Option<Predecessor>) -> anyhow::Result<()> {
    // Until this process serves the old one does: its last word is the node's. It has no table that is
    // newer, so no drain counts as safe that began since.
    let last = predecessor.as_ref().map(|predecessor| predecessor.report.clone());
    let (to_control_plane, reports) = watch::channel(last.clone().unwrap_or_default());
    let (to_former, former) = watch::channel(last);
    let oldest = predecessor.as_ref().map_or(Epoch(0), |predecessor| predecessor.epoch);
    let mut wiring = Wiring::new(config, reports, oldest);
    let mut control_plane = wiring.start(sockets.control_plane).await.context("the control plane cannot start")?;
    let (config, leave) = (wiring.config.clone(), wiring.leave.clone());
    watch_signals(leave.clone())?;
    successor::watch_signal()?;

    let mut table = wiring.table.subscribe();
    let mut balancer = tokio::select! {
        () = first_table(&mut table, oldest) => {
            let balancer = balancer_config(&config, control_plane.node());
            let balancer = Balancer::start_on(balancer, sockets.listeners, table).context("the data plane cannot start")?;
            for address in balancer.addresses() {
                info!(%address, "listening");
            }
            wiring.metrics.fill(balancer.metrics());
            Some(balancer)
        }
        () = revoked(&mut predecessor) => anyhow::bail!("the old process has gone back to service: this one was late"),
        () = leave.requested() => None,
        part = control_plane.failed() => anyhow::bail!("the control plane's {part} has ended"),
    };
    let mut former_gone = None;
    if let Some(predecessor) = predecessor
        && let Some(serving) = balancer.take()
    {
        match predecessor.serving().await {
            Ok(former) => former_gone = Some(tokio::spawn(former.follow(to_former))),
            Err(error) => {
                // Clients have come here already.
                control_plane.shutdown().await;
                end_clients(&config.drain, serving).await;
                return Err(error);
            }
        }
        balancer = Some(serving);
    }
    if let Some(serving) = &mut balancer {
        systemd::tell(Told::Ready);
        // Not before: until this process serves, the old one is asked.
        let offer = Offer::open(&config.node.data_dir);
        tokio::spawn(forward_reports(serving.reports(), former, to_control_plane));
        loop {
            let taker = tokio::select! {
                () = leave.requested() => break,
                part = control_plane.failed() => anyhow::bail!("the control plane's {part} has ended"),
                worker = serving.failed() => anyhow::bail!("the data plane's {worker} has ended"),
                taker = offer.taker() => taker,
            };
            let (kept, passed) = match sockets_twice(serving, &control_plane) {
                Ok(sockets) => sockets,
                Err(error) => {
                    warn!(%error, "the sockets cannot be passed to another process");
                    continue;
                }
            };
            info!("another process takes over: the control plane stops, clients are served on");
            control_plane.hand_leadership_over().await;
            control_plane.shutdown().await;
            let epoch = wiring.table.borrow().epoch;
            // With what the process before this one has told of itself, if it is still there.
            let reports = wiring.reports.clone();
            let report = reports.borrow().clone();
            match taker.give(passed, epoch, report, leave.requested()).await {
                Ok(successor) => {
                    // Whoever else has asked is to ask the new one, and what the new one does not listen on any
                    // more is not kept open by this one.
                    drop((offer, kept));
                    tokio::spawn(successor.tell(reports));
                    let balancer = balancer.take().expect("it serves");
                    info!("the new process serves: this one ends with what runs on it");
                    end_clients(&config.drain, balancer).await;
                    if let Some(former_gone) = former_gone {
                        // The new one hears of it through this one only. It ends within its own deadline.
                        let _ = former_gone.await;
                    }
                    info!("this process has handed over and ends");
                    return Ok(());
                }
                Err(error) => warn!(%error, "the new process did not take over: going back to full service"),
            }
            match wiring.start_again(kept).await {
                Ok(Some(again)) => control_plane = again,
                // Without a control plane: asked to leave meanwhile, or there is none to be had.
                ended => {
                    let balancer = balancer.take().expect("it serves");
                    systemd::tell(Told::Stopping);
                    leave_clients(&config.drain, balancer).await;
                    return ended.map(|_| ()).context("the control plane cannot start again");
                }
            }
            info!("back in full service");
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

/// The control plane's listening sockets, to start it again on, and those of both planes for another process.
fn sockets_twice(balancer: &Balancer, control_plane: &ControlPlane) -> std::io::Result<(GivenSockets, Vec<OwnedFd>)> {
    let kept = control_plane.sockets()?;
    let GivenSockets { admin, peers } = kept.try_clone()?;
    let mut passed: Vec<OwnedFd> = balancer.sockets()?.into_iter().map(OwnedFd::from).collect();
    passed.extend(admin.into_iter().chain(peers).map(OwnedFd::from));
    Ok((kept, passed))
}

/// Never without a process to take over from.
async fn revoked(predecessor: &mut Option<Predecessor>) {
    match predecessor {
        Some(predecessor) => predecessor.revoked().await,
        None => std::future::pending().await,
    }
}

/// Waits for the first table by which sessions can be kept: before the fleet has agreed on a key
/// for its cookies, a session that begins would be lost at its next request.
async fn first_table(table: &mut watch::Receiver<Arc<Table>>, oldest: Epoch) {
    // An error means that the control plane has ended, which is noticed elsewhere.
    if table.wait_for(|table| table.epoch >= oldest.max(Epoch(1)) && table.sealer.can_seal()).await.is_err() {
        std::future::pending().await
    }
}

/// Sends the clients away: first the readiness ends and balancers in front of this one notice,
/// then connections are told to go and end with what runs on them.
async fn leave_clients(drain: &config::Drain, balancer: Balancer) {
    info!(settle_ms = drain.settle.as_millis() as u64, "leaving: not ready any more, still accepting");
    tokio::time::sleep(drain.settle).await;
    end_clients(drain, balancer).await;
}

/// Connections are told to go, and end with what runs on them.
async fn end_clients(drain: &config::Drain, balancer: Balancer) {
    info!(
        connections = balancer.open_connections(),
        deadline_ms = drain.deadline.as_millis() as u64,
        "leaving: no new connections, the open ones end with what runs on them"
    );
    if !balancer.end(drain.deadline).await {
        warn!("the deadline has cut what was left");
    }
}

/// Reports of this process, and of the one before it for as long as that serves.
async fn forward_reports(
    mut reports: watch::Receiver<NodeReport>,
    mut former: watch::Receiver<Option<NodeReport>>,
    to: watch::Sender<NodeReport>,
) {
    let (mut ended, mut gone) = (false, false);
    loop {
        let report = reports.borrow_and_update().clone();
        let former_report = former.borrow_and_update().clone();
        // Until there is a word of this process, the old one's last stands.
        if report.epoch.is_some() {
            to.send_replace(handover::both(report, former_report.as_ref()));
        }
        tokio::select! {
            changed = reports.changed(), if !ended => ended = changed.is_err(),
            changed = former.changed(), if !gone => gone = changed.is_err(),
            // The sender ends: nothing more is to be told.
            else => return,
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
