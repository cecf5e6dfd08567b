//! HTTP/1.1 connections on both sides: what may follow on one, and how each ends.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::fleet::{Endpoint, Fleet, H1, H2c, config};
use crate::http1::Http1;

async fn answer(upstream: &mut Http1, body: &str) -> String {
    let head = upstream.head().await;
    upstream.write(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())).await;
    head.start
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_their_order() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H1, &[&endpoint]).await;
    let mut client = fleet.h1().await;
    let requests: String = (1..=20).map(|n| format!("GET /{n} HTTP/1.1\r\nhost: app.test\r\n\r\n")).collect();
    client.write(format!("\r\n{requests}")).await;
    let mut upstream = endpoint.h1().await;
    for n in 1..=20 {
        assert_eq!(answer(&mut upstream, &n.to_string()).await, format!("GET /{n} HTTP/1.1"));
    }
    for n in 1..=20 {
        assert_eq!(client.response().await.1, n.to_string().as_bytes());
    }
}

#[tokio::test]
async fn http_1_0_is_spoken_with_those_who_speak_it() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H1, &[&endpoint]).await;
    // A length, and the wish to stay.
    let mut client = fleet.h1().await;
    client.request("GET / HTTP/1.0\r\nconnection: keep-alive\r\n", "").await;
    let mut upstream = endpoint.h1().await;
    answer(&mut upstream, "one").await;
    let (head, body) = client.response().await;
    assert_eq!((head.field("connection"), &body[..]), (Some("keep-alive"), &b"one"[..]));
    // Chunks are not for it: the body goes on to the close.
    client.request("GET / HTTP/1.0\r\nconnection: keep-alive\r\n", "").await;
    upstream.head().await;
    upstream.write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\ntwo\r\n0\r\n\r\n").await;
    let head = client.head().await;
    assert_eq!((head.field("connection"), head.field("transfer-encoding")), (Some("close"), None));
    assert_eq!(client.exact(3).await.unwrap(), b"two");
    assert_eq!(client.io.read(&mut [0; 16]).await.unwrap(), 0, "a whole one does not end with a reset");
}

/// The close is all that ends such a body, so a cut must not look like one (H4).
#[tokio::test]
async fn a_cut_body_without_framing_ends_with_a_reset() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H1, &[&endpoint]).await;
    let mut client = fleet.h1().await;
    client.request("GET / HTTP/1.0\r\n", "").await;
    let mut upstream = endpoint.h1().await;
    upstream.head().await;
    upstream.write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\ntwo\r\n").await;
    client.head().await;
    assert_eq!(client.exact(3).await.unwrap(), b"two");
    drop(upstream);
    let end = client.io.read(&mut [0; 16]).await;
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

