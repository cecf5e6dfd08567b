//! H11, H15 as properties: whatever bytes a client sends, an HTTP/1.1 endpoint reads nothing but whole, strictly valid
//! requests, and each of them is one that a strict reader finds in what the client sent.
//!
//! `TIDELOCK_FUZZ_CASES` asks for more of them.

use std::cell::RefCell;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{Config as Runs, TestRunner};
use tidelock_balancer::{Config, Limits};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::fleet::{Endpoint, Fleet, H1, config};
use crate::frames::{Event, Peer, frame, soon};

/// What a strict reader finds at the beginning of some bytes.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    /// A request with this target, in so many bytes.
    Request(String, usize),
    /// Not all of one.
    Part,
    Invalid(&'static str),
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// RFC 9112 and RFC 9110 to the letter, and nothing that they only tolerate. A request without a host, or with two, has its
/// end where all others have it.
fn strict(bytes: &[u8], wants_host: bool) -> Found {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        return if bytes.contains(&0) { Found::Invalid("NUL") } else { Found::Part };
    };
    let head = &bytes[..end];
    let mut lines = Vec::new();
    let mut rest = head;
    while let Some(at) = rest.windows(2).position(|window| window == b"\r\n") {
        lines.push(&rest[..at]);
        rest = &rest[at + 2..];
    }
    lines.push(rest);
    let words: Vec<&[u8]> = lines[0].split(|byte| *byte == b' ').collect();
    let [method, target, version] = words[..] else { return Found::Invalid("the request line") };
    let is_target = |byte: &u8| (0x21..0x7f).contains(byte);
    if method.is_empty() || !method.iter().all(|byte| is_token(*byte)) || target.is_empty() {
        return Found::Invalid("the method, or the target");
    }
    if !target.iter().all(is_target) || !matches!(version, b"HTTP/1.1" | b"HTTP/1.0") {
        return Found::Invalid("the target, or the version");
    }
    let (mut length, mut is_chunked, mut hosts) = (None, false, 0);
    for line in &lines[1..] {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { return Found::Invalid("a line") };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.is_empty() || !name.iter().all(|byte| is_token(*byte)) {
            return Found::Invalid("a name");
        }
        if !value.iter().all(|byte| matches!(byte, b'\t' | b' '..=b'~' | 0x80..)) {
            return Found::Invalid("a value");
        }
        match &name.to_ascii_lowercase()[..] {
            b"content-length" => {
                let digits = !value.is_empty() && value.len() < 10 && value.iter().all(u8::is_ascii_digit);
                if length.is_some() || !digits {
                    return Found::Invalid("content-length");
                }
                length = std::str::from_utf8(value).unwrap().parse::<usize>().ok();
            }
            b"transfer-encoding" => {
                if is_chunked || !value.eq_ignore_ascii_case(b"chunked") || version == b"HTTP/1.0" {
                    return Found::Invalid("transfer-encoding");
                }
                is_chunked = true;
            }
            b"host" => hosts += 1,
            _ => {}
        }
    }
    if is_chunked && length.is_some() || wants_host && hosts != 1 {
        return Found::Invalid("two lengths, or not one host");
    }
    let target = String::from_utf8_lossy(target).into_owned();
    let body = end + 4;
    if is_chunked {
        return match chunked(&bytes[body..]) {
            Ok(Some(length)) => Found::Request(target, body + length),
            Ok(None) => Found::Part,
            Err(what) => Found::Invalid(what),
        };
    }
    let whole = body + length.unwrap_or(0);
    if bytes.len() < whole { Found::Part } else { Found::Request(target, whole) }
}

