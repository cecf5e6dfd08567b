//! What waits to be written to a socket: small pieces are gathered and leave in one system call,
//! large ones go out behind them without a copy.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;

/// Gathered bytes beyond this are written at once: it bounds the memory of a peer that does not
/// read, and is large enough that a turn of small frames stays one write.
pub(crate) const GATHER_MAX: usize = 64 * 1024;
/// Pieces above this size go out without a copy.
pub(crate) const COPY_MAX: usize = 8 * 1024;

/// The bytes gathered for one socket, which the caller passes in.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    out: Vec<u8>,
    /// How much of `out` has been written.
    written: usize,
    /// Something was written that the stream below may still hold (TLS).
    unflushed: bool,
    /// A write failed. What is written from here on is dropped: the peer may have answered before
    /// it closed, and that answer can still be read (H3, RFC 9112 section 9.5). The next read then
    /// meets the end.
    broken: bool,
}

impl Outbox {
    /// Bytes that have not been written.
    pub(crate) fn len(&self) -> usize {
        self.out.len() - self.written
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.broken
    }

    /// Where to put what goes out next.
    pub(crate) fn buffer(&mut self) -> &mut Vec<u8> {
        buffers::take(&mut self.out);
        &mut self.out
    }

    /// Writes all that was gathered; ready too when the peer takes no more.
    pub(crate) fn poll_drain<S: AsyncWrite + Unpin>(&mut self, stream: &mut S, cx: &mut Context<'_>) -> Poll<()> {
        if !self.broken && ready!(self.poll_write_out(stream, cx)).is_err() {
            self.broken = true;
        }
        if self.broken {
            self.written = 0;
            buffers::give_back(&mut self.out);
        }
        Poll::Ready(())
    }

    fn poll_write_out<S: AsyncWrite + Unpin>(&mut self, stream: &mut S, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.out.len() {
            let n = ready!(Pin::new(&mut *stream).poll_write(cx, &self.out[self.written..]))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += n;
            self.unflushed = true;
        }
        self.written = 0;
        buffers::give_back(&mut self.out);
        if self.unflushed {
            ready!(Pin::new(stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Writes what was gathered and `bufs` behind it; says how much of `bufs` went out, or was
    /// dropped since the peer takes no more.
    pub(crate) fn poll_write_behind<S: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<usize> {
        if !self.broken {
            match ready!(self.poll_write_both(stream, cx, bufs)) {
                Ok(n) => return Poll::Ready(n),
                Err(_) => self.broken = true,
            }
        }
        Poll::Ready(bufs.iter().map(|buf| buf.len()).sum())
    }

    fn poll_write_both<S: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            let gathered = self.len();
            let mut slices = [IoSlice::new(&[]); 8];
            slices[0] = IoSlice::new(&self.out[self.written..]);
            let mut count = 1;
            for (slot, buf) in slices[1..].iter_mut().zip(bufs) {
                *slot = IoSlice::new(buf);
                count += 1;
            }
            let n = ready!(Pin::new(&mut *stream).poll_write_vectored(cx, &slices[..count]))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unflushed = true;
            self.written += n.min(gathered);
            if n > gathered {
                self.out.clear();
                self.written = 0;
                return Poll::Ready(Ok(n - gathered));
            }
        }
    }
}

/// Buffers of this thread that no connection uses: an idle connection keeps none.
pub(crate) mod buffers {
    use std::cell::RefCell;

    use super::GATHER_MAX;

    const KEPT: usize = 32;

    thread_local! {
        static FREE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
    }

    pub(crate) fn take(buffer: &mut Vec<u8>) {
        if buffer.capacity() == 0 {
            let free = FREE.with_borrow_mut(Vec::pop);
            *buffer = free.unwrap_or_else(|| Vec::with_capacity(GATHER_MAX));
        }
    }

    pub(crate) fn give_back(buffer: &mut Vec<u8>) {
        if buffer.capacity() == 0 {
            return;
        }
        buffer.clear();
        let buffer = std::mem::take(buffer);
        if buffer.capacity() > 4 * GATHER_MAX {
            return;
        }
        FREE.with_borrow_mut(|free| {
            if free.len() < KEPT {
                free.push(buffer);
            }
        });
    }
}
