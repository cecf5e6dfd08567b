//! The replicated log: one total order of commands on every node of the fleet.
//!
//! This module knows nothing of what is replicated. It takes a [`StateMachine`], agrees with the
//! other nodes on the commands, applies them in order and answers who proposed them. [`start`] gives
//! a [`Raft`] handle; everything else is behind it:
//!
//! - `driver` turns the raft crate, without thread, clock or socket; `thread` runs it, `sim` tests it;
//! - `storage` is the durable log, `log` its mirror in memory, `wire` the form of both and of messages;
//! - `transport`, `identity`, `frame` and `peers` carry messages between nodes under mutual TLS;
//! - `asks` puts questions to single peers, beside the log;
//! - `pending` and `reads` owe answers, `bootstrap` begins a fleet, `membership` changes it,
//!   `recovery` is for one that has lost its majority.
//!
//! It must not know commands, tables or HTTP. The data plane never waits for it.

mod asks;
pub mod bootstrap;
pub mod driver;
pub mod exchange;
mod founding;
mod frame;
#[cfg(test)]
pub(crate) mod hostile;
mod identity;
mod log;
mod logger;
pub mod membership;
mod peers;
mod pending;
mod reads;
pub mod recovery;
#[cfg(test)]
mod sim;
pub mod storage;
#[cfg(test)]
mod tests;
mod thread;
mod transport;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout_at;

use self::asks::Asks;
pub use self::asks::{AskError, Question};
pub use self::driver::{Config as DriverConfig, Fatal, Role, Status};
use self::exchange::Input;
pub use self::exchange::{Applied, MembershipError, ProposeError, ReadError};
use self::frame::PeerMessage;
pub use self::identity::{Credentials, GivenFiles, IdentityError, MIN_SECRET};
pub use self::membership::{Change, Membership};
pub use self::peers::Peer;
pub(crate) use self::peers::sha256;
pub use self::storage::memory::{Disk, MemoryStore};
pub use self::storage::redb::RedbStore;
pub use self::storage::{Store, StoreError};
use self::thread::{Inbox, Request};
use self::transport::{About, Transport};
use self::wire::Blob;

/// What is replicated. Every node applies the same commands in the same order to one of these.
pub trait StateMachine: Send + 'static {
    type Answer: Send + 'static;

    /// Carries out the command at `index`. Total and deterministic: no clock, no randomness, no
    /// order of a hash map, no panic, whatever the bytes are.
    fn apply(&mut self, index: u64, data: &[u8]) -> Self::Answer;

    /// The whole state, up to some low MiB: it travels in one message of at most 32 MiB. The empty
    /// state's must be equal on all nodes, since each founder begins with its own.
    fn snapshot(&self) -> Vec<u8>;

    /// Replaces the state by a snapshot's. An error ends the process.
    fn restore(&mut self, index: u64, bytes: &[u8]) -> Result<(), String>;

    /// Called on the driver's thread after each batch of commands and each restored snapshot, before
    /// anybody is answered: the place to publish what the state now says.
    fn applied(&mut self, index: u64);
}

/// How to start a node.
pub struct Options {
    /// Length of a tick. Default 100 ms: with the driver's defaults a lost leader is replaced in
    /// 1 to 2 s.
    pub tick: Duration,
    pub driver: DriverConfig,
    /// `None` for a fleet of one, which opens no port.
    pub fleet: Option<Fleet>,
    /// Called on the driver's thread when the node cannot go on. Default: one line, exit code 70.
    pub on_fatal: Box<dyn FnOnce(Fatal) + Send>,
}

/// This node's place among others.
pub struct Fleet {
    /// Bound by the caller, who knows how to report a taken port.
    pub listener: TcpListener,
    /// As peers reach this node, host and port.
    pub advertise: String,
    /// Addresses of the nodes that begin the fleet. A node that is not among them waits to be added;
    /// for it these are the addresses to make itself known at.
    pub founders: Vec<String>,
    pub credentials: Credentials,
    /// Shown to the fleet by a node that wants to join it.
    pub join_token: Option<String>,
    pub name: String,
    /// URL of the admin API, shown to people; may be empty.
    pub admin: String,
    pub version: String,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            tick: Duration::from_millis(100),
            driver: DriverConfig::default(),
            fleet: None,
            on_fatal: Box::new(thread::end_process),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Driver(#[from] Fatal),
}

/// A node's status as another sent it; the bytes are the sender's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub from: u64,
    pub bytes: Vec<u8>,
}

/// Handle of a running node. Cheap to clone; the node runs until [`Raft::stop`].
pub struct Raft<A> {
    inbox: Arc<Inbox<A>>,
    status: watch::Receiver<Status>,
    transport: Option<Transport>,
    asks: Arc<Asks>,
}

impl<A> Clone for Raft<A> {
    fn clone(&self) -> Self {
        Self {
            inbox: self.inbox.clone(),
            status: self.status.clone(),
            transport: self.transport.clone(),
            asks: self.asks.clone(),
        }
    }
}

/// A running node, and what its peers send.
pub type Started<A> = (Raft<A>, mpsc::Receiver<Report>, mpsc::Receiver<Question>);

