//! HTTP/2 from clients, on the h2 crate directly: its frames, resets and windows are ours to
//! decide on.
//!
//! A connection owns its requests and polls them in its own task. So all that a turn produces
//! leaves in one write, and a connection that ends ends its requests with it.

mod answer;

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use h2::Reason;
use h2::server::{Builder, Connection};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep, sleep};
use tracing::debug;

use answer::{Ended, answer};

use crate::gather::{Drainer, gathered};
use crate::headers::Client;
use crate::socket::Socket;
use crate::timers::Idle;
use crate::turn::Turn;
use crate::worker::Worker;

/// A stream's window: what one upload may hold here before its endpoint reads.
const STREAM_WINDOW: u32 = 256 * 1024;
/// Wide enough that stalled uploads never starve another stream of their connection.
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;
/// An honest client may cancel a page of images at once; beyond it the connection is closed with
/// ENHANCE_YOUR_CALM (the library's default of 20 hits browsers).
const PENDING_RESETS: usize = 200;

/// Over what time a client's broken-off requests are counted (`max_resets_per_connection`).
const RESETS_WINDOW: Duration = Duration::from_secs(10);

/// `first` was read from the socket already.
pub(crate) async fn serve(worker: Rc<Worker>, socket: Socket, first: Bytes, client: Rc<Client>) {
    let (io, drainer) = gathered(socket, first, ());
    let limits = &worker.config.limits;
    let handshake = Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(limits.max_streams_per_connection)
        .max_header_list_size(limits.max_header_bytes)
        .max_pending_accept_reset_streams(PENDING_RESETS)
        // Browsers open WebSockets on the page's own connection then (RFC 8441).
        .enable_connect_protocol()
        .handshake::<_, Bytes>(io);
    let limit = worker.config.timeouts.handshake;
    let connection = match tokio::time::timeout(limit, drainer.drive(handshake)).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            debug!(%error, "no HTTP/2 preface");
            return worker.counters.handshakes_failed.add();
        }
        Err(_) => return worker.counters.handshakes_failed.add(),
    };
    run(&worker, &client, connection, &drainer).await;
}

/// Accepts and serves requests until the connection ends: by the peer, by an error, by idleness,
/// or when the node leaves.
async fn run<I>(
    worker: &Rc<Worker>,
    client: &Rc<Client>,
    mut connection: Connection<I, Bytes>,
    drainer: &Drainer<Socket>,
) where
    I: AsyncRead + AsyncWrite + Unpin,
{
    let mut requests = FuturesUnordered::new();
    let mut leaving = worker.leaving.raised();
    let mut left = false;
    let mut idle = Idle::new(worker.config.timeouts.downstream_idle);
    let mut is_busy = false;
    let mut farewell: Option<Pin<Box<Sleep>>> = None;
    let turn = Turn::new();
    let mut resets = Resets::new(worker.config.limits.max_resets_per_connection);
    poll_fn(|cx| {
        if !left && Pin::new(&mut leaving).poll(cx).is_ready() {
            left = true;
            // Two-phase: GOAWAY with the highest id, and after a round trip with the last one.
            connection.graceful_shutdown();
        }
        let ended = turn.run(cx, |cx| {
            // The requests first: what they have produced is framed with what the connection does
            // next, and leaves in the one write behind it.
            while let Poll::Ready(Some(ended)) = requests.poll_next_unpin(cx) {
                if ended == Ended::BrokenOff && resets.is_too_much() {
                    worker.counters.connections_calmed.add();
                    connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                }
            }
            let before = requests.len();
            loop {
                match connection.poll_accept(cx) {
                    Poll::Ready(Some(Ok((request, respond)))) => {
                        requests.push(answer(worker, client, request, respond));
                    }
                    Poll::Ready(Some(Err(error))) => {
                        debug!(%error, "an HTTP/2 connection broke");
                        return true;
                    }
                    Poll::Ready(None) => return true,
                    Poll::Pending => break,
                }
            }
            if requests.len() > before {
                // The new ones are to begin in this turn.
                cx.waker().wake_by_ref();
            }
            false
        });
        let _ = drainer.poll_drain(cx);
        if ended {
            return Poll::Ready(());
        }
        if let Some(farewell) = &mut farewell {
            return farewell.as_mut().poll(cx);
        }
        if !requests.is_empty() {
            is_busy = true;
            return Poll::Pending;
        }
        if std::mem::take(&mut is_busy) {
            idle.moved();
        }
        if idle.poll(cx).is_ready() {
            // A peer that opens no window for the end of a response, or never answers, must not
            // keep the connection: it has as long as for a handshake.
            farewell = Some(Box::pin(sleep(worker.config.timeouts.handshake)));
            connection.graceful_shutdown();
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    })
    .await;
    // The last frames, as far as the peer takes them.
    let _ = tokio::time::timeout(worker.config.timeouts.handshake, poll_fn(|cx| drainer.poll_drain(cx))).await;
}

/// Requests that were broken off within [`RESETS_WINDOW`] (H12). The library's own limit sees only
/// those that it has not handed out yet: an attacker who waits a moment before each reset
/// (CVE-2023-44487, paced) passes it, and each of them has cost an endpoint a request.
struct Resets {
    most: usize,
    count: usize,
    since: Instant,
}

impl Resets {
    fn new(most: usize) -> Resets {
        Resets { most, count: 0, since: Instant::now() }
    }

    /// Counts one more.
    fn is_too_much(&mut self) -> bool {
        if self.since.elapsed() >= RESETS_WINDOW {
            (self.since, self.count) = (Instant::now(), 0);
        }
        self.count += 1;
        self.count > self.most
    }
}
