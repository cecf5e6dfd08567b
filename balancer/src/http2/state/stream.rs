//! One stream, as its connection keeps it.

use std::collections::VecDeque;
use std::task::Waker;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Response};

use super::TINY;
use crate::http2::frame::DEFAULT_WINDOW;
use crate::http2::stream::Broken;

/// A piece goes into the one before it as long as that is smaller than this.
const JOINED_MAX: usize = 4096;

/// Where a body is in sharing the connection with others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    None,
    /// It is in [`State::waiting`].
    Waiting,
    /// It may send its share.
    Granted,
}

#[derive(Debug)]
pub(in crate::http2) struct Stream {
    pub(super) number: u32,
    pub(super) send_window: i64,
    pub(super) receive_window: i64,
    /// Received and read, and not given back to the window yet.
    pub(super) released: u32,
    /// It has been seen to be read, and its window is wider for it.
    pub(super) is_grown: bool,
    /// This side has sent its END_STREAM.
    pub(super) sent_end: bool,
    /// The peer has.
    pub(super) received_end: bool,
    pub(in crate::http2) broken: Option<Broken>,
    /// It is one of [`State::open`].
    pub(super) is_open: bool,
    pub(super) turn: Turn,
    pub(super) handles: u8,
    /// The peer has opened its window since the body began.
    pub(in crate::http2) reads: bool,
    /// The body received: the first piece, and those behind it.
    pub(super) piece: BytesMut,
    pub(super) pieces: VecDeque<BytesMut>,
    pub(super) trailers: Option<Box<HeaderMap>>,
    /// By content-length.
    pub(in crate::http2) length_left: Option<u64>,
    /// A response's.
    pub(super) head: Option<Box<Response<()>>>,
    pub(in crate::http2) interim: Vec<Response<()>>,
    pub(in crate::http2) has_head: bool,
    /// The response has no body, whatever its length says.
    pub(in crate::http2) is_bodiless: bool,
    /// It is an extended CONNECT's.
    pub(in crate::http2) is_tunnel: bool,
    /// A request that its connection's owner has seen.
    pub(in crate::http2) is_accepted: bool,
    pub(super) waker: Option<Waker>,
}

impl Stream {
    /// With `handles` to come; the windows are what it may send, and what it may receive.
    pub(super) fn new(number: u32, windows: (u32, u32), handles: u8) -> Stream {
        Stream {
            number,
            send_window: windows.0.into(),
            receive_window: windows.1.into(),
            released: 0,
            is_grown: false,
            sent_end: false,
            received_end: false,
            broken: None,
            is_open: true,
            turn: Turn::None,
            handles,
            reads: false,
            piece: BytesMut::new(),
            pieces: VecDeque::new(),
            trailers: None,
            length_left: None,
            head: None,
            interim: Vec::new(),
            has_head: false,
            is_bodiless: false,
            is_tunnel: false,
            is_accepted: false,
            waker: None,
        }
    }

    pub(in crate::http2) fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }

    pub(in crate::http2) fn wait(&mut self, waker: &Waker) {
        match &mut self.waker {
            Some(known) => known.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.broken.is_some() || self.sent_end && self.received_end
    }

    pub(in crate::http2) fn has_received_end(&self) -> bool {
        self.received_end
    }

    /// Whether nothing is left to be read.
    pub(in crate::http2) fn is_read(&self) -> bool {
        self.received_end && self.piece.is_empty() && self.trailers.is_none()
    }

    pub(in crate::http2) fn is_wide(&self) -> bool {
        self.send_window > i64::from(4 * DEFAULT_WINDOW)
    }

    pub(in crate::http2) fn take_piece(&mut self) -> Option<Bytes> {
        if self.piece.is_empty() {
            return None;
        }
        let next = self.pieces.pop_front().unwrap_or_default();
        Some(std::mem::replace(&mut self.piece, next).freeze())
    }

    pub(in crate::http2) fn take_trailers(&mut self) -> Option<HeaderMap> {
        self.trailers.take().map(|trailers| *trailers)
    }

    pub(in crate::http2) fn take_head(&mut self) -> Option<Response<()>> {
        self.head.take().map(|head| *head)
    }

    pub(in crate::http2) fn set_head(&mut self, head: Response<()>) {
        self.has_head = true;
        self.head = Some(Box::new(head));
    }

    pub(super) fn push(&mut self, data: Data<'_>) {
        let last = self.pieces.back_mut().unwrap_or(&mut self.piece);
        match data {
            Data::Borrowed(data) if data.len() <= TINY && last.len() < JOINED_MAX => last.extend_from_slice(data),
            data if self.piece.is_empty() => self.piece = data.into_owned(),
            data => self.pieces.push_back(data.into_owned()),
        }
    }

    /// Bytes that were received and not taken.
    pub(super) fn unread(&self) -> usize {
        self.piece.len() + self.pieces.iter().map(BytesMut::len).sum::<usize>()
    }
}

/// A DATA frame's payload.
pub(in crate::http2) enum Data<'a> {
    Borrowed(&'a [u8]),
    /// Large enough not to be copied.
    Owned(BytesMut),
}

impl Data<'_> {
    pub(super) fn len(&self) -> usize {
        match self {
            Data::Borrowed(data) => data.len(),
            Data::Owned(data) => data.len(),
        }
    }

    fn into_owned(self) -> BytesMut {
        match self {
            Data::Borrowed(data) => BytesMut::from(data),
            Data::Owned(data) => data,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A byte in a frame of its own costs more to keep than its window says.
    #[test]
    fn tiny_pieces_are_kept_together() {
        let mut stream = Stream::new(1, (0, 0), 2);
        let mut sent = Vec::new();
        for n in 0..20_000 {
            let piece = [n as u8];
            stream.push(Data::Borrowed(&piece));
            sent.extend(piece);
            if n % 7_000 == 0 {
                let large = vec![1; 9_000];
                stream.push(Data::Owned(BytesMut::from(&large[..])));
                sent.extend(large);
            }
        }
        assert_eq!(stream.unread(), sent.len());
        assert!(stream.pieces.len() < 15, "{}", stream.pieces.len());
        let mut read = Vec::new();
        while let Some(piece) = stream.take_piece() {
            read.extend_from_slice(&piece);
        }
        assert_eq!(read, sent);
    }
}
