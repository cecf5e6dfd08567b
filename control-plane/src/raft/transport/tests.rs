//! Two ends over loopback, and the ways in which messages do not arrive.

use std::sync::mpsc::{Receiver, sync_channel};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::raft::Credentials;
use crate::raft::identity::tests::{Authority, Folder};
use crate::raft::wire::Blob;

const PATIENCE: Duration = Duration::from_secs(20);
const SECRET: &[u8] = b"the secret of the transport's tests";

struct End {
    transport: Transport,
    events: Receiver<Event>,
    address: String,
}

async fn end(id: u64, seeds: &[String]) -> End {
    end_at(id, seeds, "127.0.0.1:0").await
}

async fn end_at(id: u64, seeds: &[String], at: &str) -> End {
    end_with(id, seeds, at, by_secret(SECRET, None)).await
}

fn by_secret(secret: &[u8], previous: Option<&[u8]>) -> Credentials {
    Credentials::Secret { secret: secret.to_vec(), previous: previous.map(<[u8]>::to_vec) }
}

async fn end_with(id: u64, seeds: &[String], at: &str, credentials: Credentials) -> End {
    let listener = TcpListener::bind(at).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let hello = Hello {
        id,
        name: format!("node {id}"),
        address: address.clone(),
        admin: String::new(),
        version: "1".into(),
        initialised: false,
        founders: None,
        known: vec![],
        join_token: None,
    };
    let (sender, events) = sync_channel(1_024);
    let handler: Handler = Arc::new(move |event| _ = sender.send(event));
    let identities = Identities::new(credentials).unwrap();
    let transport = Transport::start(listener, identities, hello, seeds, handler);
    End { transport, events, address }
}

/// Until this end can send to `peer`.
async fn connected(end: &End, peer: u64) {
    let mut heard = end.transport.heard();
    let is_connected = |end: &End| lock(&end.transport.0.queues).contains_key(&peer);
    tokio::time::timeout(PATIENCE, async {
        while !is_connected(end) {
            // A Hello changes it; the queue is there just before.
            let _ = tokio::time::timeout(Duration::from_millis(50), heard.changed()).await;
        }
    })
    .await
    .expect("connected in time");
}

fn report(bytes: usize) -> PeerMessage {
    PeerMessage::Report(Blob(vec![7; bytes].into()))
}

