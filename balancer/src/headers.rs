//! Header fields on their way through: who is asked for (H15), what belongs to one connection and
//! stops here (H16), and what the endpoint is told of the client (H10).

use std::borrow::Cow;
use std::net::IpAddr;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme, Uri};
use http::{Method, Version};

use crate::respond::Reason;

static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
static X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
static X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
static KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
static PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
static PROXY: HeaderName = HeaderName::from_static("proxy");

/// What is said of a client to endpoints; made once for a connection.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) address: IpAddr,
    pub(crate) tls: bool,
    forwarded_for: HeaderValue,
    proto: HeaderValue,
}

impl Client {
    pub(crate) fn new(address: IpAddr, tls: bool) -> Client {
        let address = address.to_canonical();
        let forwarded_for = HeaderValue::try_from(address.to_string()).expect("an IP address is visible ASCII");
        Client { address, tls, forwarded_for, proto: HeaderValue::from_static(if tls { "https" } else { "http" }) }
    }
}

/// The host that a request asks for.
#[derive(Debug)]
pub(crate) struct Host {
    /// As the client wrote it, with its port: endpoints see it unchanged (`check_origin`).
    pub(crate) authority: Authority,
}

impl Host {
    /// In lower case, without the port: what routes are found by.
    pub(crate) fn name(&self) -> Cow<'_, str> {
        let host = self.authority.host();
        let host = host.strip_suffix('.').unwrap_or(host);
        match host.bytes().any(|b| b.is_ascii_uppercase()) {
            true => Cow::Owned(host.to_ascii_lowercase()),
            false => Cow::Borrowed(host),
        }
    }
}

/// The one host of a request: `:authority` in HTTP/2, else the target's in absolute form, else
/// the Host field (RFC 9112 section 3.2, RFC 9113 section 8.3.1).
pub(crate) fn host(head: &Parts) -> Result<Host, Reason> {
    let mut fields = head.headers.get_all(header::HOST).into_iter();
    let field = fields.next();
    if fields.next().is_some() {
        return Err(Reason::BadHost);
    }
    let of_field = match field {
        Some(value) => Some(parse_authority(value.as_bytes())?),
        None => None,
    };
    let of_target = head.uri.authority();
    if let Some(authority) = of_target
        && !is_plain(authority)
    {
        return Err(Reason::BadHost);
    }
    let authority = match (of_target, of_field) {
        (Some(target), Some(field)) if head.version == Version::HTTP_2 && *target != field => {
            return Err(Reason::BadHost);
        }
        (Some(target), _) => target.clone(),
        // A client of our own makes `:authority` (RFC 9113 section 8.3.1); without it a Host
        // field is what somebody translated, and nobody checked.
        (None, Some(field)) if head.version != Version::HTTP_2 => field,
        (None, _) => return Err(Reason::BadHost),
    };
    Ok(Host { authority })
}

fn parse_authority(bytes: &[u8]) -> Result<Authority, Reason> {
    let authority = Authority::try_from(bytes).map_err(|_| Reason::BadHost)?;
    if is_plain(&authority) { Ok(authority) } else { Err(Reason::BadHost) }
}

/// A host and perhaps a port: no userinfo, no list, no empty or wrong port.
fn is_plain(authority: &Authority) -> bool {
    let text = authority.as_str();
    let host = authority.host();
    let rest = text.strip_prefix(host);
    let port_is_fine = match rest.and_then(|rest| rest.strip_prefix(':')) {
        None => rest == Some(""),
        Some(port) => port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok(),
    };
    let character = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'[' | b']' | b':');
    !host.is_empty() && port_is_fine && host.bytes().all(character)
}

/// The body's length, if the head names one. A length stated twice is a smuggling attempt (RFC 9112
/// section 6.1).
pub(crate) fn content_length(headers: &HeaderMap) -> Result<Option<u64>, Reason> {
    let mut values = headers.get_all(header::CONTENT_LENGTH).into_iter();
    let (first, second) = (values.next(), values.next());
    let Some(value) = first else { return Ok(None) };
    let digits = value.to_str().ok().filter(|text| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()));
    match (digits.map(str::parse), second) {
        (Some(Ok(length)), None) => Ok(Some(length)),
        _ => Err(Reason::BadFraming),
    }
}

/// Whether the request asks to become a WebSocket (RFC 6455 section 4.1).
pub(crate) fn is_websocket(head: &Parts) -> bool {
    let token = |name: HeaderName, token: &str| {
        head.headers.get_all(name).into_iter().any(|value| {
            value.to_str().is_ok_and(|list| list.split(',').any(|item| item.trim().eq_ignore_ascii_case(token)))
        })
    };
    head.method == Method::GET
        && head.version == Version::HTTP_11
        && head.headers.contains_key(header::UPGRADE)
        && token(header::UPGRADE, "websocket")
        && token(header::CONNECTION, "upgrade")
}

