//! Cowboy nodes are stopped by SIGTERM while requests, uploads and WebSockets run on them. Cowboy breaks off what is
//! under way then: whoever waits for the gate loses nothing, whoever does not loses something, and the clients tell.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::beam::{Beam, beam};
use crate::support::eventually;
use crate::support::fleet::{Fleet, READY};
use crate::support::http::{H2, NotWhole, get, h1, post};
use crate::support::process::{BINARY, Folder};
use crate::support::traffic::{Account, ok, sha256};
use crate::support::websocket::WebSocket;

const REQUESTERS: usize = 12;
const SOCKETS: usize = 12;

/// The endpoints that a client's session was on, one after the other.
type Homes = Vec<String>;

fn arrived(homes: &mut Homes, endpoint: &str) {
    if homes.last().is_none_or(|last| last != endpoint) {
        homes.push(endpoint.to_owned());
    }
}

/// Clients with a session each, until they are stopped.
struct Load {
    stop: Arc<AtomicBool>,
    account: Arc<Account>,
    clients: JoinSet<Homes>,
}

impl Load {
    async fn start(fleet: &Fleet) -> Load {
        let mut load = Load { stop: Arc::default(), account: Arc::default(), clients: JoinSet::new() };
        for i in 0..REQUESTERS + SOCKETS {
            let address = fleet.nodes[i % fleet.nodes.len()].http;
            let (stop, account) = (load.stop.clone(), load.account.clone());
            if i < REQUESTERS {
                load.clients.spawn(requester(i, address, stop, account));
            } else {
                load.clients.spawn(socket(address, stop, account));
            }
        }
        let api = fleet.nodes[0].api;
        eventually("every kind is under way on every endpoint", READY, async || {
            let pool = api.get("/v1/pools/beam").await;
            let endpoints = pool["endpoints"].as_array()?;
            let used = endpoints.iter().filter(|e| e["requests"].as_u64() > e["websockets"].as_u64());
            let used = used.filter(|e| e["websockets"].as_u64() > Some(0)).count();
            let sockets: u64 = endpoints.iter().filter_map(|e| e["websockets"].as_u64()).sum();
            let active = endpoints.iter().filter(|e| e["phase"] == "active").count();
            (used == active && sockets == SOCKETS as u64).then_some(())
        })
        .await;
        load
    }

    /// Until everyone has been served once more, at least on the average.
    async fn go_on(&self) {
        let until = self.account.done.load(Ordering::Relaxed) + 2 * REQUESTERS as u64;
        eventually("it goes on", READY, async || (self.account.done.load(Ordering::Relaxed) >= until).then_some(()))
            .await;
    }

    async fn stop(mut self) -> (Arc<Account>, Vec<Homes>) {
        self.go_on().await;
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        while let Some(homes) = self.clients.join_next().await {
            all.push(homes.expect("no client panicked"));
        }
        (self.account, all)
    }
}

/// One request after the other: short ones, responses that take a while, and uploads, over HTTP/2 or 1.1.
async fn requester(i: usize, address: SocketAddr, stop: Arc<AtomicBool>, account: Arc<Account>) -> Homes {
    let (mut homes, mut cookie) = (Homes::new(), String::new());
    let mut connection = None;
    while !stop.load(Ordering::Relaxed) {
        let kind = i % 3;
        let turn = async {
            // Less than the 65,535 bytes that Cowboy takes ahead of its reader. Beyond them, and with a reader that takes
            // its time, Cowboy 2.8 leaves later requests of an HTTP/1.1 connection unread for ever: without a balancer
            // 35 of 3,333 requests with bodies of 200,000 bytes did, and none of 15,470 with 60,000.
            let body = Bytes::from(vec![i as u8; 60_000]);
            let request = match kind {
                0 => get("/counter", &cookie),
                1 => get("/slow?chunks=6&ms=60", &cookie),
                _ => post("/upload?read_ms=60", &cookie, body.clone()),
            };
            let answer = if (i / 3).is_multiple_of(2) {
                let h2 = match &mut connection {
                    Some(h2) => h2,
                    None => connection.insert(H2::connect(address).await?),
                };
                h2.exchange(request, 16_000).await?
            } else {
                h1(address, request).await?
            };
            let answer = ok(answer)?;
            let home = answer.header("tidelock-endpoint").expect("the route tells").to_owned();
            let whole = match kind {
                0 => answer.json()["endpoint"] == home,
                1 => answer.body == (1..=6).map(|n| format!("{home} {n} of 6\n")).collect::<String>(),
                _ => answer.json()["sha256"] == sha256(&body),
            };
            if let Some(pin) = answer.cookie("tidelock") {
                cookie = pin;
            }
            arrived(&mut homes, &home);
            if whole { Ok(()) } else { Err(NotWhole(format!("another body: {:?}", answer.body))) }
        };
        let result = turn.await;
        if result.is_err() {
            connection = None;
        }
        account.count(["a GET", "a download", "an upload"][kind], result).await;
    }
    homes
}

