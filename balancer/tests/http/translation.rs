//! H9, H10, H15, H16 as properties: any valid request and any valid response, from either protocol to either, arrives
//! as it was sent, but for what belongs to one connection only and for what the balancer says itself.
//!
//! `TIDELOCK_FUZZ_CASES` asks for more of them.

use std::cell::RefCell;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config as Runs, TestRunner};
use tidelock_balancer::{Config, Limits};

use crate::fleet::{Endpoint, Fleet, H1, H2c, Speaks, config};
use crate::frames::{Ended, Peer};
use crate::hpack::Fields;
use crate::http1::{Head, Http1};

/// Field names that mean nothing to anybody between, some of them with all that a token may have.
const NAMES: [&str; 6] = ["x-a", "x-b", "accept", "x-!#$%&'*+.^_`|~0", "content-type", "x-very-long-and-of-many-words"];

#[derive(Debug, Clone)]
struct Message {
    fields: Vec<(String, String)>,
    /// Each is a line of its own.
    cookies: Vec<String>,
    body: Body,
    /// Only where the length is not known: elsewhere HTTP/1.1 has no place for them.
    trailers: Vec<(String, String)>,
    /// How HTTP/1.1 writes it: white space around values, and a name that `connection` names.
    space: String,
    nominated: bool,
}

#[derive(Debug, Clone)]
enum Body {
    None,
    Known(Vec<u8>),
    /// In pieces, of which none is empty.
    Unknown(Vec<Vec<u8>>),
}

impl Body {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Body::None => Vec::new(),
            Body::Known(bytes) => bytes.clone(),
            Body::Unknown(pieces) => pieces.concat(),
        }
    }
}

/// Visible characters, white space within, and what is beyond ASCII.
fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => "[!-~]([ \t!-~]{0,30}[!-~])?",
        1 => "[!-~äß€]([ -~äß€]{0,8}[!-~äß€])?",
        1 => Just(String::new()),
        1 => "[a-z]{300,2000}",
    ]
}

fn fields() -> impl Strategy<Value = Vec<(String, String)>> {
    vec((select(&NAMES[..]).prop_map(str::to_owned), value()), 0..10)
}

fn body() -> impl Strategy<Value = Body> {
    let piece = |most| vec(any::<u8>(), 1..most);
    prop_oneof![
        2 => Just(Body::None),
        2 => piece(40_000).prop_map(Body::Known),
        1 => Just(Body::Known(Vec::new())),
        2 => vec(piece(9_000), 0..5).prop_map(Body::Unknown),
    ]
}

fn message() -> impl Strategy<Value = Message> {
    let trailers = vec((select(&["x-sum", "x-b"][..]).prop_map(str::to_owned), value()), 0..3);
    let cookies = vec("[a-z]{1,4}=[!#-+\\--:<-\\[\\]-~]{0,12}", 0..4);
    let form = (select(&["", " ", "\t ", "  "][..]).prop_map(str::to_owned), any::<bool>());
    (fields(), cookies, body(), trailers, form).prop_map(|(fields, cookies, body, trailers, (space, nominated))| {
        let trailers = if matches!(&body, Body::Unknown(_)) { trailers } else { Vec::new() };
        Message { fields, cookies, body, trailers, space, nominated }
    })
}

fn request() -> impl Strategy<Value = (String, String, Message)> {
    let method = prop_oneof![
        3 => select(&["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"][..]).prop_map(str::to_owned),
        1 => "[A-Z!#$%&'*+.^_`|~0-9a-z-]{1,10}",
    ];
    let method = method.prop_filter("another property's", |method| !["CONNECT", "TRACE", "PRI"].contains(&&**method));
    let path =
        "/([a-zA-Z0-9._~!$&'()*+,;=:@/-]|%[0-9A-F]{2}){0,40}(\\?([a-zA-Z0-9._~!$&'()*+,;=:@/?-]|%[0-9A-F]{2}){0,40})?";
    (method, path, message())
}

/// Those of `fields` called `name`, in their order.
fn values<'a>(fields: &'a [(String, String)], name: &str) -> Vec<&'a str> {
    fields.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str()).collect()
}

/// What arrived against what was sent.
#[track_caller]
fn check(sent: &Message, fields: &[(String, String)], body: &[u8], trailers: &[(String, String)]) {
    for name in NAMES {
        assert_eq!(values(fields, name), values(&sent.fields, name), "{name}");
    }
    assert!(body == sent.body.bytes(), "{} bytes of {}", body.len(), sent.body.bytes().len());
    for name in ["x-sum", "x-b"] {
        assert_eq!(values(trailers, name), values(&sent.trailers, name), "trailer {name}");
    }
    for name in ["x-named", "connection", "keep-alive", "proxy-connection", "upgrade"] {
        let told: Vec<&str> = values(fields, name).into_iter().filter(|value| *value != "close").collect();
        assert_eq!(told, Vec::<&str>::new(), "{name} is of one connection only");
    }
}

