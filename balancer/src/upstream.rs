//! Connections to endpoints. Each worker has its own, so that nothing is shared on the request
//! path; a drain lets them end with their last stream.

pub(crate) mod admission;
mod backoff;
pub(crate) mod dial;
pub(crate) mod h1;
pub(crate) mod h2;
pub(crate) mod lasting;
pub(crate) mod names;
pub(crate) mod places;

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tidelock_core::id::{DrainId, EndpointId, Name};
use tidelock_core::spec::{Address, EndpointLimits, PoolSpec, Timeouts};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};
use tracing::{debug, info, warn};

use crate::flag::{Flag, Raised};
use crate::lease::EndpointState;
use crate::socket::Socket;
use crate::worker::Worker;
use backoff::Backoff;
use dial::{Dialer, Spoken, Wanted, is_own_want};
use h2::{Known, Use};
use lasting::Lasting;
use places::{QueueFull, RequestPlace};

/// One endpoint as one worker has it. It lives as long as the endpoint, through every table.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) id: EndpointId,
    pub(crate) name: Name,
    pub(crate) address: Address,
    pub(crate) state: Arc<EndpointState>,
    pub(crate) h1: Rc<h1::Connections>,
    pub(crate) h2: Rc<h2::Connections>,
    /// Over HTTP/2, where WebSockets are streams.
    pub(crate) websockets: Rc<h2::Connections>,
    dialer: RefCell<Rc<Dialer>>,
    /// What it speaks, where the pool leaves that to it.
    spoken: Cell<Option<Spoken>>,
    known: Rc<Known>,
    asking: Cell<bool>,
    /// Woken when it has been asked what it speaks.
    asked: Notify,
    backoff: Backoff,
    /// This worker's connections.
    connections: Rc<Cell<u32>>,
    /// Up when what still runs here is cut: every connection and exchange listens.
    cut: Rc<Flag>,
    /// The drain whose deadline is being waited for.
    deadline_of: Cell<Option<DrainId>>,
    /// Of a connection over HTTP/2.
    max_age: Cell<Duration>,
    lasting: Lasting,
}

/// What lending a stream takes.
pub(crate) struct Lend<'a> {
    pub(crate) endpoint: &'a Rc<Endpoint>,
    pub(crate) pool: &'a PoolSpec,
    pub(crate) worker: &'a Worker,
}

impl Lend<'_> {
    fn connect_limit(&self) -> Duration {
        self.pool.timeouts.connect_ms.duration()
    }

    fn limits(&self) -> &EndpointLimits {
        &self.pool.limits
    }

    /// Waits for a place, as one of those that may, for as long as a connection may take.
    async fn pending<T>(&self, wait: impl Future<Output = Result<T, LendError>>) -> Result<T, LendError> {
        let queued = self.endpoint.state.places.pending(self.limits(), wait);
        match timeout(self.connect_limit(), queued).await {
            Ok(Ok(result)) => result,
            Ok(Err(QueueFull)) | Err(_) => Err(LendError::Full),
        }
    }

    /// A place for the request itself, where the pool limits them.
    pub(crate) async fn request_place(&self) -> Result<Option<RequestPlace>, LendError> {
        let (state, limits) = (&self.endpoint.state, self.limits());
        if limits.max_requests.is_none() {
            return Ok(None);
        }
        if let Some(place) = RequestPlace::try_take(state, limits) {
            return Ok(Some(place));
        }
        match timeout(self.connect_limit(), RequestPlace::taken(state, limits)).await {
            Ok(Ok(place)) => Ok(Some(place)),
            Ok(Err(QueueFull)) | Err(_) => Err(LendError::Full),
        }
    }

    /// Waits until a WebSocket may begin, where the pool limits how many do in a second. Not longer than
    /// requests are held: a client that is told may do something else.
    pub(crate) async fn websocket_turn(&self) -> Result<(), LendError> {
        let Some(rate) = self.limits().max_websockets_per_second else { return Ok(()) };
        let most = Duration::from_millis(self.pool.hold.max_ms.get().into());
        let turn = self.endpoint.state.admission.turn(rate, most).ok_or(LendError::Full)?;
        if turn > Instant::now() {
            self.worker.counters.websockets_waited.add();
            tokio::time::sleep_until(turn).await;
        }
        Ok(())
    }

    /// What the endpoint speaks; where the pool leaves that to it, it is asked by a connection,
    /// once, which is kept.
    pub(crate) async fn spoken(&self) -> Result<Spoken, LendError> {
        // A place and a connection may each take as long; who waits for another one's asking does not
        // wait for a second.
        let limit = 2 * self.connect_limit();
        timeout(limit, self.ask()).await.unwrap_or(Err(LendError::Connect))
    }

    async fn ask(&self) -> Result<Spoken, LendError> {
        let endpoint = self.endpoint;
        loop {
            let asked = endpoint.asked.notified();
            if let Some(spoken) = endpoint.spoken() {
                return Ok(spoken);
            }
            if endpoint.asking.get() {
                asked.await;
                continue;
            }
            endpoint.asking.set(true);
            let _asking = Asking(endpoint);
            let place = self.connection_place().await?;
            let dialer = endpoint.dialer();
            let (socket, spoken) = self.dial(Wanted::Either).await?;
            if !Rc::ptr_eq(&dialer, &endpoint.dialer()) {
                // The pool reaches its endpoints otherwise now: whom this one trusted is of the past.
                continue;
            }
            match spoken {
                Spoken::H1 => endpoint.h1.keep(socket, place),
                Spoken::H2 => endpoint.h2.begin(self, socket, place),
            }
            endpoint.spoken.set(Some(spoken));
        }
    }

    /// A place for a connection, as soon as there is one.
    async fn connection_place(&self) -> Result<ConnectionPlace, LendError> {
        match self.endpoint.try_connection_place(self.limits(), false) {
            Some(place) => Ok(place),
            None => self.pending(async { Ok(self.endpoint.connection_place(self.limits()).await) }).await,
        }
    }

    async fn dial(&self, wanted: Wanted) -> Result<(Socket, Spoken), LendError> {
        if self.endpoint.is_cut() || self.endpoint.backoff.rests(Instant::now()) {
            return Err(LendError::Connect);
        }
        let endpoint = self.endpoint;
        let dialled = endpoint.dialer().connect(&endpoint.address, wanted, self.connect_limit()).await;
        let dialled = match dialled {
            // An endpoint that speaks HTTP/2 need not speak HTTP/1.1 too: this tells nothing of it.
            Err(error) if wanted == Wanted::H1 && endpoint.spoken() == Some(Spoken::H2) => {
                debug!(endpoint = %endpoint.name, %error, "no HTTP/1.1 connection for a WebSocket");
                Err(error)
            }
            dialled => endpoint.dialled(dialled, self.worker.random()),
        };
        dialled.map_err(|_| LendError::Connect)
    }
}

