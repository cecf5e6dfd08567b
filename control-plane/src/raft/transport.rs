//! Messages between nodes: mutual TLS 1.3 over TCP, one connection for each direction.
//!
//! A node sends only on connections it has dialled, so there is one queue a peer and one owner of
//! its order; what it accepts it only reads (and answers with Hellos and pings). Nothing here is
//! reliable and nothing needs to be: a full queue or a broken connection drops messages and says so
//! through [`Event::Undelivered`], and Raft sends again. Snapshots and forwarded commands, whose
//! loss must be known, are reported one by one. `raft` wires it to the driver's thread.

mod connection;
mod dial;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::frame::{Hello, MAX_FRAME, PeerMessage};
use super::identity::Identities;
use super::peers::AddressBook;

/// Connect, TLS and Hello together. 5 s: a peer that takes longer is dialled again later.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// Ping on a connection every 2 s, and give it up when nothing arrives or no frame can be written
/// for 10 s. A dead peer is noticed by Raft sooner; this frees the connection.
const PING: Duration = Duration::from_secs(2);
const IDLE: Duration = Duration::from_secs(10);

/// How often files of certificates are looked at. 2 s: whoever replaces them has days.
const FOLLOW: Duration = Duration::from_secs(2);

/// Messages waiting for one peer, by number and by size. Above either, messages are dropped:
/// a peer that slow is better served by Raft's own retries than by old messages.
const QUEUE: usize = 1_024;
const QUEUE_BYTES: usize = 2 * MAX_FRAME;

/// Accepted connections at one time, those in handshake included. Default 256: far more than nodes
/// in a fleet. Above it the listener does not accept, so the kernel's backlog holds the rest.
const ACCEPTED: usize = 256;

/// Addresses dialled at one time.
const DIALLED: usize = 256;

/// What the transport tells the node. Called from its tasks and, for `Undelivered`, from within
/// `send`; must not block.
pub(crate) type Handler = Arc<dyn Fn(Event) + Send + Sync>;

#[derive(Debug)]
pub(crate) enum Event {
    Message { from: u64, message: PeerMessage },
    Sent { to: u64, about: About },
    Undelivered { to: u64, about: About },
}

/// What a queued frame is, for the report about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum About {
    Raft,
    Snapshot,
    Forward { request: u64 },
    Ask { request: u64 },
    Other,
}

impl About {
    /// The report for a frame whose writing broke off. A forwarded command may have got through, so
    /// it must not be reported as never sent: its follower waits for the deadline.
    fn possibly_sent(self) -> Self {
        match self {
            Self::Forward { .. } => Self::Raft,
            other => other,
        }
    }
}

#[derive(Clone)]
pub(crate) struct Transport(Arc<Shared>);

