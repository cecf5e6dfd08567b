//! An attempt on an HTTP/1.1 endpoint. The request's task reads and writes the connection itself.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::{Response, StatusCode};
use tidelock_core::retry::Failure;

use super::{Attempt, Failed, Proxied, Wait, Way};
use crate::body::{Abort, Piece, Received};
use crate::h1::decode::Decoder;
use crate::h1::encode::{Encoder, request_head};
use crate::h1::head::{HeadReader, ResponseHead};
use crate::h1::wire::Wire;
use crate::lease::Lease;
use crate::source::Source;
use crate::timers::FirstByte;
use crate::turn::behind_others;
use crate::upload::Uploaded;
use crate::upstream::ConnectionPlace;
use crate::upstream::h1::Lent;

/// A response's head, as large as HTTP/2 endpoints may send one.
const HEAD_MAX: usize = 128 * 1024;

/// A response that runs, and its upload if it still does.
pub(crate) struct Running {
    lent: Lent,
    body: Decoder,
    upload: Upload,
    keep_alive: bool,
}

/// A request's body on its way to the endpoint.
struct Upload {
    source: Source,
    encoder: Encoder,
    ended: Option<Uploaded>,
    /// All of it is in the wire's hands, not yet in the socket's.
    is_written: bool,
    moved: bool,
    /// The client's bytes are what it waits for.
    starved: bool,
}

impl Attempt<'_> {
    pub(super) async fn h1(&self, source: Source, lease: Lease) -> Result<Response<Proxied>, Failed> {
        // Where a kept connection has just ended under the request, another kept one may do so too.
        let kept = if self.exchange.wants_fresh() { None } else { self.endpoint.h1.try_lend() };
        let lent = match kept {
            None if self.exchange.wants_fresh() => match self.in_time(self.endpoint.h1.lend_new(&self.lend())).await {
                Ok(lent) => lent,
                Err(error) => return Err(error.of(source)),
            },
            Some(lent) => lent,
            None => match self.in_time(self.endpoint.h1.lend(&self.lend())).await {
                Ok(lent) => lent,
                Err(error) => return Err(error.of(source)),
            },
        };
        let (head, running) = self.h1_head(source, lent).await?;
        if head.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Err(Failed::Endpoint(Failure::Protocol, Source::gone()));
        }
        Ok(head.map(|()| running.into_proxied(self, lease)))
    }

    /// Sends the request on `lent` and waits for the final response's head.
    pub(crate) async fn h1_head(&self, source: Source, mut lent: Lent) -> Result<(Response<()>, Box<Running>), Failed> {
        let exchange = &*self.exchange;
        let encoder = match exchange.length {
            Some(_) if self.pool.strip_content_length && !source.is_end() => Encoder::Chunked,
            Some(length) => Encoder::Exact(length),
            None if source.is_end() => Encoder::Nothing,
            None => Encoder::Chunked,
        };
        let head = &exchange.head;
        let (path, host) = (exchange.path.as_str(), exchange.host.authority.as_str());
        request_head(lent.wire.buffer(), &head.method, path, host, &head.headers, encoder);
        let mut upload = Upload { source, encoder, ended: None, is_written: false, moved: false, starved: false };
        let mut wait = FirstByte::new(&self.pool.timeouts, self.exchange.deadline);
        let mut cut = self.endpoint.until_cut();
        let mut reader = HeadReader::default();
        if head.version != http::Version::HTTP_2 {
            // Requests that share a connection are behind the others already.
            behind_others().await;
        }
        let outcome = poll_fn(|cx| {
            if let Poll::Ready(Uploaded::Aborted(abort)) = upload.poll(&mut lent.wire, cx) {
                return Poll::Ready(Err(Wait::Client(abort)));
            }
            match self.poll_h1_head(&mut lent, &mut reader, cx) {
                Poll::Ready(Ok(head)) => return Poll::Ready(Ok(head)),
                Poll::Ready(Err(failure)) => return Poll::Ready(Err(Wait::Endpoint(failure))),
                Poll::Pending => {}
            }
            if Pin::new(&mut cut).poll(cx).is_ready() {
                return Poll::Ready(Err(Wait::Endpoint(Failure::Broken)));
            }
            if std::mem::take(&mut upload.moved) {
                wait.moved();
            }
            wait.poll(cx, upload.ended.is_none()).map(|()| match upload.starved {
                true => Err(Wait::Client(Abort::Slow)),
                false => Err(Wait::Endpoint(Failure::Timeout)),
            })
        })
        .await;
        match outcome {
            Ok(ResponseHead { parts, body, keep_alive }) => {
                if let Some(to) = self.route_to(&parts.headers) {
                    return Err(Failed::Routed(Box::new((to, upload.source))));
                }
                upload.source.commit();
                let running = Running { lent, body, upload, keep_alive };
                Ok((Response::from_parts(parts, ()), Box::new(running)))
            }
            Err(Wait::Client(abort)) => Err(Failed::Client(abort)),
            Err(Wait::Endpoint(failure)) => Err(Failed::Endpoint(failure, upload.source)),
        }
    }

    fn poll_h1_head(
        &self,
        lent: &mut Lent,
        reader: &mut HeadReader,
        cx: &mut Context<'_>,
    ) -> Poll<Result<ResponseHead, Failure>> {
        loop {
            match reader.response(&mut lent.wire.input, HEAD_MAX, &self.exchange.head.method) {
                Ok(None) => {}
                Ok(Some(head)) if is_interim(head.parts.status) => {
                    if !self.interim.push(Response::from_parts(head.parts, ())) {
                        return Poll::Ready(Err(Failure::Protocol));
                    }
                    // It has the request: what breaks off now does not do so at any time.
                    lent.is_kept = false;
                    continue;
                }
                Ok(Some(head)) => return Poll::Ready(Ok(head)),
                Err(_) => return Poll::Ready(Err(Failure::Protocol)),
            }
            match ready!(lent.wire.poll_fill(cx)) {
                Ok(n) if n > 0 => {}
                // The endpoint closed a connection that it had kept, as it may at any time: this
                // tells nothing of the endpoint.
                _ if lent.is_kept && !reader.has_begun() => return Poll::Ready(Err(Failure::Stale)),
                _ => return Poll::Ready(Err(Failure::Broken)),
            }
        }
    }
}