/// A WebSocket that comes back after a close with 1012. Every other end is a failure.
async fn socket(address: SocketAddr, stop: Arc<AtomicBool>, account: Arc<Account>) -> Homes {
    let (mut homes, mut cookie) = (Homes::new(), String::new());
    while !stop.load(Ordering::Relaxed) {
        let life = async {
            let mut socket = WebSocket::open(address, &cookie).await?;
            if let Some(pin) = socket.cookie() {
                cookie = pin;
            }
            arrived(&mut homes, socket.header("tidelock-endpoint").expect("the route tells"));
            while !stop.load(Ordering::Relaxed) {
                match socket.receive().await? {
                    (8, code) if code == 1012u16.to_be_bytes() => return socket.answer_close().await,
                    (8, code) => return Err(NotWhole(format!("closed with {code:?}"))),
                    // Ticks, one a second.
                    _ => {}
                }
            }
            socket.close().await
        };
        account.count("a WebSocket", life.await).await;
    }
    homes
}

async fn put(fleet: &Fleet, beam: &Beam, revision: &str) {
    let body = json!({ "address": beam.address.to_string(), "revision": revision });
    let answer = fleet.nodes[0].api.put(&format!("/v1/pools/beam/endpoints/{}", beam.name), body).await;
    fleet.until_epoch(answer["epoch"].as_u64().expect("an epoch")).await;
}

async fn fleet(protocol: &str, beams: &[Beam]) -> Fleet {
    let fleet = Fleet::start(3).await;
    let api = fleet.nodes[0].api;
    api.put("/v1/pools/beam", json!({ "protocol": protocol })).await;
    for beam in beams {
        put(&fleet, beam, "v1").await;
    }
    let last = api.put("/v1/routes/beam", json!({ "pool": "beam", "expose": true })).await;
    fleet.until_epoch(last["epoch"].as_u64().expect("an epoch")).await;
    fleet
}

/// SIGTERM, and its end.
async fn stop(beam: Beam) {
    beam.process.signal("TERM");
    let mut process = beam.process;
    let ended = move || process.wait(READY);
    tokio::task::spawn_blocking(ended).await.expect("it ends");
}

/// One of two nodes is stopped under load, behind the gate or without it; how much failed.
async fn stopped_under_load(protocol: &str, gate: bool) -> usize {
    let folder = Folder::new();
    let (one, two) = tokio::join!(beam("cow-1", &folder), beam("cow-2", &folder));
    let beams = [one, two];
    let fleet = fleet(protocol, &beams).await;
    let load = Load::start(&fleet).await;
    let [gone, _stays] = beams;
    if gate {
        let mut command = Command::new(BINARY);
        command.args(["prestop", "--api", &format!("http://{}", fleet.nodes[1].api.0)]);
        command.args(["--address", &gone.address.to_string(), "--timeout", "30s"]);
        let output = tokio::task::spawn_blocking(move || command.output()).await.expect("it ends");
        let output = output.expect("the binary runs");
        assert!(output.status.success(), "not safe: {output:?}");
    }
    stop(gone).await;
    let (account, clients) = load.stop().await;
    let failed = account.failed().await;
    println!("{protocol}, gate: {gate}: {} done, failed: {failed:#?}", account.done.load(Ordering::Relaxed));
    if gate {
        account.assert_clean().await;
        let moved = clients.iter().filter(|homes| homes[..] == ["cow-1", "cow-2"]).count();
        assert!(moved > 0 && clients.iter().all(|homes| homes.last().is_some_and(|home| home == "cow-2")));
        assert_eq!(clients.iter().filter(|homes| homes.len() > 1).count(), moved, "{clients:?}");
    }
    failed.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cowboy_stopped_behind_the_gate_loses_nothing_and_without_it_loses_streams() {
    assert_eq!(stopped_under_load("h2c", true).await, 0);
    assert!(stopped_under_load("h2c", false).await > 0, "the clients would see it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cowboy_stopped_behind_the_gate_loses_nothing_over_http1_either() {
    assert_eq!(stopped_under_load("http1", true).await, 0);
    assert!(stopped_under_load("http1", false).await > 0, "the clients would see it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_of_cowboy_nodes_is_switched_over_and_each_session_moves_once() {
    let folder = Folder::new();
    let (one, two) = tokio::join!(beam("old-1", &folder), beam("old-2", &folder));
    let old = [one, two];
    let fleet = fleet("h2c", &old).await;
    let load = Load::start(&fleet).await;
    let api = fleet.nodes[2].api;
    let (one, two) = tokio::join!(beam("new-1", &folder), beam("new-2", &folder));
    let new = [one, two];
    for beam in &new {
        put(&fleet, beam, "v2").await;
    }
    let body = json!({ "from": { "revision": "v1" }, "to": { "revision": "v2" }, "min_ready": 2, "pace": 10 });
    let answer = api.write(Method::POST, "/v1/pools/beam/switchovers", Some(body)).await;
    let path = format!("/v1/switchovers/{}", answer["switchover"].as_str().expect("an id"));
    eventually("it is done", Duration::from_secs(60), async || {
        let switchover: Value = api.get(&path).await;
        (switchover["stage"] == "done").then_some(())
    })
    .await;
    // Done means safe to stop.
    for beam in old {
        stop(beam).await;
    }
    let (account, clients) = load.stop().await;
    println!("a switchover: {} done, {} failed", account.done.load(Ordering::Relaxed), account.failed().await.len());
    account.assert_clean().await;
    for homes in &clients {
        let [from, to] = &homes[..] else { panic!("one move, and not {homes:?}") };
        assert!(from.starts_with("old-") && to.starts_with("new-"), "{homes:?}");
    }
}
