//! Bodies as the proxy sees them: pieces, trailers, and one of two ends. A body that ended is
//! whole; everything else is an abort, and never looks whole to the other side (H4).

use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;

use crate::h1::body::H1Received;
use crate::upstream::watch::UploadSign;

/// What comes next of a body.
#[derive(Debug)]
pub(crate) enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
    /// The body is whole.
    End,
    Aborted(Abort),
}

/// Why a body is not whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Abort {
    /// The peer went away or reset the stream.
    Gone,
    /// What it sent is no body: bad chunks, more or fewer bytes than content-length says.
    Malformed,
    /// Nothing came in time.
    Idle,
    /// What came, came too slowly.
    Slow,
}

/// A body being received.
#[derive(Debug)]
pub(crate) enum Received {
    Empty,
    H1(H1Received),
    H2(H2Received),
}

/// A stream's DATA frames. Window is given back for a piece when the next one is asked for: what
/// the other side does not take, the sender may not send.
#[derive(Debug)]
pub(crate) struct H2Received {
    stream: h2::RecvStream,
    unreleased: usize,
    data_ended: bool,
    /// Knows whether the end came before the connection went.
    sign: Option<Rc<UploadSign>>,
}

impl Received {
    pub(crate) fn h2(stream: h2::RecvStream) -> Received {
        Received::h2_answer(stream, None)
    }

    /// A response, to a request whose body may not have ended.
    pub(crate) fn h2_answer(stream: h2::RecvStream, sign: Option<Rc<UploadSign>>) -> Received {
        if stream.is_end_stream() {
            return Received::Empty;
        }
        Received::H2(H2Received { stream, unreleased: 0, data_ended: false, sign })
    }

    /// Whether it is known now that nothing more comes.
    pub(crate) fn is_end(&self) -> bool {
        match self {
            Received::Empty => true,
            Received::H1(body) => body.is_end(),
            Received::H2(body) => body.stream.is_end_stream(),
        }
    }

    pub(crate) fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Piece> {
        match self {
            Received::Empty => Poll::Ready(Piece::End),
            Received::H1(body) => body.poll_piece(cx),
            Received::H2(body) => body.poll_piece(cx),
        }
    }
}

impl H2Received {
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Piece> {
        let released = std::mem::take(&mut self.unreleased);
        if released > 0 {
            // Fails only for a stream that is gone, which the next poll tells better.
            let _ = self.stream.flow_control().release_capacity(released);
        }
        while !self.data_ended {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) if data.is_empty() && !self.stream.is_end_stream() => {}
                Some(Ok(data)) => {
                    self.unreleased = data.len();
                    return Poll::Ready(Piece::Data(data));
                }
                Some(Err(error)) => return Poll::Ready(self.broken(&error)),
                None => self.data_ended = true,
            }
        }
        Poll::Ready(match ready!(self.stream.poll_trailers(cx)) {
            Ok(Some(trailers)) => Piece::Trailers(trailers),
            // A reset can look like the end of the data: only END_STREAM is one (H4).
            Ok(None) if self.stream.is_end_stream() => Piece::End,
            Ok(None) => Piece::Aborted(Abort::Gone),
            Err(error) => self.broken(&error),
        })
    }

    /// The connection's end is no abort of a response that was whole by then. The library gives
    /// out all that came before it, but calls every stream broken whose request has not ended.
    fn broken(&self, error: &h2::Error) -> Piece {
        match &self.sign {
            Some(sign) if error.is_io() && sign.has_ended() => Piece::End,
            _ => Piece::Aborted(h2_abort(error)),
        }
    }
}

fn h2_abort(error: &h2::Error) -> Abort {
    // Resets of our own are the library's verdict on what the peer sent.
    match error.reason() {
        Some(h2::Reason::PROTOCOL_ERROR) if error.is_library() => Abort::Malformed,
        _ => Abort::Gone,
    }
}
