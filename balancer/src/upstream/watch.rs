//! What an endpoint's frames tell that the HTTP/2 library keeps to itself: a WINDOW_UPDATE on a
//! stream shows that the app reads its request (H2), a GOAWAY that no new stream may be opened.
//! Only frame heads are looked at (RFC 9113 section 4.1); payloads are passed over by length.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::task::Waker;

use crate::gather::Tap;

const HEAD: usize = 9;
const GOAWAY: u8 = 0x7;
const WINDOW_UPDATE: u8 = 0x8;

/// The frame heads of one connection, as they are read.
#[derive(Debug, Default)]
pub(crate) struct FrameWatch {
    head: Cell<[u8; HEAD]>,
    /// How much of `head` is there.
    have: Cell<usize>,
    /// Payload bytes to pass over.
    skip: Cell<usize>,
    going_away: Cell<bool>,
    uploads: RefCell<Vec<(u32, Weak<ReadSign>)>>,
}

/// Whether the endpoint has been seen to read one stream's request.
#[derive(Debug, Default)]
pub(crate) struct ReadSign {
    seen: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl ReadSign {
    /// True once it reads; else the waker is woken when it does.
    pub(crate) fn poll_seen(&self, waker: &Waker) -> bool {
        if !self.seen.get() {
            self.waker.replace(Some(waker.clone()));
        }
        self.seen.get()
    }
}

impl FrameWatch {
    pub(crate) fn is_going_away(&self) -> bool {
        self.going_away.get()
    }

    /// Watches for a WINDOW_UPDATE on `stream` for as long as the sign is held.
    pub(crate) fn upload(&self, stream: u32) -> Rc<ReadSign> {
        let sign = Rc::new(ReadSign::default());
        let mut uploads = self.uploads.borrow_mut();
        uploads.retain(|(_, sign)| sign.strong_count() > 0);
        uploads.push((stream, Rc::downgrade(&sign)));
        sign
    }

    fn frame(&self, head: [u8; HEAD]) {
        match head[3] {
            GOAWAY => self.going_away.set(true),
            WINDOW_UPDATE => {
                let stream = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
                self.uploads.borrow_mut().retain(|(upload, sign)| {
                    let Some(sign) = sign.upgrade() else { return false };
                    if *upload != stream {
                        return true;
                    }
                    sign.seen.set(true);
                    if let Some(waker) = sign.waker.take() {
                        waker.wake();
                    }
                    false
                });
            }
            _ => {}
        }
    }
}

impl Tap for Rc<FrameWatch> {
    fn read(&self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let skipped = self.skip.get().min(bytes.len());
            self.skip.set(self.skip.get() - skipped);
            bytes = &bytes[skipped..];
            let have = self.have.get();
            let taken = (HEAD - have).min(bytes.len());
            if self.skip.get() > 0 || taken == 0 {
                continue;
            }
            let mut head = self.head.get();
            head[have..have + taken].copy_from_slice(&bytes[..taken]);
            bytes = &bytes[taken..];
            self.head.set(head);
            self.have.set(have + taken);
            if have + taken == HEAD {
                self.have.set(0);
                self.skip.set(usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]));
                self.frame(head);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        bytes.extend([kind, 0]);
        bytes.extend(stream.to_be_bytes());
        bytes.extend(payload);
        bytes
    }

    /// However the bytes are cut into reads, the same frames are seen.
    #[test]
    fn frames_are_seen_at_any_cut() {
        let mut bytes = frame(0, 1, b"data that looks like nothing");
        bytes.extend(frame(WINDOW_UPDATE, 3, &[0, 0, 1, 0]));
        bytes.extend(frame(4, 0, b""));
        bytes.extend(frame(GOAWAY, 0, &[0; 8]));
        for cut in 1..bytes.len() {
            let watch = Rc::new(FrameWatch::default());
            let (one, three) = (watch.upload(1), watch.upload(3));
            for read in bytes.chunks(cut) {
                watch.read(read);
            }
            assert!(watch.is_going_away(), "cut {cut}");
            assert!(three.poll_seen(Waker::noop()), "cut {cut}");
            assert!(!one.poll_seen(Waker::noop()), "cut {cut}");
        }
    }
}
