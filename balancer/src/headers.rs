//! Header fields on their way through: who is asked for (`target`), what belongs to one connection and
//! stops here (H16), and what the endpoint is told of the client (H10).

mod target;

use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Version;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};

pub(crate) use self::target::{Host, encoded, host};
use crate::respond::Reason;

static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
static X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
static X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
static X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
static CLIENT_CERT: HeaderName = HeaderName::from_static("client-cert");
static CLIENT_CERT_CHAIN: HeaderName = HeaderName::from_static("client-cert-chain");
static KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
static PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
static PROXY: HeaderName = HeaderName::from_static("proxy");

/// What is said of a client to endpoints; made once for a connection.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) address: IpAddr,
    pub(crate) tls: bool,
    /// It is a proxy whose own word on its clients is taken.
    is_trusted: bool,
    forwarded_for: HeaderValue,
    proto: HeaderValue,
    /// Its certificate, which it has proved to be its own.
    certificate: Option<HeaderValue>,
}

impl Client {
    pub(crate) fn new(address: IpAddr, tls: bool, is_trusted: bool) -> Client {
        let address = address.to_canonical();
        let forwarded_for = HeaderValue::try_from(address.to_string()).expect("an IP address is visible ASCII");
        let proto = HeaderValue::from_static(if tls { "https" } else { "http" });
        Client { address, tls, is_trusted, forwarded_for, proto, certificate: None }
    }

    /// One that has shown `certificate`, in DER, as the TLS handshake has checked it.
    pub(crate) fn certified(self, certificate: &[u8]) -> Client {
        // A byte sequence of structured fields (RFC 9440 section 2.1).
        let text = format!(":{}:", STANDARD.encode(certificate));
        Client { certificate: HeaderValue::try_from(text).ok(), ..self }
    }

    /// Whether its word is taken for what it translates and tells of others.
    pub(crate) fn is_trusted(&self) -> bool {
        self.is_trusted
    }

    /// Whose request it is: of a trusted proxy's, the client that it names, in fields as endpoints get
    /// them. One proxy is looked behind, and what it says of others before it is theirs.
    pub(crate) fn origin(&self, fields: &HeaderMap) -> IpAddr {
        let named = || {
            let list = fields.get(&X_FORWARDED_FOR)?.to_str().ok()?;
            // The last one is the proxy itself.
            list.rsplit(',').nth(1)?.trim().parse::<IpAddr>().ok()
        };
        if self.is_trusted { named().map_or(self.address, |named| named.to_canonical()) } else { self.address }
    }
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

/// Whether a TRACE or OPTIONS may go on, by Max-Forwards, which is counted down (RFC 9110 section
/// 7.6.2).
pub(crate) fn may_forward(headers: &mut HeaderMap) -> Result<bool, Reason> {
    let Some(value) = headers.get(header::MAX_FORWARDS) else { return Ok(true) };
    let digits = value.to_str().ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
    let left: u64 = digits.and_then(|text| text.parse().ok()).ok_or(Reason::BadRequest)?;
    if left == 0 {
        return Ok(false);
    }
    headers.insert(header::MAX_FORWARDS, HeaderValue::from(left - 1));
    Ok(true)
}

/// What frames a message, or belongs to one connection, has no place behind a body (RFC 9110 section 6.5.1), and HTTP/2 has a
/// malformed message where it stands.
static NOT_IN_TRAILERS: [HeaderName; 11] = [
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::HOST,
    header::CONNECTION,
    header::UPGRADE,
    header::TE,
    header::PROXY_AUTHORIZATION,
    header::PROXY_AUTHENTICATE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("proxy"),
];

pub(crate) fn is_of_trailers(name: &HeaderName) -> bool {
    !NOT_IN_TRAILERS.contains(name)
}

/// Takes out what is meant for one connection only, and what `Connection` names (H16).
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap, version: Version) {
    if version == Version::HTTP_2 {
        // There they are malformed, and `http2` has refused them (RFC 9113 section 8.2.2), or left out.
        return;
    }
    for name in [&PROXY, &header::PROXY_AUTHORIZATION, &header::PROXY_AUTHENTICATE] {
        headers.remove(name);
    }
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
    for name in [&header::TRANSFER_ENCODING, &header::UPGRADE, &KEEP_ALIVE, &PROXY_CONNECTION] {
        headers.remove(name);
    }
    if headers.get_all(header::TE).into_iter().any(|te| te != "trailers") {
        headers.remove(header::TE);
    }
}

