//! An HTTP/2 peer that does exactly what a test says, frame by frame (RFC 9113 section 4): as a
//! client, or as an endpoint. It acknowledges SETTINGS and PING by itself; everything else is an
//! event, in the order in which it came.

mod events;

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::hpack::{self, Decoder, Fields};

pub(crate) use self::events::{Ended, Event, Request, Response};

/// What is awaited comes at once or the test has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) const NO_ERROR: u32 = 0;
pub(crate) const PROTOCOL_ERROR: u32 = 1;
pub(crate) const INTERNAL_ERROR: u32 = 2;
pub(crate) const REFUSED_STREAM: u32 = 7;
pub(crate) const CANCEL: u32 = 8;

const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const WINDOW: i64 = 65_535;

pub(crate) async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(output) => output,
        Err(_) => panic!("{what}: nothing for {PATIENCE:?}"),
    }
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

pub(crate) struct Peer {
    io: Box<dyn Io>,
    decoder: Decoder,
    /// Came while something else was awaited.
    early: VecDeque<Event>,
    /// Gives window back for DATA, on the stream too.
    pub(crate) reads: bool,
    /// What the other side still lets this one send; stream 0 is the connection.
    windows: BTreeMap<u32, i64>,
    initial_window: i64,
    pongs: u64,
    pings: u64,
    next_stream: u32,
    closed: bool,
    pub(crate) max_streams: Option<u32>,
}

impl Peer {
    fn new(io: Box<dyn Io>) -> Peer {
        Peer {
            io,
            decoder: Decoder::default(),
            early: VecDeque::new(),
            reads: false,
            windows: BTreeMap::from([(0, WINDOW)]),
            initial_window: WINDOW,
            pongs: 0,
            pings: 0,
            next_stream: 1,
            closed: false,
            max_streams: None,
        }
    }

    /// A client that has exchanged SETTINGS.
    pub(crate) async fn connect(address: SocketAddr) -> Peer {
        let stream = TcpStream::connect(address).await.expect("the listener is open");
        stream.set_nodelay(true).unwrap();
        Peer::client(stream).await
    }

    pub(crate) async fn client(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Peer {
        let mut peer = Peer::new(Box::new(stream));
        peer.raw(PREFACE).await;
        peer.frame(4, 0, 0, &[]).await;
        peer.ping().await;
        peer
    }

    /// An endpoint; it has read the preface and answered the SETTINGS.
    pub(crate) async fn endpoint(
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        settings: &[(u16, u32)],
    ) -> Peer {
        let mut peer = Peer::new(Box::new(stream));
        let mut preface = [0; PREFACE.len()];
        soon("the preface", peer.io.read_exact(&mut preface)).await.expect("a preface");
        assert_eq!(&preface, PREFACE);
        let mut payload = Vec::new();
        for (id, value) in settings {
            payload.extend(id.to_be_bytes());
            payload.extend(value.to_be_bytes());
        }
        peer.frame(4, 0, 0, &payload).await;
        peer
    }

    pub(crate) async fn raw(&mut self, bytes: &[u8]) {
        // A peer that has closed is told of by the next event.
        let _ = soon("a write", self.io.write_all(bytes)).await;
        let _ = self.io.flush().await;
    }

    pub(crate) async fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let bytes = frame(kind, flags, stream, payload);
        self.raw(&bytes).await;
    }

    pub(crate) async fn headers(&mut self, stream: u32, fields: &[(&str, &str)], end: bool) {
        self.raw(&headers(stream, fields, end)).await;
    }

    /// A client's next stream.
    pub(crate) fn take_stream(&mut self) -> u32 {
        self.next_stream += 2;
        self.next_stream - 2
    }

    /// A client's request; returns its stream.
    pub(crate) async fn request(&mut self, method: &str, path: &str, fields: &[(&str, &str)], end: bool) -> u32 {
        let stream = self.take_stream();
        let mut all = vec![(":method", method), (":scheme", "http"), (":path", path), (":authority", "app.test")];
        all.extend(fields);
        self.headers(stream, &all, end).await;
        stream
    }

    pub(crate) async fn get(&mut self, path: &str) -> u32 {
        self.request("GET", path, &[], true).await
    }

    /// One DATA frame, when the window is there.
    pub(crate) async fn data(&mut self, stream: u32, bytes: &[u8], end: bool) {
        let length = bytes.len() as i64;
        while self.window(stream).min(self.window(0)) < length {
            let event = self.read_event().await;
            if matches!(event, Some(Event::Closed)) {
                self.early.push_back(Event::Closed);
                return;
            }
            self.early.extend(event);
        }
        *self.windows.entry(0).or_default() -= length;
        *self.windows.entry(stream).or_insert(self.initial_window) -= length;
        self.frame(0, if end { END_STREAM } else { 0 }, stream, bytes).await;
    }

