//! Frames as they are read, each to where it belongs.

use std::cell::RefCell;

use bytes::{Buf, BytesMut};

use super::frame::{HEAD, Head, PREFACE, Reason, flag, kind, put_ping, word};
use super::headers::unpadded;
use super::state::{Data, Fatal, Role, State};
use super::stream::Broken;

/// What a read has room for at least.
pub(super) const READ: usize = 32 * 1024;
/// DATA from this size on is not copied. It keeps the buffer that it was read into, which is at most eight
/// times as large (a buffer is asked for again in its old size, 64 KiB at most).
const NOT_COPIED: usize = READ / 4;

/// What was read and is not used yet.
#[derive(Debug)]
pub(super) struct Input {
    pub(super) buffer: BytesMut,
    /// What is still to come of the client's preface.
    preface: &'static [u8],
    /// The first frame has to be SETTINGS.
    is_begun: bool,
}

impl Input {
    pub(super) fn new(first: &[u8], role: Role) -> Input {
        Input {
            buffer: BytesMut::from(first),
            preface: if role == Role::Server { PREFACE } else { b"" },
            is_begun: false,
        }
    }

    /// Makes room for a read.
    pub(super) fn prepare(&mut self) {
        if self.buffer.capacity() == 0 {
            self.buffer = FREE.with_borrow_mut(Vec::pop).unwrap_or_default();
        }
        let wanted = match self.buffer.first_chunk() {
            // All of a frame that has begun.
            Some(head) => (HEAD + Head::parse(head).length).saturating_sub(self.buffer.len()),
            None => 0,
        };
        // A half is room enough; a buffer that nobody else holds is used again.
        if self.buffer.capacity() - self.buffer.len() < (READ / 2).max(wanted) {
            self.buffer.reserve(READ.max(wanted));
        }
    }

    /// An idle connection keeps no buffer.
    pub(super) fn rest(&mut self) {
        if self.buffer.is_empty() && self.buffer.capacity() > 0 {
            let buffer = std::mem::take(&mut self.buffer);
            FREE.with_borrow_mut(|free| {
                if free.len() < FREE_MAX {
                    free.push(buffer);
                }
            });
        }
    }

    /// Whether a frame of header fields has begun.
    pub(super) fn is_within_head(&self) -> bool {
        self.buffer.first_chunk().is_some_and(|head| Head::parse(head).kind == kind::HEADERS)
    }

    /// Gives the frames that are there in full to `state`, as many as are `left` of the turn.
    pub(super) fn take(&mut self, state: &mut State, left: &mut usize) -> Result<(), Fatal> {
        if !self.preface.is_empty() {
            let length = self.preface.len().min(self.buffer.len());
            if self.buffer[..length] != self.preface[..length] {
                return Err(Fatal::Error(Reason::PROTOCOL_ERROR));
            }
            self.preface = &self.preface[length..];
            self.buffer.advance(length);
        }
        let mut at = 0;
        while *left > 0
            && let Some(head) = self.buffer[at..].first_chunk()
        {
            let head = Head::parse(head);
            state.reading = head.stream;
            if head.length > state.config.max_frame as usize {
                return Err(Fatal::Error(Reason::FRAME_SIZE_ERROR));
            }
            let begin = at + HEAD;
            let Some(payload) = self.buffer.get(begin..begin + head.length) else { break };
            at = begin + head.length;
            *left -= 1;
            if !std::mem::replace(&mut self.is_begun, true) && (head.kind != kind::SETTINGS || head.has(flag::ACK)) {
                return Err(Fatal::Error(Reason::PROTOCOL_ERROR));
            }
            if state.unfinished.is_some() || head.kind == kind::CONTINUATION {
                state.continuation(head, payload)?;
            } else if head.kind == kind::HEADERS {
                state.headers(head, payload)?;
            } else if head.kind == kind::DATA {
                if head.stream == 0 {
                    return Err(Fatal::Error(Reason::PROTOCOL_ERROR));
                }
                let data = unpadded(head, payload)?;
                let is_end = head.has(flag::END_STREAM);
                if data.len() < NOT_COPIED {
                    state.data(head.stream, Data::Borrowed(data), head.length, is_end)?;
                } else {
                    let (length, before) = (data.len(), if head.has(flag::PADDED) { 1 } else { 0 });
                    self.buffer.advance(begin);
                    let mut data = self.buffer.split_to(head.length);
                    data.advance(before);
                    data.truncate(length);
                    at = 0;
                    state.data(head.stream, Data::Owned(data), head.length, is_end)?;
                }
            } else {
                state.control(head, payload)?;
            }
        }
        self.buffer.advance(at);
        Ok(())
    }
}

