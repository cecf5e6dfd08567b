//! Clients that know what they must get, and what they must never take for it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use http::{Method, Request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::app::{CLOSE, blob, events, messages, send_h2};
use super::network::{Dice, GARBAGE};
use crate::http1::Http1;

/// What clients have seen.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) whole: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) cut: AtomicU64,
}

/// A client's close frame: its mask is zeros.
const MASKED_CLOSE: [u8; 8] = [0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8];

/// One thing to ask, and all that may come back.
struct Asked {
    path: String,
    upload: Option<Vec<u8>>,
    expected: Vec<u8>,
    /// What a WebSocket's client says.
    socket: Option<Vec<Vec<u8>>>,
}

impl Asked {
    fn roll(dice: &mut Dice, id: &str) -> Asked {
        let length = [0, 1, 1_000, 16_384, 16_385, 200_000][dice.roll(6) as usize];
        let (what, count) = (dice.roll(1_000), 1 + dice.roll(60) as usize);
        let (path, upload, expected, socket) = match dice.roll(8) {
            0..=3 => (format!("/blob/{what}/{length}"), None, blob(what, length), None),
            4 | 5 => (format!("/once/{id}"), Some(blob(what, length)), b"done".to_vec(), None),
            6 => (format!("/events/{what}/{count}"), None, events(what, count).concat().into_bytes(), None),
            _ => {
                let expected = [messages(what, count, false).concat(), CLOSE.to_vec()].concat();
                (format!("/socket/{what}/{count}"), None, expected, Some(messages(what, count, true)))
            }
        };
        Asked { path, upload, expected, socket }
    }

    /// What came of it: a status, and the body or what came on the WebSocket; none of it that looked cut.
    fn check(&self, got: Option<(u16, Got)>, seen: &Seen) -> bool {
        match got {
            Some((200, Got::Whole(body))) => {
                let lengths = (body.len(), self.expected.len());
                assert!(body == self.expected, "{} looks whole and is not: {lengths:?}", self.path);
                seen.whole.fetch_add(1, Ordering::Relaxed);
                return true;
            }
            Some((200, Got::Socket(received))) if received == self.expected => {
                seen.whole.fetch_add(1, Ordering::Relaxed);
                return true;
            }
            Some((200, Got::Socket(received))) => {
                assert!(self.is_beginning(&received), "{}: {received:x?}", self.path);
                seen.cut.fetch_add(1, Ordering::Relaxed);
            }
            Some((200, Got::Cut)) | None => drop(seen.cut.fetch_add(1, Ordering::Relaxed)),
            Some((502..=504, _)) => drop(seen.refused.fetch_add(1, Ordering::Relaxed)),
            Some((status, _)) => panic!("{}: {status}", self.path),
        }
        false
    }

    /// Of a WebSocket that broke: what came is as it was sent, and a close behind it does not say that this was all.
    fn is_beginning(&self, received: &[u8]) -> bool {
        let closes = match received {
            [before @ .., 0x88, 2, one, other] if [*one, *other] != CLOSE[2..] => self.begins(before),
            _ => false,
        };
        closes || self.begins(received)
    }

    /// What a network puts in place of the rest (`Garbles`) may fall within a frame of cleartext HTTP/2, and is as good as any
    /// bytes then: the balancer passes on what has come of a message.
    fn begins(&self, received: &[u8]) -> bool {
        let garbled = received.iter().rev().take(GARBAGE.len()).take_while(|byte| **byte == GARBAGE[0]).count();
        self.expected.starts_with(received) || self.expected.starts_with(&received[..received.len() - garbled])
    }
}

enum Got {
    Whole(Vec<u8>),
    Cut,
    /// All that came on a WebSocket.
    Socket(Vec<u8>),
}

/// A client's two connections; it asks on one of them.
struct Client {
    address: SocketAddr,
    h1: Http1,
    h2: SendRequest<Bytes>,
    is_h1: bool,
}

impl Client {
    async fn connect(address: SocketAddr, is_h1: bool) -> Client {
        let stream = TcpStream::connect(address).await.unwrap();
        let (h2, connection) = h2::client::Builder::new().handshake::<_, Bytes>(stream).await.unwrap();
        tokio::spawn(connection);
        Client { address, h1: Http1::connect(address).await, h2, is_h1 }
    }

    async fn ask(&mut self, asked: &Asked) -> Option<(u16, Got)> {
        match (&asked.socket, self.is_h1) {
            (None, false) => self.request_h2(asked).await,
            (Some(messages), false) => self.socket_h2(&asked.path, messages).await,
            (None, true) => {
                let got = self.request_h1(asked).await;
                if !matches!(got, Some((_, Got::Whole(_)))) {
                    self.h1 = Http1::connect(self.address).await;
                }
                got
            }
            (Some(messages), true) => socket_h1(self.address, &asked.path, messages).await,
        }
    }

