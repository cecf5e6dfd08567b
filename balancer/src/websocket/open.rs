//! One attempt to open a WebSocket at an endpoint: by an extended CONNECT (RFC 8441) where HTTP/2 is
//! spoken and the endpoint takes it (Bandit does not), else by an upgrade (RFC 6455).

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use tidelock_core::retry::Failure;

use super::AskedBy;
use super::side::{Side, Upgraded};
use crate::attempt::connect::Connected;
use crate::attempt::{Attempt, Failed, Proxied};
use crate::lease::Lease;
use crate::source::Source;
use crate::upstream::LendError;
use crate::upstream::dial::Spoken;
use crate::upstream::h2::Slot;

/// What a key is answered with is made of it and this (RFC 6455 section 4.2.2).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// What an endpoint has said to it.
pub(super) enum Opened {
    /// As an upgrade's 101 says it, whichever way it was asked for.
    Open(Response<()>, Box<dyn Side>, Lease),
    Refused(Response<Proxied>),
}

pub(super) async fn open(attempt: &mut Attempt<'_>, mut lease: Lease, asked: AskedBy) -> Result<Opened, Failed> {
    let failed = |error: LendError| error.of(Source::gone());
    // Before it takes a place: who waits for a turn takes none from other requests.
    attempt.lend().websocket_turn().await.map_err(failed)?;
    lease.hold(attempt.lend().request_place().await.map_err(failed)?);
    let spoken = attempt.lend().spoken().await.map_err(failed)?;
    if spoken == Spoken::H2
        && let Some(slot) = attempt.connect_slot().await?
    {
        return by_connect(attempt, slot, lease).await;
    }
    by_upgrade(attempt, lease, asked).await
}

async fn by_connect(attempt: &mut Attempt<'_>, slot: Slot, lease: Lease) -> Result<Opened, Failed> {
    let key = attempt.exchange.head.headers.get(header::SEC_WEBSOCKET_KEY).cloned();
    Ok(match attempt.connect(slot).await? {
        Connected::Open(mut head, side) => {
            *head.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            if let Some(key) = key {
                head.headers_mut().insert(header::SEC_WEBSOCKET_ACCEPT, answer_to(&key));
            }
            Opened::Open(head, Box::new(side), lease)
        }
        Connected::Refused(head) if attempt.route_to(head.headers()).is_some() => {
            let to = attempt.route_to(head.headers()).expect("it was there a line ago");
            return Err(Failed::Routed(Box::new((to, Source::gone()))));
        }
        Connected::Refused(head) => Opened::Refused(head.map(|answer| answer.into_proxied(attempt, lease))),
    })
}

/// On a connection of its own, over which HTTP/1.1 is spoken; endpoints that speak HTTP/2 in
/// cleartext speak it on the same port. The connection will not come back.
async fn by_upgrade(attempt: &mut Attempt<'_>, lease: Lease, asked: AskedBy) -> Result<Opened, Failed> {
    let lent = attempt.endpoint.h1.lend_new(&attempt.lend()).await.map_err(|error| error.of(Source::gone()))?;
    let (head, running) = attempt.h1_head(Source::gone(), lent).await?;
    if head.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(Opened::Refused(head.map(|()| running.into_proxied(attempt, lease))));
    }
    // A client that sent a key looks at the answer to it itself.
    let key = attempt.exchange.head.headers.get(header::SEC_WEBSOCKET_KEY).filter(|_| asked == AskedBy::Connect);
    if !is_accepted(head.headers(), key) {
        return Err(Failed::Endpoint(Failure::Protocol, Source::gone()));
    }
    let (wire, place) = running.into_connection();
    Ok(Opened::Open(head, Box::new(Upgraded { wire, _place: place }), lease))
}

/// Whether the endpoint has changed to what was asked for, and has understood `key`.
fn is_accepted(fields: &HeaderMap, key: Option<&HeaderValue>) -> bool {
    let is_websocket = fields.get(header::UPGRADE).is_some_and(|to| to.as_bytes().eq_ignore_ascii_case(b"websocket"));
    let answer = fields.get(header::SEC_WEBSOCKET_ACCEPT);
    is_websocket && key.is_none_or(|key| answer == Some(&answer_to(key)))
}

fn answer_to(key: &HeaderValue) -> HeaderValue {
    let digest = digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key.as_bytes(), GUID].concat());
    HeaderValue::try_from(BASE64.encode(digest)).expect("base64 is visible ASCII")
}
