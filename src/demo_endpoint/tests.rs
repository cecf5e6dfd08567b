//! The endpoint over real sockets, in both protocols.

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::*;

struct Running {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    served: JoinHandle<()>,
}

impl Running {
    async fn start() -> Running {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let served = tokio::spawn(accept_until(listener, "app-1".parse().unwrap(), async {
            let _ = stopped.await;
        }));
        Running { address, stop: Some(stop), served }
    }

    fn stop(&mut self) {
        let _ = self.stop.take().map(|stop| stop.send(()));
    }

    async fn http1(&self, request: http::request::Builder, body: &[u8]) -> (http::response::Parts, Bytes) {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        let driver = tokio::spawn(connection);
        let request = request.header("host", "x").body(Full::new(Bytes::copy_from_slice(body))).unwrap();
        let (head, body) = sender.send_request(request).await.unwrap().into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        drop(sender);
        let _ = driver.await.unwrap();
        (head, body)
    }

    async fn http2(&self, request: http::request::Builder, body: &[u8]) -> (http::response::Parts, Bytes) {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
        let driver = tokio::spawn(connection);
        let (response, mut upload) = sender.send_request(request.body(()).unwrap(), body.is_empty()).unwrap();
        if !body.is_empty() {
            upload.send_data(Bytes::copy_from_slice(body), true).unwrap();
        }
        let (head, mut stream) = response.await.unwrap().into_parts();
        let mut all = Vec::new();
        while let Some(data) = stream.data().await {
            let data = data.unwrap();
            stream.flow_control().release_capacity(data.len()).unwrap();
            all.extend_from_slice(&data);
        }
        driver.abort();
        (head, all.into())
    }
}

fn json(body: &[u8]) -> Value {
    serde_json::from_slice(body).unwrap()
}

#[tokio::test]
async fn a_session_counts_on_in_both_protocols() {
    let running = Running::start().await;
    let (head, body) = running.http1(Request::get("/counter"), b"").await;
    let cookie = head.headers["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();
    assert_eq!(json(&body)["count"], 1);
    let request = Request::get(format!("http://{}/counter", running.address)).header("cookie", &cookie);
    let (head, body) = running.http2(request, b"").await;
    assert_eq!(json(&body)["count"], 2);
    assert_eq!(json(&body)["endpoint"], "app-1");
    assert!(!head.headers.contains_key("set-cookie"), "the session is known");
}

#[tokio::test]
async fn every_byte_of_a_download_is_at_its_place() {
    let running = Running::start().await;
    let path = "/stream?chunks=7&interval_ms=0&bytes=30000";
    let (head, h1) = running.http1(Request::get(format!("{path}&length=1")), b"").await;
    assert_eq!(head.headers["content-length"], "210000");
    let (head, h2) = running.http2(Request::get(format!("http://{}{path}", running.address)), b"").await;
    assert!(!head.headers.contains_key("content-length"));
    for body in [h1, h2] {
        assert_eq!(body.len(), 210_000);
        assert!(body.iter().enumerate().all(|(at, byte)| *byte == (at % 251) as u8));
    }
    let (head, _) = running.http1(Request::get("/stream?chunks=x"), b"").await;
    assert_eq!(head.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn uploads_are_read_to_the_end_and_hashed() {
    let running = Running::start().await;
    let url = format!("http://{}/upload", running.address);
    for (_, body) in
        [running.http1(Request::post("/upload"), b"abc").await, running.http2(Request::post(url), b"abc").await]
    {
        assert_eq!(json(&body)["bytes"], 3);
        // FIPS 180-2, appendix B.1.
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(json(&body)["sha256"], expected);
    }
}

#[tokio::test]
async fn an_early_answer_does_not_read_the_upload() {
    let running = Running::start().await;
    let stream = TcpStream::connect(running.address).await.unwrap();
    let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
    let driver = tokio::spawn(connection);
    let request = Request::post(format!("http://{}/early", running.address)).body(()).unwrap();
    let (response, mut upload) = sender.send_request(request, false).unwrap();
    let mut response = response.await.unwrap();
    assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
    while let Some(data) = response.body_mut().data().await {
        data.unwrap();
    }
    let reset = std::future::poll_fn(|cx| upload.poll_reset(cx)).await.unwrap();
    assert_eq!(reset, h2::Reason::NO_ERROR, "RFC 9113 section 8.1");
    driver.abort();
}

#[tokio::test]
async fn a_websocket_echoes_and_is_closed_with_1001_on_stop() {
    let mut running = Running::start().await;
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    let handshake = "GET /ws HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
        sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(handshake.as_bytes()).await.unwrap();
    let mut seen = Vec::new();
    read_until(&mut stream, &mut seen, b"\"tick\":1}").await;
    let text = String::from_utf8_lossy(&seen).into_owned();
    assert!(text.starts_with("HTTP/1.1 101 "), "{text}");
    assert!(text.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{text}");
    // A masked "Hello" (RFC 6455 section 5.7), and its echo.
    stream.write_all(&[0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58]).await.unwrap();
    read_until(&mut stream, &mut seen, b"\x81\x05Hello").await;
    running.stop();
    read_until(&mut stream, &mut seen, &[0x88, 2, 0x03, 0xe9]).await;
    // Our side of the closing handshake; then the server closes, and nothing is left to serve.
    stream.write_all(&[0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe9]).await.unwrap();
    stream.read_to_end(&mut seen).await.unwrap();
    running.served.await.unwrap();
}

async fn read_until(stream: &mut TcpStream, seen: &mut Vec<u8>, wanted: &[u8]) {
    while !seen.windows(wanted.len()).any(|window| window == wanted) {
        assert_ne!(
            stream.read_buf(seen).await.unwrap(),
            0,
            "closed before {wanted:?}: {}",
            String::from_utf8_lossy(seen)
        );
    }
}

#[tokio::test]
async fn what_runs_is_finished_and_events_end_on_stop() {
    let mut running = Running::start().await;
    let mut events = TcpStream::connect(running.address).await.unwrap();
    events.write_all(b"GET /sse HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut seen = Vec::new();
    read_until(&mut events, &mut seen, b"\"tick\":1}").await;
    let mut download = TcpStream::connect(running.address).await.unwrap();
    download.write_all(b"GET /stream?chunks=5&interval_ms=50&bytes=1 HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut downloaded = Vec::new();
    read_until(&mut download, &mut downloaded, b"\r\n\r\n").await;
    running.stop();
    events.read_to_end(&mut seen).await.unwrap();
    assert!(seen.ends_with(b"0\r\n\r\n"), "a clean end, not a cut");
    download.read_to_end(&mut downloaded).await.unwrap();
    assert!(downloaded.ends_with(b"1\r\n\x04\r\n0\r\n\r\n"), "the last byte and a clean end");
    running.served.await.unwrap();
}
