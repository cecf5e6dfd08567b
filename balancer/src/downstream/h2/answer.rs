//! One stream of a client's: its request served, its response sent as the client's window lets it.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Method, Response, StatusCode, header};

use crate::access::Access;
use crate::attempt::{Interim, Proxied};
use crate::body::{Piece, Received};
use crate::exchange::Exchange;
use crate::headers::Client;
use crate::http2::{Accepted, Gone, Reason, Sender};
use crate::proxy::{self, OutBody, Outbound};
use crate::respond;
use crate::upload;
use crate::websocket::side::StreamSide;
use crate::websocket::{self, AskedBy, Tunnel};
use crate::worker::Worker;

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
    accepted: Accepted,
) -> impl Future<Output = Ended> + use<> {
    let Accepted { mut head, is_too_large, mut sender, receiver } = accepted;
    let body = Received::h2(receiver);
    let asked = match head.method {
        Method::CONNECT => websocket::from_extended_connect(&mut head, worker),
        _ => None,
    };
    let is_head = head.method == Method::HEAD;
    if !body.is_end()
        && head.headers.get(header::EXPECT).is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"100-continue"))
    {
        // A client that is gone is met by the next step.
        let _ = sender.send_response(StatusCode::CONTINUE, &HeaderMap::new(), false);
    }
    let worker = worker.clone();
    let admitted = match is_too_large {
        true => Err((Access::begin(&worker, client, &head), respond::Reason::HeadersTooLarge)),
        false => Exchange::admit(&worker, client, head),
    };
    async move {
        let outbound = match admitted {
            Err((access, reason)) => Some(proxy::own(access, reason, body)),
            Ok(exchange) => match asked {
                // Boxed: few are, and all others would pay for it.
                Some(asked) => Box::pin(wait_for_websocket(exchange, body, asked, &mut sender)).await,
                None => wait(exchange, body, &mut sender).await,
            },
        };
        match outbound {
            None => Ended::BrokenOff,
            Some(Outbound::Abort(access)) => {
                drop(access);
                sender.send_reset(Reason::CANCEL);
                Ended::BrokenOff
            }
            Some(Outbound::Response(response, access)) => send(&worker, sender, response, access, is_head).await,
            Some(Outbound::Switch(head, access, body, tunnel)) => {
                Box::pin(switch(sender, head, access, body, tunnel)).await
            }
        }
    }
}

async fn wait(exchange: Box<Exchange>, body: Received, sender: &mut Sender) -> Option<Outbound> {
    let interim = Interim::default();
    until_reset(pin!(proxy::serve(exchange, body, &interim)), &interim, sender).await
}

async fn wait_for_websocket(
    exchange: Box<Exchange>,
    body: Received,
    asked: AskedBy,
    sender: &mut Sender,
) -> Option<Outbound> {
    let interim = Interim::default();
    until_reset(pin!(websocket::serve(exchange, body, &interim, asked)), &interim, sender).await
}

/// Waits for what comes of a request; none when the client has reset it. Dropping the request then
/// drops everything that was done for it.
async fn until_reset(
    mut serve: Pin<&mut impl Future<Output = Outbound>>,
    interim: &Interim,
    sender: &mut Sender,
) -> Option<Outbound> {
    poll_fn(|cx| {
        let served = serve.as_mut().poll(cx);
        for head in interim.take() {
            // A stream that takes none is met by the next step.
            let _ = sender.send_response(head.status(), head.headers(), false);
        }
        match served {
            Poll::Ready(outbound) => Poll::Ready(Some(outbound)),
            Poll::Pending => sender.poll_broken(cx).map(|_| None),
        }
    })
    .await
}

/// The stream becomes a WebSocket.
async fn switch(
    mut sender: Sender,
    mut head: Response<()>,
    mut access: Access,
    body: Received,
    mut tunnel: Box<Tunnel>,
) -> Ended {
    websocket::to_extended_connect(&mut head);
    if sender.send_response(head.status(), head.headers(), false).is_err() {
        access.aborted();
        return Ended::BrokenOff;
    }
    let mut side = StreamSide::downstream(body, sender);
    let ended = poll_fn(|cx| tunnel.poll(&mut side, cx)).await;
    access.tunnelled(ended, tunnel.bytes());
    drop(access);
    if side.has_gone() { Ended::BrokenOff } else { Ended::Served }
}

