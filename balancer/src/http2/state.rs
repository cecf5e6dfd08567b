//! What both sides of a connection know: its streams, the windows, and what is to be written.

use std::collections::VecDeque;
use std::task::{Poll, Waker};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Response};
use slab::Slab;

use super::budget::Budget;
use super::frame::{self, DEFAULT_FRAME, DEFAULT_WINDOW, MAX_FRAME, MAX_WINDOW, Reason, flag, kind, setting};
use super::hpack::{Decoder, Encoder};
use super::output::Output;
use super::stream::Broken;
use super::{BUDGET_WINDOW, Config, NOISE_MAX, OUTPUT_MAX};

/// The connection cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fatal(pub(super) Reason);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Server,
    Client,
}

/// How many streams are remembered when they are over. What a peer has sent before it has heard of a reset is no
/// fault; what it sends behind its own end is one.
const REMEMBERED: usize = 256;
/// Pieces up to this size go into the piece before them, so that tiny frames do not cost more to keep than
/// their windows say.
const TINY: usize = 512;
/// As long as that one is smaller than this.
const JOINED_MAX: usize = 4096;
/// What a body may send in its turn while others wait for theirs.
const SHARE: usize = 16 * 1024;
/// The largest frame that is sent: smaller ones share a connection better.
const SENT_FRAME_MAX: usize = 64 * 1024;

#[derive(Debug)]
pub(super) struct State {
    pub(super) role: Role,
    pub(super) config: Config,
    pub(super) output: Output,
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
    /// Whose frame is being read.
    pub(super) reading: u32,
    /// What the connection's window lets this side send.
    send_window: i64,
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
    /// Nothing comes any more.
    pub(super) is_over: bool,
    pub(super) pongs: u64,
    /// This side has sent a PING by which the peer shows that it has read the first GOAWAY.
    pub(super) farewell: Farewell,
    faults: Budget,
    noise: Budget,
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

/// Where a body is in sharing the connection with others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    None,
    /// It is in [`State::waiting`].
    Waiting,
    /// It may send its share.
    Granted,
}

#[derive(Debug)]
pub(super) struct Stream {
    number: u32,
    send_window: i64,
    receive_window: i64,
    /// Received and read, and not given back to the window yet.
    released: u32,
    /// This side has sent its END_STREAM.
    sent_end: bool,
    /// The peer has.
    received_end: bool,
    pub(super) broken: Option<Broken>,
    /// It is one of [`State::open`].
    is_open: bool,
    turn: Turn,
    handles: u8,
    /// The peer has opened its window since the body began.
    pub(super) reads: bool,
    /// The body received: the first piece, and those behind it.
    piece: BytesMut,
    pieces: VecDeque<BytesMut>,
    trailers: Option<Box<HeaderMap>>,
    /// By content-length.
    pub(super) length_left: Option<u64>,
    /// A response's.
    head: Option<Box<Response<()>>>,
    pub(super) interim: Vec<Response<()>>,
    pub(super) has_head: bool,
    /// The response has no body, whatever its length says.
    pub(super) is_bodiless: bool,
    /// It is an extended CONNECT's.
    pub(super) is_tunnel: bool,
    /// A request that its connection's owner has seen.
    pub(super) is_accepted: bool,
    waker: Option<Waker>,
}

impl Stream {
    pub(super) fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }

    pub(super) fn wait(&mut self, waker: &Waker) {
        match &mut self.waker {
            Some(known) => known.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
    }

    fn is_over(&self) -> bool {
        self.broken.is_some() || self.sent_end && self.received_end
    }

    pub(super) fn has_received_end(&self) -> bool {
        self.received_end
    }

    /// Whether nothing is left to be read.
    pub(super) fn is_read(&self) -> bool {
        self.received_end && self.piece.is_empty() && self.trailers.is_none()
    }

    pub(super) fn is_wide(&self) -> bool {
        self.send_window > i64::from(4 * DEFAULT_WINDOW)
    }

    pub(super) fn take_piece(&mut self) -> Option<Bytes> {
        if self.piece.is_empty() {
            return None;
        }
        let next = self.pieces.pop_front().unwrap_or_default();
        Some(std::mem::replace(&mut self.piece, next).freeze())
    }

    pub(super) fn take_trailers(&mut self) -> Option<HeaderMap> {
        self.trailers.take().map(|trailers| *trailers)
    }

    pub(super) fn take_head(&mut self) -> Option<Response<()>> {
        self.head.take().map(|head| *head)
    }

    pub(super) fn set_head(&mut self, head: Response<()>) {
        self.has_head = true;
        self.head = Some(Box::new(head));
    }

    fn push(&mut self, data: Data<'_>) {
        let last = self.pieces.back_mut().unwrap_or(&mut self.piece);
        match data {
            Data::Borrowed(data) if data.len() <= TINY && last.len() < JOINED_MAX => last.extend_from_slice(data),
            data if self.piece.is_empty() => self.piece = data.into_owned(),
            data => self.pieces.push_back(data.into_owned()),
        }
    }

    /// Bytes that were received and not taken.
    fn unread(&self) -> usize {
        self.piece.len() + self.pieces.iter().map(BytesMut::len).sum::<usize>()
    }
}

