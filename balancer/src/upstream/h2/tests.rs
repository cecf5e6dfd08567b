//! What takes too long to be waited for: the clock is the runtime's, and jumps when nobody has anything to do.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::{JoinHandle, LocalSet};

use super::connection::PONG_WITHIN;
use super::*;
use crate::socket::Stream;

const PING: u8 = 6;
const GOAWAY: u8 = 7;

const ANY: Purpose = Purpose { sends: false, again: false };

/// A connection whose endpoint has sent its SETTINGS, and the endpoint's side.
async fn connected() -> (Rc<Connection>, JoinHandle<()>, UnixStream) {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let (connection, task) = begin(Socket::Plain(Stream::Unix(ours)));
    let task = tokio::task::spawn_local(task);
    let mut preface = [0; 24];
    theirs.read_exact(&mut preface).await.unwrap();
    theirs.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
    connection.client.settings().await;
    (connection, task, theirs)
}

/// The next frame that is no greeting: its kind and its payload. None at the end.
async fn frame(theirs: &mut UnixStream) -> Option<(u8, Vec<u8>)> {
    loop {
        let mut head = [0; 9];
        theirs.read_exact(&mut head).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; length];
        theirs.read_exact(&mut payload).await.ok()?;
        // SETTINGS and WINDOW_UPDATE.
        if !matches!(head[3], 4 | 8) {
            return Some((head[3], payload));
        }
    }
}

/// Answers PINGs until a GOAWAY comes.
async fn until_left(mut theirs: UnixStream) {
    loop {
        match frame(&mut theirs).await.expect("a word before the end") {
            (PING, payload) => answer(&mut theirs, &payload).await,
            (kind, _) => return assert_eq!(kind, GOAWAY),
        }
    }
}

async fn answer(theirs: &mut UnixStream, ping: &[u8]) {
    theirs.write_all(&[&[0, 0, 8, PING, 1, 0, 0, 0, 0][..], ping].concat()).await.unwrap();
}

/// Bandit closes a connection on which it read nothing for 60 s; and who does not answer is not there.
#[tokio::test(start_paused = true)]
async fn quiet_streams_are_kept_alive_and_a_dead_endpoint_is_noticed() {
    let quiet = LocalSet::new();
    quiet
        .run_until(async {
            let (connection, task, mut theirs) = connected().await;
            let day = Duration::from_secs(86_400);
            assert!(timeout(day, frame(&mut theirs)).await.is_err(), "nothing runs, nothing is kept alive");
            connection.streams.set(1);
            let mut last = Instant::now();
            for _ in 0..5 {
                let (kind, payload) = frame(&mut theirs).await.unwrap();
                assert_eq!(kind, PING);
                assert!(last.elapsed().as_secs() < 45, "well before 60 s: {:?}", last.elapsed());
                last = Instant::now();
                answer(&mut theirs, &payload).await;
            }
            assert_eq!(frame(&mut theirs).await.unwrap().0, PING);
            let asked = Instant::now();
            assert!(frame(&mut theirs).await.is_none(), "it is given up");
            assert_eq!(asked.elapsed().as_secs(), PONG_WITHIN.as_secs());
            task.await.unwrap();
        })
        .await;
}

/// It may have much to say before its PONG.
#[tokio::test(start_paused = true)]
async fn an_endpoint_that_says_something_is_there() {
    let busy = LocalSet::new();
    busy.run_until(async {
        let (connection, task, mut theirs) = connected().await;
        connection.streams.set(1);
        for _ in 0..5 {
            assert_eq!(frame(&mut theirs).await.unwrap().0, PING);
            tokio::time::sleep(PONG_WITHIN / 2).await;
            // An empty SETTINGS stands for what it says.
            theirs.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
            tokio::time::sleep(PONG_WITHIN).await;
            assert!(!task.is_finished());
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_a_busy_time_has_left_is_closed() {
    let resting = LocalSet::new();
    resting
        .run_until(async {
            let (connections, day) = (Connections::new(Use::Requests, &Rc::default()), Duration::from_secs(86_400));
            let mut peers = Vec::new();
            for _ in 0..3 {
                let (connection, task, theirs) = connected().await;
                connections.open.borrow_mut().push(connection);
                peers.push((task, tokio::task::spawn_local(until_left(theirs))));
            }
            let busy = connections.open.borrow()[1].clone();
            busy.lend();
            for _ in 0..UNUSED_SWEEPS {
                assert_eq!(connections.usable(), 3);
                connections.sweep(day);
            }
            connections.sweep(day);
            assert_eq!(connections.usable(), 2, "the first, and one that is in use");
            let (task, theirs) = peers.pop().unwrap();
            theirs.await.unwrap();
            task.await.unwrap();
            busy.give_back(false);
            for _ in 0..=UNUSED_SWEEPS {
                connections.sweep(day);
            }
            assert_eq!(connections.usable(), 1);
            // One that takes no more is no other one.
            connections.open.borrow()[0].retire();
            let (connection, _task, _theirs) = connected().await;
            connections.open.borrow_mut().push(connection);
            for _ in 0..=UNUSED_SWEEPS {
                connections.sweep(day);
            }
            assert_eq!(connections.usable(), 1);
        })
        .await;
}

/// Not all at once; and what runs on an old one runs to its end.
#[tokio::test(start_paused = true)]
async fn old_connections_get_no_new_stream_and_end_with_their_last() {
    let aging = LocalSet::new();
    aging
        .run_until(async {
            let (connections, max_age) = (Connections::new(Use::Requests, &Rc::default()), Duration::from_secs(3_600));
            let mut peers = Vec::new();
            for _ in 0..MAX_CONNECTIONS {
                let (connection, task, theirs) = connected().await;
                connections.open.borrow_mut().push(connection);
                peers.push((task, tokio::task::spawn_local(until_left(theirs))));
            }
            let slot = connections.try_lend(ANY).unwrap();
            tokio::time::sleep(max_age * 9 / 10).await;
            connections.sweep(max_age);
            assert_eq!(connections.usable(), MAX_CONNECTIONS);
            tokio::time::sleep(max_age / 20).await;
            connections.sweep(max_age);
            let young = connections.usable();
            assert!((2..MAX_CONNECTIONS).contains(&young), "{young} are left in the middle of the last tenth");
            tokio::time::sleep(max_age / 20 + Duration::from_secs(1)).await;
            connections.sweep(max_age);
            assert_eq!(connections.usable(), 0);
            assert!(connections.try_lend(ANY).is_none());
            for (task, theirs) in peers.drain(1..) {
                theirs.await.unwrap();
                task.await.unwrap();
            }
            let (task, theirs) = peers.remove(0);
            tokio::time::sleep(Duration::from_secs(500)).await;
            assert!(!task.is_finished(), "its stream runs");
            drop(slot);
            theirs.await.unwrap();
            task.await.unwrap();
        })
        .await;
}
