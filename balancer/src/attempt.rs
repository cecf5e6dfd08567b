//! One attempt of a request on one endpoint: from a lent stream to the response's head, and the
//! body behind it. How is the protocol's matter: [`h1`], [`h2`],
//! and [`connect`] for WebSockets.

pub(crate) mod connect;
pub(crate) mod events;
pub(crate) mod h1;
mod h2;

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::CONTENT_LENGTH;
use http::{HeaderMap, HeaderName, Response};
use tidelock_core::choose::{ROUTE_FOR, ROUTE_TO, RouteTo};
use tidelock_core::retry::Failure;
use tidelock_core::spec::PoolSpec;
use tokio::time::timeout_at;

use self::events::{Events, Next};
use crate::body::{Abort, Piece, Received};
use crate::exchange::Exchange;
use crate::flag::Raised;
use crate::headers;
use crate::lease::{Lasts, Lease};
use crate::source::Source;
use crate::timers::{Idle, Total};
use crate::turn::Share;
use crate::upload::Uploaded;
use crate::upstream::dial::Spoken;
use crate::upstream::{Endpoint, Lend, LendError};

pub(crate) static ROUTE_TO_FIELD: HeaderName = HeaderName::from_static(ROUTE_TO);

pub(crate) static ROUTE_FOR_FIELD: HeaderName = HeaderName::from_static(ROUTE_FOR);

/// Whose a request is, and for how long those like it are.
#[derive(Debug)]
pub(crate) struct Routed {
    pub(crate) to: RouteTo,
    pub(crate) time: Option<Duration>,
}

#[cold]
fn routed_by(fields: &HeaderMap) -> Option<Routed> {
    let to = fields.get(&ROUTE_TO_FIELD).and_then(RouteTo::parse)?;
    let seconds = fields.get(&ROUTE_FOR_FIELD).and_then(RouteTo::parse_for);
    Some(Routed { to, time: seconds.map(|seconds| Duration::from_secs(seconds.into())) })
}

/// How an attempt ended that brought no response.
pub(crate) enum Failed {
    /// The endpoint's side; the body as far as it is left, for another attempt.
    Endpoint(Failure, Source),
    /// The client's side: nothing to try again.
    Client(Abort),
    /// The endpoint says that the request is another one's. Boxed, since all others would be moved with it.
    Routed(Box<(Routed, Source)>),
}

/// A request as it goes to an endpoint.
pub(crate) struct Attempt<'a> {
    pub(crate) exchange: &'a mut Exchange,
    pub(crate) endpoint: &'a Rc<Endpoint>,
    pub(crate) pool: &'a PoolSpec,
    pub(crate) interim: &'a Interim,
}

/// Interim responses (1xx) on their way to the client, who gets them before anything else (H17).
#[derive(Debug, Default)]
pub(crate) struct Interim {
    waiting: RefCell<Vec<Response<()>>>,
    /// All of the request, passed on or not.
    count: Cell<u32>,
}

impl Interim {
    /// More than these at one time are dropped: an endpoint may not fill the memory with them.
    const MAX: usize = 16;
    /// More than these are no response any more.
    const MAX_IN_ALL: u32 = 1_024;

    /// `100 Continue` is not passed on: the client who waits for it has had it from the balancer,
    /// and the endpoint was not asked for one. False when it is one too many.
    fn push(&self, mut response: Response<()>) -> bool {
        self.count.set(self.count.get() + 1);
        let version = response.version();
        let fields = response.headers_mut();
        headers::strip_hop_by_hop(fields, version);
        for name in [&CONTENT_LENGTH, &ROUTE_TO_FIELD, &ROUTE_FOR_FIELD] {
            fields.remove(name);
        }
        let mut waiting = self.waiting.borrow_mut();
        if response.status() != http::StatusCode::CONTINUE && waiting.len() < Interim::MAX {
            waiting.push(response);
        }
        self.count.get() <= Interim::MAX_IN_ALL
    }

    pub(crate) fn take(&self) -> Vec<Response<()>> {
        self.waiting.take()
    }
}

