//! One check of one endpoint, on a connection of its own. The caller sets the time limit.

use std::future::poll_fn;
use std::pin::pin;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, TE, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri};
use tidelock_core::spec::{Address, Check, HealthSpec};

use crate::h1::encode::{Encoder, request_head};
use crate::h1::head::HeadReader;
use crate::h1::wire::Wire;
use crate::socket::Socket;
use crate::upstream::dial::{Dialer, Spoken, Wanted, is_own_want};

/// A response's head, and a gRPC answer, may have so many bytes.
const ANSWER_MAX: usize = 16 * 1024;

static AGENT: HeaderValue = HeaderValue::from_static("tidelock-health");

/// Why a check failed, for people.
type Failed = String;

/// What came of a check.
pub(super) enum Checked {
    Up,
    Down(Failed),
    /// This node could not even ask.
    Unasked(Failed),
}

pub(super) async fn check(dialer: &Dialer, address: &Address, health: &HealthSpec) -> Checked {
    let wanted = match (&health.check, dialer.spoken()) {
        (Check::Grpc { .. }, _) | (_, Some(Spoken::H2)) => Wanted::H2,
        (_, Some(Spoken::H1)) => Wanted::H1,
        (_, None) => Wanted::Either,
    };
    let connected = dialer.connect(address, wanted, health.timeout_ms.duration()).await;
    let asked = match connected {
        Ok((socket, spoken)) => ask(dialer, address, health, socket, spoken).await,
        Err(error) if is_own_want(&error) => return Checked::Unasked(error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    asked.map_or_else(Checked::Down, |()| Checked::Up)
}

async fn ask(
    dialer: &Dialer,
    address: &Address,
    health: &HealthSpec,
    socket: Socket,
    spoken: Spoken,
) -> Result<(), Failed> {
    match &health.check {
        Check::Tcp {} => Ok(()),
        Check::Http { path, host, status } => {
            let host = host.as_ref().map_or(address.as_str(), |host| host.as_str());
            let got = match spoken {
                Spoken::H1 => get_by_h1(socket, path.as_str(), host).await?,
                Spoken::H2 => get_by_h2(socket, &target(dialer, host, path.as_str())?).await?,
            };
            let is_right = status.map_or((200..400).contains(&got), |status| status.get() == got);
            if is_right { Ok(()) } else { Err(format!("GET {} was answered {got}", path.as_str())) }
        }
        Check::Grpc { service } => {
            let target = target(dialer, address.as_str(), "/grpc.health.v1.Health/Check")?;
            ask_by_grpc(socket, target, service.as_str()).await
        }
    }
}

fn target(dialer: &Dialer, host: &str, path: &str) -> Result<Uri, Failed> {
    let scheme = if dialer.is_tls() { "https" } else { "http" };
    Uri::builder().scheme(scheme).authority(host).path_and_query(path).build().map_err(|error| error.to_string())
}

async fn get_by_h1(socket: Socket, path: &str, host: &str) -> Result<u16, Failed> {
    let mut wire = Wire::new(socket, b"");
    let mut fields = HeaderMap::new();
    fields.insert(USER_AGENT, AGENT.clone());
    fields.insert(CONNECTION, HeaderValue::from_static("close"));
    request_head(wire.buffer(), &Method::GET, path, host, &fields, Encoder::Nothing);
    poll_fn(|cx| wire.poll_drain(cx)).await;
    let mut reader = HeadReader::default();
    loop {
        match reader.response(&mut wire.input, ANSWER_MAX, &Method::GET) {
            Ok(Some(head)) if head.parts.status.is_informational() => continue,
            Ok(Some(head)) => return Ok(head.parts.status.as_u16()),
            Ok(None) => {}
            Err(_) => return Err("the answer is no HTTP/1.1".to_owned()),
        }
        match poll_fn(|cx| wire.poll_fill(cx)).await {
            Ok(0) => return Err("the endpoint closed before it answered".to_owned()),
            Ok(_) => {}
            Err(error) => return Err(error.to_string()),
        }
    }
}

async fn get_by_h2(socket: Socket, target: &Uri) -> Result<u16, Failed> {
    let request = Request::get(target).header(USER_AGENT, &AGENT).body(()).map_err(|error| error.to_string())?;
    exchange(socket, request, None, async |response| Ok(response.status().as_u16())).await
}

/// The health checking protocol of gRPC (grpc/doc/health-checking.md): a message with the service's
/// name, answered by one with a status.
async fn ask_by_grpc(socket: Socket, target: Uri, service: &str) -> Result<(), Failed> {
    let request = Request::post(target)
        .header(USER_AGENT, &AGENT)
        .header(CONTENT_TYPE, "application/grpc")
        .header(TE, "trailers")
        .body(())
        .map_err(|error| error.to_string())?;
    exchange(socket, request, Some(grpc_question(service)), async |response| {
        let (head, mut body) = response.into_parts();
        let mut answer = Vec::new();
        while let Some(piece) = body.data().await {
            let piece = piece.map_err(|error| error.to_string())?;
            answer.extend_from_slice(&piece);
            if answer.len() > ANSWER_MAX {
                return Err("the answer is too long".to_owned());
            }
        }
        let trailers = body.trailers().await.map_err(|error| error.to_string())?.unwrap_or_default();
        let status = trailers.get("grpc-status").or(head.headers.get("grpc-status"));
        match status.map(HeaderValue::as_bytes) {
            Some(b"0") if is_serving(&answer) => Ok(()),
            Some(b"0") => Err("gRPC says that it does not serve".to_owned()),
            Some(status) => Err(format!("gRPC status {}", String::from_utf8_lossy(status))),
            None => Err(format!("status {} and no gRPC status", head.status)),
        }
    })
    .await
}

/// `HealthCheckRequest { service = 1 }` behind the five bytes that begin each message.
fn grpc_question(service: &str) -> Bytes {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            message.push(length as u8 | 0x80);
            length >>= 7;
        }
        message.push(length as u8);
        message.extend_from_slice(service.as_bytes());
    }
    let mut question = vec![0];
    question.extend((message.len() as u32).to_be_bytes());
    question.extend(message);
    question.into()
}

