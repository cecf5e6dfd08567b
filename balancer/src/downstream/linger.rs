//! An HTTP/1.1 client's socket, with what hyper's server does not see to.
//!
//! A head that has begun must end in time, however slowly its bytes drip (H13); hyper has one
//! limit for the head and for the idle time before it. And a close does not destroy the response:
//! closing a TCP socket with unread bytes in it sends
//! RST, and the client may lose what it has not read yet (RFC 9112 section 9.6). So the writing
//! side closes first, and what still comes in is read and dropped for a bounded time.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::framing::FramingWatch;

pub(crate) struct Lingering<S> {
    stream: S,
    framing: FramingWatch,
    head_limit: Duration,
    /// There while a head that has begun waits for more.
    head: Option<Pin<Box<Sleep>>>,
    /// Bytes that are still read and dropped.
    left: u64,
    limit: Duration,
    closing: Option<Pin<Box<Sleep>>>,
}

impl<S> Lingering<S> {
    /// At its close, up to `bytes` are read and dropped for up to `limit`.
    pub(crate) fn new(
        stream: S,
        framing: FramingWatch,
        head_limit: Duration,
        bytes: u64,
        limit: Duration,
    ) -> Lingering<S> {
        Lingering { stream, framing, head_limit, head: None, left: bytes, limit, closing: None }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Lingering<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        if let Poll::Ready(read) = Pin::new(&mut this.stream).poll_read(cx, buf) {
            this.framing.read(&buf.filled()[before..]);
            if !this.framing.is_in_head() {
                this.head = None;
            }
            return Poll::Ready(read);
        }
        if this.framing.is_in_head() {
            let limit = this.head_limit;
            ready!(this.head.get_or_insert_with(|| Box::pin(sleep(limit))).as_mut().poll(cx));
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the request's head took too long")));
        }
        Poll::Pending
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Lingering<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.closing.is_none() {
            ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
        }
        let limit = this.limit;
        let timer = this.closing.get_or_insert_with(|| Box::pin(sleep(limit)));
        let mut dropped = [0; 4096];
        while timer.as_mut().poll(cx).is_pending() {
            if this.left == 0 {
                // Nothing more is read, but the socket stays: its end would take the rest of the
                // response along, which the client may still be reading.
                return Poll::Pending;
            }
            let mut buf = ReadBuf::new(&mut dropped);
            match Pin::new(&mut this.stream).poll_read(cx, &mut buf) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => {
                    this.left = this.left.saturating_sub(buf.filled().len() as u64);
                }
                Poll::Ready(_) => break,
            }
        }
        Poll::Ready(Ok(()))
    }
}
