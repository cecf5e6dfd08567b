//! HTTP/2 connections to one endpoint, held by one worker.
//!
//! Few, busy connections: one is opened and shared until its streams are used up, since batching
//! wins (four connections cost 10 to 35 % more than one). Dialling is single-flight. A connection
//! that has seen a GOAWAY, or whose endpoint drains, gets no new stream and closes after its last.

mod connection;
#[cfg(test)]
mod tests;
mod wear;

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use http::HeaderMap;
use tidelock_core::retry::Failure;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};
use tracing::debug;

use self::connection::{Connection, begin};
use self::wear::{Wear, Worn};
use super::dial::Wanted;
use super::places::QueueFull;
use super::{ConnectionPlace, Endpoint, Lend, LendError};
use crate::http2::Client;
use crate::socket::Socket;
use crate::websocket::CLOSE_TIME;

/// Connections to one endpoint from one worker, of each use: 16,384 streams.
const MAX_CONNECTIONS: usize = 64;
/// How long another connection is waited for beside one whose window stands.
const STANDING_WAIT: Duration = Duration::from_millis(200);
/// Sweeps after which a connection that was not used is one too many, beside another: a minute.
const UNUSED_SWEEPS: u32 = 30;

/// What connections are for. WebSockets have their own: they last, so that they would take the streams that requests need and
/// keep a retired connection open for days; and a request that is left unread shuts a connection's window at Cowboy, which a
/// WebSocket would wait behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    Requests,
    WebSockets,
}

/// What an endpoint has said of itself.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// Whether it takes WebSockets on streams, as the SETTINGS that came last say.
    pub(super) takes_connect: Cell<Option<bool>>,
    /// It counts frames.
    counts_frames: Cell<bool>,
}

/// What a stream is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Purpose {
    /// Something is sent behind the head, so that the connection's window matters.
    pub(crate) sends: bool,
    /// It has met the end of another connection: the one that has carried least is best.
    pub(crate) again: bool,
}

#[derive(Debug)]
pub(crate) struct Connections {
    used_for: Use,
    open: RefCell<Vec<Rc<Connection>>>,
    dialling: Cell<bool>,
    known: Rc<Known>,
    /// Connections that take new streams for a moment only, and for each of which another one is to be made.
    worn: Cell<u32>,
    /// The endpoint takes nothing new: what is dialled now serves those who wait, and closes.
    retired: Cell<bool>,
    /// Grows when those before are not to be used again.
    generation: Cell<u32>,
    /// Woken when a dial has ended, a stream is free, or a connection has something to say.
    changed: Notify,
}

/// A stream's place on a connection.
#[derive(Debug)]
pub(crate) struct Slot {
    connection: Rc<Connection>,
    owner: Rc<Connections>,
    /// The stream ends, or has ended, without a reset of ours.
    settled: Cell<bool>,
}

impl Slot {
    pub(crate) fn client(&self) -> &Client {
        &self.connection.client
    }

    /// The stream has come to its end on both sides, or the endpoint has reset it. Otherwise its end
    /// is a reset of ours, which is counted.
    pub(crate) fn settle(&self) {
        self.settled.set(true);
    }

    /// Nothing came in time. Where nothing came on the whole connection since its read number
    /// `since`, it is not the request that the endpoint is slow with: the connection is half open,
    /// or the endpoint hangs, and the next request shall not wait as long (H7).
    pub(crate) fn suspect(&self, since: u64) {
        if self.client().reads() == since {
            debug!("nothing comes on the connection any more");
            self.retire_connection();
        }
    }

    /// Whether the endpoint takes WebSockets on streams, which its SETTINGS say; none when they do not
    /// come in time, or the connection has ended without.
    pub(crate) async fn takes_connect(&self, limit: Duration) -> Option<bool> {
        timeout(limit, self.client().settings()).await.ok()?;
        self.client().has_settings().then(|| self.client().takes_connect())
    }

    /// A request on the stream has failed before its response. `since` is the connection's reads when it
    /// was sent.
    pub(crate) fn failed(&self, failure: Failure, since: u64) {
        match failure {
            Failure::Timeout => self.suspect(since),
            _ => self.settle(),
        }
        if failure == Failure::Malformed && self.connection.wear.malformed() {
            self.retire_connection();
        }
        if failure == Failure::Unprocessed && self.client().is_going_away() {
            self.retire_connection();
        }
    }

    /// What the head of a response says of the endpoint.
    pub(crate) fn introduced(&self, fields: &HeaderMap) {
        if self.connection.wear.is_counted_by(fields) {
            self.owner.known.counts_frames.set(true);
        }
    }

    /// The endpoint has left a part of the request unread.
    pub(crate) fn left_unread(&self) {
        if Wear::is_shut(self.client()) {
            self.retire_connection();
        }
    }

