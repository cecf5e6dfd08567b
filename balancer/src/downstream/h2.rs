//! HTTP/2 from clients, on the h2 crate directly: its frames, resets and windows are ours to
//! decide on.
//!
//! A connection owns its requests and polls them in its own task. So all that a turn produces
//! leaves in one write, and a connection that ends ends its requests with it.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use h2::server::{Builder, Connection, SendResponse};
use h2::{Reason, RecvStream, SendStream};
use http::{Method, Request, Response, StatusCode, header};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep, sleep};
use tracing::debug;

use crate::access::Access;
use crate::attempt::{Interim, Proxied};
use crate::body::{Abort, Piece, Received};
use crate::exchange::Exchange;
use crate::gather::{Drainer, gathered};
use crate::headers::Client;
use crate::proxy::{self, OutBody, Outbound};
use crate::socket::Socket;
use crate::turn::Turn;
use crate::upload;
use crate::websocket::side::StreamSide;
use crate::websocket::{self, Accept, Tunnel};
use crate::worker::Worker;

/// A stream's window: what one upload may hold here before its endpoint reads.
const STREAM_WINDOW: u32 = 256 * 1024;
/// Wide enough that stalled uploads never starve another stream of their connection.
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;
/// An honest client may cancel a page of images at once; beyond it the connection is closed with
/// ENHANCE_YOUR_CALM (the library's default of 20 hits browsers).
const PENDING_RESETS: usize = 200;

const RESETS_WINDOW: Duration = Duration::from_secs(10);
/// The last piece of a response is left to the library if it is no larger.
const SENT_AT_ONCE: usize = 16 * 1024;

/// `first` was read from the socket already.
pub(crate) async fn serve(worker: Rc<Worker>, socket: Socket, first: Bytes, client: Rc<Client>) {
    let (io, drainer) = gathered(socket, first, ());
    let limits = &worker.config.limits;
    let handshake = Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(limits.max_streams_per_connection)
        .max_header_list_size(limits.max_header_bytes)
        .max_pending_accept_reset_streams(PENDING_RESETS)
        // Browsers open WebSockets on the page's own connection then (RFC 8441).
        .enable_connect_protocol()
        .handshake::<_, Bytes>(io);
    let limit = worker.config.timeouts.handshake;
    let connection = match tokio::time::timeout(limit, drainer.drive(handshake)).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            debug!(%error, "no HTTP/2 preface");
            return worker.counters.handshakes_failed.add();
        }
        Err(_) => return worker.counters.handshakes_failed.add(),
    };
    run(&worker, &client, connection, &drainer).await;
}

/// Accepts and serves requests until the connection ends: by the peer, by an error, by idleness,
/// or when the node leaves.
async fn run<I>(
    worker: &Rc<Worker>,
    client: &Rc<Client>,
    mut connection: Connection<I, Bytes>,
    drainer: &Drainer<Socket>,
) where
    I: AsyncRead + AsyncWrite + Unpin,
{
    let mut requests = FuturesUnordered::new();
    let mut leaving = worker.leaving.raised();
    let mut left = false;
    let mut idle = IdleTimer::new(worker.config.timeouts.downstream_idle);
    let turn = Turn::new();
    let mut resets = Resets::new(worker.config.limits.max_resets_per_connection);
    poll_fn(|cx| {
        if !left && Pin::new(&mut leaving).poll(cx).is_ready() {
            left = true;
            // Two-phase: GOAWAY with the highest id, and after a round trip with the last one.
            connection.graceful_shutdown();
        }
        let ended = turn.run(cx, |cx| {
            // The requests first: what they have produced is framed with what the connection does
            // next, and leaves in the one write behind it.
            while let Poll::Ready(Some(ended)) = requests.poll_next_unpin(cx) {
                if ended == Ended::BrokenOff && resets.is_too_much() {
                    worker.counters.connections_calmed.add();
                    connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                }
            }
            let before = requests.len();
            loop {
                match connection.poll_accept(cx) {
                    Poll::Ready(Some(Ok((request, respond)))) => {
                        requests.push(answer(worker, client, request, respond));
                    }
                    Poll::Ready(Some(Err(error))) => {
                        debug!(%error, "an HTTP/2 connection broke");
                        return true;
                    }
                    Poll::Ready(None) => return true,
                    Poll::Pending => break,
                }
            }
            if requests.len() > before {
                // The new ones are to begin in this turn.
                cx.waker().wake_by_ref();
            }
            false
        });
        let _ = drainer.poll_drain(cx);
        if ended {
            return Poll::Ready(());
        }
        if idle.poll(cx, requests.is_empty()).is_ready() && !left {
            left = true;
            connection.graceful_shutdown();
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    })
    .await;
    // The last frames, as far as the peer takes them.
    let _ = tokio::time::timeout(worker.config.timeouts.handshake, poll_fn(|cx| drainer.poll_drain(cx))).await;
}

/// How a request has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    Served,
    /// By its client, before it had its response.
    BrokenOff,
}

