//! Keeping a connection to one address: dialling, backing off, giving up on those nobody needs.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::super::frame::Hello;
use super::{About, Event, QUEUE, Queue, Shared, connection, lock};

/// Wait between two attempts: doubled from 50 ms to 2 s, each shortened by up to half at random, so
/// that a fleet that lost a node does not greet its return in step.
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// How long an address without an answer is dialled when it is neither configured nor a member's.
/// 60 s: long enough for a newcomer's restart.
const GIVE_UP: Duration = Duration::from_secs(60);

pub(super) async fn keep_dialling(shared: Arc<Shared>, address: String) {
    let mut wait = FIRST_WAIT;
    let mut silent_since = Instant::now();
    let mut last_error = String::new();
    while silent_since.elapsed() < GIVE_UP || is_needed(&shared, &address) {
        match connection::dial(&shared, &address).await {
            Ok((_, hello)) if hello.id == shared.hello.borrow().id => {
                tracing::error!(
                    %address,
                    "this address leads back to this node itself: [fleet] advertise must be the same text as in founders"
                );
                tokio::time::sleep(LONGEST_WAIT).await;
            }
            Ok((stream, hello)) => {
                tracing::info!(%address, peer = %format_args!("{:016x}", hello.id), name = hello.name, "connected to a peer");
                let ended = converse(&shared, stream, hello, &address).await;
                tracing::info!(%address, ?ended, "lost the connection to a peer");
                (wait, silent_since) = (FIRST_WAIT, Instant::now());
                last_error.clear();
            }
            Err(error) => {
                // Once for each reason: a peer that is down for a day must not fill the log.
                let error = error.to_string();
                if error != last_error {
                    tracing::warn!(%address, error, "cannot reach a peer, trying again");
                    last_error = error;
                }
            }
        }
        tokio::time::sleep(wait.mul_f64(rand::random_range(0.5..=1.0))).await;
        wait = (wait * 2).min(LONGEST_WAIT);
    }
    lock(&shared.dials).remove(&address);
}

fn is_needed(shared: &Shared, address: &String) -> bool {
    shared.seeds.contains(address)
        || lock(&shared.members).iter().any(|id| shared.book.address(*id).as_ref() == Some(address))
}

async fn converse(
    shared: &Arc<Shared>,
    stream: tokio_rustls::TlsStream<tokio::net::TcpStream>,
    hello: Hello,
    address: &str,
) -> std::io::Result<()> {
    let peer = hello.id;
    let (sender, mut receiver) = mpsc::channel(QUEUE);
    let queue = Queue { sender, bytes: Arc::new(AtomicUsize::new(0)) };
    shared.take_hello(&hello);
    // The newest connection wins: after a change of address the old one is the stale one.
    lock(&shared.queues).insert(peer, queue.clone());
    shared.book.set_connected(peer, true);
    shared.heard.send_modify(|heard| _ = heard.insert(address.to_owned(), hello));

    let guard = Registered { shared: shared.clone(), peer, queue: queue.clone() };
    let ended = connection::carry(shared, stream, peer, address, &queue, &mut receiver).await;
    drop(guard);

    // These never left, so they may be sent again.
    receiver.close();
    while let Ok(queued) = receiver.try_recv() {
        (shared.handler)(Event::Undelivered { to: peer, about: queued.about });
    }
    (shared.handler)(Event::Undelivered { to: peer, about: About::Raft });
    ended
}

/// Takes the queue out of use, also when the task is cancelled.
struct Registered {
    shared: Arc<Shared>,
    peer: u64,
    queue: Queue,
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut queues = lock(&self.shared.queues);
        if queues.get(&self.peer).is_some_and(|current| current.sender.same_channel(&self.queue.sender)) {
            queues.remove(&self.peer);
            self.shared.book.set_connected(self.peer, false);
        }
    }
}
