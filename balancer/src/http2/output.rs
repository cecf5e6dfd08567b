//! What waits to be written: small pieces are gathered in one buffer, large ones lie between without a copy.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::AsyncWrite;

use super::OUTPUT_MAX;
use crate::outbox::{COPY_MAX, buffers};

/// Pieces in one system call.
const SLICES: usize = 32;

#[derive(Debug, Default)]
pub(super) struct Output {
    /// What comes before `last`.
    pieces: VecDeque<Bytes>,
    last: Vec<u8>,
    /// How much of `last` has been written.
    written: usize,
    length: usize,
    /// Something was written that the stream below may still hold (TLS).
    unflushed: bool,
    /// A write failed. What is written from here on is dropped: the peer may have answered before it closed, and
    /// that answer can still be read (H3). The next read then meets the end.
    broken: bool,
}

impl Output {
    /// Bytes that have not been written.
    pub(super) fn len(&self) -> usize {
        self.length
    }

    /// Whether nothing is left to be written, by the stream below neither.
    pub(super) fn is_done(&self) -> bool {
        self.length == 0 && !self.unflushed
    }

    /// Has `put` write behind what is there.
    pub(super) fn put(&mut self, put: impl FnOnce(&mut Vec<u8>)) {
        buffers::take(&mut self.last);
        let before = self.last.len();
        put(&mut self.last);
        self.length += self.last.len() - before;
    }

    pub(super) fn push(&mut self, data: Bytes) {
        if data.len() <= COPY_MAX {
            return self.put(|out| out.extend_from_slice(&data));
        }
        self.length += data.len();
        if self.last.len() > self.written {
            // Mostly the frame's own head: copied, so that the buffer stays.
            self.pieces.push_back(Bytes::copy_from_slice(&self.last[self.written..]));
        }
        self.last.clear();
        self.written = 0;
        self.pieces.push_back(data);
    }

    /// Writes all; ready too when the peer takes no more.
    pub(super) fn poll_drain<S: AsyncWrite + Unpin>(&mut self, socket: &mut S, cx: &mut Context<'_>) -> Poll<()> {
        if !self.broken && ready!(self.poll_write_out(socket, cx)).is_err() {
            self.broken = true;
        }
        if self.broken {
            self.pieces.clear();
            self.unflushed = false;
            self.clear();
        }
        Poll::Ready(())
    }

    fn poll_write_out<S: AsyncWrite + Unpin>(&mut self, socket: &mut S, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.length > 0 {
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
        self.length -= n;
        while let Some(first) = self.pieces.front_mut() {
            if n < first.len() {
                return first.advance(n);
            }
            n -= first.len();
            self.pieces.pop_front();
        }
        self.written += n;
        if self.written >= OUTPUT_MAX {
            // A peer that always takes a part leaves the rest at the buffer's beginning.
            self.last.drain(..std::mem::take(&mut self.written));
        }
    }

    fn clear(&mut self) {
        (self.length, self.written) = (0, 0);
        buffers::give_back(&mut self.last);
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
        let (mut slow, mut output) = (Slow::default(), Output::default());
        let cx = &mut Context::from_waker(std::task::Waker::noop());
        output.push(Bytes::from_static(b"the end"));
        assert!(output.poll_drain(&mut slow, cx).is_pending());
        assert!(output.len() == 0 && !output.is_done());
        assert!(output.poll_drain(&mut slow, cx).is_ready());
        assert!(output.is_done() && slow.flushes == 2);
    }

    /// A peer that never takes all does not make the buffer grow.
    #[tokio::test]
    async fn what_has_been_written_is_let_go() {
        let (mut slow, mut output) = (Slow::default(), Output::default());
        let cx = &mut Context::from_waker(std::task::Waker::noop());
        for _ in 0..1_000 {
            while output.len() < OUTPUT_MAX {
                output.push(Bytes::from_static(&[0; COPY_MAX]));
            }
            slow.is_full = false;
            assert!(output.poll_drain(&mut slow, cx).is_pending());
            assert!(output.last.len() < 3 * OUTPUT_MAX, "{}", output.last.len());
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
                let (mut output, mut put) = (Output::default(), Vec::new());
                let mut read = Vec::new();
                for (nth, size) in sizes.into_iter().enumerate() {
                    let piece = vec![nth as u8; size];
                    put.extend_from_slice(&piece);
                    if size % 2 == 0 {
                        output.push(piece.into());
                    } else {
                        output.put(|out| out.extend_from_slice(&piece));
                    }
                    if size % 5 == 0 {
                        let _ = poll_fn(|cx| Poll::Ready(output.poll_drain(&mut ours, cx))).await;
                        if read.len() + output.len() < put.len() {
                            theirs.read_buf(&mut read).await.unwrap();
                        }
                    }
                }
                let drain = async {
                    poll_fn(|cx| output.poll_drain(&mut ours, cx)).await;
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
