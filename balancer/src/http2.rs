//! HTTP/2 (RFC 9113), on both sides of the balancer.
//!
//! A [`Connection`] owns its socket, and the task that polls it reads and writes: what all streams
//! have to say in a turn leaves in one system call. A stream has two handles, [`Sender`] and [`Receiver`],
//! which its request holds. Nothing waits here to be sent but what the socket has not taken: a body that
//! finds no window, or no room, stays where it came from. Everything is of one thread, so there is no lock.
//!
//! What a peer may cost is bounded: by windows (what is received and not taken), by [`READ_STOP`] (what is
//! answered and not read), and by three budgets (what is wrong, what is good for nothing, and what is good but not that often).

mod client;
mod connection;
mod frame;
mod head;
mod headers;
mod hpack;
mod input;
mod server;
mod state;
mod stream;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub(crate) use client::{Client, RequestHead};
pub(crate) use connection::{Connection, End};
pub(crate) use frame::Reason;
pub(crate) use head::Protocol;
pub(crate) use server::{Accepted, server};
pub(crate) use stream::{Broken, Gone, Receiver, Sender};

/// Beyond this nothing more is read: a peer that does not read its answers gets no more of them.
const READ_STOP: usize = 512 * 1024;
/// Over what time a peer's faults are counted.
const BUDGET_WINDOW: Duration = Duration::from_secs(10);

/// What a peer has sent too much of, within [`BUDGET_WINDOW`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TooMuch {
    /// Stream errors.
    Faults,
    /// Requests that were broken off before anybody saw them; they count with the faults.
    Resets,
    /// [`Config::max_empty`].
    Empty,
    /// [`Config::max_control`].
    Control,
    /// One block of header fields.
    Head,
}

/// What one side of a connection offers and allows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Config {
    /// What a peer may send on one stream before it is read, in bytes; not below 65,535, which a peer may send before it
    /// has heard of this.
    pub(crate) stream_window: u32,
    /// The same on a stream that has been seen to be read.
    pub(crate) grown_window: u32,
    /// The same for all its streams together.
    pub(crate) connection_window: u32,
    /// The largest frame that is taken.
    pub(crate) max_frame: u32,
    /// Streams that a peer may have open.
    pub(crate) max_streams: u32,
    /// A head's size, as RFC 9113 section 6.5.2 counts it. Beyond four times this the connection ends.
    pub(crate) max_header_bytes: u32,
    /// Stream errors that a peer may make within [`BUDGET_WINDOW`].
    pub(crate) max_faults: usize,
    /// Frames that are good for nothing (no bytes, of streams that are over, of streams too many, unknown). An upload of
    /// tiny frames that is broken off leaves some thousands of them on their way.
    pub(crate) max_empty: usize,
    /// Frames that cost little and may come for a good reason, but not so often: PINGs, acknowledgements, resets of what is over,
    /// and what opens a window by next to nothing.
    pub(crate) max_control: usize,
}
