//! H1: the endpoint sees the end of a request only when the client has ended it, whole. What the
//! client breaks off is cancelled, and nothing follows.

use crate::fleet::{Endpoint, Fleet, H1, H2c, config};
use crate::frames::{CANCEL, Event, PROTOCOL_ERROR, Peer};
use crate::hpack::field;
use crate::http1::Cut;

/// How a client breaks off in the middle of its upload.
#[derive(Debug, Clone, Copy)]
enum Abort {
    H2Reset,
    H2Close,
    H1Close,
    H1CloseInChunks,
}

const ABORTS: [Abort; 4] = [Abort::H2Reset, Abort::H2Close, Abort::H1Close, Abort::H1CloseInChunks];

/// Sends `half` of an upload of twice that, lets `seen` watch it arrive, and breaks off.
async fn abort<F: Future>(fleet: &Fleet, how: Abort, half: &[u8], seen: F) -> F::Output {
    let length = (2 * half.len()).to_string();
    match how {
        Abort::H2Reset | Abort::H2Close => {
            let mut client = fleet.h2().await;
            let stream = client.request("POST", "/up", &[("content-length", &length)], false).await;
            client.body(stream, half, false).await;
            let seen = seen.await;
            if let Abort::H2Reset = how {
                client.reset(stream, CANCEL).await;
                client.ping().await;
            }
            seen
        }
        Abort::H1Close => {
            let mut client = fleet.h1().await;
            client.request(&format!("POST /up HTTP/1.1\r\ncontent-length: {length}\r\n"), half).await;
            seen.await
        }
        Abort::H1CloseInChunks => {
            let mut client = fleet.h1().await;
            client.request("POST /up HTTP/1.1\r\ntransfer-encoding: chunked\r\n", "").await;
            client.write(format!("{:x}\r\n", half.len())).await;
            client.write(half).await;
            client.write("\r\n").await;
            seen.await
        }
    }
}

/// Reads a request's head and `length` bytes of its body.
async fn half(endpoint: &mut Peer, length: usize) -> u32 {
    let (stream, _, end) = endpoint.expect_headers().await;
    assert!(!end);
    let mut had = 0;
    while had < length {
        let (_, bytes, end) = endpoint.expect_data().await;
        assert!(!end, "END_STREAM in the middle of an upload");
        had += bytes.len();
    }
    stream
}

#[tokio::test]
async fn an_aborted_upload_is_cancelled_at_an_h2_endpoint() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H2c, &[&endpoint]).await;
    let mut peer: Option<Peer> = None;
    for how in ABORTS {
        let mut upstream = match peer.take() {
            Some(upstream) => upstream,
            None => {
                // The first request opens the connection that all use.
                let mut client = fleet.h2().await;
                let stream = client.get("/").await;
                let mut upstream = endpoint.h2().await;
                let request = upstream.expect_request().await;
                upstream.respond(request.stream, "204", b"").await;
                client.response(stream).await.whole();
                upstream.reads = true;
                upstream
            }
        };
        let stream = abort(&fleet, how, &[b'x'; 20_000], half(&mut upstream, 20_000)).await;
        assert_eq!(upstream.expect_reset(stream).await, CANCEL, "{how:?}");
        upstream.quiet().await;
        peer = Some(upstream);
    }
    assert!(endpoint.nobody(), "an abort costs no connection");
}

#[tokio::test]
async fn an_aborted_upload_breaks_off_at_an_h1_endpoint() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H1, &[&endpoint]).await;
    for how in ABORTS {
        let seen = async {
            let mut upstream = endpoint.h1().await;
            let head = upstream.head().await;
            let first = match head.field("content-length") {
                Some(length) => {
                    assert_eq!(length, "40000");
                    upstream.exact(20_000).await.unwrap().len()
                }
                // What is still here when the client breaks off need not go out.
                None => {
                    let mut first = 0;
                    while first < 20_000 {
                        first += upstream.chunk().await.unwrap().len();
                    }
                    first
                }
            };
            (upstream, head, first)
        };
        let (mut upstream, head, first) = abort(&fleet, how, &[b'x'; 20_000], seen).await;
        assert_eq!(first, 20_000);
        match head.field("content-length") {
            Some(_) => assert_eq!(upstream.exact(20_000).await, Err(Cut(Vec::new())), "{how:?}"),
            None => assert_eq!(upstream.body(&head).await, Err(Cut(Vec::new())), "{how:?}: no last chunk"),
        }
    }
}

/// The bytes of a short body wait for their end; without it the endpoint never gets them.
#[tokio::test]
async fn a_small_upload_that_is_aborted_is_cancelled_too() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H2c, &[&endpoint]).await;
    let seen = async {
        let mut upstream = endpoint.h2().await;
        let (stream, ..) = upstream.expect_headers().await;
        (upstream, stream)
    };
    let (mut upstream, stream) = abort(&fleet, Abort::H2Reset, &[b'x'; 100], seen).await;
    assert_eq!(upstream.expect_reset(stream).await, CANCEL);
    upstream.quiet().await;
}

