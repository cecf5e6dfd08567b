//! WebSockets by HTTP/1.1 upgrade (RFC 6455): the endpoint is chosen as for any request, then
//! bytes pass both ways, unread. The tunnel holds its lease: a drain counts it until it closes.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Response, StatusCode, header};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tidelock_core::retry::Verdict;
use tidelock_core::spec::Protocol;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::time::Instant;
use tracing::debug;

use crate::access::Access;
use crate::body::Received;
use crate::exchange::{Attempt, Failed, Proxied, no_body};
use crate::headers::{self, Client};
use crate::lease::Lease;
use crate::proxy::{self, OutBody, Outbound, Tries, check, find_route, finish_head, outgoing};
use crate::respond::Reason;
use crate::upload::H1Upload;
use crate::upstream::{Endpoint, Lend, h1::Lent};
use crate::worker::{Stage, Worker};

/// What one direction of a tunnel reads at a time.
const BUFFER: usize = 8 * 1024;

/// An upgrade, from its head to the 101 or to what the endpoint answers instead.
pub(crate) async fn serve(worker: &Rc<Worker>, client: &Client, head: Parts, downstream: OnUpgrade) -> Outbound {
    let mut access = Access::begin(worker, client, &head);
    let mut checked = match check(worker, head) {
        Ok(checked) => checked,
        Err(reason) => return own(access, reason),
    };
    access.host(&checked.host);
    let view = worker.view();
    let route = match find_route(&view, &checked) {
        Ok(route) => route,
        Err(reason) => return own(access, reason),
    };
    access.route(&view, route);
    let fields = &mut checked.head.headers;
    headers::strip_hop_by_hop(fields);
    headers::forward(fields, client, &checked.host, &mut || worker.random());
    fields.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    fields.insert(header::UPGRADE, HeaderValue::from_static("websocket"));

    let mut tries = Tries::default();
    loop {
        let Some((choice, endpoint, lease)) = tries.next(worker, &view, route, &checked.head.headers) else {
            return own(access, tries.reason());
        };
        access.attempt(&choice, &endpoint);
        let pool = &view.pools[route.pool].table;
        // An endpoint that speaks HTTP/2 in cleartext speaks HTTP/1.1 on the same port, and few
        // know RFC 8441 (Bandit does not).
        let Some(request) = outgoing(&checked.head, &checked.host, &checked.path, Protocol::Http1, false) else {
            return own(access, Reason::BadHost);
        };
        let connect_limit = pool.spec.timeouts.connect_ms.duration();
        let lend = Lend { endpoint: &endpoint, connect_limit, tasks: &worker.tasks };
        let attempt = Attempt {
            endpoint: &endpoint,
            protocol: Protocol::Http1,
            timeouts: &pool.spec.timeouts,
            lend,
            hold_back: Duration::ZERO,
            length: None,
        };
        let result = match endpoint.h1.lend_new(&attempt.lend).await {
            Ok(lent) => attempt.h1_head(request, no_body(), lent).await,
            Err(_) => Err(Failed::Endpoint(tidelock_core::retry::Failure::Connect, no_body())),
        };
        match result {
            Ok((response, upload, lent)) => {
                let response = finish_upgrade(response, upload, lent, &attempt, lease);
                let (response, tunnel) = match response {
                    Upgrade::Refused(response) => (response, None),
                    Upgrade::Switched(response, upstream, lease) => (response, Some((upstream, lease))),
                };
                let mut response = finish_head(worker, client, &view, route, &choice, &endpoint, response);
                access.head(response.status());
                if let Some((upstream, lease)) = tunnel {
                    let fields = response.headers_mut();
                    fields.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
                    fields.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
                    worker.counters.websockets_total.add();
                    let idle = pool.spec.timeouts.websocket_idle_ms.duration();
                    let tunnel = Tunnel { worker: worker.clone(), endpoint, lease, idle };
                    worker.tasks.spawn_local(tunnel.run(downstream, upstream));
                }
                return Outbound::Response(response, access);
            }
            Err(Failed::Client(abort)) => return Outbound::Abort(abort),
            Err(Failed::Endpoint(failure, source)) => {
                match tries.failed(choice.endpoint, failure, &checked.head.method, &source) {
                    Verdict::Again => worker.counters.retries.add(),
                    Verdict::GiveUp => return own(access, tries.reason()),
                }
            }
        }
    }
}

fn own(access: Access, reason: Reason) -> Outbound {
    proxy::own(access, reason, Received::Empty)
}

enum Upgrade {
    Refused(Response<OutBody>),
    Switched(Response<OutBody>, OnUpgrade, Lease),
}

fn finish_upgrade(
    mut response: Response<hyper::body::Incoming>,
    upload: H1Upload,
    lent: Lent,
    attempt: &Attempt<'_>,
    lease: Lease,
) -> Upgrade {
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Upgrade::Refused(response.map(|body| {
            let body = Received::h1(body);
            OutBody::Proxied(Proxied::h1(body, upload, lent, attempt.timeouts, lease))
        }));
    }
    let upstream = hyper::upgrade::on(&mut response);
    Upgrade::Switched(response.map(|_| OutBody::Own(Bytes::new(), Received::Empty)), upstream, lease.into_websocket())
}

/// An open WebSocket.
struct Tunnel {
    worker: Rc<Worker>,
    endpoint: Rc<Endpoint>,
    /// Held for as long as the tunnel stands.
    #[expect(dead_code, reason = "dropping it is what counts")]
    lease: Lease,
    idle: Duration,
}

impl Tunnel {
    async fn run(self, downstream: OnUpgrade, upstream: OnUpgrade) {
        let (downstream, upstream) = match tokio::join!(downstream, upstream) {
            (Ok(downstream), Ok(upstream)) => (TokioIo::new(downstream), TokioIo::new(upstream)),
            (Err(error), _) | (_, Err(error)) => return debug!(%error, "an upgrade broke off"),
        };
        let last = Cell::new(Instant::now());
        let (from_client, to_client) = tokio::io::split(downstream);
        let (from_endpoint, to_endpoint) = tokio::io::split(upstream);
        let both = async { tokio::join!(copy(from_client, to_endpoint, &last), copy(from_endpoint, to_client, &last)) };
        let mut stage = self.worker.stage.clone();
        tokio::select! {
            _ = both => {}
            () = until_idle(&last, self.idle) => debug!("a WebSocket was idle too long"),
            () = self.endpoint.until_cut() => debug!("a WebSocket was cut at its drain's deadline"),
            _ = stage.wait_for(|stage| *stage >= Stage::Ended) => {}
        }
    }
}

/// One direction, to its end; the end is passed on.
async fn copy(
    mut from: ReadHalf<TokioIo<Upgraded>>,
    mut to: WriteHalf<TokioIo<Upgraded>>,
    last: &Cell<Instant>,
) -> std::io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let n = match from.read(&mut buffer).await {
            Ok(0) | Err(_) => return to.shutdown().await,
            Ok(n) => n,
        };
        last.set(Instant::now());
        to.write_all(&buffer[..n]).await?;
    }
}

async fn until_idle(last: &Cell<Instant>, limit: Duration) {
    loop {
        let due = last.get() + limit;
        if due <= Instant::now() {
            return;
        }
        tokio::time::sleep_until(due).await;
    }
}
