//! WebSockets: an HTTP/1.1 upgrade (RFC 6455) or an extended CONNECT (RFC 8441) from the client,
//! an upgrade to the endpoint. The endpoint is chosen as for any request, then a [`Tunnel`] passes
//! bytes both ways. It holds its lease: a drain counts it until it closes.

mod frames;
pub(crate) mod side;
mod tunnel;

use std::rc::Rc;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use tidelock_core::retry::{Failure, Verdict};

pub(crate) use tunnel::Tunnel;

use crate::attempt::{Attempt, Failed, Interim};
use crate::body::Received;
use crate::exchange::Exchange;
use crate::proxy::{OutBody, Outbound, aborted, own};
use crate::source::Source;
use crate::worker::Worker;

/// What a key is answered with is made of it and this (RFC 6455 section 4.2.2).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// What the endpoint must answer to a key that the balancer has made.
pub(crate) struct Accept(String);

/// Turns an extended CONNECT for a WebSocket into the upgrade that endpoints know; none when it is
/// for something else. The client sends no key (RFC 8441 section 5), so one is made.
pub(crate) fn from_extended_connect(head: &mut Parts, worker: &Rc<Worker>) -> Option<Accept> {
    let protocol = head.extensions.get::<h2::ext::Protocol>()?;
    if head.method != Method::CONNECT || protocol.as_str() != "websocket" {
        return None;
    }
    let random = u128::from(worker.random()) << 64 | u128::from(worker.random());
    let key = BASE64.encode(random.to_be_bytes());
    head.method = Method::GET;
    let accept = BASE64.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key.as_bytes(), GUID].concat()));
    head.headers.insert(header::SEC_WEBSOCKET_KEY, HeaderValue::try_from(key).expect("base64 is visible ASCII"));
    // An upgrade has no body, and what the client sends are frames.
    head.headers.remove(header::CONTENT_LENGTH);
    Some(Accept(accept))
}

/// Whether the request asks to become a WebSocket (RFC 6455 section 4.1).
pub(crate) fn is_upgrade(head: &Parts) -> bool {
    let token = |name: HeaderName, token: &str| {
        head.headers.get_all(name).into_iter().any(|value| {
            value.to_str().is_ok_and(|list| list.split(',').any(|item| item.trim().eq_ignore_ascii_case(token)))
        })
    };
    head.method == Method::GET
        && head.version == http::Version::HTTP_11
        && head.headers.contains_key(header::UPGRADE)
        && token(header::UPGRADE, "websocket")
        && token(header::CONNECTION, "upgrade")
}

/// From the request's head to the 101, or to what the endpoint answers instead. `rest` is what the
/// client may have sent behind the head, `accept` what a key of our own wants to hear.
pub(crate) async fn serve(
    mut exchange: Box<Exchange>,
    rest: Received,
    interim: &Interim,
    accept: Option<Accept>,
) -> Outbound {
    announce(&mut exchange.head.headers);
    loop {
        let Some((choice, endpoint, lease)) = exchange.next() else {
            let reason = exchange.reason();
            return own(exchange.access, reason, rest);
        };
        let pool = exchange.pool().clone();
        let timeouts = &pool.spec.timeouts;
        let attempt = Attempt { exchange: &mut exchange, endpoint: &endpoint, pool: &pool.spec, interim };
        // An endpoint that speaks HTTP/2 in cleartext speaks HTTP/1.1 on the same port, and few
        // know RFC 8441 (Bandit does not). A connection of its own: it will not come back.
        let result = match endpoint.h1.lend_new(&attempt.lend()).await {
            Ok(lent) => attempt.h1_head(Source::gone(), lent).await,
            Err(_) => Err(Failed::Endpoint(Failure::Connect, Source::gone())),
        };
        let (failure, source) = match result {
            Ok((mut head, running)) if head.status() == StatusCode::SWITCHING_PROTOCOLS => {
                if is_accepted(head.headers(), accept.as_ref()) {
                    exchange.finish_head(&choice, &endpoint, &mut head);
                    announce(head.headers_mut());
                    exchange.worker.counters.websockets_total.add();
                    if accept.is_some() {
                        exchange.worker.counters.websockets_by_connect.add();
                    }
                    let idle = timeouts.websocket_idle_ms.duration();
                    let tunnel = Tunnel::new(running.into_wire(), &endpoint, lease, idle);
                    return Outbound::Switch(head, exchange.access, rest, Box::new(tunnel));
                }
                (Failure::Protocol, Source::gone())
            }
            Ok((head, running)) => {
                let mut response = head.map(|()| OutBody::Proxied(running.into_proxied(&pool.spec, lease)));
                exchange.finish_head(&choice, &endpoint, &mut response);
                return Outbound::Response(response, exchange.access);
            }
            Err(Failed::Client(_)) => return aborted(exchange.access),
            Err(Failed::Endpoint(failure, source)) => (failure, source),
        };
        if exchange.failed(&choice, failure, &source) == Verdict::GiveUp {
            let reason = exchange.reason();
            return own(exchange.access, reason, rest);
        }
    }
}

/// Both sides name the change of protocol, and nothing else by `connection`.
fn announce(fields: &mut HeaderMap) {
    fields.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    fields.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
}

/// Whether the endpoint has changed to what was asked for. A client that sent a key looks at the
/// answer to it itself.
fn is_accepted(fields: &HeaderMap, accept: Option<&Accept>) -> bool {
    let is_websocket = fields.get(header::UPGRADE).is_some_and(|to| to.as_bytes().eq_ignore_ascii_case(b"websocket"));
    let answer = || fields.get(header::SEC_WEBSOCKET_ACCEPT).map(HeaderValue::as_bytes);
    is_websocket && accept.is_none_or(|accept| answer() == Some(accept.0.as_bytes()))
}

/// What a 101 becomes for a client that asked by an extended CONNECT (RFC 8441 section 5).
pub(crate) fn to_extended_connect(head: &mut http::Response<()>) {
    *head.status_mut() = StatusCode::OK;
    for name in [header::CONNECTION, header::UPGRADE, header::SEC_WEBSOCKET_ACCEPT] {
        head.headers_mut().remove(name);
    }
}
