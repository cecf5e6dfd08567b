//! Clients that take nothing on trust: a response counts only when it is whole.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use h2::SendStream;
use h2::client::ResponseFuture;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// A whole response.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.body))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The `name=value` of a cookie that was set.
    pub(crate) fn cookie(&self, name: &str) -> Option<String> {
        set_cookie(&self.headers, name)
    }
}

/// The `name=value` of a cookie that is set.
pub(crate) fn set_cookie(fields: &HeaderMap, name: &str) -> Option<String> {
    let set = fields.get_all("set-cookie").into_iter().filter_map(|value| value.to_str().ok());
    let mut pairs = set.filter_map(|cookie| cookie.split(';').next());
    pairs.find(|pair| pair.starts_with(&format!("{name}="))).map(str::to_owned)
}

#[derive(Debug)]
pub(crate) struct NotWhole(pub String);

impl<E: std::error::Error> From<E> for NotWhole {
    fn from(error: E) -> NotWhole {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        NotWhole(text)
    }
}

pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// One HTTP/1.1 request on a connection of its own.
pub(crate) async fn h1(address: SocketAddr, request: Request<Bytes>) -> Result<Answer, NotWhole> {
    let exchange = async {
        let stream = TcpStream::connect(address).await?;
        let (mut send, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let driver = tokio::spawn(connection);
        let response = send.send_request(request.map(Full::new)).await?;
        let (head, body) = response.into_parts();
        let body = body.collect().await?.to_bytes();
        driver.abort();
        Ok(Answer { status: head.status, headers: head.headers, body })
    };
    tokio::time::timeout(LIMIT, exchange).await?
}

/// An HTTP/1.1 connection that is kept while the node keeps it.
pub(crate) struct H1 {
    send: hyper::client::conn::http1::SendRequest<Full<Bytes>>,
}

impl H1 {
    pub(crate) async fn connect(address: SocketAddr) -> Result<H1, NotWhole> {
        let stream = TcpStream::connect(address).await?;
        let (send, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(H1 { send })
    }

    /// A whole response, or None when the connection is closed already: nothing was sent then.
    pub(crate) async fn get_if_open(&mut self, path: &str) -> Option<Result<Answer, NotWhole>> {
        self.send.ready().await.ok()?;
        let exchange = async {
            let (head, body) = self.send.send_request(get(path, "").map(Full::new)).await?.into_parts();
            let body = body.collect().await?.to_bytes();
            Ok(Answer { status: head.status, headers: head.headers, body })
        };
        Some(tokio::time::timeout(LIMIT, exchange).await.unwrap_or_else(|late| Err(late.into())))
    }
}

/// An HTTP/2 connection by prior knowledge.
#[derive(Clone)]
pub(crate) struct H2 {
    send: h2::client::SendRequest<Bytes>,
}

impl H2 {
    pub(crate) async fn connect(address: SocketAddr) -> Result<H2, NotWhole> {
        let stream = TcpStream::connect(address).await?;
        let (send, connection) =
            h2::client::Builder::new().initial_window_size(1 << 20).handshake::<_, Bytes>(stream).await?;
        tokio::spawn(connection);
        Ok(H2 { send })
    }

    /// A whole exchange. The body goes up in pieces of `piece` bytes.
    pub(crate) async fn exchange(&self, request: Request<Bytes>, piece: usize) -> Result<Answer, NotWhole> {
        tokio::time::timeout(LIMIT, self.run(request, piece)).await?
    }

    pub(crate) async fn get(&self, path: &str, cookie: &str) -> Result<Answer, NotWhole> {
        self.exchange(get(path, cookie), usize::MAX).await
    }

    /// A response that is read piece by piece.
    pub(crate) async fn open(&self, path: &str, cookie: &str) -> Result<Opened, NotWhole> {
        let (head, ()) = at_host(get(path, cookie).map(|_| ()))?.into_parts();
        let mut send = self.send.clone().ready().await?;
        let (response, _) = send.send_request(Request::from_parts(head, ()), true)?;
        let (head, body) = tokio::time::timeout(LIMIT, response).await??.into_parts();
        Ok(Opened { answer: Answer { status: head.status, headers: head.headers, body: Bytes::new() }, body })
    }

    /// The same, or None when the connection takes no more requests, because it was told to go:
    /// nothing was sent then, or nothing of it was processed.
    pub(crate) async fn get_if_open(&self, path: &str, cookie: &str) -> Option<Result<Answer, NotWhole>> {
        let ((response, _), _) = self.begin(get(path, cookie)).await.ok()?;
        let exchange = async {
            match response.await {
                Err(error) if is_unprocessed(&error) => None,
                Err(error) => Some(Err(error.into())),
                Ok(response) => Some(whole(response).await),
            }
        };
        tokio::time::timeout(LIMIT, exchange).await.unwrap_or_else(|late| Some(Err(late.into())))
    }

    async fn run(&self, request: Request<Bytes>, piece: usize) -> Result<Answer, NotWhole> {
        let ((response, stream), body) = self.begin(request).await?;
        finish(response, stream, body, piece).await
    }

    /// Sends the head of a request whose body is still to come.
    pub(crate) async fn begin_stream(
        &self,
        request: Request<()>,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), NotWhole> {
        let mut send = self.send.clone().ready().await?;
        Ok(send.send_request(at_host(request)?, false)?)
    }

    /// Sends the head.
    async fn begin(&self, request: Request<Bytes>) -> Result<((ResponseFuture, SendStream<Bytes>), Bytes), NotWhole> {
        let (head, body) = at_host(request)?.into_parts();
        let mut send = self.send.clone().ready().await?;
        let end = body.is_empty();
        Ok((send.send_request(Request::from_parts(head, ()), end)?, body))
    }
}

/// The request with its host where HTTP/2 has it.
fn at_host<B>(request: Request<B>) -> Result<Request<B>, NotWhole> {
    let (mut head, body) = request.into_parts();
    let mut uri = head.uri.into_parts();
    uri.scheme = Some(http::uri::Scheme::HTTP);
    let host = head.headers.remove("host").expect("requests name their host");
    uri.authority = Some(http::uri::Authority::try_from(host.as_bytes())?);
    head.uri = http::Uri::from_parts(uri)?;
    Ok(Request::from_parts(head, body))
}

/// The stream is above the last one of a GOAWAY without an error: a client sends it again elsewhere
/// (RFC 9113 section 6.8). Two-phase GOAWAY makes it rare and not impossible: the library answers the PING
/// between the two before it sends heads that are queued already. A stream that the node has taken ends with
/// another error.
fn is_unprocessed(error: &h2::Error) -> bool {
    error.is_go_away() && error.is_remote() && error.reason() == Some(h2::Reason::NO_ERROR)
}

/// A response whose body is under way.
pub(crate) struct Opened {
    answer: Answer,
    body: h2::RecvStream,
}

impl Opened {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.answer.header(name)
    }

    pub(crate) fn cookie(&self, name: &str) -> Option<String> {
        self.answer.cookie(name)
    }

    /// The next piece; none at its end, which must be one in order.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, NotWhole> {
        match tokio::time::timeout(LIMIT, self.body.data()).await? {
            Some(data) => {
                let data = data?;
                self.body.flow_control().release_capacity(data.len())?;
                Ok(Some(data))
            }
            None if self.body.is_end_stream() => Ok(None),
            None => Err(NotWhole("the body stopped without END_STREAM".into())),
        }
    }
}

