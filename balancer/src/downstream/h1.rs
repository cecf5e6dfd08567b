//! HTTP/1.1 from clients: one exchange after the other on a connection, each with one framing or
//! a refusal (H11), and an end of the connection that does not destroy the last response.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::request::Parts;
use http::{Method, Response, StatusCode, Version, header};
use tokio::time::{Sleep, sleep};

use crate::access::Access;
use crate::attempt::{Interim, Proxied};
use crate::body::{Piece, Received};
use crate::clients::Place;
use crate::exchange::Exchange;
use crate::flag::Raised;
use crate::h1::body::{H1Received, Incoming};
use crate::h1::encode::{Encoder, Persistence, response_head};
use crate::h1::head::{BadHead, HeadLimits, HeadReader, RequestHead};
use crate::h1::wire::Wire;
use crate::headers::{Client, content_length};
use crate::proxy::{self, OutBody, Outbound};
use crate::respond::Reason;
use crate::timers::Idle;
use crate::turn::behind_others;
use crate::upload;
use crate::websocket::{self, AskedBy, Tunnel};
use crate::worker::Worker;

/// Bytes of the next request that are read while the one before it is being answered: enough to
/// notice that the client has gone.
const AHEAD: usize = 4 * 1024;

/// How long a connection without a request stays when the node leaves. HTTP/1.1 has no GOAWAY: a request
/// that meets the close on its way has failed for a client that may not repeat it, so the next response says
/// `connection: close` instead. 1 s: whoever uses a connection all the time has used it by then; one
/// that is quiet for longer is seldom used in the moment of its end.
const PARTING: Duration = Duration::from_secs(1);

pub(crate) async fn serve(worker: Rc<Worker>, wire: Wire, client: Rc<Client>, place: Place) {
    let mut connection = Connection {
        leaving: worker.leaving.raised(),
        idle: Idle::new(worker.config.timeouts.downstream_idle),
        incoming: Incoming::new(wire),
        reader: HeadReader::default(),
        worker,
        client,
    };
    // What only a running exchange needs is boxed: most connections wait, and pay for what they
    // hold.
    let end = loop {
        let after = match connection.next_head().await {
            Next::Head(head) => Box::pin(connection.exchange(head)).await,
            Next::Refused(reason) => Box::pin(connection.refuse(reason)).await,
            Next::End => After::Close,
        };
        if after != After::Next {
            break after;
        }
    };
    if end == After::BrokenOff {
        place.broke_off(1);
    }
    Box::pin(connection.close(end)).await;
}

struct Connection {
    worker: Rc<Worker>,
    client: Rc<Client>,
    incoming: Rc<RefCell<Incoming>>,
    reader: HeadReader,
    leaving: Raised,
    idle: Idle,
}

#[allow(clippy::large_enum_variant, reason = "nearly every one is a head")]
enum Next {
    Head(RequestHead),
    /// What came is no head, or not in time.
    Refused(Reason),
    /// The client has closed, or nothing came in time, or the node leaves.
    End,
}

/// What an exchange leaves of its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    Next,
    /// The response is whole; the client may still be sending.
    Linger,
    /// Both sides know that it is over.
    Close,
    /// The client has gone before it had its response.
    BrokenOff,
}

/// What a response is framed for.
#[derive(Clone, Copy)]
struct Asked {
    is_head: bool,
    version: Version,
    keep_alive: bool,
}

impl Connection {
    async fn next_head(&mut self) -> Next {
        let limits = &self.worker.config.limits;
        let limits = HeadLimits {
            bytes: limits.max_header_bytes as usize + limits.max_path_bytes + 1024,
            target: limits.max_path_bytes,
            fields: limits.max_header_count,
        };
        let head_limit = self.worker.config.timeouts.request_head;
        // From the first pause within a head to its end, however slowly its bytes drip (H13).
        let mut head_timer: Option<Pin<Box<Sleep>>> = None;
        let mut parting: Option<Pin<Box<Sleep>>> = None;
        self.idle.moved();
        poll_fn(|cx| {
            let wire = &mut self.incoming.borrow_mut().wire;
            loop {
                match self.reader.request(&mut wire.input, limits) {
                    Ok(Some(head)) => return Poll::Ready(Next::Head(head)),
                    Ok(None) => {}
                    Err(bad) => return Poll::Ready(Next::Refused(reason(bad))),
                }
                match wire.poll_fill(cx) {
                    Poll::Ready(Ok(n)) if n > 0 => {}
                    Poll::Ready(_) => return Poll::Ready(Next::End),
                    Poll::Pending => break,
                }
            }
            if self.reader.has_begun() {
                let timer = head_timer.get_or_insert_with(|| Box::pin(sleep(head_limit)));
                return timer.as_mut().poll(cx).map(|()| Next::Refused(Reason::SlowRequest));
            }
            if Pin::new(&mut self.leaving).poll(cx).is_ready() {
                let timer = parting.get_or_insert_with(|| Box::pin(sleep(PARTING)));
                return timer.as_mut().poll(cx).map(|()| Next::End);
            }
            self.idle.poll(cx).map(|()| {
                self.worker.counters.connections_idle.add();
                Next::End
            })
        })
        .await
    }

