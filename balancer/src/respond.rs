//! The only maker of responses that no endpoint gave. Everything that can go wrong with a request
//! becomes a status, a short text for people and `tidelock-reason` for programs here.

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderName, HeaderValue, Response, StatusCode};

/// Why the balancer answers itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    BadRequest,
    BadVersion,
    BadHost,
    BadFraming,
    BadBody,
    /// The head or the body came too slowly.
    SlowRequest,
    UnknownHost,
    NoRoute,
    TargetTooLong,
    HeadersTooLarge,
    NoConnect,
    /// TRACE or OPTIONS with Max-Forwards 0: it is about this balancer, which has nothing to tell.
    LastHop,
    /// The pool has no endpoint that may be used.
    NoEndpoint,
    /// The endpoint could not be reached.
    Unreachable,
    /// It takes no request now, and says so (GOAWAY, REFUSED_STREAM).
    Refused,
    /// As many requests or connections run there as the pool allows.
    EndpointFull,
    /// An endpoint says that the request is another one's, which cannot be used now, or is not there.
    RoutedNowhere,
    /// Two endpoints say that the request is another one's.
    RoutedTwice,
    /// It is another one's, and its body was too long to be kept.
    RoutedTooLate,
    /// It broke off before a response.
    BrokenOff,
    /// It did not answer in time.
    TooSlow,
    /// It answered with something that is not HTTP.
    BadResponse,
}

static REASON: HeaderName = HeaderName::from_static("tidelock-reason");

impl Reason {
    pub(crate) const ALL: [Reason; 22] = [
        Reason::BadRequest,
        Reason::BadVersion,
        Reason::BadHost,
        Reason::BadFraming,
        Reason::BadBody,
        Reason::SlowRequest,
        Reason::UnknownHost,
        Reason::NoRoute,
        Reason::TargetTooLong,
        Reason::HeadersTooLarge,
        Reason::NoConnect,
        Reason::LastHop,
        Reason::NoEndpoint,
        Reason::Unreachable,
        Reason::Refused,
        Reason::EndpointFull,
        Reason::RoutedNowhere,
        Reason::RoutedTwice,
        Reason::RoutedTooLate,
        Reason::BrokenOff,
        Reason::TooSlow,
        Reason::BadResponse,
    ];

    fn parts(self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Reason::BadRequest => (StatusCode::BAD_REQUEST, "bad-request", "The request is not valid HTTP/1.1."),
            Reason::BadVersion => (
                StatusCode::HTTP_VERSION_NOT_SUPPORTED,
                "bad-version",
                "This HTTP version is not spoken here: use 1.1, or 2 with its preface.",
            ),
            Reason::BadHost => (
                StatusCode::BAD_REQUEST,
                "bad-host",
                "The Host of the request (:authority over HTTP/2) is missing or malformed.",
            ),
            Reason::BadFraming => {
                (StatusCode::BAD_REQUEST, "bad-framing", "The request's length is stated in more than one way.")
            }
            Reason::BadBody => (StatusCode::BAD_REQUEST, "bad-body", "The request's body is malformed."),
            Reason::SlowRequest => (StatusCode::REQUEST_TIMEOUT, "slow-request", "The request came too slowly."),
            Reason::UnknownHost => {
                (StatusCode::MISDIRECTED_REQUEST, "unknown-host", "No route of this balancer is for this host.")
            }
            Reason::NoRoute => (StatusCode::NOT_FOUND, "no-route", "No route of this balancer is for this path."),
            Reason::TargetTooLong => (StatusCode::URI_TOO_LONG, "target-too-long", "The request's target is too long."),
            Reason::HeadersTooLarge => (
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "headers-too-large",
                "The request's header fields are too large or too many.",
            ),
            Reason::NoConnect => (StatusCode::NOT_IMPLEMENTED, "no-connect", "This balancer is no tunnel."),
            Reason::LastHop => (
                StatusCode::METHOD_NOT_ALLOWED,
                "last-hop",
                "Max-Forwards ends the request here; the balancer answers none.",
            ),
            Reason::NoEndpoint => {
                (StatusCode::SERVICE_UNAVAILABLE, "no-endpoint", "No endpoint of the pool may be used now.")
            }
            Reason::Unreachable => {
                (StatusCode::SERVICE_UNAVAILABLE, "unreachable", "No endpoint of the pool could be reached.")
            }
            Reason::Refused => (StatusCode::SERVICE_UNAVAILABLE, "refused", "The endpoint takes no requests now."),
            Reason::EndpointFull => {
                (StatusCode::SERVICE_UNAVAILABLE, "endpoint-full", "The endpoint has as much to do as its pool allows.")
            }
            Reason::RoutedNowhere => (
                StatusCode::SERVICE_UNAVAILABLE,
                "routed-nowhere",
                "The request belongs to an endpoint that cannot be used now.",
            ),
            Reason::RoutedTwice => {
                (StatusCode::BAD_GATEWAY, "routed-twice", "Each endpoint says that the request is another one's.")
            }
            Reason::RoutedTooLate => (
                StatusCode::BAD_GATEWAY,
                "routed-too-late",
                "The request belongs to another endpoint, and its body is too long to be sent again.",
            ),
            Reason::BrokenOff => (StatusCode::BAD_GATEWAY, "broken-off", "The endpoint broke off before it answered."),
            Reason::TooSlow => (StatusCode::GATEWAY_TIMEOUT, "too-slow", "The endpoint did not answer in time."),
            Reason::BadResponse => {
                (StatusCode::BAD_GATEWAY, "bad-response", "The endpoint's answer was not valid HTTP.")
            }
        }
    }

    pub(crate) fn as_str(self) -> &'static str {
        self.parts().1
    }
}

pub(crate) fn respond(reason: Reason) -> Response<Bytes> {
    let (status, code, text) = reason.parts();
    let mut response = Response::new(Bytes::from(format!("{status}\n{text}\n")));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(REASON.clone(), HeaderValue::from_static(code));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        // No method is answered by the balancer itself (RFC 9110 section 15.5.6).
        headers.insert(ALLOW, HeaderValue::from_static(""));
    }
    if status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counters are found by a reason's place among all, and a family's label must not come twice.
    #[test]
    fn each_reason_has_a_place_and_a_name() {
        for (place, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, place);
            assert_eq!(Reason::ALL.iter().filter(|other| other.as_str() == reason.as_str()).count(), 1);
        }
    }
}
