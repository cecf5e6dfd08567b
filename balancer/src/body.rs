//! Bodies as the proxy sees them: pieces, trailers, and one of two ends. A body that ended is
//! whole; everything else is an abort, and never looks whole to the other side (H4).

use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;

use crate::h1::body::H1Received;
use crate::http2::Receiver;

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
    /// The endpoint's drain is at its deadline.
    Cut,
}

/// A body being received.
#[derive(Debug)]
pub(crate) enum Received {
    Empty,
    H1(H1Received),
    H2(Receiver),
}

impl Received {
    pub(crate) fn h2(stream: Receiver) -> Received {
        if stream.is_end() { Received::Empty } else { Received::H2(stream) }
    }

    /// Whether it is known now that nothing more comes.
    pub(crate) fn is_end(&self) -> bool {
        match self {
            Received::Empty => true,
            Received::H1(body) => body.is_end(),
            Received::H2(body) => body.is_end(),
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