/// The message as HTTP/1.1 has it, from its first line on.
fn to_h1(start: &str, message: &Message, cookie: &str, more: &str) -> Vec<u8> {
    let mut text = format!("{start}\r\n{more}");
    let Message { space, .. } = message;
    for (name, value) in &message.fields {
        text += &format!("{}:{space}{value}{space}\r\n", name.to_uppercase());
    }
    for value in &message.cookies {
        text += &format!("{cookie}: {value}\r\n");
    }
    if message.nominated {
        text += "Connection: x-named, Keep-Alive\r\nX-Named: never\r\nKeep-Alive: timeout=5\r\nProxy-Connection: x\r\n";
    }
    let mut bytes = text.into_bytes();
    match &message.body {
        Body::None => bytes.extend(b"\r\n"),
        Body::Known(body) => {
            bytes.extend(format!("Content-Length: {}\r\n\r\n", body.len()).into_bytes());
            bytes.extend(body);
        }
        Body::Unknown(pieces) => {
            bytes.extend(b"Transfer-Encoding: Chunked\r\n\r\n");
            for (nth, piece) in pieces.iter().enumerate() {
                let extension = if nth % 2 == 0 { "" } else { ";a=\"b\"" };
                bytes.extend(format!("{:X}{extension}\r\n", piece.len()).into_bytes());
                bytes.extend(piece);
                bytes.extend(b"\r\n");
            }
            bytes.extend(b"0\r\n");
            for (name, value) in &message.trailers {
                bytes.extend(format!("{name}:{space}{value}\r\n").into_bytes());
            }
            bytes.extend(b"\r\n");
        }
    }
    bytes
}

