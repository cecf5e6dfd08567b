//! An open WebSocket: bytes pass both ways as they come. Frames are followed so that the balancer
//! can close one with a code, between two messages, when its endpoint must be left.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tracing::debug;

use super::frames::{Frames, GOING_AWAY, RESTART, close, masked_close};
use super::side::{Gone, Side};
use crate::flag::Raised;
use crate::lease::Lease;
use crate::timers::Idle;
use crate::upstream::Endpoint;

/// From the decision to close a WebSocket to its end: for the message under way to end, and for
/// the client to answer the close.
const CLOSE_TIME: Duration = Duration::from_secs(2);

pub(crate) struct Tunnel {
    upstream: Box<dyn Side>,
    /// Held for as long as the tunnel stands.
    lease: Lease,
    up: Direction,
    down: Direction,
    idle: Idle,
    cut: Raised,
    /// The balancer closes it: until then at the latest.
    closing: Option<Idle>,
}

/// One direction of a tunnel.
#[derive(Debug, Default)]
struct Direction {
    frames: Frames,
    state: State,
}

#[derive(Debug, PartialEq, Eq, Default)]
enum State {
    #[default]
    Open,
    /// At the end of the message under way the balancer's close frame follows.
    Closing(Vec<u8>),
    /// It is on its way.
    Closed,
    /// It has gone out. What still comes is read and dropped.
    Quiet,
    /// The sender has ended; the receiver is to be told.
    Ending,
    Ended,
}

impl Tunnel {
    pub(super) fn new(upstream: Box<dyn Side>, endpoint: &Rc<Endpoint>, lease: Lease, idle: Duration) -> Tunnel {
        Tunnel {
            upstream,
            lease: lease.into_websocket(),
            up: Direction::default(),
            down: Direction::default(),
            idle: Idle::new(idle),
            cut: endpoint.until_cut(),
            closing: None,
        }
    }

    /// Passes bytes on; ready when both sides have ended, one has gone, or nothing moves for too
    /// long.
    pub(crate) fn poll(&mut self, downstream: &mut dyn Side, cx: &mut Context<'_>) -> Poll<()> {
        if self.closing.is_none() && Pin::new(&mut self.cut).poll(cx).is_ready() {
            debug!("a WebSocket is closed at its drain's deadline");
            self.closing = Some(Idle::new(CLOSE_TIME));
            self.up.close(masked_close(GOING_AWAY, [0x55; 4]));
            self.down.close(close(RESTART));
        }
        let restarts = self.lease.is_leaving();
        let up = self.up.poll(downstream, &mut *self.upstream, &mut self.idle, false, cx);
        let down = self.down.poll(&mut *self.upstream, downstream, &mut self.idle, restarts, cx);
        if matches!((&up, &down), (Poll::Ready(Err(Gone)), _) | (_, Poll::Ready(Err(Gone)))) {
            return Poll::Ready(());
        }
        let is_answered = self.down.state == State::Quiet && self.up.frames.has_closed();
        if is_answered || up.is_ready() && down.is_ready() {
            // Where the peer takes no more the connection's end tells it.
            let _ = downstream.poll_end(cx);
            return Poll::Ready(());
        }
        if up.is_ready() || down.is_ready() {
            // A WebSocket that one side has ended is over (RFC 6455 section 7.1.1).
            self.closing.get_or_insert_with(|| Idle::new(CLOSE_TIME));
        }
        self.closing.as_mut().unwrap_or(&mut self.idle).poll(cx)
    }
}

impl Direction {
    fn close(&mut self, frame: Vec<u8>) {
        // Behind a close frame there is nothing more to say.
        if self.state == State::Open && !self.frames.has_closed() {
            self.state = State::Closing(frame);
        }
    }

    /// Moves what `from` sends to `to`; ready when this direction has ended. With `restarts`, a
    /// close that would keep the client away becomes one that lets it come back.
    fn poll(
        &mut self,
        from: &mut dyn Side,
        to: &mut dyn Side,
        idle: &mut Idle,
        restarts: bool,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Gone>> {
        loop {
            match &mut self.state {
                State::Ended => return Poll::Ready(Ok(())),
                State::Ending => {
                    ready!(to.poll_sent(cx))?;
                    ready!(to.poll_end(cx));
                    self.state = State::Ended;
                    continue;
                }
                State::Closed => {
                    ready!(to.poll_sent(cx))?;
                    self.state = State::Quiet;
                }
                State::Closing(frame) if self.frames.is_at_boundary() => {
                    ready!(to.poll_sent(cx))?;
                    to.send(std::mem::take(frame).into());
                    self.state = State::Closed;
                    continue;
                }
                State::Open | State::Closing(_) => ready!(to.poll_sent(cx))?,
                State::Quiet => {}
            }
            let data = ready!(from.poll_receive(cx))?;
            if data.is_empty() {
                self.state = if self.state == State::Quiet { State::Ended } else { State::Ending };
                continue;
            }
            idle.moved();
            match &mut self.state {
                State::Closing(frame) => {
                    let taken = self.frames.follow(&data, true).taken;
                    let mut last = BytesMut::from(&data[..taken]);
                    if self.frames.is_at_boundary() {
                        last.extend_from_slice(frame);
                        self.frames.follow(&data[taken..], false);
                        self.state = State::Closed;
                    }
                    to.send(last.freeze());
                }
                State::Quiet => drop(self.frames.follow(&data, false)),
                _ => {
                    let followed = self.frames.follow(&data, false);
                    to.send(match followed.normal_close_at {
                        Some(at) if restarts => with_restart(data, at),
                        _ => data,
                    });
                }
            }
        }
    }
}

/// A close code of 1000 becomes 1012: an endpoint that drains says "normal" to all it sends away,
/// and phoenix.js takes it at its word. The codes differ in their second byte.
fn with_restart(data: Bytes, second: usize) -> Bytes {
    let mut data = BytesMut::from(data);
    data[second] = RESTART.to_be_bytes()[1];
    data.freeze()
}
