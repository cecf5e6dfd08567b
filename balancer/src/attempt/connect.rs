//! An attempt to open a WebSocket at an HTTP/2 endpoint by an extended CONNECT (RFC 8441): one more
//! stream on a connection that WebSockets share, instead of a connection for each.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use bytes::Bytes;
use http::header::{CONNECTION, EXPECT, HOST, SEC_WEBSOCKET_KEY, UPGRADE};
use http::{HeaderName, Method, Response};
use tidelock_core::retry::Failure;

use super::h2::{Running, failure};
use super::{Attempt, Failed, Proxied, Wait, Way};
use crate::body::Received;
use crate::http2::RequestHead;
use crate::source::Source;
use crate::timers::FirstByte;
use crate::upstream::h2::{Purpose, Slot};
use crate::websocket::side::StreamSide;

/// Fields that stay here: what an upgrade says of itself (RFC 8441 section 5).
static OF_UPGRADE: [HeaderName; 5] = [HOST, EXPECT, CONNECTION, UPGRADE, SEC_WEBSOCKET_KEY];

/// What the endpoint made of it.
pub(crate) enum Connected {
    /// The stream is the WebSocket's from here on.
    Open(Response<()>, StreamSide),
    /// Another answer, whose body follows.
    Refused(Response<Answer>),
}

/// A response to a request that has ended.
pub(crate) struct Answer(Running);

impl Answer {
    pub(crate) fn into_proxied(self, attempt: &Attempt<'_>, lease: crate::lease::Lease) -> Proxied {
        Proxied::new(Way::H2(self.0), attempt, lease)
    }
}

impl Attempt<'_> {
    /// A stream for a WebSocket, if the endpoint takes them by extended CONNECT.
    pub(crate) async fn connect_slot(&self) -> Result<Option<Slot>, Failed> {
        if self.endpoint.takes_connect() == Some(false) {
            return Ok(None);
        }
        let connections = &self.endpoint.websockets;
        let lend = self.lend();
        let purpose = Purpose { sends: true, again: self.exchange.was_unprocessed() };
        let slot = match connections.try_lend(purpose) {
            Some(slot) => slot,
            None => self.in_time(connections.lend(&lend, purpose)).await.map_err(|error| error.of(Source::gone()))?,
        };
        let takes = slot.takes_connect(self.pool.timeouts.connect_ms.duration()).await;
        if takes == Some(true) {
            return Ok(Some(slot));
        }
        // Nothing was sent on it, and nothing will be.
        slot.settle();
        slot.retire_connection();
        match takes {
            None => Err(Failed::Endpoint(Failure::Connect, Source::gone())),
            Some(_) => Ok(None),
        }
    }

    /// Asks on `slot` and waits for the final response's head.
    pub(crate) async fn connect(&mut self, slot: Slot) -> Result<Connected, Failed> {
        let head = RequestHead {
            method: &Method::CONNECT,
            protocol: Some("websocket"),
            ..self.exchange.h2_head(self.endpoint.is_tls(), &OF_UPGRADE)
        };
        let reads = slot.client().reads();
        let Ok((mut send, mut response)) = slot.client().send(&head, false) else {
            slot.settle();
            slot.retire_connection();
            return Err(Failed::Endpoint(Failure::Unprocessed, Source::gone()));
        };
        let mut wait = FirstByte::new(&self.pool.timeouts, self.exchange.deadline);
        let mut cut = self.endpoint.until_cut();
        let outcome = poll_fn(|cx| {
            if let Poll::Ready(head) = self.poll_head(&mut response, cx) {
                return Poll::Ready(head.map_err(|broken| Wait::Endpoint(failure(broken))));
            }
            if Pin::new(&mut cut).poll(cx).is_ready() {
                return Poll::Ready(Err(Wait::Endpoint(Failure::Broken)));
            }
            wait.poll(cx, false).map(|()| Err(Wait::Endpoint(Failure::Timeout)))
        })
        .await;
        match outcome {
            Ok(head) => {
                slot.introduced(head.headers());
                let body = Received::h2(response);
                if head.status().is_success() {
                    return Ok(Connected::Open(head, StreamSide::upstream(body, send, slot)));
                }
                // It is a request like any other, which ends here.
                let _ = send.send_data(Bytes::new(), true);
                let answer = Answer(Running::without_upload(body, slot));
                Ok(Connected::Refused(head.map(|()| answer)))
            }
            Err(Wait::Client(abort)) => Err(Failed::Client(abort)),
            Err(Wait::Endpoint(failure)) => {
                slot.failed(failure, reads);
                Err(Failed::Endpoint(failure, Source::gone()))
            }
        }
    }
}