fn is_interim(status: StatusCode) -> bool {
    status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS
}

impl Upload {
    fn poll(&mut self, wire: &mut Wire, cx: &mut Context<'_>) -> Poll<Uploaded> {
        match self.ended {
            Some(_) => Poll::Pending,
            None => {
                let ended = ready!(self.poll_run(wire, cx));
                self.ended = Some(ended);
                Poll::Ready(ended)
            }
        }
    }

    fn poll_run(&mut self, wire: &mut Wire, cx: &mut Context<'_>) -> Poll<Uploaded> {
        while !self.is_written {
            if !wire.has_room() {
                ready!(wire.poll_drain(cx));
                self.moved = true;
            }
            if wire.is_broken() {
                return Poll::Ready(Uploaded::Refused);
            }
            let piece = self.source.poll_piece(cx);
            self.starved = piece.is_pending();
            let Poll::Ready(piece) = piece else {
                // What is there goes out while the client makes more.
                let _ = wire.poll_drain(cx);
                return Poll::Pending;
            };
            self.moved = true;
            let is_right = match piece {
                Piece::Data(data) => self.encoder.data(wire, data).is_ok(),
                Piece::Trailers(trailers) => {
                    self.is_written = true;
                    self.encoder.end(wire, Some(&trailers))
                }
                Piece::End => {
                    self.is_written = true;
                    self.encoder.end(wire, None)
                }
                Piece::Aborted(abort) => return Poll::Ready(Uploaded::Aborted(abort)),
            };
            if !is_right {
                return Poll::Ready(Uploaded::Aborted(Abort::Malformed));
            }
        }
        ready!(wire.poll_drain(cx));
        self.moved = true;
        Poll::Ready(if wire.is_broken() { Uploaded::Refused } else { Uploaded::Whole })
    }
}

impl Running {
    pub(crate) fn into_proxied(self: Box<Self>, attempt: &Attempt<'_>, lease: Lease) -> Proxied {
        Proxied::new(Way::H1(self), attempt, lease)
    }

    /// The connection with its place, when the response was a change of protocol.
    pub(crate) fn into_connection(self) -> (Box<Wire>, ConnectionPlace) {
        self.lent.into_parts()
    }

    pub(super) fn is_end(&self) -> bool {
        self.body.is_done()
    }

    pub(super) fn is_uploading(&self) -> bool {
        match self.upload.ended {
            None => true,
            Some(Uploaded::Whole) => false,
            // What is left of the request is still to be read, and dropped.
            Some(_) => !self.upload.source.is_end(),
        }
    }

    pub(super) fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Piece> {
        let wire = &mut self.lent.wire;
        loop {
            match self.body.decode(&mut wire.input) {
                Ok(Some(piece)) => return Poll::Ready(piece),
                Ok(None) => {}
                Err(_) => return Poll::Ready(Piece::Aborted(Abort::Malformed)),
            }
            match wire.poll_fill(cx) {
                Poll::Ready(Ok(0)) => return Poll::Ready(self.body.at_end()),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(Piece::Aborted(Abort::Gone)),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    pub(super) fn poll_upload(&mut self, cx: &mut Context<'_>) -> (Poll<Uploaded>, bool) {
        let polled = self.upload.poll(&mut self.lent.wire, cx);
        (polled, std::mem::take(&mut self.upload.moved))
    }

    /// Gives the connection back if it is fit for another request.
    pub(super) fn finish(self, is_whole: bool) -> Received {
        let Running { lent, body, upload, keep_alive, .. } = self;
        // What was sent beyond the response nobody asked for.
        let is_clean = body.is_done() && lent.wire.input.is_empty() && lent.wire.is_drained();
        if is_whole && keep_alive && is_clean && upload.ended == Some(Uploaded::Whole) {
            lent.give_back();
        }
        upload.source.into_rest()
    }
}
