//! What a header block says: a request, a response, or trailers, by the rules of RFC 9113 section 8.

use http::header::{
    CONNECTION, CONTENT_LENGTH, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version};

use super::hpack::{Field, Name};
use crate::headers::{encoded, is_of_trailers};

static KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
static PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
static PROXY: HeaderName = HeaderName::from_static("proxy");
/// Of one connection, and not malformed: they are left out where they are read (H16).
static NOT_PASSED_ON: [&HeaderName; 3] = [&PROXY, &PROXY_AUTHORIZATION, &PROXY_AUTHENTICATE];

/// What an extended CONNECT asks for (RFC 8441 section 4), among a request's extensions.
#[derive(Debug, Clone)]
pub(crate) struct Protocol(pub(crate) HeaderValue);

/// The block is no message of its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

/// A block's fields as they come.
#[derive(Debug)]
pub(super) struct Block {
    pseudo: Pseudo,
    fields: HeaderMap,
    /// How many bytes more there may be.
    left: usize,
    is_too_large: bool,
    is_bad: bool,
}

#[derive(Debug, Default)]
struct Pseudo {
    authority: Option<HeaderValue>,
    method: Option<HeaderValue>,
    path: Option<HeaderValue>,
    scheme: Option<HeaderValue>,
    status: Option<HeaderValue>,
    protocol: Option<HeaderValue>,
}

impl Block {
    pub(super) fn new(limit: u32) -> Block {
        Block {
            pseudo: Pseudo::default(),
            fields: HeaderMap::new(),
            left: limit as usize,
            is_too_large: false,
            is_bad: false,
        }
    }

    pub(super) fn is_too_large(&self) -> bool {
        self.is_too_large
    }

    pub(super) fn add(&mut self, field: &Field) {
        match self.left.checked_sub(field.size) {
            Some(left) if !self.is_too_large => self.left = left,
            // Nothing more is kept: a byte of a block may stand for four thousand.
            _ => return self.is_too_large = true,
        }
        let Some(value) = &field.value else { return self.is_bad = true };
        let pseudo = &mut self.pseudo;
        let place = match &field.name {
            Name::Field(name) => return self.add_field(name, value),
            Name::Authority => &mut pseudo.authority,
            Name::Method => &mut pseudo.method,
            Name::Path => &mut pseudo.path,
            Name::Scheme => &mut pseudo.scheme,
            Name::Status => &mut pseudo.status,
            Name::Protocol => &mut pseudo.protocol,
            Name::Bad => return self.is_bad = true,
        };
        // Before all others, and once (section 8.3).
        if place.replace(value.clone()).is_some() || !self.fields.is_empty() {
            self.is_bad = true;
        }
    }

    fn add_field(&mut self, name: &HeaderName, value: &HeaderValue) {
        let of_connection = [&CONNECTION, &TRANSFER_ENCODING, &UPGRADE, &KEEP_ALIVE, &PROXY_CONNECTION].contains(&name);
        if name.as_str().starts_with("proxy") && NOT_PASSED_ON.contains(&name) {
            return;
        }
        let is_blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
        let bytes = value.as_bytes();
        if of_connection || name == TE && bytes != b"trailers" || is_blank(bytes.first()) || is_blank(bytes.last()) {
            self.is_bad = true;
        } else if self.fields.try_append(name, value.clone()).is_err() {
            self.is_too_large = true;
        }
    }

    pub(super) fn into_request(self) -> Result<Parts, Malformed> {
        let Pseudo { authority, mut method, mut path, mut scheme, status, protocol } = self.pseudo;
        if self.is_too_large {
            // What was left out may have been one of these: it is answered all the same.
            method.get_or_insert(HeaderValue::from_static("GET"));
            scheme.get_or_insert(HeaderValue::from_static("http"));
            path.get_or_insert(HeaderValue::from_static("/"));
        }
        let method = method.ok_or(Malformed)?;
        if self.is_bad || status.is_some() {
            return Err(Malformed);
        }
        let (mut head, ()) = Request::new(()).into_parts();
        head.version = Version::HTTP_2;
        head.method = Method::from_bytes(method.as_bytes()).map_err(|_| Malformed)?;
        let mut target = http::uri::Parts::default();
        if let Some(authority) = authority {
            target.authority = Some(Authority::try_from(authority.as_bytes()).map_err(|_| Malformed)?);
        }
        let is_connect = head.method == Method::CONNECT;
        if is_connect && protocol.is_none() {
            // Section 8.5.
            if path.is_some() || scheme.is_some() || target.authority.is_none() {
                return Err(Malformed);
            }
        } else {
            let (path, scheme) = (path.ok_or(Malformed)?, scheme.ok_or(Malformed)?);
            if !matches!(path.as_bytes(), [b'/', ..] | b"*") {
                return Err(Malformed);
            }
            let parsed = PathAndQuery::try_from(path.as_bytes());
            let parsed = parsed.or_else(|_| PathAndQuery::try_from(&encoded(path.as_bytes())[..]));
            target.path_and_query = Some(parsed.map_err(|_| Malformed)?);
            let scheme = Scheme::try_from(scheme.as_bytes()).map_err(|_| Malformed)?;
            // A target has both or none; who is asked for is looked at later.
            target.scheme = target.authority.is_some().then_some(scheme);
        }
        head.uri = Uri::from_parts(target).map_err(|_| Malformed)?;
        if let Some(protocol) = protocol {
            if !is_connect {
                return Err(Malformed);
            }
            head.extensions.insert(Protocol(protocol));
        }
        head.headers = self.fields;
        Ok(head)
    }

    pub(super) fn into_response(self) -> Result<Response<()>, Malformed> {
        let Pseudo { authority, method, path, scheme, status, protocol } = self.pseudo;
        let is_request = [authority, method, path, scheme, protocol].iter().any(Option::is_some);
        let status = StatusCode::from_bytes(status.ok_or(Malformed)?.as_bytes()).map_err(|_| Malformed)?;
        // HTTP/2 has no change of protocols (section 8.6).
        if self.is_bad || self.is_too_large || is_request || status == StatusCode::SWITCHING_PROTOCOLS {
            return Err(Malformed);
        }
        let mut head = Response::new(());
        *head.version_mut() = Version::HTTP_2;
        *head.status_mut() = status;
        *head.headers_mut() = self.fields;
        Ok(head)
    }

    pub(super) fn into_trailers(self) -> Result<HeaderMap, Malformed> {
        let Pseudo { authority, method, path, scheme, status, protocol } = self.pseudo;
        let has_pseudo = [authority, method, path, scheme, status, protocol].iter().any(Option::is_some);
        if self.is_bad || self.is_too_large || has_pseudo {
            return Err(Malformed);
        }
        let mut fields = self.fields;
        if !fields.keys().all(is_of_trailers) {
            let strays: Vec<HeaderName> = fields.keys().filter(|name| !is_of_trailers(name)).cloned().collect();
            strays.iter().for_each(|name| drop(fields.remove(name)));
        }
        Ok(fields)
    }
}

/// A body's length, if the fields name one; they may name it once, in digits (RFC 9110 section 8.6).
pub(super) fn content_length(fields: &HeaderMap) -> Result<Option<u64>, Malformed> {
    let mut values = fields.get_all(CONTENT_LENGTH).into_iter();
    let Some(value) = values.next() else { return Ok(None) };
    let digits = value.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    match (digits.and_then(|text| text.parse().ok()), values.next()) {
        (Some(length), None) => Ok(Some(length)),
        _ => Err(Malformed),
    }
}
