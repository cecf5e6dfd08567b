//! The keys that seal cookies change while sessions go on: none moves. A cookie that nobody sealed is no cookie.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde_json::json;
use tokio::task::JoinSet;

use crate::support::eventually;
use crate::support::fleet::{Fleet, Node, READY};
use crate::support::http::{Answer, H2, NotWhole, get, h1};
use crate::support::process::BINARY;

const SESSIONS: usize = 30;

#[derive(Default)]
struct Shared {
    /// The last node is about to stop: nobody is to ask it.
    away: AtomicBool,
    /// Sessions that have heard so and have nothing under way on it.
    apart: AtomicU64,
    stop: AtomicBool,
    kept: AtomicU64,
    renewed: AtomicU64,
}

/// A session that asks every node in turn, over HTTP/2 or 1.1, and must always come to the same endpoint.
/// It ends when it is told to and its cookie was renewed twice.
async fn session(i: usize, nodes: Vec<SocketAddr>, shared: Arc<Shared>) -> Result<(), NotWhole> {
    let ask = async |node: usize, cookie: &str| -> Result<Answer, NotWhole> {
        match i % 2 {
            0 => H2::connect(nodes[node]).await?.get("/counter", cookie).await,
            _ => h1(nodes[node], get("/counter", cookie)).await,
        }
    };
    let first = ask(i % 2, "").await?;
    let home = first.header("tidelock-endpoint").expect("the route tells").to_owned();
    let mut cookie = first.cookie("tidelock").expect("a pin");
    let (mut renewed, mut is_apart) = (0, false);
    for turn in i.. {
        if renewed >= 2 && shared.stop.load(Ordering::Relaxed) {
            break;
        }
        let away = shared.away.load(Ordering::SeqCst);
        if away != is_apart {
            is_apart = away;
            match away {
                true => shared.apart.fetch_add(1, Ordering::SeqCst),
                false => shared.apart.fetch_sub(1, Ordering::SeqCst),
            };
        }
        let node = turn % if away { nodes.len() - 1 } else { nodes.len() };
        let answer = ask(node, &cookie).await?;
        let told = (answer.status.as_u16(), answer.header("tidelock-endpoint"), answer.header("tidelock-affinity"));
        if told != (200, Some(home.as_str()), Some("kept")) {
            return Err(NotWhole(format!("{told:?}, and not {home}, on node {node}, renewed {renewed} times")));
        }
        shared.kept.fetch_add(1, Ordering::Relaxed);
        if let Some(pin) = answer.cookie("tidelock") {
            cookie = pin;
            renewed += 1;
            shared.renewed.fetch_add(1, Ordering::Relaxed);
        }
    }
    Ok(())
}

async fn rotate(node: &Node) {
    let mut command = Command::new(BINARY);
    command.args(["keys", "rotate", "--api", &format!("http://{}", node.api.0)]);
    let output = tokio::task::spawn_blocking(move || command.output()).await.expect("it ends");
    let output = output.expect("the binary runs");
    assert!(output.status.success(), "{output:?}");
}

/// The newest key's state.
async fn newest(node: &Node) -> serde_json::Value {
    let keys = node.api.get("/v1/cookie-keys").await;
    keys["keys"].as_array().expect("a list").last().expect("a key").clone()
}

