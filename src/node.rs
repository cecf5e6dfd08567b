//! One node: both planes in one process, put together and taken apart in the right order.
//!
//! At the start the control plane comes first, and the listeners only when there is a table: a
//! client is never told "no such host" by a node that does not know yet. At the end the order is
//! turned round: unready, settle, drain the clients, hand over the leadership, stop.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tidelock_balancer::Balancer;
use tidelock_control_plane::{ControlPlane, GivenSockets, Leave, LeaveState};
use tidelock_core::id::{Epoch, NodeId};
use tidelock_core::table::Table;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::activation::Sockets;
use crate::config::{self, Config};
use crate::handover::{self, Link, Offer, Predecessor, Role};
use crate::successor;
use crate::systemd::{self, Told};

use wiring::Wiring;

mod wiring;

/// Threads for the control plane and the admin API; requests have the workers' own.
const CONTROL_THREADS: usize = 2;

/// Runs the node until it has left; an error ends the process with its text.
pub(crate) fn run(config: Config, take_over: bool) -> anyhow::Result<()> {
    crate::log::start();
    crate::descriptors::raise(config.limits.max_connections);
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

/// What came first.
enum Begun {
    Serves(Balancer),
    /// The process to take over from has gone back to service.
    TooLate,
    AskedToLeave,
}

async fn serve(config: Config, sockets: Sockets, predecessor: Option<Predecessor>) -> anyhow::Result<()> {
    let oldest = predecessor.as_ref().map_or(Epoch(0), |predecessor| predecessor.epoch);
    let mut wiring = Wiring::new(config, oldest);
    let mut link = predecessor.map(|predecessor| wiring.link(predecessor.stream, Role::Owner));
    if let Some(link) = &link {
        // Until this process serves the old one does: its word is the node's.
        link.first_report().await;
    }
    let mut control_plane = wiring.start(sockets.control_plane).await.context("the control plane cannot start")?;
    let (config, leave) = (wiring.config.clone(), wiring.leave.clone());
    watch_signals(leave.clone())?;
    successor::watch_signal()?;

    let mut table = wiring.table();
    let begun = tokio::select! {
        biased;
        () = revoked(&mut link) => Begun::TooLate,
        () = leave.requested() => Begun::AskedToLeave,
        () = first_table(&mut table, oldest) => {
            let balancer = balancer_config(&config, control_plane.node());
            Begun::Serves(Balancer::start_on(balancer, sockets.listeners, table).context("the data plane cannot start")?)
        }
        part = control_plane.failed() => anyhow::bail!("the control plane's {part} has ended"),
    };
    let mut balancer = match begun {
        Begun::Serves(balancer) => balancer,
        // It has never been the node's: the old one goes on.
        Begun::TooLate => {
            control_plane.shutdown().await;
            anyhow::bail!("the old process has gone back to service: this one was too late");
        }
        Begun::AskedToLeave if link.is_some() => {
            control_plane.shutdown().await;
            info!("ended before it had taken over");
            return Ok(());
        }
        Begun::AskedToLeave => {
            leave.advance(LeaveState::Left);
            control_plane.shutdown().await;
            return Ok(());
        }
    };
    for address in balancer.addresses() {
        info!(%address, "listening");
    }
    wiring.metrics.fill(balancer.metrics());
    wiring.serves(balancer.reports());

    // Other processes of this node, whose clients end.
    let mut others = JoinSet::new();
    if let Some(mut link) = link {
        if !link.takes_over().await {
            // Clients have come here already.
            control_plane.shutdown().await;
            link.release().await;
            end_clients(&config.drain, balancer).await;
            link.close().await;
            anyhow::bail!("the old process has gone back to service: this one was too late");
        }
        systemd::tell(Told::Ready);
        link.owns().await;
        others.spawn(async move {
            link.gone().await;
            info!("the old process has gone");
        });
    } else {
        systemd::tell(Told::Ready);
    }
    // Not before: until this process serves, the old one is asked.
    let offer = Offer::open(&config.node.data_dir);
    loop {
        let taker = tokio::select! {
            () = leave.requested() => break,
            part = control_plane.failed() => anyhow::bail!("the control plane's {part} has ended"),
            worker = balancer.failed() => anyhow::bail!("the data plane's {worker} has ended"),
            taker = offer.taker() => taker,
        };
        let (kept, passed) = match sockets_twice(&balancer, &control_plane) {
            Ok(sockets) => sockets,
            Err(error) => {
                warn!(%error, "the sockets cannot be passed to another process");
                continue;
            }
        };
        if !taker.is_there() {
            warn!("somebody has asked to take over, in vain: it has gone");
            continue;
        }
        info!("another process takes over: the control plane stops, clients are served on");
        control_plane.hand_leadership_over().await;
        control_plane.shutdown().await;
        let pid = taker.pid;
        let (stream, given) = taker.give(passed, wiring.epoch()).await.context("the connection to the new process")?;
        let mut link = wiring.link(stream, Role::Guest);
        let taken = match given {
            Err(error) => Err(error),
            Ok(()) => tokio::select! {
                taken = link.until_it_owns() => taken,
                () = leave.requested() => Err(io::Error::new(io::ErrorKind::Interrupted, "this node is to leave")),
                worker = balancer.failed() => anyhow::bail!("the data plane's {worker} has ended"),
            },
        };
        let Err(error) = taken else {
            // Whoever else has asked is to ask the new one, and what the new one does not listen on any
            // more is not kept open by this one.
            drop((offer, kept));
            info!("the new process serves: this one ends with what runs on it");
            end_clients(&config.drain, balancer).await;
            // The new one hears of them through this one only.
            let _ = tokio::time::timeout(config.drain.settle + config.drain.deadline, others.join_all()).await;
            link.close().await;
            info!("this process has handed over and ends");
            return Ok(());
        };
        warn!(%error, "the new process did not take over");
        link.revoke(pid).await;
        let again = tokio::select! {
            again = wiring.start_again(kept) => again,
            worker = balancer.failed() => anyhow::bail!("the data plane's {worker} has ended"),
        };
        match again {
            Ok(Some(again)) => control_plane = again,
            // Without a control plane: asked to leave meanwhile, or there is none to be had.
            ended => {
                systemd::tell(Told::Stopping);
                leave_clients(&config.drain, balancer).await;
                return ended.map(|_| ()).context("the control plane cannot start again");
            }
        }
        link.own();
        others.spawn(link.gone());
        info!("back in full service");
    }

    systemd::tell(Told::Stopping);
    leave_clients(&config.drain, balancer).await;
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
async fn revoked(link: &mut Option<Link>) {
    match link {
        Some(link) => link.revoked().await,
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
            max_new_connections_per_client: limits.max_new_connections_per_client,
            max_resets_per_client: limits.max_resets_per_client,
            max_resets_per_connection: limits.max_resets_per_connection,
            max_empty_frames_per_connection: limits.max_empty_frames_per_connection,
            max_control_frames_per_connection: limits.max_control_frames_per_connection,
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
            revoked: tls.client_crl.clone(),
            required: tls.client_auth == config::ClientAuth::Required,
        }),
    }
}