/// The next event that says something of a sent or received message.
async fn next(end: End) -> (Event, End) {
    tokio::task::spawn_blocking(|| (end.events.recv_timeout(PATIENCE).expect("an event in time"), end)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_pass_both_ways_though_only_one_end_knew_the_other() {
    let a = end(1, &[]).await;
    let b = end(2, std::slice::from_ref(&a.address)).await;
    connected(&b, 1).await;
    connected(&a, 2).await;
    b.transport.send(1, &report(100_000), About::Other);
    let (event, a) = next(a).await;
    assert!(matches!(event, Event::Message { from: 2, message } if message == report(100_000)));
    a.transport.send(2, &report(1), About::Snapshot);
    let (event, a) = next(a).await;
    assert!(
        matches!(event, Event::Sent { to: 2, about: About::Snapshot }),
        "a snapshot's departure is reported: {event:?}"
    );
    a.transport.stop().await;
    b.transport.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_sent_is_reported_at_once() {
    let a = end(1, &[]).await;
    let about = About::Forward { request: 5 };
    a.transport.send(9, &report(1), about);
    let (event, a) = next(a).await;
    assert!(matches!(event, Event::Undelivered { to: 9, about: dropped } if dropped == about), "nobody is there");
    a.transport.send(9, &report(MAX_FRAME + 1), About::Snapshot);
    let (event, a) = next(a).await;
    assert!(matches!(event, Event::Undelivered { about: About::Snapshot, .. }), "longer than a frame may be");
    a.transport.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_drops_and_says_so() {
    let a = end(1, &[]).await;
    // A queue that nobody empties, as behind a peer that does not read.
    let (sender, _receiver) = mpsc::channel(QUEUE);
    lock(&a.transport.0.queues).insert(2, Queue { sender, bytes: Arc::default() });
    for _ in 0..QUEUE {
        a.transport.send(2, &report(1), About::Raft);
    }
    assert!(a.events.try_recv().is_err(), "all of these fit");
    a.transport.send(2, &report(1), About::Raft);
    assert!(matches!(a.events.try_recv(), Ok(Event::Undelivered { to: 2, about: About::Raft })));

    let (sender, _receiver) = mpsc::channel(QUEUE);
    lock(&a.transport.0.queues).insert(3, Queue { sender, bytes: Arc::default() });
    let large = report(MAX_FRAME - 64);
    for fits in [true, true, false] {
        a.transport.send(3, &large, About::Raft);
        assert_eq!(a.events.try_recv().is_err(), fits, "two of the largest frames are the limit");
    }
    a.transport.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_without_tls_reads_nothing_and_disturbs_nobody() {
    let a = end(1, &[]).await;
    let mut stranger = tokio::net::TcpStream::connect(&a.address).await.unwrap();
    stranger.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    // At most a TLS alert comes back.
    let _ = tokio::time::timeout(PATIENCE, stranger.read_to_end(&mut answer)).await.expect("closed");
    assert!(answer.len() < 16, "{answer:?}");
    let b = end(2, std::slice::from_ref(&a.address)).await;
    connected(&b, 1).await;
    a.transport.stop().await;
    b.transport.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_comes_back_at_its_address_is_reached_again() {
    let a = end(1, &[]).await;
    let b = end(2, std::slice::from_ref(&a.address)).await;
    connected(&b, 1).await;
    a.transport.stop().await;
    let address = a.address.clone();
    drop(a);
    let a = end_at(1, &[], &address).await;
    // Either the break or the new connection comes first; what counts is that a message arrives.
    let arrives = async {
        loop {
            b.transport.send(1, &report(3), About::Raft);
            if matches!(a.events.try_recv(), Ok(Event::Message { from: 2, .. })) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, arrives).await.expect("reached again");
    a.transport.stop().await;
    b.transport.stop().await;
}

async fn end_of(id: u64, seeds: &[String], folder: &Folder) -> End {
    end_with(id, seeds, "127.0.0.1:0", folder.credentials()).await
}

/// While an end that is in the fleet connects, a stranger has had the time to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_of_another_authority_is_no_peer() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let (good, stranger) = (Folder::new(), Folder::new());
    good.write(&[&ours], &ours, "peer.tidelock", 0);
    stranger.write(&[&theirs], &theirs, "peer.tidelock", 0);
    let a = end_of(1, &[], &good).await;
    let refused = end_of(3, std::slice::from_ref(&a.address), &stranger).await;
    let b = end_of(2, std::slice::from_ref(&a.address), &good).await;
    connected(&b, 1).await;
    connected(&a, 2).await;
    assert!(a.transport.book().peers().iter().all(|peer| peer.id != 3), "it was heard");
    assert!(refused.transport.book().peers().is_empty(), "it heard somebody");
    for end in [a, b, refused] {
        end.transport.stop().await;
    }
}

/// Three nodes in the middle of a rolling change: one has yet to restart, one has the new secret and
/// the old one, one has the new secret alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_reach_each_other_while_the_secret_changes() {
    let new = b"the secret of the transport's tests, changed".as_slice();
    let anywhere = "127.0.0.1:0";
    let old = end(1, &[]).await;
    let both = end_with(2, std::slice::from_ref(&old.address), anywhere, by_secret(new, Some(SECRET))).await;
    let done = end_with(3, std::slice::from_ref(&both.address), anywhere, by_secret(new, None)).await;
    connected(&both, 1).await;
    connected(&old, 2).await;
    connected(&done, 2).await;
    connected(&both, 3).await;
    assert!(!lock(&done.transport.0.queues).contains_key(&1), "these two have no secret in common");
    for end in [old, both, done] {
        end.transport.stop().await;
    }
}

/// Certificate and authority are replaced under a node that runs; who has the new ones alone reaches it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_swapped_while_the_node_runs() {
    let (old, new) = (Authority::new(), Authority::new());
    let (running, newcomer) = (Folder::new(), Folder::new());
    running.write(&[&old], &old, "peer.tidelock", 60);
    newcomer.write(&[&new], &new, "peer.tidelock", 60);
    let a = end_of(1, &[], &running).await;
    let b = end_of(2, std::slice::from_ref(&a.address), &running).await;
    connected(&b, 1).await;
    let late = end_of(3, std::slice::from_ref(&a.address), &newcomer).await;
    running.write(&[&new], &new, "peer.tidelock", 0);
    connected(&late, 1).await;
    connected(&a, 3).await;
    assert!(lock(&b.transport.0.queues).contains_key(&1), "what is open stays open");
    for end in [a, b, late] {
        end.transport.stop().await;
    }
}
