//! Header blocks as they come: put together from their frames, read, and given to their stream.

use http::{Method, StatusCode};

use super::TooMuch;
use super::frame::{Head, Reason, flag, kind, word};
use super::head::{Block, content_length};
use super::server::Incoming;
use super::state::{Fatal, Role, State};

/// A block whose CONTINUATION frames are still to come.
#[derive(Debug)]
pub(super) struct Unfinished {
    opening: Opening,
    block: Vec<u8>,
}

/// What a HEADERS frame says beside its block.
#[derive(Debug, Clone, Copy)]
struct Opening {
    number: u32,
    is_end: bool,
    /// The stream depends on itself, which RFC 7540 section 5.3.1 forbids; others ignore priorities too.
    is_knotted: bool,
}

/// Interim responses that wait to be taken. More are dropped: an endpoint may not fill the memory with them.
const INTERIM_MAX: usize = 16;

impl State {
    pub(super) fn headers(&mut self, head: Head, payload: &[u8]) -> Result<(), Fatal> {
        if head.stream == 0 {
            return Err(Fatal::Error(Reason::PROTOCOL_ERROR));
        }
        let mut block = unpadded(head, payload)?;
        let mut opening = Opening { number: head.stream, is_end: head.has(flag::END_STREAM), is_knotted: false };
        if head.has(flag::PRIORITY) {
            let (priority, rest) = block.split_at_checked(5).ok_or(Fatal::Error(Reason::FRAME_SIZE_ERROR))?;
            opening.is_knotted = word(priority) == head.stream;
            block = rest;
        }
        if head.has(flag::END_HEADERS) {
            return self.block(opening, block);
        }
        self.unfinished = Some(Unfinished { opening, block: block.to_vec() });
        Ok(())
    }

    /// The frame behind one whose block is not finished: nothing else may come there (section 6.10).
    pub(super) fn continuation(&mut self, head: Head, payload: &[u8]) -> Result<(), Fatal> {
        let Some(begun) = &mut self.unfinished else { return Err(Fatal::Error(Reason::PROTOCOL_ERROR)) };
        if head.kind != kind::CONTINUATION || head.stream != begun.opening.number {
            return Err(Fatal::Error(Reason::PROTOCOL_ERROR));
        }
        if begun.block.len() + payload.len() > 4 * self.config.max_header_bytes as usize {
            return Err(Fatal::TooMuch(TooMuch::Head));
        }
        begun.block.extend_from_slice(payload);
        if !head.has(flag::END_HEADERS) {
            return if payload.is_empty() { self.empty_frame() } else { Ok(()) };
        }
        let Unfinished { opening, block } = self.unfinished.take().expect("it was there a line ago");
        self.block(opening, &block)
    }

    fn block(&mut self, opening: Opening, bytes: &[u8]) -> Result<(), Fatal> {
        self.blocks += 1;
        // Read in any case: the table that both sides share goes on.
        let mut block = Block::new(self.config.max_header_bytes);
        self.decoder.decode(bytes, |field| block.add(field)).map_err(|_| Fatal::Error(Reason::COMPRESSION_ERROR))?;
        match (self.find(opening.number), self.role) {
            (Some(at), role) => {
                let stream = self.stream(at);
                if stream.has_received_end() {
                    return self.fail(at, Reason::STREAM_CLOSED);
                }
                if stream.broken.is_some() {
                    return self.empty_frame();
                }
                if role == Role::Client && !stream.has_head {
                    return self.response(at, opening, block);
                }
                let trailers = block.into_trailers();
                match trailers {
                    Ok(trailers) if opening.is_end => self.trailers(at, trailers),
                    _ => self.fail(at, Reason::PROTOCOL_ERROR),
                }
            }
            (None, Role::Server) if opening.number > self.last => self.request(opening, block),
            (None, _) => self.of_none(opening.number, bytes.len()),
        }
    }

    fn request(&mut self, opening: Opening, block: Block) -> Result<(), Fatal> {
        let number = opening.number;
        if number.is_multiple_of(2) {
            return Err(Fatal::Error(Reason::PROTOCOL_ERROR));
        }
        self.last = number;
        if self.served_to.is_some_and(|last| number > last) {
            // The client has been told, or will hear of it, and sends it again elsewhere.
            return self.empty_frame();
        }
        if self.open() >= self.config.max_streams {
            self.refuse(number, Reason::REFUSED_STREAM);
            self.refused += 1;
            return self.empty_frame();
        }
        let is_too_large = block.is_too_large();
        let head = block.into_request();
        // What follows the head of an extended CONNECT is no body.
        let length = head.as_ref().ok().filter(|head| head.method != Method::CONNECT);
        // Lengths that contradict each other are answered, not passed on.
        let length = length.and_then(|head| content_length(&head.headers).unwrap_or(None));
        let head = match head {
            Ok(head) if !(opening.is_knotted || opening.is_end && length.is_some_and(|length| length > 0)) => head,
            _ => {
                self.refuse(number, Reason::PROTOCOL_ERROR);
                return self.fault();
            }
        };
        let at = self.insert(number, 2);
        self.stream(at).length_left = length;
        if opening.is_end {
            self.received_end(at);
        }
        self.incoming.push_back(Incoming { at, head, is_too_large });
        Ok(())
    }

    fn response(&mut self, at: usize, opening: Opening, block: Block) -> Result<(), Fatal> {
        let Ok(head) = block.into_response() else { return self.fail(at, Reason::PROTOCOL_ERROR) };
        let stream = self.stream(at);
        if head.status().is_informational() {
            if opening.is_end {
                return self.fail(at, Reason::PROTOCOL_ERROR);
            }
            if stream.interim.len() < INTERIM_MAX {
                stream.interim.push(head);
            }
            stream.wake();
            return Ok(());
        }
        let status = head.status();
        stream.is_bodiless |= matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let is_tunnel = stream.is_tunnel && status.is_success();
        let length = match content_length(head.headers()) {
            Ok(length) if !opening.is_end || stream.is_bodiless || is_tunnel || length.unwrap_or(0) == 0 => length,
            _ => return self.fail(at, Reason::PROTOCOL_ERROR),
        };
        stream.length_left = length.filter(|_| !stream.is_bodiless && !is_tunnel);
        stream.set_head(head);
        if opening.is_end {
            self.received_end(at);
        } else {
            stream.wake();
        }
        Ok(())
    }
}

/// A payload without its padding (section 6.1).
pub(super) fn unpadded(head: Head, payload: &[u8]) -> Result<&[u8], Fatal> {
    if !head.has(flag::PADDED) {
        return Ok(payload);
    }
    let (padding, rest) = payload.split_first().ok_or(Fatal::Error(Reason::FRAME_SIZE_ERROR))?;
    let length = rest.len().checked_sub(usize::from(*padding)).ok_or(Fatal::Error(Reason::PROTOCOL_ERROR))?;
    Ok(&rest[..length])
}
