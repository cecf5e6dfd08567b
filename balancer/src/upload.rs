//! The upload pump: a request's body towards an endpoint, by the rules H1 to H3.
//!
//! The pump is owned by the request and polled with it. So a client's abort, or the end of the
//! response, ends the upload in the same step, and no detached task can sit on a window for ever.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use tokio::time::{Sleep, sleep};

use crate::body::{Abort, Piece, Received};
use crate::http2::{Gone, Reason, Sender};
use crate::source::Source;

/// A body of up to this many bytes is one DATA frame, the least that every peer accepts
/// (RFC 9113 section 6.5.2).
const FRAME: usize = 16_384;

/// How an upload ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Uploaded {
    /// The endpoint has been given all of it, END_STREAM included.
    Whole,
    /// The client's side broke; the endpoint has been told by RST_STREAM(CANCEL).
    Aborted(Abort),
    /// The endpoint takes no more; its response says why.
    Refused,
}

/// The pump towards an HTTP/2 endpoint.
///
/// END_STREAM goes out only after the downstream request has ended cleanly (H1), on the last
/// frame that bears data when the length is known (H2). The last frame of a longer body waits for
/// a sign that the endpoint reads, for its answer, or for `hold_back` to pass: an app that answers
/// without reading then never has END_STREAM in its queue, which is what Bandit complains about.
/// An endpoint with a wide window takes bodies in unread and says nothing of reading: there it does
/// not wait.
pub(crate) struct H2Upload {
    source: Source,
    stream: Sender,
    /// Bytes to come by content-length.
    left: Option<u64>,
    /// Received and not yet given to the stream.
    queue: Bytes,
    ending: bool,
    trailers: Option<HeaderMap>,
    /// A first frame has gone out.
    begun: bool,
    hold_back: Duration,
    hold: Option<Pin<Box<Sleep>>>,
    /// A response has begun: there is nothing to wait for.
    answered: bool,
    moved: bool,
    /// The client's bytes are what it waits for.
    starved: bool,
}

impl H2Upload {
    pub(crate) fn new(source: Source, stream: Sender, length: Option<u64>, hold_back: Duration) -> H2Upload {
        let hold_back = if stream.is_wide() { Duration::ZERO } else { hold_back };
        H2Upload {
            source,
            stream,
            left: length,
            queue: Bytes::new(),
            ending: false,
            trailers: None,
            begun: false,
            hold_back,
            hold: None,
            answered: false,
            moved: false,
            starved: false,
        }
    }

    /// Whether it waits for the client, and not for the endpoint.
    pub(crate) fn is_starved(&self) -> bool {
        self.starved
    }

    /// The response has begun.
    pub(crate) fn answered(&mut self) {
        self.answered = true;
        self.source.commit();
    }

    /// Whether bytes have moved since the last call.
    pub(crate) fn take_moved(&mut self) -> bool {
        std::mem::take(&mut self.moved)
    }

    /// Ends the upload without END_STREAM: the endpoint sees a cancelled stream.
    pub(crate) fn cancel(mut self) -> Source {
        self.stream.send_reset(Reason::CANCEL);
        self.source
    }

