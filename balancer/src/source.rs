//! A request's body on its way up, and as much of it as a second attempt would need.

use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use tokio::time::Instant;

use crate::body::{Abort, Piece, Received};
use crate::timers::Idle;
use crate::turn::Share;

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
    /// Boxed: few bodies are long enough to be waited for.
    pace: Option<Box<Pace>>,
    share: Share,
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
        Source {
            body,
            kept: Vec::new(),
            kept_bytes: 0,
            limit,
            next: 0,
            lost: false,
            tail: None,
            pace: None,
            share: Share::default(),
        }
    }

    /// A body of which nothing is left.
    pub(crate) fn gone() -> Source {
        Source::new(Received::Empty, 0)
    }

    /// From here on the client must send that many bytes a second (H18); 0 is no demand.
    pub(crate) fn demand(&mut self, bytes_per_second: u64) {
        if bytes_per_second > 0 && !self.is_end() {
            self.pace = Some(Box::new(Pace::new(bytes_per_second)));
        }
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
        if self.share.is_spent(cx) {
            return Poll::Pending;
        }
        let piece = match (self.body.poll_piece(cx), &mut self.pace) {
            (Poll::Ready(piece), None) => piece,
            (Poll::Ready(piece), Some(pace)) => {
                pace.came(&piece);
                piece
            }
            (Poll::Pending, None) => return Poll::Pending,
            (Poll::Pending, Some(pace)) => {
                ready!(pace.poll(cx));
                Piece::Aborted(Abort::Slow)
            }
        };
        match &piece {
            Piece::Data(data) => {
                self.share.spend(data.len());
                self.keep(data);
            }
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

/// How fast a body comes, by the time in which it is waited for: a client is not to blame while
/// the endpoint does not read.
#[derive(Debug)]
struct Pace {
    bytes_per_second: u64,
    /// Of the period under way.
    bytes: u64,
    waited: Duration,
    waiting_since: Option<Instant>,
    timer: Idle,
}

impl Pace {
    /// Over how much waiting it is measured: long enough for a client that loses its way for a
    /// moment.
    const PERIOD: Duration = Duration::from_secs(20);

    fn new(bytes_per_second: u64) -> Pace {
        let timer = Idle::new(Pace::PERIOD);
        Pace { bytes_per_second, bytes: 0, waited: Duration::ZERO, waiting_since: None, timer }
    }

    fn came(&mut self, piece: &Piece) {
        if let Piece::Data(data) = piece {
            self.bytes += data.len() as u64;
        }
        if let Some(since) = self.waiting_since.take() {
            self.waited += since.elapsed();
        }
    }

    /// Ready when it is too slow.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let since = *self.waiting_since.get_or_insert_with(Instant::now);
        loop {
            let waited = self.waited + since.elapsed();
            if waited >= Pace::PERIOD {
                if self.bytes < self.bytes_per_second * Pace::PERIOD.as_secs() {
                    return Poll::Ready(());
                }
                *self = Pace::new(self.bytes_per_second);
                self.waiting_since = Some(Instant::now());
                return self.poll(cx);
            }
            ready!(self.timer.poll(cx));
            self.timer = Idle::new(Pace::PERIOD - waited);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;
    use crate::h1::body::{H1Received, Incoming};
    use crate::h1::decode::{Chunk, Decoder};
    use crate::h1::wire::Wire;
    use crate::socket::{Socket, Stream};

    fn data(length: usize) -> Piece {
        Piece::Data(vec![0; length].into())
    }

    /// However many there are at once: others have their turns between.
    #[tokio::test]
    async fn chunks_of_a_byte_are_read_in_several_turns() {
        let (ours, _theirs) = tokio::net::UnixStream::pair().unwrap();
        let wire = Wire::new(Socket::Plain(Stream::Unix(ours)), &b"1\r\nx\r\n".repeat(150));
        let incoming = Incoming::new(wire);
        incoming.borrow_mut().body = Decoder::Chunked(Chunk::Size);
        let mut source = Source::new(Received::H1(H1Received::new(&incoming)), 1_000);
        let mut turns = Vec::new();
        poll_fn(|cx| {
            let mut pieces = 0;
            while source.poll_piece(cx).is_ready() {
                pieces += 1;
            }
            turns.push(pieces);
            if turns.iter().sum::<usize>() == 150 { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        assert_eq!(turns, [64, 64, 22]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_crawl_is_too_slow_and_a_pause_of_the_reader_is_not() {
        let begun = Instant::now();
        let mut pace = Pace::new(64);
        // 100 bytes a second for a minute, in pieces of one second each.
        for _ in 0..60 {
            let came = tokio::time::timeout(Duration::from_secs(1), poll_fn(|cx| pace.poll(cx)));
            assert!(came.await.is_err());
            pace.came(&data(100));
        }
        // Nobody asks for bytes: that is not the client's time.
        tokio::time::sleep(Duration::from_secs(600)).await;
        let asked = Instant::now();
        let crawl = async {
            loop {
                if tokio::time::timeout(Duration::from_secs(1), poll_fn(|cx| pace.poll(cx))).await.is_ok() {
                    break;
                }
                pace.came(&data(10));
            }
        };
        crawl.await;
        assert!((20..41).contains(&asked.elapsed().as_secs()), "{:?} after {:?}", asked.elapsed(), begun.elapsed());
    }
}
