//! Heads off the wire: httparse finds the lines, what they say about the message's framing is
//! decided here (RFC 9112 section 6.3, H11, H15).

use std::mem::MaybeUninit;

use bytes::{Buf, Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, Version, request, response};

use super::decode::Decoder;
use crate::headers::encoded;

/// More header fields than this are refused whatever the configuration says.
const FIELDS_MAX: usize = 1_024;

/// What a field counts for beside its name and its value (RFC 9113 section 6.5.2).
const FIELD_OVERHEAD: usize = 32;

/// What a head may be at most.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HeadLimits {
    /// All of it as it comes, white space included.
    pub(crate) bytes: usize,
    /// Its fields, as RFC 9113 section 6.5.2 counts them: one limit for both protocols.
    pub(crate) field_bytes: usize,
    pub(crate) target: usize,
    pub(crate) fields: usize,
}

#[derive(Debug)]
pub(crate) struct RequestHead {
    pub(crate) parts: request::Parts,
    pub(crate) body: Decoder,
    /// The client asked for no close behind the response.
    pub(crate) keep_alive: bool,
}

#[derive(Debug)]
pub(crate) struct ResponseHead {
    pub(crate) parts: response::Parts,
    pub(crate) body: Decoder,
    pub(crate) keep_alive: bool,
}

/// Why a head is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BadHead {
    Malformed,
    /// Its length is stated in more than one way, or in one that nobody can undo.
    Framing,
    Version,
    TooLarge,
    TargetTooLong,
}

/// Finds the ends of a connection's heads, across reads.
#[derive(Debug, Default)]
pub(crate) struct HeadReader {
    /// How much of the input has been looked at without finding the end.
    scanned: usize,
}

impl HeadReader {
    pub(crate) fn request(&mut self, input: &mut BytesMut, limits: HeadLimits) -> Result<Option<RequestHead>, BadHead> {
        // An empty line before a request is some clients' end of the body before it (section 2.2).
        while self.scanned == 0 && input.starts_with(b"\r\n") {
            input.advance(2);
        }
        match self.split(input, limits.bytes) {
            Ok(None) => Ok(None),
            Ok(Some(head)) => parse_request(&head, limits).map(Some),
            Err(BadHead::TooLarge) if !input.iter().take(limits.target).any(|b| *b == b'\n') => {
                Err(BadHead::TargetTooLong)
            }
            Err(bad) => Err(bad),
        }
    }

    /// A response to a `method` request. Interim responses are heads too, with no body.
    pub(crate) fn response(
        &mut self,
        input: &mut BytesMut,
        max: usize,
        method: &Method,
    ) -> Result<Option<ResponseHead>, BadHead> {
        match self.split(input, max) {
            Ok(None) => Ok(None),
            Ok(Some(head)) => parse_response(&head, method).map(Some),
            Err(bad) => Err(bad),
        }
    }

    /// Whether a part of a head is there.
    pub(crate) fn has_begun(&self) -> bool {
        self.scanned > 0
    }

    /// Splits a head off, with the empty line that ends it. A line that ends in LF alone may be read as its end, or as a
    /// part of it (section 2.2): whoever is before or behind this may read it the other way.
    fn split(&mut self, input: &mut BytesMut, max: usize) -> Result<Option<Bytes>, BadHead> {
        let mut from = self.scanned.saturating_sub(3);
        while let Some(found) = memchr::memchr(b'\n', &input[from..]) {
            let next = from + found + 1;
            if !input[..next].ends_with(b"\r\n") {
                return Err(BadHead::Malformed);
            }
            if !input[next..].starts_with(b"\r\n") {
                from = next;
                continue;
            }
            let end = next + 2;
            if end > max {
                return Err(BadHead::TooLarge);
            }
            self.scanned = 0;
            return Ok(Some(input.split_to(end).freeze()));
        }
        self.scanned = input.len();
        if input.len() > max { Err(BadHead::TooLarge) } else { Ok(None) }
    }
}