impl Attempt<'_> {
    pub(crate) async fn run(&mut self, source: Source, mut lease: Lease) -> Result<Response<Proxied>, Failed> {
        if self.pool.limits.max_requests.is_some() {
            match Box::pin(self.in_time(self.lend().request_place())).await {
                Ok(place) => lease.hold(place),
                Err(error) => return Err(error.of(source)),
            }
        }
        let spoken = match self.endpoint.spoken() {
            Some(spoken) => spoken,
            None => match Box::pin(self.in_time(self.lend().spoken())).await {
                Ok(spoken) => spoken,
                Err(error) => return Err(error.of(source)),
            },
        };
        match spoken {
            Spoken::H2 => self.h2(source, lease).await,
            // Boxed so that requests to HTTP/2 endpoints, whose future would hold the larger one
            // of the two, stay small: they are moved into their connection.
            Spoken::H1 => Box::pin(self.h1(source, lease)).await,
        }
    }

    /// Whose the endpoint says that the request is, if its pool may say that.
    pub(crate) fn route_to(&self, fields: &HeaderMap) -> Option<Routed> {
        if self.pool.route_to { routed_by(fields) } else { None }
    }

    /// Waits for what is lent, while the request has time.
    async fn in_time<T>(&self, lent: impl Future<Output = Result<T, LendError>>) -> Result<T, LendError> {
        match self.exchange.deadline {
            None => lent.await,
            Some(deadline) => Box::pin(timeout_at(deadline, lent)).await.unwrap_or(Err(LendError::Late)),
        }
    }

    pub(crate) fn lend(&self) -> Lend<'_> {
        Lend { endpoint: self.endpoint, pool: self.pool, worker: &self.exchange.worker }
    }
}

impl LendError {
    /// What it means for the request, of which nothing was sent.
    pub(crate) fn of(self, source: Source) -> Failed {
        let failure = match self {
            LendError::Connect => Failure::Connect,
            LendError::Full => Failure::Full,
            LendError::Late => Failure::Timeout,
        };
        Failed::Endpoint(failure, source)
    }
}

enum Wait {
    Client(Abort),
    Endpoint(Failure),
}

/// A response's body on its way down, with all that it keeps alive: the lease, the connection's
/// stream, and the upload that may still run.
pub(crate) struct Proxied {
    way: Way,
    idle: Idle,
    total: Total,
    /// The endpoint's drain is at its deadline.
    cut: Raised,
    /// Released last: the endpoint counts the request until both directions have ended.
    lease: Option<Lease>,
    state: State,
    /// Of an event stream.
    events: Option<Box<Events>>,
    share: Share,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Running,
    Whole,
    /// The balancer has ended it, where it may be ended.
    Closed,
    Broken,
}

/// Where the body comes from.
enum Way {
    H1(Box<h1::Running>),
    H2(h2::Running),
    Gone,
}

impl Way {
    fn is_end(&self) -> bool {
        match self {
            Way::H1(running) => running.is_end(),
            Way::H2(running) => running.is_end(),
            Way::Gone => true,
        }
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Piece> {
        match self {
            Way::H1(running) => running.poll_piece(cx),
            Way::H2(running) => running.poll_piece(cx),
            Way::Gone => Poll::Ready(Piece::End),
        }
    }

    /// Drives the upload; none when there is none any more. The bool says whether bytes moved.
    fn poll_upload(&mut self, cx: &mut Context<'_>) -> (Poll<Uploaded>, bool) {
        match self {
            Way::H1(running) => running.poll_upload(cx),
            Way::H2(running) => running.poll_upload(cx),
            Way::Gone => (Poll::Pending, false),
        }
    }
}

impl Proxied {
    fn new(way: Way, attempt: &Attempt<'_>, lease: Lease) -> Proxied {
        let idle = Idle::new(attempt.pool.timeouts.idle_ms.duration());
        let total = Total::new(attempt.exchange.deadline);
        Proxied {
            way,
            idle,
            total,
            cut: attempt.endpoint.until_cut(),
            lease: Some(lease),
            state: State::Running,
            events: None,
            share: Share::default(),
        }
    }

    /// It is an event stream: a drain counts it as what lasts, and may close it between two events.
    pub(crate) fn lasts(&mut self, events: Events) {
        if let Some(lease) = &mut self.lease {
            lease.lasts(Lasts::EventStream);
        }
        self.events = Some(Box::new(events));
    }

    /// The response had no body: its head was its end.
    pub(crate) fn ended_with_head(&mut self) {
        self.whole();
    }

    /// Whether it is known now that nothing more comes.
    pub(crate) fn is_end(&self) -> bool {
        self.state == State::Closed || self.way.is_end()
    }

    /// The endpoint has done its part, if it wants no more of the request: only bytes that are here are still to go
    /// to the client.
    pub(crate) fn release(&mut self) {
        if !self.is_uploading() {
            self.end();
        }
    }

