//! What both sides of a connection know: its streams, the windows, and what is to be written. Here is how streams
//! begin and end; [`receive`] and [`send`] are what happens between.

mod receive;
mod send;
mod stream;

use std::collections::VecDeque;
use std::task::Waker;

use slab::Slab;

use super::frame::{self, DEFAULT_FRAME, DEFAULT_WINDOW, Reason, kind, setting};
use super::headers::Unfinished;
use super::hpack::{Decoder, Encoder};
use super::server::Incoming;
use super::stream::Broken;
use super::{BUDGET_WINDOW, Config, TooMuch};
use crate::budget::Budget;
use crate::outbox::Outbox;
pub(super) use stream::Data;
use stream::Stream;

/// The connection cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fatal {
    Error(Reason),
    TooMuch(TooMuch),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Server,
    Client,
}

/// How many streams are remembered when they are over. What a peer has sent before it has heard of a reset is no
/// fault; what it sends behind its own end is one.
const REMEMBERED: usize = 256;
/// Streams that are opened before the peer has said how many it takes: the least that RFC 9113 section 6.5.2 recommends it
/// to take. A burst beyond its limit would be refused.
const UNTOLD_STREAMS: u32 = 100;
/// Pieces up to this size go into the piece before them, so that tiny frames do not cost more to keep than
/// their windows say.
const TINY: usize = 512;

#[derive(Debug)]
pub(super) struct State {
    pub(super) role: Role,
    pub(super) config: Config,
    pub(super) output: Outbox,
    pub(super) encoder: Encoder,
    pub(super) decoder: Decoder,
    /// Streams that a handle is held of.
    streams: Slab<Stream>,
    /// Their numbers, in order, and where they are.
    numbers: Vec<(u32, u32)>,
    /// Streams that are not over.
    open: u32,
    /// The highest number that the client has used.
    pub(super) last: u32,
    /// The streams that were over last, and whether the peer may still send something for them.
    over: VecDeque<(u32, bool)>,
    /// The highest number of those that are forgotten.
    forgotten_to: u32,
    /// A header block that goes on.
    pub(super) unfinished: Option<Unfinished>,
    /// Header blocks that have come.
    pub(super) blocks: u64,
    /// Requests that wait to be accepted.
    pub(super) incoming: VecDeque<Incoming>,
    /// Whose frame is being read.
    pub(super) reading: u32,
    /// What the connection's window lets this side send.
    pub(super) send_window: i64,
    /// What it lets the peer send.
    receive_window: i64,
    /// Received and read, and not given back to the window yet.
    released: u32,
    pub(super) peer: Peer,
    /// Bodies that wait for the connection's window, or for room in the output.
    waiting: VecDeque<usize>,
    /// How many have their turn.
    granted: usize,
    /// Whom to wake when there is something to write.
    pub(super) task: Option<Waker>,
    /// That one runs, and will write.
    pub(super) is_running: bool,
    /// The highest stream that is served, once a GOAWAY has said so.
    pub(super) served_to: Option<u32>,
    /// The peer has sent a GOAWAY.
    pub(super) is_going_away: bool,
    /// That, or SETTINGS, since somebody asked.
    pub(super) has_news: bool,
    /// Nothing comes any more.
    pub(super) is_over: bool,
    pub(super) pongs: u64,
    /// This side has sent a PING by which the peer shows that it has read the first GOAWAY.
    pub(super) farewell: Farewell,
    faults: Budget,
    empty: Budget,
    control: Budget,
    /// Streams beyond the limit that nobody has counted yet.
    pub(super) refused: u32,
    /// HEADERS, CONTINUATION and DATA that were sent.
    pub(super) frames: u64,
}

/// Where a server is in leaving (section 6.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Farewell {
    None,
    /// It has said that it will leave, and waits for the answer to its PING.
    Announced,
    /// It takes no new stream.
    Said,
}

/// What the peer's SETTINGS say.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) has_settings: bool,
    pub(super) initial_window: u32,
    max_frame: usize,
    pub(super) max_streams: u32,
    pub(super) takes_connect: bool,
}