/// A client that reads so slowly that it is given up finds no end that looks like the body's.
#[tokio::test]
async fn a_body_without_framing_that_is_given_up_ends_with_a_reset() {
    let endpoint = Endpoint::listen("a").await;
    let spec = serde_json::json!({ "protocol": "http1", "timeouts": { "idle_ms": 200 } });
    let fleet = Fleet::with_pool(config(), serde_json::from_value(spec).unwrap(), &[&endpoint]).await;
    let mut client = fleet.h1().await;
    client.request("GET / HTTP/1.0\r\n", "").await;
    let mut upstream = endpoint.h1().await;
    upstream.head().await;
    upstream.write("HTTP/1.1 200 OK\r\n\r\n").await;
    let piece = [b'x'; 64 * 1024];
    // Until the endpoint is told that nobody wants more.
    while upstream.io.write_all(&piece).await.is_ok() {}
    let mut read = vec![0; 1 << 20];
    let end = loop {
        match client.io.read(&mut read).await {
            Ok(0) => panic!("it looks whole"),
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(end.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn chunks_and_trailers_pass_from_http1_to_http1() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H1, &[&endpoint]).await;
    let mut client = fleet.h1().await;
    let large = "x".repeat(100_000);
    let body = format!("3\r\none\r\n186a0;ext=1\r\n{large}\r\n0\r\nx-sum: 42\r\n\r\n");
    client.request("POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n", &body).await;
    let mut upstream = endpoint.h1().await;
    let head = upstream.head().await;
    assert_eq!((head.field("transfer-encoding"), head.field("content-length")), (Some("chunked"), None));
    let mut got = Vec::new();
    while let Some(chunk) = upstream.chunk().await.filter(|chunk| !chunk.is_empty()) {
        got.extend(chunk);
    }
    assert!(got == format!("one{large}").as_bytes());
    assert_eq!(upstream.trailers().await, ["x-sum: 42"]);
    upstream.write(format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{body}")).await;
    let head = client.head().await;
    assert_eq!(head.field("transfer-encoding"), Some("chunked"));
    let mut got = Vec::new();
    while let Some(chunk) = client.chunk().await.filter(|chunk| !chunk.is_empty()) {
        got.extend(chunk);
    }
    assert!(got == format!("one{large}").as_bytes());
    assert_eq!(client.trailers().await, ["x-sum: 42"]);
    // Both connections go on.
    client.get("/next").await;
    answer(&mut upstream, "next").await;
    assert_eq!(client.response().await.1, b"next");
}

/// A refusal before the body does not cost the connection, if the body then ends in time.
#[tokio::test]
async fn a_connection_outlives_an_early_response() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H2c, &[&endpoint]).await;
    let mut client = fleet.h1().await;
    client.request("POST / HTTP/1.1\r\ncontent-length: 10\r\n", "hello").await;
    let mut upstream = endpoint.h2().await;
    let (stream, ..) = upstream.expect_headers().await;
    upstream.respond(stream, "403", b"no").await;
    assert_eq!(client.response().await.1, b"no");
    client.write("world").await;
    client.get("/next").await;
    let next = loop {
        match upstream.next().await {
            crate::frames::Event::Headers { stream, .. } => break stream,
            _of_the_refused_upload => {}
        }
    };
    upstream.respond(next, "200", b"ok").await;
    assert_eq!(client.response().await.1, b"ok");
}

/// It says nothing of the endpoint, and the only endpoint is the one to ask again.
#[tokio::test]
async fn a_kept_connection_that_ends_under_a_get_is_no_failure() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H1, &[&endpoint]).await;
    let mut client = fleet.h1().await;
    client.get("/").await;
    let mut upstream = endpoint.h1().await;
    answer(&mut upstream, "one").await;
    client.response().await;
    client.get("/again").await;
    upstream.head().await;
    drop(upstream);
    assert_eq!(answer(&mut endpoint.h1().await, "two").await, "GET /again HTTP/1.1");
    assert_eq!(client.response().await.1, b"two");
}

/// A fresh connection that breaks may have run the request: only what may run twice does.
#[tokio::test]
async fn the_only_endpoint_is_asked_again_for_what_may_run_twice() {
    for protocol in [H1, H2c] {
        let endpoint = Endpoint::listen("a").await;
        let fleet = Fleet::serving(config(), protocol, &[&endpoint]).await;
        let mut client = fleet.h1().await;
        client.get("/").await;
        match protocol {
            H1 => {
                endpoint.h1().await.head().await;
                answer(&mut endpoint.h1().await, "two").await;
            }
            H2c => {
                endpoint.h2().await.expect_request().await;
                let mut upstream = endpoint.h2().await;
                let stream = upstream.expect_request().await.stream;
                upstream.respond(stream, "200", b"two").await;
            }
        }
        assert_eq!(client.response().await.1, b"two", "{protocol:?}");
        client.request("POST / HTTP/1.1\r\ncontent-length: 2\r\n", "hi").await;
        let status = async { client.head().await.status().to_owned() };
        let broken = async {
            match protocol {
                // The POST goes to the connection that was kept, which was dropped above.
                H1 => drop(endpoint.h1().await.head().await),
                H2c => drop(endpoint.h2().await.expect_request().await),
            }
        };
        assert_eq!(tokio::join!(status, broken).0, "502", "{protocol:?}");
    }
}

/// What an endpoint sends beyond its response is nobody's: the connection is not used again.
#[tokio::test]
async fn bytes_behind_a_response_are_not_the_next_one() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H1, &[&endpoint]).await;
    let mut client = fleet.h1().await;
    client.get("/").await;
    let mut first = endpoint.h1().await;
    first.head().await;
    let evil = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil";
    first.write(format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok{evil}")).await;
    assert_eq!(client.response().await.1, b"ok");
    client.get("/").await;
    answer(&mut endpoint.h1().await, "good").await;
    assert_eq!(client.response().await.1, b"good");
}
