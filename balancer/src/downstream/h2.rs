//! HTTP/2 from clients.
//!
//! A connection owns its requests and polls them in its own task. So all that a turn produces
//! leaves in one write, and a connection that ends ends its requests with it.

mod answer;

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Sleep, sleep, timeout};
use tracing::debug;

use answer::{Ended, answer};

use crate::budget::Budget;
use crate::clients::{self, Place};
use crate::headers::Client;
use crate::http2::{Config, Connection, End, Reason, server};
use crate::socket::Socket;
use crate::timers::Idle;
use crate::turn::Turn;
use crate::worker::Worker;

/// A stream's window: what one upload may hold here before its endpoint reads.
const STREAM_WINDOW: u32 = 256 * 1024;
/// The most there can be.
const WINDOW_MAX: u32 = (1 << 31) - 1;
/// What every client's library sends.
const MAX_FRAME: u32 = 16 * 1024;

/// `first` was read from the socket already.
pub(crate) async fn serve(worker: Rc<Worker>, socket: Socket, first: Bytes, client: Rc<Client>, place: Place) {
    let limits = &worker.config.limits;
    let config = Config {
        stream_window: STREAM_WINDOW,
        grown_window: STREAM_WINDOW,
        // As wide as all streams' windows, so that stalled uploads never starve another one.
        connection_window: STREAM_WINDOW.saturating_mul(limits.max_streams_per_connection).min(WINDOW_MAX),
        max_frame: MAX_FRAME,
        max_streams: limits.max_streams_per_connection,
        max_header_bytes: limits.max_header_bytes,
        max_faults: limits.max_resets_per_connection,
        max_empty: limits.max_empty_frames_per_connection,
        max_control: limits.max_control_frames_per_connection,
    };
    let mut connection = server(socket, first, config);
    // What came of a connection is told before its end, as far as the peer takes it.
    let limit = worker.config.timeouts.handshake;
    let begun = timeout(limit, poll_fn(|cx| begin(&mut connection, cx))).await;
    if !matches!(begun, Ok(true)) {
        debug!("no HTTP/2 preface");
        worker.counters.handshakes_failed.add();
    } else {
        run(&worker, &client, &place, &mut connection).await;
    }
    let _ = timeout(limit, connection.close()).await;
}

/// Ready when the client has sent its SETTINGS, or will not.
fn begin(connection: &mut Connection<Socket>, cx: &mut Context<'_>) -> Poll<bool> {
    let ended = connection.poll_read(cx);
    let _ = connection.poll_write(cx);
    match ended {
        _ if connection.has_begun() => Poll::Ready(true),
        Poll::Ready(_) => Poll::Ready(false),
        Poll::Pending => Poll::Pending,
    }
}

/// Accepts and serves requests until the connection ends: by the peer, by an error, by idleness,
/// or when the node leaves.
async fn run(worker: &Rc<Worker>, client: &Rc<Client>, place: &Place, connection: &mut Connection<Socket>) {
    let mut requests = FuturesUnordered::new();
    let mut leaving = worker.leaving.raised();
    let mut idle = Idle::new(worker.config.timeouts.downstream_idle);
    let mut is_busy = false;
    let mut farewell: Option<Pin<Box<Sleep>>> = None;
    let mut slow_head: Option<(u64, Pin<Box<Sleep>>)> = None;
    let turn = Turn::new();
    let max_resets = worker.config.limits.max_resets_per_connection;
    let mut resets = Budget::new(max_resets);
    poll_fn(|cx| {
        if Pin::new(&mut leaving).poll(cx).is_ready() {
            connection.leave();
        }
        let ended = turn.run(cx, |cx| {
            let ended = connection.poll_read(cx);
            let mut is_too_much = false;
            while let Some(accepted) = connection.accept() {
                if accepted.is_broken() {
                    // It was broken off as soon as it was sent, and is not begun.
                    worker.counters.client_aborts.add();
                    is_too_much |= place.broke_off(1);
                } else {
                    requests.push(answer(worker, client, accepted));
                }
            }
            worker.counters.streams_refused.add_up(connection.take_refused().into());
            while let Poll::Ready(Some(ended)) = requests.poll_next_unpin(cx) {
                if ended == Ended::BrokenOff {
                    // It may have cost an endpoint a request (CVE-2023-44487).
                    is_too_much |= place.broke_off(1) | resets.is_spent(clients::WINDOW);
                }
            }
            if is_too_much {
                worker.counters.calmed_resets.add();
                connection.give_up(Reason::ENHANCE_YOUR_CALM);
                return true;
            }
            if let Poll::Ready(ended) = ended {
                debug!(?ended, "an HTTP/2 connection has ended");
                if let End::TooMuch(what) = ended {
                    worker.counters.calmed(what).add();
                    place.broke_off(max_resets);
                }
            }
            ended.is_ready()
        });
        let _ = connection.poll_write(cx);
        if ended || connection.has_left() {
            return Poll::Ready(());
        }
        match (connection.head_under_way(), &mut slow_head) {
            (Some(number), Some((known, timer))) if *known == number => {
                if timer.as_mut().poll(cx).is_ready() {
                    // The block is of the table that all streams share: there is no going on without its end.
                    worker.counters.calmed_slow_head.add();
                    connection.give_up(Reason::ENHANCE_YOUR_CALM);
                    return Poll::Ready(());
                }
            }
            (Some(number), slow) => {
                let (_, timer) = slow.insert((number, Box::pin(sleep(worker.config.timeouts.request_head))));
                // A limit is never over at once; this has the timer wake the task.
                let _ = timer.as_mut().poll(cx);
            }
            (None, slow) => *slow = None,
        }
        if !requests.is_empty() {
            is_busy = true;
            return Poll::Pending;
        }
        if let Some(farewell) = &mut farewell {
            return farewell.as_mut().poll(cx);
        }
        if std::mem::take(&mut is_busy) {
            idle.moved();
        }
        if idle.poll(cx).is_ready() {
            // A peer that never answers must not keep the connection: it has as long as for a handshake.
            worker.counters.connections_idle.add();
            farewell = Some(Box::pin(sleep(worker.config.timeouts.handshake)));
            connection.leave();
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    })
    .await;
}
