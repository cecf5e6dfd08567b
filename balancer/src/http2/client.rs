//! The side that asks.

use std::rc::Rc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Method};
use tokio::io::{AsyncRead, AsyncWrite};

use super::Config;
use super::connection::{Connection, Shared};
use super::frame::{self, MAX_STREAM};
use super::state::Role;
use super::stream::{Gone, Receiver, Sender, handles};
use crate::flag::Raised;

/// Opens streams on a connection.
#[derive(Debug)]
pub(crate) struct Client(Rc<Shared>);

/// A request's head, as it is sent.
pub(crate) struct RequestHead<'a> {
    pub(crate) method: &'a Method,
    pub(crate) is_https: bool,
    pub(crate) authority: &'a str,
    pub(crate) path: &'a str,
    /// Of an extended CONNECT.
    pub(crate) protocol: Option<&'static str>,
    pub(crate) fields: &'a HeaderMap,
    /// Those of the fields that stay here.
    pub(crate) without: &'a [HeaderName],
}

impl Client {
    /// The client's side on `socket`.
    pub(crate) fn begin<S: AsyncRead + AsyncWrite + Unpin>(socket: S, config: Config) -> (Client, Connection<S>) {
        let connection = Connection::new(socket, Bytes::new(), Role::Client, config);
        (Client(connection.shared.clone()), connection)
    }

    /// Sends a request's head; fails where the connection takes no new stream any more.
    pub(crate) fn send(&self, head: &RequestHead<'_>, is_end: bool) -> Result<(Sender, Receiver), Gone> {
        let mut state = self.0.state.borrow_mut();
        if state.is_over || state.is_going_away || state.last >= MAX_STREAM - 2 {
            return Err(Gone);
        }
        let number = if state.last == 0 { 1 } else { state.last + 2 };
        state.last = number;
        let at = state.insert(number, 2);
        let stream = state.stream(at);
        stream.is_bodiless = *head.method == Method::HEAD;
        stream.is_tunnel = head.protocol.is_some();
        let sent = state.send_block(at, is_end, |encoder, out| {
            encoder.method(out, head.method);
            encoder.scheme(out, head.is_https);
            encoder.authority(out, head.authority);
            encoder.path(out, head.path);
            if let Some(protocol) = head.protocol {
                encoder.protocol(out, protocol);
            }
            for (name, value) in head.fields {
                if !head.without.contains(name) {
                    encoder.field(out, name, value);
                }
            }
        });
        drop(state);
        let halves = handles(&self.0, at);
        sent.map(|()| halves)
    }

    pub(crate) fn is_going_away(&self) -> bool {
        let state = self.0.state.borrow();
        state.is_going_away || state.is_over
    }

    /// Streams that the peer lets this side have open.
    pub(crate) fn max_streams(&self) -> usize {
        self.0.state.borrow().peer.max_streams as usize
    }

    /// Whether the peer has said something of streams since the last call: how many it takes, or that it goes.
    pub(crate) fn take_news(&self) -> bool {
        std::mem::take(&mut self.0.state.borrow_mut().has_news)
    }

    /// Ends when the peer has sent its SETTINGS, or will not.
    pub(crate) fn settings(&self) -> Raised {
        self.0.has_settings.raised()
    }

    /// Whether the peer has sent its SETTINGS.
    pub(crate) fn has_settings(&self) -> bool {
        self.0.state.borrow().peer.has_settings
    }

    /// Whether the peer takes extended CONNECTs (RFC 8441), as its SETTINGS say.
    pub(crate) fn takes_connect(&self) -> bool {
        self.0.state.borrow().peer.takes_connect
    }

    /// What the peer lets this side send, on all streams together.
    pub(crate) fn window(&self) -> i64 {
        self.0.state.borrow().send_window
    }

    /// HEADERS and DATA that were sent on it.
    pub(crate) fn frames(&self) -> u64 {
        self.0.state.borrow().frames
    }

    /// Grows with each read: where it stays, the peer has said nothing on any stream.
    pub(crate) fn reads(&self) -> u64 {
        self.0.reads.get()
    }

    /// Sends a PING, which [`Client::pongs`] counts when it is answered.
    pub(crate) fn ping(&self) {
        let mut state = self.0.state.borrow_mut();
        frame::put_ping(state.output.buffer(), 0, &[0; 8]);
        state.notify();
    }

    pub(crate) fn pongs(&self) -> u64 {
        self.0.state.borrow().pongs
    }
}