/// Opens the store and starts the node; call it within a tokio runtime.
///
/// Returns at once. A node whose fleet has yet to be founded has the role [`Role::Founding`]; a
/// store that was founded before serves its state before this returns. The receivers get peers'
/// reports and questions; when one is full or dropped, they are lost.
pub fn start<S: Store, M: StateMachine>(
    options: Options,
    store: S,
    machine: M,
) -> Result<Started<M::Answer>, StartError> {
    founding::start(options, store, machine)
}

impl<A: Send + 'static> Raft<A> {
    /// Proposes a command on the leader, wherever this is called, and answers when THIS node has
    /// applied it, so that a read here sees it.
    ///
    /// `id` names the command in the log: random, or the caller's own key for trying again. Only
    /// [`ProposeError::Unknown`] and [`ProposeError::Stopped`] leave open whether it happened.
    pub async fn propose(&self, id: u128, payload: Vec<u8>, timeout: Duration) -> Result<Applied<A>, ProposeError> {
        let deadline = tokio::time::Instant::now() + timeout;
        self.founded(deadline)
            .await
            .map_err(|gone| if gone { ProposeError::Stopped } else { ProposeError::NoLeader })?;
        let (reply, answer) = oneshot::channel();
        let timeout = deadline.saturating_duration_since(tokio::time::Instant::now());
        self.inbox
            .offer(Request::Propose { id, payload, timeout, reply })
            .map_err(|_| self.refused(ProposeError::Busy, ProposeError::Stopped))?;
        // The driver keeps the deadline; this only ends early when its thread does.
        answer.await.unwrap_or(Err(ProposeError::Stopped))
    }

    /// An index at least as new as every write acknowledged anywhere before this call, once this
    /// node has applied it: its local state may then be read.
    pub async fn read_index(&self, timeout: Duration) -> Result<u64, ReadError> {
        let deadline = tokio::time::Instant::now() + timeout;
        self.founded(deadline).await.map_err(|gone| if gone { ReadError::Stopped } else { ReadError::NoLeader })?;
        let (reply, answer) = oneshot::channel();
        let timeout = deadline.saturating_duration_since(tokio::time::Instant::now());
        self.inbox
            .offer(Request::Read { timeout, reply })
            .map_err(|_| self.refused(ReadError::Busy, ReadError::Stopped))?;
        answer.await.unwrap_or(Err(ReadError::Stopped))
    }

    /// Adds, promotes, demotes or removes nodes; on the leader only. Several changes at once go
    /// through joint consensus. Answers with the index at which this node applied it.
    pub async fn change_membership(&self, changes: Vec<Change>, timeout: Duration) -> Result<u64, MembershipError> {
        let (reply, answer) = oneshot::channel();
        let id = rand::random();
        self.inbox
            .offer(Request::ChangeMembership { id, changes, timeout, reply })
            .map_err(|_| self.refused(MembershipError::NotLeader { leader: None }, MembershipError::Stopped))?;
        answer.await.unwrap_or(Err(MembershipError::Stopped))
    }

    /// Asks the leader to hand over, to the voter `to` or to the one with most of the log. The
    /// status tells when it has; it may not, if that voter does not catch up in an election's time.
    pub fn transfer_leader(&self, to: Option<u64>) {
        let _ = self.inbox.offer(Request::Input(Input::TransferLeader(to)));
    }

    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// This node's Raft id.
    pub fn id(&self) -> u64 {
        self.status.borrow().id
    }

    /// Every other node heard of, members and others.
    pub fn peers(&self) -> Vec<Peer> {
        self.transport.as_ref().map(|transport| transport.book().peers()).unwrap_or_default()
    }

    /// Sends this node's status to all connected peers; lost where a connection is.
    pub fn broadcast_report(&self, bytes: Vec<u8>) {
        if let Some(transport) = &self.transport {
            transport.broadcast(&PeerMessage::Report(Blob(bytes.into())));
        }
    }

    /// Puts a question to one peer and waits for its answer.
    pub async fn ask(&self, to: u64, question: Vec<u8>, timeout: Duration) -> Result<Vec<u8>, AskError> {
        match &self.transport {
            Some(transport) => self.asks.ask(transport, to, question, timeout).await,
            None => Err(AskError::NotConnected),
        }
    }

    /// Answers a peer's question; lost where the connection is.
    pub fn reply(&self, question: &Question, answer: Vec<u8>) {
        if let Some(transport) = &self.transport {
            let answer = PeerMessage::Answer { request: question.request, answer: Blob(answer.into()) };
            transport.send(question.from, &answer, About::Other);
        }
    }

    /// Ends the thread and the connections, and waits until the store is closed.
    pub async fn stop(&self) {
        self.inbox.stop();
        if let Some(transport) = &self.transport {
            transport.stop().await;
        }
        let mut status = self.status.clone();
        while status.changed().await.is_ok() {}
    }

    /// Waits until the thread runs; the error tells whether the node has ended.
    async fn founded(&self, deadline: tokio::time::Instant) -> Result<(), bool> {
        let mut status = self.status.clone();
        match timeout_at(deadline, status.wait_for(|status| status.role != Role::Founding)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(true),
            Err(_) => Err(false),
        }
    }

    fn refused<E>(&self, busy: E, stopped: E) -> E {
        if self.status.has_changed().is_err() { stopped } else { busy }
    }
}
