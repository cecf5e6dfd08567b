//! HTTP/1.1 from clients, by hyper's server.

use std::cell::Cell;
use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::{CONNECTION, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tracing::debug;

use super::framing::{FramingWatch, Verdict};
use super::linger::Lingering;
use crate::access::Access;
use crate::body::{Piece, Received};
use crate::exchange::content_length;
use crate::headers::{Client, check_framing, is_websocket};
use crate::proxy::{self, OutBody, Outbound};
use crate::respond::{Reason, respond};
use crate::websocket;
use crate::worker::{Stage, Worker};

pub(crate) async fn serve<S>(worker: Rc<Worker>, io: S, client: Rc<Client>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (limits, timeouts) = (&worker.config.limits, &worker.config.timeouts);
    let framing = Verdict::default();
    let watch = FramingWatch::new(framing.clone());
    let io = Lingering::new(
        io,
        watch,
        timeouts.request_head,
        limits.early_response_drain_bytes,
        timeouts.early_response_drain,
    );
    let count = Cell::new(0);
    let service = service_fn(|request: Request<Incoming>| {
        let (worker, client, framing) = (worker.clone(), client.clone(), framing.clone());
        count.set(count.get() + 1);
        let nth = count.get();
        async move { Ok::<_, Infallible>(answer(&worker, &client, &framing, nth, request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(timeouts.downstream_idle)
        // The request line and the fields together: hyper answers 431 beyond it.
        .max_buf_size((limits.max_header_bytes as usize + limits.max_path_bytes + 1024).max(8 * 1024))
        .max_headers(limits.max_header_count + 1)
        .serve_connection(TokioIo::new(io), service)
        .with_upgrades();
    let mut connection = pin!(connection);
    let mut stage = worker.stage.clone();
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        _ = stage.wait_for(|stage| *stage >= Stage::Leaving) => {
            // No more requests; the one under way ends.
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        debug!(%error, "an HTTP/1.1 connection broke");
    }
}

/// Answers the connection's request number `nth`.
async fn answer(
    worker: &Rc<Worker>,
    client: &Rc<Client>,
    framing: &Verdict,
    nth: u64,
    mut request: Request<Incoming>,
) -> Response<H1OutBody> {
    let upgrade = hyper::upgrade::on(&mut request);
    let (head, body) = request.into_parts();
    let is_misframed = framing.refuses(nth) || check_framing(&head).is_err();
    let outbound = if is_misframed {
        proxy::own(Access::begin(worker, client, &head), Reason::BadFraming, Received::Empty)
    } else if is_websocket(&head) {
        websocket::serve(worker, client, head, upgrade).await
    } else {
        proxy::serve(worker, client, head, Received::h1(body)).await
    };
    match outbound {
        Outbound::Response(response, access) => {
            if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                framing.stop();
            }
            let left = content_length(response.headers());
            let body = |body| H1OutBody { worker: worker.clone(), body: Some(body), access: Some(access), left };
            let mut response = response.map(body);
            *response.version_mut() = http::Version::HTTP_11;
            if is_misframed {
                // Nobody knows where the next request begins.
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            response
        }
        // There is nobody to answer, or only one who sent no body worth the name; hyper needs a
        // response to end the exchange, and closes behind it.
        Outbound::Abort(_) => {
            let body = |text| H1OutBody {
                worker: worker.clone(),
                body: Some(OutBody::Own(text, Received::Empty)),
                access: None,
                left: None,
            };
            let mut response = respond(Reason::BadBody).map(body);
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            response
        }
    }
}

/// A response's body as hyper's server polls it.
struct H1OutBody {
    worker: Rc<Worker>,
    body: Option<OutBody>,
    /// None for a client that is gone.
    access: Option<Access>,
    /// Bytes to come by content-length.
    left: Option<u64>,
}

/// The response cannot be completed: hyper closes without the last chunk (H4).
#[derive(Debug, thiserror::Error)]
#[error("the response was cut off")]
struct Cut;

impl Body for H1OutBody {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        let this = &mut *self;
        let body = match this.body.as_mut() {
            None => return Poll::Ready(None),
            Some(OutBody::Own(text, _)) => {
                let text = std::mem::take(text);
                this.body = None;
                this.sent(text.len());
                return Poll::Ready(Some(Ok(Frame::data(text))));
            }
            Some(OutBody::Proxied(body)) => body,
        };
        let piece = ready!(body.poll_piece(cx));
        Poll::Ready(match piece {
            Piece::Data(data) => {
                let whole = body.is_whole();
                this.left = this.left.map(|left| left.saturating_sub(data.len() as u64));
                this.sent(data.len());
                if whole {
                    this.end();
                }
                Some(Ok(Frame::data(data)))
            }
            Piece::Trailers(trailers) => {
                this.end();
                Some(Ok(Frame::trailers(trailers)))
            }
            Piece::End => {
                this.end();
                None
            }
            Piece::Aborted(_) => {
                if let Some(access) = &mut this.access {
                    access.cut();
                }
                this.body = None;
                Some(Err(Cut))
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        match &self.body {
            None => true,
            Some(OutBody::Own(text, _)) => text.is_empty(),
            Some(OutBody::Proxied(body)) => body.is_end(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.body {
            Some(OutBody::Own(text, _)) => SizeHint::with_exact(text.len() as u64),
            None => SizeHint::with_exact(0),
            Some(OutBody::Proxied(body)) if body.is_end() => SizeHint::with_exact(0),
            // hyper goes by content-length, or chunks.
            Some(OutBody::Proxied(_)) => SizeHint::default(),
        }
    }
}

impl H1OutBody {
    fn sent(&mut self, bytes: usize) {
        if let Some(access) = &mut self.access {
            access.sent(bytes);
        }
    }

    fn end(&mut self) {
        if let Some(access) = &mut self.access {
            access.whole();
        }
        if let Some(OutBody::Proxied(body)) = self.body.take() {
            // The rest of the request is hyper's to read or to close on; see `linger`.
            drop(body.finish());
        }
    }
}

impl H1OutBody {
    /// All bytes of the content-length are with the client, and hyper asks for no more; the
    /// endpoint's END_STREAM, in a frame of its own, is still on its way. Leaving it to be
    /// cancelled would cost the endpoint a reset for each response.
    fn await_end(&mut self) {
        let Some(OutBody::Proxied(mut body)) = self.body.take() else { return };
        if let Some(access) = &mut self.access {
            access.whole();
        }
        self.worker.tasks.spawn_local(async move {
            // Ends in the body's own time limit at the latest.
            while let Piece::Data(_) = std::future::poll_fn(|cx| body.poll_piece(cx)).await {}
        });
    }
}

impl Drop for H1OutBody {
    /// hyper does not poll a body that has no bytes, and stops polling one whose content-length
    /// is reached.
    fn drop(&mut self) {
        let Some(OutBody::Proxied(body)) = &mut self.body else { return };
        if body.is_end() {
            body.ended_with_head();
            self.end();
        } else if self.left == Some(0) {
            self.await_end();
        }
    }
}
