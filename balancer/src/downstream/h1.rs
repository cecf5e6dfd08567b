//! HTTP/1.1 from clients: one exchange after the other on a connection, each with one framing or
//! a refusal (H11), and an end of the connection that does not destroy the last response.

mod answer;

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::request::Parts;
use http::{Method, Response, Version, header};
use tokio::time::{Sleep, sleep};

use crate::access::Access;
use crate::attempt::Interim;
use crate::body::Received;
use crate::clients::Place;
use crate::exchange::Exchange;
use crate::flag::Raised;
use crate::h1::body::{H1Received, Incoming};
use crate::h1::encode::{Encoder, Persistence, response_head};
use crate::h1::head::{BadHead, HeadLimits, HeadReader, RequestHead};
use crate::h1::wire::Wire;
use crate::headers::Client;
use crate::proxy::{self, Outbound};
use crate::respond::Reason;
use crate::timers::Idle;
use crate::turn::after_others;
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
/// Reads for a head in one turn.
const FILLS: usize = 8;

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
            field_bytes: limits.max_header_bytes as usize,
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
            for fill in 0.. {
                match self.reader.request(&mut wire.input, limits) {
                    Ok(Some(head)) => return Poll::Ready(Next::Head(head)),
                    Ok(None) => {}
                    Err(bad) => return Poll::Ready(Next::Refused(reason(bad))),
                }
                if fill == FILLS {
                    // A head is here by now, or line breaks without end.
                    after_others(cx);
                    break;
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
        let is_websocket = websocket::is_upgrade(&parts) && received.is_end();
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

    async fn switch(&mut self, head: Response<()>, mut access: Access, mut tunnel: Tunnel) -> After {
        let (status, fields) = (head.status(), head.headers());
        {
            let incoming = &mut *self.incoming.borrow_mut();
            response_head(incoming.wire.buffer(), status, fields, Encoder::Nothing, Persistence::Implied);
        }
        drop(head);
        let ended = poll_fn(|cx| tunnel.poll(&mut self.incoming.borrow_mut().wire, cx)).await;
        access.tunnelled(ended, tunnel.bytes());
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
