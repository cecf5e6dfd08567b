//! Both sides against each other, and [`frames`] of all kinds in any order against either: nothing panics, nothing is lost, and
//! every byte of window is given back.

mod frames;
mod turns;

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use proptest::prelude::*;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex};

use super::frame::{self, PREFACE, Reason, flag, kind};
use super::hpack::Encoder;
use super::{Accepted, Client, Config, Connection, Receiver, RequestHead, Sender, server};
use crate::body::Piece;

fn config() -> Config {
    Config {
        stream_window: 65_535,
        grown_window: 65_535,
        connection_window: 200_000,
        max_frame: 16_384,
        max_streams: 8,
        max_header_bytes: 4_096,
        max_faults: 1_000,
        max_empty: 20_000,
        max_control: 100_000,
    }
}

/// What becomes of a stream.
#[derive(Debug, Clone, Copy)]
enum Plan {
    /// All is read, and answered with as many bytes.
    Echo,
    /// Answered without a look at the body.
    AtOnce(usize),
    /// Read to some point, and dropped.
    Leave(usize),
    Reset,
}

async fn read_to(receiver: &mut Receiver, most: usize) -> Result<usize, usize> {
    let mut read = 0;
    while read < most {
        match poll_fn(|cx| receiver.poll_piece(cx)).await {
            Piece::Data(data) => {
                assert!(data.iter().enumerate().all(|(at, byte)| *byte == byte_at(read + at)));
                read += data.len();
            }
            Piece::Trailers(_) => {}
            Piece::End => return Ok(read),
            Piece::Aborted(_) => return Err(read),
        }
    }
    Ok(read)
}

fn byte_at(at: usize) -> u8 {
    (at % 251) as u8
}

fn body(length: usize) -> Bytes {
    (0..length).map(byte_at).collect()
}

async fn write_all(sender: &mut Sender, mut data: Bytes) -> bool {
    while !data.is_empty() {
        let Ok(room) = poll_fn(|cx| sender.poll_capacity(cx)).await else { return false };
        let piece = data.split_to(room.min(data.len()));
        if sender.send_data(piece, data.is_empty()).is_err() {
            return false;
        }
    }
    true
}

async fn answer(accepted: Accepted, plan: Plan) {
    let Accepted { mut sender, mut receiver, .. } = accepted;
    let fields = HeaderMap::new();
    let length = match plan {
        Plan::Echo => match read_to(&mut receiver, usize::MAX).await {
            Ok(read) => read,
            Err(_) => return,
        },
        Plan::AtOnce(length) => length,
        Plan::Leave(most) => {
            let _ = read_to(&mut receiver, most).await;
            return;
        }
        Plan::Reset => return sender.send_reset(Reason::CANCEL),
    };
    if sender.send_response(StatusCode::OK, &fields, length == 0).is_ok() {
        write_all(&mut sender, body(length)).await;
    }
}

/// Serves a connection to its end, and looks whether it has left everything in order.
async fn serve<S: AsyncRead + AsyncWrite + Unpin>(mut connection: Connection<S>, plans: &[Plan]) {
    let mut requests = FuturesUnordered::new();
    let mut nth = 0;
    poll_fn(|cx| {
        let ended = connection.poll_read(cx);
        while let Some(accepted) = connection.accept() {
            requests.push(answer(accepted, plans[nth % plans.len()]));
            nth += 1;
        }
        while let Poll::Ready(Some(())) = requests.poll_next_unpin(cx) {}
        let _ = connection.poll_write(cx);
        ended
    })
    .await;
    let shared = connection.shared.clone();
    drop(connection);
    drop(requests);
    shared.state.borrow().assert_settled();
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        // Time stands still while anything moves: this is over at once where all hang.
        tokio::time::timeout(std::time::Duration::from_secs(600), test).await.expect("somebody was not woken");
    });
}

/// Takes all that it is given, and passes it on when it is flushed, as TLS may do.
struct Lazy {
    socket: DuplexStream,
    held: Vec<u8>,
}

impl AsyncRead for Lazy {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buf)
    }
}

