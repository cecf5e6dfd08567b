//! WebSockets by HTTP/1.1 upgrade (RFC 6455): the endpoint is chosen as for any request, then
//! bytes pass both ways, unread. The tunnel holds its lease: a drain counts it until it closes.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::{HeaderValue, Response, StatusCode, header};
use tidelock_core::retry::{Failure, Verdict};
use tracing::debug;

use crate::attempt::{Attempt, Failed, Interim};
use crate::body::Received;
use crate::exchange::Exchange;
use crate::flag::Raised;
use crate::h1::wire::Wire;
use crate::lease::Lease;
use crate::proxy::{OutBody, Outbound, aborted, own};
use crate::source::Source;
use crate::timers::Idle;
use crate::upstream::{Endpoint, Lend};

/// An upgrade, from its head to the 101 or to what the endpoint answers instead.
pub(crate) async fn serve(mut exchange: Box<Exchange>, interim: &Interim) -> Outbound {
    announce(&mut exchange.head.headers);
    loop {
        let Some((choice, endpoint, lease)) = exchange.next() else {
            let reason = exchange.reason();
            return own(exchange.access, reason, Received::Empty);
        };
        let pool = exchange.pool().clone();
        let timeouts = &pool.spec.timeouts;
        let attempt = Attempt { exchange: &exchange, endpoint: &endpoint, pool: &pool.spec, interim };
        // An endpoint that speaks HTTP/2 in cleartext speaks HTTP/1.1 on the same port, and few
        // know RFC 8441 (Bandit does not). A connection of its own: it will not come back.
        let (endpoint_ref, connect_limit) = (&*endpoint, timeouts.connect_ms.duration());
        let lend = Lend { endpoint: endpoint_ref, connect_limit, tasks: &exchange.worker.tasks };
        let result = match endpoint.h1.lend_new(&lend).await {
            Ok(lent) => attempt.h1_head(Source::gone(), lent).await,
            Err(_) => Err(Failed::Endpoint(Failure::Connect, Source::gone())),
        };
        match result {
            Ok((head, running)) if head.status() == StatusCode::SWITCHING_PROTOCOLS => {
                let mut head = head;
                exchange.finish_head(&choice, &endpoint, &mut head);
                announce(head.headers_mut());
                exchange.worker.counters.websockets_total.add();
                let idle = timeouts.websocket_idle_ms.duration();
                let tunnel = Tunnel::new(running.into_wire(), &endpoint, lease, idle);
                return Outbound::Switch(head, exchange.access, Box::new(tunnel));
            }
            Ok((head, running)) => {
                let mut response: Response<OutBody> =
                    head.map(|()| OutBody::Proxied(running.into_proxied(&attempt, lease)));
                exchange.finish_head(&choice, &endpoint, &mut response);
                return Outbound::Response(response, exchange.access);
            }
            Err(Failed::Client(_)) => return aborted(exchange.access),
            Err(Failed::Endpoint(failure, source)) => {
                if exchange.failed(&choice, failure, &source) == Verdict::GiveUp {
                    let reason = exchange.reason();
                    return own(exchange.access, reason, Received::Empty);
                }
            }
        }
    }
}

/// Both sides name the change of protocol, and nothing else by `connection`.
fn announce(fields: &mut http::HeaderMap) {
    fields.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    fields.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
}

/// An open WebSocket.
pub(crate) struct Tunnel {
    upstream: Box<Wire>,
    /// Held for as long as the tunnel stands.
    #[expect(dead_code, reason = "dropping it is what counts")]
    lease: Lease,
    up: Direction,
    down: Direction,
    idle: Idle,
    cut: Raised,
}

/// One direction of a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Open,
    /// The sender has ended; the receiver is to be told.
    Ending,
    Ended,
}

impl Tunnel {
    fn new(upstream: Box<Wire>, endpoint: &Rc<Endpoint>, lease: Lease, idle: Duration) -> Tunnel {
        Tunnel {
            upstream,
            lease: lease.into_websocket(),
            up: Direction::Open,
            down: Direction::Open,
            idle: Idle::new(idle),
            cut: endpoint.until_cut(),
        }
    }

    /// Passes bytes on; ready when both sides have ended, one has broken, or nothing moves for too
    /// long.
    pub(crate) fn poll(&mut self, downstream: &mut Wire, cx: &mut Context<'_>) -> Poll<()> {
        let Tunnel { upstream, idle, up, down, .. } = self;
        let is_up = poll_copy(downstream, upstream, up, idle, cx).is_ready();
        let is_down = poll_copy(upstream, downstream, down, idle, cx).is_ready();
        if is_up && is_down || downstream.is_broken() || upstream.is_broken() {
            return Poll::Ready(());
        }
        if Pin::new(&mut self.cut).poll(cx).is_ready() {
            debug!("a WebSocket was cut at its drain's deadline");
            return Poll::Ready(());
        }
        self.idle.poll(cx)
    }
}

/// Moves what `from` sends to `to`; ready when that direction has ended.
fn poll_copy(
    from: &mut Wire,
    to: &mut Wire,
    direction: &mut Direction,
    idle: &mut Idle,
    cx: &mut Context<'_>,
) -> Poll<()> {
    loop {
        if *direction == Direction::Ended {
            return Poll::Ready(());
        }
        if !from.input.is_empty() {
            to.push(from.input.split().freeze(), b"");
        }
        ready!(to.poll_drain(cx));
        if *direction == Direction::Ending {
            let _ = ready!(to.poll_shutdown(cx));
            *direction = Direction::Ended;
            continue;
        }
        match ready!(from.poll_fill(cx)) {
            Ok(n) if n > 0 => idle.moved(),
            _ => *direction = Direction::Ending,
        }
    }
}