/// What the client sent is no request: it is told so, and the endpoint never sees an end.
async fn malformed(length: &str, body: &[u8], end: bool) {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H2c, &[&endpoint]).await;
    let mut client = fleet.h2().await;
    let stream = client.request("POST", "/up", &[("content-length", length)], false).await;
    let mut upstream = endpoint.h2().await;
    let (at, fields, ended) = upstream.expect_headers().await;
    assert!(!ended && field(&fields, "content-length") == Some(length));
    client.data(stream, body, end).await;
    match client.next().await {
        Event::Reset { stream: reset, code } => assert_eq!((reset, code), (stream, PROTOCOL_ERROR)),
        Event::Headers { fields, .. } => assert_eq!(field(&fields, ":status"), Some("400")),
        other => panic!("{other:?}"),
    }
    loop {
        match upstream.next().await {
            Event::Data { end: false, .. } => {}
            Event::Reset { stream, code } => break assert_eq!((stream, code), (at, CANCEL)),
            other => panic!("{other:?}"),
        }
    }
    upstream.quiet().await;
    let other = client.get("/").await;
    let request = upstream.expect_request().await;
    upstream.respond(request.stream, "200", b"fine").await;
    assert_eq!(client.response(other).await.whole(), ("200", &b"fine"[..]), "the connections go on");
}

#[tokio::test]
async fn fewer_bytes_than_content_length_are_refused() {
    malformed("300", &[b'x'; 200], true).await;
    malformed("30000", &[b'x'; 16_384], true).await;
}

#[tokio::test]
async fn more_bytes_than_content_length_are_refused() {
    malformed("100", &[b'x'; 200], false).await;
    malformed("100", &[b'x'; 200], true).await;
}

#[tokio::test]
async fn a_length_without_a_body_reaches_no_endpoint() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H2c, &[&endpoint]).await;
    let mut client = fleet.h2().await;
    let stream = client.request("POST", "/up", &[("content-length", "5")], true).await;
    match client.next().await {
        Event::Reset { stream: reset, code } => assert_eq!((reset, code), (stream, PROTOCOL_ERROR)),
        Event::Headers { fields, .. } => assert_eq!(field(&fields, ":status"), Some("400")),
        other => panic!("{other:?}"),
    }
    assert!(endpoint.nobody());
}

#[tokio::test]
async fn a_bad_chunk_is_the_clients_fault() {
    // What is behind the fault reads like the rest of the body, and another request.
    let bad = b"zz\r\n1\r\nx\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: app.test\r\n\r\n";
    for protocol in [H2c, H1] {
        let endpoint = Endpoint::listen("a").await;
        let fleet = Fleet::serving(config(), protocol, &[&endpoint]).await;
        let mut client = fleet.h1().await;
        client.request("POST /up HTTP/1.1\r\ntransfer-encoding: chunked\r\n", "5\r\nhello\r\n").await;
        match protocol {
            H2c => {
                let mut upstream = endpoint.h2().await;
                let (stream, ..) = upstream.expect_headers().await;
                assert_eq!(upstream.expect_data().await, (stream, b"hello".to_vec(), false));
                client.write(bad).await;
                assert_eq!(upstream.expect_reset(stream).await, CANCEL);
                upstream.quiet().await;
            }
            H1 => {
                let mut upstream = endpoint.h1().await;
                upstream.head().await;
                assert_eq!(upstream.chunk().await.as_deref(), Some(&b"hello"[..]));
                client.write(bad).await;
                assert_eq!(upstream.chunk().await, None, "the body must not end");
            }
        }
        let head = client.head().await;
        assert_eq!((head.status(), head.field("connection")), ("400", Some("close")), "{protocol:?}");
        client.body(&head).await.unwrap();
        assert!(client.rest().await.is_empty());
        assert!(endpoint.nobody());
    }
}

/// Nothing is left at the endpoint of a request whose client has gone.
#[tokio::test]
async fn a_client_that_stops_waiting_cancels_its_request() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H2c, &[&endpoint]).await;
    let mut client = fleet.h2().await;
    let get = client.get("/slow").await;
    let mut upstream = endpoint.h2().await;
    let at = upstream.expect_request().await.stream;
    client.reset(get, CANCEL).await;
    assert_eq!(upstream.expect_reset(at).await, CANCEL);

    let post = client.request("POST", "/slow", &[("content-length", "5")], false).await;
    client.data(post, b"hello", true).await;
    let request = upstream.expect_request().await;
    assert_eq!(request.body, b"hello");
    client.reset(post, CANCEL).await;
    assert_eq!(upstream.expect_reset(request.stream).await, CANCEL);

    client.get("/slow").await;
    let at = upstream.expect_request().await.stream;
    drop(client);
    assert_eq!(upstream.expect_reset(at).await, CANCEL, "its connection closed");

    let mut client = fleet.h1().await;
    client.get("/slow").await;
    let at = upstream.expect_request().await.stream;
    drop(client);
    assert_eq!(upstream.expect_reset(at).await, CANCEL, "its HTTP/1.1 connection closed");
    upstream.quiet().await;
}

#[tokio::test]
async fn a_client_that_stops_waiting_frees_an_h1_endpoint() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H1, &[&endpoint]).await;
    let mut client = fleet.h2().await;
    let get = client.get("/slow").await;
    let mut upstream = endpoint.h1().await;
    upstream.head().await;
    client.reset(get, CANCEL).await;
    assert!(upstream.rest().await.is_empty(), "closed");
}

#[tokio::test]
async fn a_download_that_the_client_stops_is_cancelled() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H2c, &[&endpoint]).await;
    let mut client = fleet.h2().await;
    let get = client.get("/endless").await;
    let mut upstream = endpoint.h2().await;
    let at = upstream.expect_request().await.stream;
    upstream.headers(at, &[(":status", "200")], false).await;
    upstream.data(at, &[b'x'; 100], false).await;
    client.expect_headers().await;
    assert_eq!(client.expect_data().await.1.len(), 100);
    client.reset(get, CANCEL).await;
    assert_eq!(upstream.expect_reset(at).await, CANCEL);
    upstream.quiet().await;
}