async fn until_newest_seals(node: &Node) {
    eventually("the new key seals", READY, async || (newest(node).await["state"] == "seals").then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_session_moves_when_keys_change_and_a_node_is_away_meanwhile() {
    let mut fleet = Fleet::with_demo(3, json!({ "kind": "cookie" })).await;
    let nodes: Vec<SocketAddr> = fleet.nodes.iter().map(|node| node.http).collect();
    let shared = Arc::new(Shared::default());
    let mut sessions = JoinSet::new();
    for i in 0..SESSIONS {
        sessions.spawn(session(i, nodes.clone(), shared.clone()));
    }
    let more = async |what: &AtomicU64, by: usize| {
        let until = what.load(Ordering::Relaxed) + by as u64;
        eventually("they go on", READY, async || (what.load(Ordering::Relaxed) >= until).then_some(())).await;
    };
    more(&shared.kept, 3 * SESSIONS).await;

    // One is away: the new key must wait for it, because it could not open what the others seal.
    shared.away.store(true, Ordering::SeqCst);
    eventually("nobody asks the last node", READY, async || {
        (shared.apart.load(Ordering::SeqCst) == SESSIONS as u64).then_some(())
    })
    .await;
    fleet.nodes[2].kill();
    fleet.until_led().await;
    rotate(&fleet.nodes[0]).await;
    more(&shared.kept, 3 * SESSIONS).await;
    let waiting = newest(&fleet.nodes[1]).await;
    assert_eq!(waiting["state"], "waiting", "{waiting}");
    assert_eq!(shared.renewed.load(Ordering::Relaxed), 0, "nothing is sealed with a key that one does not have");
    fleet.nodes[2].start();
    fleet.nodes[2].until_ready().await;
    shared.away.store(false, Ordering::SeqCst);
    until_newest_seals(&fleet.nodes[1]).await;
    eventually("cookies are renewed", READY, async || {
        (shared.renewed.load(Ordering::Relaxed) >= SESSIONS as u64).then_some(())
    })
    .await;
    // With all of them there.
    rotate(&fleet.nodes[2]).await;
    until_newest_seals(&fleet.nodes[1]).await;
    more(&shared.kept, 6 * SESSIONS).await;
    shared.stop.store(true, Ordering::Relaxed);
    while let Some(ended) = tokio::time::timeout(READY, sessions.join_next()).await.expect("each is renewed twice") {
        ended.expect("no client panicked").expect("no session moves");
    }
    println!(
        "{} requests kept, {} renewals",
        shared.kept.load(Ordering::Relaxed),
        shared.renewed.load(Ordering::Relaxed)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cookie_with_one_bit_changed_begins_a_new_session() {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let fleet = Fleet::with_demo(1, json!({ "kind": "cookie" })).await;
    let address = fleet.nodes[0].http;
    let h2 = H2::connect(address).await.expect("a connection");
    let pin = h2.get("/counter", "").await.expect("an answer").cookie("tidelock").expect("a pin");
    let value = pin.strip_prefix("tidelock=").expect("its name");
    let mut wrong = Vec::new();
    for (at, letter) in value.bytes().enumerate() {
        let with = |byte: u8| {
            let mut bytes = value.as_bytes().to_vec();
            bytes[at] = byte;
            format!("tidelock={}", String::from_utf8(bytes).expect("ASCII"))
        };
        let index = LETTERS.iter().position(|known| *known == letter).expect("base64url");
        // Of what it stands for, and of the text itself as far as that may be sent: no field ends with a blank.
        wrong.extend((0..6).map(|bit| with(LETTERS[index ^ 1 << bit])));
        wrong.extend((0..7).map(|bit| letter ^ 1 << bit).filter(u8::is_ascii_graphic).map(with));
    }
    for (i, cookie) in wrong.iter().enumerate() {
        let answer = match i % 8 {
            0 => h1(address, get("/counter", cookie)).await,
            _ => h2.get("/counter", cookie).await,
        };
        let answer = answer.unwrap_or_else(|NotWhole(why)| panic!("{cookie}: {why}"));
        assert_eq!(answer.status.as_u16(), 200, "{cookie}");
        assert!(answer.header("tidelock-affinity") != Some("kept") && answer.cookie("tidelock").is_some(), "{cookie}");
    }
    println!("{} cookies with one bit changed", wrong.len());
    let answer = h2.get("/counter", &pin).await.expect("an answer");
    assert_eq!(answer.header("tidelock-affinity"), Some("kept"), "the true one counts");
}
