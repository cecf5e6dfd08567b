//! A new process takes over from the old one on the same host, and no client notices.

use std::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use http::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::support::eventually;
use crate::support::fleet::{Fleet, READY};
use crate::support::http::{H1, H2, NotWhole, get, h1};
use crate::support::process::{BINARY, Process, free_port};
use crate::support::traffic::{Account, check_pattern, sha256};
use crate::support::websocket::WebSocket;
use crate::support::writes::{Writes, until_agreed};

mod failures;

const BODY: usize = 3 * 2_000;
const PATH: &str = "/stream?chunks=3&bytes=2000&interval_ms=5";

fn configuration(fleet: &Fleet, i: usize) -> String {
    fleet.nodes[i].data.with_extension("toml").display().to_string()
}

fn successor(configuration: &str, log: &Path) -> Process {
    Process::tidelock(&["serve", "--config", configuration, "--take-over"], log.to_owned())
}

async fn end_of(mut process: Process) -> ExitStatus {
    tokio::task::spawn_blocking(move || process.wait(READY)).await.expect("the wait ends")
}

async fn until_logged(process: &Process, text: &str) {
    eventually(&format!("the log says: {text}"), READY, async || process.log().contains(text).then_some(())).await;
}

/// What the old process says when the new one serves.
const SERVES: &str = "this one ends with what runs on it";

/// The successor of the fleet's only node, when it serves, and the old process.
async fn handed_over(fleet: &mut Fleet, log: &str) -> Process {
    let new = successor(&configuration(fleet, 0), &fleet.log_of(log));
    let old = fleet.nodes[0].process.replace(new).expect("it runs");
    until_logged(&old, SERVES).await;
    old
}

/// Clients on `http` until `stop`: new connections, kept ones, HTTP/2.
fn clients(http: SocketAddr, account: &Arc<Account>, stop: &Arc<AtomicBool>) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    for _ in 0..4 {
        let (counted, stopped) = (account.clone(), stop.clone());
        tasks.spawn(async move {
            while !stopped.load(Ordering::Relaxed) {
                let answer = h1(http, get(PATH, "")).await;
                counted.count("a new client", answer.and_then(|answer| check_pattern(&answer.body, BODY))).await;
            }
        });
        let (counted, stopped) = (account.clone(), stop.clone());
        tasks.spawn(async move {
            while !stopped.load(Ordering::Relaxed) {
                let mut connection = match H1::connect(http).await {
                    Ok(connection) => connection,
                    Err(error) => {
                        counted.count("an HTTP/1.1 connection", Err(error)).await;
                        continue;
                    }
                };
                while !stopped.load(Ordering::Relaxed) {
                    let Some(answer) = connection.get_if_open(PATH).await else { break };
                    let whole = answer.and_then(|answer| check_pattern(&answer.body, BODY));
                    counted.count("an HTTP/1.1 request", whole).await;
                }
            }
        });
        let (counted, stopped) = (account.clone(), stop.clone());
        tasks.spawn(async move {
            while !stopped.load(Ordering::Relaxed) {
                let connection = match H2::connect(http).await {
                    Ok(connection) => connection,
                    Err(error) => {
                        counted.count("an HTTP/2 connection", Err(error)).await;
                        continue;
                    }
                };
                while !stopped.load(Ordering::Relaxed) {
                    let Some(answer) = connection.get_if_open(PATH, "").await else { break };
                    let whole = answer.and_then(|answer| check_pattern(&answer.body, BODY));
                    counted.count("an HTTP/2 request", whole).await;
                }
            }
        });
    }
    tasks
}

