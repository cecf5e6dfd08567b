//! Heads and bodies onto the wire (RFC 9112). What comes here has been checked: names and values
//! hold no line ends.

use std::io::Write as _;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, TE, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, Method, StatusCode};

use super::wire::Wire;

/// How a message's body is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoder {
    /// No body goes out, whatever the fields say: an answer to HEAD, or none at all.
    Nothing,
    /// So many bytes are to come.
    Exact(u64),
    Chunked,
    /// To the connection's end: all that HTTP/1.0 clients understand.
    UntilClose,
}

/// More bytes came than the head said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooMany;

impl Encoder {
    /// Puts a piece out; the wire must have room.
    pub(crate) fn data(&mut self, wire: &mut Wire, data: Bytes) -> Result<(), TooMany> {
        if data.is_empty() {
            return Ok(());
        }
        match self {
            Encoder::Nothing => {}
            Encoder::UntilClose => wire.push(data, b""),
            Encoder::Exact(left) => {
                *left = left.checked_sub(data.len() as u64).ok_or(TooMany)?;
                wire.push(data, b"");
            }
            Encoder::Chunked => {
                hexadecimal(wire.buffer(), data.len());
                wire.push(data, b"\r\n");
            }
        }
        Ok(())
    }

    /// Whether all bytes that the head promised are out, so that nothing needs to be waited for.
    pub(crate) fn is_complete(self) -> bool {
        matches!(self, Encoder::Nothing | Encoder::Exact(0))
    }

    /// Ends the body. False when bytes are missing: then only a close tells the peer (H4).
    pub(crate) fn end(self, wire: &mut Wire, trailers: Option<&HeaderMap>) -> bool {
        match self {
            Encoder::Nothing | Encoder::UntilClose => true,
            Encoder::Exact(left) => left == 0,
            Encoder::Chunked => {
                let buffer = wire.buffer();
                buffer.extend_from_slice(b"0\r\n");
                for (name, value) in trailers.into_iter().flatten() {
                    if ![&CONTENT_LENGTH, &TRANSFER_ENCODING, &HOST].contains(&name) {
                        field(buffer, name, value.as_bytes());
                    }
                }
                buffer.extend_from_slice(b"\r\n");
                true
            }
        }
    }

    /// The field that tells of the framing, where the head has none of its own.
    fn announce(self, buffer: &mut Vec<u8>) {
        match self {
            Encoder::Chunked => buffer.extend_from_slice(b"transfer-encoding: chunked\r\n"),
            Encoder::Exact(length) => {
                buffer.extend_from_slice(b"content-length: ");
                decimal(buffer, length);
                buffer.extend_from_slice(b"\r\n");
            }
            Encoder::Nothing | Encoder::UntilClose => {}
        }
    }
}

/// A request's head. Host and framing are given; what the balancer has answered for (`expect`) or
/// does not pass to HTTP/1.1 (`te`) is left out. HTTP/2 may have split the cookies; here they are
/// one field (RFC 9113 section 8.2.3).
pub(crate) fn request_head(
    buffer: &mut Vec<u8>,
    method: &Method,
    path: &str,
    host: &str,
    headers: &HeaderMap,
    body: Encoder,
) {
    buffer.extend_from_slice(method.as_str().as_bytes());
    buffer.push(b' ');
    buffer.extend_from_slice(path.as_bytes());
    buffer.extend_from_slice(b" HTTP/1.1\r\n");
    field(buffer, &HOST, host.as_bytes());
    let mut in_cookie = false;
    for (name, value) in headers {
        if [&HOST, &CONTENT_LENGTH, &TRANSFER_ENCODING, &EXPECT, &TE].contains(&name) {
            continue;
        }
        if *name == COOKIE && std::mem::replace(&mut in_cookie, true) {
            // The values of a name come one after the other: go on in its line.
            buffer.truncate(buffer.len() - 2);
            buffer.extend_from_slice(b"; ");
            buffer.extend_from_slice(value.as_bytes());
            buffer.extend_from_slice(b"\r\n");
        } else {
            field(buffer, name, value.as_bytes());
        }
    }
    body.announce(buffer);
    buffer.extend_from_slice(b"\r\n");
}

/// What the connection is told behind the response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Persistence {
    /// What HTTP/1.1 takes for granted.
    Implied,
    KeepAlive,
    Close,
}

/// A response's head. A length in the map is kept where no body goes out (HEAD, 304).
pub(crate) fn response_head(
    buffer: &mut Vec<u8>,
    status: StatusCode,
    headers: &HeaderMap,
    body: Encoder,
    persistence: Persistence,
) {
    buffer.extend_from_slice(b"HTTP/1.1 ");
    buffer.extend_from_slice(status.as_str().as_bytes());
    buffer.push(b' ');
    buffer.extend_from_slice(status.canonical_reason().unwrap_or("").as_bytes());
    buffer.extend_from_slice(b"\r\n");
    let says_length = body != Encoder::Nothing || status.is_informational() || status == StatusCode::NO_CONTENT;
    for (name, value) in headers {
        if !(says_length && *name == CONTENT_LENGTH) && *name != TRANSFER_ENCODING {
            field(buffer, name, value.as_bytes());
        }
    }
    body.announce(buffer);
    match persistence {
        Persistence::Implied => {}
        Persistence::KeepAlive => field(buffer, &CONNECTION, b"keep-alive"),
        Persistence::Close => field(buffer, &CONNECTION, b"close"),
    }
    buffer.extend_from_slice(b"\r\n");
}

fn field(buffer: &mut Vec<u8>, name: &HeaderName, value: &[u8]) {
    buffer.extend_from_slice(name.as_str().as_bytes());
    buffer.extend_from_slice(b": ");
    buffer.extend_from_slice(value);
    buffer.extend_from_slice(b"\r\n");
}

/// A chunk's size line.
fn hexadecimal(buffer: &mut Vec<u8>, number: usize) {
    write!(buffer, "{number:x}\r\n").expect("a buffer takes all");
}

fn decimal(buffer: &mut Vec<u8>, number: u64) {
    write!(buffer, "{number}").expect("a buffer takes all");
}
