//! Frames of all kinds in any order, and both sides against each other: nothing panics, nothing is lost, and every byte
//! of window is given back.

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
        connection_window: 200_000,
        max_frame: 16_384,
        max_streams: 8,
        max_header_bytes: 4_096,
        max_faults: 1_000,
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

fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let (mut encoder, mut out) = (Encoder::default(), Vec::new());
    encoder.method(&mut out, &Method::POST);
    encoder.scheme(&mut out, false);
    encoder.authority(&mut out, "app.test");
    encoder.path(&mut out, "/");
    for (name, value) in fields {
        encoder.field(&mut out, &name.parse::<HeaderName>().unwrap(), &value.parse::<HeaderValue>().unwrap());
    }
    out
}

/// A frame without its stream, and a hint which that is.
type Loose = (u8, Vec<u8>, u8, u8);

/// Frames, mostly ones that make sense.
fn frames() -> impl Strategy<Value = Vec<Loose>> {
    let head = prop_oneof![
        6 => Just(block(&[])),
        1 => Just(block(&[("content-length", "300"), ("x-own", "1")])),
        1 => Just(block(&[("te", "gzip")])),
        1 => proptest::collection::vec(any::<u8>(), 0..60),
    ];
    let payload = prop_oneof![
        4 => (0..300usize).prop_map(|length| vec![1; length]),
        1 => (8_000..16_000usize).prop_map(|length| vec![1; length]),
        1 => proptest::collection::vec(any::<u8>(), 0..20),
    ];
    let word = prop_oneof![5 => 1..100_000u32, 1 => any::<u32>()].prop_map(|word| word.to_be_bytes().to_vec());
    let setting = (0..10u16, prop_oneof![3 => 0..40_000u32, 1 => any::<u32>()])
        .prop_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat());
    let frame = prop_oneof![
        12 => (Just(kind::HEADERS), head.clone(), prop_oneof![8 => Just(flag::END_HEADERS), 3 => Just(5u8), 1 => any::<u8>()]),
        16 => (Just(kind::DATA), payload.clone(), prop_oneof![8 => Just(0u8), 3 => Just(1u8), 3 => Just(flag::PADDED), 1 => any::<u8>()]),
        4 => (Just(kind::RST_STREAM), word.clone(), Just(0u8)),
        4 => (Just(kind::WINDOW_UPDATE), word.clone(), Just(0u8)),
        1 => (Just(kind::SETTINGS), setting, prop_oneof![5 => Just(0u8), 1 => Just(1u8)]),
        1 => (Just(kind::CONTINUATION), head, any::<u8>()),
        1 => (Just(kind::PING), Just(vec![7; 8]), any::<u8>()),
        1 => (Just(kind::GOAWAY), Just(vec![0; 8]), Just(0u8)),
        1 => (any::<u8>(), payload, any::<u8>()),
    ];
    proptest::collection::vec(
        (frame, any::<u8>()).prop_map(|((kind, payload, flags), hint)| (kind, payload, flags, hint)),
        0..80,
    )
}

/// The frames with streams that fit, mostly: heads open the next one, what else there is goes to one that is open.
fn with_streams(frames: &[Loose], opened: u32) -> Vec<u8> {
    let (mut out, mut next) = (Vec::new(), 2 * opened + 1);
    for (kind, payload, flags, hint) in frames {
        let hint = u32::from(*hint);
        let stream = match *kind {
            kind::SETTINGS | kind::PING | kind::GOAWAY => 0,
            kind::HEADERS if opened == 0 && hint < 220 => {
                next += 2;
                next - 2
            }
            _ if hint < 4 => hint,
            kind::WINDOW_UPDATE if hint < 60 => 0,
            _ => next.saturating_sub(2 + 2 * (hint % 5)),
        };
        frame::put_head(&mut out, payload.len(), *kind, *flags, stream);
        out.extend(payload);
    }
    out
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

    /// A client that sends anything.
    #[test]
    fn a_server_bears_any_frames(
        frames in frames(),
        plans in proptest::collection::vec(plan(), 1..5),
        cut in 1..40_000usize,
    ) {
        run(async {
            let (ours, theirs) = duplex(20_000);
            let (mut reads, mut writes) = tokio::io::split(theirs);
            let connection = server(ours, Bytes::new(), config());
            let mut bytes = PREFACE.to_vec();
            frame::put_settings(&mut bytes, &[]);
            bytes.extend(with_streams(&frames, 0));
            let send = async {
                for piece in bytes.chunks(cut) {
                    if writes.write_all(piece).await.is_err() {
                        return;
                    }
                    tokio::task::yield_now().await;
                }
                let _ = writes.shutdown().await;
            };
            let receive = async {
                let _ = reads.read_to_end(&mut Vec::new()).await;
            };
            // Those of the bodies are not ours: their bytes are not looked at.
            let plans: Vec<Plan> = plans.iter().map(|plan| match plan {
                Plan::Echo => Plan::AtOnce(500),
                Plan::Leave(_) => Plan::Leave(0),
                other => *other,
            }).collect();
            tokio::join!(serve(connection, &plans), send, receive);
        });
    }

    /// An endpoint that answers with anything.
    #[test]
    fn a_client_bears_any_frames(
        frames in frames(),
        cut in 1..40_000usize,
    ) {
        run(async {
            let (ours, mut theirs) = duplex(1 << 20);
            let (client, mut connection) = Client::begin(ours, config());
            let mut bytes = Vec::new();
            frame::put_settings(&mut bytes, &[]);
            bytes.extend(with_streams(&frames, 6));
            let mut streams: Vec<_> = (0..6).map(|nth| client.send(&head(&HeaderMap::new()), nth % 2 == 0).unwrap()).collect();
            let send = async {
                for piece in bytes.chunks(cut) {
                    if theirs.write_all(piece).await.is_err() {
                        return;
                    }
                    tokio::task::yield_now().await;
                }
                let _ = theirs.shutdown().await;
            };
            let drive = poll_fn(|cx: &mut Context<'_>| {
                let ended = connection.poll_read(cx);
                for (sender, receiver) in &mut streams {
                    while receiver.take_interim().is_some() {}
                    let _ = receiver.poll_head(cx);
                    let _ = sender.poll_capacity(cx);
                    while let Poll::Ready(Piece::Data(_) | Piece::Trailers(_)) = receiver.poll_piece(cx) {}
                }
                let _ = connection.poll_write(cx);
                ended
            });
            tokio::join!(drive, send);
            let shared = connection.shared.clone();
            drop((connection, streams));
            shared.state.borrow().assert_settled();
        });
    }

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

