//! Whole nodes: threads, redb files, TLS over real loopback sockets.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::storage::Write;
use super::storage::memory::{CrashPoint, Faults};
use super::*;

const PATIENCE: Duration = Duration::from_secs(20);
const SECRET: &[u8] = b"the fleet of the tests, 32 bytes or more";

/// Keeps all commands; answers with their number.
#[derive(Clone, Default)]
struct Journal(Arc<Mutex<Vec<Vec<u8>>>>);

impl Journal {
    fn commands(&self) -> Vec<Vec<u8>> {
        self.0.lock().unwrap().clone()
    }
}

impl StateMachine for Journal {
    type Answer = usize;

    fn apply(&mut self, _: u64, data: &[u8]) -> usize {
        assert_ne!(data, b"panic", "the journal was asked to panic");
        let mut commands = self.0.lock().unwrap();
        commands.push(data.to_vec());
        commands.len()
    }

    fn snapshot(&self) -> Vec<u8> {
        postcard::to_stdvec(&self.commands()).unwrap()
    }

    fn restore(&mut self, _: u64, bytes: &[u8]) -> Result<(), String> {
        *self.0.lock().unwrap() = postcard::from_bytes(bytes).map_err(|e| e.to_string())?;
        Ok(())
    }

    fn applied(&mut self, _: u64) {}
}

/// A directory that is removed with its test.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        let directory = std::env::temp_dir().join(format!("tidelock-raft-{:016x}", rand::random::<u64>()));
        std::fs::create_dir_all(&directory).unwrap();
        Self(directory)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

struct TestNode {
    raft: Raft<usize>,
    journal: Journal,
    reports: mpsc::Receiver<Report>,
    questions: mpsc::Receiver<Question>,
    /// Held, so that it is removed last.
    _directory: Arc<Directory>,
}

fn options(fleet: Option<Fleet>) -> Options {
    Options {
        tick: Duration::from_millis(20),
        driver: DriverConfig { snapshot_every: 50, keep_entries: 10, ..DriverConfig::default() },
        fleet,
        on_fatal: Box::new(|fatal| panic!("{fatal}")),
    }
}

fn launch(fleet: Option<Fleet>, directory: Arc<Directory>) -> TestNode {
    let journal = Journal::default();
    let store = RedbStore::open(&directory.0, None).unwrap();
    let (raft, reports, questions) = start(options(fleet), store, journal.clone()).unwrap();
    TestNode { raft, journal, reports, questions, _directory: directory }
}

async fn bind() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

fn fleet(listener: TcpListener, address: &str, founders: &[String]) -> Fleet {
    Fleet {
        listener,
        advertise: address.to_owned(),
        founders: founders.to_vec(),
        credentials: Credentials::Secret { secret: SECRET.to_vec(), previous: None },
        join_token: None,
        name: format!("at {address}"),
        admin: "http://admin".into(),
        version: "1".into(),
    }
}

async fn three() -> (Vec<TestNode>, Vec<String>) {
    let mut bound = Vec::new();
    for _ in 0..3 {
        bound.push(bind().await);
    }
    let founders: Vec<String> = bound.iter().map(|(_, address)| address.clone()).collect();
    let nodes = bound
        .into_iter()
        .map(|(listener, address)| launch(Some(fleet(listener, &address, &founders)), Arc::new(Directory::new())))
        .collect();
    (nodes, founders)
}

async fn wait(raft: &Raft<usize>, condition: impl FnMut(&Status) -> bool) -> Status {
    let mut status = raft.status();
    tokio::time::timeout(PATIENCE, status.wait_for(condition)).await.expect("in time").expect("the node runs").clone()
}

async fn leader(nodes: &[TestNode]) -> usize {
    let status = wait(&nodes[0].raft, |status| status.leader.is_some()).await;
    nodes.iter().position(|node| Some(node.raft.id()) == status.leader).expect("the leader is one of them")
}

