//! The app over HTTP/1.1, with WebSockets by upgrade (RFC 9110 section 7.8).

use std::sync::{Arc, Mutex, PoisonError};

use futures_util::StreamExt;
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};

use super::app::{App, Body, Upload};
use super::websocket;

type Answer = Response<UnsyncBoxBody<bytes::Bytes, std::convert::Infallible>>;

pub(super) async fn serve<S>(io: S, app: Arc<App>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    // The service notes an upgrade here; the connection's own task then runs the WebSocket.
    let upgrade: Mutex<Option<OnUpgrade>> = Mutex::default();
    let service = service_fn(|request| async {
        let answer: Result<Answer, std::convert::Infallible> = Ok(answer(request, &app, &upgrade).await);
        answer
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(io), service)
        .with_upgrades();
    tokio::pin!(connection);
    let served = tokio::select! {
        served = &mut connection => served,
        () = app.stopped() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "an HTTP/1.1 connection ended");
    }
    let pending = upgrade.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(pending) = pending
        && let Ok(upgraded) = pending.await
    {
        websocket::serve(TokioIo::new(upgraded), &app).await;
    }
}

async fn answer(mut request: Request<Incoming>, app: &App, upgrade: &Mutex<Option<OnUpgrade>>) -> Answer {
    if let Some(response) = handshake(&request) {
        *upgrade.lock().unwrap_or_else(PoisonError::into_inner) = Some(hyper::upgrade::on(&mut request));
        return response;
    }
    let (head, body) = request.into_parts();
    let response = app.answer(&head, &mut Upload::Http1(body)).await;
    response.map(|body| match body {
        // With its length; a stream without one goes out chunked.
        Body::Full(bytes) => Full::new(bytes).boxed_unsync(),
        Body::Stream(parts) => StreamBody::new(parts.map(|bytes| Ok(Frame::data(bytes)))).boxed_unsync(),
    })
}

/// The 101 of RFC 6455 section 4.2.2, if the request is a handshake.
fn handshake(request: &Request<Incoming>) -> Option<Answer> {
    let headers = request.headers();
    let lists = |name, token: &str| {
        let values = headers.get_all(name).into_iter().filter_map(|value: &HeaderValue| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|item| item.trim().eq_ignore_ascii_case(token))
    };
    let asked = request.method() == Method::GET
        && request.uri().path() == "/ws"
        && lists(UPGRADE, "websocket")
        && lists(CONNECTION, "upgrade")
        && lists(SEC_WEBSOCKET_VERSION, "13");
    let key = headers.get(SEC_WEBSOCKET_KEY).filter(|_| asked)?;
    let response = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(UPGRADE, "websocket")
        .header(CONNECTION, "upgrade")
        .header(SEC_WEBSOCKET_ACCEPT, websocket::accept(key.as_bytes()));
    Some(response.body(Full::default().boxed_unsync()).expect("fixed fields and base64"))
}