    /// DATA frames of 16 KiB at most.
    pub(crate) async fn body(&mut self, stream: u32, bytes: &[u8], end: bool) {
        let count = bytes.chunks(16_384).len();
        for (i, piece) in bytes.chunks(16_384).enumerate() {
            self.data(stream, piece, end && i + 1 == count).await;
        }
    }

    fn window(&self, stream: u32) -> i64 {
        self.windows.get(&stream).copied().unwrap_or(self.initial_window)
    }

    /// What the windows that are known here allow.
    pub(crate) fn may_send(&self, stream: u32) -> usize {
        self.window(stream).min(self.window(0)).max(0) as usize
    }

    /// A round trip that forgets what came of `stream`, but for its end.
    pub(crate) async fn ping_and_drop(&mut self, stream: u32) {
        let events = self.ping().await;
        let is_middle = |event: &Event| matches!(event, Event::Data { stream: of, end: false, .. } if *of == stream);
        self.early.extend(events.into_iter().filter(|event| !is_middle(event)));
    }

    pub(crate) async fn reset(&mut self, stream: u32, code: u32) {
        self.frame(3, 0, stream, &code.to_be_bytes()).await;
    }

    pub(crate) async fn go_away(&mut self, last: u32, code: u32) {
        let payload = [last.to_be_bytes(), code.to_be_bytes()].concat();
        self.frame(7, 0, 0, &payload).await;
    }

    pub(crate) async fn window_update(&mut self, stream: u32, by: u32) {
        self.frame(8, 0, stream, &by.to_be_bytes()).await;
    }

    /// A response with a body, complete.
    pub(crate) async fn respond(&mut self, stream: u32, status: &str, body: &[u8]) {
        let length = body.len().to_string();
        self.headers(stream, &[(":status", status), ("content-length", &length)], body.is_empty()).await;
        if !body.is_empty() {
            self.body(stream, body, true).await;
        }
    }

    /// The next event.
    pub(crate) async fn next(&mut self) -> Event {
        if let Some(event) = self.early.pop_front() {
            return event;
        }
        loop {
            if let Some(event) = self.read_event().await {
                return event;
            }
        }
    }

    /// A round trip: the events that came before its answer.
    pub(crate) async fn ping(&mut self) -> Vec<Event> {
        self.pings += 1;
        self.frame(6, 0, 0, &self.pings.to_be_bytes()).await;
        let mut events: Vec<Event> = self.early.drain(..).collect();
        while self.pongs < self.pings {
            let event = self.read_event().await;
            let closed = matches!(event, Some(Event::Closed));
            events.extend(event);
            if closed {
                break;
            }
        }
        events
    }

    /// Nothing is on its way to this peer. Several round trips: the connection answers a PING in
    /// its own turn, and what it woke has its turn before the next one.
    pub(crate) async fn quiet(&mut self) {
        for _ in 0..3 {
            let events = self.ping().await;
            assert!(events.is_empty(), "nothing more was to come, but: {events:?}");
        }
    }

    /// The same, where the connection may end: little may be left of its window.
    pub(crate) async fn quiet_or_over(&mut self) {
        for _ in 0..3 {
            let events = self.ping().await;
            let is_end = |event: &Event| matches!(event, Event::GoAway { code: NO_ERROR, .. } | Event::Closed);
            assert!(events.iter().all(is_end), "nothing more was to come, but: {events:?}");
        }
    }

    pub(crate) async fn expect_headers(&mut self) -> (u32, Fields, bool) {
        match self.next().await {
            Event::Headers { stream, fields, end } => (stream, fields, end),
            other => panic!("expected HEADERS, got {other:?}"),
        }
    }

    pub(crate) async fn expect_data(&mut self) -> (u32, Vec<u8>, bool) {
        match self.next().await {
            Event::Data { stream, bytes, end } => (stream, bytes, end),
            other => panic!("expected DATA, got {other:?}"),
        }
    }

    pub(crate) async fn expect_reset(&mut self, stream: u32) -> u32 {
        match self.next().await {
            Event::Reset { stream: reset, code } => {
                assert_eq!(reset, stream);
                code
            }
            other => panic!("expected RST_STREAM on {stream}, got {other:?}"),
        }
    }

    /// A request, whole.
    pub(crate) async fn expect_request(&mut self) -> Request {
        let (stream, fields, mut end) = self.expect_headers().await;
        let mut body = Vec::new();
        let mut frames = Vec::new();
        while !end {
            let (of, bytes, last) = self.expect_data().await;
            assert_eq!(of, stream);
            frames.push(bytes.len());
            body.extend(bytes);
            end = last;
        }
        Request { stream, fields, body, frames }
    }

