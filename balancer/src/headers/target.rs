//! What a request asks for: its one host (H15), and a target that can be passed on.

use std::borrow::Cow;
use std::net::Ipv6Addr;

use http::Version;
use http::header;
use http::request::Parts;
use http::uri::Authority;

use crate::respond::Reason;

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
pub(crate) fn host(head: &Parts, is_trusted: bool) -> Result<Host, Reason> {
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
        // field is what somebody translated, and nobody checked: HAProxy and nginx do, and may where they are trusted.
        (None, Some(field)) if head.version != Version::HTTP_2 || is_trusted => field,
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
    let character = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    let is_host = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(character),
    };
    is_host && port_is_fine
}

/// A request's target with `"`, `<`, `>` and `` ` `` percent-encoded, as browsers send them (RFC 3986 section 2.1): some clients
/// send them as they are, which other balancers pass on.
pub(crate) fn encoded(target: &[u8]) -> Vec<u8> {
    let mut encoded = Vec::with_capacity(target.len() + 16);
    for &byte in target {
        match byte {
            b'"' => encoded.extend_from_slice(b"%22"),
            b'<' => encoded.extend_from_slice(b"%3C"),
            b'>' => encoded.extend_from_slice(b"%3E"),
            b'`' => encoded.extend_from_slice(b"%60"),
            byte => encoded.push(byte),
        }
    }
    encoded
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
        let name =
            |version, target, hosts: &[&str]| host(&head(version, target, hosts), false).map(|h| h.name().into_owned());
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
        let of_trusted = |hosts: &[&str]| host(&head(Version::HTTP_2, "/", hosts), true).map(|h| h.name().into_owned());
        assert_eq!(of_trusted(&["x.y"]), Ok("x.y".into()));
        assert_eq!((of_trusted(&[]), of_trusted(&["a,b"])), (Err(Reason::BadHost), Err(Reason::BadHost)));
        assert_eq!(name(Version::HTTP_2, "http://u@x.y/", &[]), Err(Reason::BadHost));
    }
}