    /// The body, for another attempt; the stream is left as it is.
    pub(crate) fn into_source(self) -> Source {
        self.source
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Uploaded> {
        loop {
            // What fills a frame goes out, and less when nothing more is there: a client that writes a body in pieces of a
            // byte shall not have each of them cost a frame (Cowboy counts them).
            let is_asked = self.queue.len() < FRAME && !self.ending;
            let mut more = if is_asked { self.source.poll_piece(cx) } else { Poll::Pending };
            if more.is_pending() {
                self.starved = false;
                while self.queue.len() > self.kept_for_last() {
                    if ready!(self.poll_send(cx)).is_err() {
                        return Poll::Ready(Uploaded::Refused);
                    }
                }
                if self.ending {
                    return self.poll_end(cx);
                }
                if !is_asked {
                    more = self.source.poll_piece(cx);
                }
                self.starved = more.is_pending();
                if self.starved {
                    // It may have waited for one with what it now keeps for the last frame.
                    self.stream.yields_turn();
                }
            }
            match ready!(more) {
                Piece::Data(data) => {
                    self.moved = true;
                    if let Some(left) = &mut self.left {
                        match left.checked_sub(data.len() as u64) {
                            Some(less) => *left = less,
                            None => return Poll::Ready(self.abort(Abort::Malformed)),
                        }
                    }
                    self.enqueue(data);
                    self.ending = self.source.is_end();
                }
                Piece::Trailers(trailers) => {
                    self.trailers = Some(trailers);
                    self.ending = true;
                }
                Piece::End => self.ending = true,
                Piece::Aborted(abort) => return Poll::Ready(self.abort(abort)),
            }
            if self.ending && self.left.is_some_and(|left| left > 0) {
                return Poll::Ready(self.abort(Abort::Malformed));
            }
        }
    }

    /// How much of the queue stays for the last frame: its end is known or must be near, and
    /// END_STREAM shall ride on data.
    fn kept_for_last(&self) -> usize {
        let all_is_here = self.ending || self.left == Some(0);
        let small = !self.begun && self.left.is_some_and(|left| self.queue.len() as u64 + left <= FRAME as u64);
        if !(all_is_here || small) {
            return 0;
        }
        match self.queue.len() {
            length @ 0..=FRAME => length,
            length => match length % FRAME {
                0 => FRAME,
                rest => rest,
            },
        }
    }

    fn enqueue(&mut self, data: Bytes) {
        if self.queue.is_empty() {
            self.queue = data;
            return;
        }
        // Small ones, or what is before the last. Copied once for a frame: what was joined already grows in its place.
        let queue = std::mem::take(&mut self.queue);
        let mut joined = queue.try_into_mut().unwrap_or_else(|queue| {
            let mut joined = BytesMut::with_capacity((queue.len() + data.len()).max(FRAME));
            joined.extend_from_slice(&queue);
            joined
        });
        joined.extend_from_slice(&data);
        self.queue = joined.freeze();
    }

    /// Sends what may go of the queue, as far as the window reaches.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Gone>> {
        let wanted = self.queue.len() - self.kept_for_last();
        let room = ready!(self.stream.poll_capacity(cx))?;
        if !std::mem::replace(&mut self.begun, true) {
            self.stream.body_begins();
        }
        let piece = self.queue.split_to(room.min(wanted));
        self.moved = true;
        Poll::Ready(self.stream.send_data(piece, false))
    }

    /// The last frame, or the trailers: what makes the request whole.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Uploaded> {
        ready!(self.poll_reads(cx));
        while !self.queue.is_empty() {
            let length = self.queue.len();
            let Ok(room) = ready!(self.stream.poll_capacity(cx)) else {
                return Poll::Ready(Uploaded::Refused);
            };
            let piece = self.queue.split_to(room.min(length));
            let last = self.queue.is_empty() && self.trailers.is_none();
            self.moved = true;
            if self.stream.send_data(piece, last).is_err() {
                return Poll::Ready(Uploaded::Refused);
            }
            if last {
                return Poll::Ready(Uploaded::Whole);
            }
        }
        let sent = match self.trailers.take() {
            Some(trailers) => self.stream.send_trailers(&trailers),
            None => self.stream.send_data(Bytes::new(), true),
        };
        Poll::Ready(if sent.is_ok() { Uploaded::Whole } else { Uploaded::Refused })
    }

    /// Waits until the endpoint is seen to read, where there is something that it could have read.
    fn poll_reads(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.begun || self.answered || self.hold_back.is_zero() {
            return Poll::Ready(());
        }
        if self.stream.poll_reads(cx).is_ready() || self.stream.poll_broken(cx).is_ready() {
            return Poll::Ready(());
        }
        // It may have been given one while it got the rest of the body.
        self.stream.yields_turn();
        let hold_back = self.hold_back;
        self.hold.get_or_insert_with(|| Box::pin(sleep(hold_back))).as_mut().poll(cx)
    }

    fn abort(&mut self, abort: Abort) -> Uploaded {
        self.stream.send_reset(Reason::CANCEL);
        Uploaded::Aborted(abort)
    }
}

/// Reads and drops what the client still sends after a response that came first, up to a number
/// of bytes and a time (H3): a client that is cut off while it writes may never read the response.
pub(crate) async fn drain(mut rest: Received, limit: u64, time: Duration) {
    let read = async {
        let mut read = 0;
        while let Piece::Data(data) = std::future::poll_fn(|cx| rest.poll_piece(cx)).await {
            read += data.len() as u64;
            if read > limit {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(time, read).await;
}
