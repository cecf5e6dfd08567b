//! One attempt of a request on one endpoint: from a lent stream to the response's head, and the
//! body behind it.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, Request, Response, StatusCode};
use tidelock_core::retry::Failure;
use tidelock_core::spec::{Protocol, Timeouts};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::body::{Abort, Piece, Received};
use crate::lease::Lease;
use crate::source::Source;
use crate::upload::{H1Upload, H2Upload, Uploaded, h1_upload};
use crate::upstream::{self, Endpoint, Lend, LendError};

/// How an attempt ended that brought no response.
pub(crate) enum Failed {
    /// The endpoint's side; the body as far as it is left, for another attempt.
    Endpoint(Failure, Source),
    /// The client's side: nothing to try again.
    Client(Abort),
}

/// A request as it goes to an endpoint.
pub(crate) struct Attempt<'a> {
    pub(crate) endpoint: &'a Endpoint,
    pub(crate) protocol: Protocol,
    pub(crate) timeouts: &'a Timeouts,
    pub(crate) lend: Lend<'a>,
    pub(crate) hold_back: Duration,
    /// The body's length, if the client named it.
    pub(crate) length: Option<u64>,
}

/// A response's body on its way down, with all that it keeps alive: the lease, the connection's
/// stream, and the upload that may still run.
pub(crate) struct Proxied {
    download: Received,
    upload: Upload,
    idle: Idle,
    /// Released last: the endpoint counts the request until both directions have ended.
    lease: Option<Lease>,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Running,
    Whole,
    Broken,
}

enum Upload {
    H2 {
        pump: Option<Box<H2Upload>>,
        #[expect(dead_code, reason = "dropping it is what counts: the stream's place is free")]
        slot: upstream::h2::Slot,
    },
    H1 {
        upload: H1Upload,
        lent: upstream::h1::Lent,
    },
    Gone,
}

