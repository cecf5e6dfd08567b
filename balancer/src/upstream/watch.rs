//! What an endpoint's frames tell that the HTTP/2 library keeps to itself: a WINDOW_UPDATE on a
//! stream shows that the app reads its request (H2), an END_STREAM that a response was whole
//! before its connection went (H3), a GOAWAY that no new stream may be opened. Only frame heads
//! are looked at (RFC 9113 section 4.1); payloads are passed over by length.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::task::Waker;

use crate::flag::{Flag, Raised};
use crate::gather::Tap;

const HEAD: usize = 9;
const DATA: u8 = 0x0;
const HEADERS: u8 = 0x1;
const SETTINGS: u8 = 0x4;
const GOAWAY: u8 = 0x7;
const WINDOW_UPDATE: u8 = 0x8;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;

/// The setting that says how much of a body an endpoint takes before it asks for more (RFC 9113
/// section 6.5.2), and what it is when nothing is said.
const INITIAL_WINDOW_SIZE: u16 = 0x4;
const DEFAULT_WINDOW: u32 = 65_535;
/// Endpoints that read before they ask for more (Bandit) stay at the default; one that opens its
/// window far beyond it buffers what nobody has read.
const WIDE_WINDOW: u32 = 4 * DEFAULT_WINDOW;
/// More of a SETTINGS frame is not looked at: there are six settings of six bytes.
const SETTINGS_MAX: usize = 256;

/// The frame heads of one connection, as they are read.
#[derive(Debug, Default)]
pub(crate) struct FrameWatch {
    head: Cell<[u8; HEAD]>,
    /// How much of `head` is there.
    have: Cell<usize>,
    /// Payload bytes to pass over.
    skip: Cell<usize>,
    /// The stream that the frame under way ends; 0 for none.
    ending: Cell<u32>,
    going_away: Cell<bool>,
    /// The payload of the SETTINGS frame under way.
    settings: RefCell<Option<Vec<u8>>>,
    has_wide_window: Cell<bool>,
    /// Up when the first SETTINGS are there.
    has_settings: Rc<Flag>,
    /// Reads that have brought something.
    reads: Cell<u64>,
    uploads: RefCell<Vec<(u32, Weak<UploadSign>)>>,
}

/// What has been seen of one stream whose request has a body.
#[derive(Debug, Default)]
pub(crate) struct UploadSign {
    has_wide_window: bool,
    reads: Cell<bool>,
    ended: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl UploadSign {
    /// Whether the endpoint will say that it reads: only then is it worth waiting for.
    pub(crate) fn will_tell(&self) -> bool {
        !self.has_wide_window
    }

    /// True once the endpoint reads; else the waker is woken when it does.
    pub(crate) fn poll_reads(&self, waker: &Waker) -> bool {
        if !self.reads.get() {
            self.waker.replace(Some(waker.clone()));
        }
        self.reads.get()
    }

    /// Only from here on a WINDOW_UPDATE is a sign: before the first DATA it is a greeting.
    pub(crate) fn begin(&self) {
        self.reads.set(false);
    }

    /// The endpoint's END_STREAM, and all before it, has been read from the connection.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.get()
    }
}

impl FrameWatch {
    pub(crate) fn is_going_away(&self) -> bool {
        self.going_away.get()
    }

    /// Ends when the endpoint has sent its SETTINGS.
    pub(crate) fn settings(&self) -> Raised {
        self.has_settings.raised()
    }

    /// Grows with each read: where it stays, the endpoint has said nothing on any stream.
    pub(crate) fn reads(&self) -> u64 {
        self.reads.get()
    }

    /// Watches `stream` for as long as the sign is held.
    pub(crate) fn upload(&self, stream: u32) -> Rc<UploadSign> {
        let has_wide_window = self.has_wide_window.get();
        let sign = Rc::new(UploadSign { has_wide_window, ..UploadSign::default() });
        let mut uploads = self.uploads.borrow_mut();
        uploads.retain(|(_, sign)| sign.strong_count() > 0);
        uploads.push((stream, Rc::downgrade(&sign)));
        sign
    }

    fn frame(&self, head: [u8; HEAD]) {
        let stream = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
        match head[3] {
            GOAWAY => self.going_away.set(true),
            SETTINGS => drop(self.settings.replace(Some(Vec::new()))),
            WINDOW_UPDATE => {
                if let Some(sign) = self.sign(stream) {
                    sign.reads.set(true);
                    if let Some(waker) = sign.waker.take() {
                        waker.wake();
                    }
                }
            }
            DATA if head[4] & END_STREAM != 0 => self.ending.set(stream),
            // With CONTINUATION behind it the end is not told here: such a stream counts as cut.
            HEADERS if head[4] & (END_STREAM | END_HEADERS) == END_STREAM | END_HEADERS => self.ending.set(stream),
            _ => {}
        }
    }

