//! What comes: DATA and the windows that it takes, and the peer's word on what it takes itself.

use http::HeaderMap;

use super::stream::Data;
use super::{Fatal, Role, State, TINY};
use crate::http2::frame::{self, DEFAULT_FRAME, MAX_FRAME, MAX_WINDOW, Reason, flag, kind, setting};
use crate::http2::stream::Broken;

/// The largest frame that is sent: smaller ones share a connection better.
const SENT_FRAME_MAX: usize = 64 * 1024;

impl State {
    /// A DATA frame; `length` is its payload's, padding and all, which counts against the windows.
    pub(in crate::http2) fn data(
        &mut self,
        number: u32,
        data: Data<'_>,
        length: usize,
        is_end: bool,
    ) -> Result<(), Fatal> {
        self.receive_window -= length as i64;
        if self.receive_window < 0 {
            return Err(Fatal::Error(Reason::FLOW_CONTROL_ERROR));
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
        if size == 0 && !is_end { self.empty_frame() } else { Ok(()) }
    }

    /// DATA or HEADERS for a stream without a handle, which is no new one.
    pub(in crate::http2) fn of_none(&mut self, number: u32, length: usize) -> Result<(), Fatal> {
        let known = self.over.iter().rev().find(|(over, _)| *over == number);
        match known {
            Some((_, true)) => self.too_late(length),
            // Section 5.1.
            Some((_, false)) => Err(Fatal::Error(Reason::STREAM_CLOSED)),
            None if number <= self.forgotten_to || self.served_to.is_some_and(|last| number > last) => {
                self.too_late(length)
            }
            // It has not begun, or was passed over (section 5.1.1).
            None => Err(Fatal::Error(Reason::PROTOCOL_ERROR)),
        }
    }

    /// A frame that was on its way when its stream was reset. Many of them are a fault only when they carry nothing.
    fn too_late(&mut self, length: usize) -> Result<(), Fatal> {
        if length <= TINY { self.empty_frame() } else { Ok(()) }
    }

    pub(in crate::http2) fn trailers(&mut self, at: usize, trailers: HeaderMap) -> Result<(), Fatal> {
        let stream = &mut self.streams[at];
        if stream.length_left.is_some_and(|left| left > 0) {
            return self.fail(at, Reason::PROTOCOL_ERROR);
        }
        stream.trailers = Some(Box::new(trailers));
        self.received_end(at);
        Ok(())
    }

    pub(in crate::http2) fn received_end(&mut self, at: usize) {
        let stream = &mut self.streams[at];
        stream.received_end = true;
        stream.wake();
        self.settle(at);
    }

    /// What was received is read: the peer may send as much again.
    pub(in crate::http2) fn release(&mut self, at: usize, length: usize) {
        if length == 0 {
            return;
        }
        self.release_connection(length);
        let stream = &mut self.streams[at];
        stream.released += length as u32;
        let (first, grown) = (self.config.stream_window, self.config.grown_window);
        let window = if stream.is_grown { grown } else { first };
        if stream.released >= window / 2 && !stream.received_end && stream.broken.is_none() {
            let more = if std::mem::replace(&mut stream.is_grown, true) { 0 } else { grown - first };
            let (number, by) = (stream.number, std::mem::take(&mut stream.released) + more);
            stream.receive_window += i64::from(by);
            frame::put_word(self.output.buffer(), kind::WINDOW_UPDATE, number, by);
            self.notify();
        }
    }

    pub(super) fn release_connection(&mut self, length: usize) {
        self.released += length as u32;
        // When half of what is not held by streams that nobody reads has been used: of the whole window's half, others
        // would never see what those leave.
        if self.released > 0 && i64::from(self.released) >= self.receive_window {
            let released = std::mem::take(&mut self.released);
            self.receive_window += i64::from(released);
            frame::put_word(self.output.buffer(), kind::WINDOW_UPDATE, 0, released);
            self.notify();
        }
    }

    pub(in crate::http2) fn window_update(&mut self, number: u32, by: u32) -> Result<(), Fatal> {
        // Larger ones end by themselves: a window is full at some time.
        if by < TINY as u32 {
            self.control_frame()?;
        }
        if number == 0 {
            self.send_window += i64::from(by);
            if by == 0 || self.send_window > MAX_WINDOW {
                return Err(Fatal::Error(if by == 0 { Reason::PROTOCOL_ERROR } else { Reason::FLOW_CONTROL_ERROR }));
            }
            self.wake_waiting();
            return Ok(());
        }
        let Some(at) = self.find(number) else {
            // It may have been sent before the stream's end was read.
            return if number > self.last { Err(Fatal::Error(Reason::PROTOCOL_ERROR)) } else { Ok(()) };
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
    pub(in crate::http2) fn settings(&mut self, payload: &[u8]) -> Result<(), Fatal> {
        if !self.peer.has_settings {
            // As many as it likes, if it says nothing of them.
            self.peer.max_streams = u32::MAX;
        }
        for pair in payload.chunks_exact(6) {
            let id = u16::from_be_bytes([pair[0], pair[1]]);
            let value = u32::from_be_bytes([pair[2], pair[3], pair[4], pair[5]]);
            // Each may change the windows of all streams.
            self.empty_frame()?;
            match id {
                setting::HEADER_TABLE_SIZE => self.encoder.resize(value as usize),
                setting::ENABLE_PUSH if value > 1 || value == 1 && self.role == Role::Client => {
                    return Err(Fatal::Error(Reason::PROTOCOL_ERROR));
                }
                setting::MAX_CONCURRENT_STREAMS => self.peer.max_streams = value,
                setting::INITIAL_WINDOW_SIZE => self.initial_window(value)?,
                setting::MAX_FRAME_SIZE => {
                    if !(DEFAULT_FRAME as u32..=MAX_FRAME).contains(&value) {
                        return Err(Fatal::Error(Reason::PROTOCOL_ERROR));
                    }
                    self.peer.max_frame = (value as usize).min(SENT_FRAME_MAX);
                }
                setting::ENABLE_CONNECT_PROTOCOL => {
                    if value > 1 || value == 0 && self.peer.takes_connect {
                        return Err(Fatal::Error(Reason::PROTOCOL_ERROR));
                    }
                    self.peer.takes_connect = value == 1;
                }
                _ => {}
            }
        }
        self.peer.has_settings = true;
        frame::put_head(self.output.buffer(), 0, kind::SETTINGS, flag::ACK, 0);
        Ok(())
    }

    /// Section 6.9.2: it changes the windows of all streams that are there, perhaps below zero.
    fn initial_window(&mut self, value: u32) -> Result<(), Fatal> {
        if i64::from(value) > MAX_WINDOW {
            return Err(Fatal::Error(Reason::FLOW_CONTROL_ERROR));
        }
        let by = i64::from(value) - i64::from(self.peer.initial_window);
        self.peer.initial_window = value;
        for (_, stream) in &mut self.streams {
            stream.send_window += by;
            if stream.send_window > MAX_WINDOW {
                return Err(Fatal::Error(Reason::FLOW_CONTROL_ERROR));
            }
            if by > 0 {
                stream.wake();
            }
        }
        Ok(())
    }
}