/// `HealthCheckResponse { status = 1 }` with SERVING, which is 1.
fn is_serving(answer: &[u8]) -> bool {
    answer == [0, 0, 0, 0, 2, 0x08, 1]
}

/// Sends one request and reads what is wanted of its answer; the connection lives as long.
async fn exchange<T>(
    socket: Socket,
    request: Request<()>,
    body: Option<Bytes>,
    read: impl AsyncFnOnce(Response<h2::RecvStream>) -> Result<T, Failed>,
) -> Result<T, Failed> {
    let handshake = h2::client::Builder::new().enable_push(false).handshake::<_, Bytes>(socket);
    let (send, connection) = handshake.await.map_err(|error| error.to_string())?;
    let ask = async {
        let mut send = send.ready().await.map_err(|error| error.to_string())?;
        let sent = send.send_request(request, body.is_none());
        let (response, mut stream) = sent.map_err(|error| error.to_string())?;
        if let Some(body) = body {
            stream.send_data(body, true).map_err(|error| error.to_string())?;
        }
        read(response.await.map_err(|error| error.to_string())?).await
    };
    let mut connection = pin!(connection);
    let mut ask = pin!(ask);
    tokio::select! {
        biased;
        answer = &mut ask => answer,
        ended = &mut connection => match ended {
            // What it brought last may still be read.
            Ok(()) => ask.await,
            Err(error) => Err(error.to_string()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_a_grpc_message() {
        assert_eq!(&grpc_question("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&grpc_question("ab")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        let long = grpc_question(&"x".repeat(300));
        assert_eq!(&long[..8], [0, 0, 0, 1, 47, 0x0a, 0xac, 2]);
        assert_eq!(long.len(), 5 + 303);
    }
}
