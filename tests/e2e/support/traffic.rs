//! Mixed traffic that checks every byte, and the account of what went wrong.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use super::http::{Answer, H2, NotWhole, get, h1, post};
use super::websocket::WebSocket;

/// The byte at offset n of every download.
pub(crate) fn check_pattern(body: &[u8], length: usize) -> Result<(), NotWhole> {
    let wrong = body.iter().enumerate().find(|(at, byte)| **byte != (at % 251) as u8);
    match wrong {
        Some((at, _)) => Err(NotWhole(format!("a wrong byte at {at}"))),
        None if body.len() != length => Err(NotWhole(format!("{} bytes of {length}", body.len()))),
        None => Ok(()),
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn ok(answer: Answer) -> Result<Answer, NotWhole> {
    if answer.status == 200 {
        return Ok(answer);
    }
    Err(NotWhole(format!("status {}: {:?}", answer.status, answer.body)))
}

pub(crate) async fn download(
    h2: &H2,
    cookie: &str,
    chunks: usize,
    bytes: usize,
    interval_ms: u64,
) -> Result<(), NotWhole> {
    let path = format!("/stream?chunks={chunks}&bytes={bytes}&interval_ms={interval_ms}");
    let answer = ok(h2.get(&path, cookie).await?)?;
    check_pattern(&answer.body, chunks * bytes)
}

pub(crate) async fn upload(h2: &H2, cookie: &str, body: Bytes, piece: usize) -> Result<(), NotWhole> {
    let expected = sha256(&body);
    let answer = ok(h2.exchange(post("/upload", cookie, body), piece).await?)?;
    match answer.json()["sha256"].as_str() {
        Some(sha256) if sha256 == expected => Ok(()),
        other => Err(NotWhole(format!("another body arrived: {other:?}"))),
    }
}

pub(crate) async fn h1_download(
    address: SocketAddr,
    cookie: &str,
    chunks: usize,
    bytes: usize,
) -> Result<(), NotWhole> {
    let path = format!("/stream?chunks={chunks}&bytes={bytes}&interval_ms=10");
    let answer = ok(h1(address, get(&path, cookie)).await?)?;
    check_pattern(&answer.body, chunks * bytes)
}

/// What went well and what did not, over all tasks.
#[derive(Debug, Default)]
pub(crate) struct Account {
    pub(crate) done: AtomicU64,
    failures: Mutex<Vec<String>>,
}

impl Account {
    pub(crate) async fn count(&self, what: &str, result: Result<(), NotWhole>) {
        match result {
            Ok(()) => {
                self.done.fetch_add(1, Ordering::Relaxed);
            }
            Err(NotWhole(why)) => self.failures.lock().await.push(format!("{what}: {why}")),
        }
    }

    pub(crate) async fn failed(&self) -> Vec<String> {
        self.failures.lock().await.clone()
    }

    pub(crate) async fn assert_clean(&self) {
        let failures = self.failures.lock().await;
        let shown: Vec<&String> = failures.iter().take(10).collect();
        assert!(failures.is_empty(), "{} failed: {shown:#?}", failures.len());
        assert!(self.done.load(Ordering::Relaxed) > 0, "there was no traffic");
    }
}

/// Requests one after the other on several connections to several nodes, until stopped.
pub(crate) struct Steady {
    stop: Arc<AtomicBool>,
    tasks: JoinSet<()>,
    pub(crate) account: Arc<Account>,
}

impl Steady {
    /// `sessions` clients, each with its own session, connection and node.
    pub(crate) fn start(nodes: &[SocketAddr], sessions: usize) -> Steady {
        let mut steady = Steady { stop: Arc::default(), tasks: JoinSet::new(), account: Arc::default() };
        for i in 0..sessions {
            let (address, stop, account) = (nodes[i % nodes.len()], steady.stop.clone(), steady.account.clone());
            steady.tasks.spawn(async move {
                let mut cookie = String::new();
                let mut h2 = None;
                while !stop.load(Ordering::Relaxed) {
                    let result = Steady::turn(address, i, &mut h2, &mut cookie).await;
                    account.count("a steady request", result).await;
                }
            });
        }
        steady
    }

    async fn turn(address: SocketAddr, i: usize, h2: &mut Option<H2>, cookie: &mut String) -> Result<(), NotWhole> {
        let connection = match h2 {
            Some(connection) => connection,
            None => h2.insert(H2::connect(address).await?),
        };
        let answer = ok(connection.get("/counter", cookie).await?)?;
        if let Some(pin) = answer.cookie("tidelock") {
            *cookie = pin;
        }
        let body = Bytes::from(vec![i as u8; 1 + i * 997 % 60_000]);
        upload(connection, cookie, body, 5_000).await
    }

    pub(crate) async fn stop(mut self) -> Arc<Account> {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(result) = self.tasks.join_next().await {
            result.expect("no client panicked");
        }
        self.account
    }
}

/// One stream of the mix, by its number: downloads, uploads, WebSockets, over HTTP/2 and 1.1.
pub(crate) async fn mixed(i: usize, address: SocketAddr, h2: H2, cookie: String) -> Result<(), NotWhole> {
    match i % 5 {
        0 => download(&h2, &cookie, 20, 1_000, 100).await,
        1 => download(&h2, &cookie, 3, 60_000, 700).await,
        2 => upload(&h2, &cookie, Bytes::from(vec![i as u8; 150_000]), 10_000).await,
        3 => h1_download(address, &cookie, 20, 500).await,
        _ => {
            let mut socket = WebSocket::open(address, &cookie).await?;
            for round in 0..5 {
                socket.echo(&format!("{i} and {round}")).await?;
                tokio::time::sleep(std::time::Duration::from_millis(300)).await;
            }
            socket.close().await
        }
    }
}
