//! Listening sockets: one for each worker on each address, by SO_REUSEPORT, so that the kernel
//! spreads connections and workers share nothing.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;
use tracing::warn;

use crate::downstream;
use crate::worker::{Stage, Worker};

/// Connections that the kernel holds for us. It caps this at net.core.somaxconn.
const BACKLOG: i32 = 4_096;

/// Binds the sockets of all workers. Port zero takes a free port, the same for each.
pub(crate) fn bind(address: SocketAddr, workers: usize) -> io::Result<Vec<StdListener>> {
    let mut address = address;
    let mut sockets = Vec::with_capacity(workers);
    for _ in 0..workers {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        let listener = StdListener::from(socket);
        address = listener.local_addr()?;
        sockets.push(listener);
    }
    Ok(sockets)
}

/// One listening socket of one worker, and what its connections are served with.
pub(crate) struct Listener {
    pub(crate) socket: StdListener,
    pub(crate) tls: Option<Arc<TlsAcceptor>>,
    pub(crate) proxy_protocol: bool,
    /// Open connections of the node.
    pub(crate) open: Arc<AtomicUsize>,
}

impl Listener {
    /// Accepts until the node leaves; what the kernel holds by then is still served.
    pub(crate) async fn run(self, worker: Rc<Worker>, connections: TaskTracker) -> io::Result<()> {
        let listener = TcpListener::from_std(self.socket.try_clone()?)?;
        let mut stage = worker.stage.clone();
        loop {
            let accepted = tokio::select! {
                biased;
                accepted = listener.accept() => accepted,
                _ = stage.wait_for(|stage| *stage >= Stage::Leaving) => return Ok(()),
            };
            match accepted {
                Ok((stream, peer)) => self.serve(&worker, &connections, stream, peer),
                Err(error) => {
                    // Out of file descriptors, or a connection that died in the queue: go on, not
                    // at full speed.
                    warn!(%error, "accepting a connection failed");
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
        }
    }

    fn serve(&self, worker: &Rc<Worker>, connections: &TaskTracker, stream: tokio::net::TcpStream, peer: SocketAddr) {
        let guard = OpenGuard::new(worker.clone(), self.open.clone());
        if guard.count > worker.config.limits.max_connections {
            worker.counters.connections_refused.add();
            return;
        }
        let _ = stream.set_nodelay(true);
        let (worker, tls, proxy_protocol) = (worker.clone(), self.tls.clone(), self.proxy_protocol);
        connections.spawn_local(async move {
            downstream::serve(worker, stream, peer, tls, proxy_protocol).await;
            drop(guard);
        });
    }
}

/// Counts a connection for as long as it is open.
struct OpenGuard {
    worker: Rc<Worker>,
    open: Arc<AtomicUsize>,
    count: usize,
}

impl OpenGuard {
    fn new(worker: Rc<Worker>, open: Arc<AtomicUsize>) -> OpenGuard {
        worker.counters.connections_total.add();
        worker.counters.connections.add();
        let count = open.fetch_add(1, Ordering::Relaxed) + 1;
        OpenGuard { worker, open, count }
    }
}

impl Drop for OpenGuard {
    fn drop(&mut self) {
        self.worker.counters.connections.subtract();
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}
