//! A small HTTP/1.1 client over a real socket: what is tested is what clients get, limits and
//! framing included.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::fleet::tests::node::PATIENCE;

pub(super) struct Client {
    pub(super) addr: SocketAddr,
    /// Sent with every request.
    pub(super) headers: Vec<(&'static str, String)>,
}

#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    head: String,
    pub(super) body: Vec<u8>,
}

impl Answer {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let value = |line: &'_ str| line.split_once(':').filter(|(n, _)| n.eq_ignore_ascii_case(name)).is_some();
        let line = self.head.lines().find(|line| value(line))?;
        line.split_once(':').map(|(_, value)| value.trim())
    }

    pub(super) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    #[track_caller]
    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {} {}", self.status, self.text()))
    }

    /// The body of an answer that must have this status.
    #[track_caller]
    pub(super) fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        self.json()
    }

    /// The code of a well-formed problem with this status.
    #[track_caller]
    pub(super) fn problem(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{}", self.text());
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
        assert!(self.header("tidelock-epoch").is_some(), "{}", self.head);
        let json = self.json();
        assert_eq!(json["status"], status);
        assert!(!json["title"].as_str().unwrap().is_empty() && !json["detail"].as_str().unwrap().is_empty());
        json["type"].as_str().unwrap().strip_prefix("urn:tidelock:problem:").unwrap().to_owned()
    }
}

impl Client {
    pub(super) fn new(addr: SocketAddr) -> Client {
        Client { addr, headers: Vec::new() }
    }

    pub(super) fn with(&self, name: &'static str, value: &str) -> Client {
        let mut headers = self.headers.clone();
        headers.push((name, value.to_owned()));
        Client { addr: self.addr, headers }
    }

    pub(super) async fn get(&self, path: &str) -> Answer {
        self.call("GET", path, b"").await
    }

    pub(super) async fn put(&self, path: &str, body: &str) -> Answer {
        self.with("content-type", "application/json").call("PUT", path, body.as_bytes()).await
    }

    pub(super) async fn post(&self, path: &str, body: &str) -> Answer {
        self.with("content-type", "application/json").call("POST", path, body.as_bytes()).await
    }

    pub(super) async fn delete(&self, path: &str) -> Answer {
        self.call("DELETE", path, b"").await
    }

    pub(super) async fn call(&self, method: &str, path: &str, body: &[u8]) -> Answer {
        let mut stream = self.send(method, path, body).await;
        let mut bytes = Vec::new();
        let read = timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("an answer in time");
        // A refused upload may end in a reset behind a complete answer.
        if let Err(error) = read {
            assert!(!bytes.is_empty(), "{error}");
        }
        parse(&bytes)
    }

    /// Opens a stream of events and leaves it open.
    pub(super) async fn events(&self, path: &str) -> Events {
        let stream = self.send("GET", path, b"").await;
        Events { stream, bytes: Vec::new() }
    }

    async fn send(&self, method: &str, path: &str, body: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(self.addr).await.unwrap();
        let mut head = format!("{method} {path} HTTP/1.1\r\nconnection: close\r\ncontent-length: {}\r\n", body.len());
        if !self.headers.iter().any(|(name, _)| *name == "host") {
            head += &format!("host: {}\r\n", self.addr);
        }
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += "\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        // The server may answer and close before it has read all.
        let _ = stream.write_all(body).await;
        stream
    }
}

fn parse(bytes: &[u8]) -> Answer {
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").expect("a whole head");
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let answer = Answer { status, head, body: bytes[end + 4..].to_vec() };
    assert!(answer.header("transfer-encoding").is_none(), "the client reads no chunks");
    answer
}

pub(super) struct Events {
    stream: TcpStream,
    bytes: Vec<u8>,
}

impl Events {
    /// The next event's data. Chunks hold whole events, so lines are whole.
    pub(super) async fn next(&mut self) -> Option<Value> {
        loop {
            let text = String::from_utf8_lossy(&self.bytes).into_owned();
            if let Some((event, _)) = text.split_once("\n\n") {
                let data = event.lines().find_map(|line| line.strip_prefix("data: ").map(str::to_owned));
                self.bytes.drain(..event.len() + 2);
                if let Some(data) = data {
                    return Some(serde_json::from_str(&data).unwrap());
                }
                continue;
            }
            let read = timeout(PATIENCE, self.stream.read_buf(&mut self.bytes)).await.expect("an event in time");
            if read.unwrap() == 0 {
                return None;
            }
        }
    }

    /// The first event that fulfils the condition.
    pub(super) async fn until(&mut self, condition: impl Fn(&Value) -> bool) -> Value {
        loop {
            let event = self.next().await.expect("the stream goes on");
            if condition(&event) {
                return event;
            }
        }
    }

    /// Everything that was read and not looked at yet.
    pub(super) async fn head(&mut self) -> String {
        loop {
            let text = String::from_utf8_lossy(&self.bytes).into_owned();
            if let Some((head, _)) = text.split_once("\r\n\r\n") {
                self.bytes.drain(..head.len() + 4);
                return head.to_owned();
            }
            timeout(PATIENCE, self.stream.read_buf(&mut self.bytes)).await.unwrap().unwrap();
        }
    }
}