/// How long a chunked body is, its trailers included.
fn chunked(bytes: &[u8]) -> Result<Option<usize>, &'static str> {
    let mut at = 0;
    loop {
        let Some(line) = bytes[at..].windows(2).position(|window| window == b"\r\n") else { return Ok(None) };
        let text = &bytes[at..at + line];
        let digits = text.iter().position(|byte| *byte == b';').unwrap_or(text.len());
        let (size, extension) = text.split_at(digits);
        if size.is_empty() || size.len() > 7 || !size.iter().all(u8::is_ascii_hexdigit) {
            return Err("a chunk's size");
        }
        if !extension.iter().all(|byte| matches!(byte, b'\t' | b' '..=b'~' | 0x80..)) {
            return Err("a chunk's extension");
        }
        let size = usize::from_str_radix(std::str::from_utf8(size).unwrap(), 16).unwrap();
        at += line + 2;
        if size == 0 {
            // Trailers.
            loop {
                let Some(line) = bytes[at..].windows(2).position(|window| window == b"\r\n") else { return Ok(None) };
                let text = &bytes[at..at + line];
                at += line + 2;
                if text.is_empty() {
                    return Ok(Some(at));
                }
                let colon = text.iter().position(|byte| *byte == b':').ok_or("a trailer")?;
                let (name, value) = text.split_at(colon);
                let is_value = value.iter().all(|byte| matches!(byte, b'\t' | b' '..=b'~' | 0x80..));
                if name.is_empty() || !name.iter().all(|byte| is_token(*byte)) || !is_value {
                    return Err("a trailer");
                }
            }
        }
        match bytes.get(at + size..at + size + 2) {
            Some(b"\r\n") => at += size + 2,
            Some(_) => return Err("a chunk's end"),
            None => return Ok(None),
        }
    }
}

/// The targets of all requests in what a client sends, and whether something else follows.
fn requests(mut bytes: &[u8]) -> Vec<String> {
    let mut targets = Vec::new();
    loop {
        // Empty lines before a request are passed over (RFC 9112 section 2.2).
        while let Some(rest) = bytes.strip_prefix(b"\r\n") {
            bytes = rest;
        }
        let Found::Request(target, length) = strict(bytes, false) else { return targets };
        targets.push(target);
        bytes = &bytes[length..];
    }
}

/// Whether all of `some` are among `all`, in their order.
fn is_within(some: &[String], all: &[String]) -> bool {
    let mut all = all.iter();
    some.iter().all(|one| all.any(|other| one == other))
}

/// An endpoint that reads strictly.
#[derive(Default)]
struct Read {
    targets: Mutex<Vec<String>>,
    wrong: Mutex<Vec<String>>,
}

impl Read {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.targets.lock().unwrap())
    }

    async fn connection(&self, mut stream: TcpStream) {
        let (mut bytes, mut buffer) = (Vec::new(), vec![0; 16 * 1024]);
        loop {
            match strict(&bytes, true) {
                Found::Request(target, length) => {
                    bytes.drain(..length);
                    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{target}", target.len());
                    self.targets.lock().unwrap().push(target);
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                    continue;
                }
                Found::Part => {}
                Found::Invalid(what) => {
                    return self.wrong.lock().unwrap().push(format!("{what}: {}", bytes.escape_ascii()));
                }
            }
            match stream.read(&mut buffer).await {
                Ok(n @ 1..) => bytes.extend(&buffer[..n]),
                _ => return,
            }
        }
    }

    async fn listen(self: &Arc<Self>) -> Endpoint {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = Endpoint::elsewhere("a", listener.local_addr().unwrap()).await;
        let read = self.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let read = read.clone();
                tokio::spawn(async move { read.connection(stream).await });
            }
        });
        endpoint
    }
}

async fn fleet(read: &Arc<Read>) -> Fleet {
    let limits = Limits { max_resets_per_connection: 1_000_000, ..Limits::default() };
    Fleet::serving(Config { limits, ..config() }, H1, &[&read.listen().await]).await
}