    async fn exchange(&mut self, head: RequestHead) -> After {
        let RequestHead { parts, body, keep_alive } = head;
        let asked = Asked { is_head: parts.method == Method::HEAD, version: parts.version, keep_alive };
        let received = {
            let mut incoming = self.incoming.borrow_mut();
            incoming.owes_continue = !body.is_done() && expects_continue(&parts);
            incoming.body = body;
            if incoming.body.is_done() { Received::Empty } else { Received::H1(H1Received::new(&self.incoming)) }
        };
        let is_websocket = websocket::is_upgrade(&parts);
        let outbound = match Exchange::admit(&self.worker, &self.client, parts) {
            Err((access, reason)) => proxy::own(access, reason, received),
            Ok(exchange) => {
                let interim = Interim::default();
                let served = match is_websocket {
                    true => {
                        self.wait(
                            Box::pin(websocket::serve(exchange, Received::Empty, &interim, AskedBy::Upgrade)),
                            &interim,
                            asked,
                        )
                        .await
                    }
                    false => {
                        self.wait(std::pin::pin!(proxy::serve(exchange, received, &interim)), &interim, asked).await
                    }
                };
                match served {
                    Some(outbound) => outbound,
                    None => return After::BrokenOff,
                }
            }
        };
        match outbound {
            Outbound::Response(response, access) => self.respond(response, access, asked).await,
            Outbound::Switch(head, access, _, tunnel) => self.switch(head, access, *tunnel).await,
            Outbound::Abort(_) => After::BrokenOff,
        }
    }

    /// Waits for what comes of a request; none when the client has gone. Dropping the request
    /// then drops everything that was done for it.
    async fn wait(
        &self,
        mut serve: Pin<impl std::ops::DerefMut<Target = impl Future<Output = Outbound>>>,
        interim: &Interim,
        asked: Asked,
    ) -> Option<Outbound> {
        poll_fn(|cx| {
            let served = serve.as_mut().poll(cx);
            let incoming = &mut *self.incoming.borrow_mut();
            for head in interim.take() {
                // HTTP/1.0 knows none (RFC 9110 section 15.2).
                if asked.version == Version::HTTP_11 && incoming.wire.has_room() {
                    let (status, fields) = (head.status(), head.headers());
                    let buffer = incoming.wire.buffer();
                    response_head(buffer, status, fields, Encoder::Nothing, Persistence::Implied);
                }
            }
            if let Poll::Ready(outbound) = served {
                return Poll::Ready(Some(outbound));
            }
            let _ = incoming.wire.poll_drain(cx);
            match has_gone(incoming, cx) {
                true => Poll::Ready(None),
                false => Poll::Pending,
            }
        })
        .await
    }

    async fn respond(&mut self, response: Response<OutBody>, mut access: Access, asked: Asked) -> After {
        let (head, body) = response.into_parts();
        let encoder = framing(asked, head.status, &head.headers, &body);
        // A client that was not asked for its body may send it or not: only the end is certain.
        let unasked = std::mem::take(&mut self.incoming.borrow_mut().owes_continue);
        let is_broken = self.incoming.borrow().body.is_broken();
        let closes =
            unasked || is_broken || !asked.keep_alive || self.worker.leaving.is_up() || encoder == Encoder::UntilClose;
        let persistence = match closes {
            true => Persistence::Close,
            false if asked.version == Version::HTTP_10 => Persistence::KeepAlive,
            false => Persistence::Implied,
        };
        response_head(self.incoming.borrow_mut().wire.buffer(), head.status, &head.headers, encoder, persistence);
        drop(head);
        if encoder == Encoder::UntilClose {
            // Until it is whole any end is a cut one: the endpoint's, the client's own slowness, the node's.
            self.incoming.borrow_mut().wire.resets_on_end(true);
        }
        let sent = match body {
            OutBody::Own(text, _) => self.send_own(text, encoder, &mut access).await,
            OutBody::Proxied(body) => self.send_proxied(body, encoder, &mut access).await,
        };
        drop(access);
        match sent {
            Err(Unsent::Gone) => return After::BrokenOff,
            Err(Unsent::Cut) => return After::Linger,
            Ok(()) => {}
        }
        self.incoming.borrow_mut().wire.resets_on_end(false);
        if !unasked && !self.incoming.borrow().body.is_done() {
            // The response was first (H3).
            let limits = &self.worker.config.limits;
            let time = self.worker.config.timeouts.early_response_drain;
            let rest = Received::H1(H1Received::new(&self.incoming));
            upload::drain(rest, limits.early_response_drain_bytes, time).await;
        }
        let incoming = self.incoming.borrow();
        match () {
            () if !incoming.body.is_done() => After::Linger,
            () if !closes => After::Next,
            // A client that asked for the end sends nothing behind it.
            () if !asked.keep_alive && incoming.wire.input.is_empty() => After::Close,
            () => After::Linger,
        }
    }

