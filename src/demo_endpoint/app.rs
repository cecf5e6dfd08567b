//! What the demo endpoint answers, whatever protocol asked.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest;
use bytes::{Bytes, BytesMut};
use futures_util::stream::{self, BoxStream};
use futures_util::{Stream, StreamExt};
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, SET_COOKIE};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, request};
use http_body_util::BodyExt;
use hyper::body::Frame;
use serde_json::json;
use tidelock_core::id::Name;
use tokio::sync::watch;

const PAGE: &str = include_str!("page.html");
const SESSION_COOKIE: &str = "demo_session";
/// Sessions that are remembered. Beyond, a new session is served and forgotten: a demo does not
/// fall to a load test.
const SESSIONS: usize = 100_000;

pub(super) struct App {
    name: Name,
    counts: Mutex<HashMap<String, u64>>,
    stopped: watch::Receiver<bool>,
}

/// An answer's body.
pub(super) enum Body {
    Full(Bytes),
    Stream(BoxStream<'static, Bytes>),
}

/// A request's body as either protocol hands it over.
pub(super) enum Upload {
    Http1(hyper::body::Incoming),
    Http2(h2::RecvStream),
}

impl Upload {
    /// The next bytes, none at a clean end.
    async fn next(&mut self) -> Option<anyhow::Result<Bytes>> {
        match self {
            Upload::Http1(body) => loop {
                match body.frame().await?.map(Frame::into_data) {
                    Ok(Ok(data)) => return Some(Ok(data)),
                    // Trailers.
                    Ok(Err(_)) => {}
                    Err(error) => return Some(Err(error.into())),
                }
            },
            Upload::Http2(body) => match body.data().await? {
                Ok(data) => {
                    let released = body.flow_control().release_capacity(data.len());
                    Some(released.map(|()| data).map_err(Into::into))
                }
                Err(error) => Some(Err(error.into())),
            },
        }
    }
}

impl App {
    pub(super) fn new(name: Name, stopped: watch::Receiver<bool>) -> Self {
        App { name, counts: Mutex::default(), stopped }
    }

    pub(super) fn name(&self) -> &str {
        self.name.as_str()
    }

    /// Resolves when the endpoint begins to stop.
    pub(super) fn stopped(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut stopped = self.stopped.clone();
        async move {
            // An error means that nobody is left to say it.
            let _ = stopped.wait_for(|stopped| *stopped).await;
        }
    }

    pub(super) async fn answer(&self, head: &request::Parts, body: &mut Upload) -> Response<Body> {
        let query = head.uri.query().unwrap_or("");
        match (&head.method, head.uri.path()) {
            (&Method::GET | &Method::HEAD, "/") => self.page(&head.headers),
            (&Method::GET, "/counter") => self.counter(&head.headers),
            (&Method::GET, "/headers") => self.headers(&head.headers),
            (&Method::GET, "/sse") => self.events(),
            (&Method::GET, "/stream") => download(query),
            (&Method::GET, "/ws") => text(StatusCode::UPGRADE_REQUIRED, "this is a WebSocket, by HTTP/1.1 upgrade\n"),
            (&Method::POST | &Method::PUT, "/upload") => self.upload(body).await,
            (_, "/early") => self.json(StatusCode::TOO_MANY_REQUESTS, json!({"early": true})),
            (_, "/hang") => self.hang().await,
            (_, path) => match path.strip_prefix("/status/") {
                Some(code) => self.status(code),
                None => self.json(StatusCode::NOT_FOUND, json!({"detail": "there is no such page"})),
            },
        }
    }

    fn page(&self, headers: &HeaderMap) -> Response<Body> {
        let page = PAGE.replace("{{endpoint}}", self.name());
        let mut response = full(StatusCode::OK, "text/html; charset=utf-8", page.into());
        session(headers, response.headers_mut());
        response
    }

    fn counter(&self, headers: &HeaderMap) -> Response<Body> {
        let mut response = full(StatusCode::OK, "application/json", Bytes::new());
        let session = session(headers, response.headers_mut());
        let count = self.count(&session);
        let body = json!({"endpoint": self.name, "session": session, "count": count});
        *response.body_mut() = Body::Full(body.to_string().into());
        response
    }

    /// One more for this session, as far as this endpoint has seen it.
    fn count(&self, session: &str) -> u64 {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if !counts.contains_key(session) && counts.len() >= SESSIONS {
            return 1;
        }
        let count = counts.entry(session.to_owned()).or_default();
        *count += 1;
        *count
    }

    /// The request's fields as they arrived, to see what a balancer adds.
    fn headers(&self, headers: &HeaderMap) -> Response<Body> {
        let show = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let fields: Vec<_> = headers.iter().map(|(name, value)| json!([name.as_str(), show(value)])).collect();
        self.json(StatusCode::OK, json!({"headers": fields}))
    }

    fn events(&self) -> Response<Body> {
        let mut first = true;
        let events = self.ticks().map(move |tick| {
            let retry = if std::mem::take(&mut first) { "retry: 1000\n" } else { "" };
            format!("{retry}id: {}\nevent: tick\ndata: {}\n\n", tick.number, tick.json()).into()
        });
        let mut response = full(StatusCode::OK, "text/event-stream", Bytes::new());
        *response.body_mut() = Body::Stream(events.boxed());
        response
    }