    /// The payload is there too.
    fn end_of_frame(&self) {
        if let Some(settings) = self.settings.take() {
            self.settings_are(&settings);
            self.has_settings.raise();
        }
        let stream = self.ending.replace(0);
        if stream != 0
            && let Some(sign) = self.sign(stream)
        {
            sign.ended.set(true);
        }
    }

    fn settings_are(&self, payload: &[u8]) {
        for setting in payload.chunks_exact(6) {
            let id = u16::from_be_bytes([setting[0], setting[1]]);
            let value = u32::from_be_bytes([setting[2], setting[3], setting[4], setting[5]]);
            if id == INITIAL_WINDOW_SIZE {
                self.has_wide_window.set(value > WIDE_WINDOW);
            }
        }
    }

    fn sign(&self, stream: u32) -> Option<Rc<UploadSign>> {
        let uploads = self.uploads.borrow();
        uploads.iter().find(|(upload, _)| *upload == stream).and_then(|(_, sign)| sign.upgrade())
    }
}

impl Tap for Rc<FrameWatch> {
    fn read(&self, mut bytes: &[u8]) {
        if !bytes.is_empty() {
            self.reads.set(self.reads.get().wrapping_add(1));
        }
        while !bytes.is_empty() {
            let skipped = self.skip.get().min(bytes.len());
            self.skip.set(self.skip.get() - skipped);
            if let Some(settings) = &mut *self.settings.borrow_mut() {
                let room = SETTINGS_MAX - settings.len().min(SETTINGS_MAX);
                settings.extend_from_slice(&bytes[..skipped.min(room)]);
            }
            bytes = &bytes[skipped..];
            if self.skip.get() > 0 {
                return;
            }
            if skipped > 0 {
                self.end_of_frame();
            }
            let have = self.have.get();
            let taken = (HEAD - have).min(bytes.len());
            let mut head = self.head.get();
            head[have..have + taken].copy_from_slice(&bytes[..taken]);
            bytes = &bytes[taken..];
            self.head.set(head);
            self.have.set(have + taken);
            if have + taken == HEAD {
                self.have.set(0);
                self.skip.set(usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]));
                self.frame(head);
                if self.skip.get() == 0 {
                    self.end_of_frame();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        bytes.extend([kind, flags]);
        bytes.extend(stream.to_be_bytes());
        bytes.extend(payload);
        bytes
    }

    /// However the bytes are cut into reads, the same frames are seen.
    #[test]
    fn frames_are_seen_at_any_cut() {
        let mut bytes = frame(DATA, 0, 1, b"data that looks like nothing");
        bytes.extend(frame(WINDOW_UPDATE, 0, 3, &[0, 0, 1, 0]));
        bytes.extend(frame(4, 0, 0, &[0, 3, 0, 0, 1, 0, 0, 4, 0, 0x10, 0, 0]));
        bytes.extend(frame(4, 1, 0, b""));
        bytes.extend(frame(GOAWAY, 0, 0, &[0; 8]));
        bytes.extend(frame(HEADERS, END_STREAM, 1, b"trailers, and more to follow"));
        bytes.extend(frame(DATA, END_STREAM, 3, b"the end"));
        for cut in 1..bytes.len() {
            let watch = Rc::new(FrameWatch::default());
            let (one, three) = (watch.upload(1), watch.upload(3));
            for read in bytes.chunks(cut) {
                watch.read(read);
            }
            assert!(watch.is_going_away(), "cut {cut}");
            assert!(three.poll_reads(Waker::noop()), "cut {cut}");
            assert!(!one.poll_reads(Waker::noop()), "cut {cut}");
            assert!(three.has_ended() && !one.has_ended(), "cut {cut}");
            assert!(one.will_tell() && !watch.upload(5).will_tell(), "cut {cut}: 1 MiB is wide");
        }
    }

    /// A frame that says END_STREAM and is itself cut off ends nothing.
    #[test]
    fn an_end_counts_when_all_of_its_frame_is_there() {
        let bytes = frame(DATA, END_STREAM, 1, b"the end");
        let watch = Rc::new(FrameWatch::default());
        let sign = watch.upload(1);
        watch.read(&bytes[..bytes.len() - 1]);
        assert!(!sign.has_ended());
        watch.read(&bytes[bytes.len() - 1..]);
        assert!(sign.has_ended());
        let empty = watch.upload(3);
        watch.read(&frame(DATA, END_STREAM, 3, b""));
        assert!(empty.has_ended());
    }
}