/// Someone finds out what an endpoint speaks. Others wait, and go on when it is known or failed.
struct Asking<'a>(&'a Endpoint);

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.asking.set(false);
        self.0.asked.notify_waiters();
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LendError {
    /// No connection came about.
    Connect,
    /// Every place is taken: none became free in time, or too many wait for one.
    Full,
    /// The request's own time is over.
    Late,
}

/// A connection's place at its endpoint, for as long as it is open.
#[derive(Debug)]
pub(crate) struct ConnectionPlace {
    state: Arc<EndpointState>,
    of_worker: Rc<Cell<u32>>,
}

impl ConnectionPlace {
    /// Whether somebody waits for a connection to this endpoint, and it has not one yet.
    fn is_wanted(&self) -> bool {
        self.state.places.connections.is_wanted()
    }
}

impl Drop for ConnectionPlace {
    fn drop(&mut self) {
        self.of_worker.set(self.of_worker.get() - 1);
        self.state.places.connections.give_back();
    }
}

impl Endpoint {
    pub(crate) fn new(
        id: EndpointId,
        name: Name,
        address: Address,
        state: Arc<EndpointState>,
        dialer: Rc<Dialer>,
    ) -> Endpoint {
        let known = Rc::default();
        Endpoint {
            id,
            name,
            address,
            state,
            h1: Rc::default(),
            h2: h2::Connections::new(Use::Requests, &known),
            websockets: h2::Connections::new(Use::WebSockets, &known),
            dialer: RefCell::new(dialer),
            spoken: Cell::new(None),
            known,
            asking: Cell::new(false),
            asked: Notify::new(),
            backoff: Backoff::default(),
            connections: Rc::default(),
            cut: Rc::default(),
            deadline_of: Cell::new(None),
            max_age: Cell::default(),
            lasting: Lasting::default(),
        }
    }

    fn dialer(&self) -> Rc<Dialer> {
        self.dialer.borrow().clone()
    }

    /// Connections are made by `dialer` from here on. Those that were made otherwise close after
    /// what runs on them.
    pub(crate) fn dial_by(&self, dialer: &Rc<Dialer>) {
        if !Rc::ptr_eq(&self.dialer.borrow(), dialer) {
            self.dialer.replace(dialer.clone());
            self.spoken.set(None);
            self.known.takes_connect.set(None);
            self.backoff.succeeded();
            self.h1.renew();
            self.h2.renew();
            self.websockets.renew();
        }
    }

    /// For how long its connections are kept.
    pub(crate) fn keep_by(&self, timeouts: &Timeouts) {
        self.max_age.set(timeouts.connection_age());
        self.h1.keep_for(timeouts.keep_alive(), timeouts.connection_age());
    }

