//! The driver's own thread: one inbox in, ticks, and the answers' way back.
//!
//! A thread and not a task, because it waits for the disk. The inbox is bounded: peers' messages
//! that do not fit are dropped (Raft sends again), callers hear that the node is busy. When the raft
//! crate panics or the store fails, the node must end: going on could break promises made to others.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};

use super::StateMachine;
use super::driver::{Driver, Fatal, Status};
use super::exchange::{Answer, Applied, Input, MembershipError, Outbox, Outgoing, ProposeError, ReadError, Token};
use super::membership::Change;
use super::storage::Store;

/// Inputs waiting for the thread. Default 4,096: some seconds of a busy fleet's messages, or one
/// slow fsync's worth.
const INBOX: usize = 4_096;

/// Inputs taken before the Ready loop runs: they share one fsync.
const BATCH: usize = 256;

/// What the thread is asked for.
pub(super) enum Request<A> {
    Input(Input),
    Propose {
        id: u128,
        payload: Vec<u8>,
        timeout: Duration,
        reply: oneshot::Sender<Result<Applied<A>, ProposeError>>,
    },
    Read {
        timeout: Duration,
        reply: oneshot::Sender<Result<u64, ReadError>>,
    },
    ChangeMembership {
        id: u128,
        changes: Vec<Change>,
        timeout: Duration,
        reply: oneshot::Sender<Result<u64, MembershipError>>,
    },
    /// Wakes the thread to see that it has been stopped.
    Wake,
}

/// The way in. It exists before the thread does: until the fleet has been founded everything is
/// refused, since a node without a beginning must not even vote.
pub(super) struct Inbox<A> {
    sender: OnceLock<SyncSender<Request<A>>>,
    stopped: AtomicBool,
}

impl<A> Inbox<A> {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { sender: OnceLock::new(), stopped: AtomicBool::new(false) })
    }

    /// Never blocks; gives the request back when it cannot be taken.
    pub(super) fn offer(&self, request: Request<A>) -> Result<(), Request<A>> {
        let Some(sender) = self.sender.get() else { return Err(request) };
        sender.try_send(request).map_err(|(TrySendError::Full(request) | TrySendError::Disconnected(request))| request)
    }

    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        let _ = self.offer(Request::Wake);
    }
}

/// What the thread needs beside its driver.
pub(super) struct Surroundings<A> {
    pub(super) tick: Duration,
    pub(super) inbox: Arc<Inbox<A>>,
    pub(super) status: watch::Sender<Status>,
    pub(super) send: Box<dyn FnMut(u64, Outgoing) + Send>,
    /// Ends the process, or tells a test.
    pub(super) on_fatal: Box<dyn FnOnce(Fatal) + Send>,
}

/// Starts the thread; it ends when the inbox is stopped, or after `on_fatal`.
pub(super) fn spawn<S: Store, M: StateMachine>(
    driver: Driver<S, M>,
    surroundings: Surroundings<M::Answer>,
) -> std::io::Result<()> {
    let (sender, receiver) = sync_channel(INBOX);
    let _ = surroundings.inbox.sender.set(sender);
    std::thread::Builder::new().name("tidelock-raft".into()).spawn(move || {
        let Surroundings { tick, inbox, status, send, on_fatal } = surroundings;
        let mut desk = Desk { send, replies: HashMap::new(), next_token: 0 };
        // The driver is dropped inside, so the store is closed before `status` tells of the end.
        let outcome = catch_unwind(AssertUnwindSafe(|| run(driver, tick, &inbox, &receiver, &status, &mut desk)));
        if let Err(fatal) = outcome.unwrap_or_else(|panic| Err(Fatal::Panic(panic_message(&*panic)))) {
            on_fatal(fatal);
        }
        drop(status);
    })?;
    Ok(())
}

/// The default `on_fatal`. 70 is EX_SOFTWARE of sysexits.h.
pub(super) fn end_process(fatal: Fatal) {
    tracing::error!("consensus stopped, so this node ends: {fatal}");
    std::process::exit(70);
}