async fn served_more(account: &Account, more: u64) {
    let before = account.done.load(Ordering::Relaxed);
    eventually("more requests", READY, async || (account.done.load(Ordering::Relaxed) > before + more).then_some(()))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hand_over_after_hand_over_under_load_fails_no_request() {
    let mut fleet = Fleet::with_demo(1, json!({ "kind": "cookie" })).await;
    let (account, stop) = (Arc::new(Account::default()), Arc::new(AtomicBool::new(false)));
    let mut tasks = clients(fleet.nodes[0].http, &account, &stop);
    let first = configuration(&fleet, 0);
    let toml = std::fs::read_to_string(&first).expect("it was written");
    let log = fleet.log_of("successors");
    let mut old = fleet.nodes[0].process.take().expect("it runs");
    // Fewer and more workers than there are sockets: every queue is still emptied.
    for workers in [2, 1, 3, 2] {
        served_more(&account, 50).await;
        std::fs::write(&first, toml.replace("workers = 2", &format!("workers = {workers}"))).expect("written");
        let new = successor(&first, &log);
        let status = end_of(old).await;
        assert!(status.success(), "{status}");
        fleet.nodes[0].until_ready().await;
        old = new;
    }
    served_more(&account, 50).await;
    stop.store(true, Ordering::Relaxed);
    while let Some(result) = tasks.join_next().await {
        result.expect("no client panicked");
    }
    account.assert_clean().await;
}

/// The same by the signal, which starts what is at the binary's path.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_signal_starts_a_successor() {
    let mut fleet = Fleet::with_demo(1, json!({ "kind": "cookie" })).await;
    let old = fleet.nodes[0].process.take().expect("it runs");
    let connection = H2::connect(fleet.nodes[0].http).await.expect("a connection");
    let mut open = connection.open("/stream?chunks=10&bytes=10&interval_ms=100", "").await.expect("it begins");
    old.signal("USR2");
    until_logged(&old, SERVES).await;
    let answer = h1(fleet.nodes[0].http, get("/whoami", "")).await.expect("the successor answers");
    assert!(answer.status.as_u16() < 500, "{}", answer.status);
    let mut bytes = 0;
    while let Some(chunk) = open.next().await.expect("what runs on the old one goes on") {
        bytes += chunk.len();
    }
    assert_eq!(bytes, 100);
    drop(connection);
    assert!(end_of(old).await.success());
}

/// The leader hands over: another node leads meanwhile, and writes and probes go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_hands_its_leadership_over_first() {
    let mut fleet = Fleet::with_demo(3, json!({ "kind": "cookie" })).await;
    let (account, stop) = (Arc::new(Account::default()), Arc::new(AtomicBool::new(false)));
    let everywhere: Vec<_> = fleet.nodes.iter().map(|node| node.api).collect();
    let writes = Writes::start("write", &everywhere);
    writes.until_more(5).await;
    let leader = fleet.leader().await;
    let mut tasks = clients(fleet.nodes[leader].http, &account, &stop);
    let (api, probed, stopped) = (fleet.nodes[leader].api, Arc::new(Account::default()), stop.clone());
    let counted = probed.clone();
    tasks.spawn(async move {
        while !stopped.load(Ordering::Relaxed) {
            let answer = api.send(Method::GET, "/readyz", None).await.and_then(|answer| match answer.status.as_u16() {
                200 => Ok(()),
                _ => Err(NotWhole(format!("{}: {:?}", answer.status, answer.body))),
            });
            counted.count("a probe", answer).await;
        }
    });
    served_more(&account, 50).await;
    let new = successor(&configuration(&fleet, leader), &fleet.log_of("successor"));
    let old = fleet.nodes[leader].process.replace(new).expect("it runs");
    until_logged(&old, SERVES).await;
    assert!(old.log().contains("has handed its leadership over"), "{}", old.log());
    writes.until_more(20).await;
    assert!(end_of(old).await.success());
    served_more(&account, 50).await;
    let acknowledged = writes.stop().await;
    stop.store(true, Ordering::Relaxed);
    while let Some(result) = tasks.join_next().await {
        result.expect("no client panicked");
    }
    account.assert_clean().await;
    probed.assert_clean().await;
    until_agreed(&fleet, &acknowledged).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_lasts_on_the_old_one_ends_in_order() {
    let mut fleet = Fleet::with_demo(1, json!({ "kind": "cookie" })).await;
    let http = fleet.nodes[0].http;
    let mut sockets = Vec::new();
    for _ in 0..4 {
        sockets.push(WebSocket::open(http, "").await.expect("a WebSocket"));
    }
    let body = vec![b'u'; 100_000];
    let mut upload = TcpStream::connect(http).await.expect("a connection");
    let head = format!("POST /upload HTTP/1.1\r\nhost: demo.test\r\ncontent-length: {}\r\n\r\n", body.len());
    upload.write_all(head.as_bytes()).await.expect("it takes the head");
    upload.write_all(&body[..50_000]).await.expect("it takes a half");

    let old = handed_over(&mut fleet, "successor").await;
    for mut socket in sockets {
        let code = loop {
            // Ticks come before.
            if let (8, code) = socket.receive().await.expect("a close comes before the end") {
                break code;
            }
        };
        assert_eq!(code, 1012u16.to_be_bytes());
        socket.answer_close().await.expect("it is heard");
    }
    let mut socket = WebSocket::open(http, "").await.expect("the new one takes it");
    socket.echo("again").await.expect("it comes back");
    upload.write_all(&body[50_000..]).await.expect("the old one takes the rest");
    let mut answer = String::new();
    // The old one closes the connection behind its answer.
    upload.read_to_string(&mut answer).await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains(&sha256(&body)), "{answer}");
    assert!(end_of(old).await.success());
    socket.echo("still there").await.expect("the new one keeps it");
}

