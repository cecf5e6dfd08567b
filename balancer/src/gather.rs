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

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Gathered bytes beyond this are written at once: it bounds the memory of a peer that does not
/// read, and is large enough that a turn of small frames stays one write.
const GATHER_MAX: usize = 64 * 1024;
/// Pieces of this size go out without a copy.
const COPY_MAX: usize = 8 * 1024;

/// Sees the bytes that were read, before the HTTP/2 layer does.
pub(crate) trait Tap {
    fn read(&self, bytes: &[u8]);
}

impl Tap for () {
    fn read(&self, _: &[u8]) {}
}

struct Inner<S> {
    stream: S,
    out: Vec<u8>,
    /// How much of `out` has been written.
    written: usize,
    /// Something was written that the stream below may still hold (TLS).
    unflushed: bool,
    /// A write failed. What is written from here on is dropped: the peer may have answered before
    /// it closed, and that answer can still be read (H3). The next read then meets the end.
    broken: bool,
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

pub(crate) fn gathered<S, T: Tap>(stream: S, tap: T) -> (Gathered<S, T>, Drainer<S>) {
    let inner = Inner { stream, out: Vec::new(), written: 0, unflushed: false, broken: false };
    let inner = Rc::new(RefCell::new(inner));
    (Gathered { inner: inner.clone(), tap }, Drainer { inner })
}

impl<S: AsyncRead + AsyncWrite + Unpin> Inner<S> {
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.broken && ready!(self.poll_write_out(cx)).is_err() {
            self.broken = true;
        }
        if self.broken {
            self.written = 0;
            buffers::give_back(&mut self.out);
        }
        Poll::Ready(())
    }

    fn poll_write_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.out.len() {
            let n = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.out[self.written..]))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += n;
            self.unflushed = true;
        }
        self.written = 0;
        buffers::give_back(&mut self.out);
        if self.unflushed {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Writes what was gathered and `bufs` behind it; says how much of `bufs` went out.
    fn poll_write_behind(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        loop {
            let gathered = self.out.len() - self.written;
            let mut slices = [IoSlice::new(&[]); 8];
            slices[0] = IoSlice::new(&self.out[self.written..]);
            let mut count = 1;
            for (slot, buf) in slices[1..].iter_mut().zip(bufs) {
                *slot = IoSlice::new(buf);
                count += 1;
            }
            let n = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, &slices[..count]))?;
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

impl<S: AsyncRead + AsyncWrite + Unpin, T: Tap + Unpin> AsyncRead for Gathered<S, T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.inner.borrow_mut().stream).poll_read(cx, buf))?;
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
        let mut inner = self.inner.borrow_mut();
        let length: usize = bufs.iter().map(|buf| buf.len()).sum();
        if length == 0 || inner.broken {
            return Poll::Ready(Ok(length));
        }
        let gathered = inner.out.len() - inner.written;
        if length > COPY_MAX || gathered + length > GATHER_MAX {
            return match ready!(inner.poll_write_behind(cx, bufs)) {
                Ok(written) => Poll::Ready(Ok(written)),
                Err(_) => {
                    inner.broken = true;
                    Poll::Ready(Ok(length))
                }
            };
        }
        buffers::take(&mut inner.out);
        for buf in bufs {
            inner.out.extend_from_slice(buf);
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

/// Buffers of this thread that no connection uses: an idle connection keeps none.
mod buffers {
    use std::cell::RefCell;

    use super::GATHER_MAX;

    const KEPT: usize = 32;

    thread_local! {
        static FREE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
    }

    pub(super) fn take(buffer: &mut Vec<u8>) {
        if buffer.capacity() == 0 {
            let free = FREE.with_borrow_mut(Vec::pop);
            *buffer = free.unwrap_or_else(|| Vec::with_capacity(GATHER_MAX));
        }
    }

    pub(super) fn give_back(buffer: &mut Vec<u8>) {
        if buffer.capacity() == 0 {
            return;
        }
        buffer.clear();
        let buffer = std::mem::take(buffer);
        FREE.with_borrow_mut(|free| {
            if free.len() < KEPT {
                free.push(buffer);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn small_writes_leave_when_drained_and_keep_their_order() {
        let (ours, mut theirs) = tokio::io::duplex(1 << 20);
        let (mut io, drainer) = gathered(ours, ());
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
        let (mut io, drainer) = gathered(ours, ());
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
            let (mut io, drainer) = gathered(Answered(b"the answer"), ());
            let mut read = Vec::new();
            drainer.drive(async { io.write_all(&vec![7; length]).await.unwrap() }).await;
            drainer.drive(async { io.write_all(&vec![7; length]).await.unwrap() }).await;
            io.read_to_end(&mut read).await.unwrap();
            assert_eq!(read, b"the answer");
        }
    }
}
