//! The old process' side: it is asked for its sockets, and gives them.

use std::io::{self, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::net::{RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use tidelock_core::id::Epoch;
use tokio::net::UnixListener;
use tracing::warn;

use super::{ANSWERS_WITHIN, END, SOCKET, TAKE, path};

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
        blocking(move || taker.hear(TAKE).map(|()| taker)).await
    }
}

/// The new process, as the old one sees it.
pub(crate) struct Taker {
    stream: UnixStream,
    /// None if it cannot be seen from here.
    pub(crate) pid: Option<i32>,
}

impl Taker {
    /// Whether it still waits for an answer: it may have given up, or have ended.
    pub(crate) fn is_there(&self) -> bool {
        let mut byte = [0];
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        !matches!(rustix::net::recv(&self.stream, &mut byte, flags), Ok((_, 0)))
    }

    /// Gives it the sockets. The connection goes on, whatever became of that.
    pub(crate) async fn give(
        self,
        sockets: Vec<OwnedFd>,
        epoch: Epoch,
    ) -> io::Result<(tokio::net::UnixStream, io::Result<()>)> {
        let (taker, given) = blocking(move || {
            let given = self.pass(&sockets, epoch);
            Ok((self, given))
        })
        .await?;
        taker.stream.set_nonblocking(true)?;
        Ok((tokio::net::UnixStream::from_std(taker.stream)?, given))
    }

    fn pass(&self, sockets: &[OwnedFd], epoch: Epoch) -> io::Result<()> {
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
        (&self.stream).write_all(&last)
    }

    fn hear(&self, wanted: u8) -> io::Result<()> {
        self.stream.set_read_timeout(Some(ANSWERS_WITHIN))?;
        let mut byte = [0];
        match (&self.stream).read_exact(&mut byte) {
            Ok(()) if byte == [wanted] => Ok(()),
            Ok(()) => Err(io::Error::new(io::ErrorKind::InvalidData, "it says something else")),
            Err(error) => Err(error),
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}