/// Requests that were broken off within [`RESETS_WINDOW`] (H12). The library's own limit sees only
/// those that it has not handed out yet: an attacker who waits a moment before each reset
/// (CVE-2023-44487, paced) passes it, and each of them has cost an endpoint a request.
struct Resets {
    most: usize,
    count: usize,
    since: Instant,
}

impl Resets {
    fn new(most: usize) -> Resets {
        Resets { most, count: 0, since: Instant::now() }
    }

    /// Counts one more.
    fn is_too_much(&mut self) -> bool {
        if self.since.elapsed() >= RESETS_WINDOW {
            (self.since, self.count) = (Instant::now(), 0);
        }
        self.count += 1;
        self.count > self.most
    }
}

/// Fires when a connection has had no request for a time. The timer is moved only when it fires.
struct IdleTimer {
    limit: Duration,
    since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl IdleTimer {
    fn new(limit: Duration) -> IdleTimer {
        IdleTimer { limit, since: None, timer: None }
    }

    fn poll(&mut self, cx: &mut Context<'_>, is_idle: bool) -> Poll<()> {
        if !is_idle {
            self.since = None;
            return Poll::Pending;
        }
        let since = *self.since.get_or_insert_with(Instant::now);
        let limit = self.limit;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(limit)));
        loop {
            ready!(timer.as_mut().poll(cx));
            if since.elapsed() >= limit {
                return Poll::Ready(());
            }
            timer.as_mut().reset(since + limit);
        }
    }
}

/// One request, from its HEADERS to the end of its stream. What can be done at once is, so that
/// the future holds little: it is moved to where the connection keeps it.
fn answer(
    worker: &Rc<Worker>,
    client: &Rc<Client>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) -> impl Future<Output = Ended> + use<> {
    let (mut head, body) = request.into_parts();
    let body = Received::h2(body);
    let accept = match head.method {
        Method::CONNECT => websocket::from_extended_connect(&mut head, worker),
        _ => None,
    };
    let is_head = head.method == Method::HEAD;
    if !body.is_end()
        && head.headers.get(header::EXPECT).is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"100-continue"))
    {
        let mut go_on = Response::new(());
        *go_on.status_mut() = StatusCode::CONTINUE;
        // A client that is gone is met by the next step.
        let _ = respond.send_informational(go_on);
    }
    let worker = worker.clone();
    let admitted = Exchange::admit(&worker, client, head);
    async move {
        let outbound = match admitted {
            Err((access, reason)) => Some(proxy::own(access, reason, body)),
            Ok(exchange) => match accept {
                // Boxed: few are, and all others would pay for it.
                Some(accept) => Box::pin(wait_for_websocket(exchange, body, accept, &mut respond)).await,
                None => wait(exchange, body, &mut respond).await,
            },
        };
        match outbound {
            None => Ended::BrokenOff,
            Some(Outbound::Abort(access)) => {
                drop(access);
                respond.send_reset(Reason::CANCEL);
                Ended::BrokenOff
            }
            Some(Outbound::Response(response, access)) => send(&worker, respond, response, access, is_head).await,
            Some(Outbound::Switch(head, access, body, tunnel)) => {
                Box::pin(switch(respond, head, access, body, tunnel)).await;
                Ended::Served
            }
        }
    }
}

async fn wait(exchange: Box<Exchange>, body: Received, respond: &mut SendResponse<Bytes>) -> Option<Outbound> {
    let interim = Interim::default();
    until_reset(pin!(proxy::serve(exchange, body, &interim)), &interim, respond).await
}

async fn wait_for_websocket(
    exchange: Box<Exchange>,
    body: Received,
    accept: Accept,
    respond: &mut SendResponse<Bytes>,
) -> Option<Outbound> {
    let interim = Interim::default();
    until_reset(pin!(websocket::serve(exchange, body, &interim, Some(accept))), &interim, respond).await
}

/// Waits for what comes of a request; none when the client has reset it. Dropping the request then
/// drops everything that was done for it.
async fn until_reset(
    mut serve: Pin<&mut impl Future<Output = Outbound>>,
    interim: &Interim,
    respond: &mut SendResponse<Bytes>,
) -> Option<Outbound> {
    poll_fn(|cx| {
        let served = serve.as_mut().poll(cx);
        for head in interim.take() {
            // A stream that takes none is met by the next step.
            let _ = respond.send_informational(head);
        }
        match served {
            Poll::Ready(outbound) => Poll::Ready(Some(outbound)),
            Poll::Pending => respond.poll_reset(cx).map(|_| None),
        }
    })
    .await
}