    /// What comes on `stream`, to its end: END_STREAM, RST_STREAM or the connection's end.
    /// Events of other streams stay for later.
    pub(crate) async fn response(&mut self, stream: u32) -> Response {
        let mut response = Response::default();
        let mut others = VecDeque::new();
        let ended = loop {
            match self.next().await {
                Event::Headers { stream: of, fields, end } if of == stream => {
                    if response.fields.is_empty() {
                        response.fields = fields
                    } else {
                        response.trailers = Some(fields)
                    }
                    if end {
                        break Ended::Whole;
                    }
                }
                Event::Data { stream: of, bytes, end } if of == stream => {
                    response.body.extend(bytes);
                    if end {
                        break Ended::Whole;
                    }
                }
                Event::Reset { stream: of, code } if of == stream => break Ended::Reset(code),
                Event::Closed => break Ended::Closed,
                other => others.push_back(other),
            }
        };
        others.append(&mut self.early);
        self.early = others;
        response.ended = Some(ended);
        response
    }

    async fn read_event(&mut self) -> Option<Event> {
        if self.closed {
            return Some(Event::Closed);
        }
        let Ok((kind, flags, stream, payload)) = soon("a frame", read_frame(&mut self.io)).await else {
            self.closed = true;
            return Some(Event::Closed);
        };
        match kind {
            0 => {
                if self.reads && !payload.is_empty() {
                    self.window_update(0, payload.len() as u32).await;
                    if flags & END_STREAM == 0 {
                        self.window_update(stream, payload.len() as u32).await;
                    }
                }
                Some(Event::Data { stream, bytes: payload, end: flags & END_STREAM != 0 })
            }
            1 => {
                let mut block = payload;
                let mut flags_now = flags;
                while flags_now & END_HEADERS == 0 {
                    let (_, more, _, payload) = soon("CONTINUATION", read_frame(&mut self.io)).await.ok()?;
                    block.extend(payload);
                    flags_now = more;
                }
                let fields = self.decoder.decode(&block);
                Some(Event::Headers { stream, fields, end: flags & END_STREAM != 0 })
            }
            3 => Some(Event::Reset { stream, code: word(&payload) }),
            4 if flags & ACK == 0 => {
                for setting in payload.chunks(6) {
                    let value = word(&setting[2..]);
                    match setting[1] {
                        3 => self.max_streams = Some(value),
                        4 => {
                            let by = i64::from(value) - self.initial_window;
                            self.initial_window = i64::from(value);
                            self.windows.iter_mut().filter(|(of, _)| **of != 0).for_each(|(_, window)| *window += by);
                        }
                        _ => {}
                    }
                }
                self.frame(4, ACK, 0, &[]).await;
                None
            }
            6 if flags & ACK == 0 => {
                self.frame(6, ACK, 0, &payload).await;
                None
            }
            6 => {
                self.pongs = self.pongs.max(u64::from_be_bytes(payload.try_into().unwrap()));
                None
            }
            7 => Some(Event::GoAway { last: word(&payload), code: word(&payload[4..]) }),
            8 => {
                *self.windows.entry(stream).or_insert(self.initial_window) += i64::from(word(&payload));
                None
            }
            _ => None,
        }
    }
}

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// HEADERS, and CONTINUATION as far as needed.
pub(crate) fn headers(stream: u32, fields: &[(&str, &str)], end: bool) -> Vec<u8> {
    let block = hpack::encode(fields);
    let count = block.chunks(16_384).len();
    let mut bytes = Vec::new();
    for (i, piece) in block.chunks(16_384).enumerate() {
        let last = if i + 1 == count { END_HEADERS } else { 0 };
        let flags = last | if end && i == 0 { END_STREAM } else { 0 };
        bytes.extend(frame(if i == 0 { 1 } else { 9 }, flags, stream, piece));
    }
    bytes
}

pub(crate) fn data(stream: u32, bytes: &[u8], end: bool) -> Vec<u8> {
    frame(0, if end { END_STREAM } else { 0 }, stream, bytes)
}

pub(crate) fn reset(stream: u32, code: u32) -> Vec<u8> {
    frame(3, 0, stream, &code.to_be_bytes())
}

async fn read_frame(io: &mut Box<dyn Io>) -> std::io::Result<(u8, u8, u32, Vec<u8>)> {
    let mut head = [0; 9];
    io.read_exact(&mut head).await?;
    let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
    let mut payload = vec![0; length];
    io.read_exact(&mut payload).await?;
    Ok((head[3], head[4], word(&head[5..]) & 0x7fff_ffff, payload))
}

fn word(bytes: &[u8]) -> u32 {
    u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}