async fn stop_all(nodes: Vec<TestNode>) {
    for node in nodes {
        node.raft.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_over_tls_agree_and_survive_the_leader() {
    let (mut nodes, _) = three().await;
    for (number, node) in nodes.iter().enumerate() {
        let command = format!("from {number}").into_bytes();
        let applied = node.raft.propose(rand::random(), command.clone(), PATIENCE).await.unwrap();
        assert_eq!(applied.answer, number + 1);
        assert!(node.journal.commands().contains(&command), "the proposer's own node has applied it");
    }
    let dead = nodes.remove(leader(&nodes).await);
    dead.raft.stop().await;
    wait(&nodes[0].raft, |status| status.leader.is_some_and(|id| id != dead.raft.id())).await;
    for node in &nodes {
        node.raft.propose(rand::random(), b"after".to_vec(), PATIENCE).await.unwrap();
    }
    for node in &nodes {
        node.raft.read_index(PATIENCE).await.unwrap();
        assert_eq!(node.journal.commands().len(), 5);
        let peer = node.raft.peers().into_iter().find(|peer| peer.connected).expect("the survivors are connected");
        assert_eq!((peer.admin.as_str(), peer.version.as_str()), ("http://admin", "1"));
    }
    stop_all(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newcomer_learns_by_snapshot_and_is_promoted() {
    let (mut nodes, founders) = three().await;
    let lead = leader(&nodes).await;
    for number in 0..120u32 {
        nodes[lead].raft.propose(rand::random(), number.to_be_bytes().to_vec(), PATIENCE).await.unwrap();
    }
    let (listener, address) = bind().await;
    let newcomer = launch(Some(fleet(listener, &address, &founders)), Arc::new(Directory::new()));
    let id = newcomer.raft.id();
    wait(&newcomer.raft, |status| status.role == Role::Outsider).await;
    nodes[lead].raft.change_membership(vec![Change::AddLearner(id)], PATIENCE).await.unwrap();
    wait(&newcomer.raft, |status| status.role == Role::Learner && status.applied >= 120).await;
    assert_eq!(newcomer.journal.commands().len(), 120);
    nodes[lead].raft.change_membership(vec![Change::AddVoter(id)], PATIENCE).await.unwrap();
    wait(&newcomer.raft, |status| status.membership.voters.contains(&id)).await;
    newcomer.raft.propose(rand::random(), b"from the newcomer".to_vec(), PATIENCE).await.unwrap();
    nodes.push(newcomer);
    stop_all(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_moves_on_request_and_reports_reach_the_others() {
    let (mut nodes, _) = three().await;
    let lead = leader(&nodes).await;
    let heir = (lead + 1) % 3;
    let id = nodes[heir].raft.id();
    // A voter that has not been heard in this term is not handed to; it is asked again.
    let mut status = nodes[heir].raft.status();
    let moved = async {
        while status.borrow().role != Role::Leader {
            nodes[lead].raft.transfer_leader(Some(id));
            let _ = tokio::time::timeout(Duration::from_millis(300), status.wait_for(|s| s.role == Role::Leader)).await;
        }
    };
    tokio::time::timeout(PATIENCE, moved).await.expect("leadership moved");

    let from = nodes[heir].raft.clone();
    let report = async {
        loop {
            from.broadcast_report(b"status".to_vec());
            let received = tokio::time::timeout(Duration::from_millis(300), nodes[lead].reports.recv()).await;
            if let Ok(report) = received {
                return report;
            }
        }
    };
    let report = tokio::time::timeout(PATIENCE, report).await.unwrap();
    assert_eq!(report, Some(Report { from: id, bytes: b"status".to_vec() }));
    stop_all(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_question_is_answered_by_the_node_that_was_asked_or_ends_with_the_reason() {
    let (mut nodes, _) = three().await;
    let asker = nodes[0].raft.clone();
    let [first, second, third] = nodes.as_mut_slice() else { panic!("three nodes") };
    let (asked, other) = (second.raft.id(), third.raft.clone());
    let both_ways = async {
        let has = |raft: &Raft<usize>, id| raft.peers().iter().any(|peer| peer.id == id && peer.connected);
        while !has(&asker, asked) || !has(&second.raft, asker.id()) || !has(&other, asker.id()) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, both_ways).await.expect("connected in time");
    let answering = async {
        let question = second.questions.recv().await.expect("the question");
        assert_eq!((question.from, question.bytes.as_slice()), (asker.id(), &b"who?"[..]));
        // A node that was not asked has no say.
        other.reply(&question, b"me".to_vec());
        // What it says after that is heard: so was its answer.
        other.broadcast_report(b"done".to_vec());
        while first.reports.recv().await.expect("a report").from != other.id() {}
        second.raft.reply(&question, b"I".to_vec());
    };
    let (answer, ()) = tokio::join!(asker.ask(asked, b"who?".to_vec(), PATIENCE), answering);
    assert_eq!(answer, Ok(b"I".to_vec()));

    let short = Duration::from_millis(100);
    assert_eq!(asker.ask(asked, b"who?".to_vec(), short).await, Err(AskError::Late));
    assert_eq!(asker.ask(404, b"who?".to_vec(), PATIENCE).await, Err(AskError::NotConnected));
    assert_eq!(asker.ask(asked, vec![0; asks::MAX_ASK + 1], PATIENCE).await, Err(AskError::TooLong));
    stop_all(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_node_keeps_its_id_and_its_state() {
    let directory = Arc::new(Directory::new());
    let node = launch(None, directory.clone());
    let id = node.raft.id();
    for number in 0..130u32 {
        node.raft.propose(rand::random(), number.to_be_bytes().to_vec(), PATIENCE).await.unwrap();
    }
    node.raft.stop().await;
    let again = launch(None, directory);
    assert_eq!(again.raft.id(), id);
    wait(&again.raft, |status| status.applied >= 130).await;
    assert_eq!(again.journal.commands(), node.journal.commands());
    again.raft.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_the_other_founders_answers_no_leader() {
    let (listener, address) = bind().await;
    let founders = [address.clone(), "founder.invalid:1".into()];
    let node = launch(Some(fleet(listener, &address, &founders)), Arc::new(Directory::new()));
    let outcome = node.raft.propose(1, b"too early".to_vec(), Duration::from_millis(50)).await;
    assert_eq!(outcome, Err(ProposeError::NoLeader));
    assert_eq!(node.raft.status().borrow().role, Role::Founding);
    node.raft.stop().await;
    assert_eq!(node.raft.propose(1, vec![], PATIENCE).await, Err(ProposeError::Stopped));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_with_another_secret_stays_outside() {
    let (nodes, founders) = three().await;
    leader(&nodes).await;
    let (listener, address) = bind().await;
    let mut stranger = fleet(listener, &address, &founders);
    let secret = b"another secret that is long enough too".to_vec();
    stranger.credentials = Credentials::Secret { secret, previous: None };
    let stranger = launch(Some(stranger), Arc::new(Directory::new()));
    // The fleet works on while the stranger knocks.
    nodes[0].raft.propose(rand::random(), b"on".to_vec(), PATIENCE).await.unwrap();
    assert!(stranger.raft.peers().is_empty());
    assert!(nodes.iter().all(|node| node.raft.peers().iter().all(|peer| peer.id != stranger.raft.id())));
    stranger.raft.stop().await;
    stop_all(nodes).await;
}

/// A panic on the thread ends the node with its reason; whoever waits hears that it stopped.
#[tokio::test]
async fn a_panic_on_the_thread_is_fatal_and_named() {
    let (told, fatal) = oneshot::channel();
    let options = Options { on_fatal: Box::new(|fatal| told.send(fatal.to_string()).unwrap()), ..options(None) };
    let (raft, ..) = start(options, Disk::new(7).store(), Journal::default()).unwrap();
    assert_eq!(raft.propose(1, b"panic".to_vec(), PATIENCE).await, Err(ProposeError::Stopped));
    assert!(fatal.await.unwrap().contains("the journal was asked to panic"));
}

#[tokio::test]
async fn a_failing_store_is_fatal_and_named() {
    let (told, fatal) = oneshot::channel();
    let options = Options { on_fatal: Box::new(|fatal| told.send(fatal.to_string()).unwrap()), ..options(None) };
    let disk = Disk::new(7);
    let (raft, ..) = start(options, disk.store(), Journal::default()).unwrap();
    raft.propose(1, b"fine".to_vec(), PATIENCE).await.unwrap();
    disk.set_faults(Faults { crash: Some(CrashPoint { commit: 1, written: false }), lazy: None });
    assert_eq!(raft.propose(2, b"lost".to_vec(), PATIENCE).await, Err(ProposeError::Stopped));
    assert_eq!(fatal.await.unwrap(), "injected crash");
}

/// Addresses are hints: they may be stored by a node that is not in any fleet yet.
#[test]
fn addresses_alone_do_not_make_a_node_initialised() {
    let disk = Disk::new(7);
    disk.store().commit(&Write { addresses: Some(&[(8, "h:1".into())]), ..Write::default() }).unwrap();
    let loaded = disk.store().load().unwrap();
    assert!(!loaded.is_initialised());
    assert_eq!(loaded.addresses, [(8, "h:1".to_owned())]);
}
