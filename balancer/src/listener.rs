//! Listening sockets: one for each worker on each address, by SO_REUSEPORT, so that the kernel
//! spreads connections and workers share nothing. Workers share a socket in the file system, which
//! has no such thing, and share those that they were given when there are fewer than workers.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener as StdListener};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener as StdUnixListener, UnixStream as StdUnixStream};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, UnixListener};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tracing::warn;

use crate::config::ListenAddress;
use crate::downstream;
use crate::socket::Stream;
use crate::tls::Handshakes;
use crate::worker::{Stage, Worker};

/// Connections that the kernel holds for us. It caps this at net.core.somaxconn.
const BACKLOG: i32 = 4_096;
/// How often it is said that connections cannot be accepted.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// A listening socket, before it is a worker's.
#[derive(Debug)]
pub enum Bound {
    Tcp(StdListener),
    Unix(StdUnixListener),
}

impl From<Bound> for OwnedFd {
    fn from(socket: Bound) -> OwnedFd {
        match socket {
            Bound::Tcp(listener) => listener.into(),
            Bound::Unix(listener) => listener.into(),
        }
    }
}

/// The sockets of each worker, and where they listen: the given ones, else newly bound ones.
pub(crate) fn bind_or_share(
    address: &ListenAddress,
    given: Vec<Bound>,
    workers: usize,
) -> io::Result<(ListenAddress, Vec<Vec<Bound>>)> {
    if let Some(first) = given.first() {
        return Ok((first.address()?, share(given, workers)?));
    }
    let (address, bound) = bind(address, workers)?;
    Ok((address, bound.into_iter().map(|socket| vec![socket]).collect()))
}

/// Binds the sockets of all workers, and says where. Port zero takes a free port, the same for each.
fn bind(address: &ListenAddress, workers: usize) -> io::Result<(ListenAddress, Vec<Bound>)> {
    match address {
        ListenAddress::Ip(address) => {
            let (address, sockets) = bind_tcp(*address, workers)?;
            Ok((ListenAddress::Ip(address), sockets))
        }
        ListenAddress::Unix(path) => Ok((address.clone(), bind_unix(path, workers)?)),
    }
}

/// Gives sockets that somebody else has bound to the workers. Each worker has one, and each socket
/// has a worker: one that nobody accepts from would let its part of the connections wait for ever.
fn share(given: Vec<Bound>, workers: usize) -> io::Result<Vec<Vec<Bound>>> {
    let mut shares: Vec<Vec<Bound>> = (0..workers).map(|_| Vec::new()).collect();
    for worker in given.len()..workers {
        shares[worker].push(given[worker % given.len()].try_clone()?);
    }
    for (index, socket) in given.into_iter().enumerate() {
        socket.set_nonblocking()?;
        shares[index % workers].push(socket);
    }
    Ok(shares)
}

/// Clones of the workers' sockets. Workers may share one: it comes twice then, which does no harm.
pub(crate) fn once_more(shares: &[Vec<Bound>]) -> io::Result<Vec<Bound>> {
    shares.iter().flatten().map(Bound::try_clone).collect()
}

impl Bound {
    pub fn address(&self) -> io::Result<ListenAddress> {
        match self {
            Bound::Tcp(listener) => listener.local_addr().map(ListenAddress::Ip),
            Bound::Unix(listener) => {
                let address = listener.local_addr()?;
                Ok(ListenAddress::Unix(address.as_pathname().map(Path::to_owned).unwrap_or_default()))
            }
        }
    }

    pub(crate) fn try_clone(&self) -> io::Result<Bound> {
        Ok(match self {
            Bound::Tcp(listener) => Bound::Tcp(listener.try_clone()?),
            Bound::Unix(listener) => Bound::Unix(listener.try_clone()?),
        })
    }

    fn set_nonblocking(&self) -> io::Result<()> {
        match self {
            Bound::Tcp(listener) => listener.set_nonblocking(true),
            Bound::Unix(listener) => listener.set_nonblocking(true),
        }
    }
}

fn bind_tcp(mut address: SocketAddr, workers: usize) -> io::Result<(SocketAddr, Vec<Bound>)> {
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
        sockets.push(Bound::Tcp(listener));
    }
    Ok((address, sockets))
}

