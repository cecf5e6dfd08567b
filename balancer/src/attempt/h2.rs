//! An attempt on an HTTP/2 endpoint.

use std::future::poll_fn;
use std::task::{Context, Poll};

use http::header::{CONTENT_LENGTH, EXPECT, HOST};
use http::{HeaderName, Response};
use tidelock_core::retry::Failure;

use super::{Attempt, Failed, Proxied, Routed, Wait, Way};
use crate::body::{Abort, Piece, Received};
use crate::http2::{Broken, Reason, Receiver};
use crate::lease::Lease;
use crate::source::Source;
use crate::timers::FirstByte;
use crate::upload::{H2Upload, Uploaded};
use crate::upstream::h2::{Purpose, Slot};

/// Fields that stay here: the host is the `:authority`, and what is expected the client has had. The last one goes,
/// where the pool does not want it stripped.
static NOT_SENT: [HeaderName; 3] = [HOST, EXPECT, CONTENT_LENGTH];

/// A response that runs, and its upload if it still does.
pub(crate) struct Running {
    download: Received,
    pump: Option<Box<H2Upload>>,
    /// What the endpoint did not want of the request: it is read from the client, and dropped (H3).
    unwanted: Option<Box<Received>>,
    /// The connection's reads, when something came last.
    reads: u64,
    /// Dropped last: the stream's place is free.
    slot: Slot,
}

impl Attempt<'_> {
    pub(super) async fn h2(&mut self, source: Source, lease: Lease) -> Result<Response<Proxied>, Failed> {
        let connections = &self.endpoint.h2;
        let purpose = Purpose { sends: !source.is_end(), again: self.exchange.was_unprocessed() };
        let slot = match connections.try_lend(purpose) {
            Some(slot) => slot,
            None => match Box::pin(self.in_time(connections.lend(&self.lend(), purpose))).await {
                Ok(slot) => slot,
                Err(error) => return Err(error.of(source)),
            },
        };
        let end = source.is_end();
        let reads = slot.client().reads();
        let without = if self.pool.strip_content_length { &NOT_SENT[..] } else { &NOT_SENT[..2] };
        let head = self.exchange.h2_head(self.endpoint.is_tls(), without);
        let Ok((stream, mut response)) = slot.client().send(&head, end) else {
            // Nothing has been sent: the connection is closing, or closed just now.
            slot.settle();
            slot.retire_connection();
            return Err(Failed::Endpoint(Failure::Unprocessed, source));
        };
        let (mut pump, mut idle_source) = match end {
            true => (None, Some(source)),
            false => {
                let (length, hold_back) = (self.exchange.length, self.exchange.worker.config.timeouts.body_hold_back);
                (Some(Box::new(H2Upload::new(source, stream, length, hold_back))), None)
            }
        };
        let mut wait = FirstByte::new(&self.pool.timeouts, self.exchange.deadline);
        let outcome = poll_fn(|cx| {
            let mut uploaded = None;
            if let Some(pump) = &mut pump {
                match pump.poll(cx) {
                    Poll::Ready(Uploaded::Aborted(abort)) => return Poll::Ready(Err(Wait::Client(abort))),
                    Poll::Ready(how) => uploaded = Some(how),
                    Poll::Pending => {}
                }
                if pump.take_moved() {
                    wait.moved();
                }
            }
            match self.poll_head(&mut response, cx) {
                Poll::Ready(Ok(head)) => return Poll::Ready(Ok((head, uploaded))),
                Poll::Ready(Err(broken)) => return Poll::Ready(Err(Wait::Endpoint(failure(broken)))),
                Poll::Pending => {}
            }
            if uploaded.is_some() {
                // What was kept of the body is needed again if this attempt fails. The stream's
                // handle goes, which sends nothing.
                idle_source = pump.take().map(|pump| pump.into_source());
            }
            wait.poll(cx, pump.is_some()).map(|()| match &pump {
                Some(pump) if pump.is_starved() => Err(Wait::Client(Abort::Slow)),
                _ => Err(Wait::Endpoint(Failure::Timeout)),
            })
        })
        .await;
        match outcome {
            Ok((head, uploaded)) => {
                slot.introduced(head.headers());
                if let Some(to) = self.route_to(head.headers()) {
                    return Err(routed(to, &response, slot, pump, idle_source));
                }
                if uploaded.is_some() {
                    idle_source = pump.take().map(|pump| pump.into_source());
                }
                let unwanted = idle_source.and_then(unwanted);
                if let Some(pump) = &mut pump {
                    pump.answered();
                }
                let reads = slot.client().reads();
                let way = Way::H2(Running { download: Received::h2(response), pump, unwanted, reads, slot });
                let proxied = Proxied::new(way, self, lease);
                Ok(head.map(|()| proxied))
            }
            Err(Wait::Client(abort)) => Err(Failed::Client(abort)),
            Err(Wait::Endpoint(failure)) => {
                slot.failed(failure, reads);
                let source = pump.map(|pump| pump.cancel()).or(idle_source);
                Err(Failed::Endpoint(failure, source.unwrap_or_else(Source::gone)))
            }
        }
    }

    /// The final response's head; interim ones before it are passed on.
    pub(super) fn poll_head(
        &self,
        response: &mut Receiver,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Response<()>, Broken>> {
        while let Some(interim) = response.take_interim() {
            // However many: they end when the endpoint's time does.
            let _ = self.interim.push(interim);
        }
        response.poll_head(cx)
    }
}