impl Attempt<'_> {
    pub(crate) async fn run(
        &self,
        request: Request<()>,
        source: Source,
        lease: Lease,
    ) -> Result<Response<Proxied>, Failed> {
        match self.protocol {
            Protocol::H2c => self.h2(request, source, lease).await,
            // Boxed so that requests to HTTP/2 endpoints, whose future would hold the larger one
            // of the two, stay small: they are moved into their connection.
            Protocol::Http1 => Box::pin(self.h1(request, source, lease)).await,
        }
    }

    async fn h2(&self, request: Request<()>, source: Source, lease: Lease) -> Result<Response<Proxied>, Failed> {
        let slot = match self.endpoint.h2.lend(&self.lend).await {
            Ok(slot) => slot,
            Err(LendError::Connect | LendError::Full) => return Err(Failed::Endpoint(Failure::Connect, source)),
        };
        let end = source.is_end();
        let (response, stream) = match slot.send().send_request(request, end) {
            Ok(sent) => sent,
            Err(error) => {
                // Nothing has been sent: the connection is closing, or closed just now.
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
                (Some(Box::new(H2Upload::new(source, stream, self.length, self.hold_back, sign))), None)
            }
        };
        let sign = pump.as_ref().map(|pump| pump.sign());
        let mut response = pin!(response);
        let mut wait = FirstByte::new(self.timeouts);
        let outcome = poll_fn(|cx| {
            let mut uploaded = None;
            if let Some(pump) = &mut pump {
                match pump.poll(cx) {
                    Poll::Ready(Uploaded::Aborted(abort)) => return Poll::Ready(Err(Wait::Client(abort))),
                    Poll::Ready(how) => uploaded = Some(how),
                    Poll::Pending => {}
                }
                wait.moved |= pump.take_moved();
            }
            match response.as_mut().poll(cx) {
                Poll::Ready(Ok(head)) => return Poll::Ready(Ok((head, uploaded))),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Wait::Endpoint(h2_failure(&error)))),
                Poll::Pending => {}
            }
            if uploaded.is_some() {
                // What was kept of the body is needed again if this attempt fails. The stream's
                // handle goes, which sends nothing.
                idle_source = pump.take().map(|pump| pump.into_source());
            }
            wait.poll(cx, pump.is_some()).map(|()| Err(Wait::Endpoint(Failure::Timeout)))
        })
        .await;
        match outcome {
            Ok((head, uploaded)) => {
                if uploaded.is_some() {
                    pump = None;
                }
                if let Some(pump) = &mut pump {
                    pump.answered();
                }
                let (parts, body) = head.into_parts();
                let proxied = Proxied {
                    download: Received::h2_answer(body, sign),
                    upload: Upload::H2 { pump, slot },
                    idle: Idle::new(self.timeouts.idle_ms.duration()),
                    lease: Some(lease),
                    state: State::Running,
                };
                Ok(Response::from_parts(parts, proxied))
            }
            Err(Wait::Client(abort)) => Err(Failed::Client(abort)),
            Err(Wait::Endpoint(failure)) => {
                if failure == Failure::Unprocessed && slot.watch().is_going_away() {
                    slot.retire_connection();
                }
                let source = pump.map(|pump| pump.cancel()).or(idle_source);
                Err(Failed::Endpoint(failure, source.unwrap_or_else(|| Source::new(Received::Empty, 0))))
            }
        }
    }

    async fn h1(&self, request: Request<()>, source: Source, lease: Lease) -> Result<Response<Proxied>, Failed> {
        let lent = self.endpoint.h1.lend(&self.lend).await;
        let Ok(lent) = lent else { return Err(Failed::Endpoint(Failure::Connect, source)) };
        let (response, upload, lent) = self.h1_head(request, source, lent).await?;
        if !is_plain_answer(&response) {
            return Err(Failed::Endpoint(Failure::Protocol, Source::new(Received::Empty, 0)));
        }
        Ok(response.map(|body| Proxied::h1(Received::h1(body), upload, lent, self.timeouts, lease)))
    }

    /// Sends the request on `lent` and waits for the response's head.
    pub(crate) async fn h1_head(
        &self,
        request: Request<()>,
        source: Source,
        mut lent: upstream::h1::Lent,
    ) -> Result<(Response<hyper::body::Incoming>, H1Upload, upstream::h1::Lent), Failed> {
        let (upload, body) = h1_upload(source, self.length);
        let mut wait = FirstByte::new(self.timeouts);
        let outcome = {
            let mut response = pin!(lent.send.try_send_request(request.map(|()| body)));
            poll_fn(|cx| match response.as_mut().poll(cx) {
                Poll::Ready(result) => Poll::Ready(result.map_err(|mut error| {
                    let unsent = error.take_message().is_some();
                    Wait::Endpoint(if unsent { Failure::Unprocessed } else { h1_failure(error.error()) })
                })),
                Poll::Pending => {
                    wait.moved |= upload.take_moved();
                    wait.poll(cx, upload.ended().is_none()).map(|()| Err(Wait::Endpoint(Failure::Timeout)))
                }
            })
            .await
        };
        match outcome {
            Ok(response) => {
                upload.commit();
                Ok((response, upload, lent))
            }
            Err(wait) => {
                if let Some(Uploaded::Aborted(abort)) = upload.ended() {
                    return Err(Failed::Client(abort));
                }
                let failure = match wait {
                    Wait::Client(abort) => return Err(Failed::Client(abort)),
                    Wait::Endpoint(failure) => failure,
                };
                let source = upload.take().unwrap_or_else(|| Source::new(Received::Empty, 0));
                Err(Failed::Endpoint(failure, source))
            }
        }
    }
}

enum Wait {
    Client(Abort),
    Endpoint(Failure),
}