    /// Takes the connection out of use, for a failure that concerns all of it.
    pub(crate) fn retire_connection(&self) {
        self.connection.retire();
        self.owner.changed.notify_waiters();
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let connection = &self.connection;
        if !self.settled.get() && (connection.wear.reset() || Wear::is_shut(&connection.client)) {
            connection.retire();
        }
        connection.give_back(self.owner.retired.get());
        self.owner.changed.notify_one();
    }
}

impl Connections {
    pub(crate) fn new(used_for: Use, known: &Rc<Known>) -> Rc<Connections> {
        Rc::new(Connections {
            used_for,
            open: RefCell::default(),
            dialling: Cell::new(false),
            known: known.clone(),
            worn: Cell::new(0),
            retired: Cell::new(false),
            generation: Cell::new(0),
            changed: Notify::new(),
        })
    }

    /// Lends a stream as soon as there is one: on a connection that has room again, or on a new one.
    pub(crate) async fn lend(self: &Rc<Self>, lend: &Lend<'_>, purpose: Purpose) -> Result<Slot, LendError> {
        let asked = Instant::now();
        let places = &lend.endpoint.state.places;
        let wait = async {
            let mut queued = None;
            loop {
                // Listen before looking, or a change between the two is missed.
                let changed = self.changed.notified();
                if self.is_to_replace() {
                    let may_dial = self.usable() < MAX_CONNECTIONS && !lend.endpoint.backoff.rests(asked);
                    match lend.endpoint.try_connection_place(lend.limits(), false).filter(|_| may_dial) {
                        Some(place) => {
                            self.worn.set(self.worn.get() - 1);
                            self.dial(lend, place);
                        }
                        None => self.worn.set(0),
                    }
                }
                if let Some(slot) = self.try_lend(purpose) {
                    return Ok(slot);
                }
                let usable = self.usable();
                // While there is a connection, one that failed beside it sends nobody away.
                if lend.endpoint.is_cut() || usable == 0 && lend.endpoint.backoff.rests(asked) {
                    return Err(LendError::Connect);
                }
                if !self.dialling.get()
                    && usable < MAX_CONNECTIONS
                    && !lend.endpoint.backoff.rests(asked)
                    && let Some(place) = lend.endpoint.try_connection_place(lend.limits(), usable == 0)
                {
                    self.dial(lend, place);
                }
                // One where it may have to wait for others is better than none.
                if !self.dialling.get()
                    && let Some(slot) = self.lend_where(purpose, |_| true)
                {
                    return Ok(slot);
                }
                // Who waits for a connection that is being made is in no queue.
                if !self.dialling.get() && queued.is_none() {
                    queued = Some(places.enqueue(lend.limits()).map_err(|QueueFull| LendError::Full)?);
                }
                changed.await;
            }
        };
        let mut wait = std::pin::pin!(wait);
        // Where there is one whose window stands, another is not waited for as long as for one that must be.
        let limit = lend.connect_limit();
        let at_first = limit.min(STANDING_WAIT);
        if let Ok(result) = timeout(at_first, &mut wait).await {
            return result;
        }
        if let Some(slot) = self.lend_where(purpose, |_| true) {
            return Ok(slot);
        }
        match timeout(limit - at_first, wait).await {
            Ok(result) => result,
            Err(_) => self.lend_where(purpose, |_| true).ok_or(match self.usable() {
                0 => LendError::Connect,
                _ => LendError::Full,
            }),
        }
    }

    /// Whether another connection is to be made beside those that are there.
    fn is_to_replace(&self) -> bool {
        self.worn.get() > 0 && !self.dialling.get()
    }

    /// Connections that may get a stream, now or when one ends.
    fn usable(&self) -> usize {
        self.open.borrow().iter().filter(|connection| connection.is_usable()).count()
    }

    /// Lends a stream on an open connection, unless there is something to be done.
    pub(crate) fn try_lend(self: &Rc<Self>, purpose: Purpose) -> Option<Slot> {
        if self.is_to_replace() {
            return None;
        }
        self.lend_where(purpose, |connection| !(purpose.sends && connection.wear.stands()))
    }

    fn lend_where(self: &Rc<Self>, purpose: Purpose, suits: impl Fn(&Connection) -> bool) -> Option<Slot> {
        let open = self.open.borrow();
        let mut suitable = open.iter().filter(|connection| connection.has_room() && suits(connection));
        let connection =
            if purpose.again { suitable.min_by_key(|connection| connection.lent.get()) } else { suitable.next() }?;
        connection.lend();
        // The stream counts already: a connection that is retired now ends after it.
        if self.known.counts_frames.get() {
            match connection.wear.frames(&connection.client) {
                Worn::Little => {}
                Worn::Much => self.worn.set(self.worn.get() + 1),
                Worn::Out => connection.retire(),
            }
        }
        Some(Slot { connection: connection.clone(), owner: self.clone(), settled: Cell::new(false) })
    }

