//! One stream, as its request holds it: what it sends and what it receives. Both halves belong to one task.

use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};

use super::connection::Shared;
use super::frame::Reason;
use crate::body::{Abort, Piece};

/// Why a stream ended that did not come to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broken {
    /// The peer has reset it.
    Reset(Reason),
    /// The peer has said that it did nothing for it, and will not (GOAWAY).
    Unprocessed,
    /// It was reset here: by its handles, or for what the peer sent on it.
    Here(Reason),
    /// The connection has gone.
    Gone,
}

/// The stream takes no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gone;

/// One of a stream's two handles. The stream is reset when both have gone before its end.
#[derive(Debug)]
struct Handle {
    shared: Rc<Shared>,
    at: usize,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.state.borrow_mut().let_go(self.at);
    }
}

/// The half that sends.
#[derive(Debug)]
pub(crate) struct Sender(Handle);

/// The half that receives. Window is given back for a piece when the next one is asked for: what the other side
/// of the balancer does not take, the peer may not send.
#[derive(Debug)]
pub(crate) struct Receiver {
    handle: Handle,
    unreleased: usize,
}

/// Both handles of the stream at `at`, which was made with two to come.
pub(super) fn handles(shared: &Rc<Shared>, at: usize) -> (Sender, Receiver) {
    let handle = || Handle { shared: shared.clone(), at };
    (Sender(handle()), Receiver { handle: handle(), unreleased: 0 })
}

impl Sender {
    /// How many bytes may be sent now, once there are some.
    pub(crate) fn poll_capacity(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, Gone>> {
        self.0.shared.state.borrow_mut().poll_capacity(self.0.at, cx.waker())
    }

    /// Sends data, no more than `poll_capacity` has said; the end needs no capacity.
    pub(crate) fn send_data(&mut self, data: Bytes, is_end: bool) -> Result<(), Gone> {
        self.0.shared.state.borrow_mut().send_data(self.0.at, data, is_end)
    }

    pub(crate) fn send_trailers(&mut self, trailers: &HeaderMap) -> Result<(), Gone> {
        self.0.shared.state.borrow_mut().send_block(self.0.at, true, |encoder, out| {
            for (name, value) in trailers {
                encoder.field(out, name, value);
            }
        })
    }

    pub(crate) fn send_response(&mut self, status: StatusCode, fields: &HeaderMap, is_end: bool) -> Result<(), Gone> {
        self.0.shared.state.borrow_mut().send_block(self.0.at, is_end, |encoder, out| {
            encoder.status(out, status);
            for (name, value) in fields {
                encoder.field(out, name, value);
            }
        })
    }

    pub(crate) fn send_reset(&mut self, reason: Reason) {
        self.0.shared.state.borrow_mut().reset(self.0.at, reason);
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.0.shared.state.borrow_mut().stream(self.0.at).broken.is_some()
    }

    /// Ready when the stream has broken.
    pub(crate) fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<Broken> {
        let mut state = self.0.shared.state.borrow_mut();
        let stream = state.stream(self.0.at);
        if let Some(broken) = stream.broken {
            return Poll::Ready(broken);
        }
        stream.wait(cx.waker());
        Poll::Pending
    }

    /// From here on a larger window is a sign that the peer reads: before the first DATA it is a greeting.
    pub(crate) fn body_begins(&mut self) {
        self.0.shared.state.borrow_mut().stream(self.0.at).reads = false;
    }

    /// Ready when the peer is seen to read.
    pub(crate) fn poll_reads(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.0.shared.state.borrow_mut();
        let stream = state.stream(self.0.at);
        if stream.reads {
            return Poll::Ready(());
        }
        stream.wait(cx.waker());
        Poll::Pending
    }

    /// What it waits for now is something else: others have its turn.
    pub(crate) fn yields_turn(&mut self) {
        self.0.shared.state.borrow_mut().wants_no_turn(self.0.at);
    }

    /// Whether the window is so wide (above 256 KiB) that the peer buffers what nobody has read. One that reads
    /// before it asks for more (Bandit) stays at the default.
    pub(crate) fn is_wide(&self) -> bool {
        self.0.shared.state.borrow_mut().stream(self.0.at).is_wide()
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.yields_turn();
    }
}

impl Receiver {
    /// Whether it is known now that nothing more comes.
    pub(crate) fn is_end(&self) -> bool {
        self.handle.shared.state.borrow_mut().stream(self.handle.at).is_read()
    }

    pub(crate) fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Piece> {
        let mut state = self.handle.shared.state.borrow_mut();
        state.release(self.handle.at, std::mem::take(&mut self.unreleased));
        let stream = state.stream(self.handle.at);
        if let Some(data) = stream.take_piece() {
            self.unreleased = data.len();
            return Poll::Ready(Piece::Data(data));
        }
        if let Some(trailers) = stream.take_trailers() {
            return Poll::Ready(Piece::Trailers(trailers));
        }
        // The end first: what happens behind it spoils nothing (H3), and only END_STREAM is one (H4).
        if stream.has_received_end() {
            return Poll::Ready(Piece::End);
        }
        match stream.broken {
            Some(Broken::Here(Reason::PROTOCOL_ERROR)) => Poll::Ready(Piece::Aborted(Abort::Malformed)),
            Some(_) => Poll::Ready(Piece::Aborted(Abort::Gone)),
            None => {
                stream.wait(cx.waker());
                Poll::Pending
            }
        }
    }

    /// The next interim response.
    pub(crate) fn take_interim(&mut self) -> Option<Response<()>> {
        let mut state = self.handle.shared.state.borrow_mut();
        let interim = &mut state.stream(self.handle.at).interim;
        if interim.is_empty() { None } else { Some(interim.remove(0)) }
    }

    /// The final response's head.
    pub(crate) fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<()>, Broken>> {
        let mut state = self.handle.shared.state.borrow_mut();
        let stream = state.stream(self.handle.at);
        if let Some(head) = stream.take_head() {
            return Poll::Ready(Ok(head));
        }
        match stream.broken {
            Some(broken) => Poll::Ready(Err(broken)),
            None => {
                stream.wait(cx.waker());
                Poll::Pending
            }
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        // Given back as long as the stream is there.
        self.handle.shared.state.borrow_mut().release(self.handle.at, self.unreleased);
    }
}