async fn finish(
    response: ResponseFuture,
    mut stream: SendStream<Bytes>,
    mut body: Bytes,
    piece: usize,
) -> Result<Answer, NotWhole> {
    let upload = async {
        while !body.is_empty() {
            stream.reserve_capacity(body.len().min(piece));
            let room = match std::future::poll_fn(|cx| stream.poll_capacity(cx)).await {
                Some(Ok(room)) => room,
                // The response says why no more is wanted.
                Some(Err(_)) | None => return,
            };
            let data = body.split_to(room.min(piece).min(body.len()));
            if stream.send_data(data, body.is_empty()).is_err() {
                return;
            }
        }
    };
    let download = async { whole(response.await?).await };
    let ((), answer) = tokio::join!(upload, download);
    answer
}

async fn whole(response: http::Response<h2::RecvStream>) -> Result<Answer, NotWhole> {
    let (head, mut stream) = response.into_parts();
    let mut body = BytesMut::new();
    while let Some(data) = stream.data().await {
        let data = data?;
        stream.flow_control().release_capacity(data.len())?;
        body.extend_from_slice(&data);
    }
    if !stream.is_end_stream() {
        return Err(NotWhole("the body stopped without END_STREAM".into()));
    }
    Ok(Answer { status: head.status, headers: head.headers, body: body.freeze() })
}

pub(crate) fn get(path: &str, cookie: &str) -> Request<Bytes> {
    let mut request = Request::builder().uri(path).header("host", "demo.test");
    if !cookie.is_empty() {
        request = request.header("cookie", cookie);
    }
    request.body(Bytes::new()).expect("a request of fixed parts")
}

pub(crate) fn post(path: &str, cookie: &str, body: Bytes) -> Request<Bytes> {
    let mut request = get(path, cookie);
    *request.method_mut() = http::Method::POST;
    request.headers_mut().insert("content-length", body.len().into());
    *request.body_mut() = body;
    request
}
