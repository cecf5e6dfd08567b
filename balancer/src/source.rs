//! A request's body on its way up, and as much of it as a second attempt would need.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;

use crate::body::{Abort, Piece, Received};

/// What has been received is kept until it is more than `limit` bytes or a response begins. Kept
/// pieces are shared, not copied.
#[derive(Debug)]
pub(crate) struct Source {
    body: Received,
    kept: Vec<Bytes>,
    kept_bytes: usize,
    limit: usize,
    /// The next kept piece to give; all given when it is their number.
    next: usize,
    /// More was received than is kept.
    lost: bool,
    tail: Option<Tail>,
}

/// How the body ended, to be told again to each attempt.
#[derive(Debug, Clone)]
enum Tail {
    End,
    Trailers(HeaderMap),
    Aborted(Abort),
}

impl Source {
    pub(crate) fn new(body: Received, limit: usize) -> Source {
        Source { body, kept: Vec::new(), kept_bytes: 0, limit, next: 0, lost: false, tail: None }
    }

    /// A body of which nothing is left.
    pub(crate) fn gone() -> Source {
        Source::new(Received::Empty, 0)
    }

    /// Whether an attempt can be made from the first byte on.
    pub(crate) fn is_replayable(&self) -> bool {
        !self.lost
    }

    /// Begins again with the first byte.
    pub(crate) fn rewind(&mut self) {
        self.next = 0;
    }

    /// A response has begun: nothing is kept for another attempt any more.
    pub(crate) fn commit(&mut self) {
        if self.next == self.kept.len() {
            self.kept = Vec::new();
            self.next = 0;
            self.lost = true;
        }
        self.limit = 0;
    }

    /// Whether it is known now that no piece follows.
    pub(crate) fn is_end(&self) -> bool {
        self.next == self.kept.len()
            && match &self.tail {
                None => self.body.is_end(),
                Some(tail) => matches!(tail, Tail::End),
            }
    }

    /// What has not been received yet, to be read and dropped.
    pub(crate) fn into_rest(self) -> Received {
        if self.tail.is_some() { Received::Empty } else { self.body }
    }

    pub(crate) fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Piece> {
        if let Some(piece) = self.kept.get(self.next) {
            self.next += 1;
            return Poll::Ready(Piece::Data(piece.clone()));
        }
        if let Some(tail) = &self.tail {
            return Poll::Ready(match tail {
                Tail::End => Piece::End,
                Tail::Trailers(trailers) => Piece::Trailers(trailers.clone()),
                Tail::Aborted(abort) => Piece::Aborted(*abort),
            });
        }
        let piece = ready!(self.body.poll_piece(cx));
        match &piece {
            Piece::Data(data) => self.keep(data),
            Piece::End => self.tail = Some(Tail::End),
            Piece::Trailers(trailers) => self.tail = Some(Tail::Trailers(trailers.clone())),
            Piece::Aborted(abort) => self.tail = Some(Tail::Aborted(*abort)),
        }
        Poll::Ready(piece)
    }

    fn keep(&mut self, data: &Bytes) {
        if self.lost || self.kept_bytes + data.len() > self.limit {
            self.lost = true;
            self.kept = Vec::new();
            self.next = 0;
            return;
        }
        self.kept_bytes += data.len();
        self.kept.push(data.clone());
        self.next = self.kept.len();
    }
}
