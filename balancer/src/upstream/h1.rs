//! HTTP/1.1 connections to one endpoint, held by one worker: one request at a time on each, the
//! newest idle one first, so that the surplus grows old and closes.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::dial::Wanted;
use super::{ConnectionPlace, Lend, LendError};
use crate::h1::wire::Wire;
use crate::socket::Socket;

/// Idle connections kept for one endpoint.
const IDLE_KEPT: usize = 256;

#[derive(Debug, Default)]
pub(crate) struct Connections {
    idle: RefCell<Vec<Idle>>,
    /// For how long one is kept without a request, and in all.
    kept_for: Cell<(Duration, Duration)>,
    retired: Cell<bool>,
    /// Grows when those before are not to be used again.
    generation: Cell<u32>,
    /// Requests of this worker that wait for one to come back.
    waiting: Cell<u32>,
    returned: Notify,
}

#[derive(Debug)]
struct Idle {
    wire: Box<Wire>,
    place: ConnectionPlace,
    /// From then on it takes no new request.
    until: Instant,
    since: Instant,
}

impl Idle {
    /// Whether it can take a request: the endpoint has neither closed it nor sent what nobody
    /// asked for.
    fn is_quiet(&mut self, keep_alive: Duration) -> bool {
        self.since.elapsed() < keep_alive && self.wire.poll_fill(&mut Context::from_waker(Waker::noop())).is_pending()
    }
}

/// A connection that one request has for itself.
#[derive(Debug)]
pub(crate) struct Lent {
    pub(crate) wire: Box<Wire>,
    place: ConnectionPlace,
    /// It has served requests before: the endpoint may close it at any moment.
    pub(crate) is_kept: bool,
    until: Instant,
    owner: Rc<Connections>,
    generation: u32,
}

impl Lent {
    /// Gives the connection back after a whole exchange.
    pub(crate) fn give_back(self) {
        let Lent { wire, place, until, owner, generation, .. } = self;
        let since = Instant::now();
        let is_current = since < until && !owner.retired.get() && owner.generation.get() == generation;
        // Where connections are limited, one that nobody needs here may be another worker's.
        let is_needed = owner.waiting.get() > 0 || !place.is_wanted();
        if is_current && is_needed && owner.idle.borrow().len() < IDLE_KEPT {
            owner.idle.borrow_mut().push(Idle { wire, place, until, since });
            owner.returned.notify_one();
        }
    }

    /// The connection, for what will not give it back.
    pub(crate) fn into_parts(self) -> (Box<Wire>, ConnectionPlace) {
        (self.wire, self.place)
    }
}

/// A request that waits for a connection to come back.
struct Waits<'a>(&'a Connections);

impl<'a> Waits<'a> {
    fn new(connections: &'a Connections) -> Waits<'a> {
        connections.waiting.set(connections.waiting.get() + 1);
        Waits(connections)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.waiting.set(self.0.waiting.get() - 1);
    }
}

impl Connections {
    /// For how long connections are kept without a request, and in all.
    pub(super) fn keep_for(&self, keep_alive: Duration, max_age: Duration) {
        self.kept_for.set((keep_alive, max_age));
    }

    /// Lends an idle connection, unless others wait for one.
    pub(crate) fn try_lend(self: &Rc<Self>) -> Option<Lent> {
        if self.waiting.get() > 0 { None } else { self.take_idle() }
    }

    fn take_idle(self: &Rc<Self>) -> Option<Lent> {
        loop {
            let mut newest = self.idle.borrow_mut().pop()?;
            if newest.is_quiet(self.kept_for.get().0) {
                let Idle { wire, place, until, .. } = newest;
                return Some(self.lent(wire, place, until, true));
            }
        }
    }

    fn lent(self: &Rc<Self>, wire: Box<Wire>, place: ConnectionPlace, until: Instant, is_kept: bool) -> Lent {
        Lent { wire, place, is_kept, until, owner: self.clone(), generation: self.generation.get() }
    }

    /// Lends a connection: a new one if there may be one more, else the first that comes back.
    pub(crate) async fn lend(self: &Rc<Self>, lend: &Lend<'_>) -> Result<Lent, LendError> {
        match lend.endpoint.try_connection_place(lend.limits(), false) {
            Some(place) => self.dial(lend, place).await,
            None => {
                let lent = lend.pending(async {
                    // What has come back meanwhile is for those who waited before.
                    let mut is_in_turn = self.waiting.get() == 0;
                    let waits = Waits::new(self);
                    loop {
                        let returned = self.returned.notified();
                        if is_in_turn && let Some(lent) = self.take_idle() {
                            return Ok(Ok(lent));
                        }
                        tokio::select! {
                            () = returned => is_in_turn = true,
                            place = lend.endpoint.connection_place(lend.limits()) => {
                                drop(waits);
                                return Ok(Err(place));
                            }
                        }
                    }
                });
                match lent.await? {
                    Ok(lent) => Ok(lent),
                    Err(place) => self.dial(lend, place).await,
                }
            }
        }
    }

    /// Lends a connection that nobody used before.
    pub(crate) async fn lend_new(self: &Rc<Self>, lend: &Lend<'_>) -> Result<Lent, LendError> {
        // One that is idle gives its place.
        let place = lend.endpoint.try_connection_place(lend.limits(), false).or_else(|| {
            drop(self.idle.borrow_mut().pop()?);
            lend.endpoint.try_connection_place(lend.limits(), false)
        });
        let place = match place {
            Some(place) => place,
            None => lend.connection_place().await?,
        };
        self.dial(lend, place).await
    }

    async fn dial(self: &Rc<Self>, lend: &Lend<'_>, place: ConnectionPlace) -> Result<Lent, LendError> {
        let generation = self.generation.get();
        let (socket, _) = lend.dial(Wanted::H1).await?;
        let wire = Box::new(Wire::new(socket, b""));
        Ok(Lent { generation, ..self.lent(wire, place, self.until(lend.worker.random()), false) })
    }

    /// When a connection of now is old: up to a tenth earlier by chance, so that not all go at once.
    fn until(&self, random: u64) -> Instant {
        let max_age = self.kept_for.get().1;
        Instant::now() + max_age - max_age / 10 * (random % 256) as u32 / 256
    }

    /// Keeps a connection that nobody has used yet.
    pub(super) fn keep(&self, socket: Socket, place: ConnectionPlace) {
        if self.retired.get() {
            return;
        }
        let wire = Box::new(Wire::new(socket, b""));
        self.idle.borrow_mut().push(Idle { wire, place, until: self.until(0), since: Instant::now() });
        self.returned.notify_one();
    }

    /// Closes what is too old, what the endpoint has closed, since nobody else looks at it, and what
    /// others need more.
    pub(crate) fn sweep(&self) {
        let keep_alive = self.kept_for.get().0;
        // Where another worker waits for a connection's place, it is of more use there.
        self.idle.borrow_mut().retain_mut(|idle| idle.is_quiet(keep_alive) && !idle.place.is_wanted());
    }

    /// Idle connections close now, the others after their exchange.
    pub(crate) fn retire(&self) {
        self.retired.set(true);
        self.idle.borrow_mut().clear();
    }

    pub(crate) fn reopen(&self) {
        self.retired.set(false);
    }

    /// No connection made so far is used again.
    pub(super) fn renew(&self) {
        self.generation.set(self.generation.get() + 1);
        self.idle.borrow_mut().clear();
    }
}
