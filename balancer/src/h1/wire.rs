//! A socket with what was read from it and is not used yet, and what waits to be written.
//! Buffers come and go: a connection that waits for its peer holds none, and one that has read little holds little.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::io::poll_read_buf;

use crate::outbox::{GATHER_MAX, Outbox};
use crate::socket::Socket;

/// What a read takes at first: a head and a small body.
const READ_MIN: usize = 8 * 1024;
/// What it takes when reads keep being filled.
const READ_MAX: usize = 128 * 1024;

thread_local! {
    /// Where first reads go: what they bring is mostly small, and is copied to a buffer of its size.
    static FIRST: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_MIN].into());
}

#[derive(Debug)]
pub(crate) struct Wire {
    socket: Socket,
    pub(crate) input: BytesMut,
    read_size: usize,
    outbox: Outbox,
    is_cut: bool,
}

impl Wire {
    /// `first` was read from the socket already.
    pub(crate) fn new(socket: Socket, first: &[u8]) -> Wire {
        Wire { socket, input: BytesMut::from(first), read_size: READ_MIN, outbox: Outbox::default(), is_cut: false }
    }

    /// Reads more into `input`; 0 bytes are the peer's end.
    pub(crate) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let (room, read) = if self.read_size == READ_MIN {
            (READ_MIN, FIRST.with_borrow_mut(|first| self.poll_read_first(first, cx)))
        } else {
            if self.input.capacity() - self.input.len() < READ_MIN / 4 {
                self.input.reserve(self.read_size);
            }
            let room = self.input.capacity() - self.input.len();
            (room, poll_read_buf(Pin::new(&mut self.socket), cx, &mut self.input))
        };
        match &read {
            Poll::Ready(Ok(n)) if *n == room => self.read_size = (self.read_size * 2).min(READ_MAX),
            Poll::Pending if self.input.is_empty() => {
                self.input = BytesMut::new();
                self.read_size = READ_MIN;
            }
            _ => {}
        }
        read
    }

    fn poll_read_first(&mut self, first: &mut [u8], cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut first = ReadBuf::new(first);
        ready!(Pin::new(&mut self.socket).poll_read(cx, &mut first))?;
        self.input.extend_from_slice(first.filled());
        Poll::Ready(Ok(first.filled().len()))
    }

    /// Where a head is written.
    pub(crate) fn buffer(&mut self) -> &mut Vec<u8> {
        self.outbox.buffer()
    }

    /// Puts a piece of a body behind what is there, with `tail` after it.
    pub(crate) fn push(&mut self, data: Bytes, tail: &[u8]) {
        self.outbox.push(data);
        if !tail.is_empty() {
            self.outbox.buffer().extend_from_slice(tail);
        }
    }

    /// Whether more may be put in before it is written.
    pub(crate) fn has_room(&self) -> bool {
        self.outbox.len() < GATHER_MAX
    }

    /// Writes all; ready too when the peer takes no more, which `is_broken` tells.
    pub(crate) fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.outbox.poll_drain(&mut self.socket, cx)
    }

    pub(crate) fn is_drained(&self) -> bool {
        self.outbox.is_done()
    }

    /// A write has failed: the peer takes no more.
    pub(crate) fn is_broken(&self) -> bool {
        self.outbox.is_broken()
    }

    /// Makes the connection's end a reset, however it comes: no peer takes that for the end of a body (H4).
    pub(crate) fn resets_on_end(&mut self, resets: bool) {
        if self.is_cut != resets {
            self.is_cut = resets;
            self.socket.reset_on_close(resets);
        }
    }

    /// Its end is to be a reset.
    pub(crate) fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// Ends the writing side.
    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx));
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