fn bind_unix(path: &Path, workers: usize) -> io::Result<Vec<Bound>> {
    // What a process that ended has left behind; a socket that somebody listens on stays.
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    if is_socket && StdUnixStream::connect(path).is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused) {
        std::fs::remove_file(path)?;
    }
    let listener = StdUnixListener::bind(path)?;
    // Who may connect is the folder's to say: connecting takes the right to write, which most umasks take away.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))?;
    listener.set_nonblocking(true)?;
    (0..workers).map(|_| listener.try_clone().map(Bound::Unix)).collect()
}

/// A listening socket of a worker's runtime.
enum Acceptor {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Acceptor {
    fn new(bound: Bound) -> io::Result<Acceptor> {
        Ok(match bound {
            Bound::Tcp(listener) => Acceptor::Tcp(TcpListener::from_std(listener)?),
            Bound::Unix(listener) => Acceptor::Unix(UnixListener::from_std(listener)?),
        })
    }

    async fn accept(&self) -> io::Result<(Stream, SocketAddr)> {
        match self {
            Acceptor::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                let _ = stream.set_nodelay(true);
                Ok((Stream::Tcp(stream), peer))
            }
            Acceptor::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok((Stream::Unix(stream), (Ipv4Addr::LOCALHOST, 0).into()))
            }
        }
    }
}

/// One listening socket of one worker, and what its connections are served with.
pub(crate) struct Listener {
    pub(crate) socket: Bound,
    pub(crate) tls: Option<Arc<Handshakes>>,
    pub(crate) proxy_protocol: bool,
    /// Open connections of the node.
    pub(crate) open: Arc<AtomicUsize>,
}

impl Listener {
    /// Accepts until the node leaves; what the kernel holds by then is still served.
    pub(crate) async fn run(self, worker: Rc<Worker>, connections: TaskTracker) -> io::Result<()> {
        let Listener { socket, tls, proxy_protocol, open } = self;
        let acceptor = Acceptor::new(socket)?;
        let service = Service { tls, proxy_protocol, open };
        let mut stage = worker.stage.clone();
        let mut told: Option<Instant> = None;
        loop {
            let accepted = tokio::select! {
                biased;
                accepted = acceptor.accept() => accepted,
                _ = stage.wait_for(|stage| *stage >= Stage::Leaving) => return Ok(()),
            };
            match accepted {
                Ok((stream, peer)) => service.serve(&worker, &connections, stream, peer),
                Err(error) => {
                    // Out of file descriptors, or a connection that died in the queue: go on, not
                    // at full speed.
                    if told.is_none_or(|told| told.elapsed() > TELL_EVERY) {
                        warn!(%error, "accepting connections fails");
                        told = Some(Instant::now());
                    }
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
        }
    }
}

/// What a listener's connections are served with.
struct Service {
    tls: Option<Arc<Handshakes>>,
    proxy_protocol: bool,
    open: Arc<AtomicUsize>,
}

impl Service {
    fn serve(&self, worker: &Rc<Worker>, connections: &TaskTracker, stream: Stream, peer: SocketAddr) {
        let guard = OpenGuard::new(worker.clone(), self.open.clone());
        if guard.count > worker.config.limits.max_connections {
            worker.counters.connections_refused.add();
            return;
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_worker_has_a_given_socket_and_each_socket_a_worker() {
        for (given, workers) in [(1, 3), (2, 3), (3, 3), (5, 3), (3, 1)] {
            let sockets: Vec<Bound> =
                (0..given).map(|_| Bound::Tcp(StdListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap())).collect();
            let addresses: Vec<ListenAddress> = sockets.iter().map(|socket| socket.address().unwrap()).collect();
            let shares = share(sockets, workers).unwrap();
            assert_eq!(shares.len(), workers);
            assert!(shares.iter().all(|share| !share.is_empty()), "{given} sockets, {workers} workers");
            let accepted: Vec<ListenAddress> = shares.iter().flatten().map(|s| s.address().unwrap()).collect();
            assert!(addresses.iter().all(|address| accepted.contains(address)), "{given} sockets, {workers} workers");
        }
    }
}
