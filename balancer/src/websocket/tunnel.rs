//! An open WebSocket: bytes pass both ways as they come. Frames are followed so that the balancer
//! can close one with a code, between two messages, when its endpoint must be left.

use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tracing::debug;

use super::CLOSE_TIME;
use super::frames::{Followed, Frames, GOING_AWAY, RESTART, close, masked_close};
use super::side::{Gone, Side};
use crate::lease::{Lasts, Lease};
use crate::timers::Idle;
use crate::upstream::lasting::Open;

pub(crate) struct Tunnel {
    upstream: Box<dyn Side>,
    /// Held for as long as the tunnel stands.
    lease: Lease,
    up: Direction,
    down: Direction,
    idle: Idle,
    open: Open,
    /// The balancer closes it: until then at the latest.
    closing: Option<Idle>,
    /// Who has ended its side first.
    ended_first: Option<Ended>,
}

/// How a WebSocket has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// With a close frame.
    Closed,
    /// Without one: by its client, by its endpoint.
    Client,
    Endpoint,
    /// Nothing has moved for too long.
    Idle,
}

/// One direction of a tunnel.
#[derive(Debug, Default)]
struct Direction {
    frames: Frames,
    state: State,
    bytes: u64,
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

/// Which side of a direction has gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Broken {
    Sender,
    Receiver,
}

impl Tunnel {
    pub(super) fn new(upstream: Box<dyn Side>, open: Open, mut lease: Lease, idle: Duration) -> Tunnel {
        lease.lasts(Lasts::WebSocket);
        Tunnel {
            upstream,
            lease,
            up: Direction::default(),
            down: Direction::default(),
            idle: Idle::new(idle),
            open,
            closing: None,
            ended_first: None,
        }
    }

    /// How many bytes have gone to the client.
    pub(crate) fn bytes(&self) -> u64 {
        self.down.bytes
    }

    /// Passes bytes on; ready when both sides have ended, one has gone, or nothing moves for too
    /// long.
    pub(crate) fn poll(&mut self, downstream: &mut dyn Side, cx: &mut Context<'_>) -> Poll<Ended> {
        self.poll_both(downstream, cx).map(|ended| if self.is_closed() { Ended::Closed } else { ended })
    }

    /// Whether anybody has said that it closes.
    fn is_closed(&self) -> bool {
        let has = |direction: &Direction| {
            direction.frames.has_closed() || matches!(direction.state, State::Closed | State::Quiet)
        };
        has(&self.up) || has(&self.down)
    }

    fn poll_both(&mut self, downstream: &mut dyn Side, cx: &mut Context<'_>) -> Poll<Ended> {
        if self.closing.is_none() && self.open.poll_close(cx).is_ready() {
            debug!("a WebSocket is closed for its endpoint's drain");
            self.closing = Some(Idle::new(CLOSE_TIME));
            self.up.close(masked_close(GOING_AWAY, [0x55; 4]));
            self.down.close(close(RESTART));
        }
        let restarts = self.lease.is_leaving();
        let mut up = self.up.poll(downstream, &mut *self.upstream, &mut self.idle, false, cx);
        if up == Poll::Ready(Err(Broken::Receiver)) {
            // The endpoint takes no more. What it has said before that is still the client's to
            // hear, a close with its reason above all.
            self.up.state = State::Quiet;
            self.closing.get_or_insert_with(|| Idle::new(CLOSE_TIME));
            up = self.up.poll(downstream, &mut *self.upstream, &mut self.idle, false, cx);
        }
        let down = self.down.poll(&mut *self.upstream, downstream, &mut self.idle, restarts, cx);
        if up == Poll::Ready(Err(Broken::Sender)) || down == Poll::Ready(Err(Broken::Receiver)) {
            return Poll::Ready(Ended::Client);
        }
        if up == Poll::Ready(Err(Broken::Receiver)) || down == Poll::Ready(Err(Broken::Sender)) {
            return Poll::Ready(self.ended_first.unwrap_or(Ended::Endpoint));
        }
        if self.ended_first.is_none() && (self.up.has_ended() || self.down.has_ended()) {
            self.ended_first = Some(if self.up.has_ended() { Ended::Client } else { Ended::Endpoint });
        }
        let is_answered = self.down.state == State::Quiet && self.up.frames.has_closed();
        if is_answered || up.is_ready() && down.is_ready() {
            // Where the peer takes no more the connection's end tells it.
            let _ = downstream.poll_end(cx);
            return Poll::Ready(self.ended_first.unwrap_or(Ended::Endpoint));
        }
        if up.is_ready() || down.is_ready() {
            // A WebSocket that one side has ended is over (RFC 6455 section 7.1.1).
            self.closing.get_or_insert_with(|| Idle::new(CLOSE_TIME));
        }
        let (first, is_closing) = (self.ended_first, self.closing.is_some());
        let timer = self.closing.as_mut().unwrap_or(&mut self.idle);
        timer.poll(cx).map(|()| if is_closing { first.unwrap_or(Ended::Endpoint) } else { Ended::Idle })
    }
}

