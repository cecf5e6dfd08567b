//! Routes: hosts and paths, and what keeps a session together.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName};
use serde::{Deserialize, Serialize};

use super::affinity::{Affinity, Strength};
use super::is_dns_name;
use super::profile::Profile;
use crate::id::Name;

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
    #[serde(default, skip_serializing_if = "Strength::is_default")]
    pub strength: Strength,
    /// What kind of app it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<Profile>,
    /// Answer with `tidelock-endpoint`, `tidelock-epoch` and `tidelock-affinity`, for people who
    /// want to see where a request went. Off, since it tells strangers about the inside.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub expose: bool,
}

impl RouteSpec {
    /// What is asked of a spec before it is proposed, and not of what a log holds already.
    pub fn check(&self) -> Result<(), String> {
        match &self.affinity {
            Affinity::Cookie(cookie) => cookie.check(&self.path_prefix),
            _ => Ok(()),
        }
    }

    /// See [`Command::level`](crate::command::Command::level).
    pub(crate) fn level(&self) -> u32 {
        let of_strength = if self.strength.is_default() { 1 } else { 3 };
        let of_profile = if self.profile.is_none() { 1 } else { 4 };
        self.affinity.level().max(of_strength).max(of_profile)
    }

    /// How far the session of such a request is kept.
    pub fn strength_for(&self, path: &str, headers: &HeaderMap) -> Strength {
        match (self.strength, self.profile) {
            (Strength::Prefer, Some(profile)) => profile.strength(path, headers),
            (strength, _) => strength,
        }
    }

    /// Whether such a request is a long poll, as far as the profile knows.
    pub fn is_long_poll(&self, path: &str) -> bool {
        self.profile.is_some_and(|profile| profile.is_long_poll(path))
    }

    /// For how long a WebSocket may be silent, by the pool's time.
    pub fn websocket_idle(&self, of_pool: Duration) -> Duration {
        self.profile.map_or(of_pool, |profile| profile.websocket_idle(of_pool))
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