async fn send(
    worker: &Worker,
    mut sender: Sender,
    response: Response<OutBody>,
    mut access: Access,
    is_head: bool,
) -> Ended {
    let (head, body) = response.into_parts();
    let rest = match body {
        OutBody::Own(text, rest) => {
            if sender.send_response(head.status, &head.headers, is_head).is_err() {
                return Ended::BrokenOff;
            }
            if !is_head {
                access.sent(text.len());
                let limit = worker.config.timeouts.handshake;
                let sent = tokio::time::timeout(limit, send_text(&mut sender, text)).await;
                if !matches!(sent, Ok(Ok(()))) {
                    return Ended::BrokenOff;
                }
            }
            rest
        }
        OutBody::Proxied(mut body) => {
            let end = body.is_end();
            if sender.send_response(head.status, &head.headers, end).is_err() {
                access.aborted();
                return Ended::BrokenOff;
            }
            if end {
                body.ended_with_head();
                access.whole();
            } else if !forward(&mut sender, &mut body, &mut access).await {
                return if access.is_aborted() { Ended::BrokenOff } else { Ended::Served };
            }
            body.finish()
        }
    };
    drop(access);
    if !rest.is_end() {
        // The response was first (H3). Its end is sent; the stream is reset with NO_ERROR when its last handle goes.
        let limits = &worker.config.limits;
        upload::drain(rest, limits.early_response_drain_bytes, worker.config.timeouts.early_response_drain).await;
    }
    Ended::Served
}

/// Sends all of a body that is here.
async fn send_text(sender: &mut Sender, mut text: Bytes) -> Result<(), Gone> {
    if text.is_empty() {
        return sender.send_data(text, true);
    }
    while !text.is_empty() {
        let room = poll_fn(|cx| sender.poll_capacity(cx)).await?;
        let piece = text.split_to(room.min(text.len()));
        let is_end = text.is_empty();
        sender.send_data(piece, is_end)?;
    }
    Ok(())
}

/// Forwards a body; false when it did not get to its end.
async fn forward(sender: &mut Sender, body: &mut Proxied, access: &mut Access) -> bool {
    loop {
        let piece = poll_fn(|cx| match body.poll_piece(cx) {
            Poll::Ready(piece) => Poll::Ready(Some(piece)),
            Poll::Pending => sender.poll_broken(cx).map(|_| None),
        })
        .await;
        let Some(piece) = piece else {
            access.aborted();
            return false;
        };
        let (sent, is_last) = match piece {
            Piece::Data(data) => {
                let is_last = body.is_end();
                if is_last {
                    // A client that does not read keeps nothing at the endpoint that has done its part.
                    body.release();
                }
                access.sent(data.len());
                (send_data(sender, body, data, is_last, access).await, is_last)
            }
            Piece::Trailers(trailers) => (sender.send_trailers(&trailers), true),
            Piece::End => (sender.send_data(Bytes::new(), true), true),
            Piece::Aborted(abort) => {
                // Whoever broke off: a response that is not whole must not look it (H4).
                access.broken(abort);
                access.cut();
                sender.send_reset(Reason::INTERNAL_ERROR);
                return false;
            }
        };
        match sent {
            Ok(()) if is_last => {
                access.whole();
                return true;
            }
            Ok(()) => {}
            Err(Gone) if access.is_running() => {
                access.aborted();
                return false;
            }
            Err(Gone) => {
                sender.send_reset(Reason::INTERNAL_ERROR);
                return false;
            }
        }
    }
}

/// Sends a piece as the client's window lets it; the upload goes on meanwhile.
async fn send_data(
    sender: &mut Sender,
    body: &mut Proxied,
    mut data: Bytes,
    is_last: bool,
    access: &mut Access,
) -> Result<(), Gone> {
    loop {
        let room = poll_fn(|cx| poll_room(sender, body, access, cx)).await?;
        let piece = data.split_to(room.min(data.len()));
        sender.send_data(piece, is_last && data.is_empty())?;
        if data.is_empty() {
            return Ok(());
        }
    }
}

fn poll_room(
    sender: &mut Sender,
    body: &mut Proxied,
    access: &mut Access,
    cx: &mut Context<'_>,
) -> Poll<Result<usize, Gone>> {
    let room = sender.poll_capacity(cx);
    if room.is_ready() {
        return room;
    }
    body.poll_blocked(cx).map(|abort| {
        access.broken(abort);
        Err(Gone)
    })
}
