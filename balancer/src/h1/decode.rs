//! Bodies off the wire (RFC 9112 sections 6 and 7). Strict: what two parsers could read in two
//! ways is malformed (H11).

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::body::{Abort, Piece};
use crate::headers::is_of_trailers;

/// A chunk's line with its extensions, which nobody uses for good.
const LINE_MAX: usize = 1024;
/// The trailer section.
const TRAILERS_MAX: usize = 8 * 1024;
const TRAILER_COUNT_MAX: usize = 64;

/// What is to come of a body.
#[derive(Debug)]
pub(crate) enum Decoder {
    Exact(u64),
    Chunked(Chunk),
    /// To the connection's end.
    UntilClose,
    Done,
}

#[derive(Debug)]
pub(crate) enum Chunk {
    Size,
    Data(u64),
    /// The line's end behind a chunk's data.
    End,
    Trailers(Box<Trailers>),
    /// Nobody knows where it ends: what is behind the fault is never read as a chunk, or as another request.
    Broken,
}

#[derive(Debug, Default)]
pub(crate) struct Trailers {
    fields: HeaderMap,
    bytes: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

impl Decoder {
    pub(crate) fn exact(length: u64) -> Decoder {
        if length == 0 { Decoder::Done } else { Decoder::Exact(length) }
    }

    pub(crate) fn chunked() -> Decoder {
        Decoder::Chunked(Chunk::Size)
    }

    pub(crate) fn is_done(&self) -> bool {
        matches!(self, Decoder::Done)
    }

    /// It was malformed: nothing can be read behind it.
    pub(crate) fn is_broken(&self) -> bool {
        matches!(self, Decoder::Chunked(Chunk::Broken))
    }

    /// The next piece in `input`; none when more must be read first.
    pub(crate) fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Piece>, Malformed> {
        match self {
            Decoder::Done => Ok(Some(Piece::End)),
            Decoder::Exact(left) => {
                let data = take(input, left);
                if *left == 0 {
                    *self = Decoder::Done;
                }
                Ok(data.map(Piece::Data))
            }
            Decoder::UntilClose => Ok((!input.is_empty()).then(|| Piece::Data(input.split().freeze()))),
            Decoder::Chunked(chunk) => {
                let piece = chunk.decode(input).inspect_err(|_| *chunk = Chunk::Broken)?;
                if matches!(piece, Some(Piece::End | Piece::Trailers(_))) {
                    *self = Decoder::Done;
                }
                Ok(piece)
            }
        }
    }

    /// What the connection's end means here.
    pub(crate) fn at_end(&mut self) -> Piece {
        match self {
            Decoder::Done | Decoder::UntilClose => {
                *self = Decoder::Done;
                Piece::End
            }
            Decoder::Exact(_) | Decoder::Chunked(_) => Piece::Aborted(Abort::Gone),
        }
    }
}

impl Chunk {
    fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Piece>, Malformed> {
        loop {
            match self {
                Chunk::Size => {
                    let Some(line) = line(input, LINE_MAX)? else { return Ok(None) };
                    *self = match size(&line)? {
                        0 => Chunk::Trailers(Box::default()),
                        size => Chunk::Data(size),
                    };
                }
                Chunk::Data(left) => {
                    let data = take(input, left);
                    if *left == 0 {
                        *self = Chunk::End;
                    }
                    return Ok(data.map(Piece::Data));
                }
                Chunk::End => match input.get(..2) {
                    Some(b"\r\n") => {
                        input.advance(2);
                        *self = Chunk::Size;
                    }
                    Some(_) => return Err(Malformed),
                    None => return Ok(None),
                },
                Chunk::Broken => return Err(Malformed),
                Chunk::Trailers(trailers) => {
                    let Some(line) = line(input, TRAILERS_MAX)? else { return Ok(None) };
                    if line.is_empty() {
                        let fields = std::mem::take(&mut trailers.fields);
                        return Ok(Some(if fields.is_empty() { Piece::End } else { Piece::Trailers(fields) }));
                    }
                    trailers.add(&line)?;
                }
            }
        }
    }
}

impl Trailers {
    fn add(&mut self, line: &[u8]) -> Result<(), Malformed> {
        self.bytes += line.len();
        if self.bytes > TRAILERS_MAX || self.fields.len() == TRAILER_COUNT_MAX {
            return Err(Malformed);
        }
        let colon = line.iter().position(|b| *b == b':').ok_or(Malformed)?;
        let name = HeaderName::from_bytes(&line[..colon]).map_err(|_| Malformed)?;
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).map_err(|_| Malformed)?;
        if is_of_trailers(&name) {
            self.fields.append(name, value);
        }
        Ok(())
    }
}

/// As much of `left` as `input` holds.
fn take(input: &mut BytesMut, left: &mut u64) -> Option<Bytes> {
    if input.is_empty() {
        return None;
    }
    let length = input.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
    *left -= length as u64;
    Some(input.split_to(length).freeze())
}

/// A line without its end, which must be CRLF.
fn line(input: &mut BytesMut, max: usize) -> Result<Option<BytesMut>, Malformed> {
    match input.iter().take(max).position(|b| *b == b'\n') {
        None if input.len() >= max => Err(Malformed),
        None => Ok(None),
        Some(end) => {
            let mut line = input.split_to(end + 1);
            let text = line.strip_suffix(b"\r\n").ok_or(Malformed)?;
            if text.contains(&b'\r') {
                return Err(Malformed);
            }
            line.truncate(end - 1);
            Ok(Some(line))
        }
    }
}

