//! WebSockets: an HTTP/1.1 upgrade (RFC 6455) or an extended CONNECT (RFC 8441) on either side,
//! whichever the other side uses. The endpoint is chosen as for any request, then a [`Tunnel`] passes
//! bytes both ways. It holds its lease: a drain counts it until it closes.

mod frames;
mod open;
pub(crate) mod side;
pub(crate) mod tunnel;

use std::rc::Rc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use tidelock_core::retry::{Failure, Verdict};

pub(crate) use tunnel::Tunnel;

use crate::attempt::{Attempt, Failed, Interim};
use crate::body::Received;
use crate::exchange::Exchange;
use crate::http2::Protocol;
use crate::proxy::{OutBody, Outbound, aborted, own};
use crate::upstream::lasting::Open;
use crate::worker::Worker;
use open::{Opened, open};

/// From the decision to close a WebSocket to its end: for the message under way to end, and for
/// the client to answer the close.
pub(crate) const CLOSE_TIME: Duration = Duration::from_secs(2);

/// How a client asks for a WebSocket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AskedBy {
    /// With a key of its own, to which it wants the answer.
    Upgrade,
    /// On a stream. It sends no key (RFC 8441 section 5): the one in its head is the balancer's.
    Connect,
}

/// Turns an extended CONNECT for a WebSocket into the upgrade that all endpoints know; none when it
/// is for something else.
pub(crate) fn from_extended_connect(head: &mut Parts, worker: &Rc<Worker>) -> Option<AskedBy> {
    let Protocol(protocol) = head.extensions.get()?;
    if head.method != Method::CONNECT || protocol != "websocket" {
        return None;
    }
    let random = u128::from(worker.random()) << 64 | u128::from(worker.random());
    let key = BASE64.encode(random.to_be_bytes());
    head.method = Method::GET;
    head.headers.insert(header::SEC_WEBSOCKET_KEY, HeaderValue::try_from(key).expect("base64 is visible ASCII"));
    Some(AskedBy::Connect)
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
/// client may have sent behind the head.
pub(crate) async fn serve(mut exchange: Box<Exchange>, rest: Received, interim: &Interim, asked: AskedBy) -> Outbound {
    announce(&mut exchange.head.headers);
    // A handshake has no body, whatever is said of its length.
    exchange.head.headers.remove(header::CONTENT_LENGTH);
    exchange.length = None;
    loop {
        let Some((choice, endpoint, lease)) = exchange.next() else {
            if exchange.hold().await {
                continue;
            }
            let reason = exchange.reason();
            return own(exchange.access, reason, rest);
        };
        let pool = exchange.pool().clone();
        let mut attempt = Attempt { exchange: &mut exchange, endpoint: &endpoint, pool: &pool.spec, interim };
        match open(&mut attempt, lease, asked).await {
            Ok(Opened::Open(mut head, side, lease)) => {
                exchange.finish_head(&choice, &endpoint, &mut head);
                announce(head.headers_mut());
                exchange.worker.counters.websockets_total.add();
                if asked == AskedBy::Connect {
                    exchange.worker.counters.websockets_by_connect.add();
                }
                let open = Open::on(&endpoint, &exchange.worker.counters);
                let tunnel = Tunnel::new(side, open, lease, exchange.websocket_idle());
                return Outbound::Switch(head, exchange.access, rest, Box::new(tunnel));
            }
            Ok(Opened::Refused(head)) => {
                let mut response = head.map(OutBody::Proxied);
                exchange.finish_head(&choice, &endpoint, &mut response);
                return Outbound::Response(response, exchange.access);
            }
            Err(Failed::Client(_)) => return aborted(exchange.access),
            // A handshake has no body to be lost.
            Err(Failed::Routed(routed)) => {
                let (to, _) = *routed;
                if let Err(reason) = exchange.route_to(to, true) {
                    return own(exchange.access, reason, rest);
                }
            }
            Err(Failed::Endpoint(failure, source)) => {
                let gives_up = exchange.failed(&choice, failure, &source) == Verdict::GiveUp;
                // Nothing was sent anywhere where no connection came about.
                if gives_up && !(failure == Failure::Connect && exchange.hold().await) {
                    let reason = exchange.reason();
                    return own(exchange.access, reason, rest);
                }
                if let Some(pause) = exchange.pause() {
                    pause.await;
                }
            }
        }
    }
}

/// Both sides name the change of protocol, and nothing else by `connection`.
fn announce(fields: &mut HeaderMap) {
    fields.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    fields.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
}

/// What a 101 becomes for a client that asked by an extended CONNECT (RFC 8441 section 5).
pub(crate) fn to_extended_connect(head: &mut http::Response<()>) {
    *head.status_mut() = StatusCode::OK;
    for name in [header::CONNECTION, header::UPGRADE, header::SEC_WEBSOCKET_ACCEPT] {
        head.headers_mut().remove(name);
    }
}
