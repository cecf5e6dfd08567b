//! What a peer has received: frame by frame, or gathered to a request or a response.

use crate::hpack::{self, Fields};

#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Event {
    Headers {
        stream: u32,
        fields: Fields,
        end: bool,
    },
    Data {
        stream: u32,
        bytes: Vec<u8>,
        end: bool,
    },
    Reset {
        stream: u32,
        code: u32,
    },
    GoAway {
        last: u32,
        code: u32,
    },
    /// The peer closed, or the connection broke.
    Closed,
}

/// A body is not worth printing.
impl std::fmt::Debug for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Event::Headers { stream, fields, end } => write!(f, "HEADERS on {stream}, end: {end}, {fields:?}"),
            Event::Data { stream, bytes, end } => write!(f, "DATA({}) on {stream}, end: {end}", bytes.len()),
            Event::Reset { stream, code } => write!(f, "RST_STREAM({code}) on {stream}"),
            Event::GoAway { last, code } => write!(f, "GOAWAY({last}, {code})"),
            Event::Closed => f.write_str("the connection's end"),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) stream: u32,
    pub(crate) fields: Fields,
    pub(crate) body: Vec<u8>,
    /// The lengths of the DATA frames.
    pub(crate) frames: Vec<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    Whole,
    Reset(u32),
    Closed,
}

#[derive(Debug, Default)]
pub(crate) struct Response {
    pub(crate) fields: Fields,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Option<Fields>,
    pub(super) ended: Option<Ended>,
}

impl Response {
    pub(crate) fn status(&self) -> &str {
        hpack::field(&self.fields, ":status").unwrap_or("none")
    }

    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        hpack::field(&self.fields, name)
    }

    pub(crate) fn ended(&self) -> Ended {
        self.ended.expect("a response is read to its end")
    }

    /// Status and body of a response that ended with END_STREAM.
    #[track_caller]
    pub(crate) fn whole(&self) -> (&str, &[u8]) {
        assert_eq!(self.ended, Some(Ended::Whole), "{:?}, {} bytes", self.fields, self.body.len());
        (self.status(), &self.body)
    }
}