fn parse_request(head: &Bytes, limits: HeadLimits) -> Result<RequestHead, BadHead> {
    let mut lines = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let mut request = httparse::Request::new(&mut []);
    let fields = lines.get_mut(..=limits.fields).unwrap_or_else(|| unreachable!("the configuration allows no more"));
    match httparse::ParserConfig::default().parse_request_with_uninit_headers(&mut request, head, fields) {
        Ok(httparse::Status::Complete(length)) if length == head.len() => {}
        Ok(_) => return Err(BadHead::Malformed),
        Err(httparse::Error::TooManyHeaders) => return Err(BadHead::TooLarge),
        Err(httparse::Error::Version) => return Err(BadHead::Version),
        Err(_) => return Err(BadHead::Malformed),
    }
    let (Some(method), Some(target)) = (request.method, request.path) else { return Err(BadHead::Malformed) };
    if target.len() > limits.target {
        return Err(BadHead::TargetTooLong);
    }
    let (mut parts, ()) = http::Request::new(()).into_parts();
    parts.method = Method::from_bytes(method.as_bytes()).map_err(|_| BadHead::Malformed)?;
    parts.uri = Uri::from_maybe_shared(head.slice_ref(target.as_bytes()))
        .or_else(|_| Uri::from_maybe_shared(Bytes::from(encoded(target.as_bytes()))))
        .map_err(|_| BadHead::Malformed)?;
    if parts.method == Method::OPTIONS && asks_about_server(target) {
        let mut uri = parts.uri.into_parts();
        uri.path_and_query = Some(PathAndQuery::from_static("*"));
        parts.uri = Uri::from_parts(uri).map_err(|_| BadHead::Malformed)?;
    }
    parts.version = version(request.version);
    let size: usize = request.headers.iter().map(|field| field.name.len() + field.value.len() + FIELD_OVERHEAD).sum();
    if size > limits.field_bytes {
        return Err(BadHead::TooLarge);
    }
    parts.headers = header_map(head, request.headers)?;
    let is_old = parts.version == Version::HTTP_10;
    let body = match (coding(&parts.headers)?, length(&parts.headers)?) {
        (None, length) => Decoder::exact(length.unwrap_or(0)),
        // Both, or a coding that HTTP/1.0 does not have, is what smuggling is made of (section 6.1).
        (Some(_), Some(_)) => return Err(BadHead::Framing),
        (Some(_), None) if is_old => return Err(BadHead::Framing),
        (Some(Chunked), None) => Decoder::chunked(),
    };
    let keep_alive = keeps_alive(&parts.headers, is_old);
    Ok(RequestHead { parts, body, keep_alive })
}

/// An absolute form without a path, which the last proxy sends on as `*` (section 3.2.4). `Uri` takes it for the root.
fn asks_about_server(target: &str) -> bool {
    target.split_once("://").is_some_and(|(_, authority)| !authority.contains(['/', '?']))
}

fn parse_response(head: &Bytes, method: &Method) -> Result<ResponseHead, BadHead> {
    let mut lines = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let mut response = httparse::Response::new(&mut []);
    // A proxy takes blanks before a colon out of responses (section 5.1).
    let mut lenient = httparse::ParserConfig::default();
    lenient.allow_spaces_after_header_name_in_responses(true);
    match lenient.parse_response_with_uninit_headers(&mut response, head, &mut lines) {
        Ok(httparse::Status::Complete(length)) if length == head.len() => {}
        Err(httparse::Error::TooManyHeaders) => return Err(BadHead::TooLarge),
        _ => return Err(BadHead::Malformed),
    }
    let (mut parts, ()) = http::Response::new(()).into_parts();
    let status = response.code.ok_or(BadHead::Malformed)?;
    parts.status = StatusCode::from_u16(status).map_err(|_| BadHead::Malformed)?;
    if status > 599 {
        return Err(BadHead::Malformed);
    }
    parts.version = version(response.version);
    parts.headers = header_map(head, response.headers)?;
    let is_old = parts.version == Version::HTTP_10;
    let (coding, length) = (coding(&parts.headers)?, length(&parts.headers)?);
    let has_none = *method == Method::HEAD
        || parts.status.is_informational()
        || matches!(parts.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let body = match (coding, length) {
        (Some(_), Some(_)) => return Err(BadHead::Framing),
        (Some(_), None) if is_old => return Err(BadHead::Framing),
        _ if has_none => Decoder::Done,
        (Some(Chunked), None) => Decoder::chunked(),
        (None, Some(length)) => Decoder::exact(length),
        (None, None) => Decoder::UntilClose,
    };
    let keep_alive = keeps_alive(&parts.headers, is_old);
    Ok(ResponseHead { parts, body, keep_alive })
}

/// httparse knows of no other versions.
fn version(minor: Option<u8>) -> Version {
    if minor == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 }
}