    async fn request_h1(&mut self, asked: &Asked) -> Option<(u16, Got)> {
        let head = match &asked.upload {
            None => format!("GET {} HTTP/1.1\r\n", asked.path),
            Some(upload) => format!("POST {} HTTP/1.1\r\ncontent-length: {}\r\n", asked.path, upload.len()),
        };
        self.h1.request(&head, asked.upload.as_deref().unwrap_or_default()).await;
        let head = self.h1.try_head().await?;
        let body = self.h1.body(&head).await;
        Some((head.status().parse().unwrap(), body.map_or(Got::Cut, Got::Whole)))
    }

    async fn request_h2(&mut self, asked: &Asked) -> Option<(u16, Got)> {
        let method = if asked.upload.is_some() { "POST" } else { "GET" };
        let mut request = Request::builder().method(method).uri(format!("http://app.test{}", asked.path));
        if let Some(upload) = &asked.upload {
            request = request.header("content-length", upload.len());
        }
        let mut client = self.h2.clone().ready().await.ok()?;
        let upload = asked.upload.clone().filter(|upload| !upload.is_empty());
        let (response, mut stream) = client.send_request(request.body(()).unwrap(), upload.is_none()).ok()?;
        if let Some(upload) = upload {
            tokio::spawn(async move { send_h2(&mut stream, upload.into(), true).await });
        }
        let response = response.await.ok()?;
        let status = response.status().as_u16();
        let mut body = response.into_body();
        let mut bytes = Vec::new();
        while let Some(piece) = body.data().await {
            let Ok(piece) = piece else { return Some((status, Got::Cut)) };
            let _ = body.flow_control().release_capacity(piece.len());
            bytes.extend(piece);
        }
        Some((status, if body.is_end_stream() { Got::Whole(bytes) } else { Got::Cut }))
    }

    async fn socket_h2(&mut self, path: &str, messages: &[Vec<u8>]) -> Option<(u16, Got)> {
        let mut request = Request::new(());
        *request.method_mut() = Method::CONNECT;
        *request.uri_mut() = format!("http://app.test{path}").parse().unwrap();
        request.extensions_mut().insert(h2::ext::Protocol::from_static("websocket"));
        request.headers_mut().insert("sec-websocket-version", "13".parse().unwrap());
        let mut client = self.h2.clone().ready().await.ok()?;
        let (response, mut stream) = client.send_request(request, false).ok()?;
        let response = response.await.ok()?;
        let (status, mut body) = (response.status().as_u16(), response.into_body());
        let send = async {
            for message in messages {
                if send_h2(&mut stream, message.clone().into(), false).await.is_none() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            send_h2(&mut stream, Bytes::from_static(&MASKED_CLOSE), true).await;
        };
        let receive = async {
            let mut received = Vec::new();
            while let Some(Ok(piece)) = body.data().await {
                let _ = body.flow_control().release_capacity(piece.len());
                received.extend(piece);
            }
            received
        };
        let ((), received) = tokio::join!(send, receive);
        Some((status, Got::Socket(received)))
    }
}

async fn socket_h1(address: SocketAddr, path: &str, messages: &[Vec<u8>]) -> Option<(u16, Got)> {
    let mut client = Http1::connect(address).await;
    let upgrade = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n";
    let key = "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    client.request(&format!("GET {path} HTTP/1.1\r\n{upgrade}{key}"), "").await;
    let head = client.try_head().await?;
    if head.status() != "101" {
        let body = client.body(&head).await;
        return Some((head.status().parse().unwrap(), body.map_or(Got::Cut, Got::Whole)));
    }
    let mut received = client.taken();
    let (mut read, mut write) = client.io.into_split();
    let send = async {
        for message in messages.iter().map(Vec::as_slice).chain([&MASKED_CLOSE[..]]) {
            if write.write_all(message).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let (_, ()) = tokio::join!(read.read_to_end(&mut received), send);
    Some((200, Got::Socket(received)))
}

/// One client's requests, one after the other; those of its POSTs that were answered.
pub(super) async fn load(address: SocketAddr, is_h1: bool, seed: u64, requests: u64, seen: &Seen) -> Vec<String> {
    let mut dice = Dice(seed);
    let mut client = Client::connect(address, is_h1).await;
    let mut done = Vec::new();
    for nth in 0..requests {
        let id = format!("{seed}-{nth}");
        let asked = Asked::roll(&mut dice, &id);
        let got = client.ask(&asked).await;
        if asked.check(got, seen) && asked.upload.is_some() {
            done.push(id);
        }
    }
    done
}
