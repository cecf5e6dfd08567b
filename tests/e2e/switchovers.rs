//! A pool's endpoints are replaced while sessions live on them: WebSockets and event streams are closed
//! at a pace and come back elsewhere, once; requests, downloads, long polls and gRPC calls notice nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use http::{HeaderMap, Method, StatusCode};
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use crate::support::eventually;
use crate::support::fleet::{Fleet, READY};
use crate::support::grpc;
use crate::support::http::{H2, NotWhole, set_cookie};
use crate::support::network::in_a_network;
use crate::support::traffic::{Steady, check_pattern, ok};
use crate::support::websocket::WebSocket;

/// As many as the heavier sweep asks for: `TIDELOCK_SOCKETS=5000 TIDELOCK_PACE=500`.
fn asked(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().expect("a number"))
}

/// Endpoints of the old side, and of the new one.
const SIDE: usize = 5;

/// A node takes 100 at a time of one client.
const STREAMS_A_CONNECTION: usize = 20;

/// phoenix.js' first wait before it connects again. It would wait 50 ms before a second try, which fails the test here.
const RECONNECT_AFTER: Duration = Duration::from_millis(10);
const JOIN: &[u8] = br#"["1","1","room:1","phx_join",{}]"#;
const HEARTBEAT: &[u8] = br#"[null,"2","phoenix","heartbeat",{}]"#;
/// Ticks, one a second: phoenix.js counts 30 s, and gives a connection up whose heartbeat was not answered by the next.
const HEARTBEAT_TICKS: usize = 3;

/// A client is back on its new endpoint after this, as a person would notice.
const BACK_WITHIN: Duration = Duration::from_secs(1);

/// What one lasting client has lived through.
#[derive(Debug, Default)]
struct Life {
    /// The endpoints that it was on, one after the other.
    homes: Vec<String>,
}

/// Everything that clients saw close, when.
#[derive(Default)]
struct Seen {
    closes: Mutex<Vec<Instant>>,
    /// From a WebSocket's close until the next one has joined its topic.
    back_after: Mutex<Vec<Duration>>,
    lives: Mutex<Vec<Life>>,
    failures: Mutex<Vec<String>>,
    stop: AtomicBool,
    /// How late a task of these clients was woken at worst.
    lag: Mutex<Duration>,
}

impl Seen {
    /// Looks how late tasks are woken, until the end.
    async fn watch_lag(self: Arc<Self>) {
        const NAP: Duration = Duration::from_millis(5);
        while !self.stop.load(Ordering::Relaxed) {
            let start = Instant::now();
            tokio::time::sleep(NAP).await;
            let mut lag = self.lag.lock().await;
            *lag = start.elapsed().saturating_sub(NAP).max(*lag);
        }
    }

    /// The most closes in any second.
    async fn busiest_second(&self) -> usize {
        let closes = self.closes.lock().await;
        let second =
            |from: Instant| closes.iter().filter(|at| (from..from + Duration::from_secs(1)).contains(*at)).count();
        closes.iter().map(|from| second(*from)).max().unwrap_or(0)
    }
}