impl AsyncWrite for Lazy {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.held.len() > 60_000 {
            std::task::ready!(self.as_mut().poll_flush(cx))?;
        }
        self.held.extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while !this.held.is_empty() {
            let n = std::task::ready!(Pin::new(&mut this.socket).poll_write(cx, &this.held))?;
            this.held.drain(..n);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(self.as_mut().poll_flush(cx))?;
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

fn plan() -> impl Strategy<Value = Plan> {
    prop_oneof![
        3 => Just(Plan::Echo),
        2 => (0..300_000usize).prop_map(Plan::AtOnce),
        1 => (0..30_000usize).prop_map(Plan::Leave),
        1 => Just(Plan::Reset),
    ]
}

/// Cases of each property; `TIDELOCK_FUZZ_CASES` asks for more.
fn cases() -> ProptestConfig {
    let cases = std::env::var("TIDELOCK_FUZZ_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(300);
    ProptestConfig { cases, max_shrink_iters: 20_000, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases())]

    /// Bodies of any size at once, both ways, through a pipe of any width: what arrives is what was sent.
    #[test]
    fn both_sides_understand_each_other(
        requests in proptest::collection::vec((0..300_000usize, plan()), 1..20),
        width in 10..100_000usize,
    ) {
        run(async {
            let (ours, theirs) = duplex(width);
            let (client, connection) = Client::begin(ours, config());
            let plans: Vec<Plan> = requests.iter().map(|(_, plan)| *plan).collect();
            let ask = async {
                for few in requests.chunks(config().max_streams as usize) {
                    let asked = few.iter().map(|(length, plan)| ask(&client, *length, *plan));
                    futures_util::future::join_all(asked).await;
                }
            };
            let driven = drive(connection, ask);
            let theirs = Lazy { socket: theirs, held: Vec::new() };
            tokio::join!(serve(server(theirs, Bytes::new(), config()), &plans), driven);
        });
    }
}

fn head(fields: &HeaderMap) -> RequestHead<'_> {
    RequestHead {
        method: &Method::POST,
        is_https: false,
        authority: "app.test",
        path: "/",
        protocol: None,
        fields,
        without: &[],
    }
}

async fn ask(client: &Client, length: usize, plan: Plan) {
    let (mut sender, mut receiver) = client.send(&head(&HeaderMap::new()), length == 0).expect("it runs");
    let upload = async {
        if length > 0 {
            write_all(&mut sender, body(length)).await;
        }
    };
    let download = async {
        let head = poll_fn(|cx| receiver.poll_head(cx)).await;
        match plan {
            Plan::Echo => {
                assert_eq!(head.map(|head| head.status()), Ok(StatusCode::OK));
                assert_eq!(read_to(&mut receiver, usize::MAX).await, Ok(length));
            }
            Plan::AtOnce(expected) => {
                assert_eq!(head.map(|head| head.status()), Ok(StatusCode::OK));
                assert_eq!(read_to(&mut receiver, usize::MAX).await, Ok(expected));
            }
            Plan::Leave(_) | Plan::Reset => assert!(head.is_err()),
        }
    };
    // Both halves in one task, each polled whenever the stream is woken.
    let (mut upload, mut download) = (Box::pin(upload), Box::pin(download));
    let mut is_sent = false;
    poll_fn(|cx| {
        is_sent = is_sent || upload.as_mut().poll(cx).is_ready();
        download.as_mut().poll(cx)
    })
    .await;
}

async fn drive(mut connection: Connection<DuplexStream>, ask: impl Future<Output = ()>) {
    let mut ask = Box::pin(ask);
    poll_fn(|cx| {
        let ended = connection.poll_read(cx).is_ready();
        let asked = ask.as_mut().poll(cx);
        let _ = connection.poll_write(cx);
        assert!(!ended || asked.is_ready(), "the server broke off");
        asked
    })
    .await;
    connection.give_up(Reason::NO_ERROR);
    poll_fn(|cx| connection.poll_write(cx)).await;
    let shared = connection.shared.clone();
    drop(ask);
    drop(connection);
    shared.state.borrow().assert_settled();
}

/// Before a peer has said how many streams it takes, it gets few.
#[test]
fn a_peer_that_has_said_nothing_gets_few_streams() {
    run(async {
        let (ours, mut theirs) = duplex(1 << 20);
        let (client, mut connection) = Client::begin(ours, config());
        assert_eq!(client.max_streams(), 100);
        for (settings, most) in [(&[(4, 70_000)][..], u32::MAX), (&[(3, 7)], 7), (&[(4, 80_000)], 7)] {
            let mut bytes = Vec::new();
            frame::put_settings(&mut bytes, settings);
            theirs.write_all(&bytes).await.unwrap();
            let read = poll_fn(|cx| Poll::Ready(connection.poll_read(cx).is_ready()));
            assert!(!read.await);
            assert_eq!(client.max_streams(), most as usize, "{settings:?}");
        }
    });
}

/// Interim responses that nobody takes do not fill the memory.
#[test]
fn few_interim_responses_are_kept() {
    run(async {
        let (ours, mut theirs) = duplex(1 << 20);
        let (client, mut connection) = Client::begin(ours, config());
        let (_sender, mut receiver) = client.send(&head(&HeaderMap::new()), true).unwrap();
        let mut bytes = Vec::new();
        frame::put_settings(&mut bytes, &[]);
        for _ in 0..1_000 {
            // A literal `:status` of 103.
            frame::put_head(&mut bytes, 5, kind::HEADERS, flag::END_HEADERS, 1);
            bytes.extend(b"\x08\x03103");
        }
        theirs.write_all(&bytes).await.unwrap();
        let read = poll_fn(|cx| Poll::Ready(connection.poll_read(cx).is_ready()));
        assert!(!read.await);
        let mut kept = 0;
        while receiver.take_interim().is_some() {
            kept += 1;
        }
        assert_eq!(kept, 16);
    });
}
