//! One HTTP/2 connection to an endpoint: what is agreed on with it, what runs on it, and the task that drives it to its end.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::debug;

use super::wear::Wear;
use crate::http2::{Client, Config, End, Reason};
use crate::socket::Socket;

/// A stream's window: what one response may hold here before its client reads. A client may have a hundred streams and read
/// none: 64 KiB of each, as nginx holds.
const STREAM_WINDOW: u32 = 64 * 1024;
/// What one may hold whose client has been seen to read: wide enough for what is on its way.
const GROWN_WINDOW: u32 = 256 * 1024;
/// The connection's window is as wide as all streams' windows, so that stalled readers never starve another stream: with
/// 5 MiB eight unread responses did (measured).
const CONNECTION_WINDOW: u32 = GROWN_WINDOW * MAX_STREAMS as u32;
/// Larger frames make fewer of them on large bodies.
const MAX_FRAME: u32 = 64 * 1024;
/// A response's head, as RFC 9113 section 6.5.2 counts it.
const MAX_HEADER_BYTES: u32 = 128 * 1024;
/// Frames within 10 s that are good for nothing: an endpoint that sends more is broken.
const EMPTY_FRAMES_MAX: usize = 20_000;
/// Streams on one connection, below whatever the endpoint allows: Bandit names no limit.
const MAX_STREAMS: usize = 256;
/// Streams in a connection's life: stream ids end at 2^31, every other one is ours.
const MAX_LENT: u32 = 1_000_000_000;
/// Bandit closes a connection on which it read nothing for 60 s, whatever runs on it.
const PING_EVERY: Duration = Duration::from_secs(25);
/// A PING is answered before anything else; an endpoint that takes longer is not there.
pub(super) const PONG_WITHIN: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(crate) struct Connection {
    pub(super) client: Client,
    pub(super) streams: Cell<usize>,
    pub(super) lent: Cell<u32>,
    /// How many were lent at the last sweep, and since how many sweeps it is so and none runs.
    unused: Cell<(u32, u32)>,
    pub(super) opened: Instant,
    pub(super) wear: Wear,
    /// It takes no new stream, and ends with its last.
    pub(super) retired: Cell<bool>,
    /// Tells the connection's task that it may end when its last stream has.
    idle: Notify,
}

impl Connection {
    pub(super) fn is_usable(&self) -> bool {
        !self.retired.get() && !self.client.is_going_away()
    }

    pub(super) fn has_room(&self) -> bool {
        self.is_usable() && self.streams.get() < self.client.max_streams().min(MAX_STREAMS)
    }

    /// For how many sweeps nothing has used it; one more sweep.
    pub(super) fn count_unused(&self) -> u32 {
        let (lent, sweeps) = self.unused.get();
        let is_unused = self.streams.get() == 0 && lent == self.lent.get();
        self.unused.set((self.lent.get(), if is_unused { sweeps + 1 } else { 0 }));
        self.unused.get().1
    }

    /// Counts one more stream on it.
    pub(super) fn lend(&self) {
        self.streams.set(self.streams.get() + 1);
        self.lent.set(self.lent.get() + 1);
        if self.lent.get() >= MAX_LENT {
            self.retire();
        }
    }

    /// A stream of it is over. The connection ends when that was the last, if it is of no use any more (`is_over`).
    pub(super) fn give_back(&self, is_over: bool) {
        self.streams.set(self.streams.get() - 1);
        if self.streams.get() == 0 && (is_over || !self.is_usable()) {
            self.idle.notify_one();
        }
    }

    pub(super) fn retire(&self) {
        if !self.retired.replace(true) {
            debug!("a connection to an endpoint takes no new stream");
        }
        if self.streams.get() == 0 {
            self.idle.notify_one();
        }
    }
}

/// HTTP/2 on a new connection, and the task that drives it to its end.
pub(super) fn begin(socket: Socket) -> (Rc<Connection>, impl Future<Output = ()> + use<>) {
    let (client, mut http2) = Client::begin(
        socket,
        Config {
            stream_window: STREAM_WINDOW,
            grown_window: GROWN_WINDOW,
            connection_window: CONNECTION_WINDOW,
            max_frame: MAX_FRAME,
            max_streams: 0,
            max_header_bytes: MAX_HEADER_BYTES,
            // It answers for what it does itself; each stream that it spoils is a failed request.
            max_faults: usize::MAX,
            max_empty: EMPTY_FRAMES_MAX,
            // A busy one may have many of them to say: each early answer ends with a reset, each small message of an upload
            // may be given back to its window.
            max_control: usize::MAX,
        },
    );
    let now = Instant::now();
    let connection = Rc::new(Connection {
        client,
        streams: Cell::new(0),
        lent: Cell::new(0),
        unused: Cell::default(),
        opened: now,
        wear: Wear::new(),
        retired: Cell::new(false),
        idle: Notify::new(),
    });
    let held = connection.clone();
    let task = async move {
        tokio::select! {
            ended = poll_fn(|cx| {
                let ended = http2.poll_read(cx);
                held.wear.watch(&held.client);
                let _ = http2.poll_write(cx);
                match ended {
                    // A GOAWAY on an idle connection: nobody else would end it.
                    Poll::Pending if held.client.is_going_away() && held.streams.get() == 0 => {
                        http2.give_up(Reason::NO_ERROR);
                        Poll::Ready(End::Left)
                    }
                    ended => ended,
                }
            }) => debug!(?ended, "the connection to the endpoint has ended"),
            // What the last stream has left, its reset perhaps, goes out before the connection ends.
            () = held.idle.notified() => http2.give_up(Reason::NO_ERROR),
            () = keep_alive(&held) => return debug!("the endpoint answers no PING"),
        }
        poll_fn(|cx| Poll::Ready(http2.poll_write(cx).is_ready())).await;
    };
    (connection, task)
}

/// Keeps a connection with quiet streams alive; ends when the endpoint does not answer.
async fn keep_alive(connection: &Connection) {
    loop {
        tokio::time::sleep(PING_EVERY).await;
        if connection.streams.get() == 0 {
            continue;
        }
        let before = (connection.client.pongs(), connection.client.reads());
        connection.client.ping();
        tokio::time::sleep(PONG_WITHIN).await;
        // One that is busy with what it was sent before, or slow, sends something all the same.
        if (connection.client.pongs(), connection.client.reads()) == before {
            return;
        }
    }
}