/// A WebSocket that comes back after a close with 1012, joins again and keeps its heartbeat, as phoenix.js does. The
/// endpoint says again whatever it is told, which stands for Phoenix's replies.
async fn socket(seen: Arc<Seen>, address: SocketAddr) {
    let (mut life, mut cookie) = (Life::default(), String::new());
    let lived: Result<(), NotWhole> = async {
        let mut closed = None;
        loop {
            let mut socket = WebSocket::open(address, &cookie).await?;
            socket.send(1, JOIN).await?;
            if let Some(set) = socket.cookie() {
                cookie = set;
            }
            life.homes.push(socket.header("tidelock-endpoint").expect("the route tells").to_owned());
            let (mut ticks, mut unanswered) = (0usize, false);
            loop {
                if seen.stop.load(Ordering::Relaxed) {
                    return socket.close().await;
                }
                match socket.receive().await? {
                    (8, code) if code == 1012u16.to_be_bytes() => {
                        let now = *closed.insert(Instant::now());
                        seen.closes.lock().await.push(now);
                        socket.answer_close().await?;
                        tokio::time::sleep(RECONNECT_AFTER).await;
                        break;
                    }
                    (8, code) => return Err(NotWhole(format!("closed with {code:?}"))),
                    (1, reply) if reply.ends_with(JOIN) => {
                        if let Some(closed) = closed {
                            seen.back_after.lock().await.push(Instant::now() - closed);
                        }
                    }
                    (1, reply) if reply.ends_with(HEARTBEAT) => unanswered = false,
                    // A tick.
                    _ => {
                        ticks += 1;
                        if ticks.is_multiple_of(HEARTBEAT_TICKS) {
                            if std::mem::replace(&mut unanswered, true) {
                                return Err(NotWhole("a heartbeat was not answered".into()));
                            }
                            socket.send(1, HEARTBEAT).await?;
                        }
                    }
                }
            }
        }
    }
    .await;
    if let Err(NotWhole(why)) = lived {
        seen.failures.lock().await.push(format!("a WebSocket on {:?}: {why}", life.homes));
    }
    seen.lives.lock().await.push(life);
}

/// An EventSource: it connects again when its stream ends, and must only ever see whole events.
async fn event_source(seen: Arc<Seen>, h2: H2) {
    let (mut life, mut cookie) = (Life::default(), String::new());
    let lived: Result<(), NotWhole> = async {
        loop {
            let mut stream = h2.open("/sse", &cookie).await?;
            if let Some(set) = stream.cookie("tidelock") {
                cookie = set;
            }
            life.homes.push(stream.header("tidelock-endpoint").expect("the route tells").to_owned());
            let mut tail = Vec::new();
            while let Some(data) = stream.next().await? {
                if !data.is_empty() {
                    tail = data.to_vec();
                }
                if seen.stop.load(Ordering::Relaxed) {
                    return Ok(());
                }
            }
            seen.closes.lock().await.push(Instant::now());
            if !tail.ends_with(b"\n\n") {
                return Err(NotWhole(format!("it ended inside an event: {:?}", String::from_utf8_lossy(&tail))));
            }
        }
    }
    .await;
    if let Err(NotWhole(why)) = lived {
        seen.failures.lock().await.push(format!("an event stream on {:?}: {why}", life.homes));
    }
    seen.lives.lock().await.push(life);
}

/// What one session asks for again and again.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// Answered whole after a second of silence.
    LongPoll,
    /// It keeps sending.
    Download,
    /// Ten messages there and back, one after the other.
    BidirectionalCall,
    /// The same, all sent at once.
    StreamingCall,
}

const KINDS: [Kind; 4] = [Kind::LongPoll, Kind::Download, Kind::BidirectionalCall, Kind::StreamingCall];

/// The response's head, when all of it has come.
async fn ask(h2: &H2, kind: Kind, cookie: &str) -> Result<HeaderMap, NotWhole> {
    let (path, length) = match kind {
        Kind::LongPoll => ("/stream?chunks=2&bytes=50&interval_ms=1000", 100),
        Kind::Download => ("/stream?chunks=12&bytes=1000&interval_ms=50", 12_000),
        Kind::BidirectionalCall => return grpc::echo(h2, cookie, 10, true).await,
        Kind::StreamingCall => return grpc::echo(h2, cookie, 10, false).await,
    };
    let answer = ok(h2.get(path, cookie).await?)?;
    check_pattern(&answer.body, length)?;
    Ok(answer.headers)
}

/// One request after the other, of a session.
async fn requester(seen: Arc<Seen>, h2: H2, kind: Kind) {
    let (mut life, mut cookie) = (Life::default(), String::new());
    let lived: Result<(), NotWhole> = async {
        while !seen.stop.load(Ordering::Relaxed) {
            let head = ask(&h2, kind, &cookie).await?;
            if let Some(set) = set_cookie(&head, "tidelock") {
                cookie = set;
            }
            let home = head.get("tidelock-endpoint").and_then(|name| name.to_str().ok()).expect("the route tells");
            if life.homes.last().is_none_or(|last| last != home) {
                life.homes.push(home.to_owned());
            }
        }
        Ok(())
    }
    .await;
    if let Err(NotWhole(why)) = lived {
        seen.failures.lock().await.push(format!("{kind:?} on {:?}: {why}", life.homes));
    }
    seen.lives.lock().await.push(life);
}

