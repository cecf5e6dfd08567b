//! What a connection's endpoint bears of it, by what is known of Bandit and Cowboy: beyond it they close the connection with
//! all that runs on it. A connection that has nearly used it up takes no new stream; what runs on it runs to its end.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use http::HeaderMap;
use http::header::SERVER;
use tokio::time::Instant;

use crate::budget::Allowance;
use crate::http2::Client;

/// Over what time endpoints count.
const WINDOW: Duration = Duration::from_secs(10);
/// Streams that the balancer may cancel at once, and as many more in [`WINDOW`] (H6). Bandit closes a connection at 500; what
/// still runs when the budget is spent stays below that, however it ends.
const RESETS: u32 = 120;
/// Streams that the endpoint has reset as malformed, in the same way. Cowboy closes a connection at 10
/// (`max_reset_stream_rate`): nobody knows what it will find malformed, and who asks so shall ask alone.
const MALFORMED: u32 = 4;
/// HEADERS and DATA frames at once, and more in [`WINDOW`], where the endpoint is Cowboy, which closes a connection at 10,000
/// (`max_received_frame_rate`). Others do not count them, and 100,000 requests a second over connections that last so short
/// cost 3 to 6 % more: a new connection batches less.
const FRAMES: (u32, u32) = (7_000, 2_000);
/// How many frames are counted at once: it takes a look at the clock.
const FRAMES_STEP: u64 = 64;
/// How much of the frames is spent when another connection is made, before nothing is left.
const AHEAD: f32 = 0.5;
/// How many responses of a connection are looked at for what the endpoint says it is.
const INTRODUCTION: u32 = 8;
/// Less of a connection's window is too little, where it may not come back: Cowboy gives back nothing for what its app did not
/// read, and uploads and WebSockets of others would wait for ever. A half of what it is at first.
const LOW_WINDOW: i64 = 32 * 1024;
/// Less than this, with something running, is a window that somebody may wait for. A quarter of what it is at first: endpoints
/// give back what they have read when that is a half, or some more.
const WAITING_WINDOW: i64 = 16 * 1024;
/// For how long such a window may stay as it is, before others are better off elsewhere: an app at Cowboy that takes its time
/// before it reads one upload holds up all others of the connection.
const WINDOW_STANDS: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(super) struct Wear {
    resets: RefCell<Allowance>,
    malformed: RefCell<Allowance>,
    frames: RefCell<Allowance>,
    frames_counted: Cell<u64>,
    /// It was told that another connection is to be made.
    is_worn: Cell<bool>,
    introduced: Cell<u32>,
    /// A low window, and since when it has not grown.
    low: Cell<Option<(i64, Instant)>>,
}

/// What its frames mean for a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Worn {
    Little,
    /// Once: another connection is to be made.
    Much,
    /// It takes no new stream.
    Out,
}

impl Wear {
    pub(super) fn new() -> Wear {
        let allowance = |at_once, comes_back| RefCell::new(Allowance::new(at_once, comes_back, WINDOW));
        Wear {
            resets: allowance(RESETS, RESETS),
            malformed: allowance(MALFORMED, MALFORMED),
            frames: allowance(FRAMES.0, FRAMES.1),
            frames_counted: Cell::new(0),
            is_worn: Cell::new(false),
            introduced: Cell::new(0),
            low: Cell::new(None),
        }
    }

    /// Counts a stream that the balancer has cancelled; true when it was one too many.
    pub(super) fn reset(&self) -> bool {
        self.resets.borrow_mut().spend(1) >= 1.0
    }

    /// Counts a request that the endpoint has found malformed.
    pub(super) fn malformed(&self) -> bool {
        self.malformed.borrow_mut().spend(1) >= 1.0
    }

    /// Whether what the endpoint has not read of a stream that is over leaves too little for others.
    pub(super) fn is_shut(client: &Client) -> bool {
        client.window() < LOW_WINDOW
    }

    /// Looks at the window, after each read.
    pub(super) fn watch(&self, client: &Client) {
        let window = client.window();
        match self.low.get() {
            _ if window >= WAITING_WINDOW => self.low.set(None),
            Some((before, since)) if window <= before => self.low.set(Some((window, since))),
            _ => self.low.set(Some((window, Instant::now()))),
        }
    }

    /// Whether what is sent now may have to wait for others. It comes to an end, perhaps.
    pub(super) fn stands(&self) -> bool {
        self.low.get().is_some_and(|(_, since)| since.elapsed() > WINDOW_STANDS)
    }

    /// Counts what was sent.
    pub(super) fn frames(&self, client: &Client) -> Worn {
        let (sent, counted) = (client.frames(), self.frames_counted.get());
        if sent - counted < FRAMES_STEP {
            return Worn::Little;
        }
        self.frames_counted.set(sent);
        let spent = self.frames.borrow_mut().spend((sent - counted) as u32);
        if spent < AHEAD / 4.0 {
            // It has rested.
            self.is_worn.set(false);
        }
        match spent {
            1.0.. => Worn::Out,
            AHEAD.. if !self.is_worn.replace(true) => Worn::Much,
            _ => Worn::Little,
        }
    }

    /// Whether the endpoint says that it counts frames. Only the first responses are looked at.
    pub(super) fn is_counted_by(&self, fields: &HeaderMap) -> bool {
        let looked = self.introduced.get();
        if looked == INTRODUCTION {
            return false;
        }
        self.introduced.set(looked + 1);
        fields.get(SERVER).is_some_and(|server| server == "Cowboy")
    }
}
