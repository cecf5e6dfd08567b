//! The side that is asked.

use bytes::Bytes;
use http::request::Parts;
use tokio::io::{AsyncRead, AsyncWrite};

use super::Config;
use super::connection::Connection;
use super::frame::{self, MAX_STREAM, Reason};
use super::state::{Farewell, Role, State};
use super::stream::{Broken, Receiver, Sender, handles};

/// A request whose head is there.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) at: usize,
    pub(super) head: Parts,
    pub(super) is_too_large: bool,
}

/// The same, with its stream.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) head: Parts,
    /// Its fields are more than allowed; they are not all there.
    pub(crate) is_too_large: bool,
    pub(crate) sender: Sender,
    pub(crate) receiver: Receiver,
}

impl Accepted {
    /// Whether it was broken off before it could be accepted.
    pub(crate) fn is_broken(&self) -> bool {
        self.sender.is_broken()
    }
}

/// What a PING asks by which the client shows that it has read the GOAWAY before it.
const FAREWELL: [u8; 8] = *b"farewell";

/// The server's side on `socket`, from which `first` was read already.
pub(crate) fn server<S: AsyncRead + AsyncWrite + Unpin>(socket: S, first: Bytes, config: Config) -> Connection<S> {
    Connection::new(socket, first, Role::Server, config)
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// The next request that has come.
    pub(crate) fn accept(&mut self) -> Option<Accepted> {
        let mut state = self.shared.state.borrow_mut();
        let Incoming { at, head, is_too_large } = state.incoming.pop_front()?;
        state.stream(at).is_accepted = true;
        drop(state);
        let (sender, receiver) = handles(&self.shared, at);
        Some(Accepted { head, is_too_large, sender, receiver })
    }

    /// Streams that were refused since the last call.
    pub(crate) fn take_refused(&mut self) -> u32 {
        std::mem::take(&mut self.shared.state.borrow_mut().refused)
    }

    /// Takes no more requests than the client has sent when it hears of it, and ends after the last (section 6.8).
    pub(crate) fn leave(&mut self) {
        self.shared.state.borrow_mut().leave();
    }
}

impl State {
    fn leave(&mut self) {
        if self.farewell != Farewell::None || self.is_over {
            return;
        }
        self.farewell = Farewell::Announced;
        frame::put_goaway(self.output.buffer(), MAX_STREAM, Reason::NO_ERROR);
        frame::put_ping(self.output.buffer(), 0, &FAREWELL);
        self.notify();
    }

    /// The client has read the first GOAWAY: what it sends from here on it has sent in spite of it.
    pub(super) fn farewell_is_read(&mut self, payload: &[u8]) {
        if self.farewell == Farewell::Announced && *payload == FAREWELL {
            self.farewell = Farewell::Said;
            self.served_to = Some(self.last);
            let last = self.last;
            frame::put_goaway(self.output.buffer(), last, Reason::NO_ERROR);
        }
    }

    /// Says why, and ends. The stream whose frame was read last has brought it about, if it was no good.
    pub(super) fn give_up(&mut self, reason: Reason) {
        if self.is_over {
            return;
        }
        // What was said before is not taken back (section 6.8).
        let last = if self.role == Role::Server { self.served_to.unwrap_or(self.last) } else { 0 };
        frame::put_goaway(self.output.buffer(), last, reason);
        if reason != Reason::NO_ERROR
            && let Some(at) = self.find(self.reading)
        {
            self.break_off(at, Broken::Here(reason));
        }
        self.end();
    }
}
