//! What an operator writes: pools, endpoints and routes. Parsing is validating: a spec that
//! exists can be applied, but for what only the state knows (a pool that is not there).

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use http::HeaderName;
use serde::{Deserialize, Serialize};

use crate::id::Name;

/// How to talk to a pool's endpoints, and for how long to wait for them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PoolSpec {
    pub protocol: Protocol,
    /// Leave `content-length` out towards the endpoint once it has been checked here: Bandit then
    /// cannot log "Received END_STREAM with byte still pending" (measured: 30 of 30 to 0).
    pub strip_content_length: bool,
    pub timeouts: Timeouts,
}

/// What the endpoints of one pool speak. It is never mixed in one pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Protocol {
    /// HTTP/1.1 with keep-alive.
    #[default]
    #[serde(rename = "http1")]
    Http1,
    /// HTTP/2 in cleartext by prior knowledge (RFC 9113 section 3.3).
    #[serde(rename = "h2c")]
    H2c,
}

/// Upper bounds on waiting for an endpoint, in milliseconds, each at least 1 and at most a day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// For a connection to be there: 5 s, then the next endpoint is tried.
    pub connect_ms: Millis,
    /// From the end of the request to the response's head: 60 s, then 504.
    pub first_byte_ms: Millis,
    /// Without a byte in either direction of a stream that has begun: 60 s, then the stream is
    /// cut. A killed BEAM process sends nothing for ever, so there is no "off".
    pub idle_ms: Millis,
    /// Without a byte in either direction of a WebSocket: 1 h. Phoenix beats every 30 s.
    pub websocket_idle_ms: Millis,
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts {
            connect_ms: Millis(5_000),
            first_byte_ms: Millis(60_000),
            idle_ms: Millis(60_000),
            websocket_idle_ms: Millis(3_600_000),
        }
    }
}

/// A length of time in whole milliseconds, 1 to 86,400,000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct Millis(u64);

impl Millis {
    pub const MAX: u64 = 86_400_000;

    pub fn get(self) -> u64 {
        self.0
    }

    pub fn duration(self) -> std::time::Duration {
        std::time::Duration::from_millis(self.0)
    }
}

impl TryFrom<u64> for Millis {
    type Error = String;

    fn try_from(value: u64) -> Result<Self, String> {
        match value {
            1..=Self::MAX => Ok(Millis(value)),
            _ => Err(format!("{value} is not a number of milliseconds from 1 to {}", Self::MAX)),
        }
    }
}

impl From<Millis> for u64 {
    fn from(value: Millis) -> u64 {
        value.0
    }
}

/// One process that serves a pool's requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointSpec {
    pub address: Address,
    /// Its share against its neighbours'.
    #[serde(default)]
    pub weight: Weight,
    /// The deployed version of the app (pod-template-hash, release vsn).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<Name>,
}

/// `host:port`: an IP address (IPv6 in brackets) or a DNS name, and a port from 1 to 65535.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Address {
    text: Arc<str>,
    port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an address: write host:port, for example 10.0.0.5:4000, [fd00::5]:4000 or app.internal:4000")]
pub struct InvalidAddress(String);

impl Address {
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The host without brackets.
    pub fn host(&self) -> &str {
        let host = self.text.rsplit_once(':').map_or("", |(host, _)| host);
        host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host)
    }

    pub fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for Address {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        let invalid = || InvalidAddress(text.chars().take(80).collect());
        let (host, port) = text.rsplit_once(':').ok_or_else(invalid)?;
        let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
        let port: u16 = port.parse().ok().filter(|p| digits && *p != 0).ok_or_else(invalid)?;
        let valid = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
            Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
            None if host.bytes().all(|b| b.is_ascii_digit() || b == b'.') => host.parse::<std::net::Ipv4Addr>().is_ok(),
            None => is_dns_name(host),
        };
        if valid { Ok(Address { text: text.into(), port }) } else { Err(invalid()) }
    }
}

impl TryFrom<String> for Address {
    type Error = InvalidAddress;

    fn try_from(text: String) -> Result<Self, InvalidAddress> {
        text.parse()
    }
}

