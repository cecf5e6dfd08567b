//! Starting a node: identity, transport, founding, and the thread at the end of it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::asks::{Asks, MAX_ASK, Question};
use super::bootstrap::{self, Decision};
use super::driver::{Driver, Fatal, Status};
use super::exchange::{Input, Outgoing};
use super::frame::{self, Hello, PeerMessage};
use super::identity::Identities;
use super::storage::Store;
use super::thread::{self, Inbox, Request, Surroundings};
use super::transport::{About, Event, Handler, Transport};
use super::{DriverConfig, Fleet, Membership, Options, Raft, Report, Role, StartError, Started, StateMachine, wire};

/// Reports of peers that nobody has read yet; more are dropped.
const REPORTS: usize = 1_024;

/// Questions of peers that wait to be answered; more are dropped, and their askers do not hear.
const QUESTIONS: usize = 64;

/// How often a start that waits for other founders says what it waits for.
const PROGRESS: Duration = Duration::from_secs(5);

pub(super) fn start<S: Store, M: StateMachine>(
    options: Options,
    mut store: S,
    machine: M,
) -> Result<Started<M::Answer>, StartError> {
    let Options { tick, driver: config, fleet, on_fatal } = options;
    let loaded = store.load()?;
    let id = loaded.node;
    let inbox = Inbox::new();
    let (status, status_receiver) = watch::channel(not_started(id));
    let (reports, report_receiver) = mpsc::channel(REPORTS);
    let (questions, question_receiver) = mpsc::channel(QUESTIONS);
    let asks = Arc::<Asks>::default();
    let beside = Beside { reports, questions, asks: asks.clone() };

    // A node that has voted or learnt something without a snapshot was waiting to be added.
    let pristine = !loaded.is_initialised() && loaded.hard_state == Default::default() && loaded.entries.is_empty();
    let mut founders = None;
    let mut transport = None;
    if let Some(fleet) = fleet {
        if pristine && fleet.founders.contains(&fleet.advertise) {
            founders = Some((fleet.advertise.clone(), fleet.founders.clone()));
        } else if pristine {
            tracing::info!(id = %format_args!("{id:016x}"), "this node is not among the founders; it waits until it is added to the fleet");
        }
        let started = connect(fleet, &loaded, inbox.clone(), beside)?;
        for (peer, address) in &loaded.addresses {
            started.book().heard_of(*peer, address);
        }
        transport = Some(started);
    } else if pristine {
        bootstrap::found(&mut store, &[id], machine.snapshot())?;
    }

    let node =
        Node { tick, config, store, machine, on_fatal, inbox: inbox.clone(), status, transport: transport.clone() };
    match (founders, &transport) {
        (Some((own, founders)), Some(transport)) => {
            let transport = transport.clone();
            // Ends by itself when founded, or with the runtime; a stop drops the store with it.
            let stop = transport.stopping();
            tokio::spawn(async move {
                stop.run_until_cancelled_owned(node.found(id, own, founders, transport)).await;
            });
        }
        _ => node.run()?,
    }
    Ok((Raft { inbox, status: status_receiver, transport, asks }, report_receiver, question_receiver))
}

/// Where messages go that are not the log's.
struct Beside {
    reports: mpsc::Sender<Report>,
    questions: mpsc::Sender<Question>,
    asks: Arc<Asks>,
}

struct Node<S: Store, M: StateMachine> {
    tick: Duration,
    config: DriverConfig,
    store: S,
    machine: M,
    on_fatal: Box<dyn FnOnce(Fatal) + Send>,
    inbox: Arc<Inbox<M::Answer>>,
    status: watch::Sender<Status>,
    transport: Option<Transport>,
}