struct Shared {
    identities: Arc<Identities>,
    /// What this node says of itself; a change is sent on every connection.
    hello: watch::Sender<Hello>,
    handler: Handler,
    book: AddressBook,
    /// The latest Hello by dialled address, for the founding.
    heard: watch::Sender<BTreeMap<String, Hello>>,
    queues: Mutex<HashMap<u64, Queue>>,
    dials: Mutex<HashSet<String>>,
    /// Dialled for ever: the configured addresses.
    seeds: Vec<String>,
    members: Mutex<BTreeSet<u64>>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

#[derive(Clone)]
struct Queue {
    sender: mpsc::Sender<Queued>,
    bytes: Arc<AtomicUsize>,
}

struct Queued {
    frame: Vec<u8>,
    about: About,
}

impl Transport {
    /// Starts to accept on `listener` and to dial `seeds`; this node's own address among them is
    /// left out.
    pub(crate) fn start(
        listener: TcpListener,
        identities: Identities,
        hello: Hello,
        seeds: &[String],
        handler: Handler,
    ) -> Self {
        let seeds: Vec<String> = seeds.iter().filter(|seed| **seed != hello.address).cloned().collect();
        let transport = Self(Arc::new(Shared {
            identities: Arc::new(identities),
            hello: watch::Sender::new(hello),
            handler,
            book: AddressBook::default(),
            heard: watch::Sender::default(),
            queues: Mutex::default(),
            dials: Mutex::default(),
            seeds: seeds.clone(),
            members: Mutex::default(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        }));
        transport.spawn(accept(transport.0.clone(), listener));
        transport.spawn(follow_files(transport.0.identities.clone()));
        for seed in seeds {
            transport.0.ensure_dialled(&seed);
        }
        transport
    }

    /// Queues a message, or reports it as undelivered. Never blocks.
    pub(crate) fn send(&self, to: u64, message: &PeerMessage, about: About) {
        self.0.send(to, message.encode(), about);
    }

    /// To every connected peer; where the queue is full it is dropped, the next one is newer.
    pub(crate) fn broadcast(&self, message: &PeerMessage) {
        let frame = message.encode();
        let peers: Vec<u64> = lock(&self.0.queues).keys().copied().collect();
        for to in peers {
            self.0.send(to, frame.clone(), About::Other);
        }
    }

    /// Changes what this node says of itself.
    pub(crate) fn update_hello(&self, change: impl FnOnce(&mut Hello)) {
        self.0.hello.send_if_modified(|hello| {
            let before = hello.clone();
            change(hello);
            *hello != before
        });
    }

    /// Who belongs to the fleet: these are dialled and their addresses are passed on.
    pub(crate) fn set_members(&self, members: BTreeSet<u64>) {
        let known: Vec<(u64, String)> =
            members.iter().filter_map(|id| Some((*id, self.0.book.address(*id)?))).collect();
        *lock(&self.0.members) = members;
        for (_, address) in &known {
            self.0.ensure_dialled(address);
        }
        self.update_hello(|hello| hello.known = known);
    }

    pub(crate) fn heard(&self) -> watch::Receiver<BTreeMap<String, Hello>> {
        self.0.heard.subscribe()
    }

    pub(crate) fn book(&self) -> &AddressBook {
        &self.0.book
    }

    pub(crate) fn own_hello(&self) -> watch::Receiver<Hello> {
        self.0.hello.subscribe()
    }

    pub(crate) fn stopping(&self) -> CancellationToken {
        self.0.stop.clone()
    }

    /// Closes every connection and waits for the tasks to end.
    pub(crate) async fn stop(&self) {
        self.0.stop.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.0.spawn(task);
    }
}

impl Shared {
    /// Every task ends when the transport stops.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            let _ = stop.run_until_cancelled_owned(task).await;
        });
    }

    fn send(&self, to: u64, frame: Vec<u8>, about: About) {
        let size = frame.len();
        if size > MAX_FRAME {
            tracing::error!(size, limit = MAX_FRAME, ?about, "a message to a peer is too large to be sent");
            (self.handler)(Event::Undelivered { to, about });
            return;
        }
        let queue = lock(&self.queues).get(&to).cloned();
        let queued = queue.is_some_and(|queue| {
            if queue.bytes.fetch_add(size, Ordering::Relaxed) + size <= QUEUE_BYTES
                && queue.sender.try_send(Queued { frame, about }).is_ok()
            {
                return true;
            }
            queue.bytes.fetch_sub(size, Ordering::Relaxed);
            false
        });
        if !queued {
            (self.handler)(Event::Undelivered { to, about });
        }
    }

    fn ensure_dialled(self: &Arc<Self>, address: &str) {
        {
            let mut dials = lock(&self.dials);
            if *address == self.hello.borrow().address || dials.len() >= DIALLED || !dials.insert(address.to_owned()) {
                return;
            }
        }
        self.spawn(dial::keep_dialling(self.clone(), address.to_owned()));
    }

    /// A node said who it is, on either kind of connection.
    fn take_hello(self: &Arc<Self>, hello: &Hello) {
        if hello.id == self.hello.borrow().id {
            return;
        }
        self.book.heard(hello);
        self.ensure_dialled(&hello.address);
        for (id, address) in &hello.known {
            if *id != self.hello.borrow().id {
                self.book.heard_of(*id, address);
                self.ensure_dialled(address);
            }
        }
        if lock(&self.members).contains(&hello.id) {
            let address = hello.address.clone();
            self.hello.send_if_modified(|own| {
                let known = own.known.iter_mut().find(|(id, _)| *id == hello.id);
                match known {
                    Some((_, known)) if *known == address => return false,
                    Some((_, known)) => *known = address,
                    None => own.known.push((hello.id, address)),
                }
                true
            });
        }
    }
}

/// Connections that are open stay; new ones meet the certificate that is there.
async fn follow_files(identities: Arc<Identities>) {
    loop {
        tokio::time::sleep(FOLLOW).await;
        let identities = identities.clone();
        // Only a runtime that ends drops it.
        let _ = tokio::task::spawn_blocking(move || identities.follow()).await;
    }
}

async fn accept(shared: Arc<Shared>, listener: TcpListener) {
    let slots = Arc::new(Semaphore::new(ACCEPTED));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, mostly: accepting at once again would spin.
                tracing::warn!(%error, "cannot accept a peer's connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let connection = connection::accepted(shared.clone(), stream, from);
        shared.spawn(async move {
            connection.await;
            drop(slot);
        });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