/// Tells the endpoint of the client (H10). What a client claims of itself is replaced; what a
/// trusted proxy says of its client is kept, with the proxy's own address behind it.
pub(crate) fn forward(
    headers: &mut HeaderMap,
    client: &Client,
    host: &Host,
    version: Version,
    random: &mut impl FnMut() -> u64,
) {
    headers.reserve(6);
    let said = |name: &HeaderName| client.is_trusted && headers.contains_key(name);
    let (has_proto, has_host, has_port) = (said(&X_FORWARDED_PROTO), said(&X_FORWARDED_HOST), said(&X_FORWARDED_PORT));
    if !has_proto {
        headers.insert(X_FORWARDED_PROTO.clone(), client.proto.clone());
    }
    if !has_host && let Ok(value) = HeaderValue::from_str(host.authority.as_str()) {
        headers.insert(X_FORWARDED_HOST.clone(), value);
    }
    // Who says nothing of the port means the one that goes with what he says of the rest.
    if !has_port && !has_host {
        let is_https =
            if has_proto { headers.get(&X_FORWARDED_PROTO).is_some_and(|proto| proto == "https") } else { client.tls };
        headers.insert(X_FORWARDED_PORT.clone(), port(host, is_https));
    }
    let behind_proxy =
        if client.is_trusted { joined(headers, &X_FORWARDED_FOR, client.forwarded_for.as_bytes()) } else { None };
    headers.insert(X_FORWARDED_FOR.clone(), behind_proxy.unwrap_or_else(|| client.forwarded_for.clone()));
    if !client.is_trusted {
        // The same claims in the words of RFC 7239, and that of RFC 9440 on every listener: endpoints cannot tell which one a
        // request came by. Nobody checks them, so nobody may believe them.
        for name in [&header::FORWARDED, &CLIENT_CERT, &CLIENT_CERT_CHAIN] {
            headers.remove(name);
        }
        if let Some(certificate) = &client.certificate {
            headers.insert(CLIENT_CERT.clone(), certificate.clone());
        }
    }
    let via = HeaderValue::from_static(if version == Version::HTTP_2 { "2.0 tidelock" } else { "1.1 tidelock" });
    let via = joined(headers, &header::VIA, via.as_bytes()).unwrap_or(via);
    headers.insert(header::VIA, via);
    if !headers.contains_key(&X_REQUEST_ID) {
        headers.insert(X_REQUEST_ID.clone(), request_id(random(), random()));
    }
}

/// All values of a list field and `last` behind them; none when the field is not there.
fn joined(headers: &HeaderMap, name: &HeaderName, last: &[u8]) -> Option<HeaderValue> {
    let mut values: Vec<&[u8]> = headers.get_all(name).into_iter().map(HeaderValue::as_bytes).collect();
    if values.is_empty() {
        return None;
    }
    values.push(last);
    HeaderValue::from_bytes(&values.join(&b", "[..])).ok()
}

/// The port that the client asked for.
fn port(host: &Host, tls: bool) -> HeaderValue {
    match host.authority.port_u16() {
        Some(port) => HeaderValue::from(port),
        None => HeaderValue::from_static(if tls { "443" } else { "80" }),
    }
}

/// 128 random bits in hexadecimal.
fn request_id(high: u64, low: u64) -> HeaderValue {
    let mut text = [0; 32];
    for (word, digits) in [high, low].into_iter().zip(text.chunks_exact_mut(16)) {
        for (byte, pair) in word.to_be_bytes().into_iter().zip(digits.chunks_exact_mut(2)) {
            pair.copy_from_slice(&HEX[usize::from(byte)]);
        }
    }
    let mut value = HeaderValue::from_bytes(&text).expect("hexadecimal digits are visible ASCII");
    // No other request has it: it shall not push useful fields out of HPACK's table.
    value.set_sensitive(true);
    value
}