/// The values share the head's memory.
fn header_map(head: &Bytes, fields: &[httparse::Header<'_>]) -> Result<HeaderMap, BadHead> {
    let mut map = HeaderMap::with_capacity(fields.len());
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| BadHead::Malformed)?;
        let value = match field.value {
            b"" => HeaderValue::from_static(""),
            value => HeaderValue::from_maybe_shared(head.slice_ref(value)).map_err(|_| BadHead::Malformed)?,
        };
        map.append(name, value);
    }
    Ok(map)
}

/// The only coding that is understood; any other could not be undone, nor named to the other side.
struct Chunked;

fn coding(headers: &HeaderMap) -> Result<Option<Chunked>, BadHead> {
    let mut values = headers.get_all(TRANSFER_ENCODING).into_iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(Some(Chunked)),
        _ => Err(BadHead::Framing),
    }
}

/// One length of digits alone; lists and signs are refused, even where all of it agrees.
fn length(headers: &HeaderMap) -> Result<Option<u64>, BadHead> {
    let mut values = headers.get_all(CONTENT_LENGTH).into_iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) if !value.is_empty() && value.as_bytes().iter().all(u8::is_ascii_digit) => {
            let digits = value.to_str().map_err(|_| BadHead::Framing)?;
            digits.parse().map(Some).map_err(|_| BadHead::Framing)
        }
        _ => Err(BadHead::Framing),
    }
}