/// Buffers of this thread that no connection uses.
const FREE_MAX: usize = 16;

thread_local! {
    static FREE: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

impl State {
    /// Whatever is neither DATA nor a part of a header block.
    fn control(&mut self, head: Head, payload: &[u8]) -> Result<(), Fatal> {
        let of_connection = matches!(head.kind, kind::SETTINGS | kind::PING | kind::GOAWAY);
        let of_stream = matches!(head.kind, kind::PRIORITY | kind::RST_STREAM);
        if of_connection && head.stream != 0 || of_stream && head.stream == 0 {
            return Err(Fatal::Error(Reason::PROTOCOL_ERROR));
        }
        let is_sized = match head.kind {
            kind::RST_STREAM | kind::WINDOW_UPDATE => payload.len() == 4,
            kind::PRIORITY => payload.len() == 5,
            kind::PING => payload.len() == 8,
            kind::GOAWAY => payload.len() >= 8,
            kind::SETTINGS if head.has(flag::ACK) => payload.is_empty(),
            kind::SETTINGS => payload.len().is_multiple_of(6),
            _ => true,
        };
        if !is_sized {
            return Err(Fatal::Error(Reason::FRAME_SIZE_ERROR));
        }
        match head.kind {
            kind::WINDOW_UPDATE => self.window_update(head.stream, word(payload)),
            kind::RST_STREAM => match self.find(head.stream) {
                // All bits of a reason count.
                Some(at) => {
                    if self.role == Role::Server && !self.stream(at).is_accepted {
                        // Nobody has seen the request yet, and each costs its part of a turn.
                        self.early_reset()?;
                    }
                    let reason = u32::from_be_bytes([payload[0], payload[1], payload[2], payload[3]]);
                    self.break_off(at, Broken::Reset(Reason(reason)));
                    Ok(())
                }
                None if head.stream > self.last => Err(Fatal::Error(Reason::PROTOCOL_ERROR)),
                None => self.control_frame(),
            },
            kind::SETTINGS if head.has(flag::ACK) => self.control_frame(),
            kind::SETTINGS => {
                self.settings(payload)?;
                self.has_news = true;
                self.empty_frame()
            }
            kind::PING if head.has(flag::ACK) => {
                self.pongs += 1;
                self.farewell_is_read(payload);
                self.control_frame()
            }
            kind::PING => {
                // An estimate of a network takes one for each round trip (gRPC). Answers that are not read are bounded, too
                // (READ_STOP).
                put_ping(self.output.buffer(), flag::ACK, payload);
                self.control_frame()
            }
            kind::GOAWAY => {
                (self.is_going_away, self.has_news) = (true, true);
                if self.role == Role::Client {
                    self.refuse_above(word(payload));
                }
                self.control_frame()
            }
            kind::PUSH_PROMISE => Err(Fatal::Error(Reason::PROTOCOL_ERROR)),
            // Of no meaning any more (RFC 9113 section 5.3), but for what was an error before.
            kind::PRIORITY if word(payload) == head.stream => match self.find(head.stream) {
                Some(at) => self.fail(at, Reason::PROTOCOL_ERROR),
                None => Err(Fatal::Error(Reason::PROTOCOL_ERROR)),
            },
            // Others are to be passed over (section 4.1).
            _ => self.empty_frame(),
        }
    }
}