impl State {
    pub(super) fn new(role: Role, config: Config) -> State {
        let mut state = State {
            role,
            config,
            output: Outbox::default(),
            encoder: Encoder::default(),
            decoder: Decoder::default(),
            streams: Slab::new(),
            numbers: Vec::new(),
            open: 0,
            last: 0,
            over: VecDeque::new(),
            forgotten_to: 0,
            unfinished: None,
            blocks: 0,
            incoming: VecDeque::new(),
            reading: 0,
            send_window: DEFAULT_WINDOW.into(),
            receive_window: config.connection_window.into(),
            released: 0,
            peer: Peer {
                has_settings: false,
                initial_window: DEFAULT_WINDOW,
                max_frame: DEFAULT_FRAME,
                max_streams: UNTOLD_STREAMS,
                takes_connect: false,
            },
            waiting: VecDeque::new(),
            granted: 0,
            task: None,
            is_running: false,
            served_to: None,
            is_going_away: false,
            has_news: false,
            is_over: false,
            pongs: 0,
            farewell: Farewell::None,
            faults: Budget::new(config.max_faults),
            empty: Budget::new(config.max_empty),
            control: Budget::new(config.max_control),
            refused: 0,
            frames: 0,
        };
        let out = state.output.buffer();
        if role == Role::Client {
            out.extend_from_slice(frame::PREFACE);
        }
        let of_role = match role {
            // Browsers open WebSockets on the page's own connection then (RFC 8441).
            Role::Server => {
                &[(setting::MAX_CONCURRENT_STREAMS, config.max_streams), (setting::ENABLE_CONNECT_PROTOCOL, 1)][..]
            }
            Role::Client => &[(setting::ENABLE_PUSH, 0)],
        };
        let both = [
            (setting::INITIAL_WINDOW_SIZE, config.stream_window),
            (setting::MAX_FRAME_SIZE, config.max_frame),
            (setting::MAX_HEADER_LIST_SIZE, config.max_header_bytes),
        ];
        frame::put_settings(out, &[of_role, &both].concat());
        frame::put_word(out, kind::WINDOW_UPDATE, 0, config.connection_window - DEFAULT_WINDOW);
        state
    }

    /// Something was put into the output.
    pub(super) fn notify(&mut self) {
        if !self.is_running
            && let Some(task) = self.task.take()
        {
            task.wake();
        }
    }

    pub(super) fn open(&self) -> u32 {
        self.open
    }

    /// Streams that a handle is held of.
    pub(super) fn held(&self) -> usize {
        self.numbers.len()
    }

    pub(super) fn stream(&mut self, at: usize) -> &mut Stream {
        &mut self.streams[at]
    }

    pub(super) fn find(&self, number: u32) -> Option<usize> {
        let at = self.numbers.binary_search_by_key(&number, |(number, _)| *number).ok()?;
        Some(self.numbers[at].1 as usize)
    }

    /// A new stream with `handles` to come.
    pub(super) fn insert(&mut self, number: u32, handles: u8) -> usize {
        let windows = (self.peer.initial_window, self.config.stream_window);
        let at = self.streams.insert(Stream::new(number, windows, handles));
        self.numbers.push((number, at as u32));
        self.open += 1;
        at
    }

    /// A handle has gone. What nobody holds and is not over is reset.
    pub(super) fn let_go(&mut self, at: usize) {
        let stream = &mut self.streams[at];
        stream.handles -= 1;
        if stream.handles > 0 {
            return;
        }
        if !stream.is_over() {
            // A response that was complete before its request is no failure of anybody (section 8.1).
            let is_answered = self.role == Role::Server && stream.sent_end;
            self.reset(at, if is_answered { Reason::NO_ERROR } else { Reason::CANCEL });
        }
        let stream = self.streams.remove(at);
        if let Ok(nth) = self.numbers.binary_search_by_key(&stream.number, |(number, _)| *number) {
            self.numbers.remove(nth);
        }
        let is_late = matches!(stream.broken, Some(Broken::Here(_) | Broken::Unprocessed));
        self.remember(stream.number, is_late);
        self.release_connection(stream.unread());
    }

