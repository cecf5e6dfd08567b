//! What hyper's parser forgives: a request with both `transfer-encoding` and `content-length`. It
//! drops the length and takes the chunks; we refuse the request (H15, RFC 9112 section 6.1), since
//! whoever sends both means to smuggle. So the lines of each head are looked at as they are read;
//! bodies are passed over by their length or their chunks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What is kept of a line that a read's edge cuts: enough for a name and a number.
const LINE: usize = 64;

/// The lines of one connection's heads.
#[derive(Debug)]
pub(crate) struct FramingWatch {
    place: Place,
    /// The start of the line under way, as far as earlier reads brought it.
    line: [u8; LINE],
    have: usize,
    /// Requests whose head is there.
    heads: u64,
    length: Option<u64>,
    chunked: bool,
    verdict: Verdict,
}

#[derive(Debug, Clone, Copy)]
enum Place {
    /// Before a request: empty lines are passed over.
    Start,
    Fields,
    /// Bytes of a body, or of a chunk with a chunk's line behind it.
    Body(u64),
    Chunk(u64),
    /// The empty line behind a chunk's bytes.
    ChunkEnd,
    ChunkSize,
    Trailers,
}

/// Which request has two framings: its number, 0 for none so far.
#[derive(Debug, Clone, Default)]
pub(crate) struct Verdict(Arc<AtomicU64>);

impl Verdict {
    /// Whether the connection's request number `nth`, from 1, is refused.
    pub(crate) fn refuses(&self, nth: u64) -> bool {
        self.0.load(Ordering::Relaxed) == nth
    }

    /// What comes is no HTTP any more.
    pub(crate) fn stop(&self) {
        self.0.store(u64::MAX, Ordering::Relaxed);
    }
}

impl FramingWatch {
    pub(crate) fn new(verdict: Verdict) -> FramingWatch {
        FramingWatch { place: Place::Start, line: [0; LINE], have: 0, heads: 0, length: None, chunked: false, verdict }
    }

    pub(crate) fn read(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && self.verdict.0.load(Ordering::Relaxed) == 0 {
            if let Place::Body(left) | Place::Chunk(left) = &mut self.place {
                let passed = (*left).min(bytes.len() as u64);
                *left -= passed;
                let done = *left == 0;
                bytes = &bytes[passed as usize..];
                if done {
                    self.place = if matches!(self.place, Place::Body(_)) { Place::Start } else { Place::ChunkEnd };
                }
                continue;
            }
            let Some(end) = bytes.iter().position(|b| *b == b'\n') else {
                return self.keep(bytes);
            };
            let (line, rest) = bytes.split_at(end);
            bytes = &rest[1..];
            if self.have == 0 {
                self.line_is(line);
            } else {
                self.keep(line);
                let (line, have) = (self.line, std::mem::take(&mut self.have));
                self.line_is(&line[..have]);
            }
        }
    }

    /// A request's head has begun and not ended.
    pub(crate) fn is_in_head(&self) -> bool {
        match self.place {
            Place::Fields => true,
            Place::Start => self.have > 0,
            _ => false,
        }
    }

    fn keep(&mut self, part: &[u8]) {
        let kept = part.len().min(LINE - self.have);
        self.line[self.have..self.have + kept].copy_from_slice(&part[..kept]);
        self.have += kept;
    }

    /// One line, without its end; a long one may be cut.
    fn line_is(&mut self, line: &[u8]) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        self.place = match self.place {
            Place::Start if line.is_empty() => Place::Start,
            Place::Start => Place::Fields,
            Place::Fields if line.is_empty() => self.head_ends(),
            Place::Fields => {
                self.field(line);
                Place::Fields
            }
            Place::ChunkEnd => Place::ChunkSize,
            Place::ChunkSize => match chunk_size(line) {
                0 => Place::Trailers,
                size => Place::Chunk(size),
            },
            Place::Trailers if line.is_empty() => Place::Start,
            place => place,
        };
    }

    fn field(&mut self, line: &[u8]) {
        if !line.first().is_some_and(|b| matches!(b | 0x20, b'c' | b't')) {
            return;
        }
        let Some(colon) = line.iter().position(|b| *b == b':') else { return };
        let (name, value) = (&line[..colon], &line[colon + 1..]);
        if name.eq_ignore_ascii_case(b"content-length") {
            // What is no number is refused by hyper.
            let value = std::str::from_utf8(value.trim_ascii()).ok();
            self.length = Some(value.and_then(|value| value.parse().ok()).unwrap_or(0));
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            self.chunked = true;
        }
    }

    fn head_ends(&mut self) -> Place {
        self.heads += 1;
        match (self.length.take(), std::mem::take(&mut self.chunked)) {
            (Some(_), true) => {
                self.verdict.0.store(self.heads, Ordering::Relaxed);
                Place::Start
            }
            (None, true) => Place::ChunkSize,
            (None | Some(0), false) => Place::Start,
            (Some(length), false) => Place::Body(length),
        }
    }
}

/// The number before any extension. What is no number is refused by hyper.
fn chunk_size(line: &[u8]) -> u64 {
    let digits = line.iter().map_while(|b| char::from(*b).to_digit(16));
    digits.fold(0, |size: u64, digit| size.saturating_mul(16).saturating_add(u64::from(digit)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The number of the request that is refused in `text`, however it is cut into reads.
    fn refused(text: &str) -> u64 {
        let found = |cut: usize| {
            let verdict = Verdict::default();
            let mut watch = FramingWatch::new(verdict.clone());
            text.as_bytes().chunks(cut).for_each(|read| watch.read(read));
            verdict.0.load(Ordering::Relaxed)
        };
        let whole = found(text.len());
        assert!((1..text.len()).all(|cut| found(cut) == whole), "the cut changes it: {text}");
        whole
    }

    const BOTH: &str = "POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n";

    #[test]
    fn both_in_one_head_are_seen_in_either_order() {
        assert_eq!(refused(BOTH), 1);
        assert_eq!(refused("POST / HTTP/1.1\ntransfer-encoding:chunked\nx: y\ncontent-length:0\n\n"), 1);
        assert_eq!(refused(&format!("GET / HTTP/1.1\r\nhost: a\r\n\r\n\r\n{BOTH}")), 2);
    }

    #[test]
    fn bodies_are_passed_over() {
        let sized = format!("POST / HTTP/1.1\r\ncontent-length: {}\r\n\r\n{BOTH}", BOTH.len());
        assert_eq!(refused(&sized), 0);
        assert_eq!(refused(&format!("{sized}{BOTH}")), 2);
        let size = BOTH.len();
        let chunked = format!(
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n{size:x};x=y\r\n{BOTH}\r\n1\r\na\r\n0\r\n\
             content-length: 1\r\ntransfer-encoding: x\r\n\r\n"
        );
        assert_eq!(refused(&chunked), 0);
        assert_eq!(refused(&format!("{chunked}{BOTH}")), 2);
        let long = format!("GET / HTTP/1.1\r\nx: {}content-length: 1\r\n\r\n", "transfer-encoding: chunked ".repeat(9));
        assert_eq!(refused(&long), 0);
    }
}
