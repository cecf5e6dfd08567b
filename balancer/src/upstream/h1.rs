//! HTTP/1.1 connections to one endpoint, held by one worker: one request at a time on each, the
//! newest idle one first, so that the surplus grows old and closes.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use tracing::debug;

use super::connect::connect;
use super::{Lend, LendError};
use crate::h1::wire::Wire;
use crate::socket::Socket;

/// An idle connection older than this is not used again. Below Bandit's and Cowboy's 60 s, so
/// that the endpoint rarely closes it under a request.
const IDLE_MAX: Duration = Duration::from_secs(50);
/// Idle connections kept for one endpoint.
const IDLE_KEPT: usize = 256;

#[derive(Debug, Default)]
pub(crate) struct Connections {
    idle: RefCell<Vec<Idle>>,
    retired: Cell<bool>,
}

#[derive(Debug)]
struct Idle {
    wire: Box<Wire>,
    since: Instant,
}

impl Idle {
    /// Whether it can take a request: the endpoint has neither closed it nor sent what nobody
    /// asked for.
    fn is_quiet(&mut self) -> bool {
        self.since.elapsed() < IDLE_MAX && self.wire.poll_fill(&mut Context::from_waker(Waker::noop())).is_pending()
    }
}

/// A connection that one request has for itself.
#[derive(Debug)]
pub(crate) struct Lent {
    pub(crate) wire: Box<Wire>,
    /// It has served requests before: the endpoint may close it at any moment.
    pub(crate) is_kept: bool,
    owner: Rc<Connections>,
}

impl Lent {
    /// Gives the connection back after a whole exchange.
    pub(crate) fn give_back(self) {
        let mut idle = self.owner.idle.borrow_mut();
        if !self.owner.retired.get() && idle.len() < IDLE_KEPT {
            idle.push(Idle { wire: self.wire, since: Instant::now() });
        }
    }
}

impl Connections {
    /// Lends an idle connection.
    pub(crate) fn try_lend(self: &Rc<Self>) -> Option<Lent> {
        loop {
            let mut newest = self.idle.borrow_mut().pop()?;
            if newest.is_quiet() {
                return Some(Lent { wire: newest.wire, is_kept: true, owner: self.clone() });
            }
        }
    }

    /// Lends a connection that nobody used before.
    pub(crate) async fn lend_new(self: &Rc<Self>, lend: &Lend<'_>) -> Result<Lent, LendError> {
        if lend.endpoint.is_cut() {
            return Err(LendError::Connect);
        }
        let address = &lend.endpoint.address;
        let stream = connect(address, lend.connect_limit).await.map_err(|error| {
            debug!(%address, %error, "no connection to the endpoint");
            LendError::Connect
        })?;
        let wire = Box::new(Wire::new(Socket::Plain(stream), b""));
        Ok(Lent { wire, is_kept: false, owner: self.clone() })
    }

    /// Closes what is too old, and what the endpoint has closed: nobody else looks at it.
    pub(crate) fn sweep(&self) {
        self.idle.borrow_mut().retain_mut(Idle::is_quiet);
    }

    /// Idle connections close now, the others after their exchange.
    pub(crate) fn retire(&self) {
        self.retired.set(true);
        self.idle.borrow_mut().clear();
    }

    pub(crate) fn reopen(&self) {
        self.retired.set(false);
    }
}