fn runs() -> u32 {
    std::env::var("TIDELOCK_FUZZ_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(400)
}

fn run<T: Strategy>(strategy: &T, mut test: impl AsyncFnMut(T::Value)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut runner = TestRunner::new(Runs { cases: runs(), failure_persistence: None, ..Runs::default() });
    let test = RefCell::new(&mut test);
    let tried = runner.run(strategy, |value| {
        runtime.block_on(test.borrow_mut()(value));
        Ok(())
    });
    tried.unwrap();
}

/// What is put into requests, at any place.
const PIECES: [&str; 40] = [
    "\r",
    "\n",
    "\r\n",
    "\0",
    " ",
    "\t",
    ":",
    ";",
    ",",
    "0",
    "5",
    "+5",
    "-1",
    "0x5",
    "\r\n ",
    "\n\n",
    "\r\n\r\n",
    "chunked",
    "transfer-encoding: chunked\r\n",
    "Transfer-Encoding : chunked\r\n",
    "transfer-encoding:\tchunked\r\n",
    "transfer-encoding: identity\r\n",
    "transfer-encoding: chunked, chunked\r\n",
    "transfer-encoding: xchunked\r\n",
    "transfer-encoding: \"chunked\"\r\n",
    "transfer-encoding\r\n: chunked\r\n",
    "content-length: 5\r\n",
    "content-length: 5, 5\r\n",
    "content-length: +5\r\n",
    "content-length : 5\r\n",
    "content-length: 05\r\n",
    "content-length: 5 5\r\n",
    "content_length: 5\r\n",
    "host: other.test\r\n",
    "connection: content-length\r\n",
    "connection: transfer-encoding\r\n",
    "0\r\n\r\n",
    "GET /smuggled HTTP/1.1\r\nhost: app.test\r\n\r\n",
    " HTTP/1.1",
    "\u{b}",
];

const SAMPLES: [&str; 6] = [
    "GET /one HTTP/1.1\r\nhost: app.test\r\n\r\n",
    "POST /two HTTP/1.1\r\nhost: app.test\r\ncontent-length: 48\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: app.test\r\nx: y\r\n\r\n",
    "POST /three HTTP/1.1\r\nhost: app.test\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n2;a=b\r\n!!\r\n0\r\n\r\n",
    "POST /four HTTP/1.1\r\nhost: app.test\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nx-sum: 1\r\n\r\n",
    "PUT /five HTTP/1.1\r\nhost: app.test\r\nx-a: b\r\ncontent-length: 5\r\nx-c: d\r\n\r\nhello",
    "POST /six HTTP/1.0\r\nhost: app.test\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\nhi",
];

#[derive(Debug, Clone)]
enum Damage {
    Insert(Index, &'static str),
    Remove(Index, usize),
    Flip(Index, u8),
}

fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let damage = prop_oneof![
        4 => (any::<Index>(), select(&PIECES[..])).prop_map(|(at, piece)| Damage::Insert(at, piece)),
        1 => (any::<Index>(), 1..6usize).prop_map(|(at, length)| Damage::Remove(at, length)),
        1 => (any::<Index>(), 0..8u8).prop_map(|(at, bit)| Damage::Flip(at, bit)),
    ];
    (vec(select(&SAMPLES[..]), 1..4), vec(damage, 0..4)).prop_map(|(samples, damage)| {
        let mut bytes = samples.concat().into_bytes();
        for damage in damage {
            match damage {
                Damage::Insert(at, piece) => {
                    // Mostly where a line begins: elsewhere most pieces are a part of something longer.
                    let at = at.index(bytes.len() + 1);
                    let line = bytes[at..].windows(2).position(|window| window == b"\r\n").map_or(at, |to| at + to + 2);
                    let at = if piece.len() > 3 { line } else { at };
                    bytes.splice(at..at, piece.bytes());
                }
                Damage::Remove(at, length) if !bytes.is_empty() => {
                    let at = at.index(bytes.len());
                    let end = (at + length).min(bytes.len());
                    bytes.drain(at..end);
                }
                Damage::Flip(at, bit) if !bytes.is_empty() => {
                    let at = at.index(bytes.len());
                    bytes[at] ^= 1 << bit;
                }
                _ => {}
            }
        }
        bytes
    })
}

/// The bodies of the endpoint's answers; other answers are the balancer's own.
fn answers(mut bytes: &[u8]) -> Vec<String> {
    let mut answers = Vec::new();
    while let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
        let head = String::from_utf8(bytes[..end].to_vec()).expect("ASCII").to_ascii_lowercase();
        let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next());
        let length: usize = length.map_or(0, |length| length.parse().unwrap());
        let Some(body) = bytes.get(end + 4..end + 4 + length) else { break };
        if head.starts_with("http/1.1 200") {
            answers.push(String::from_utf8(body.to_vec()).unwrap());
        }
        bytes = &bytes[end + 4 + length..];
    }
    answers
}

#[test]
fn no_bytes_of_http1_are_another_request_behind_the_balancer() {
    let read = Arc::new(Read::default());
    let mut held = None;
    run(&damaged(), async |mut sent| {
        let fleet = match &held {
            Some(fleet) => fleet,
            None => held.insert(fleet(&read).await),
        };
        read.take();
        sent.extend(b"GET /last HTTP/1.1\r\nhost: app.test\r\nconnection: close\r\n\r\n");
        let mut client = TcpStream::connect(fleet.address()).await.unwrap();
        client.write_all(&sent).await.unwrap();
        let (mut got, mut buffer) = (Vec::new(), vec![0; 16 * 1024]);
        // What waits for more bytes than there are is left.
        while let Ok(Ok(n @ 1..)) = tokio::time::timeout(Duration::from_millis(40), client.read(&mut buffer)).await {
            got.extend(&buffer[..n]);
        }
        drop(client);
        let (known, seen, answered) = (requests(&sent), read.take(), answers(&got));
        // Some the balancer answers itself.
        assert!(is_within(&seen, &known), "{seen:?} behind, {known:?} before");
        assert!(seen.starts_with(&answered), "{seen:?} behind, {answered:?} answered");
        assert_eq!(*read.wrong.lock().unwrap(), Vec::<String>::new());
    });
}