/// The stream becomes a WebSocket.
async fn switch(
    mut respond: SendResponse<Bytes>,
    mut head: Response<()>,
    mut access: Access,
    body: Received,
    mut tunnel: Box<Tunnel>,
) {
    websocket::to_extended_connect(&mut head);
    let Ok(stream) = respond.send_response(head, false) else { return access.aborted() };
    access.whole();
    drop(access);
    let mut side = StreamSide::new(body, stream);
    poll_fn(|cx| tunnel.poll(&mut side, cx)).await;
}

async fn send(
    worker: &Worker,
    mut respond: SendResponse<Bytes>,
    response: Response<OutBody>,
    mut access: Access,
    is_head: bool,
) -> Ended {
    let (head, body) = response.into_parts();
    let rest = match body {
        OutBody::Own(text, rest) => {
            let Ok(mut stream) = respond.send_response(Response::from_parts(head, ()), is_head) else {
                return Ended::BrokenOff;
            };
            if !is_head {
                access.sent(text.len());
                if stream.send_data(text, true).is_err() {
                    return Ended::BrokenOff;
                }
            }
            rest
        }
        OutBody::Proxied(mut body) => {
            let end = body.is_end();
            let Ok(mut stream) = respond.send_response(Response::from_parts(head, ()), end) else {
                access.aborted();
                return Ended::BrokenOff;
            };
            if end {
                body.ended_with_head();
                access.whole();
            } else if !forward(&mut stream, &mut body, &mut access).await {
                return if access.is_aborted() { Ended::BrokenOff } else { Ended::Served };
            }
            body.finish()
        }
    };
    drop(access);
    if !rest.is_end() {
        // The response was first (H3). The stream's end is sent; the library resets it with
        // NO_ERROR when the request's stream is dropped.
        let limits = &worker.config.limits;
        upload::drain(rest, limits.early_response_drain_bytes, worker.config.timeouts.early_response_drain).await;
    }
    Ended::Served
}

/// Forwards a body; false when it did not get to its end.
async fn forward(stream: &mut SendStream<Bytes>, body: &mut Proxied, access: &mut Access) -> bool {
    loop {
        let piece = poll_fn(|cx| {
            if let Poll::Ready(piece) = body.poll_piece(cx) {
                return Poll::Ready(piece);
            }
            match stream.poll_reset(cx) {
                Poll::Ready(_) => Poll::Ready(Piece::Aborted(Abort::Gone)),
                Poll::Pending => Poll::Pending,
            }
        })
        .await;
        let sent = match piece {
            Piece::Data(data) => {
                let last = body.is_end();
                access.sent(data.len());
                match send_data(stream, body, data, last).await {
                    Ok(()) if last => {
                        access.whole();
                        return true;
                    }
                    result => result,
                }
            }
            Piece::Trailers(trailers) => {
                access.whole();
                return stream.send_trailers(trailers).is_ok();
            }
            Piece::End => {
                access.whole();
                return stream.send_data(Bytes::new(), true).is_ok();
            }
            Piece::Aborted(_) => {
                // Whoever broke off: a response that is not whole must not look it (H4).
                access.cut();
                stream.send_reset(Reason::INTERNAL_ERROR);
                return false;
            }
        };
        if sent.is_err() {
            access.aborted();
            return false;
        }
    }
}

/// The client takes no more.
struct Gone;

/// Sends a piece as the client's window lets it; the upload goes on meanwhile.
async fn send_data(
    stream: &mut SendStream<Bytes>,
    body: &mut Proxied,
    mut data: Bytes,
    last: bool,
) -> Result<(), Gone> {
    loop {
        let length = data.len();
        if last && length <= SENT_AT_ONCE {
            // The end of a response: the library holds it until the window opens, which costs no
            // more than holding it here, and asks less often.
            return stream.send_data(data, true).map_err(|_| Gone);
        }
        stream.reserve_capacity(length);
        let room = match stream.capacity() {
            room if room >= length => length,
            _ => poll_fn(|cx| poll_room(stream, body, cx)).await?,
        };
        let piece = data.split_to(room.min(length));
        let end = last && data.is_empty();
        stream.send_data(piece, end).map_err(|_| Gone)?;
        if data.is_empty() {
            return Ok(());
        }
    }
}

fn poll_room(stream: &mut SendStream<Bytes>, body: &mut Proxied, cx: &mut Context<'_>) -> Poll<Result<usize, Gone>> {
    if body.poll_blocked(cx).is_ready() {
        return Poll::Ready(Err(Gone));
    }
    if stream.capacity() > 0 {
        return Poll::Ready(Ok(stream.capacity()));
    }
    loop {
        match ready!(stream.poll_capacity(cx)) {
            Some(Ok(0)) => {}
            Some(Ok(room)) => return Poll::Ready(Ok(room)),
            Some(Err(_)) | None => return Poll::Ready(Err(Gone)),
        }
    }
}