    /// Takes old connections out of use, not all at once; and those that a busy time has left.
    pub(crate) fn sweep(&self, max_age: Duration) {
        let mut is_other = false;
        for (nth, connection) in self.open.borrow().iter().enumerate() {
            let less = max_age / 10 * (nth as u32 % 8) / 8;
            let is_surplus = connection.count_unused() >= UNUSED_SWEEPS && is_other;
            if is_surplus || connection.opened.elapsed() > max_age - less {
                connection.retire();
            }
            is_other |= connection.is_usable();
        }
        // Who waits for a stream of one that takes no more has another made.
        self.changed.notify_waiters();
    }

    /// No new streams; each connection closes after its last.
    pub(crate) fn retire(&self) {
        self.retired.set(true);
        for connection in self.open.borrow().iter() {
            connection.retire();
        }
    }

    pub(crate) fn reopen(&self) {
        self.retired.set(false);
    }

    /// No connection made so far gets a new stream.
    pub(super) fn renew(&self) {
        self.generation.set(self.generation.get() + 1);
        for connection in self.open.borrow().iter() {
            connection.retire();
        }
    }

    /// Dials in a task of its own: it serves all who wait, so none of them owns it.
    fn dial(self: &Rc<Self>, lend: &Lend<'_>, place: ConnectionPlace) {
        self.dialling.set(true);
        let (connections, endpoint, limit) = (self.clone(), lend.endpoint.clone(), lend.connect_limit());
        let (random, generation) = (lend.worker.random(), self.generation.get());
        lend.worker.tasks.spawn_local(async move {
            let opened = connections.open(&endpoint, limit, random).await;
            connections.dialling.set(false);
            match opened {
                Ok((connection, task)) => connections.run(endpoint, connection, task, generation).await,
                Err(_) => connections.changed.notify_waiters(),
            }
            drop(place);
        });
    }

    async fn open(
        &self,
        endpoint: &Endpoint,
        limit: Duration,
        random: u64,
    ) -> io::Result<(Rc<Connection>, impl Future<Output = ()> + use<>)> {
        let opened = async {
            let (socket, _) = endpoint.dialer().connect(&endpoint.address, Wanted::H2, limit).await?;
            Ok(begin(socket))
        };
        endpoint.dialled(opened.await, random)
    }

    /// Takes up a connection that was made already.
    pub(super) fn begin(self: &Rc<Self>, lend: &Lend<'_>, socket: Socket, place: ConnectionPlace) {
        self.dialling.set(true);
        let (connections, endpoint, generation) = (self.clone(), lend.endpoint.clone(), self.generation.get());
        lend.worker.tasks.spawn_local(async move {
            let (connection, task) = begin(socket);
            connections.dialling.set(false);
            connections.run(endpoint, connection, task, generation).await;
            drop(place);
        });
    }

    /// Has a connection in use until it ends.
    async fn run(
        self: Rc<Self>,
        endpoint: Rc<Endpoint>,
        connection: Rc<Connection>,
        task: impl Future<Output = ()>,
        generation: u32,
    ) {
        let cut = endpoint.until_cut();
        let address = endpoint.address.clone();
        // The connection outlives its endpoint, when that is removed.
        drop(endpoint);
        if self.generation.get() != generation {
            // The pool reaches its endpoints otherwise now: not even those who wait may use this one.
            return self.changed.notify_waiters();
        }
        self.open.borrow_mut().push(connection.clone());
        self.changed.notify_waiters();
        if self.retired.get() {
            // Those who waited take their streams first.
            tokio::task::yield_now().await;
            connection.retired.set(true);
            if connection.streams.get() == 0 {
                connection.retire();
            }
        }
        // What the peer says may be what somebody waits for: more streams, or that there will be none.
        let mut task = std::pin::pin!(task);
        let task = poll_fn(|cx| {
            let ended = task.as_mut().poll(cx);
            if connection.client.take_news() {
                // The last word of an old one is not how the endpoint is now.
                if connection.is_usable() && connection.client.has_settings() {
                    self.known.takes_connect.set(Some(connection.client.takes_connect()));
                }
                self.changed.notify_waiters();
            }
            ended
        });
        let cut = async {
            cut.await;
            if self.used_for == Use::WebSockets {
                // They are given time to close.
                tokio::time::sleep(CLOSE_TIME).await;
            }
        };
        tokio::select! {
            () = task => {}
            () = cut => debug!(%address, "the drain's deadline is over"),
        }
        connection.retired.set(true);
        self.open.borrow_mut().retain(|open| !Rc::ptr_eq(open, &connection));
        self.changed.notify_waiters();
    }
}
