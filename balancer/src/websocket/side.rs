//! The two kinds of ends a tunnel has, on either side of it: a connection that has changed its
//! protocol (HTTP/1.1), and a stream that an extended CONNECT opened (RFC 8441).

use std::task::{Context, Poll, ready};

use bytes::Bytes;

use crate::body::{Piece, Received};
use crate::h1::wire::Wire;
use crate::http2::{Reason, Sender};
use crate::upstream::ConnectionPlace;
use crate::upstream::h2::Slot;

/// Its peer has gone, or takes no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gone;

pub(crate) trait Side {
    /// What comes next; no bytes are the peer's end.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, Gone>>;

    /// Ready when all that was sent has gone out, so that what a peer does not take is not held
    /// here.
    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Gone>>;

    /// Sends `data`; only when `poll_sent` is ready.
    fn send(&mut self, data: Bytes);

    /// Ends this side's sending.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<()>;
}

impl Side for Wire {
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, Gone>> {
        if self.input.is_empty() && ready!(self.poll_fill(cx)).is_err() {
            return Poll::Ready(Err(Gone));
        }
        Poll::Ready(Ok(std::mem::take(&mut self.input).freeze()))
    }

    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Gone>> {
        ready!(self.poll_drain(cx));
        Poll::Ready(if self.is_broken() { Err(Gone) } else { Ok(()) })
    }

    fn send(&mut self, data: Bytes) {
        self.push(data, b"");
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // Where it fails the connection is gone, which is an end too.
        self.poll_shutdown(cx).map(drop)
    }
}

/// An endpoint's connection, which keeps its place there.
pub(crate) struct Upgraded {
    pub(super) wire: Box<Wire>,
    pub(super) _place: ConnectionPlace,
}

impl Side for Upgraded {
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, Gone>> {
        self.wire.poll_receive(cx)
    }

    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Gone>> {
        self.wire.poll_sent(cx)
    }

    fn send(&mut self, data: Bytes) {
        self.wire.send(data);
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.wire.poll_end(cx)
    }
}

/// A stream of HTTP/2.
pub(crate) struct StreamSide {
    receive: Received,
    send: Sender,
    /// Sent, as far as the window has not let it out.
    left: Bytes,
    ended: bool,
    gone: bool,
    /// The stream's place on its connection, where that is to an endpoint.
    slot: Option<Slot>,
}

impl StreamSide {
    /// A client's.
    pub(crate) fn downstream(receive: Received, send: Sender) -> StreamSide {
        StreamSide { receive, send, left: Bytes::new(), ended: false, gone: false, slot: None }
    }

    /// An endpoint's.
    pub(crate) fn upstream(receive: Received, send: Sender, slot: Slot) -> StreamSide {
        let mut side = StreamSide::downstream(receive, send);
        side.slot = Some(slot);
        side
    }

    /// Whether the peer has reset the stream.
    pub(crate) fn has_gone(&self) -> bool {
        self.gone
    }
}

impl Side for StreamSide {
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, Gone>> {
        loop {
            return Poll::Ready(match ready!(self.receive.poll_piece(cx)) {
                Piece::Data(data) if data.is_empty() => continue,
                Piece::Data(data) => Ok(data),
                Piece::End | Piece::Trailers(_) => Ok(Bytes::new()),
                Piece::Aborted(_) => {
                    self.gone = true;
                    Err(Gone)
                }
            });
        }
    }

    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Gone>> {
        while !self.left.is_empty() {
            let Ok(room) = ready!(self.send.poll_capacity(cx)) else { return Poll::Ready(Err(Gone)) };
            let piece = self.left.split_to(room.min(self.left.len()));
            if self.send.send_data(piece, false).is_err() {
                return Poll::Ready(Err(Gone));
            }
        }
        // Nothing else tells that the peer has reset a stream on which nothing is sent.
        match self.send.poll_broken(cx) {
            Poll::Ready(_) if !self.ended => {
                self.gone = true;
                Poll::Ready(Err(Gone))
            }
            _ => Poll::Ready(Ok(())),
        }
    }

    fn send(&mut self, data: Bytes) {
        self.left = data;
    }

    fn poll_end(&mut self, _: &mut Context<'_>) -> Poll<()> {
        if !std::mem::replace(&mut self.ended, true) {
            let _ = self.send.send_data(Bytes::new(), true);
        }
        Poll::Ready(())
    }
}

impl Drop for StreamSide {
    /// A tunnel that did not come to its end must not look as if it had.
    fn drop(&mut self) {
        if !self.ended {
            self.send.send_reset(Reason::CANCEL);
        }
        if let Some(slot) = &self.slot
            && (self.gone || self.ended && self.receive.is_end())
        {
            slot.settle();
        }
    }
}
