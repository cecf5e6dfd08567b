//! One stream of a client's: its request served, its response sent as the client's window lets it.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{Method, Request, Response, StatusCode, header};

use crate::access::Access;
use crate::attempt::{Interim, Proxied};
use crate::body::{Piece, Received};
use crate::exchange::Exchange;
use crate::headers::Client;
use crate::proxy::{self, OutBody, Outbound};
use crate::upload;
use crate::websocket::side::StreamSide;
use crate::websocket::{self, AskedBy, Tunnel};
use crate::worker::Worker;

/// The last piece of a response is left to the library if it is no larger.
const SENT_AT_ONCE: usize = 16 * 1024;

/// How a request has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    Served,
    /// By its client, before it had its response.
    BrokenOff,
}

/// One request, from its HEADERS to the end of its stream. What can be done at once is, so that
/// the future holds little: it is moved to where the connection keeps it.
pub(super) fn answer(
    worker: &Rc<Worker>,
    client: &Rc<Client>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) -> impl Future<Output = Ended> + use<> {
    let (mut head, body) = request.into_parts();
    let body = Received::h2(body);
    let asked = match head.method {
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
            Ok(exchange) => match asked {
                // Boxed: few are, and all others would pay for it.
                Some(asked) => Box::pin(wait_for_websocket(exchange, body, asked, &mut respond)).await,
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
                Box::pin(switch(respond, head, access, body, tunnel)).await
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
    asked: AskedBy,
    respond: &mut SendResponse<Bytes>,
) -> Option<Outbound> {
    let interim = Interim::default();
    until_reset(pin!(websocket::serve(exchange, body, &interim, asked)), &interim, respond).await
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
) -> Ended {
    websocket::to_extended_connect(&mut head);
    let Ok(stream) = respond.send_response(head, false) else {
        access.aborted();
        return Ended::BrokenOff;
    };
    access.whole();
    drop(access);
    let mut side = StreamSide::downstream(body, stream);
    poll_fn(|cx| tunnel.poll(&mut side, cx)).await;
    if side.has_gone() { Ended::BrokenOff } else { Ended::Served }
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
        let piece = poll_fn(|cx| match body.poll_piece(cx) {
            Poll::Ready(piece) => Poll::Ready(Some(piece)),
            Poll::Pending => stream.poll_reset(cx).map(|_| None),
        })
        .await;
        let Some(piece) = piece else {
            access.aborted();
            return false;
        };
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
