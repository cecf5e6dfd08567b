//! A small HTTP/1.1 client of the admin API: one request a connection, the next node when one
//! does not answer, and writes that can be repeated without being done twice.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A node that has not taken the connection by then is passed over.
const CONNECT: Duration = Duration::from_secs(3);
/// For an answer that nobody has asked to wait for.
const ANSWER: Duration = Duration::from_secs(30);
/// A fleet's whole status is a few MiB; more is not our API.
const MAX_ANSWER: usize = 64 << 20;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("{0:?} is not a URL of an admin API: write http://127.0.0.1:9900")]
    BadUrl(String),
    #[error("{0}: https is not supported here yet; use http:// from inside, or through an SSH tunnel")]
    Https(String),
    #[error("{reason}\nhint: {hint}")]
    Unreachable { reason: String, hint: String },
    /// The node said no: nothing has changed.
    #[error("{0}")]
    Refused(Refusal),
    #[error(
        "it is not known whether the change has happened: {0}\nhint: look with `tidelock status`; a change can be repeated"
    )]
    Unknown(String),
    #[error("the answer of {url} is not the admin API's: {reason}")]
    Foreign { url: String, reason: String },
    /// A file or an argument is wrong; nothing was sent.
    #[error("{0}")]
    Mistake(String),
}

impl Failure {
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Failure::Refused(_) => 1,
            Failure::BadUrl(_) | Failure::Https(_) | Failure::Mistake(_) => 2,
            Failure::Unreachable { .. } | Failure::Unknown(_) | Failure::Foreign { .. } => 4,
        }
    }

    /// Whether another try may get an answer.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            Failure::Refused(refusal) => refusal.status == StatusCode::SERVICE_UNAVAILABLE,
            failure => failure.exit_code() == 4,
        }
    }
}

/// An answer of the kind application/problem+json (RFC 9457).
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Refusal {
    #[serde(skip)]
    status: u16,
    title: String,
    detail: String,
    problems: Vec<FieldProblem>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct FieldProblem {
    field: String,
    detail: String,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.detail.as_str(), self.title.as_str()) {
            ("", "") => write!(f, "the node answered {}", self.status)?,
            ("", title) => write!(f, "{title}")?,
            (detail, _) => write!(f, "{detail}")?,
        }
        for problem in &self.problems {
            write!(f, "\n  {}: {}", problem.field, problem.detail)?;
        }
        match self.status {
            401 => write!(f, "\nhint: pass --token-file, or the token in TIDELOCK_TOKEN"),
            403 => write!(f, "\nhint: this token's role does not reach so far"),
            _ => Ok(()),
        }
    }
}

/// What a write came to.
#[derive(Debug, Deserialize)]
pub(crate) struct Applied {
    pub(crate) epoch: u64,
    #[serde(default)]
    pub(crate) drain: Option<String>,
    #[serde(default)]
    pub(crate) switchover: Option<String>,
}

pub(crate) struct Api {
    bases: Vec<Base>,
    /// The node that answered last is asked first.
    current: usize,
    authorization: Option<HeaderValue>,
}

struct Base {
    /// As written, without a slash at its end.
    url: String,
    host: String,
    port: u16,
    /// `host:port`, as the Host field wants it.
    authority: String,
    /// A path in front of `/v1`, for an API behind another proxy.
    prefix: String,
}

/// One attempt's end.
enum Attempt {
    Answered(StatusCode, Bytes),
    /// Nothing was sent: another node may be asked.
    NotConnected(String),
    /// It may have arrived.
    Lost(String),
}

