//! What keeps a session's requests on one endpoint, and how strictly.

use std::num::{NonZeroU8, NonZeroU32};

use serde::{Deserialize, Serialize};

use super::route::{PathPrefix, Token};
use crate::affinity::COOKIE_NAME;

/// What keeps the requests of a session on one endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Affinity {
    /// Nothing: the less busy of two endpoints drawn at random.
    None {},
    /// Our own sealed cookie, set on a session's first response.
    Cookie(CookieSpec),
    /// A cookie that the app sets; its value is the key on the ring.
    AppCookie { name: Token },
    /// A request header's value is the key on the ring.
    Header { name: Token },
    /// The value of a parameter of the query is the key on the ring.
    Query { name: QueryName },
    /// The n-th segment of the path is the key on the ring; the first is 1.
    PathSegment { number: NonZeroU8 },
    /// The client's address is the key on the ring.
    ClientIp {},
}

impl Default for Affinity {
    fn default() -> Self {
        Affinity::Cookie(CookieSpec::default())
    }
}

impl Affinity {
    /// See [`Command::level`](crate::command::Command::level).
    pub(crate) fn level(&self) -> u32 {
        match self {
            Affinity::Query { .. } | Affinity::PathSegment { .. } | Affinity::ClientIp {} => 3,
            Affinity::Cookie(cookie) if *cookie != CookieSpec::default() => 3,
            _ => 1,
        }
    }
}

impl CookieSpec {
    /// What browsers would drop, or never send back.
    pub(super) fn check(&self, prefix: &PathPrefix) -> Result<(), String> {
        let name = self.name.as_str();
        if self.same_site == SameSite::None && !self.secure {
            return Err("same_site none without secure: browsers refuse such a cookie, so set secure".into());
        }
        if (name.starts_with("__Host-") || name.starts_with("__Secure-")) && !self.secure {
            return Err(format!(
                "the name {name} demands secure of a cookie (RFC 6265bis): set it, or use another name"
            ));
        }
        let path = self.path.as_ref().unwrap_or(prefix);
        if name.starts_with("__Host-") && path.as_str() != "/" {
            return Err(format!("the name {name} demands the path / of a cookie (RFC 6265bis)"));
        }
        if !path.covers(prefix.as_str()) {
            let (path, prefix) = (path.as_str(), prefix.as_str());
            return Err(format!("the cookie's path {path} does not cover {prefix}: browsers would not send it here"));
        }
        Ok(())
    }
}

/// How far a session is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strength {
    /// It moves when its endpoint cannot be used now: is down, or cannot be reached.
    #[default]
    Prefer,
    /// It waits, and is then answered 503. It moves only when its endpoint is removed, or drains without
    /// its sessions. Apps whose sessions live in memory, long polling above all, want that.
    Strict,
}

impl Strength {
    pub(crate) fn is_default(&self) -> bool {
        *self == Strength::Prefer
    }
}

/// Our cookie as clients see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CookieSpec {
    /// `tidelock`. Routes to one pool can share it.
    #[serde(skip_serializing_if = "is_our_name")]
    pub name: Token,
    /// The route's prefix.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathPrefix>,
    /// None: until the browser ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age_s: Option<NonZeroU32>,
    #[serde(skip_serializing_if = "SameSite::is_default")]
    pub same_site: SameSite,
    /// Also where this balancer speaks cleartext, behind another one that ends TLS. Over TLS it always
    /// is.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub secure: bool,
}

impl Default for CookieSpec {
    fn default() -> Self {
        let name = Token::try_from(COOKIE_NAME.to_owned()).expect("our own name is one");
        CookieSpec { name, path: None, max_age_s: None, same_site: SameSite::Lax, secure: false }
    }
}

fn is_our_name(name: &Token) -> bool {
    name.as_str() == COOKIE_NAME
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SameSite {
    Strict,
    #[default]
    Lax,
    /// Browsers take it with `secure` only.
    None,
}

impl SameSite {
    pub fn as_str(self) -> &'static str {
        match self {
            SameSite::Strict => "Strict",
            SameSite::Lax => "Lax",
            SameSite::None => "None",
        }
    }

    fn is_default(&self) -> bool {
        *self == SameSite::Lax
    }
}

/// The name of a parameter as it stands in a query: unreserved characters (RFC 3986 section 2.3), 1 to
/// 256.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct QueryName(std::sync::Arc<str>);

impl QueryName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for QueryName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let unreserved = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
        match (1..=256).contains(&text.len()) && text.bytes().all(unreserved) {
            true => Ok(QueryName(text.into())),
            false => Err(format!("{text:?} is not the name of a query's parameter: use letters, digits and -._~")),
        }
    }
}

impl From<QueryName> for String {
    fn from(name: QueryName) -> String {
        name.0.as_ref().to_owned()
    }
}
