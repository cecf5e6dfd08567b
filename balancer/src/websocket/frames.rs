//! WebSocket frames followed as they pass (RFC 6455 section 5.2): where a message ends, so that a
//! close of our own never cuts one, and what code a peer closes with. Payloads are not looked at,
//! so extensions (permessage-deflate) pass.

const CLOSE: u8 = 0x8;
/// "Normal closure": phoenix.js does not come back after it.
pub(super) const NORMAL: u16 = 1000;
/// "Service restart" (the registry of RFC 6455 section 11.7): come back, to somebody else.
pub(super) const RESTART: u16 = 1012;
/// "Going away".
pub(super) const GOING_AWAY: u16 = 1001;

/// One direction of a WebSocket.
#[derive(Debug)]
pub(super) struct Frames {
    place: Place,
    /// The message under way has begun, and its last frame has not ended.
    in_message: bool,
    closed: bool,
}

#[derive(Debug, Clone, Copy)]
enum Place {
    /// In a frame's head, of which so many bytes are there.
    Head { bytes: [u8; 14], have: u8 },
    /// `high` is the payload's first byte, once it is there: a close code's higher half.
    Payload { left: u64, opcode: u8, done: u64, high: u8 },
}

/// A frame's head, as far as it matters here.
struct Head {
    opcode: u8,
    is_last: bool,
    /// How long its payload is.
    payload: u64,
}

/// A piece of a direction, looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Followed {
    /// Bytes that belong before the boundary that was asked for; else all.
    pub(super) taken: usize,
    /// Where the second byte of a close code of 1000 is.
    pub(super) normal_close_at: Option<usize>,
}

const START: Place = Place::Head { bytes: [0; 14], have: 0 };

impl Default for Frames {
    fn default() -> Frames {
        Frames { place: START, in_message: false, closed: false }
    }
}

impl Frames {
    /// No frame and no message is under way.
    pub(super) fn is_at_boundary(&self) -> bool {
        matches!(self.place, Place::Head { have: 0, .. }) && !self.in_message
    }

    /// A close frame has passed.
    pub(super) fn has_closed(&self) -> bool {
        self.closed
    }

    /// Follows `bytes`, up to the next boundary only if `stop` says so.
    pub(super) fn follow(&mut self, bytes: &[u8], stop: bool) -> Followed {
        let mut at = 0;
        let mut normal_close_at = None;
        while at < bytes.len() && !(stop && self.is_at_boundary()) {
            match self.place {
                // Mostly all of a head is there.
                Place::Head { have: 0, .. } if let Some((head, length)) = Head::parse(&bytes[at..]) => {
                    at += length;
                    self.begin(head);
                }
                Place::Head { bytes: mut first, have } => {
                    first[usize::from(have)] = bytes[at];
                    at += 1;
                    self.place = Place::Head { bytes: first, have: have + 1 };
                    if let Some((head, _)) = Head::parse(&first[..=usize::from(have)]) {
                        self.begin(head);
                    }
                }
                Place::Payload { left, opcode, done, mut high } => {
                    let step = left.min((bytes.len() - at) as u64);
                    if done == 0 {
                        high = bytes[at];
                    }
                    if opcode == CLOSE && done <= 1 && done + step >= 2 {
                        // The code is the first two bytes; masked ones are a client's own.
                        let second = at + (1 - done) as usize;
                        if [high, bytes[second]] == NORMAL.to_be_bytes() {
                            normal_close_at = Some(second);
                        }
                    }
                    at += step as usize;
                    self.place = Place::Payload { left: left - step, opcode, done: done + step, high };
                    self.end_if_done();
                }
            }
        }
        Followed { taken: at, normal_close_at }
    }

    fn begin(&mut self, Head { opcode, is_last, payload }: Head) {
        // Control frames come between the frames of a message and change nothing about it.
        if opcode < CLOSE {
            self.in_message = !is_last;
        }
        self.closed |= opcode == CLOSE;
        self.place = Place::Payload { left: payload, opcode, done: 0, high: 0 };
        self.end_if_done();
    }

    fn end_if_done(&mut self) {
        if matches!(self.place, Place::Payload { left: 0, .. }) {
            self.place = START;
        }
    }
}

