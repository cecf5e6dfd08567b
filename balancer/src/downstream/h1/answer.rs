//! A response on its way to a client: its head, its body as fast as the client takes it, and what then
//! becomes of the connection.

use std::future::poll_fn;
use std::task::{Context, Poll};

use http::{HeaderMap, Response, StatusCode, Version};

use super::{After, Asked, Connection, has_gone};
use crate::access::Access;
use crate::attempt::Proxied;
use crate::body::{Piece, Received};
use crate::h1::body::H1Received;
use crate::h1::encode::{Encoder, Persistence, response_head};
use crate::headers::content_length;
use crate::proxy::OutBody;
use crate::timers::Idle;
use crate::turn::behind_others;
use crate::upload;

impl Connection {
    pub(super) async fn respond(&mut self, response: Response<OutBody>, mut access: Access, asked: Asked) -> After {
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
                    Err(if access.is_running() { Unsent::Gone } else { Unsent::Cut })
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
}

/// A response did not get to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unsent {
    /// The client takes no more.
    Gone,
    /// There is no more of it: it must not look whole (H4).
    Cut,
}

/// How a response's body goes out (RFC 9112 section 6.3).
fn framing(asked: Asked, status: StatusCode, headers: &HeaderMap, body: &OutBody) -> Encoder {
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