fn h2_failure(error: &h2::Error) -> Failure {
    let remote = error.is_remote();
    match error.reason() {
        // Told by the library only for streams above the GOAWAY's last stream id.
        Some(_) if remote && error.is_go_away() => Failure::Unprocessed,
        Some(h2::Reason::REFUSED_STREAM) if remote && error.is_reset() => Failure::Unprocessed,
        Some(_) if error.is_library() => Failure::Protocol,
        _ => Failure::Broken,
    }
}

fn h1_failure(error: &hyper::Error) -> Failure {
    if error.is_parse() { Failure::Protocol } else { Failure::Broken }
}

/// What hyper lets pass and no client may see (RFC 9112 sections 6.1 and 6.3, RFC 9110 section
/// 15.2.2): a transfer coding that we did not ask for and cannot undo, a length beside it, and a
/// change of protocol that nobody asked for.
fn is_plain_answer<B>(response: &Response<B>) -> bool {
    let mut codings = response.headers().get_all(TRANSFER_ENCODING).into_iter();
    let framed = match codings.next() {
        None => true,
        Some(coding) => {
            coding.as_bytes().eq_ignore_ascii_case(b"chunked")
                && codings.next().is_none()
                && !response.headers().contains_key(CONTENT_LENGTH)
        }
    };
    framed && response.status() != StatusCode::SWITCHING_PROTOCOLS
}

/// The time limit on a response's head. While the request is being sent, it is the limit on bytes
/// not moving; from its end on, the limit on the first byte.
struct FirstByte {
    limits: (Duration, Duration),
    moved: bool,
    was_uploading: bool,
    timer: Option<Pin<Box<Sleep>>>,
}

impl FirstByte {
    fn new(timeouts: &Timeouts) -> FirstByte {
        let limits = (timeouts.idle_ms.duration(), timeouts.first_byte_ms.duration());
        FirstByte { limits, moved: false, was_uploading: true, timer: None }
    }

    fn poll(&mut self, cx: &mut Context<'_>, uploading: bool) -> Poll<()> {
        let limit = if uploading { self.limits.0 } else { self.limits.1 };
        let restart = std::mem::take(&mut self.moved) || uploading != self.was_uploading;
        self.was_uploading = uploading;
        let due = || Instant::now() + limit;
        let timer = match &mut self.timer {
            None => self.timer.insert(Box::pin(sleep_until(due()))),
            Some(timer) => {
                if restart {
                    timer.as_mut().reset(due());
                }
                timer
            }
        };
        timer.as_mut().poll(cx)
    }
}

/// The time limit on a body's bytes not moving, in either direction. Its timer is made when a
/// body first waits, and moved only when it fires: most bodies never wait.
struct Idle {
    limit: Duration,
    last: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Idle {
    fn new(limit: Duration) -> Idle {
        Idle { limit, last: None, timer: None }
    }

    fn moved(&mut self) {
        if self.timer.is_some() {
            self.last = Some(Instant::now());
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let limit = self.limit;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + limit)));
        while timer.as_mut().poll(cx).is_ready() {
            match self.last.take() {
                Some(last) => timer.as_mut().reset(last + limit),
                None => return Poll::Ready(()),
            }
        }
        Poll::Pending
    }
}

impl Proxied {
    pub(crate) fn h1(
        download: Received,
        upload: H1Upload,
        lent: upstream::h1::Lent,
        timeouts: &Timeouts,
        lease: Lease,
    ) -> Proxied {
        let idle = Idle::new(timeouts.idle_ms.duration());
        let upload = Upload::H1 { upload, lent };
        Proxied { download, upload, idle, lease: Some(lease), state: State::Running }
    }

    /// The response had no body: its head was its end.
    pub(crate) fn ended_with_head(&mut self) {
        self.whole();
    }

    /// Whether it is known now that nothing more comes.
    pub(crate) fn is_end(&self) -> bool {
        self.download.is_end()
    }

