//! A socket whose small writes are gathered: all the frames of a connection's turn leave in one
//! system call.
//!
//! h2 writes frame by frame and flushes eagerly; with many small responses the kernel was half of
//! the cost of a request. Here a flush does nothing, and the task that polls the connection
//! drains once afterwards (measured: 1.8 to 2 times the requests a core). The drain must happen
//! in that same task: tokio keeps a single waker for writing, and another task would steal it.
//! Large pieces are not copied: they go out behind what was gathered, in one vectored write.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::outbox::{COPY_MAX, GATHER_MAX, Outbox};

/// Sees the bytes that were read, before the HTTP/2 layer does.
pub(crate) trait Tap {
    fn read(&self, bytes: &[u8]);
}

impl Tap for () {
    fn read(&self, _: &[u8]) {}
}

struct Inner<S> {
    stream: S,
    outbox: Outbox,
    /// What was read before the HTTP/2 layer began, to be read again.
    first: Bytes,
}

/// The half that a connection reads and writes.
pub(crate) struct Gathered<S, T = ()> {
    inner: Rc<RefCell<Inner<S>>>,
    tap: T,
}

/// The half that drains after the connection was polled.
pub(crate) struct Drainer<S> {
    inner: Rc<RefCell<Inner<S>>>,
}

/// `first` was read from the stream already.
pub(crate) fn gathered<S, T: Tap>(stream: S, first: Bytes, tap: T) -> (Gathered<S, T>, Drainer<S>) {
    let inner = Inner { stream, outbox: Outbox::default(), first };
    let inner = Rc::new(RefCell::new(inner));
    (Gathered { inner: inner.clone(), tap }, Drainer { inner })
}

impl<S: AsyncRead + AsyncWrite + Unpin> Inner<S> {
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.outbox.poll_drain(&mut self.stream, cx)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin, T: Tap + Unpin> AsyncRead for Gathered<S, T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let inner = &mut *self.inner.borrow_mut();
        if inner.first.is_empty() {
            ready!(Pin::new(&mut inner.stream).poll_read(cx, buf))?;
        } else {
            let length = inner.first.len().min(buf.remaining());
            buf.put_slice(&inner.first.split_to(length));
        }
        self.tap.read(&buf.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin, T: Tap + Unpin> AsyncWrite for Gathered<S, T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let inner = &mut *self.inner.borrow_mut();
        let length: usize = bufs.iter().map(|buf| buf.len()).sum();
        if length == 0 {
            return Poll::Ready(Ok(0));
        }
        if length > COPY_MAX || inner.outbox.len() + length > GATHER_MAX {
            return inner.outbox.poll_write_behind(&mut inner.stream, cx, bufs).map(Ok);
        }
        if !inner.outbox.is_broken() {
            let out = inner.outbox.buffer();
            for buf in bufs {
                out.extend_from_slice(buf);
            }
        }
        Poll::Ready(Ok(length))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Does nothing: the drainer writes when the connection's turn is over.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.inner.borrow_mut();
        ready!(inner.poll_drain(cx));
        Pin::new(&mut inner.stream).poll_shutdown(cx)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Drainer<S> {
    pub(crate) fn poll_drain(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.inner.borrow_mut().poll_drain(cx)
    }

    /// Polls `connection` and drains after each turn; ends with it, the last bytes written. A
    /// write error is left to the connection's next read, which meets it too.
    pub(crate) async fn drive<F: Future>(&self, connection: F) -> F::Output {
        let mut connection = pin!(connection);
        let output = poll_fn(|cx| {
            let turn = connection.as_mut().poll(cx);
            let _ = self.poll_drain(cx);
            turn
        })
        .await;
        poll_fn(|cx| self.poll_drain(cx)).await;
        output
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn small_writes_leave_when_drained_and_keep_their_order() {
        let (ours, mut theirs) = tokio::io::duplex(1 << 20);
        let (mut io, drainer) = gathered(ours, Bytes::new(), ());
        drainer
            .drive(async {
                io.write_all(b"one ").await.unwrap();
                io.flush().await.unwrap();
                io.write_all(b"two ").await.unwrap();
                io.write_all(&vec![b'x'; 3 * COPY_MAX]).await.unwrap();
                io.write_all(b" end").await.unwrap();
            })
            .await;
        let mut read = vec![0; 8 + 3 * COPY_MAX + 4];
        theirs.read_exact(&mut read).await.unwrap();
        assert!(read.starts_with(b"one two xxx") && read.ends_with(b"xxx end"));
    }

    #[tokio::test]
    async fn a_peer_that_does_not_read_holds_the_writer_back() {
        let (ours, mut theirs) = tokio::io::duplex(16);
        let (mut io, drainer) = gathered(ours, Bytes::new(), ());
        let mut write = pin!(drainer.drive(async { io.write_all(&vec![7; 4 * GATHER_MAX]).await.unwrap() }));
        assert!(poll_fn(|cx| Poll::Ready(write.as_mut().poll(cx).is_pending())).await);
        let mut read = vec![0; 4 * GATHER_MAX];
        let (_, done) = tokio::join!(write, theirs.read_exact(&mut read));
        done.unwrap();
        assert!(read.iter().all(|b| *b == 7));
    }

    /// A socket whose peer answered and closed: writing fails, reading does not yet.
    struct Answered(&'static [u8]);

    impl AsyncRead for Answered {
        fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            buf.put_slice(std::mem::take(&mut self.0));
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Answered {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn what_came_before_a_failed_write_can_be_read() {
        for length in [10, 3 * COPY_MAX] {
            let (mut io, drainer) = gathered(Answered(b"the answer"), Bytes::new(), ());
            let mut read = Vec::new();
            drainer.drive(async { io.write_all(&vec![7; length]).await.unwrap() }).await;
            drainer.drive(async { io.write_all(&vec![7; length]).await.unwrap() }).await;
            io.read_to_end(&mut read).await.unwrap();
            assert_eq!(read, b"the answer");
        }
    }
}
