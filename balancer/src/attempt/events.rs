//! Event streams (`text/event-stream`, the HTML standard's section 9.2): responses without an end,
//! which a drain closes between two events. A client's EventSource then connects again by itself.

use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{HeaderMap, header};

use crate::telemetry::Counters;
use crate::timers::Idle;
use crate::upstream::Endpoint;
use crate::upstream::lasting::Open;
use crate::websocket::CLOSE_TIME;

/// Whether such a response can be ended between two events: nobody has been told its length, and its
/// bytes are the events'.
pub(crate) fn is_event_stream(fields: &HeaderMap) -> bool {
    let Some(kind) = fields.get(header::CONTENT_TYPE) else { return false };
    let kind = kind.as_bytes();
    let essence = kind.split(|b| *b == b';').next().unwrap_or(kind).trim_ascii();
    essence.eq_ignore_ascii_case(b"text/event-stream")
        && !fields.contains_key(header::CONTENT_LENGTH)
        && !fields.contains_key(header::CONTENT_ENCODING)
}

#[derive(Debug)]
pub(crate) struct Events {
    open: Open,
    tail: Tail,
    /// It is to close: until then at the latest.
    closing: Option<Idle>,
}

/// What is to be done with an event stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    GoOn,
    /// An event has ended, or none has begun.
    End,
    /// Its event does not end.
    Cut,
}

impl Events {
    #[cold]
    pub(crate) fn new(endpoint: &Rc<Endpoint>, counters: &Arc<Counters>) -> Events {
        Events { open: Open::on(endpoint, counters), tail: Tail::default(), closing: None }
    }

    pub(crate) fn follow(&mut self, data: &[u8]) {
        self.tail.follow(data);
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Next {
        let late = self.poll_blocked(cx);
        match self.closing {
            None => Next::GoOn,
            Some(_) if self.tail.is_between_events() => Next::End,
            Some(_) if late.is_ready() => Next::Cut,
            Some(_) => Next::GoOn,
        }
    }

    /// Ready when it was to close, and could not for too long: its event does not end, or its client
    /// takes nothing.
    pub(crate) fn poll_blocked(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.closing.is_none() && self.open.poll_close(cx).is_ready() {
            self.closing = Some(Idle::new(CLOSE_TIME));
        }
        self.closing.as_mut().map_or(Poll::Pending, |closing| closing.poll(cx))
    }
}

/// The last bytes of a stream: an event ends with an empty line, and a line with CR LF, LF or CR.
#[derive(Debug, Default)]
struct Tail([u8; 4]);

impl Tail {
    fn follow(&mut self, data: &[u8]) {
        for byte in &data[data.len().saturating_sub(4)..] {
            self.0.rotate_left(1);
            self.0[3] = *byte;
        }
    }

    fn is_between_events(&self) -> bool {
        matches!(self.0, [_, _, b'\n', b'\n'] | [_, _, b'\r', b'\r'] | [_, b'\n', b'\r', b'\n'] | [0, 0, 0, 0])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_ends_with_an_empty_line() {
        let between = |pieces: &[&[u8]]| {
            let mut tail = Tail::default();
            pieces.iter().for_each(|piece| tail.follow(piece));
            tail.is_between_events()
        };
        assert!(between(&[]) && between(&[b"data: x\n\n"]) && between(&[b"data: x\r\n\r\n"]) && between(&[b"a\r\r"]));
        assert!(between(&[b"data: x\n", b"", b"\n"]) && between(&[b"data: x\r\n", b"\r", b"\n"]));
        assert!(between(&[b"data: x\n\r\n"]), "kinds of lines may be mixed");
        assert!(!between(&[b"d"]) && !between(&[b"data: x\n"]) && !between(&[b"data: x\r\n"]));
        assert!(!between(&[b"data: x\n\n", b": comment\n"]));
        assert!(!between(&[b"data: x\r\n\r"]), "the LF may follow");
    }

    #[test]
    fn only_plain_event_streams_are_some() {
        let is = |fields: &[(&'static str, &str)]| {
            let fields = fields.iter().map(|(name, value)| {
                (http::HeaderName::from_static(name), http::HeaderValue::from_str(value).unwrap())
            });
            is_event_stream(&fields.collect())
        };
        assert!(is(&[("content-type", "text/event-stream")]));
        assert!(is(&[("content-type", "Text/Event-Stream ; charset=utf-8")]));
        assert!(!is(&[("content-type", "text/plain")]) && !is(&[]));
        assert!(!is(&[("content-type", "text/event-stream"), ("content-length", "9")]));
        assert!(!is(&[("content-type", "text/event-stream"), ("content-encoding", "gzip")]));
    }
}