    /// One a second until the endpoint stops.
    pub(super) fn ticks(&self) -> impl Stream<Item = Tick> + Send + 'static {
        let start = (tokio::time::interval(Duration::from_secs(1)), self.name.clone(), 1);
        let ticks = stream::unfold(start, |(mut interval, endpoint, number)| async move {
            interval.tick().await;
            let tick = Tick { endpoint: endpoint.clone(), number };
            Some((tick, (interval, endpoint, number + 1)))
        });
        ticks.take_until(self.stopped())
    }

    async fn upload(&self, body: &mut Upload) -> Response<Body> {
        let mut digest = digest::Context::new(&digest::SHA256);
        let mut bytes = 0u64;
        while let Some(data) = body.next().await {
            match data {
                Ok(data) => {
                    bytes += data.len() as u64;
                    digest.update(&data);
                }
                Err(error) => {
                    let detail = format!("the body broke off after {bytes} bytes: {error}");
                    return self.json(StatusCode::BAD_REQUEST, json!({"detail": detail}));
                }
            }
        }
        let sha256: String = digest.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        self.json(StatusCode::OK, json!({"bytes": bytes, "sha256": sha256}))
    }

    async fn hang(&self) -> Response<Body> {
        self.stopped().await;
        self.json(StatusCode::SERVICE_UNAVAILABLE, json!({"detail": "stopped while hanging"}))
    }

    fn status(&self, code: &str) -> Response<Body> {
        match code.parse::<StatusCode>() {
            Ok(status @ (StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)) => {
                full(status, "text/plain", Bytes::new())
            }
            Ok(status) if (200..600).contains(&status.as_u16()) => {
                self.json(status, json!({"status": status.as_u16()}))
            }
            _ => self.json(StatusCode::BAD_REQUEST, json!({"detail": "use /status/200 to /status/599"})),
        }
    }

    fn json(&self, status: StatusCode, mut body: serde_json::Value) -> Response<Body> {
        body["endpoint"] = json!(self.name);
        full(status, "application/json", body.to_string().into())
    }
}

pub(super) struct Tick {
    endpoint: Name,
    number: u64,
}

impl Tick {
    pub(super) fn json(&self) -> String {
        json!({"endpoint": self.endpoint, "tick": self.number}).to_string()
    }
}

/// The session of the request's cookie; a new one is set on the answer.
fn session(request: &HeaderMap, response: &mut HeaderMap) -> String {
    let cookies = request.get_all(COOKIE).into_iter().filter_map(|value| value.to_str().ok());
    let pairs = cookies.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let known = pairs.filter(|(name, _)| *name == SESSION_COOKIE).map(|(_, value)| value);
    let hexadecimal = |value: &&str| value.len() == 16 && value.bytes().all(|b| b.is_ascii_hexdigit());
    if let Some(session) = known.into_iter().find(hexadecimal) {
        return session.to_owned();
    }
    let session = format!("{:016x}", rand::random::<u64>());
    let cookie = format!("{SESSION_COOKIE}={session}; Path=/; HttpOnly; SameSite=Lax");
    response.append(SET_COOKIE, cookie.parse().expect("hexadecimal digits and fixed text"));
    session
}

/// `?chunks=20&bytes=1024&interval_ms=500&length=1`: the byte at offset n is n modulo 251, so that
/// a reader can tell a lost, repeated or moved byte. With `length=1` it has a content-length.
fn download(query: &str) -> Response<Body> {
    let number = |name: &str, default: u64, most: u64| {
        let given = query.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name);
        given.map_or(Some(default), |(_, value)| value.parse().ok().filter(|number| *number <= most))
    };
    let chunks = number("chunks", 20, 1_000_000);
    let bytes = number("bytes", 1_024, 1 << 20);
    let interval = number("interval_ms", 500, 60_000);
    let length = number("length", 0, 1);
    let (Some(chunks), Some(bytes), Some(interval), Some(length)) = (chunks, bytes, interval, length) else {
        return text(StatusCode::BAD_REQUEST, "use chunks to 1000000, bytes to 1048576, interval_ms to 60000\n");
    };
    let pause = Duration::from_millis(interval);
    let parts = stream::unfold(0, move |part| async move {
        if part == chunks {
            return None;
        }
        if part > 0 && !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        Some((pattern(part * bytes, bytes), part + 1))
    });
    let mut response = full(StatusCode::OK, "application/octet-stream", Bytes::new());
    if length == 1 {
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(chunks * bytes));
    }
    *response.body_mut() = Body::Stream(parts.filter(|part| std::future::ready(!part.is_empty())).boxed());
    response
}

fn pattern(offset: u64, count: u64) -> Bytes {
    let bytes: BytesMut = (offset..offset + count).map(|at| (at % 251) as u8).collect();
    bytes.freeze()
}

fn text(status: StatusCode, text: &'static str) -> Response<Body> {
    full(status, "text/plain; charset=utf-8", Bytes::from_static(text.as_bytes()))
}

fn full(status: StatusCode, content_type: &'static str, body: Bytes) -> Response<Body> {
    let mut response = Response::new(Body::Full(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