/// Each byte in hexadecimal.
const HEX: [[u8; 2]; 256] = {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut pairs = [[0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        pairs[byte] = [DIGITS[byte >> 4], DIGITS[byte & 15]];
        byte += 1;
    }
    pairs
};

#[cfg(test)]
mod tests {
    use super::*;

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
        strip_hop_by_hop(&mut headers, Version::HTTP_11);
        let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["host", "x-kept"]);
        let others = ["proxy-authenticate", "proxy-authorization", "proxy-connection", "transfer-encoding"];
        for alone in ["connection", "keep-alive", "proxy", "te", "upgrade"].into_iter().chain(others) {
            let mut headers = HeaderMap::from_iter([(HeaderName::from_static(alone), HeaderValue::from_static("x"))]);
            strip_hop_by_hop(&mut headers, Version::HTTP_11);
            assert!(headers.is_empty(), "{alone}");
        }
    }

    fn forwarded(given: &[(&'static str, &'static str)], trusted: bool) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in given {
            headers.append(*name, HeaderValue::from_static(value));
        }
        let client = Client::new("192.0.2.7".parse().unwrap(), true, trusted);
        let host = Host { authority: http::uri::Authority::from_static("app.test") };
        forward(&mut headers, &client, &host, Version::HTTP_11, &mut || 7);
        headers
    }

    #[test]
    fn what_a_client_claims_of_itself_is_replaced() {
        let claims = [
            ("x-forwarded-for", "10.0.0.1"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-host", "evil.test"),
            ("x-forwarded-port", "1"),
            ("forwarded", "for=10.0.0.1"),
            ("client-cert", ":AAAA:"),
            ("client-cert-chain", ":AAAA:"),
        ];
        for (name, _) in &claims[4..] {
            assert!(!forwarded(&[(name, "alone")], false).contains_key(*name), "{name}");
        }
        let headers = forwarded(&claims, false);
        let value = |name: &str| headers.get_all(name).into_iter().map(|v| v.to_str().unwrap()).collect::<Vec<_>>();
        assert_eq!(value("x-forwarded-for"), ["192.0.2.7"]);
        assert_eq!((value("x-forwarded-proto"), value("x-forwarded-host")), (vec!["https"], vec!["app.test"]));
        assert_eq!((value("x-forwarded-port"), value("forwarded")), (vec!["443"], vec![]));
        assert_eq!((value("via"), value("x-request-id").len()), (vec!["1.1 tidelock"], 1));
        assert!(value("client-cert").is_empty() && value("client-cert-chain").is_empty());
    }

    #[test]
    fn what_a_trusted_proxy_says_is_kept_and_its_address_added() {
        let says = [
            ("x-forwarded-for", "198.51.100.1"),
            ("x-forwarded-for", "10.9.9.9"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-host", "shop.test"),
            ("forwarded", "for=198.51.100.1"),
            ("via", "1.0 edge"),
            ("client-cert", ":AAAA:"),
        ];
        let headers = forwarded(&says, true);
        let value = |name: &str| headers.get_all(name).into_iter().map(|v| v.to_str().unwrap()).collect::<Vec<_>>();
        assert_eq!(value("x-forwarded-for"), ["198.51.100.1, 10.9.9.9, 192.0.2.7"]);
        assert_eq!((value("x-forwarded-proto"), value("x-forwarded-host")), (vec!["http"], vec!["shop.test"]));
        assert_eq!((value("x-forwarded-port"), value("forwarded")), (vec![], vec!["for=198.51.100.1"]));
        assert_eq!((value("via"), value("client-cert")), (vec!["1.0 edge, 1.1 tidelock"], vec![":AAAA:"]));
        let origin = |headers: &HeaderMap, is_trusted| {
            Client::new("192.0.2.7".parse().unwrap(), false, is_trusted).origin(headers).to_string()
        };
        assert_eq!(origin(&headers, true), "10.9.9.9", "whom the proxy has seen");
        assert_eq!(origin(&headers, false), "192.0.2.7");
        assert_eq!(origin(&forwarded(&[("x-forwarded-for", "?")], true), true), "192.0.2.7");
    }

    #[test]
    fn max_forwards_is_counted_down() {
        let after = |value: &'static str| {
            let mut headers = HeaderMap::from_iter([(header::MAX_FORWARDS, HeaderValue::from_static(value))]);
            may_forward(&mut headers).map(|may| (may, headers[header::MAX_FORWARDS].to_str().unwrap().to_owned()))
        };
        assert_eq!(after("1"), Ok((true, "0".into())));
        assert_eq!(after("0"), Ok((false, "0".into())));
        assert_eq!(after("-1"), Err(Reason::BadRequest));
        assert_eq!(may_forward(&mut HeaderMap::new()), Ok(true));
    }
}