impl Direction {
    /// Its sender has sent all.
    fn has_ended(&self) -> bool {
        matches!(self.state, State::Ending | State::Ended)
    }

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
    ) -> Poll<Result<(), Broken>> {
        loop {
            match &mut self.state {
                State::Ended => return Poll::Ready(Ok(())),
                State::Ending => {
                    ready!(to.poll_sent(cx)).map_err(|Gone| Broken::Receiver)?;
                    ready!(to.poll_end(cx));
                    self.state = State::Ended;
                    continue;
                }
                State::Closed => {
                    ready!(to.poll_sent(cx)).map_err(|Gone| Broken::Receiver)?;
                    self.state = State::Quiet;
                }
                State::Closing(frame) if self.frames.is_at_boundary() => {
                    ready!(to.poll_sent(cx)).map_err(|Gone| Broken::Receiver)?;
                    to.send(std::mem::take(frame).into());
                    self.state = State::Closed;
                    continue;
                }
                State::Open | State::Closing(_) => ready!(to.poll_sent(cx)).map_err(|Gone| Broken::Receiver)?,
                State::Quiet => {}
            }
            let data = match ready!(from.poll_receive(cx)) {
                Ok(data) => data,
                // All that it had to say is said, however its connection ends.
                Err(Gone) if self.frames.has_closed() => Bytes::new(),
                Err(Gone) => return Poll::Ready(Err(Broken::Sender)),
            };
            if data.is_empty() {
                self.state = if self.state == State::Quiet { State::Ended } else { State::Ending };
                continue;
            }
            idle.moved();
            self.bytes += data.len() as u64;
            match &mut self.state {
                State::Closing(frame) => {
                    let followed = self.frames.follow(&data, true);
                    let (taken, data) = (followed.taken, followed.restart(data, restarts));
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
                    to.send(followed.restart(data, restarts));
                }
            }
        }
    }
}

impl Followed {
    /// With `restarts` a close code of 1000 becomes 1012: an endpoint that drains says "normal" to all it sends away, and
    /// phoenix.js takes it at its word. The codes differ in their second byte.
    fn restart(self, data: Bytes, restarts: bool) -> Bytes {
        let Some(second) = self.normal_close_at.filter(|_| restarts) else { return data };
        let mut data = BytesMut::from(data);
        data[second] = RESTART.to_be_bytes()[1];
        data.freeze()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::VecDeque;
    use std::rc::Rc;
    use std::sync::Arc;
    use std::task::Waker;

    use tidelock_core::id::EndpointId;
    use tidelock_core::spec::PoolSpec;

    use super::*;
    use crate::lease::{EndpointState, Gate};
    use crate::upstream::Endpoint;
    use crate::upstream::dial::Dialer;

    /// A side that says what is in `says` and then waits, and writes down what it is sent.
    #[derive(Default)]
    struct Script {
        says: VecDeque<&'static [u8]>,
        takes_nothing: bool,
        /// It takes nothing for so many turns.
        slow: usize,
        heard: Rc<RefCell<Vec<u8>>>,
    }

    impl Side for Script {
        fn poll_receive(&mut self, _: &mut Context<'_>) -> Poll<Result<Bytes, Gone>> {
            self.says.pop_front().map_or(Poll::Pending, |said| Poll::Ready(Ok(Bytes::from_static(said))))
        }

        fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Gone>> {
            if self.slow > 0 {
                self.slow -= 1;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Poll::Ready(if self.takes_nothing { Err(Gone) } else { Ok(()) })
        }

        fn send(&mut self, data: Bytes) {
            self.heard.borrow_mut().extend_from_slice(&data);
        }

        fn poll_end(&mut self, _: &mut Context<'_>) -> Poll<()> {
            Poll::Ready(())
        }
    }

    fn tunnel(upstream: Script) -> Tunnel {
        let state = EndpointState::new(EndpointId(1), 1, Gate::Open);
        let lease = Lease::take(&state, 0, false).unwrap();
        let address = "127.0.0.1:1".parse().unwrap();
        let dialer = Rc::new(Dialer::new(&PoolSpec::default(), None));
        let endpoint = Rc::new(Endpoint::new(EndpointId(1), "a".parse().unwrap(), address, state, dialer));
        Tunnel::new(Box::new(upstream), Open::on(&endpoint, &Arc::default()), lease, Duration::from_secs(60))
    }

    /// It refuses what it was sent, says why, and closes: what the client sends meanwhile cannot be
    /// delivered, and must not take the reason along, though the client is slow to hear it.
    #[tokio::test(start_paused = true)]
    async fn an_endpoints_last_words_are_heard() {
        let last: &[u8] = b"\x81\x02no\x88\x02\x03\xea";
        let upstream = Script { says: [last, b""].into(), takes_nothing: true, ..Script::default() };
        let says = [&b"\x83\x80\0\0\0\0"[..], b"\x88\x80\0\0\0\0", b""].into();
        let mut downstream = Script { says, slow: 3, ..Script::default() };
        let heard = downstream.heard.clone();
        let mut tunnel = tunnel(upstream);
        let end = std::future::poll_fn(|cx| tunnel.poll(&mut downstream, cx));
        tokio::time::timeout(CLOSE_TIME * 2, end).await.unwrap();
        assert_eq!(*heard.borrow(), last);
    }

    /// A client that has gone cannot be told anything.
    #[test]
    fn a_client_that_takes_no_more_ends_the_tunnel() {
        let upstream = Script { says: [&b"\x81\x01a"[..]].into(), ..Script::default() };
        let mut downstream = Script { takes_nothing: true, ..Script::default() };
        let cx = &mut Context::from_waker(Waker::noop());
        assert!(tunnel(upstream).poll(&mut downstream, cx).is_ready());
    }
}
