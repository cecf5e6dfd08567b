//! The app over HTTP/2 by prior knowledge. It has no extended CONNECT, as Bandit has none: a
//! balancer brings WebSockets by HTTP/1.1 on the same port.

use std::future::poll_fn;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;

use super::app::{App, Body, Upload};

/// Room for a few uploads at once without waiting for each other.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 4 << 20;

pub(super) async fn serve<S>(io: S, app: Arc<App>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let handshake = h2::server::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(1_000)
        .handshake::<_, Bytes>(io);
    let mut connection = match handshake.await {
        Ok(connection) => connection,
        Err(error) => return tracing::debug!(%error, "an HTTP/2 handshake failed"),
    };
    let stopped = app.stopped();
    tokio::pin!(stopped);
    let mut leaving = false;
    let mut streams = JoinSet::new();
    loop {
        tokio::select! {
            accepted = connection.accept() => match accepted {
                Some(Ok((request, respond))) => {
                    streams.spawn(stream(request, respond, app.clone()));
                }
                Some(Err(error)) => {
                    tracing::debug!(%error, "an HTTP/2 connection broke");
                    break;
                }
                None => break,
            },
            () = &mut stopped, if !leaving => {
                leaving = true;
                connection.graceful_shutdown();
            }
            Some(_) = streams.join_next() => {}
        }
    }
}

async fn stream(request: Request<RecvStream>, mut respond: SendResponse<Bytes>, app: Arc<App>) {
    let (head, body) = request.into_parts();
    if head.uri.path() == "/demo.Echo/Stream" {
        if let Err(error) = echo(body, &mut respond).await {
            tracing::debug!(%error, "a gRPC call ended early");
        }
        return;
    }
    let mut upload = Upload::Http2(body);
    let response = tokio::select! {
        response = app.answer(&head, &mut upload) => response,
        // The client has given up.
        _ = poll_fn(|cx| respond.poll_reset(cx)) => return,
    };
    if let Err(error) = send(response, head.method == Method::HEAD, &mut respond).await {
        tracing::debug!(%error, "an HTTP/2 stream ended early");
    }
    // Dropping an unread upload behind a complete response resets it with NO_ERROR (RFC 9113
    // section 8.1): h2 does so.
}

/// A gRPC call: what comes is sent back as it comes, and its end is a status in trailers.
async fn echo(mut body: RecvStream, respond: &mut SendResponse<Bytes>) -> Result<(), h2::Error> {
    let head = Response::builder().header(CONTENT_TYPE, "application/grpc");
    let mut sender = respond.send_response(head.body(()).expect("it is made of fixed parts"), false)?;
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        send_all(&mut sender, data, false).await?;
    }
    sender
        .send_trailers(HeaderMap::from_iter([(HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"))]))
}

async fn send(response: Response<Body>, head_only: bool, respond: &mut SendResponse<Bytes>) -> Result<(), h2::Error> {
    let (head, body) = response.into_parts();
    let no_body = head_only || matches!(&body, Body::Full(bytes) if bytes.is_empty());
    let mut sender = respond.send_response(Response::from_parts(head, ()), no_body)?;
    if no_body {
        return Ok(());
    }
    match body {
        Body::Full(bytes) => send_all(&mut sender, bytes, true).await,
        Body::Stream(mut parts) => {
            loop {
                tokio::select! {
                    part = parts.next() => match part {
                        Some(bytes) => send_all(&mut sender, bytes, false).await?,
                        None => break,
                    },
                    reset = poll_fn(|cx| sender.poll_reset(cx)) => return Err(reset?.into()),
                }
            }
            sender.send_data(Bytes::new(), true)
        }
    }
}

/// Sends `bytes` as the windows open.
async fn send_all(sender: &mut SendStream<Bytes>, mut bytes: Bytes, end: bool) -> Result<(), h2::Error> {
    while !bytes.is_empty() {
        sender.reserve_capacity(bytes.len());
        let capacity = poll_fn(|cx| sender.poll_capacity(cx)).await;
        let capacity = capacity.unwrap_or(Err(Reason::CANCEL.into()))?;
        let part = bytes.split_to(capacity.min(bytes.len()));
        sender.send_data(part, end && bytes.is_empty())?;
    }
    Ok(())
}