    /// What comes next; drives the upload too, so it must be polled while a piece is being sent.
    pub(crate) fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Piece> {
        // The response comes first: one that is whole ends the upload, whose last frame then
        // does not go out any more (H3).
        let piece = self.download.poll_piece(cx);
        let whole = match &piece {
            Poll::Ready(Piece::Data(_)) => self.is_end(),
            Poll::Ready(Piece::Trailers(_) | Piece::End) => true,
            Poll::Ready(Piece::Aborted(_)) | Poll::Pending => false,
        };
        if whole {
            self.whole();
            return piece;
        }
        if let Poll::Ready(abort) = self.poll_upload(cx) {
            return Poll::Ready(self.broken(abort));
        }
        match piece {
            Poll::Ready(Piece::Aborted(abort)) => Poll::Ready(self.broken(abort)),
            Poll::Ready(piece) => {
                self.idle.moved();
                Poll::Ready(piece)
            }
            Poll::Pending => match self.idle.poll(cx) {
                Poll::Ready(()) => Poll::Ready(self.broken(Abort::Idle)),
                Poll::Pending => Poll::Pending,
            },
        }
    }

    /// Drives the upload alone; ready when the client's side broke.
    pub(crate) fn poll_upload(&mut self, cx: &mut Context<'_>) -> Poll<Abort> {
        if let Upload::H2 { pump: running @ Some(_), .. } = &mut self.upload {
            let Some(pump) = running else { return Poll::Pending };
            let polled = pump.poll(cx);
            if pump.take_moved() {
                self.idle.moved();
            }
            match polled {
                Poll::Pending => {}
                Poll::Ready(Uploaded::Aborted(abort)) => return Poll::Ready(abort),
                Poll::Ready(Uploaded::Whole | Uploaded::Refused) => *running = None,
            }
        }
        if let Upload::H1 { upload, .. } = &mut self.upload {
            if upload.take_moved() {
                self.idle.moved();
            }
            if let Some(Uploaded::Aborted(abort)) = upload.ended() {
                return Poll::Ready(abort);
            }
        }
        Poll::Pending
    }

    /// The response is complete: nothing that happens later spoils it (H3).
    fn whole(&mut self) {
        if self.state == State::Running {
            self.state = State::Whole;
        }
    }

    fn broken(&mut self, abort: Abort) -> Piece {
        self.state = State::Broken;
        Piece::Aborted(abort)
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.state == State::Whole
    }

    /// Ends the exchange. What the client has not sent yet of its request is handed over, to be
    /// read and dropped.
    pub(crate) fn finish(mut self) -> Received {
        self.end()
    }

    fn end(&mut self) -> Received {
        let rest = match std::mem::replace(&mut self.upload, Upload::Gone) {
            Upload::H2 { pump: Some(pump), .. } => pump.cancel().into_rest(),
            Upload::H2 { pump: None, .. } | Upload::Gone => Received::Empty,
            Upload::H1 { upload, lent } => {
                if self.state == State::Whole && upload.ended() == Some(Uploaded::Whole) {
                    lent.give_back();
                }
                upload.take().map_or(Received::Empty, Source::into_rest)
            }
        };
        self.lease = None;
        rest
    }
}

impl Drop for Proxied {
    fn drop(&mut self) {
        self.end();
    }
}

/// Headers and body length of what goes to an HTTP/1.1 upgrade, which has no body.
pub(crate) fn no_body() -> Source {
    Source::new(Received::Empty, 0)
}

/// `content-length`, if there is exactly one well-formed value.
pub(crate) fn content_length(headers: &HeaderMap) -> Option<u64> {
    let mut values = headers.get_all(CONTENT_LENGTH).into_iter();
    let first = values.next()?.to_str().ok()?;
    let digits = !first.is_empty() && first.bytes().all(|b| b.is_ascii_digit());
    if !digits || values.next().is_some() { None } else { first.parse().ok() }
}

/// A response is moved a few times on its way; this keeps the moves small.
const _: () = assert!(size_of::<Proxied>() <= 512);
