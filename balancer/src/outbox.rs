//! What waits to be written to a socket: small pieces are gathered in one buffer and leave in one system call, large ones
//! lie between without a copy.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::AsyncWrite;

/// What waits beyond this makes its source wait: it bounds the memory of a peer that does not read, and is large enough
/// that a turn of small frames stays one write.
pub(crate) const GATHER_MAX: usize = 64 * 1024;
/// Pieces above this size are not copied.
const COPY_MAX: usize = 8 * 1024;
/// Pieces in one system call.
const SLICES: usize = 32;

/// The bytes that wait for one socket, which the caller passes in.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    /// What comes before `last`.
    pieces: VecDeque<Bytes>,
    /// How many bytes those have.
    in_pieces: usize,
    last: Vec<u8>,
    /// How much of `last` has been written.
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
        self.in_pieces + self.last.len() - self.written
    }

    /// Whether nothing is left to be written, by the stream below neither.
    pub(crate) fn is_done(&self) -> bool {
        self.len() == 0 && !self.unflushed
    }

    /// A write has failed: the peer takes no more.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken
    }

    /// Where to put what goes out behind all that is there; nothing may be taken from it.
    pub(crate) fn buffer(&mut self) -> &mut Vec<u8> {
        buffers::take(&mut self.last);
        &mut self.last
    }

    pub(crate) fn push(&mut self, data: Bytes) {
        if data.len() <= COPY_MAX {
            return self.buffer().extend_from_slice(&data);
        }
        if self.last.len() > self.written {
            // Mostly the piece's own head: copied, so that the buffer stays.
            let before = Bytes::copy_from_slice(&self.last[self.written..]);
            self.in_pieces += before.len();
            self.pieces.push_back(before);
        }
        self.last.clear();
        self.written = 0;
        self.in_pieces += data.len();
        self.pieces.push_back(data);
    }

    /// Writes all; ready too when the peer takes no more.
    pub(crate) fn poll_drain<S: AsyncWrite + Unpin>(&mut self, socket: &mut S, cx: &mut Context<'_>) -> Poll<()> {
        if !self.broken && ready!(self.poll_write_out(socket, cx)).is_err() {
            self.broken = true;
        }
        if self.broken {
            self.pieces.clear();
            self.in_pieces = 0;
            self.unflushed = false;
            self.clear();
        }
        Poll::Ready(())
    }

    fn poll_write_out<S: AsyncWrite + Unpin>(&mut self, socket: &mut S, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.len() > 0 {
            let n = if self.pieces.is_empty() {
                ready!(Pin::new(&mut *socket).poll_write(cx, &self.last[self.written..]))?
            } else {
                let mut slices = [IoSlice::new(&[]); SLICES];
                let last = &self.last[self.written..];
                let all = self.pieces.iter().map(|piece| &piece[..]).chain([last]);
                let count = slices.iter_mut().zip(all).map(|(slice, piece)| *slice = IoSlice::new(piece)).count();
                ready!(Pin::new(&mut *socket).poll_write_vectored(cx, &slices[..count]))?
            };
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unflushed = true;
            self.wrote(n);
        }
        self.clear();
        if self.unflushed {
            ready!(Pin::new(socket).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn wrote(&mut self, mut n: usize) {
        while let Some(first) = self.pieces.front_mut() {
            let of_first = n.min(first.len());
            first.advance(of_first);
            self.in_pieces -= of_first;
            n -= of_first;
            if !first.is_empty() {
                return;
            }
            self.pieces.pop_front();
        }
        self.written += n;
        if self.written >= GATHER_MAX {
            // A peer that always takes a part leaves the rest at the buffer's beginning.
            self.last.drain(..std::mem::take(&mut self.written));
        }
    }

    fn clear(&mut self) {
        self.written = 0;
        buffers::give_back(&mut self.last);
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

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use proptest::prelude::*;
    use tokio::io::AsyncReadExt;

    use super::*;

    /// Takes a part of what is there each time, and has something left to flush the first time that it is asked.
    #[derive(Default)]
    struct Slow {
        taken: usize,
        flushes: usize,
        is_full: bool,
    }

    impl AsyncWrite for Slow {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            if std::mem::replace(&mut self.is_full, true) {
                return Poll::Pending;
            }
            let length = buf.len().min(50_000);
            self.taken += length;
            Poll::Ready(Ok(length))
        }

        fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.flushes += 1;
            if self.flushes == 1 { Poll::Pending } else { Poll::Ready(Ok(())) }
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// TLS takes bytes before its socket does: all is written when they have gone out there, too.
    #[tokio::test]
    async fn what_the_stream_below_holds_is_not_forgotten() {
        let (mut slow, mut outbox) = (Slow::default(), Outbox::default());
        let cx = &mut Context::from_waker(std::task::Waker::noop());
        outbox.push(Bytes::from_static(b"the end"));
        assert!(outbox.poll_drain(&mut slow, cx).is_pending());
        assert!(outbox.len() == 0 && !outbox.is_done());
        assert!(outbox.poll_drain(&mut slow, cx).is_ready());
        assert!(outbox.is_done() && slow.flushes == 2);
    }

    /// One that has grown is not kept for others.
    #[tokio::test]
    async fn a_buffer_that_has_grown_is_let_go() {
        let mut outbox = Outbox::default();
        outbox.buffer().extend_from_slice(&[0; 1 << 20]);
        poll_fn(|cx| outbox.poll_drain(&mut tokio::io::sink(), cx)).await;
        assert!(outbox.is_done() && outbox.buffer().capacity() <= 4 * GATHER_MAX);
    }

    /// A peer that never takes all does not make the buffer grow.
    #[tokio::test]
    async fn what_has_been_written_is_let_go() {
        let (mut slow, mut outbox) = (Slow::default(), Outbox::default());
        let cx = &mut Context::from_waker(std::task::Waker::noop());
        for _ in 0..1_000 {
            while outbox.len() < GATHER_MAX {
                outbox.push(Bytes::from_static(&[0; COPY_MAX]));
            }
            slow.is_full = false;
            assert!(outbox.poll_drain(&mut slow, cx).is_pending());
            assert!(outbox.last.len() < 3 * GATHER_MAX, "{}", outbox.last.len());
        }
        assert!(slow.taken > 40_000_000);
    }

    proptest! {
        /// Whatever is put in, in whatever sizes, and however little the peer takes at a time.
        #[test]
        fn bytes_keep_their_order(sizes in proptest::collection::vec(0..3 * COPY_MAX, 0..80), takes in 1..100_000usize) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let (put, read) = runtime.block_on(async {
                let (mut ours, mut theirs) = tokio::io::duplex(takes);
                let (mut outbox, mut put) = (Outbox::default(), Vec::new());
                let mut read = Vec::new();
                for (nth, size) in sizes.into_iter().enumerate() {
                    let piece = vec![nth as u8; size];
                    put.extend_from_slice(&piece);
                    if size % 2 == 0 {
                        outbox.push(piece.into());
                    } else {
                        outbox.buffer().extend_from_slice(&piece);
                    }
                    if size % 5 == 0 {
                        let _ = poll_fn(|cx| Poll::Ready(outbox.poll_drain(&mut ours, cx))).await;
                        if read.len() + outbox.len() < put.len() {
                            theirs.read_buf(&mut read).await.unwrap();
                        }
                    }
                }
                let drain = async {
                    poll_fn(|cx| outbox.poll_drain(&mut ours, cx)).await;
                    drop(ours);
                };
                let (_, rest) = tokio::join!(drain, theirs.read_to_end(&mut read));
                rest.unwrap();
                (put, read)
            });
            prop_assert_eq!(put, read);
        }
    }
}
