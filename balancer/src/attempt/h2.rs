//! An attempt on an HTTP/2 endpoint.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use http::{Response, StatusCode};
use tidelock_core::retry::Failure;

use super::{Attempt, Failed, Proxied, Routed, Wait, Way};
use crate::body::{Abort, Piece, Received};
use crate::lease::Lease;
use crate::source::Source;
use crate::timers::FirstByte;
use crate::upload::{H2Upload, Uploaded};
use crate::upstream::h2::Slot;

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
        let slot = match connections.try_lend() {
            Some(slot) => slot,
            None => match Box::pin(connections.lend(&self.lend())).await {
                Ok(slot) => slot,
                Err(error) => return Err(error.of(source)),
            },
        };
        let end = source.is_end();
        let reads = slot.watch().reads();
        let request = self.exchange.h2_request(self.endpoint.is_tls(), self.pool.strip_content_length);
        let sent = slot.send().send_request(request, end);
        let (response, stream) = match sent {
            Ok(sent) => sent,
            Err(error) => {
                // Nothing has been sent: the connection is closing, or closed just now.
                slot.settle();
                slot.retire_connection();
                // An error without reason or I/O behind it is the library's refusal of the
                // request itself, which another connection would refuse too.
                let ours = error.reason().is_none() && !error.is_io();
                let failure =
                    if ours && !slot.watch().is_going_away() { Failure::Protocol } else { Failure::Unprocessed };
                return Err(Failed::Endpoint(failure, source));
            }
        };
        let (mut pump, mut idle_source) = match end {
            true => (None, Some(source)),
            false => {
                let sign = slot.watch().upload(stream.stream_id().as_u32());
                let (length, hold_back) = (self.exchange.length, self.exchange.worker.config.timeouts.body_hold_back);
                (Some(Box::new(H2Upload::new(source, stream, length, hold_back, sign))), None)
            }
        };
        let mut response = pin!(response);
        let mut wait = FirstByte::new(&self.pool.timeouts);
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
            match self.poll_head(response.as_mut(), cx) {
                Poll::Ready(Ok(head)) => return Poll::Ready(Ok((head, uploaded))),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Wait::Endpoint(failure(&error)))),
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
            // The client asked for no change of protocol, and HTTP/2 has none (RFC 9113 section 8.6).
            Ok((head, _)) if head.status() == StatusCode::SWITCHING_PROTOCOLS => {
                Err(Failed::Endpoint(Failure::Protocol, Source::gone()))
            }
            Ok((head, uploaded)) => {
                if let Some(to) = self.route_to(head.headers()) {
                    return Err(routed(to, &head, slot, pump, idle_source));
                }
                let sign = pump.as_ref().map(|pump| pump.sign());
                if uploaded.is_some() {
                    idle_source = pump.take().map(|pump| pump.into_source());
                }
                let unwanted = idle_source.and_then(unwanted);
                if let Some(pump) = &mut pump {
                    pump.answered();
                }
                let (parts, body) = head.into_parts();
                let reads = slot.watch().reads();
                let way = Way::H2(Running { download: Received::h2_answer(body, sign), pump, unwanted, reads, slot });
                let proxied = Proxied::new(way, self.pool.timeouts.idle_ms.duration(), lease);
                Ok(Response::from_parts(parts, proxied))
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
        mut response: Pin<&mut h2::client::ResponseFuture>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Response<h2::RecvStream>, h2::Error>> {
        while let Poll::Ready(Some(Ok(interim))) = response.as_mut().get_mut().poll_informational(cx) {
            self.interim.push(interim);
        }
        response.poll(cx)
    }
}

/// The response says whose the request is, and nothing else that matters.
#[cold]
fn routed(
    to: Routed,
    head: &Response<h2::RecvStream>,
    slot: Slot,
    pump: Option<Box<H2Upload>>,
    idle_source: Option<Source>,
) -> Failed {
    if head.body().is_end_stream() && pump.is_none() {
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

pub(super) fn failure(error: &h2::Error) -> Failure {
    let remote = error.is_remote();
    match error.reason() {
        // Told by the library only for streams above the GOAWAY's last stream id.
        Some(_) if remote && error.is_go_away() => Failure::Unprocessed,
        Some(h2::Reason::REFUSED_STREAM) if remote && error.is_reset() => Failure::Unprocessed,
        Some(_) if error.is_library() => Failure::Protocol,
        _ => Failure::Broken,
    }
}

impl Running {
    /// The response to a request that has ended.
    pub(super) fn without_upload(download: Received, slot: Slot) -> Running {
        let reads = slot.watch().reads();
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
            self.reads = self.slot.watch().reads();
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
        match (self.pump, self.unwanted) {
            (Some(pump), _) => pump.cancel().into_rest(),
            (None, unwanted) => unwanted.map_or(Received::Empty, |rest| *rest),
        }
    }
}