impl Api {
    pub(crate) fn new(urls: &[String], token_file: Option<&Path>) -> Result<Self, Failure> {
        let bases = urls.iter().map(|url| Base::parse(url.trim())).collect::<Result<Vec<_>, _>>()?;
        let token = match token_file {
            Some(file) => {
                let token = std::fs::read_to_string(file);
                Some(token.map_err(|e| Failure::Mistake(format!("--token-file {}: {e}", file.display())))?)
            }
            None => std::env::var("TIDELOCK_TOKEN").ok(),
        };
        let bearer = |token: String| {
            let mut value: HeaderValue = format!("Bearer {}", token.trim())
                .parse()
                .map_err(|_| Failure::Mistake("the token holds characters that no header can carry".into()))?;
            value.set_sensitive(true);
            Ok::<_, Failure>(value)
        };
        let authorization = token.map(bearer).transpose()?;
        Ok(Api { bases, current: 0, authorization })
    }

    /// One node, without a token: the demo's, which listens on loopback.
    pub(crate) fn anonymous(url: &str) -> Result<Self, Failure> {
        Ok(Api { bases: vec![Base::parse(url)?], current: 0, authorization: None })
    }

    /// The node that is asked first.
    pub(crate) fn url(&self) -> &str {
        &self.bases[self.current].url
    }

    pub(crate) async fn get<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, Failure> {
        let body = self.get_raw(path).await?;
        self.parse(&body)
    }

    /// The answer as it came, for `--json`.
    pub(crate) async fn get_raw(&mut self, path: &str) -> Result<Bytes, Failure> {
        let mut last = String::new();
        for _ in 0..self.bases.len() {
            match self.attempt(Method::GET, path, None, None, ANSWER).await {
                Attempt::Answered(status, body) if status.is_success() => return Ok(body),
                Attempt::Answered(status, body) => return Err(refused(status, &body)),
                Attempt::NotConnected(reason) | Attempt::Lost(reason) => last = reason,
            }
            self.current = (self.current + 1) % self.bases.len();
        }
        Err(self.unreachable(last))
    }

    /// A write: sent once more, under the same key, when its outcome is unknown.
    pub(crate) async fn write(&mut self, method: Method, path: &str, body: Option<Value>) -> Result<Applied, Failure> {
        let key = idempotency_key();
        let body = body.map(|body| Bytes::from(body.to_string()));
        let mut unknown = None;
        let mut not_connected = 0;
        let mut last = String::new();
        while not_connected < self.bases.len() {
            match self.attempt(method.clone(), path, body.clone(), Some(&key), ANSWER).await {
                Attempt::Answered(status, body) if status.is_success() => return self.parse(&body),
                Attempt::Answered(StatusCode::SERVICE_UNAVAILABLE, body) => {
                    let reason = refusal(StatusCode::SERVICE_UNAVAILABLE, &body).to_string();
                    if unknown.replace(reason).is_some() {
                        break;
                    }
                }
                Attempt::Answered(status, body) => return Err(refused(status, &body)),
                Attempt::Lost(reason) => {
                    if unknown.replace(reason).is_some() {
                        break;
                    }
                }
                Attempt::NotConnected(reason) => {
                    not_connected += 1;
                    last = reason;
                }
            }
            self.current = (self.current + 1) % self.bases.len();
        }
        match unknown {
            Some(reason) => Err(Failure::Unknown(reason)),
            None => Err(self.unreachable(last)),
        }
    }

    /// The next request is another node's.
    pub(crate) fn turn_to_next(&mut self) {
        self.current = (self.current + 1) % self.bases.len();
    }

    /// A request to this one node that may take long, such as its own leaving, or whose answer exists
    /// once: never repeated.
    pub(crate) async fn post_once(
        &mut self,
        path: &str,
        body: Option<Value>,
        wait: Duration,
    ) -> Result<Bytes, Failure> {
        let body = body.map(|body| Bytes::from(body.to_string()));
        match self.attempt(Method::POST, path, body, None, wait).await {
            Attempt::Answered(status, body) if status.is_success() => Ok(body),
            Attempt::Answered(status, body) => Err(refused(status, &body)),
            Attempt::NotConnected(reason) => Err(self.unreachable(reason)),
            Attempt::Lost(reason) => Err(Failure::Unknown(reason)),
        }
    }

