//! The new process' side: it asks for the sockets.

use std::io::{self, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use tidelock_core::id::Epoch;
use tracing::info;

use super::{ANSWERS_WITHIN, END, SOCKET, TAKE, path};

/// The old process, as the new one sees it.
pub(crate) struct Predecessor {
    pub(crate) stream: tokio::net::UnixStream,
    /// The old one's table: with an older one, from the middle of the log, clients would be told that
    /// there is no such host.
    pub(crate) epoch: Epoch,
}

/// Asks the process that has the data directory for its sockets. None when there is nobody. Blocks; within a runtime.
pub(crate) fn take(data_dir: &Path) -> io::Result<Option<(Predecessor, Vec<OwnedFd>)>> {
    let stream = match UnixStream::connect(path(data_dir)) {
        Ok(stream) => stream,
        // The last: a path that is too long, where nobody can listen.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused | io::ErrorKind::InvalidInput
            ) =>
        {
            info!("no process to take over from: starting as usual");
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    // The old one has to end its control plane first.
    stream.set_read_timeout(Some(2 * ANSWERS_WITHIN))?;
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
                let mut epoch = [0; 8];
                (&stream).read_exact(&mut epoch)?;
                stream.set_nonblocking(true)?;
                let stream = tokio::net::UnixStream::from_std(stream)?;
                return Ok(Some((Predecessor { stream, epoch: Epoch(u64::from_be_bytes(epoch)) }, sockets)));
            }
            (_, _) => return Err(io::Error::new(io::ErrorKind::InvalidData, "the old process has changed its mind")),
        }
    }
}

fn rights(message: RecvAncillaryMessage<'_>) -> Vec<OwnedFd> {
    match message {
        RecvAncillaryMessage::ScmRights(fds) => fds.collect(),
        _ => Vec::new(),
    }
}