impl<S: Store, M: StateMachine> Node<S, M> {
    /// Waits for the other founders, begins the fleet or stays out of it, and runs the node.
    async fn found(mut self, id: u64, own: String, founders: Vec<String>, transport: Transport) {
        let mut heard = transport.heard();
        let mut progress_at = Instant::now() + PROGRESS;
        let began = loop {
            let decision = bootstrap::decide(id, &own, &founders, &heard.borrow_and_update());
            let why = match decision {
                Decision::Found(ids) => break Some(ids),
                Decision::StayOut { fleet, seen_at } => {
                    explain_staying_out(id, &fleet, &seen_at);
                    break None;
                }
                Decision::Wait { announce, why } => {
                    transport.update_hello(|hello| hello.founders = announce);
                    why
                }
            };
            tokio::select! {
                _ = heard.changed() => {}
                () = tokio::time::sleep_until(progress_at) => {
                    tracing::info!(why, "the fleet has not begun yet");
                    progress_at += PROGRESS;
                }
            }
        };
        if let Some(ids) = began {
            if let Err(error) = bootstrap::found(&mut self.store, &ids, self.machine.snapshot()) {
                return (self.on_fatal)(error.into());
            }
            transport.update_hello(|hello| (hello.initialised, hello.founders) = (true, Some(ids)));
        }
        if let Err((error, on_fatal)) = self.try_run() {
            on_fatal(error);
        }
    }

    fn run(self) -> Result<(), StartError> {
        self.try_run().map_err(|(error, _)| error.into())
    }

    #[expect(clippy::type_complexity, reason = "the error path hands back what ends the process")]
    fn try_run(self) -> Result<(), (Fatal, Box<dyn FnOnce(Fatal) + Send>)> {
        let driver = match Driver::open(self.config, self.store, self.machine) {
            Ok(driver) => driver,
            Err(error) => return Err((error, self.on_fatal)),
        };
        if let Some(transport) = &self.transport {
            tokio::spawn(follow_membership(self.status.subscribe(), transport.clone(), self.inbox.clone()));
        }
        let surroundings = Surroundings {
            tick: self.tick,
            inbox: self.inbox,
            status: self.status,
            send: sender(self.transport),
            on_fatal: self.on_fatal,
        };
        // A thread that did not start has dropped its surroundings, `on_fatal` with them.
        thread::spawn(driver, surroundings).map_err(|error| (Fatal::Thread(error), Box::new(thread::end_process) as _))
    }
}

fn explain_staying_out(id: u64, fleet: &[u64], seen_at: &str) {
    let fleet: Vec<String> = fleet.iter().map(|id| format!("{id:016x}")).collect();
    tracing::error!(
        id = %format_args!("{id:016x}"),
        seen_at,
        founders = fleet.join(" "),
        "the fleet began without this node's id, so this node begins nothing. If its volume was lost, remove its old \
         id from the fleet and add this one; it then gets the state from the leader"
    );
}

fn connect<A: Send + 'static>(
    fleet: Fleet,
    loaded: &super::storage::Loaded,
    inbox: Arc<Inbox<A>>,
    beside: Beside,
) -> Result<Transport, StartError> {
    let identities = Identities::new(fleet.credentials)?;
    let hello = Hello {
        id: loaded.node,
        name: fleet.name,
        address: fleet.advertise,
        admin: fleet.admin,
        version: fleet.version,
        initialised: loaded.is_initialised(),
        founders: loaded.founders.clone(),
        known: loaded.addresses.clone(),
        join_token: fleet.join_token,
    };
    let handler = handler(loaded.node, inbox, beside);
    Ok(Transport::start(fleet.listener, identities, hello, &fleet.founders, handler))
}