/// Three nodes; pool `app` with the endpoints of v1 that the fleet checks.
async fn fleet() -> Fleet {
    with_old_side(Fleet::start(3).await).await
}

async fn with_old_side(mut fleet: Fleet) -> Fleet {
    let api = fleet.nodes[0].api;
    let check = json!({ "check": { "kind": "http", "path": "/counter" }, "interval_ms": 300, "timeout_ms": 1_000 });
    api.put("/v1/pools/app", json!({ "protocol": "h2c", "health": check })).await;
    for i in 1..=SIDE {
        let name = format!("old-{i}");
        fleet.add_endpoint(&name).await;
        put(&fleet, &name, "v1").await;
    }
    let last = api.put("/v1/routes/web", json!({ "pool": "app", "expose": true })).await;
    fleet.until_epoch(last["epoch"].as_u64().expect("an epoch")).await;
    fleet
}

async fn put(fleet: &Fleet, endpoint: &str, revision: &str) {
    let address = fleet.endpoints.iter().find(|e| e.name == endpoint).expect("it runs").address;
    let body = json!({ "address": address.to_string(), "revision": revision });
    fleet.nodes[0].api.put(&format!("/v1/pools/app/endpoints/{endpoint}"), body).await;
}

async fn start(fleet: &Fleet, more: Value) -> String {
    let mut body = json!({ "from": { "revision": "v1" }, "to": { "revision": "v2" }, "min_ready": SIDE });
    body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    let answer = fleet.nodes[0].api.write(Method::POST, "/v1/pools/app/switchovers", Some(body)).await;
    answer["switchover"].as_str().expect("a switchover has an id").to_owned()
}

async fn until_stage(fleet: &Fleet, from: usize, id: &str, stage: &str) -> Value {
    let path = format!("/v1/switchovers/{id}");
    eventually(&format!("{id} is {stage}"), Duration::from_secs(60), async || {
        let answer = fleet.nodes[from].api.send(Method::GET, &path, None).await.ok()?;
        (answer.status == StatusCode::OK && answer.json()["stage"] == stage).then(|| answer.json())
    })
    .await
}

/// What happens in the middle of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    None,
    LeaderKilled,
    FollowerRestarted,
    FollowerParted,
}