    /// Whether the request's body is still being sent.
    pub(crate) fn is_uploading(&self) -> bool {
        match &self.way {
            Way::H1(running) => running.is_uploading(),
            Way::H2(running) => running.is_uploading(),
            Way::Gone => false,
        }
    }

    /// What comes next; drives the upload too, so it must be polled while a piece is being sent.
    pub(crate) fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Piece> {
        if let Some(events) = &mut self.events {
            match events.poll(cx) {
                Next::GoOn => {}
                Next::End => {
                    self.state = State::Closed;
                    return Poll::Ready(Piece::End);
                }
                Next::Cut => return Poll::Ready(self.broken(Abort::Cut)),
            }
        }
        if self.total.poll(cx).is_ready() {
            return Poll::Ready(self.broken(Abort::Slow));
        }
        if self.cut.is_up() && self.may_be_cut() {
            return Poll::Ready(self.broken(Abort::Cut));
        }
        if self.share.is_spent(cx) {
            return Poll::Pending;
        }
        // The response comes first: one that is whole ends the upload, whose last frame then
        // does not go out any more (H3).
        let piece = self.way.poll_piece(cx);
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
                if let Piece::Data(data) = &piece {
                    self.share.spend(data.len());
                    if let Some(events) = &mut self.events {
                        events.follow(data);
                    }
                }
                Poll::Ready(piece)
            }
            // An HTTP/2 connection ends at the deadline, and its streams with it.
            Poll::Pending if matches!(self.way, Way::H1(_)) && self.poll_cut(cx).is_ready() => {
                Poll::Ready(self.broken(Abort::Cut))
            }
            Poll::Pending => match self.idle.poll(cx) {
                Poll::Ready(()) => {
                    if let Way::H2(running) = &self.way {
                        running.suspect();
                    }
                    Poll::Ready(self.broken(Abort::Idle))
                }
                Poll::Pending => Poll::Pending,
            },
        }
    }

    /// While the client takes nothing: drives the upload; ready when the client's side broke, or
    /// nothing has moved for too long, or all of it takes too long (H18).
    pub(crate) fn poll_blocked(&mut self, cx: &mut Context<'_>) -> Poll<Abort> {
        if let Some(events) = &mut self.events
            && events.poll_blocked(cx).is_ready()
        {
            return Poll::Ready(Abort::Cut);
        }
        match self.poll_upload(cx) {
            Poll::Ready(abort) => Poll::Ready(abort),
            Poll::Pending if self.poll_cut(cx).is_ready() => Poll::Ready(Abort::Cut),
            Poll::Pending if self.total.poll(cx).is_ready() => Poll::Ready(Abort::Slow),
            Poll::Pending => self.idle.poll(cx).map(|()| Abort::Idle),
        }
    }

    /// Ready at the deadline of the endpoint's drain.
    fn poll_cut(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.may_be_cut() { Pin::new(&mut self.cut).poll(cx) } else { Poll::Pending }
    }

    /// Not an event stream, which has an end of its own, nor what the endpoint has done its part of.
    fn may_be_cut(&self) -> bool {
        self.events.is_none() && self.state == State::Running && !matches!(self.way, Way::Gone)
    }

    fn poll_upload(&mut self, cx: &mut Context<'_>) -> Poll<Abort> {
        let (polled, moved) = self.way.poll_upload(cx);
        if moved {
            self.idle.moved();
        }
        match polled {
            Poll::Ready(Uploaded::Aborted(abort)) => Poll::Ready(abort),
            Poll::Ready(Uploaded::Whole | Uploaded::Refused) | Poll::Pending => Poll::Pending,
        }
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

    /// Ends the exchange. What the client has not sent yet of its request is handed over, to be
    /// read and dropped.
    pub(crate) fn finish(mut self) -> Received {
        self.end()
    }

    /// Waits for the endpoint's end of a response whose bytes the client has in full. Leaving it
    /// to be cancelled would cost the endpoint a reset for each response.
    pub(crate) async fn run_out(mut self) {
        // Ends in the body's own time limit at the latest.
        while let Piece::Data(_) = std::future::poll_fn(|cx| self.poll_piece(cx)).await {}
    }

    fn end(&mut self) -> Received {
        let rest = match std::mem::replace(&mut self.way, Way::Gone) {
            Way::H1(running) => running.finish(self.state == State::Whole),
            Way::H2(running) => running.finish(),
            Way::Gone => Received::Empty,
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

/// A response is moved a few times on its way; this keeps the moves small.
const _: () = assert!(size_of::<Proxied>() <= 256);