/// Sends the message on a stream, behind what is given of its head.
async fn to_h2(peer: &mut Peer, stream: u32, first: &[(&str, &str)], message: &Message, cookie: &str) {
    let length = match &message.body {
        Body::Known(body) => Some(body.len().to_string()),
        _ => None,
    };
    let mut head = first.to_vec();
    head.extend(length.as_ref().map(|length| ("content-length", length.as_str())));
    head.extend(message.fields.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    head.extend(message.cookies.iter().map(|value| (cookie, value.as_str())));
    let bytes = message.body.bytes();
    let is_end = match &message.body {
        Body::None => true,
        Body::Known(body) => body.is_empty(),
        Body::Unknown(_) => false,
    };
    peer.headers(stream, &head, is_end).await;
    if is_end {
        return;
    }
    let has_trailers = !message.trailers.is_empty();
    match &message.body {
        Body::Unknown(pieces) => {
            for piece in pieces {
                peer.data(stream, piece, false).await;
            }
            match has_trailers {
                true => {
                    let trailers: Vec<_> = message.trailers.iter().map(|(name, value)| (&**name, &**value)).collect();
                    peer.headers(stream, &trailers, true).await;
                }
                false => peer.data(stream, b"", true).await,
            }
        }
        _ => peer.body(stream, &bytes, true).await,
    }
}

/// The head, the body and the trailers that came over HTTP/1.1.
async fn from_h1(peer: &mut Http1, head: &Head, is_bodiless: bool) -> (Vec<u8>, Fields) {
    if is_bodiless {
        return (Vec::new(), Vec::new());
    }
    if head.field("transfer-encoding").is_none() {
        return (peer.body(head).await.expect("a whole body"), Vec::new());
    }
    let mut body = Vec::new();
    loop {
        let chunk = peer.chunk().await.expect("a chunk");
        if chunk.is_empty() {
            break;
        }
        body.extend(chunk);
    }
    let split = |line: String| {
        let (name, value) = line.split_once(':').expect("a field");
        (name.to_ascii_lowercase(), value.trim().to_owned())
    };
    (body, peer.trailers().await.into_iter().map(split).collect())
}

/// What the test holds in its hands: a client, and an endpoint's connection.
enum Side {
    H1(Http1),
    H2(Peer),
}

struct Both {
    _fleet: Fleet,
    endpoint: Endpoint,
    client: Side,
    upstream: Option<Side>,
    speaks: Speaks,
}

impl Both {
    async fn new(downstream: Speaks, speaks: Speaks) -> Both {
        let endpoint = Endpoint::listen("a").await;
        let limits = Limits { max_header_bytes: 64 * 1024, ..Limits::default() };
        let fleet = Fleet::serving(Config { limits, ..config() }, speaks, &[&endpoint]).await;
        let client = match downstream {
            H1 => Side::H1(fleet.h1().await),
            H2c => {
                let mut client = fleet.h2().await;
                client.reads = true;
                Side::H2(client)
            }
        };
        Both { _fleet: fleet, endpoint, client, upstream: None, speaks }
    }

    async fn exchange(&mut self, method: &str, path: &str, request: &Message, status: u16, response: &Message) {
        let stream = match &mut self.client {
            Side::H1(client) => {
                client
                    .write(to_h1(&format!("{method} {path} HTTP/1.1"), request, "Cookie", "Host: app.test\r\n"))
                    .await;
                0
            }
            Side::H2(client) => {
                let stream = client.take_stream();
                let head = [(":method", method), (":scheme", "http"), (":path", path), (":authority", "app.test")];
                to_h2(client, stream, &head, request, "cookie").await;
                stream
            }
        };
        let is_bodiless = method == "HEAD" || matches!(status, 204 | 304);
        self.serve(method, path, request, status, response, is_bodiless).await;
        let (got, fields, body, trailers) = match &mut self.client {
            Side::H1(client) => {
                let head = client.head().await;
                let (body, trailers) = from_h1(client, &head, is_bodiless).await;
                (head.status().to_owned(), head.fields, body, trailers)
            }
            Side::H2(client) => {
                let got = client.response(stream).await;
                assert_eq!(got.ended(), Ended::Whole);
                (got.status().to_owned(), got.fields, got.body, got.trailers.unwrap_or_default())
            }
        };
        assert_eq!(got, status.to_string());
        let without;
        let expected = match is_bodiless {
            true => {
                without = Message { body: Body::None, trailers: Vec::new(), ..response.clone() };
                &without
            }
            false => response,
        };
        check(expected, &fields, &body, &trailers);
        let theirs = |cookie: &&str| !cookie.starts_with("tidelock");
        let cookies: Vec<&str> = values(&fields, "set-cookie").into_iter().filter(theirs).collect();
        assert_eq!(cookies, response.cookies, "each a line of its own, in order");
    }

    /// The endpoint's part.
    async fn serve(
        &mut self,
        method: &str,
        path: &str,
        request: &Message,
        status: u16,
        response: &Message,
        is_bodiless: bool,
    ) {
        let endpoint = &self.endpoint;
        let upstream = match self.upstream.take() {
            Some(upstream) => self.upstream.insert(upstream),
            None => self.upstream.insert(match self.speaks {
                H1 => Side::H1(endpoint.h1().await),
                H2c => {
                    let mut upstream = endpoint.h2().await;
                    upstream.reads = true;
                    Side::H2(upstream)
                }
            }),
        };
        match upstream {
            Side::H1(upstream) => {
                let head = upstream.head().await;
                assert_eq!(head.start, format!("{method} {path} HTTP/1.1"));
                assert_eq!(values(&head.fields, "host"), ["app.test"]);
                let (body, trailers) = from_h1(upstream, &head, false).await;
                check(request, &head.fields, &body, &trailers);
                check_cookies(request, &head.fields);
                assert!(values(&head.fields, "cookie").len() <= 1, "crumbs are joined");
                let start = format!("HTTP/1.1 {status} Of Any Reason");
                let mut written = response.clone();
                if is_bodiless {
                    written.body = Body::None;
                } else if matches!(written.body, Body::None) {
                    written.body = Body::Known(Vec::new());
                }
                upstream.write(to_h1(&start, &written, "Set-Cookie", "")).await;
            }
            Side::H2(upstream) => {
                let (stream, fields, mut is_end) = upstream.expect_headers().await;
                let first = |name| values(&fields, name).concat();
                assert_eq!((first(":method"), first(":path")), (method.to_owned(), path.to_owned()));
                assert_eq!((first(":authority"), first("host")), ("app.test".to_owned(), String::new()));
                let (mut body, mut trailers) = (Vec::new(), Vec::new());
                while !is_end {
                    match upstream.next().await {
                        crate::frames::Event::Data { bytes, end, .. } => {
                            body.extend(bytes);
                            is_end = end;
                        }
                        crate::frames::Event::Headers { fields, end, .. } => {
                            trailers = fields;
                            is_end = end;
                        }
                        other => panic!("{other:?}"),
                    }
                }
                check(request, &fields, &body, &trailers);
                check_cookies(request, &fields);
                let mut written = response.clone();
                if is_bodiless {
                    (written.body, written.trailers) = (Body::None, Vec::new());
                }
                let status = status.to_string();
                to_h2(upstream, stream, &[(":status", status.as_str())], &written, "set-cookie").await;
            }
        }
    }
}

fn check_cookies(sent: &Message, fields: &[(String, String)]) {
    assert_eq!(values(fields, "cookie").join("; "), sent.cookies.join("; "));
}

fn runs() -> u32 {
    std::env::var("TIDELOCK_FUZZ_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(150)
}

fn each_way(downstream: Speaks, speaks: Speaks) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    // Begun anew where a case has failed, or all smaller ones would.
    let both = RefCell::new(None);
    let mut runner = TestRunner::new(Runs { cases: runs(), failure_persistence: None, ..Runs::default() });
    let statuses = select(&[200, 201, 204, 206, 304, 404, 418, 500, 599][..]);
    let tried = runner.run(&(request(), statuses, message()), |((method, path, request), status, response)| {
        runtime.block_on(async {
            let taken = both.take();
            let mut fresh = match taken {
                Some(both) => both,
                None => Both::new(downstream, speaks).await,
            };
            fresh.exchange(&method, &path, &request, status, &response).await;
            both.replace(Some(fresh));
        });
        Ok(())
    });
    tried.unwrap();
}

#[test]
fn http1_to_http1() {
    each_way(H1, H1);
}

#[test]
fn http1_to_http2() {
    each_way(H1, H2c);
}

#[test]
fn http2_to_http1() {
    each_way(H2c, H1);
}

#[test]
fn http2_to_http2() {
    each_way(H2c, H2c);
}