/// RFC 9112 section 9.3.
fn keeps_alive(headers: &HeaderMap, is_old: bool) -> bool {
    let names = |token: &str| {
        let values = headers.get_all(CONNECTION).into_iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|list| list.split(',')).any(|item| item.trim().eq_ignore_ascii_case(token))
    };
    if is_old { names("keep-alive") && !names("close") } else { !names("close") }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: HeadLimits = HeadLimits { bytes: 400, field_bytes: 300, target: 100, fields: 8 };

    /// The head in `bytes` that come in reads of `cut`.
    fn request(bytes: &[u8], cut: usize) -> Result<Option<RequestHead>, BadHead> {
        let (mut reader, mut input) = (HeadReader::default(), BytesMut::new());
        for read in bytes.chunks(cut) {
            input.extend_from_slice(read);
            if let Some(head) = reader.request(&mut input, LIMITS)? {
                return Ok(Some(head));
            }
        }
        Ok(None)
    }

    fn response(text: &str, method: Method) -> Result<ResponseHead, BadHead> {
        let mut input = BytesMut::from(text);
        HeadReader::default().response(&mut input, 400, &method).map(|head| head.expect("the head is whole"))
    }

    #[test]
    fn a_head_is_found_at_any_cut() {
        let bytes = b"\r\nPOST /a?b HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc";
        for cut in 1..=bytes.len() {
            let head = request(bytes, cut).unwrap().unwrap();
            assert_eq!((head.parts.method, head.parts.uri.to_string()), (Method::POST, "/a?b".into()));
            assert!(matches!(head.body, Decoder::Exact(3)) && head.keep_alive, "cut {cut}");
        }
        assert!(request(&bytes[..40], 7).unwrap().is_none());
    }

    #[test]
    fn a_length_stated_in_two_ways_is_refused() {
        let with = |fields: &str, version: &str| {
            request(format!("POST / HTTP/{version}\r\nhost: x\r\n{fields}\r\n\r\n").as_bytes(), 1_000)
        };
        for bad in [
            "content-length: 3\r\ntransfer-encoding: chunked",
            "content-length: 3\r\ncontent-length: 3",
            "content-length: 3, 3",
            "content-length: +3",
            "content-length: -3",
            "content-length: 0x3",
            "content-length: 3 3",
            "content-length:",
            "content-length: 99999999999999999999",
            "transfer-encoding: chunked\r\ntransfer-encoding: chunked",
            "transfer-encoding: gzip, chunked",
            "transfer-encoding: xchunked",
            "transfer-encoding: chunked,",
            "transfer-encoding:",
        ] {
            assert_eq!(with(bad, "1.1").unwrap_err(), BadHead::Framing, "{bad}");
        }
        assert_eq!(with("transfer-encoding: chunked", "1.0").unwrap_err(), BadHead::Framing);
        assert!(matches!(with("Transfer-Encoding: Chunked", "1.1").unwrap().unwrap().body, Decoder::Chunked(_)));
    }

    #[test]
    fn what_is_no_head_is_refused_by_its_kind() {
        for (bad, why) in [
            (&b"GET / HTTP/2.0\r\n\r\n"[..], BadHead::Version),
            (b"GET  / HTTP/1.1\r\n\r\n", BadHead::Malformed),
            (b"GET / HTTP/1.1\r\na : b\r\n\r\n", BadHead::Malformed),
            (b"GET / HTTP/1.1\r\n a: b\r\n\r\n", BadHead::Malformed),
            (b"GET / HTTP/1.1\r\na: b\r\n c\r\n\r\n", BadHead::Malformed),
            (b"GET / HTTP/1.1\r\na: b\0c\r\n\r\n", BadHead::Malformed),
            (b"GET / HTTP/1.1\r\na: b\rc\r\n\r\n", BadHead::Malformed),
            (b"GET /\r\n\r\n", BadHead::Malformed),
            (b"\x16\x03\x01\x02\x00\n\n", BadHead::Malformed),
            (b"GET / HTTP/1.1\nhost: x\n\n", BadHead::Malformed),
            (b"GET / HTTP/1.1\r\na: b\nc: d\r\n\r\n", BadHead::Malformed),
            (b"GET / HTTP/1.1\r\na: b\r\n\n", BadHead::Malformed),
        ] {
            assert_eq!(request(bad, 1_000).unwrap_err(), why, "{:?}", bad.escape_ascii().to_string());
        }
        let long = [b"GET /".as_slice(), &[b'a'; 1_000]].concat();
        assert_eq!(request(&long, 50).unwrap_err(), BadHead::TargetTooLong);
        let large = [b"GET / HTTP/1.1\r\na: ".as_slice(), &[b'a'; 1_000]].concat();
        assert_eq!(request(&large, 50).unwrap_err(), BadHead::TooLarge);
        // 32 + 1 + 267 bytes.
        let with = |length| [b"GET / HTTP/1.1\r\na: ".as_slice(), &vec![b'a'; length], b"\r\n\r\n"].concat();
        assert!(request(&with(267), 50).unwrap().is_some());
        assert_eq!(request(&with(268), 50).unwrap_err(), BadHead::TooLarge);
        let many = [b"GET / HTTP/1.1\r\n".as_slice(), &b"a: b\r\n".repeat(10), b"\r\n"].concat();
        assert_eq!(request(&many, 50).unwrap_err(), BadHead::TooLarge);
    }

    #[test]
    fn connections_are_kept_by_the_versions_rules() {
        let kept = |version: &str, fields: &str| {
            request(format!("GET / HTTP/{version}\r\n{fields}\r\n").as_bytes(), 1_000).unwrap().unwrap().keep_alive
        };
        assert!(kept("1.1", "") && !kept("1.1", "connection: x, Close\r\n"));
        assert!(!kept("1.0", "") && kept("1.0", "connection: Keep-Alive\r\n"));
        assert!(!kept("1.0", "connection: keep-alive, close\r\n"));
    }

    #[test]
    fn a_response_has_the_body_that_its_head_says() {
        let body = |text: &str, method| response(text, method).unwrap().body;
        assert!(matches!(body("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n", Method::GET), Decoder::Exact(3)));
        assert!(matches!(body("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n", Method::HEAD), Decoder::Done));
        assert!(matches!(body("HTTP/1.1 304 X\r\ncontent-length: 3\r\n\r\n", Method::GET), Decoder::Done));
        assert!(matches!(body("HTTP/1.1 103 X\r\nlink: a\r\n\r\n", Method::GET), Decoder::Done));
        assert!(matches!(body("HTTP/1.1 200\r\n\r\n", Method::GET), Decoder::UntilClose));
        assert!(matches!(
            body("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", Method::GET),
            Decoder::Chunked(_)
        ));
        for bad in [
            "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\n",
            "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
            "HTTP/1.1 999 OK\r\n\r\n",
            "HTTP/1.1 20 OK\r\n\r\n",
            "HTTP/2 200 OK\r\n\r\n",
            "garbage\r\n\r\n",
        ] {
            assert!(response(bad, Method::GET).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes: Vec<u8>, cut in 1usize..64) {
            let _ = request(&bytes, cut);
            let _ = HeadReader::default().response(&mut BytesMut::from(&bytes[..]), 400, &Method::GET);
        }
    }
}