impl From<Address> for String {
    fn from(address: Address) -> String {
        address.text.as_ref().to_owned()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

/// Labels of letters, digits, '-' and '_' (which service names use), 253 bytes in all.
fn is_dns_name(host: &str) -> bool {
    let label = |l: &str| {
        !l.is_empty()
            && l.len() <= 63
            && !l.starts_with('-')
            && !l.ends_with('-')
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    !host.is_empty() && host.len() <= 253 && host.split('.').all(label)
}

/// An endpoint's share: 1 to 100, times 256 points on the ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Weight(u32);

impl Weight {
    pub fn get(self) -> u32 {
        self.0
    }
}

impl Default for Weight {
    fn default() -> Self {
        Weight(1)
    }
}

impl TryFrom<u32> for Weight {
    type Error = String;

    fn try_from(value: u32) -> Result<Self, String> {
        match value {
            1..=100 => Ok(Weight(value)),
            _ => Err(format!("{value} is not a weight: use 1 to 100, and drain an endpoint that shall get nothing")),
        }
    }
}

impl From<Weight> for u32 {
    fn from(weight: Weight) -> u32 {
        weight.0
    }
}

/// Which requests go to which pool, and what keeps a session together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteSpec {
    /// None is every host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostPattern>,
    #[serde(default)]
    pub path_prefix: PathPrefix,
    pub pool: Name,
    #[serde(default)]
    pub affinity: Affinity,
    /// Answer with `tidelock-endpoint`, `tidelock-epoch` and `tidelock-affinity`, for people who
    /// want to see where a request went. Off, since it tells strangers about the inside.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub expose: bool,
}

/// What keeps the requests of a session on one endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Affinity {
    /// Nothing: the less busy of two endpoints drawn at random.
    None {},
    /// Our own sealed cookie, set on a session's first response.
    #[default]
    #[serde(rename = "cookie", with = "no_fields")]
    Cookie,
    /// A cookie that the app sets; its value is the key on the ring.
    AppCookie { name: Token },
    /// A request header's value is the key on the ring.
    Header { name: Token },
}

/// A unit variant that still refuses unknown fields beside its tag.
mod no_fields {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Nothing {}

    pub(super) fn serialize<S: Serializer>(serializer: S) -> Result<S::Ok, S::Error> {
        Nothing {}.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<(), D::Error> {
        Nothing::deserialize(deserializer).map(|_| ())
    }
}

/// A name as HTTP writes them (RFC 9110 section 5.6.2): of a header, or of a cookie.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Token {
    text: Arc<str>,
    header: HeaderName,
}

impl Token {
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The same as a header's name, in lower case.
    pub fn header(&self) -> &HeaderName {
        &self.header
    }
}

impl TryFrom<String> for Token {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match HeaderName::from_bytes(text.as_bytes()) {
            Ok(header) if text.len() <= 256 => Ok(Token { text: text.into(), header }),
            _ => Err(format!("{text:?} is not the name of a header or cookie")),
        }
    }
}

impl From<Token> for String {
    fn from(token: Token) -> String {
        token.text.as_ref().to_owned()
    }
}

/// `example.com`, or `*.example.com` for each name with exactly one more label.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum HostPattern {
    Exact(Arc<str>),
    /// The part behind `*.`.
    Wildcard(Arc<str>),
}

impl TryFrom<String> for HostPattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let lower = text.to_ascii_lowercase();
        let (rest, wildcard) = lower.strip_prefix("*.").map_or((lower.as_str(), false), |rest| (rest, true));
        let v6 = rest.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        let valid = match v6 {
            Some(v6) => !wildcard && v6.parse::<std::net::Ipv6Addr>().is_ok(),
            None => is_dns_name(rest),
        };
        match (valid, wildcard) {
            (true, false) => Ok(HostPattern::Exact(rest.into())),
            (true, true) => Ok(HostPattern::Wildcard(rest.into())),
            (false, _) => Err(format!("{text:?} is not a host: write example.com or *.example.com, without a port")),
        }
    }
}

impl From<HostPattern> for String {
    fn from(pattern: HostPattern) -> String {
        match pattern {
            HostPattern::Exact(host) => host.as_ref().to_owned(),
            HostPattern::Wildcard(rest) => format!("*.{rest}"),
        }
    }
}

