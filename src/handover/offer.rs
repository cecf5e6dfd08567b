//! A new process takes over on the same host: the old one gives it the listening sockets themselves,
//! so no connection is refused and none that waits in a queue is lost.
//!
//! They meet at a socket in the data directory. What passes, byte by byte, from the new to the old
//! and back:
//!
//!     new  T              I want to take over (my configuration is good)
//!     old  S + socket ... each listening socket, then E, my table's epoch and my last report: my control
//!                         plane has stopped
//!     new  R              I serve clients
//!     old  L              it is yours, I leave; then a report a line until I have gone
//!     old  X              too late, I have gone back: end
//!
//! Until L the old process answers for the node: if the new one ends or is late it starts its control
//! plane again. Its data plane has gone on all the time. One that does not end after X is killed, for it
//! may hold the data directory.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::{Duration, Instant};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};
use tidelock_core::id::Epoch;
use tidelock_core::report::NodeReport;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio::sync::watch;
use tracing::{info, warn};

/// Between the moment the new process has the sockets and its word that it serves. Reading the log
/// and compiling the table take well below a second; then the old one goes back to full service.
const SERVES_WITHIN: Duration = Duration::from_secs(30);
/// For every other step: the other side has only to write what it has.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);
/// From the word that it is too late. A process that works ends well before.
const ENDS_WITHIN: Duration = Duration::from_secs(5);
/// No report is as long: a line for each endpoint.
const REPORT_MAX: usize = 64 << 20;

const TAKE: u8 = b'T';
const SOCKET: u8 = b'S';
const END: u8 = b'E';
const SERVING: u8 = b'R';
const LEAVING: u8 = b'L';
const REVOKED: u8 = b'X';

fn path(data_dir: &Path) -> PathBuf {
    data_dir.join("handover.sock")
}

/// Where a new process asks this one.
pub(crate) struct Offer(Option<UnixListener>);

impl Offer {
    /// To be called by the process that holds the data directory: what it finds there is a former one's.
    /// A node that cannot listen there (a path above 107 bytes) serves all the same, without a successor.
    pub(crate) fn open(data_dir: &Path) -> Offer {
        let listener = Offer::listen(&path(data_dir));
        if let Err(error) = &listener {
            warn!(%error, "no process can take over from this one: it cannot listen in the data directory");
        }
        Offer(listener.ok())
    }

    fn listen(path: &Path) -> io::Result<UnixListener> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        Ok(listener)
    }

    /// The next process that may take over and says that it wants to.
    pub(crate) async fn taker(&self) -> Taker {
        let Some(listener) = &self.0 else { return std::future::pending().await };
        loop {
            match Offer::asked(listener).await {
                Ok(taker) => return taker,
                Err(error) => {
                    warn!(%error, "somebody has asked to take over, in vain");
                    // A failing accept must not spin.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn asked(listener: &UnixListener) -> io::Result<Taker> {
        let (stream, _) = listener.accept().await?;
        // The file's mode keeps others out; this holds where the mode was changed.
        let peer = stream.peer_cred()?;
        let uid = peer.uid();
        if uid != 0 && uid != rustix::process::geteuid().as_raw() {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("user {uid} may not")));
        }
        let stream = stream.into_std()?;
        stream.set_nonblocking(false)?;
        stream.set_write_timeout(Some(ANSWERS_WITHIN))?;
        let taker = Taker { stream, pid: peer.pid() };
        blocking(move || taker.expect(TAKE, ANSWERS_WITHIN).map(|()| taker)).await
    }
}

/// The new process, as the old one sees it.
pub(crate) struct Taker {
    stream: UnixStream,
    /// None if it cannot be seen from here.
    pid: Option<i32>,
}

impl Taker {
    /// Gives it the sockets and waits until it serves. From then on the node is its.
    ///
    /// `cancelled`: the node shall end, so nobody takes over. What the other process says is not heard any more.
    pub(crate) async fn give(
        self,
        sockets: Vec<OwnedFd>,
        epoch: Epoch,
        report: NodeReport,
        cancelled: impl Future<Output = ()>,
    ) -> io::Result<Successor> {
        let ear = self.stream.try_clone()?;
        let mut given = pin!(blocking(move || {
            let given = self.pass(&sockets, epoch, &report).and_then(|()| self.expect(SERVING, SERVES_WITHIN));
            match given.and_then(|()| (&self.stream).write_all(&[LEAVING])) {
                Ok(()) => Ok(Successor(self.stream)),
                Err(error) => {
                    self.revoke();
                    Err(error)
                }
            }
        }));
        tokio::select! {
            given = &mut given => return given,
            () = cancelled => {}
        }
        ear.shutdown(Shutdown::Read)?;
        given.await
    }