/// A stream on the old process, then another hand-over: the third process hears of it through the second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_is_not_safe_while_an_old_process_has_a_stream_there() {
    let mut fleet = Fleet::with_demo(1, json!({ "kind": "cookie" })).await;
    let connection = H2::connect(fleet.nodes[0].http).await.expect("a connection");
    let stream = connection.open("/stream?chunks=1000&bytes=10&interval_ms=100", "").await.expect("it begins");
    let home = stream.header("tidelock-endpoint").expect("exposed").to_owned();
    let first = handed_over(&mut fleet, "second").await;
    let mut second = handed_over(&mut fleet, "third").await;

    let api = fleet.nodes[0].api;
    // The old ones follow: the fleet waits for none of them.
    let begun = Instant::now();
    api.put("/v1/pools/other?wait=fleet", json!({ "protocol": "h2c" })).await;
    assert!(begun.elapsed() < READY / 10, "{:?}", begun.elapsed());
    let drain = api.drain("demo", &home, json!({ "mode": "streams", "pace": 0 })).await;
    // As long as a safe one takes many times over: a report a second and a look each 200 ms.
    let waited = api.send(Method::GET, &format!("/v1/drains/{drain}?wait=safe&timeout_seconds=4"), None).await;
    let waited = waited.expect("an answer").json();
    assert_eq!(waited["safe"], false, "{waited}");
    let pool = api.get("/v1/pools/demo").await;
    let endpoint = pool["endpoints"].as_array().and_then(|all| all.iter().find(|endpoint| endpoint["name"] == *home));
    assert_eq!(endpoint.expect("it is there")["requests"], 1, "{pool}");
    assert!(second.ended().is_none(), "the second passes on what the first says:\n{}", second.log());
    drop((stream, connection));
    let safe = api.get(&format!("/v1/drains/{drain}?wait=safe&timeout_seconds=30")).await;
    assert_eq!(safe["safe"], true, "{safe}");
    assert!(end_of(first).await.success() && end_of(second).await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listeners_come_and_go_with_the_configuration() {
    let mut fleet = Fleet::with_demo(1, json!({ "kind": "cookie" })).await;
    let (config, port, path) = (configuration(&fleet, 0), free_port(), fleet.nodes[0].data.with_extension("sock"));
    let toml = std::fs::read_to_string(&config).expect("it was written");
    let unix = format!("{toml}\n[[listeners]]\naddress = \"unix:{}\"\n", path.display());
    let request = "GET /whoami HTTP/1.1\r\nhost: demo.test\r\nconnection: close\r\n\r\n";
    let by_file = async || {
        let mut stream = tokio::net::UnixStream::connect(&path).await.expect("it listens");
        stream.write_all(request.as_bytes()).await.expect("it takes the request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 "), "{answer}");
    };
    std::fs::write(&config, format!("{unix}[[listeners]]\naddress = \"127.0.0.1:{port}\"\n")).expect("written");
    let old = handed_over(&mut fleet, "more").await;
    by_file().await;
    h1(([127, 0, 0, 1], port).into(), get("/whoami", "")).await.expect("the added listener answers");
    assert!(end_of(old).await.success());

    // The file stays when who has bound it ends, and the port goes with the last who listens.
    std::fs::write(&config, unix).expect("written");
    let old = handed_over(&mut fleet, "fewer").await;
    assert!(end_of(old).await.success());
    by_file().await;
    let gone = TcpStream::connect(("127.0.0.1", port)).await.expect_err("nobody listens there");
    assert_eq!(gone.kind(), std::io::ErrorKind::ConnectionRefused);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_service_manager_is_told_which_process_is_the_main_one() {
    let mut fleet = Fleet::with_demo(1, json!({ "kind": "cookie" })).await;
    let path = fleet.log_of("notify");
    let manager = UnixDatagram::bind(&path).expect("a new path");
    manager.set_read_timeout(Some(READY)).expect("a limit");
    let mut command = Command::new(BINARY);
    command.args(["serve", "--config", &configuration(&fleet, 0), "--take-over", "--exit-with-parent"]);
    command.env("NOTIFY_SOCKET", &path);
    let new = Process::start(command, fleet.log_of("successor"));
    let old = fleet.nodes[0].process.take().expect("it runs");
    let mut text = [0; 256];
    let length = tokio::task::spawn_blocking(move || manager.recv(&mut text).map(|length| text[..length].to_vec()));
    let heard = String::from_utf8(length.await.expect("no panic").expect("it is told")).expect("a text");
    let lines: Vec<&str> = heard.lines().collect();
    assert!(lines.contains(&"READY=1") && lines.contains(&format!("MAINPID={}", new.id()).as_str()), "{heard}");
    assert!(end_of(old).await.success());
}