fn run<S: Store, M: StateMachine>(
    mut driver: Driver<S, M>,
    tick: Duration,
    inbox: &Inbox<M::Answer>,
    receiver: &Receiver<Request<M::Answer>>,
    status: &watch::Sender<Status>,
    desk: &mut Desk<M::Answer>,
) -> Result<(), Fatal> {
    let mut next_tick = Instant::now() + tick;
    while !inbox.stopped.load(Ordering::Acquire) {
        driver.ready(desk)?;
        publish(&driver.status(), status);
        match receiver.recv_timeout(next_tick.saturating_duration_since(Instant::now())) {
            Ok(first) => {
                desk.take(&mut driver, first, tick)?;
                for request in receiver.try_iter().take(BATCH) {
                    desk.take(&mut driver, request, tick)?;
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
        let now = Instant::now();
        if now >= next_tick {
            driver.tick(desk);
            // Ticks missed during a slow write are not made up for: a burst of them would look like
            // a silent leader although its messages wait in the inbox.
            next_tick = now + tick;
        }
    }
    driver.save_commit()
}

fn publish(now: &Status, status: &watch::Sender<Status>) {
    status.send_if_modified(|published| {
        let changed = published != now;
        if changed {
            published.clone_from(now);
        }
        changed
    });
}

/// Knows who waits for which token.
struct Desk<A> {
    send: Box<dyn FnMut(u64, Outgoing) + Send>,
    replies: HashMap<Token, Reply<A>>,
    next_token: u64,
}

enum Reply<A> {
    Proposal(oneshot::Sender<Result<Applied<A>, ProposeError>>),
    Read(oneshot::Sender<Result<u64, ReadError>>),
    Membership(oneshot::Sender<Result<u64, MembershipError>>),
}

impl<A: Send + 'static> Desk<A> {
    fn take<S: Store, M: StateMachine<Answer = A>>(
        &mut self,
        driver: &mut Driver<S, M>,
        request: Request<A>,
        tick: Duration,
    ) -> Result<(), Fatal> {
        let ticks =
            |timeout: Duration| timeout.as_nanos().div_ceil(tick.as_nanos().max(1)).try_into().unwrap_or(u64::MAX / 2);
        let input = match request {
            Request::Input(input) => input,
            Request::Propose { id, payload, timeout, reply } => {
                let token = self.expect(Reply::Proposal(reply));
                Input::Propose { token, id, payload, ticks: ticks(timeout) }
            }
            Request::Read { timeout, reply } => {
                let token = self.expect(Reply::Read(reply));
                Input::ReadIndex { token, ticks: ticks(timeout) }
            }
            Request::ChangeMembership { id, changes, timeout, reply } => {
                let token = self.expect(Reply::Membership(reply));
                Input::ChangeMembership { token, id, changes, ticks: ticks(timeout) }
            }
            Request::Wake => return Ok(()),
        };
        driver.step(input, self)
    }

    fn expect(&mut self, reply: Reply<A>) -> Token {
        self.next_token += 1;
        let token = Token(self.next_token);
        self.replies.insert(token, reply);
        token
    }
}

impl<A> Outbox<A> for Desk<A> {
    fn send(&mut self, to: u64, message: Outgoing) {
        (self.send)(to, message);
    }

    /// A caller that has gone away is no error; the entry is applied all the same.
    fn answer(&mut self, token: Token, answer: Answer<A>) {
        match (self.replies.remove(&token), answer) {
            (Some(Reply::Proposal(reply)), Answer::Proposal(answer)) => _ = reply.send(answer),
            (Some(Reply::Read(reply)), Answer::Read(answer)) => _ = reply.send(answer),
            (Some(Reply::Membership(reply)), Answer::Membership(answer)) => _ = reply.send(answer),
            _ => debug_assert!(false, "the driver answered {token:?} twice or with another kind"),
        }
    }
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string))
        .unwrap_or_else(|| "a panic without a message".into())
}