/// Bodies that share a connection have their turns: none waits for the others to end.
#[test]
fn bodies_go_side_by_side() {
    run(async {
        let (ours, theirs) = duplex(40_000);
        let wide = Config { stream_window: 1 << 20, connection_window: 1 << 24, ..config() };
        let (client, mut connection) = Client::begin(ours, wide);
        let mut receivers = Vec::new();
        let mut uploads: FuturesUnordered<_> = (0..6)
            .map(|_| {
                let (mut sender, receiver) = client.send(&head(&HeaderMap::new()), false).unwrap();
                receivers.push(receiver);
                async move { write_all(&mut sender, body(600_000)).await }
            })
            .collect();
        let ask = poll_fn(|cx| {
            let _ = connection.poll_read(cx);
            let _ = uploads.poll_next_unpin(cx);
            let _ = connection.poll_write(cx);
            Poll::<()>::Pending
        });
        let mut server = server(theirs, Bytes::new(), wide);
        let mut accepted: Vec<(Accepted, usize)> = Vec::new();
        let read = poll_fn(|cx| {
            let _ = server.poll_read(cx);
            while let Some(request) = server.accept() {
                accepted.push((request, 0));
            }
            for (request, read) in &mut accepted {
                while let Poll::Ready(Piece::Data(data)) = request.receiver.poll_piece(cx) {
                    *read += data.len();
                }
            }
            let _ = server.poll_write(cx);
            let (least, most) = (accepted.iter().map(|(_, n)| *n).min(), accepted.iter().map(|(_, n)| *n).max());
            match (least, most) {
                (Some(least), Some(most)) if most >= 400_000 => Poll::Ready((least, most)),
                _ => Poll::Pending,
            }
        });
        tokio::select! {
            () = ask => {}
            (least, most) = read => assert!(least + 150_000 > most, "{least} of one, {most} of another"),
        }
    });
}

/// What is free is one's who is alone; with others it is given out in turns.
#[test]
fn a_turn_is_a_share() {
    run(async {
        let (client, connection) = Client::begin(tokio::io::empty(), config());
        let fields = HeaderMap::new();
        let (mut one, _reads_one) = client.send(&head(&fields), false).unwrap();
        let (mut two, _reads_two) = client.send(&head(&fields), false).unwrap();
        let cx = &mut Context::from_waker(std::task::Waker::noop());
        let mut state = connection.shared.state.borrow_mut();
        state.window_update(0, 1 << 20).unwrap();
        state.window_update(1, 1 << 20).unwrap();
        state.window_update(3, 1 << 20).unwrap();
        drop(state);
        let drained = |cx: &mut Context<'_>| {
            let mut state = connection.shared.state.borrow_mut();
            assert!(state.output.poll_drain(&mut tokio::io::sink(), cx).is_ready());
            state.wake_waiting();
        };
        drained(cx);
        assert_eq!(one.poll_capacity(cx), Poll::Ready(Ok(super::OUTPUT_MAX)), "alone");
        one.send_data(body(super::OUTPUT_MAX), false).unwrap();
        assert!(one.poll_capacity(cx).is_pending() && two.poll_capacity(cx).is_pending());
        drained(cx);
        assert_eq!(one.poll_capacity(cx), Poll::Ready(Ok(16_384)));
        one.send_data(body(16_384), false).unwrap();
        assert_eq!(two.poll_capacity(cx), Poll::Ready(Ok(16_384)));
        drop(two);
        assert_eq!(one.poll_capacity(cx), Poll::Ready(Ok(super::OUTPUT_MAX)), "alone again");
    });
}