/// A path whose whole segments a request's path must begin with: `/app` takes `/app` and
/// `/app/x`, not `/apple`. Kept without a trailing slash; the root is `/`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PathPrefix(Arc<str>);

impl PathPrefix {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn covers(&self, path: &str) -> bool {
        if &*self.0 == "/" {
            return path.starts_with('/') || path == "*";
        }
        path.strip_prefix(&*self.0).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

impl Default for PathPrefix {
    fn default() -> Self {
        PathPrefix("/".into())
    }
}

impl TryFrom<String> for PathPrefix {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        // The characters of a path (RFC 3986 section 3.3), ';' left out: the prefix becomes an
        // attribute of the affinity cookie.
        let character = |b: u8| b.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,=:@".contains(&b);
        let valid = text.starts_with('/') && text.len() <= 1024 && text.bytes().all(character);
        if !valid || text.contains("//") {
            return Err(format!("{text:?} is not a path prefix: it begins with '/' and holds a path's characters"));
        }
        let trimmed = text.trim_end_matches('/');
        Ok(PathPrefix(if trimmed.is_empty() { "/" } else { trimmed }.into()))
    }
}

impl From<PathPrefix> for String {
    fn from(prefix: PathPrefix) -> String {
        prefix.0.as_ref().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse<T: serde::de::DeserializeOwned>(json: &str) -> Result<T, String> {
        serde_json::from_str(json).map_err(|e| e.to_string())
    }

    #[test]
    fn addresses_are_host_and_port() {
        for good in ["127.0.0.1:1", "[::1]:80", "app-1.svc.cluster.local:4000", "localhost:65535"] {
            assert_eq!(good.parse::<Address>().unwrap().as_str(), good);
        }
        for bad in [
            "",
            "nonsense",
            ":80",
            "a:",
            "a:0",
            "a:65536",
            "a:+1",
            "::1:80",
            "[::1]",
            "300.0.0.1:80",
            "a b:1",
            "http://a:1",
        ] {
            assert!(bad.parse::<Address>().is_err(), "{bad:?}");
        }
        assert_eq!("[::1]:80".parse::<Address>().unwrap().host(), "::1");
    }

    #[test]
    fn unknown_fields_and_wrong_types_are_refused() {
        assert!(parse::<PoolSpec>(r#"{"protocl":"h2c"}"#).unwrap_err().contains("protocl"));
        assert!(parse::<PoolSpec>(r#"{"protocol":"h3"}"#).is_err());
        assert!(parse::<PoolSpec>(r#"{"timeouts":{"connect_ms":0}}"#).is_err());
        assert!(parse::<EndpointSpec>(r#"{"address":"a:1","weight":0}"#).is_err());
        assert!(parse::<Affinity>(r#"{"kind":"cookie","name":"x"}"#).is_err());
        assert!(parse::<Affinity>(r#"{"kind":"app-cookie","name":"a b"}"#).is_err());
        assert!(parse::<Affinity>(r#"{"kind":"none","x":1}"#).is_err());
    }

    #[test]
    fn specs_survive_their_json() {
        let route = r#"{"host":"*.example.com","path_prefix":"/app","pool":"p","affinity":{"kind":"app-cookie","name":"Session"}}"#;
        let spec: RouteSpec = parse(route).unwrap();
        assert_eq!(serde_json::to_string(&spec).unwrap(), route);
        for affinity in [Affinity::None {}, Affinity::Cookie] {
            let json = serde_json::to_string(&affinity).unwrap();
            assert_eq!(parse::<Affinity>(&json).unwrap(), affinity, "{json}");
        }
    }

    #[test]
    fn prefixes_match_whole_segments() {
        let prefix = |p: &str| PathPrefix::try_from(p.to_owned()).unwrap();
        assert!(prefix("/app/").covers("/app"));
        assert!(prefix("/app").covers("/app/x"));
        assert!(!prefix("/app").covers("/apple"));
        assert!(prefix("/").covers("/anything"));
        assert!(PathPrefix::try_from("app".to_owned()).is_err());
        assert!(PathPrefix::try_from("/a;b".to_owned()).is_err());
    }
}