async fn replaced_under_load(mut fleet: Fleet, trouble: Trouble) {
    let (sockets, pace) = (asked("TIDELOCK_SOCKETS", 360) as usize, asked("TIDELOCK_PACE", 120));
    let (event_streams, requesters) = (sockets / 4, sockets / 6);
    let leader = fleet.leader().await;
    let follower = (leader + 1) % 3;
    // Clients of a node that stops would go with it.
    let stops = match trouble {
        Trouble::LeaderKilled => Some(leader),
        Trouble::FollowerRestarted => Some(follower),
        Trouble::None | Trouble::FollowerParted => None,
    };
    let mut entries: Vec<usize> = (0..3).filter(|i| Some(*i) != stops).collect();
    // Who is asked is not the one that is cut off.
    entries.sort_by_key(|i| *i == follower);
    let addresses: Vec<SocketAddr> = entries.iter().map(|i| fleet.nodes[*i].http).collect();
    let api = fleet.nodes[entries[0]].api;
    let seen = Arc::new(Seen::default());
    let mut clients = JoinSet::new();
    clients.spawn(seen.clone().watch_lag());
    for i in 0..sockets {
        clients.spawn(socket(seen.clone(), addresses[i % addresses.len()]));
    }
    for first in (0..event_streams).step_by(STREAMS_A_CONNECTION) {
        let address = addresses[first / STREAMS_A_CONNECTION % addresses.len()];
        let connection = H2::connect(address).await.expect("a connection");
        for _ in first..event_streams.min(first + STREAMS_A_CONNECTION) {
            clients.spawn(event_source(seen.clone(), connection.clone()));
        }
    }
    for first in (0..requesters).step_by(STREAMS_A_CONNECTION) {
        let address = addresses[first / STREAMS_A_CONNECTION % addresses.len()];
        let connection = H2::connect(address).await.expect("a connection");
        for i in first..requesters.min(first + STREAMS_A_CONNECTION) {
            clients.spawn(requester(seen.clone(), connection.clone(), KINDS[i % KINDS.len()]));
        }
    }
    let steady = Steady::start(&addresses, 4);
    eventually("all are connected", READY, async || {
        let pool = api.get("/v1/pools/app").await;
        let sum = |what: &str| pool["endpoints"].as_array().map(|e| e.iter().filter_map(|e| e[what].as_u64()).sum());
        (sum("websockets") == Some(sockets as u64) && sum("event_streams") == Some(event_streams as u64)).then_some(())
    })
    .await;

    // The new side is announced before it runs: nothing happens until it is up.
    let id = start(&fleet, json!({ "pace": pace, "deadline_seconds": 60 })).await;
    for i in 1..=SIDE {
        let name = format!("new-{i}");
        fleet.add_endpoint(&name).await;
        put(&fleet, &name, "v2").await;
    }
    until_stage(&fleet, entries[0], &id, "draining").await;
    let begin = Instant::now();
    match trouble {
        Trouble::None => {}
        Trouble::LeaderKilled => {
            fleet.nodes[leader].kill();
            fleet.nodes[leader].start();
        }
        Trouble::FollowerRestarted => {
            fleet.nodes[follower].process.as_ref().expect("it runs").signal("TERM");
            fleet.nodes[follower].until_ended().await;
            fleet.nodes[follower].start();
        }
        Trouble::FollowerParted => {
            fleet.network().part(&[follower]);
            // The others have closed what is theirs, and it is named and waited for.
            eventually("only the node that is cut off is left", Duration::from_secs(40), async || {
                let switchover = api.get(&format!("/v1/switchovers/{id}")).await;
                assert_eq!(switchover["stage"], "draining", "{switchover}");
                let drains = switchover["drains"].as_array()?;
                let missing = |drain: &Value| drain["missing"].as_array().is_some_and(|nodes| !nodes.is_empty());
                (switchover["requests"] == 0 && drains.iter().all(missing)).then_some(())
            })
            .await;
            fleet.network().heal();
        }
    }
    let done = until_stage(&fleet, entries[0], &id, "done").await;
    let took = begin.elapsed();
    // Done means safe: the old side may be stopped now.
    for i in 1..=SIDE {
        fleet.endpoint(&format!("old-{i}")).process.signal("TERM");
    }
    steady.stop().await.assert_clean().await;
    seen.stop.store(true, Ordering::Relaxed);
    while let Some(result) = clients.join_next().await {
        result.expect("no client panicked");
    }

    let failures = seen.failures.lock().await;
    assert!(failures.is_empty(), "{} failed: {:#?}", failures.len(), &failures[..failures.len().min(5)]);
    for drain in done["drains"].as_array().expect("drains") {
        assert_eq!(drain["state"], "drained", "nothing was left for the deadline: {drain}");
    }
    let lives = seen.lives.lock().await;
    assert_eq!(lives.len(), sockets + event_streams + requesters);
    let mut load = BTreeMap::<&str, usize>::new();
    for life in lives.iter() {
        let [old, new] = &life.homes[..] else { panic!("one move, and not {:?}", life.homes) };
        assert!(old.starts_with("old-") && new.starts_with("new-"), "{:?}", life.homes);
        *load.entry(new).or_default() += 1;
    }
    let busiest = load.values().max().expect("they went somewhere");
    assert!(busiest * SIDE <= lives.len() * 5 / 4 + 10 * SIDE, "{load:?}");
    let busiest = seen.busiest_second().await;
    let mut back_after = seen.back_after.lock().await.clone();
    back_after.sort_unstable();
    let p95 = back_after[back_after.len() * 95 / 100];
    println!(
        "{trouble:?}: {} moved once in {took:?}, at most {busiest} in a second, back after {p95:?} (p95), {load:?}",
        lives.len()
    );
    // A client that is woken late sees what was closed meanwhile at once, and the next ones in time: so much more
    // than a second's closes fall into one.
    let lag = *seen.lag.lock().await;
    let most = pace as f64 * (1.1 + lag.as_secs_f64());
    assert!(busiest as f64 <= most, "{busiest} closes in one second at a pace of {pace}, seen {lag:?} late");
    assert!(p95 <= BACK_WITHIN, "{p95:?} until a client is back");
    let at_pace = Duration::from_secs((sockets + event_streams) as u64 / pace);
    assert!(took >= at_pace - Duration::from_millis(500), "{took:?} is faster than the pace");
    if trouble == Trouble::None {
        assert!(took <= at_pace * 2, "{took:?} is far slower than the pace");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_are_replaced_under_load_at_a_pace() {
    replaced_under_load(fleet().await, Trouble::None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killing_the_leader_during_a_switchover_changes_nothing_of_that() {
    replaced_under_load(fleet().await, Trouble::LeaderKilled).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarting_a_node_during_a_switchover_changes_nothing_of_that() {
    replaced_under_load(fleet().await, Trouble::FollowerRestarted).await;
}

#[test]
fn a_node_that_is_cut_off_during_a_switchover_is_waited_for_and_keeps_its_part_of_the_pace() {
    in_a_network(3, async |network| {
        let fleet = with_old_side(Fleet::start_in(network).await).await;
        replaced_under_load(fleet, Trouble::FollowerParted).await;
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_side_that_fails_is_left_again_and_takes_no_session_along() {
    let mut fleet = fleet().await;
    for i in 1..=SIDE {
        let name = format!("new-{i}");
        fleet.add_endpoint(&name).await;
        put(&fleet, &name, "v2").await;
    }
    let (api, address) = (fleet.nodes[1].api, fleet.nodes[2].http);
    let h2 = H2::connect(address).await.expect("a connection");
    let mut cookies = BTreeSet::new();
    for _ in 0..20 {
        cookies.insert(h2.get("/counter", "").await.expect("an answer").cookie("tidelock").expect("a pin"));
    }
    // Sessions stay as long as the deadline allows, so who has one is still served by v1.
    let id = start(&fleet, json!({ "mode": "sessions", "max_error_percent": 20 })).await;
    until_stage(&fleet, 1, &id, "draining").await;
    let failing = eventually("it is rolled back", READY, async || {
        // Whoever is new goes to v2, and is answered 500.
        let answer = h2.get("/status/500", "").await.expect("an answer");
        let switchover = api.get(&format!("/v1/switchovers/{id}")).await;
        if switchover["stage"] == "draining" {
            assert!(answer.header("tidelock-endpoint").expect("told").starts_with("new-"));
        }
        (switchover["stage"] == "rolled-back").then_some(switchover)
    })
    .await;
    assert!(failing["detail"].as_str().expect("a reason").contains("failed"), "{failing}");
    eventually("the old side has everything", READY, async || {
        let pool = api.get("/v1/pools/app").await;
        let endpoints = pool["endpoints"].as_array()?;
        let phases: Vec<&str> = endpoints.iter().filter_map(|e| e["phase"].as_str()).collect();
        (phases == [["drained"; SIDE], ["active"; SIDE]].concat()).then_some(())
    })
    .await;
    for cookie in &cookies {
        let answer = h2.get("/counter", cookie).await.expect("an answer");
        let home = answer.header("tidelock-endpoint").expect("told");
        let affinity = answer.header("tidelock-affinity").expect("told");
        // Those that had begun on v2 come back, the others never moved.
        assert!(home.starts_with("old-") && ["kept", "moved:draining"].contains(&affinity), "{home} {affinity}");
    }
}