impl Head {
    /// The head that `bytes` begin with, and its own length; none when it is not all there.
    fn parse(bytes: &[u8]) -> Option<(Head, usize)> {
        let &[first, second, ref rest @ ..] = bytes else { return None };
        let (payload, extended) = match second & 0x7f {
            126 => (u64::from(u16::from_be_bytes(*rest.first_chunk()?)), 2),
            127 => (u64::from_be_bytes(*rest.first_chunk()?), 8),
            short => (u64::from(short), 0),
        };
        let mask = if second & 0x80 != 0 { 4 } else { 0 };
        let head = Head { opcode: first & 0x0f, is_last: first & 0x80 != 0, payload };
        (rest.len() >= extended + mask).then_some((head, 2 + extended + mask))
    }
}

/// A close frame, as an endpoint sends it.
pub(super) fn close(code: u16) -> Vec<u8> {
    let [high, low] = code.to_be_bytes();
    vec![0x80 | CLOSE, 2, high, low]
}

/// A close frame as a client sends it: masked, since servers must refuse others (section 5.1). The
/// mask hides nothing here.
pub(super) fn masked_close(code: u16, mask: [u8; 4]) -> Vec<u8> {
    let [high, low] = code.to_be_bytes();
    [&[0x80 | CLOSE, 0x80 | 2][..], &mask, &[high ^ mask[0], low ^ mask[1]]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(first: u8, length: usize, masked: bool) -> Vec<u8> {
        let mask = if masked { 0x80 } else { 0 };
        let mut bytes = vec![first];
        match length {
            0..=125 => bytes.push(mask | length as u8),
            126..=0xffff => {
                bytes.push(mask | 126);
                bytes.extend((length as u16).to_be_bytes());
            }
            _ => {
                bytes.push(mask | 127);
                bytes.extend((length as u64).to_be_bytes());
            }
        }
        bytes.extend(vec![0xaa; if masked { 4 } else { 0 } + length]);
        bytes
    }

    /// However the bytes are cut, messages end at the same places.
    #[test]
    fn messages_end_where_they_end_at_any_cut() {
        let messages = [
            frame(0x81, 5, true),
            frame(0x82, 0, false),
            frame(0x82, 300, true),
            frame(0xc2, 70_000, false),
            // A fragmented one with a ping in its middle.
            [frame(0x01, 10, false), frame(0x89, 4, false), frame(0x00, 0, false), frame(0x80, 3, false)].concat(),
            frame(0x8a, 125, true),
        ];
        let all = messages.concat();
        for cut in (1..40).chain([4_096, all.len()]) {
            let mut frames = Frames::default();
            let mut ends = Vec::new();
            let mut at = 0;
            for read in all.chunks(cut) {
                let mut read = read;
                while !read.is_empty() {
                    // Past the boundary with the first byte, then on to the next one.
                    let first = frames.follow(&read[..1], false).taken;
                    let taken = first + frames.follow(&read[first..], true).taken;
                    at += taken;
                    read = &read[taken..];
                    if frames.is_at_boundary() {
                        ends.push(at);
                    }
                }
            }
            let expected: Vec<usize> = messages
                .iter()
                .scan(0, |end, message| {
                    *end += message.len();
                    Some(*end)
                })
                .collect();
            assert_eq!(ends, expected, "cut {cut}");
            assert!(!frames.has_closed());
        }
    }

    #[test]
    fn a_normal_close_is_found_at_any_cut() {
        let bytes = [frame(0x81, 3, false), close(NORMAL)].concat();
        for cut in 1..=bytes.len() {
            let mut frames = Frames::default();
            let mut found = None;
            for (n, read) in bytes.chunks(cut).enumerate() {
                let at = frames.follow(read, false).normal_close_at;
                found = found.or(at.map(|at| n * cut + at));
            }
            assert_eq!(found, Some(bytes.len() - 1), "cut {cut}");
            assert!(frames.has_closed());
        }
        let other = Frames::default().follow(&close(RESTART), false);
        assert_eq!(other, Followed { taken: 4, normal_close_at: None });
        assert_eq!(masked_close(GOING_AWAY, [1, 2, 3, 4]), [0x88, 0x82, 1, 2, 3, 4, 0x03 ^ 1, 0xe9 ^ 2]);
    }
}
