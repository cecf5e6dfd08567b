//! Who may ask: a bearer token, and a guard against web pages that a browser on the same machine
//! happens to show.

use aws_lc_rs::digest;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, Method, header};
use subtle::ConstantTimeEq;

use super::Context;
use super::error::Problem;

/// The token that the API asks for, kept as its SHA-256: comparing takes equally long whatever a
/// client sends, its length included.
#[derive(Clone)]
pub struct BearerToken([u8; 32]);

/// A token file without a token in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a token is at least 16 printable ASCII characters without blanks")]
pub struct InvalidToken;

impl std::fmt::Debug for BearerToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BearerToken(..)")
    }
}

impl BearerToken {
    /// Surrounding white space, such as a file's last line break, is not part of it.
    pub fn new(text: &str) -> Result<BearerToken, InvalidToken> {
        let text = text.trim();
        if text.len() < 16 || !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(InvalidToken);
        }
        Ok(BearerToken(hash(text.as_bytes())))
    }

    fn admits(&self, given: &[u8]) -> bool {
        self.0.ct_eq(&hash(given)).into()
    }
}

fn hash(text: &[u8]) -> [u8; 32] {
    let mut sum = [0; 32];
    sum.copy_from_slice(digest::digest(&digest::SHA256, text).as_ref());
    sum
}

/// The layer before every protected route.
pub(super) async fn require(State(api): State<Context>, request: Request, next: Next) -> Response {
    match check(&api, request.method(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

pub(super) fn check(api: &Context, method: &Method, headers: &HeaderMap) -> Result<(), Problem> {
    match &api.token {
        Some(token) => check_token(token, headers)?,
        None => check_host(headers, api.admin.as_deref())?,
    }
    if method.is_safe() { Ok(()) } else { check_origin(headers) }
}

fn check_token(token: &BearerToken, headers: &HeaderMap) -> Result<(), Problem> {
    let Some(value) = headers.get(header::AUTHORIZATION) else {
        return Err(Problem::unauthorized("Send the fleet's token: Authorization: Bearer TOKEN."));
    };
    let (scheme, given) = split_scheme(value.as_bytes());
    if scheme.eq_ignore_ascii_case(b"bearer") && token.admits(given) {
        Ok(())
    } else {
        Err(Problem::unauthorized("This is not the fleet's token."))
    }
}

fn split_scheme(value: &[u8]) -> (&[u8], &[u8]) {
    let blank = value.iter().position(|b| *b == b' ').unwrap_or(value.len());
    (&value[..blank], value[blank..].trim_ascii())
}

/// Without a token the API is for this machine alone. A page in a browser here reaches it by a name
/// of its own that it lets point to 127.0.0.1 (DNS rebinding), so such names are refused. An
/// address, a name without a dot (localhost) and the advertised name cannot be a page's.
fn check_host(headers: &HeaderMap, advertised: Option<&str>) -> Result<(), Problem> {
    let host = headers.get(header::HOST).and_then(|value| value.to_str().ok()).map(host_of).unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let known = advertised.and_then(authority_of).is_some_and(|authority| host_of(authority) == host);
    if known || !host.contains('.') || bare.parse::<std::net::IpAddr>().is_ok() {
        return Ok(());
    }
    Err(Problem::forbidden(format!(
        "Without a token this API answers on addresses and localhost only, not as {host:?}: set admin.token_file."
    )))
}

/// A browser says from where a write comes. Another site must not make one, even if the browser
/// sends no token: without a token, every request is trusted.
fn check_origin(headers: &HeaderMap) -> Result<(), Problem> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let foreign_fetch = text("sec-fetch-site").is_some_and(|site| !matches!(site, "same-origin" | "none"));
    let foreign_origin = match headers.get(header::ORIGIN) {
        Some(origin) => origin.to_str().ok().and_then(authority_of) != text("host"),
        None => false,
    };
    if foreign_fetch || foreign_origin {
        return Err(Problem::forbidden("Writes from pages of another site are refused."));
    }
    Ok(())
}

fn authority_of(url: &str) -> Option<&str> {
    url.split_once("://").map(|(_, rest)| rest.split('/').next().unwrap_or(rest))
}

fn host_of(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => authority,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    #[test]
    fn only_the_token_opens() {
        let token = BearerToken::new("0123456789abcdef\n").unwrap();
        let opens = |value: &str| check_token(&token, &headers(&[("authorization", value)])).is_ok();
        assert!(opens("Bearer 0123456789abcdef"));
        assert!(opens("bearer  0123456789abcdef"), "the scheme has no case (RFC 9110 section 11.1)");
        for wrong in ["Bearer", "Bearer ", "Bearer 0123456789abcdeg", "Basic 0123456789abcdef", "0123456789abcdef"] {
            assert!(!opens(wrong), "{wrong}");
        }
        assert!(check_token(&token, &HeaderMap::new()).is_err());
        assert!(BearerToken::new("short").is_err() && BearerToken::new("with a blank inside").is_err());
        assert_eq!(format!("{token:?}"), "BearerToken(..)");
    }

    #[test]
    fn without_a_token_foreign_names_are_refused() {
        let passes = |host: &str| check_host(&headers(&[("host", host)]), Some("http://node-a.lan:9900")).is_ok();
        for good in ["localhost:9900", "127.0.0.1:9900", "[::1]:9900", "[::1]", "node-a:9900", "node-a.lan:9900"] {
            assert!(passes(good), "{good}");
        }
        assert!(!passes("attacker.example:9900") && !passes("attacker.example"));
    }

    #[test]
    fn writes_of_other_sites_are_refused() {
        let passes = |pairs: &[(&'static str, &str)]| check_origin(&headers(pairs)).is_ok();
        assert!(passes(&[("host", "localhost:9900")]), "not a browser");
        assert!(passes(&[("host", "localhost:9900"), ("origin", "http://localhost:9900")]));
        assert!(!passes(&[("host", "localhost:9900"), ("origin", "http://localhost:9901")]));
        assert!(!passes(&[("host", "localhost:9900"), ("origin", "null")]));
        assert!(!passes(&[("sec-fetch-site", "cross-site")]));
        assert!(passes(&[("sec-fetch-site", "same-origin")]));
    }
}