    /// Returns when the other process has ended or cannot be helped.
    fn revoke(&self) {
        // It may have gone, which is as good.
        let _ = (&self.stream).write_all(&[REVOKED]);
        if self.has_gone() {
            return;
        }
        // It is the one that we know: its end of the stream is open.
        if let Some(pid) = self.pid.and_then(rustix::process::Pid::from_raw) {
            warn!(pid = pid.as_raw_nonzero(), "the process that did not take over does not end: it is killed");
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            self.has_gone();
        }
    }

    /// Its end of the stream is closed, or is within a moment.
    fn has_gone(&self) -> bool {
        let end = Instant::now() + ENDS_WITHIN;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || self.stream.set_read_timeout(Some(left)).is_err() {
                return false;
            }
            // What it says meanwhile is too late.
            match read_byte(&self.stream) {
                Ok(_) => {}
                Err(error) => return error.kind() != io::ErrorKind::WouldBlock,
            }
        }
    }

    fn pass(&self, sockets: &[OwnedFd], epoch: Epoch, report: &NodeReport) -> io::Result<()> {
        let stream = &self.stream;
        for socket in sockets {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            let fds = [socket.as_fd()];
            assert!(control.push(SendAncillaryMessage::ScmRights(&fds)), "the space is for one descriptor");
            rustix::net::sendmsg(stream, &[IoSlice::new(&[SOCKET])], &mut control, SendFlags::NOSIGNAL)?;
        }
        let mut last = vec![END];
        last.extend(epoch.0.to_be_bytes());
        let report = serde_json::to_vec(report)?;
        last.extend((report.len() as u64).to_be_bytes());
        last.extend(report);
        (&self.stream).write_all(&last)
    }

    fn expect(&self, wanted: u8, within: Duration) -> io::Result<()> {
        self.stream.set_read_timeout(Some(within))?;
        match read_byte(&self.stream) {
            Ok(byte) if byte == wanted => Ok(()),
            Ok(_) => Err(io::Error::new(io::ErrorKind::InvalidData, "it says something else")),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Err(io::Error::new(io::ErrorKind::TimedOut, format!("it has said nothing for {} s", within.as_secs())))
            }
            Err(error) => Err(error),
        }
    }
}

/// The new process when it serves: it is told what is left here, so that no drain counts as safe too
/// early.
pub(crate) struct Successor(UnixStream);

impl Successor {
    /// Ends with the other process; dropped with this one, which tells it that nothing is left.
    pub(crate) async fn tell(self, mut reports: watch::Receiver<NodeReport>) {
        let told = async {
            self.0.set_nonblocking(true)?;
            let mut stream = tokio::net::UnixStream::from_std(self.0)?;
            loop {
                let mut line = serde_json::to_vec(&*reports.borrow_and_update())?;
                line.push(b'\n');
                stream.write_all(&line).await?;
                if reports.changed().await.is_err() {
                    // The stream stays open: its end says that this process has gone.
                    std::future::pending::<()>().await;
                }
            }
        };
        let told: io::Result<()> = told.await;
        if let Err(error) = told {
            warn!(%error, "the new process is not told what is left here");
        }
    }
}

/// The old process, as the new one sees it.
pub(crate) struct Predecessor {
    stream: tokio::net::UnixStream,
    /// It has ended, or says what it should not.
    gone: Option<io::Error>,
    /// Its last one as the owner of the control plane: what runs on it.
    pub(crate) report: NodeReport,
    /// The old one's table: with an older one, from the middle of the log, clients would be told that
    /// there is no such host.
    pub(crate) epoch: Epoch,
}