    /// Looks after its connections: idle ones of HTTP/1.1 have no task of their own.
    pub(crate) fn sweep(&self) {
        self.h1.sweep();
        self.h2.sweep(self.max_age.get());
        self.websockets.sweep(self.max_age.get());
    }

    pub(crate) fn is_tls(&self) -> bool {
        self.dialer.borrow().is_tls()
    }

    /// What it speaks, as far as that is known.
    pub(crate) fn spoken(&self) -> Option<Spoken> {
        self.dialer.borrow().spoken().or(self.spoken.get())
    }

    /// Whether it takes WebSockets on streams of HTTP/2, as far as that is known.
    pub(crate) fn takes_connect(&self) -> Option<bool> {
        self.known.takes_connect.get()
    }

    /// What came of dialling it.
    fn dialled<T>(&self, result: io::Result<T>, random: u64) -> io::Result<T> {
        let (endpoint, address) = (&self.name, &self.address);
        match &result {
            Ok(_) if self.backoff.succeeded() => info!(%endpoint, %address, "the endpoint can be reached again"),
            Ok(_) => {}
            Err(error) if is_own_want(error) => {
                // Those who wait would have it tried again at once.
                self.backoff.failed(random);
                debug!(%endpoint, %error, "this node cannot open a connection");
            }
            Err(error) => {
                // Without another connection to it, it may come back as something else. The one that
                // was not made has a place still.
                if self.connections.get() <= 1 {
                    self.spoken.set(None);
                    self.known.takes_connect.set(None);
                }
                self.state.suspected.notify_one();
                match self.backoff.failed(random) {
                    true => warn!(%endpoint, %address, %error, "the endpoint cannot be reached"),
                    false => debug!(%endpoint, %address, %error, "the endpoint cannot be reached yet"),
                }
            }
        }
        result
    }

    /// A place for one more connection. A worker that has none, or none that is of use (`must_have`),
    /// gets one whatever the others hold.
    fn try_connection_place(&self, limits: &EndpointLimits, must_have: bool) -> Option<ConnectionPlace> {
        let connections = &self.state.places.connections;
        match self.connections.get() {
            held if held == 0 || must_have => connections.take(),
            _ if connections.try_take_in_turn(limits.max_connections) => {}
            _ => return None,
        }
        Some(self.with_connection())
    }

    async fn connection_place(&self, limits: &EndpointLimits) -> ConnectionPlace {
        self.state.places.connections.taken(limits.max_connections).await;
        self.with_connection()
    }

    fn with_connection(&self) -> ConnectionPlace {
        self.connections.set(self.connections.get() + 1);
        ConnectionPlace { state: self.state.clone(), of_worker: self.connections.clone() }
    }

    /// Somebody waits for it: it is dialled again before its pause is over.
    pub(crate) fn hurry(&self) {
        self.backoff.hurry();
    }

    /// The endpoint takes nothing new: connections close after what runs on them.
    pub(crate) fn retire(&self) {
        self.h1.retire();
        self.h2.retire();
        self.websockets.retire();
    }

    /// A cancelled drain: the endpoint is in use again.
    pub(crate) fn reopen(&self) {
        self.deadline_of.set(None);
        self.h1.reopen();
        self.h2.reopen();
        self.websockets.reopen();
        self.cut.lower();
    }

    /// Whether the deadline that is waited for, or is over, is not that of `drain`.
    pub(crate) fn is_of_another(&self, drain: DrainId) -> bool {
        self.deadline_of.get().is_some_and(|known| known != drain)
    }

    /// The deadline is over: what still runs ends now.
    pub(crate) fn cut(&self) {
        self.retire();
        self.cut.raise();
    }

    /// Cuts what is left when the deadline of `drain` is over, unless the drain was cancelled.
    pub(crate) fn schedule_cut(self: &Rc<Self>, drain: DrainId, left: Duration) {
        if self.deadline_of.replace(Some(drain)) == Some(drain) {
            return;
        }
        let endpoint = Rc::downgrade(self);
        // Not tracked: a node that leaves waits for what runs, not for the time to cut it. The
        // timer ends with the worker.
        tokio::task::spawn_local(async move {
            tokio::time::sleep(left).await;
            if let Some(endpoint) = endpoint.upgrade()
                && endpoint.deadline_of.get() == Some(drain)
            {
                endpoint.cut();
            }
        });
    }

    /// Whether its drain's deadline is over: a connection would be cut as soon as it is there.
    pub(crate) fn is_cut(&self) -> bool {
        self.cut.is_up()
    }

    /// Ends when what runs on the endpoint is cut. The endpoint's own end is no cut: what runs on
    /// it runs on.
    pub(crate) fn until_cut(&self) -> Raised {
        self.cut.raised()
    }
}