    async fn send_own(&self, text: bytes::Bytes, mut encoder: Encoder, access: &mut Access) -> Result<(), Unsent> {
        let mut idle = Idle::new(self.worker.config.timeouts.downstream_idle);
        if encoder != Encoder::Nothing {
            access.sent(text.len());
        }
        {
            let wire = &mut self.incoming.borrow_mut().wire;
            encoder.data(wire, text).map_err(|_| Unsent::Cut)?;
            encoder.end(wire, None);
        }
        self.drained(&mut idle).await
    }

    async fn send_proxied(&self, mut body: Proxied, mut encoder: Encoder, access: &mut Access) -> Result<(), Unsent> {
        if body.is_end() {
            body.ended_with_head();
        }
        let sent = poll_fn(|cx| self.poll_send(&mut body, &mut encoder, access, cx)).await;
        match sent {
            Ok(()) => access.whole(),
            Err(Unsent::Gone) => access.aborted(),
            Err(Unsent::Cut) => access.cut(),
        }
        sent?;
        if body.is_end() || body.is_uploading() {
            // The rest of the request is the connection's to read.
            drop(body.finish());
        } else {
            self.worker.tasks.spawn_local(body.run_out());
        }
        self.drained(&mut Idle::new(self.worker.config.timeouts.downstream_idle)).await
    }

    /// Moves a body to the wire; ready when all of it is there.
    fn poll_send(
        &self,
        body: &mut Proxied,
        encoder: &mut Encoder,
        access: &mut Access,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Unsent>> {
        loop {
            if self.poll_room(cx).is_pending() {
                return body.poll_blocked(cx).map(|abort| {
                    access.broken(abort);
                    Err(Unsent::Gone)
                });
            }
            // The body reads the client's side too, for the upload: nothing is borrowed here.
            let piece = if encoder.is_complete() { Poll::Ready(Piece::End) } else { body.poll_piece(cx) };
            let incoming = &mut *self.incoming.borrow_mut();
            if incoming.wire.is_broken() {
                return Poll::Ready(Err(Unsent::Gone));
            }
            let Poll::Ready(piece) = piece else {
                let _ = incoming.wire.poll_drain(cx);
                return if has_gone(incoming, cx) { Poll::Ready(Err(Unsent::Gone)) } else { Poll::Pending };
            };
            return Poll::Ready(match piece {
                Piece::Data(data) => {
                    if *encoder != Encoder::Nothing {
                        access.sent(data.len());
                    }
                    match encoder.data(&mut incoming.wire, data) {
                        Ok(()) => continue,
                        Err(_) => Err(Unsent::Cut),
                    }
                }
                Piece::Trailers(fields) => {
                    encoder.end(&mut incoming.wire, Some(&fields)).then_some(()).ok_or(Unsent::Cut)
                }
                Piece::End => encoder.end(&mut incoming.wire, None).then_some(()).ok_or(Unsent::Cut),
                Piece::Aborted(abort) => {
                    access.broken(abort);
                    let _ = incoming.wire.poll_drain(cx);
                    Err(Unsent::Cut)
                }
            });
        }
    }

    fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        let wire = &mut self.incoming.borrow_mut().wire;
        if wire.has_room() { Poll::Ready(()) } else { wire.poll_drain(cx) }
    }

