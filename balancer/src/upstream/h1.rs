//! HTTP/1.1 connections to one endpoint, held by one worker: one request at a time on each, the
//! newest idle one first, so that the surplus grows old and closes.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::time::Instant;
use tracing::debug;

use super::connect::connect;
use super::keep_reading::KeepReading;
use super::{Lend, LendError};
use crate::upload::H1Body;

/// An idle connection older than this is not used again. Below Bandit's and Cowboy's 60 s, so
/// that the endpoint rarely closes it under a request.
const IDLE_MAX: Duration = Duration::from_secs(50);
/// Idle connections kept for one endpoint.
const IDLE_KEPT: usize = 256;

#[derive(Debug)]
pub(crate) struct Connections {
    idle: RefCell<Vec<Idle>>,
    retired: Cell<bool>,
}

#[derive(Debug)]
struct Idle {
    send: SendRequest<H1Body>,
    since: Instant,
}

/// A connection that one request has for itself.
#[derive(Debug)]
pub(crate) struct Lent {
    pub(crate) send: SendRequest<H1Body>,
    owner: Rc<Connections>,
}

impl Lent {
    /// Gives the connection back after a whole exchange.
    pub(crate) fn give_back(self) {
        let mut idle = self.owner.idle.borrow_mut();
        if !self.owner.retired.get() && !self.send.is_closed() && idle.len() < IDLE_KEPT {
            idle.push(Idle { send: self.send, since: Instant::now() });
        }
    }
}

impl Connections {
    pub(crate) fn new() -> Rc<Connections> {
        Rc::new(Connections { idle: RefCell::default(), retired: Cell::new(false) })
    }

    pub(crate) async fn lend(self: &Rc<Self>, lend: &Lend<'_>) -> Result<Lent, LendError> {
        while let Some(mut send) = self.newest() {
            // A connection that is not ready now is being closed, or still ends its last exchange.
            if send.is_ready()
                || tokio::time::timeout(Duration::from_millis(10), send.ready()).await.is_ok_and(|r| r.is_ok())
            {
                return Ok(Lent { send, owner: self.clone() });
            }
        }
        self.lend_new(lend).await
    }

    /// A connection that nobody used before, as an upgrade wants it.
    pub(crate) async fn lend_new(self: &Rc<Self>, lend: &Lend<'_>) -> Result<Lent, LendError> {
        let send = dial(lend).await?;
        Ok(Lent { send, owner: self.clone() })
    }

    fn newest(&self) -> Option<SendRequest<H1Body>> {
        let newest = self.idle.borrow_mut().pop()?;
        if newest.since.elapsed() < IDLE_MAX {
            return Some(newest.send);
        }
        // The ones below it are older still.
        self.idle.borrow_mut().clear();
        None
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

async fn dial(lend: &Lend<'_>) -> Result<SendRequest<H1Body>, LendError> {
    if lend.endpoint.is_cut() {
        return Err(LendError::Connect);
    }
    let address = &lend.endpoint.address;
    let stream = connect(address, lend.connect_limit).await.map_err(|error| {
        debug!(%address, %error, "no connection to the endpoint");
        LendError::Connect
    })?;
    let builder = http1::Builder::new();
    let (send, connection) =
        builder.handshake(TokioIo::new(KeepReading::new(stream))).await.map_err(|_| LendError::Connect)?;
    let cut = lend.endpoint.until_cut();
    lend.tasks.spawn_local(async move {
        // A failure is told to the request that has the connection.
        tokio::select! {
            ended = connection.with_upgrades() => {
                if let Err(error) = ended {
                    debug!(%error, "the connection to the endpoint broke");
                }
            }
            () = cut => {}
        }
    });
    Ok(send)
}