/// The response says whose the request is, and nothing else that matters.
#[cold]
fn routed(
    to: Routed,
    response: &Receiver,
    slot: Slot,
    pump: Option<Box<H2Upload>>,
    idle_source: Option<Source>,
) -> Failed {
    if response.is_end() && pump.is_none() {
        slot.settle();
    }
    let source = pump.map(|pump| pump.cancel()).or(idle_source).unwrap_or_else(Source::gone);
    Failed::Routed(Box::new((to, source)))
}

/// What is left of a request whose upload has ended: nothing, where all of it went.
fn unwanted(source: Source) -> Option<Box<Received>> {
    let rest = source.into_rest();
    (!rest.is_end()).then(|| Box::new(rest))
}

pub(super) fn failure(broken: Broken) -> Failure {
    match broken {
        Broken::Unprocessed | Broken::Reset(Reason::REFUSED_STREAM) => Failure::Unprocessed,
        Broken::Reset(Reason::PROTOCOL_ERROR) => Failure::Malformed,
        // What the endpoint sent was no response.
        Broken::Here(_) => Failure::Protocol,
        Broken::Reset(_) | Broken::Gone => Failure::Broken,
    }
}

impl Running {
    /// The response to a request that has ended.
    pub(super) fn without_upload(download: Received, slot: Slot) -> Running {
        let reads = slot.client().reads();
        Running { download, pump: None, unwanted: None, reads, slot }
    }

    pub(super) fn is_end(&self) -> bool {
        self.download.is_end()
    }

    pub(super) fn is_uploading(&self) -> bool {
        self.pump.is_some() || self.unwanted.is_some()
    }

    pub(super) fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Piece> {
        let piece = self.download.poll_piece(cx);
        if piece.is_ready() {
            self.reads = self.slot.client().reads();
        }
        piece
    }

    /// Nothing has moved for too long.
    pub(super) fn suspect(&self) {
        self.slot.suspect(self.reads);
    }

    pub(super) fn poll_upload(&mut self, cx: &mut Context<'_>) -> (Poll<Uploaded>, bool) {
        let Some(pump) = &mut self.pump else { return (Poll::Pending, false) };
        let polled = pump.poll(cx);
        let moved = pump.take_moved();
        if matches!(polled, Poll::Ready(Uploaded::Whole | Uploaded::Refused)) {
            self.unwanted = self.pump.take().and_then(|pump| unwanted(pump.into_source()));
        }
        (polled, moved)
    }

    pub(super) fn finish(self) -> Received {
        if self.pump.is_none() && self.download.is_end() {
            self.slot.settle();
        }
        if self.unwanted.is_some() {
            self.slot.left_unread();
        }
        match (self.pump, self.unwanted) {
            (Some(pump), _) => pump.cancel().into_rest(),
            (None, unwanted) => unwanted.map_or(Received::Empty, |rest| *rest),
        }
    }
}
