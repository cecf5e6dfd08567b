//! H17: interim responses pass, in order and before the response; those who know none get none.

use crate::fleet::{Endpoint, Fleet, H1, H2c, config};
use crate::hpack::field;

/// The endpoint's side of one exchange: two hints, a 100 that nobody asked for, and the response.
async fn hint(endpoint: &Endpoint, protocol: crate::fleet::Speaks) {
    match protocol {
        H1 => {
            let mut upstream = endpoint.h1().await;
            upstream.head().await;
            upstream.write("HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n").await;
            upstream.write("HTTP/1.1 103 Early Hints\r\nlink: </b>\r\n\r\n").await;
            upstream.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
        }
        H2c => {
            let mut upstream = endpoint.h2().await;
            let stream = upstream.expect_request().await.stream;
            upstream.headers(stream, &[(":status", "103"), ("link", "</a>")], false).await;
            upstream.headers(stream, &[(":status", "100")], false).await;
            upstream.headers(stream, &[(":status", "103"), ("link", "</b>")], false).await;
            upstream.respond(stream, "200", b"ok").await;
        }
    }
}

#[tokio::test]
async fn hints_come_before_the_response() {
    for protocol in [H1, H2c] {
        let endpoint = Endpoint::listen("a").await;
        let fleet = Fleet::serving(config(), protocol, &[&endpoint]).await;

        let mut client = fleet.h1().await;
        client.get("/").await;
        hint(&endpoint, protocol).await;
        for link in ["</a>", "</b>"] {
            let head = client.head().await;
            assert_eq!((head.status(), head.field("link")), ("103", Some(link)), "{protocol:?}");
            assert_eq!((head.field("content-length"), head.field("transfer-encoding")), (None, None));
        }
        assert_eq!(client.response().await.1, b"ok");

        let endpoint = Endpoint::listen("b").await;
        let fleet = Fleet::serving(config(), protocol, &[&endpoint]).await;
        let mut client = fleet.h2().await;
        let stream = client.get("/").await;
        hint(&endpoint, protocol).await;
        for link in ["</a>", "</b>"] {
            let (of, fields, end) = client.expect_headers().await;
            assert_eq!(
                (of, field(&fields, ":status"), field(&fields, "link"), end),
                (stream, Some("103"), Some(link), false)
            );
        }
        assert_eq!(client.response(stream).await.whole(), ("200", &b"ok"[..]), "{protocol:?}");
    }
}

#[tokio::test]
async fn http_1_0_clients_get_none() {
    for protocol in [H1, H2c] {
        let endpoint = Endpoint::listen("a").await;
        let fleet = Fleet::serving(config(), protocol, &[&endpoint]).await;
        let mut client = fleet.h1().await;
        client.request("GET / HTTP/1.0\r\n", "").await;
        hint(&endpoint, protocol).await;
        assert_eq!(client.head().await.status(), "200");
        assert_eq!(client.rest().await, b"ok");
    }
}

/// Memory is not the endpoint's to fill.
#[tokio::test]
async fn a_flood_of_hints_is_no_flood_at_the_client() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H1, &[&endpoint]).await;
    let mut client = fleet.h1().await;
    client.get("/").await;
    let mut upstream = endpoint.h1().await;
    upstream.head().await;
    let flood = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n".repeat(100);
    upstream.write(format!("{flood}HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")).await;
    let mut hints = 0;
    while client.head().await.status() == "103" {
        hints += 1;
    }
    assert!((1..100).contains(&hints), "{hints}");
    assert_eq!(client.exact(2).await.unwrap(), b"ok");
}

/// An endpoint that sends nothing else is no endpoint, and keeps nobody waiting.
#[tokio::test]
async fn interim_responses_without_end_are_no_response() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H1, &[&endpoint]).await;
    for (count, status) in [(1_000, "200"), (1_100, "502")] {
        let mut client = fleet.h1().await;
        client.get("/").await;
        let mut upstream = endpoint.h1().await;
        upstream.head().await;
        upstream.write("HTTP/1.1 100 Continue\r\n\r\n".repeat(count)).await;
        upstream.write("HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
        assert_eq!(client.head().await.status(), status, "{count}");
    }
}