/// Asks the process that has the data directory for its sockets. None when there is nobody. Blocks; within a runtime.
pub(crate) fn take(data_dir: &Path) -> io::Result<Option<(Predecessor, Vec<OwnedFd>)>> {
    let stream = match UnixStream::connect(path(data_dir)) {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            info!("no process to take over from: starting as usual");
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    stream.set_read_timeout(Some(ANSWERS_WITHIN))?;
    (&stream).write_all(&[TAKE])?;
    let mut sockets = Vec::new();
    loop {
        let mut byte = [0];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received =
            rustix::net::recvmsg(&stream, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
        match (received.bytes, byte[0]) {
            (0, _) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the old process has ended")),
            (_, SOCKET) => {
                let before = sockets.len();
                sockets.extend(control.drain().flat_map(rights));
                // Out of descriptors the kernel drops it, and whoever waits in its queue would wait for ever.
                if sockets.len() == before {
                    return Err(io::Error::other("a socket has not arrived: is LimitNOFILE too low?"));
                }
            }
            (_, END) => {
                let epoch = Epoch(read_u64(&stream)?);
                let length = usize::try_from(read_u64(&stream)?).ok().filter(|length| *length <= REPORT_MAX);
                let mut report = vec![0; length.ok_or(io::ErrorKind::InvalidData)?];
                (&stream).read_exact(&mut report)?;
                let report = serde_json::from_slice(&report)?;
                stream.set_nonblocking(true)?;
                let stream = tokio::net::UnixStream::from_std(stream)?;
                return Ok(Some((Predecessor { stream, gone: None, report, epoch }, sockets)));
            }
            (_, _) => return Err(io::Error::new(io::ErrorKind::InvalidData, "the old process says something else")),
        }
    }
}

fn rights(message: RecvAncillaryMessage<'_>) -> Vec<OwnedFd> {
    match message {
        RecvAncillaryMessage::ScmRights(fds) => fds.collect(),
        _ => Vec::new(),
    }
}

impl Predecessor {
    /// Returns when the old process has gone back to service: this one must end then. Where the old one has
    /// ended the node is this one's, and this never returns.
    pub(crate) async fn revoked(&mut self) {
        match self.stream.read_u8().await {
            Ok(_) => return,
            Err(error) => self.gone = Some(error),
        }
        std::future::pending().await
    }

    /// Says that this process serves. An error is the old one's word that it has gone back; one that
    /// has ended meanwhile leaves the node to this one.
    pub(crate) async fn serving(mut self) -> anyhow::Result<Former> {
        let answer = match self.gone.take() {
            Some(error) => Err(error),
            None => match self.stream.write_u8(SERVING).await {
                Ok(()) => self.stream.read_u8().await,
                Err(error) => Err(error),
            },
        };
        match answer {
            Ok(LEAVING) => Ok(Former(Some(self.stream))),
            Ok(_) => anyhow::bail!("the old process has gone back to service: this one was too late"),
            Err(error) => {
                warn!(%error, "the old process has ended without a word: the node is this one's");
                Ok(Former(None))
            }
        }
    }
}

/// The old process on its way out.
pub(crate) struct Former(Option<tokio::net::UnixStream>);

impl Former {
    /// Passes its reports on until it has gone, then `None`.
    pub(crate) async fn follow(self, to: watch::Sender<Option<NodeReport>>) {
        if let Some(stream) = self.0
            && let Err(error) = read_reports(stream, &to).await
        {
            warn!(%error, "the old process' reports break off");
        }
        info!("the old process has gone");
        to.send_replace(None);
    }
}

async fn read_reports(stream: tokio::net::UnixStream, to: &watch::Sender<Option<NodeReport>>) -> io::Result<()> {
    let mut lines = tokio::io::BufReader::new(stream).lines();
    while let Some(line) = lines.next_line().await? {
        to.send_replace(Some(serde_json::from_str(&line)?));
    }
    Ok(())
}

/// What this node reports while the old process still serves: what runs on either, and the lower epoch,
/// so that no drain is called safe by a table that the old one does not have.
pub(crate) fn both(mut own: NodeReport, former: Option<&NodeReport>) -> NodeReport {
    if let Some(former) = former {
        own.epoch = own.epoch.zip(former.epoch).map(|(own, former)| own.min(former));
        for (endpoint, counts) in &former.endpoints {
            *own.endpoints.entry(*endpoint).or_default() += *counts;
        }
    }
    own
}

fn read_u64(mut stream: &UnixStream) -> io::Result<u64> {
    let mut bytes = [0; 8];
    stream.read_exact(&mut bytes).map(|()| u64::from_be_bytes(bytes))
}

fn read_byte(mut stream: &UnixStream) -> io::Result<u8> {
    let mut byte = [0];
    stream.read_exact(&mut byte).map(|()| byte[0])
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use tidelock_core::id::EndpointId;
    use tidelock_core::report::Counts;

    use super::*;

    #[test]
    fn a_report_of_both_has_the_lower_epoch_and_all_that_runs() {
        let report = |epoch: Option<u64>, requests| NodeReport {
            epoch: epoch.map(Epoch),
            endpoints: [(EndpointId(1), Counts { requests, ..Counts::default() })].into(),
            ..NodeReport::default()
        };
        assert_eq!(both(report(Some(9), 2), Some(&report(Some(7), 3))), report(Some(7), 5));
        assert_eq!(both(report(Some(9), 2), Some(&report(None, 0))), report(None, 2), "it has not said yet");
        assert_eq!(both(report(Some(9), 2), None), report(Some(9), 2));
    }
}