/// A literal without indexing, its name and its value as they are.
fn literal(block: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    block.push(0);
    for bytes in [name, value] {
        assert!(bytes.len() < 127);
        block.push(bytes.len() as u8);
        block.extend(bytes);
    }
}

fn hostile_fields() -> impl Strategy<Value = Vec<(Vec<u8>, Vec<u8>)>> {
    let names = [
        ":method",
        ":path",
        ":authority",
        ":scheme",
        ":status",
        "host",
        "content-length",
        "transfer-encoding",
        "connection",
        "te",
        "cookie",
        "x-a",
        "X-A",
        "x a",
        "x:a",
        "x\r\na",
        "",
        "x\0",
        "upgrade",
        "proxy-connection",
        "keep-alive",
    ];
    let values = [
        "GET",
        "/",
        "/a b",
        "/\r\nx: y",
        "app.test",
        "app.test\r\nx: y",
        "http",
        "5",
        "5\r\nx: y",
        "chunked",
        "a\nb",
        "a\0b",
        "a\rb",
        " a",
        "a ",
        "",
        "*",
        "/smuggled HTTP/1.1\r\nhost: app.test\r\n\r\nGET /x",
        "trailers",
        "close",
        "a\tb",
        "\u{e4}",
    ];
    let one = (select(names.to_vec()), select(values.to_vec()));
    let free = (vec(any::<u8>(), 0..6), vec(any::<u8>(), 0..12));
    let field = prop_oneof![
        4 => one.prop_map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec())),
        1 => free,
    ];
    vec(field, 0..5)
}

#[test]
fn no_head_of_http2_is_more_than_one_request_behind_the_balancer() {
    let read = Arc::new(Read::default());
    let mut held: Option<(Fleet, Peer)> = None;
    let strategy = (hostile_fields(), vec(any::<Index>(), 4), any::<bool>(), vec(any::<u8>(), 0..30));
    run(&strategy, async |(hostile, places, is_end, body)| {
        let (fleet, client) = match &mut held {
            Some(held) => held,
            None => {
                let fleet = fleet(&read).await;
                let client = fleet.h2().await;
                held.insert((fleet, client))
            }
        };
        read.take();
        let good = [(":method", "POST"), (":scheme", "http"), (":path", "/one"), (":authority", "app.test")];
        let mut fields: Vec<(Vec<u8>, Vec<u8>)> =
            good.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec())).collect();
        for (field, place) in hostile.into_iter().zip(places) {
            let at = place.index(fields.len() + 1);
            // Instead of one that is good, or beside it.
            let end = (at + usize::from(is_end)).min(fields.len());
            fields.splice(at..end, [field]);
        }
        let mut block = Vec::new();
        fields.iter().for_each(|(name, value)| literal(&mut block, name, value));
        let stream = client.take_stream();
        client.raw(&frame(1, if is_end { 5 } else { 4 }, stream, &block)).await;
        if !is_end {
            client.raw(&frame(0, 1, stream, &body)).await;
        }
        let last = client.request("GET", "/last", &[], true).await;
        let answer = soon("the last one", client.response(last)).await;
        assert_eq!(answer.whole(), ("200", &b"/last"[..]));
        // What came of the other is read, too: its own answer, or its reset.
        loop {
            match client.next().await {
                Event::Data { stream: of, end: true, .. } | Event::Reset { stream: of, .. } if of == stream => break,
                Event::Headers { stream: of, end: true, .. } if of == stream => break,
                Event::Closed => panic!("the connection has ended"),
                _ => {}
            }
        }
        let seen = read.take();
        assert!(seen.len() <= 2, "{seen:?}");
        assert_eq!(seen.iter().filter(|target| *target == "/last").count(), 1, "{seen:?}");
        assert_eq!(*read.wrong.lock().unwrap(), Vec::<String>::new());
        let _ = fleet;
    });
}