/// Takes out what is meant for one connection only, and what `Connection` names.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(header::CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(header::CONNECTION)
            .into_iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|list| list.split(','))
            .filter_map(|name| name.trim().parse().ok())
            // Naming these would take away what the message cannot do without.
            .filter(|name| ![header::HOST, header::CONTENT_LENGTH, header::COOKIE].contains(name))
            .collect();
        for name in named {
            headers.remove(name);
        }
        headers.remove(header::CONNECTION);
    }
    for name in [&header::TRANSFER_ENCODING, &header::UPGRADE, &KEEP_ALIVE, &PROXY_CONNECTION, &PROXY] {
        headers.remove(name);
    }
    if headers.get(header::TE).is_some_and(|te| te != "trailers") {
        headers.remove(header::TE);
    }
}

/// Tells the endpoint of the client. What the client itself claimed is replaced: nobody has said
/// yet whom to trust.
pub(crate) fn forward(headers: &mut HeaderMap, client: &Client, host: &Host, random: &mut impl FnMut() -> u64) {
    headers.insert(X_FORWARDED_FOR.clone(), client.forwarded_for.clone());
    headers.insert(X_FORWARDED_PROTO.clone(), client.proto.clone());
    if let Ok(value) = HeaderValue::from_str(host.authority.as_str()) {
        headers.insert(X_FORWARDED_HOST.clone(), value);
    }
    if !headers.contains_key(&X_REQUEST_ID) {
        headers.insert(X_REQUEST_ID.clone(), request_id(random(), random()));
    }
}

fn request_id(high: u64, low: u64) -> HeaderValue {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let bits = u128::from(high) << 64 | u128::from(low);
    let mut text = [0; 32];
    for (i, digit) in text.iter_mut().enumerate() {
        *digit = HEX[(bits >> (124 - 4 * i) & 15) as usize];
    }
    let mut value = HeaderValue::from_bytes(&text).expect("hexadecimal digits are visible ASCII");
    // No other request has it: it shall not push useful fields out of HPACK's table.
    value.set_sensitive(true);
    value
}

/// The target as HTTP/2 endpoints want it. The scheme is that of the connection to the endpoint.
pub(crate) fn h2_target(host: &Host, path: &PathAndQuery) -> Uri {
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Some(host.authority.clone());
    parts.path_and_query = Some(path.clone());
    Uri::from_parts(parts).expect("scheme, authority and path make a URI")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(version: Version, target: &str, hosts: &[&str]) -> Parts {
        let mut request = http::Request::builder().version(version).uri(target);
        for host in hosts {
            request = request.header("host", *host);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn a_request_has_exactly_one_good_host() {
        let name = |version, target, hosts: &[&str]| host(&head(version, target, hosts)).map(|h| h.name().into_owned());
        assert_eq!(name(Version::HTTP_11, "/", &["A.b:80"]), Ok("a.b".into()));
        assert_eq!(name(Version::HTTP_11, "/", &["a.b."]), Ok("a.b".into()));
        assert_eq!(name(Version::HTTP_11, "http://x.y/", &["a.b"]), Ok("x.y".into()), "absolute form wins");
        assert_eq!(name(Version::HTTP_2, "http://x.y/", &["x.y"]), Ok("x.y".into()));
        assert_eq!(name(Version::HTTP_11, "/", &["[::1]:8080"]), Ok("[::1]".into()));
        for bad in
            [vec![], vec!["a", "b"], vec!["a,b"], vec!["u@a"], vec!["a:b"], vec!["a:70000"], vec!["a/b"], vec![""]]
        {
            assert_eq!(name(Version::HTTP_11, "/", &bad), Err(Reason::BadHost), "{bad:?}");
        }
        assert_eq!(name(Version::HTTP_2, "http://x.y/", &["a.b"]), Err(Reason::BadHost));
        assert_eq!(name(Version::HTTP_2, "/", &["x.y"]), Err(Reason::BadHost), ":authority is missing");
        assert_eq!(name(Version::HTTP_2, "http://u@x.y/", &[]), Err(Reason::BadHost));
    }

    #[test]
    fn what_belongs_to_one_connection_stops_here() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, x-secret, host"),
            ("x-secret", "1"),
            ("keep-alive", "1"),
            ("proxy", "evil"),
            ("te", "gzip"),
            ("upgrade", "h2c"),
            ("host", "a"),
            ("x-kept", "1"),
        ] {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        strip_hop_by_hop(&mut headers);
        let left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(left, ["host", "x-kept"]);
    }
}