    /// Waits until the socket has taken all, or nothing for too long.
    async fn drained(&self, idle: &mut Idle) -> Result<(), Unsent> {
        behind_others().await;
        poll_fn(|cx| {
            let wire = &mut self.incoming.borrow_mut().wire;
            match wire.poll_drain(cx) {
                Poll::Ready(()) if wire.is_broken() => Poll::Ready(Err(Unsent::Gone)),
                Poll::Ready(()) => Poll::Ready(Ok(())),
                Poll::Pending => idle.poll(cx).map(|()| Err(Unsent::Gone)),
            }
        })
        .await
    }

    async fn switch(&mut self, head: Response<()>, mut access: Access, mut tunnel: Tunnel) -> After {
        let (status, fields) = (head.status(), head.headers());
        {
            let incoming = &mut *self.incoming.borrow_mut();
            response_head(incoming.wire.buffer(), status, fields, Encoder::Nothing, Persistence::Implied);
        }
        access.whole();
        drop((access, head));
        poll_fn(|cx| tunnel.poll(&mut self.incoming.borrow_mut().wire, cx)).await;
        After::Close
    }

    /// A head that is none: it is answered, and nobody knows where the next one begins.
    async fn refuse(&mut self, reason: Reason) -> After {
        let access = Access::of_no_head(&self.worker, &self.client);
        let Outbound::Response(response, access) = proxy::own(access, reason, Received::Empty) else {
            return After::Close;
        };
        let asked = Asked { is_head: false, version: Version::HTTP_11, keep_alive: false };
        self.respond(response, access, asked).await;
        After::Linger
    }

    /// Ends the connection. Closing a socket with unread bytes in it sends a reset, and the client
    /// may lose what it has not read yet (RFC 9112 section 9.6). So the writing side closes first,
    /// and what still comes in is read and dropped for a bounded time.
    async fn close(&mut self, after: After) {
        if self.incoming.borrow().wire.is_cut() {
            return;
        }
        let (limits, timeouts) = (&self.worker.config.limits, &self.worker.config.timeouts);
        let mut left = limits.early_response_drain_bytes;
        let linger = poll_fn(|cx| {
            let wire = &mut self.incoming.borrow_mut().wire;
            if ready!(wire.poll_shutdown(cx)).is_err() || matches!(after, After::Close | After::BrokenOff) {
                return Poll::Ready(());
            }
            // Beyond the limit nothing is read any more, but the socket stays: its end would take
            // the rest of the response along, which the client may still be reading.
            while left > 0 {
                wire.input.clear();
                match ready!(wire.poll_fill(cx)) {
                    Ok(n) if n > 0 => left = left.saturating_sub(n as u64),
                    _ => return Poll::Ready(()),
                }
            }
            Poll::Pending
        });
        let _ = tokio::time::timeout(timeouts.early_response_drain, linger).await;
    }
}

/// A response did not get to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unsent {
    /// The client takes no more.
    Gone,
    /// There is no more of it: it must not look whole (H4).
    Cut,
}

fn reason(bad: BadHead) -> Reason {
    match bad {
        BadHead::Malformed => Reason::BadRequest,
        BadHead::Framing => Reason::BadFraming,
        BadHead::Version => Reason::BadVersion,
        BadHead::TooLarge => Reason::HeadersTooLarge,
        BadHead::TargetTooLong => Reason::TargetTooLong,
    }
}

/// Whether the client has closed. Told by reading, as long as that is not the body's to do.
fn has_gone(incoming: &mut Incoming, cx: &mut Context<'_>) -> bool {
    while incoming.body.is_done() && incoming.wire.input.len() < AHEAD {
        match incoming.wire.poll_fill(cx) {
            Poll::Ready(Ok(n)) if n > 0 => {}
            Poll::Ready(_) => return true,
            Poll::Pending => return false,
        }
    }
    false
}

fn expects_continue(head: &Parts) -> bool {
    head.version == Version::HTTP_11
        && head.headers.get(header::EXPECT).is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// How a response's body goes out (RFC 9112 section 6.3).
fn framing(asked: Asked, status: StatusCode, headers: &http::HeaderMap, body: &OutBody) -> Encoder {
    if asked.is_head || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
        return Encoder::Nothing;
    }
    match body {
        OutBody::Own(text, _) => Encoder::Exact(text.len() as u64),
        OutBody::Proxied(body) => match content_length(headers) {
            Ok(Some(length)) => Encoder::Exact(length),
            _ if body.is_end() => Encoder::Exact(0),
            _ if asked.version == Version::HTTP_10 => Encoder::UntilClose,
            _ => Encoder::Chunked,
        },
    }
}