    fn remember(&mut self, number: u32, is_late: bool) {
        if self.over.len() == REMEMBERED
            && let Some((oldest, _)) = self.over.pop_front()
        {
            self.forgotten_to = self.forgotten_to.max(oldest);
        }
        self.over.push_back((number, is_late));
    }

    /// Resets a stream that gets no handles.
    pub(super) fn refuse(&mut self, number: u32, reason: Reason) {
        self.remember(number, true);
        self.put_reset(number, reason);
    }

    fn settle(&mut self, at: usize) {
        let stream = &mut self.streams[at];
        if stream.is_over() && std::mem::replace(&mut stream.is_open, false) {
            self.open -= 1;
            self.end_turn(at);
            self.wake_waiting();
        }
    }

    /// A stream ends that has not come to its end; none where it has.
    pub(super) fn break_off(&mut self, at: usize, broken: Broken) -> Option<u32> {
        let stream = &mut self.streams[at];
        if stream.is_over() {
            return None;
        }
        stream.broken = Some(broken);
        stream.wake();
        let number = stream.number;
        self.settle(at);
        Some(number)
    }

    /// Resets a stream, unless it is over.
    pub(super) fn reset(&mut self, at: usize, reason: Reason) {
        if let Some(number) = self.break_off(at, Broken::Here(reason)) {
            self.put_reset(number, reason);
        }
    }

    fn put_reset(&mut self, number: u32, reason: Reason) {
        frame::put_word(self.output.buffer(), kind::RST_STREAM, number, reason.0);
        self.notify();
    }

    /// The peer has not processed streams above `last`, and will not.
    pub(super) fn refuse_above(&mut self, last: u32) {
        let above = self.numbers.partition_point(|(number, _)| *number <= last);
        for nth in above..self.numbers.len() {
            self.break_off(self.numbers[nth].1 as usize, Broken::Unprocessed);
        }
    }

    /// Nothing comes any more. What has come can still be read.
    pub(super) fn end(&mut self) {
        self.is_over = true;
        for nth in 0..self.numbers.len() {
            self.break_off(self.numbers[nth].1 as usize, Broken::Gone);
        }
    }

    /// A fault of the peer's that costs it a stream.
    pub(super) fn fault(&mut self) -> Result<(), Fatal> {
        within(&mut self.faults, TooMuch::Faults)
    }

    /// A request was broken off as soon as it was sent.
    pub(super) fn early_reset(&mut self) -> Result<(), Fatal> {
        within(&mut self.faults, TooMuch::Resets)
    }

    /// A frame that was good for nothing.
    pub(super) fn empty_frame(&mut self) -> Result<(), Fatal> {
        within(&mut self.empty, TooMuch::Empty)
    }

    /// A frame that was good for something, and does not come that often.
    pub(super) fn control_frame(&mut self) -> Result<(), Fatal> {
        within(&mut self.control, TooMuch::Control)
    }

    /// A stream error of the peer's making.
    pub(super) fn fail(&mut self, at: usize, reason: Reason) -> Result<(), Fatal> {
        self.reset(at, reason);
        self.fault()
    }

    /// Nothing is held any more, and every byte that was received is given back or about to be.
    #[cfg(test)]
    pub(super) fn assert_settled(&self) {
        assert!(self.streams.is_empty() && self.numbers.is_empty() && self.waiting.is_empty());
        assert_eq!(self.open, 0);
        if self.receive_window >= 0 {
            assert_eq!(self.receive_window + i64::from(self.released), i64::from(self.config.connection_window));
        }
    }
}

fn within(budget: &mut Budget, what: TooMuch) -> Result<(), Fatal> {
    if budget.is_spent(BUDGET_WINDOW) { Err(Fatal::TooMuch(what)) } else { Ok(()) }
}
