//! What goes out: bodies as windows and turns let them, and header blocks.

use std::task::{Poll, Waker};

use bytes::Bytes;

use super::State;
use super::stream::Turn;
use crate::http2::Gone;
use crate::http2::frame::{self, flag, kind};
use crate::http2::hpack::Encoder;
use crate::outbox::GATHER_MAX;

/// What a body may send in its turn while others wait for theirs.
const SHARE: usize = 16 * 1024;

impl State {
    /// How much of a body may be sent now; ready only when it is something.
    pub(in crate::http2) fn poll_capacity(&mut self, at: usize, waker: &Waker) -> Poll<Result<usize, Gone>> {
        let is_free = self.waiting.is_empty() && self.room() > 0;
        let stream = &mut self.streams[at];
        if stream.broken.is_some() {
            return Poll::Ready(Err(Gone));
        }
        let is_wanted = stream.send_window > 0;
        if is_wanted && self.send_window > 0 && (is_free || stream.turn == Turn::Granted) {
            let share = if is_free && self.granted == 0 { GATHER_MAX } else { SHARE };
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
        GATHER_MAX.saturating_sub(self.output.len() + self.granted * SHARE)
    }

    /// Those who have waited longest for what all share have their turn, as many as there is room for. Who has had
    /// one waits behind the others.
    pub(in crate::http2) fn wake_waiting(&mut self) {
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

    pub(super) fn end_turn(&mut self, at: usize) {
        let turn = &mut self.streams[at].turn;
        if *turn == Turn::Granted {
            *turn = Turn::None;
            self.granted -= 1;
        }
    }

    /// Nothing more is sent of a body.
    pub(in crate::http2) fn wants_no_turn(&mut self, at: usize) {
        let turn = &mut self.streams[at].turn;
        if *turn == Turn::Waiting {
            *turn = Turn::None;
            self.waiting.retain(|waiting| *waiting != at);
        }
        self.end_turn(at);
        self.wake_waiting();
    }

    /// Sends data, of which there is no more than `poll_capacity` has said.
    pub(in crate::http2) fn send_data(&mut self, at: usize, mut data: Bytes, is_end: bool) -> Result<(), Gone> {
        let stream = &mut self.streams[at];
        if stream.broken.is_some() || stream.sent_end {
            return Err(Gone);
        }
        stream.send_window -= data.len() as i64;
        self.send_window -= data.len() as i64;
        let number = stream.number;
        self.end_turn(at);
        loop {
            let frame = data.split_to(data.len().min(self.peer.max_frame));
            let flags = if is_end && data.is_empty() { flag::END_STREAM } else { 0 };
            frame::put_head(self.output.buffer(), frame.len(), kind::DATA, flags, number);
            self.output.push(frame);
            self.frames += 1;
            if data.is_empty() {
                break;
            }
        }
        self.sent(at, is_end);
        Ok(())
    }

    /// Sends a header block, which `write` writes.
    pub(in crate::http2) fn send_block(
        &mut self,
        at: usize,
        is_end: bool,
        write: impl FnOnce(&mut Encoder, &mut Vec<u8>),
    ) -> Result<(), Gone> {
        let stream = &self.streams[at];
        if stream.broken.is_some() || stream.sent_end {
            return Err(Gone);
        }
        let (number, max_frame) = (stream.number, self.peer.max_frame);
        let (encoder, out) = (&mut self.encoder, self.output.buffer());
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
        self.frames += 1;
        let mut frames = rest.chunks(max_frame).peekable();
        while let Some(frame) = frames.next() {
            let flags = if frames.peek().is_none() { flag::END_HEADERS } else { 0 };
            frame::put_head(out, frame.len(), kind::CONTINUATION, flags, number);
            out.extend_from_slice(frame);
            self.frames += 1;
        }
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