/// `chunk-size [ chunk-ext ]`: hexadecimal digits, no sign, no more than fit; and what is passed over, of which nothing is a
/// control character.
fn size(line: &[u8]) -> Result<u64, Malformed> {
    let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
    let (size, extension) = line.split_at(digits);
    let is_extension = extension.is_empty() || extension.trim_ascii_start().starts_with(b";");
    let is_text = extension.iter().all(|b| matches!(b, b'\t' | b' '..=b'~' | 0x80..));
    if !(1..=16).contains(&digits) || !is_extension || !is_text {
        return Err(Malformed);
    }
    let text = std::str::from_utf8(size).map_err(|_| Malformed)?;
    u64::from_str_radix(text, 16).map_err(|_| Malformed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A body's bytes, its trailers, and what is left behind it.
    type Whole = (Vec<u8>, Option<HeaderMap>, Vec<u8>);

    /// A body that comes in reads of `cut` bytes.
    fn read(mut decoder: Decoder, bytes: &[u8], cut: usize) -> Result<Whole, Malformed> {
        let (mut input, mut data) = (BytesMut::new(), Vec::new());
        let mut reads = bytes.chunks(cut);
        let trailers = loop {
            match decoder.decode(&mut input)? {
                Some(Piece::Data(piece)) => data.extend(piece),
                Some(Piece::End) => break None,
                Some(Piece::Trailers(fields)) => break Some(fields),
                Some(Piece::Aborted(_)) => unreachable!("the decoder knows no abort"),
                None => input.extend_from_slice(reads.next().ok_or(Malformed)?),
            }
        };
        let rest = input.iter().copied().chain(reads.flatten().copied()).collect();
        Ok((data, trailers, rest))
    }

    #[test]
    fn chunks_are_read_at_any_cut() {
        let body = b"5\r\nhello\r\n00b;ext=\"x\"\r\n, chunked w\r\n4\r\norld\r\n0\r\n\r\nGET";
        for cut in 1..=body.len() {
            let (data, trailers, rest) = read(Decoder::chunked(), body, cut).unwrap();
            assert_eq!(
                (&data[..], trailers, &rest[..]),
                (&b"hello, chunked world"[..], None, &b"GET"[..]),
                "cut {cut}"
            );
        }
    }

    #[test]
    fn trailers_are_read() {
        let (_, trailers, _) = read(Decoder::chunked(), b"1\r\nx\r\n0\r\ngrpc-status:  0 \r\nb: c\r\n\r\n", 7).unwrap();
        let trailers = trailers.unwrap();
        assert_eq!((&trailers["grpc-status"], &trailers["b"]), (&"0".parse().unwrap(), &"c".parse().unwrap()));
    }

    #[test]
    fn trailers_frame_nothing() {
        let body = b"0\r\nContent-Length: 9\r\ntransfer-encoding: chunked\r\nconnection: x\r\nkept: 1\r\n\r\n";
        let (_, trailers, _) = read(Decoder::chunked(), body, 5).unwrap();
        let names: Vec<_> = trailers.unwrap().keys().map(|name| name.as_str().to_owned()).collect();
        assert_eq!(names, ["kept"]);
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_malformed() {
        for bad in [
            &b"5\nhello\r\n0\r\n\r\n"[..],
            b"+5\r\nhello\r\n0\r\n\r\n",
            b"0x5\r\nhello\r\n0\r\n\r\n",
            b" 5\r\nhello\r\n0\r\n\r\n",
            b"\r\n5\r\nhello\r\n0\r\n\r\n",
            b"5\r\nhello0\r\n\r\n",
            b"5\r\nhelloXX0\r\n\r\n",
            b"5\r\nhello\n0\r\n\r\n",
            b"5 x\r\nhello\r\n0\r\n\r\n",
            b"5 \r\nhello\r\n0\r\n\r\n",
            b"5;a=\0\r\nhello\r\n0\r\n\r\n",
            b"5;a\rb\r\nhello\r\n0\r\n\r\n",
            b"fffffffffffffffff\r\n",
            b"0\r\nno colon\r\n\r\n",
            b"0\r\n folded: x\r\n\r\n",
            b"0\r\na: b\n\r\n",
        ] {
            for cut in [1, 3, bad.len()] {
                assert!(read(Decoder::chunked(), bad, cut).is_err(), "{:?}", bad.escape_ascii().to_string());
            }
        }
        assert!(read(Decoder::chunked(), &[b'1'; 4096], 100).is_err(), "an endless line");
        let endless = [&b"0\r\n"[..], &b"a: b\r\n".repeat(5_000)].concat();
        assert!(read(Decoder::chunked(), &endless, 100).is_err(), "endless trailers");
    }

    #[test]
    fn the_end_of_the_connection_ends_only_what_has_no_length() {
        assert!(matches!(Decoder::exact(1).at_end(), Piece::Aborted(Abort::Gone)));
        assert!(matches!(Decoder::chunked().at_end(), Piece::Aborted(Abort::Gone)));
        assert!(matches!(Decoder::UntilClose.at_end(), Piece::End));
        assert!(matches!(Decoder::exact(0).at_end(), Piece::End));
    }

    proptest! {
        #[test]
        fn nothing_panics_and_no_byte_beyond_the_length_is_taken(bytes: Vec<u8>, cut in 1usize..64, length in 0u64..200) {
            let _ = read(Decoder::chunked(), &bytes, cut);
            if let Ok((data, _, rest)) = read(Decoder::exact(length), &bytes, cut) {
                prop_assert_eq!(data.len() as u64, length);
                prop_assert_eq!([data, rest].concat(), bytes);
            }
        }
    }
}