    async fn attempt(
        &self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
        key: Option<&str>,
        wait: Duration,
    ) -> Attempt {
        let base = &self.bases[self.current];
        let connected = timeout(CONNECT, TcpStream::connect((base.host.as_str(), base.port))).await;
        let stream = match connected {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Attempt::NotConnected(format!("cannot connect to {}: {error}", base.url)),
            Err(_) => return Attempt::NotConnected(format!("cannot connect to {} within {CONNECT:?}", base.url)),
        };
        let request = match self.request(base, method, path, body, key) {
            Ok(request) => request,
            Err(error) => return Attempt::NotConnected(error.to_string()),
        };
        match timeout(wait, exchange(stream, request)).await {
            Ok(Ok((status, body))) => Attempt::Answered(status, body),
            Ok(Err(error)) => Attempt::Lost(format!("the connection to {} broke: {error:#}", base.url)),
            Err(_) => Attempt::Lost(format!("{} did not answer within {wait:?}", base.url)),
        }
    }

    fn request(
        &self,
        base: &Base,
        method: Method,
        path: &str,
        body: Option<Bytes>,
        key: Option<&str>,
    ) -> http::Result<Request<Full<Bytes>>> {
        let target = format!("{}{path}", base.prefix);
        let mut request = Request::builder().method(method).uri(target).header(HOST, &base.authority);
        if let Some(value) = &self.authorization {
            request = request.header(AUTHORIZATION, value);
        }
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        request.body(Full::new(body.unwrap_or_default()))
    }

    fn parse<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T, Failure> {
        let foreign = |error: serde_json::Error| Failure::Foreign { url: self.url().into(), reason: error.to_string() };
        serde_json::from_slice(body).map_err(foreign)
    }

    fn unreachable(&self, reason: String) -> Failure {
        let urls: Vec<&str> = self.bases.iter().map(|base| base.url.as_str()).collect();
        let hint = format!("is a node running at {}? Pass --api, or set TIDELOCK_API", urls.join(" or "));
        Failure::Unreachable { reason, hint }
    }
}

impl Base {
    fn parse(url: &str) -> Result<Base, Failure> {
        let bad = || Failure::BadUrl(url.to_owned());
        let uri: Uri = url.parse().map_err(|_| bad())?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => return Err(Failure::Https(url.to_owned())),
            _ => return Err(bad()),
        }
        let authority =
            uri.authority().filter(|a| !a.host().is_empty() && !a.as_str().contains('@')).ok_or_else(bad)?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        if uri.query().is_some() {
            return Err(bad());
        }
        Ok(Base {
            url: url.trim_end_matches('/').to_owned(),
            host,
            port: authority.port_u16().unwrap_or(80),
            authority: authority.to_string(),
            prefix: uri.path().trim_end_matches('/').to_owned(),
        })
    }
}

/// One request and its whole answer; the connection is not used again.
async fn exchange(stream: TcpStream, request: Request<Full<Bytes>>) -> anyhow::Result<(StatusCode, Bytes)> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let answer = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await.map_err(anyhow::Error::from_boxed)?;
        Ok((status, body.to_bytes()))
    };
    tokio::pin!(answer, connection);
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        ended = &mut connection => match ended {
            // The connection is done with; the answer's last bytes are with the reader.
            Ok(()) => answer.await,
            Err(error) => Err(error.into()),
        },
    }
}

fn refusal(status: StatusCode, body: &[u8]) -> Refusal {
    let refusal: Refusal = serde_json::from_slice(body).unwrap_or_default();
    Refusal { status: status.as_u16(), ..refusal }
}

fn refused(status: StatusCode, body: &[u8]) -> Failure {
    Failure::Refused(refusal(status, body))
}

/// A version 4 UUID (RFC 9562).
fn idempotency_key() -> String {
    let bits = rand::random::<u128>() & !(0xf << 76) & !(0x3 << 62) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{bits:032x}");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

#[cfg(test)]
mod tests;