/// A DATA frame's payload.
pub(super) enum Data<'a> {
    Borrowed(&'a [u8]),
    /// Large enough not to be copied.
    Owned(BytesMut),
}

impl Data<'_> {
    fn len(&self) -> usize {
        match self {
            Data::Borrowed(data) => data.len(),
            Data::Owned(data) => data.len(),
        }
    }

    fn into_owned(self) -> BytesMut {
        match self {
            Data::Borrowed(data) => BytesMut::from(data),
            Data::Owned(data) => data,
        }
    }
}

impl State {
    pub(super) fn new(role: Role, config: Config) -> State {
        let mut state = State {
            role,
            config,
            output: Output::default(),
            encoder: Encoder::default(),
            decoder: Decoder::default(),
            streams: Slab::new(),
            numbers: Vec::new(),
            open: 0,
            last: 0,
            over: VecDeque::new(),
            forgotten_to: 0,
            reading: 0,
            send_window: DEFAULT_WINDOW.into(),
            receive_window: config.connection_window.into(),
            released: 0,
            peer: Peer {
                has_settings: false,
                initial_window: DEFAULT_WINDOW,
                max_frame: DEFAULT_FRAME,
                max_streams: u32::MAX,
                takes_connect: false,
            },
            waiting: VecDeque::new(),
            granted: 0,
            task: None,
            is_running: false,
            served_to: None,
            is_going_away: false,
            is_over: false,
            pongs: 0,
            farewell: Farewell::None,
            faults: Budget::new(config.max_faults),
            noise: Budget::new(NOISE_MAX),
        };
        state.output.put(|out| {
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
        });
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
        let at = self.streams.insert(Stream {
            number,
            send_window: self.peer.initial_window.into(),
            receive_window: self.config.stream_window.into(),
            released: 0,
            sent_end: false,
            received_end: false,
            broken: None,
            is_open: true,
            turn: Turn::None,
            handles,
            reads: false,
            piece: BytesMut::new(),
            pieces: VecDeque::new(),
            trailers: None,
            length_left: None,
            head: None,
            interim: Vec::new(),
            has_head: false,
            is_bodiless: false,
            is_tunnel: false,
            is_accepted: false,
            waker: None,
        });
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
        if stream.turn == Turn::Waiting {
            self.waiting.retain(|waiting| *waiting != at);
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

    /// Resets a stream, unless it is over.
    pub(super) fn reset(&mut self, at: usize, reason: Reason) {
        let stream = &mut self.streams[at];
        if stream.is_over() {
            return;
        }
        stream.broken = Some(Broken::Here(reason));
        stream.wake();
        let number = stream.number;
        self.settle(at);
        self.put_reset(number, reason);
    }

    fn put_reset(&mut self, number: u32, reason: Reason) {
        self.output.put(|out| frame::put_word(out, kind::RST_STREAM, number, reason.0));
        self.notify();
    }

    /// A stream has ended its connection.
    pub(super) fn blame(&mut self, at: usize, reason: Reason) {
        let stream = &mut self.streams[at];
        if !stream.is_over() {
            stream.broken = Some(Broken::Here(reason));
            stream.wake();
            self.settle(at);
        }
    }

    /// The peer has reset a stream.
    pub(super) fn reset_by_peer(&mut self, at: usize, reason: Reason) {
        let stream = &mut self.streams[at];
        if stream.is_over() {
            return;
        }
        stream.broken = Some(Broken::Reset(reason));
        stream.wake();
        self.settle(at);
    }

    /// The peer has not processed streams above `last`, and will not.
    pub(super) fn refuse_above(&mut self, last: u32) {
        let above = self.numbers.partition_point(|(number, _)| *number <= last);
        for nth in above..self.numbers.len() {
            let at = self.numbers[nth].1 as usize;
            let stream = &mut self.streams[at];
            if !stream.is_over() {
                stream.broken = Some(Broken::Unprocessed);
                stream.wake();
                self.settle(at);
            }
        }
    }

    /// Nothing comes any more. What has come can still be read.
    pub(super) fn end(&mut self) {
        self.is_over = true;
        for nth in 0..self.numbers.len() {
            let at = self.numbers[nth].1 as usize;
            let stream = &mut self.streams[at];
            if !stream.is_over() {
                stream.broken = Some(Broken::Gone);
                stream.wake();
                self.settle(at);
            }
        }
    }

    /// A fault of the peer's that costs it a stream.
    pub(super) fn fault(&mut self) -> Result<(), Fatal> {
        if self.faults.is_spent(BUDGET_WINDOW) { Err(Fatal(Reason::ENHANCE_YOUR_CALM)) } else { Ok(()) }
    }

    /// A frame that was good for nothing.
    pub(super) fn noise(&mut self) -> Result<(), Fatal> {
        if self.noise.is_spent(BUDGET_WINDOW) { Err(Fatal(Reason::ENHANCE_YOUR_CALM)) } else { Ok(()) }
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

    // --- Receiving. ---

    /// A DATA frame; `length` is its payload's, padding and all, which counts against the windows.
    pub(super) fn data(&mut self, number: u32, data: Data<'_>, length: usize, is_end: bool) -> Result<(), Fatal> {
        self.receive_window -= length as i64;
        if self.receive_window < 0 {
            return Err(Fatal(Reason::FLOW_CONTROL_ERROR));
        }
        let Some(at) = self.find(number) else {
            self.release_connection(length);
            return self.of_none(number, length);
        };
        let stream = &mut self.streams[at];
        if let Some(broken) = stream.broken {
            self.release_connection(length);
            // What a peer sends behind its own reset is a fault; what crossed one of ours is none.
            if matches!(broken, Broken::Reset(_)) {
                self.put_reset(number, Reason::STREAM_CLOSED);
                return self.fault();
            }
            return self.too_late(length);
        }
        if stream.received_end || self.role == Role::Client && !stream.has_head {
            let reason = if stream.received_end { Reason::STREAM_CLOSED } else { Reason::PROTOCOL_ERROR };
            self.release_connection(length);
            return self.fail(at, reason);
        }
        let size = data.len();
        stream.receive_window -= length as i64;
        let is_sized = match &mut stream.length_left {
            None => size == 0 || !stream.is_bodiless,
            Some(left) => {
                let less = left.checked_sub(size as u64);
                *left = less.unwrap_or(0);
                less.is_some_and(|left| left == 0 || !is_end)
            }
        };
        if stream.receive_window < 0 || !is_sized {
            let reason = if is_sized { Reason::FLOW_CONTROL_ERROR } else { Reason::PROTOCOL_ERROR };
            self.release_connection(length);
            return self.fail(at, reason);
        }
        if size > 0 {
            stream.push(data);
        }
        stream.received_end = is_end;
        stream.wake();
        if is_end {
            self.settle(at);
        }
        // Padding is nobody's to read.
        self.release(at, length - size);
        if size == 0 && !is_end { self.noise() } else { Ok(()) }
    }

    /// DATA or HEADERS for a stream without a handle, which is no new one.
    pub(super) fn of_none(&mut self, number: u32, length: usize) -> Result<(), Fatal> {
        let known = self.over.iter().rev().find(|(over, _)| *over == number);
        match known {
            Some((_, true)) => self.too_late(length),
            // Section 5.1.
            Some((_, false)) => Err(Fatal(Reason::STREAM_CLOSED)),
            None if number <= self.forgotten_to || self.served_to.is_some_and(|last| number > last) => {
                self.too_late(length)
            }
            // It has not begun, or was passed over (section 5.1.1).
            None => Err(Fatal(Reason::PROTOCOL_ERROR)),
        }
    }

    /// A frame that was on its way when its stream was reset. Many of them are a fault only when they carry nothing.
    fn too_late(&mut self, length: usize) -> Result<(), Fatal> {
        if length <= TINY { self.noise() } else { Ok(()) }
    }

    pub(super) fn trailers(&mut self, at: usize, trailers: HeaderMap) -> Result<(), Fatal> {
        let stream = &mut self.streams[at];
        if stream.length_left.is_some_and(|left| left > 0) {
            return self.fail(at, Reason::PROTOCOL_ERROR);
        }
        stream.trailers = Some(Box::new(trailers));
        self.received_end(at);
        Ok(())
    }

    pub(super) fn received_end(&mut self, at: usize) {
        let stream = &mut self.streams[at];
        stream.received_end = true;
        stream.wake();
        self.settle(at);
    }

    /// What was received is read: the peer may send as much again.
    pub(super) fn release(&mut self, at: usize, length: usize) {
        if length == 0 {
            return;
        }
        self.release_connection(length);
        let stream = &mut self.streams[at];
        stream.released += length as u32;
        if stream.released >= self.config.stream_window / 2 && !stream.received_end && stream.broken.is_none() {
            let (number, released) = (stream.number, std::mem::take(&mut stream.released));
            stream.receive_window += i64::from(released);
            self.output.put(|out| frame::put_word(out, kind::WINDOW_UPDATE, number, released));
            self.notify();
        }
    }

    fn release_connection(&mut self, length: usize) {
        self.released += length as u32;
        if self.released >= self.config.connection_window / 2 {
            let released = std::mem::take(&mut self.released);
            self.receive_window += i64::from(released);
            self.output.put(|out| frame::put_word(out, kind::WINDOW_UPDATE, 0, released));
            self.notify();
        }
    }

    pub(super) fn window_update(&mut self, number: u32, by: u32) -> Result<(), Fatal> {
        if number == 0 {
            self.send_window += i64::from(by);
            if by == 0 || self.send_window > MAX_WINDOW {
                return Err(Fatal(if by == 0 { Reason::PROTOCOL_ERROR } else { Reason::FLOW_CONTROL_ERROR }));
            }
            self.wake_waiting();
            return Ok(());
        }
        let Some(at) = self.find(number) else {
            // It may have been sent before the stream's end was read.
            return if number > self.last { Err(Fatal(Reason::PROTOCOL_ERROR)) } else { Ok(()) };
        };
        let stream = &mut self.streams[at];
        stream.send_window += i64::from(by);
        if by == 0 || stream.send_window > MAX_WINDOW {
            let reason = if by == 0 { Reason::PROTOCOL_ERROR } else { Reason::FLOW_CONTROL_ERROR };
            return self.fail(at, reason);
        }
        stream.reads = true;
        stream.wake();
        Ok(())
    }

    /// The peer's SETTINGS; they are acknowledged.
    pub(super) fn settings(&mut self, payload: &[u8]) -> Result<(), Fatal> {
        for pair in payload.chunks_exact(6) {
            let id = u16::from_be_bytes([pair[0], pair[1]]);
            let value = u32::from_be_bytes([pair[2], pair[3], pair[4], pair[5]]);
            // Each may change the windows of all streams.
            self.noise()?;
            match id {
                setting::HEADER_TABLE_SIZE => self.encoder.resize(value as usize),
                setting::ENABLE_PUSH if value > 1 || value == 1 && self.role == Role::Client => {
                    return Err(Fatal(Reason::PROTOCOL_ERROR));
                }
                setting::MAX_CONCURRENT_STREAMS => self.peer.max_streams = value,
                setting::INITIAL_WINDOW_SIZE => self.initial_window(value)?,
                setting::MAX_FRAME_SIZE => {
                    if !(DEFAULT_FRAME as u32..=MAX_FRAME).contains(&value) {
                        return Err(Fatal(Reason::PROTOCOL_ERROR));
                    }
                    self.peer.max_frame = (value as usize).min(SENT_FRAME_MAX);
                }
                setting::ENABLE_CONNECT_PROTOCOL => {
                    if value > 1 || value == 0 && self.peer.takes_connect {
                        return Err(Fatal(Reason::PROTOCOL_ERROR));
                    }
                    self.peer.takes_connect = value == 1;
                }
                _ => {}
            }
        }
        self.peer.has_settings = true;
        self.output.put(|out| frame::put_head(out, 0, kind::SETTINGS, flag::ACK, 0));
        Ok(())
    }

    /// Section 6.9.2: it changes the windows of all streams that are there, perhaps below zero.
    fn initial_window(&mut self, value: u32) -> Result<(), Fatal> {
        if i64::from(value) > MAX_WINDOW {
            return Err(Fatal(Reason::FLOW_CONTROL_ERROR));
        }
        let by = i64::from(value) - i64::from(self.peer.initial_window);
        self.peer.initial_window = value;
        for (_, stream) in &mut self.streams {
            stream.send_window += by;
            if stream.send_window > MAX_WINDOW {
                return Err(Fatal(Reason::FLOW_CONTROL_ERROR));
            }
            if by > 0 {
                stream.wake();
            }
        }
        Ok(())
    }

    // --- Sending. ---

    /// How much of a body may be sent now; ready only when it is something.
    pub(super) fn poll_capacity(&mut self, at: usize, waker: &Waker) -> Poll<Result<usize, super::Gone>> {
        let is_free = self.waiting.is_empty() && self.room() > 0;
        let stream = &mut self.streams[at];
        if stream.broken.is_some() {
            return Poll::Ready(Err(super::Gone));
        }
        let is_wanted = stream.send_window > 0;
        if is_wanted && self.send_window > 0 && (is_free || stream.turn == Turn::Granted) {
            let share = if is_free && self.granted == 0 { OUTPUT_MAX } else { SHARE };
            let most = stream.send_window.min(self.send_window).min(share as i64);
            return Poll::Ready(Ok(most as usize));
        }
        stream.wait(waker);
        // If it was its turn, it could not use it.
        self.end_turn(at);
        let stream = &mut self.streams[at];
        if is_wanted && stream.turn == Turn::None {
            stream.turn = Turn::Waiting;
            self.waiting.push_back(at);
        }
        self.wake_waiting();
        Poll::Pending
    }

    /// What the output takes, beside what was granted.
    fn room(&self) -> usize {
        OUTPUT_MAX.saturating_sub(self.output.len() + self.granted * SHARE)
    }

    /// Those who have waited longest for what all share have their turn, as many as there is room for. Who has had
    /// one waits behind the others.
    pub(super) fn wake_waiting(&mut self) {
        while self.send_window > 0
            && self.room() > 0
            && let Some(at) = self.waiting.pop_front()
        {
            let stream = &mut self.streams[at];
            if stream.broken.is_some() {
                stream.turn = Turn::None;
                continue;
            }
            stream.turn = Turn::Granted;
            stream.wake();
            self.granted += 1;
        }
    }

    fn end_turn(&mut self, at: usize) {
        let turn = &mut self.streams[at].turn;
        if *turn == Turn::Granted {
            *turn = Turn::None;
            self.granted -= 1;
        }
    }

    /// Sends data, of which there is no more than `poll_capacity` has said.
    pub(super) fn send_data(&mut self, at: usize, mut data: Bytes, is_end: bool) -> Result<(), super::Gone> {
        let stream = &mut self.streams[at];
        if stream.broken.is_some() || stream.sent_end {
            return Err(super::Gone);
        }
        stream.send_window -= data.len() as i64;
        self.send_window -= data.len() as i64;
        let number = stream.number;
        self.end_turn(at);
        loop {
            let frame = data.split_to(data.len().min(self.peer.max_frame));
            let flags = if is_end && data.is_empty() { flag::END_STREAM } else { 0 };
            self.output.put(|out| frame::put_head(out, frame.len(), kind::DATA, flags, number));
            self.output.push(frame);
            if data.is_empty() {
                break;
            }
        }
        self.sent(at, is_end);
        Ok(())
    }

    /// Sends a header block, which `write` writes.
    pub(super) fn send_block(
        &mut self,
        at: usize,
        is_end: bool,
        write: impl FnOnce(&mut Encoder, &mut Vec<u8>),
    ) -> Result<(), super::Gone> {
        let stream = &self.streams[at];
        if stream.broken.is_some() || stream.sent_end {
            return Err(super::Gone);
        }
        let (number, max_frame, encoder) = (stream.number, self.peer.max_frame, &mut self.encoder);
        self.output.put(|out| {
            let begin = out.len();
            out.extend_from_slice(&[0; frame::HEAD]);
            encoder.begin(out);
            write(encoder, out);
            let end = if is_end { flag::END_STREAM } else { 0 };
            let length = out.len() - begin - frame::HEAD;
            // A block that does not fit goes on in CONTINUATION frames (section 6.10).
            let rest = out.split_off(begin + frame::HEAD + length.min(max_frame));
            let flags = if rest.is_empty() { end | flag::END_HEADERS } else { end };
            let head = frame::head(length.min(max_frame), kind::HEADERS, flags, number);
            out[begin..begin + frame::HEAD].copy_from_slice(&head);
            let mut frames = rest.chunks(max_frame).peekable();
            while let Some(frame) = frames.next() {
                let flags = if frames.peek().is_none() { flag::END_HEADERS } else { 0 };
                frame::put_head(out, frame.len(), kind::CONTINUATION, flags, number);
                out.extend_from_slice(frame);
            }
        });
        self.sent(at, is_end);
        Ok(())
    }

    fn sent(&mut self, at: usize, is_end: bool) {
        if is_end {
            self.streams[at].sent_end = true;
            self.settle(at);
        }
        self.notify();
    }
}