/// Turns what the transport tells into inputs. Raft messages are decoded here, on the connection's
/// task, so that the driver's thread only sees valid ones.
fn handler<A: Send + 'static>(id: u64, inbox: Arc<Inbox<A>>, beside: Beside) -> Handler {
    Arc::new(move |event| {
        let input = match event {
            Event::Message { from, message } => match message {
                PeerMessage::Raft(bytes) => match wire::decode(&bytes.0) {
                    Ok(message) if message.from == from && message.to == id => Input::Peer(Box::new(message)),
                    Ok(message) => {
                        tracing::warn!(
                            from,
                            named = message.from,
                            to = message.to,
                            "dropped a raft message under another id"
                        );
                        return;
                    }
                    Err(error) => {
                        tracing::warn!(from, %error, "dropped a raft message");
                        return;
                    }
                },
                PeerMessage::Forward { request, term, id, payload } => {
                    Input::Forward { from, forward: frame::forward(request, term, id, &payload) }
                }
                PeerMessage::ForwardReply { request, outcome } => Input::ForwardReply { request, outcome },
                PeerMessage::Report(bytes) => {
                    let _ = beside.reports.try_send(Report { from, bytes: bytes.0.to_vec() });
                    return;
                }
                PeerMessage::Ask { request, question } => {
                    if question.0.len() <= MAX_ASK {
                        let _ = beside.questions.try_send(Question { from, request, bytes: question.0.to_vec() });
                    }
                    return;
                }
                PeerMessage::Answer { request, answer } => return beside.asks.answered(from, request, &answer.0),
                PeerMessage::Hello(_) | PeerMessage::Ping => return,
            },
            Event::Sent { to, about: About::Snapshot } => Input::SnapshotSent { to, delivered: true },
            Event::Sent { .. } => return,
            Event::Undelivered { to, about: About::Raft | About::Other } => Input::Unreachable(to),
            Event::Undelivered { to, about: About::Snapshot } => Input::SnapshotSent { to, delivered: false },
            Event::Undelivered { about: About::Ask { request }, .. } => return beside.asks.undelivered(request),
            Event::Undelivered { about: About::Forward { request }, .. } => Input::ForwardDropped { request },
        };
        // A full inbox, or none yet: Raft sends again, forwarded commands meet their deadline.
        let _ = inbox.offer(Request::Input(input));
    })
}

fn sender(transport: Option<Transport>) -> Box<dyn FnMut(u64, Outgoing) + Send> {
    Box::new(move |to, message| {
        let Some(transport) = &transport else { return };
        let about = match &message {
            Outgoing::Raft(message) if message.get_msg_type() == raft::prelude::MessageType::MsgSnapshot => {
                About::Snapshot
            }
            Outgoing::Raft(_) => About::Raft,
            Outgoing::Forward(forward) => About::Forward { request: forward.request },
            Outgoing::ForwardReply { .. } => About::Other,
        };
        if let Some(message) = PeerMessage::from_outgoing(&message) {
            transport.send(to, &message, about);
        }
    })
}

/// Keeps the transport's idea of the fleet up to date, and its addresses on disk.
async fn follow_membership<A>(mut status: watch::Receiver<Status>, transport: Transport, inbox: Arc<Inbox<A>>) {
    let mut hellos = transport.own_hello();
    let mut remembered = Vec::new();
    let mut initialised = false;
    loop {
        let (members, applied) = {
            let status = status.borrow_and_update();
            (status.membership.ids().filter(|id| *id != status.id).collect::<BTreeSet<_>>(), status.applied)
        };
        if applied > 0 && !initialised {
            initialised = true;
            transport.update_hello(|hello| hello.initialised = true);
        }
        transport.set_members(members);
        let known = hellos.borrow_and_update().known.clone();
        if known != remembered && inbox.offer(Request::Input(Input::Addresses(known.clone()))).is_ok() {
            remembered = known;
        }
        tokio::select! {
            changed = status.changed() => if changed.is_err() { return },
            changed = hellos.changed() => if changed.is_err() { return },
        }
    }
}

fn not_started(id: u64) -> Status {
    Status {
        id,
        role: Role::Founding,
        leader: None,
        term: 0,
        commit: 0,
        applied: 0,
        membership: Membership::default(),
        matched: Default::default(),
    }
}
