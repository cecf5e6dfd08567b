//! H16: what is of one connection stays there, in heads, interim responses and trailers; and what a client writes in an odd way
//! does not reach an endpoint as something malformed.

use crate::fleet::{Endpoint, Fleet, H1, H2c, config};
use crate::frames::{Event, Peer};
use crate::hpack::field;

/// RFC 9113 section 8.2.2; Cowboy and Bandit reset a stream with any of these, and Cowboy (`max_reset_stream_rate`, 10 in 10 s)
/// then ends the connection with all its streams.
const MALFORMED: [&str; 7] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authorization",
    "proxy-authenticate",
    "transfer-encoding",
    "upgrade",
];

fn check(fields: &crate::hpack::Fields, is_trailers: bool, case: &str) {
    for (name, value) in fields {
        assert!(!MALFORMED.contains(&name.as_str()), "{name} of {case:?}");
        assert!(name != "te" || value == "trailers" && !is_trailers, "te: {value} of {case:?}");
        assert!(name != ":path" || value.starts_with('/') || value == "*", ":path {value} of {case:?}");
        assert!(name != "content-length" || value == "0" || !value.starts_with('0'), "length {value} of {case:?}");
    }
}

async fn arrives(fleet: &Fleet, endpoint: &Endpoint, send: impl AsyncFnOnce(&Fleet), case: &str) {
    send(fleet).await;
    let mut upstream = endpoint.h2().await;
    let (_, fields, mut end) = upstream.expect_headers().await;
    check(&fields, false, case);
    while !end {
        end = match upstream.next().await {
            Event::Data { end, .. } => end,
            Event::Headers { fields, end, .. } => {
                check(&fields, true, case);
                end
            }
            other => panic!("{other:?}"),
        };
    }
}

#[tokio::test]
async fn nothing_malformed_reaches_an_http2_endpoint() {
    const CHUNKED: &str = "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n";
    let mut faults = Vec::new();
    for (head, body) in [
        ("GET / HTTP/1.1\r\nte: trailers\r\nte: gzip\r\n", ""),
        ("GET / HTTP/1.1\r\nproxy-authorization: x\r\n", ""),
        ("GET / HTTP/1.1\r\nproxy-authenticate: x\r\n", ""),
        ("GET http://app.test?x=1 HTTP/1.1\r\n", ""),
        ("GET / HTTP/1.1\r\ncontent-length: 000\r\n", ""),
        (CHUNKED, "1\r\nx\r\n0\r\nkeep-alive: 5\r\n\r\n"),
        (CHUNKED, "1\r\nx\r\n0\r\nproxy-connection: x\r\n\r\n"),
        (CHUNKED, "1\r\nx\r\n0\r\nproxy-authorization: x\r\n\r\n"),
    ] {
        let endpoint = Endpoint::listen("a").await;
        let fleet = Fleet::serving(config(), H2c, &[&endpoint]).await;
        let case = async {
            let send = async |fleet: &Fleet| {
                let mut client = fleet.h1().await;
                client.request(head, body).await;
                std::mem::forget(client);
            };
            arrives(&fleet, &endpoint, send, head).await;
        };
        let caught = futures_util::FutureExt::catch_unwind(std::panic::AssertUnwindSafe(case)).await;
        faults.extend(caught.is_err().then_some((head, body)));
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

#[tokio::test]
async fn trailers_of_an_h2_client_are_none_of_a_request() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H2c, &[&endpoint]).await;
    let send = async |fleet: &Fleet| {
        let mut client = fleet.h2().await;
        let stream = client.request("POST", "/", &[], false).await;
        client.headers(stream, &[("te", "trailers")], true).await;
        std::mem::forget(client);
    };
    arrives(&fleet, &endpoint, send, "te in trailers").await;
}

/// Interim responses are passed on with what belongs to one connection.
#[tokio::test]
async fn interim_responses_leave_behind_what_is_of_one_connection() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H1, &[&endpoint]).await;
    let mut client = fleet.h2().await;
    let stream = client.get("/").await;
    let mut upstream = endpoint.h1().await;
    upstream.head().await;
    upstream
        .write(
            "HTTP/1.1 103 Early Hints\r\nconnection: keep-alive, x-inner\r\nkeep-alive: timeout=5\r\nx-inner: 1\r\n\
             link: </a>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        )
        .await;
    let (of, fields, end) = client.expect_headers().await;
    assert_eq!(
        (of, field(&fields, ":status"), field(&fields, "link"), end),
        (stream, Some("103"), Some("</a>"), false)
    );
    for gone in ["connection", "keep-alive", "x-inner"] {
        assert_eq!(field(&fields, gone), None, "{gone}");
    }
}

/// `curl -g` and the like send what browsers encode (RFC 3986 section 2.1).
#[tokio::test]
async fn targets_that_browsers_would_encode_are_encoded() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H2c, &[&endpoint]).await;
    let mut upstream = None;
    for (odd, encoded) in [
        ("/a?filter={\"a\":\"<b>\"}", "/a?filter={%22a%22:%22%3Cb%3E%22}"),
        ("/<a>`b`/%22?`", "/%3Ca%3E%60b%60/%22?%60"),
        ("/\"plain\"", "/\"plain\""),
    ] {
        for is_h2 in [false, true] {
            let (mut h1, mut h2) = (fleet.h1().await, fleet.h2().await);
            if is_h2 {
                h2.get(odd).await;
            } else {
                h1.get(odd).await;
            }
            let upstream = match &mut upstream {
                Some(upstream) => upstream,
                none => none.insert(endpoint.h2().await),
            };
            let request = upstream.expect_request().await;
            assert_eq!(field(&request.fields, ":path"), Some(encoded));
            upstream.respond(request.stream, "204", b"").await;
        }
    }
}

#[tokio::test]
async fn an_absolute_form_without_a_path_asks_for_the_root() {
    for protocol in [H1, H2c] {
        let endpoint = Endpoint::listen("a").await;
        let fleet = Fleet::serving(config(), protocol, &[&endpoint]).await;
        let mut client = fleet.h1().await;
        client.request("GET http://app.test?x=1 HTTP/1.1\r\n", "").await;
        match protocol {
            H1 => assert_eq!(endpoint.h1().await.head().await.start, "GET /?x=1 HTTP/1.1"),
            H2c => {
                let request = endpoint.h2().await.expect_request().await;
                assert_eq!(field(&request.fields, ":path"), Some("/?x=1"));
            }
        }
    }
}

#[tokio::test]
async fn no_content_has_no_length() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H1, &[&endpoint]).await;
    let mut client = fleet.h2().await;
    let stream = client.get("/").await;
    let mut upstream = endpoint.h1().await;
    upstream.head().await;
    upstream.write("HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\n").await;
    let response = client.response(stream).await;
    assert_eq!((response.status(), response.field("content-length")), ("204", None));
}

#[tokio::test]
async fn trailers_of_one_connection_stay_behind() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H2c, &[&endpoint]).await;
    let mut client = fleet.h1().await;
    let head = "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n";
    client
        .request(head, "1\r\nx\r\n0\r\nkeep-alive: 5\r\nproxy-connection: x\r\nproxy: evil\r\nx-sum: 1\r\n\r\n")
        .await;
    let mut upstream = endpoint.h2().await;
    upstream.expect_headers().await;
    upstream.expect_data().await;
    let (_, fields, _) = upstream.expect_headers().await;
    assert_eq!(fields, vec![("x-sum".to_owned(), "1".to_owned())]);
}

#[tokio::test]
async fn a_switch_has_no_length() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H1, &[&endpoint]).await;
    let mut client = fleet.h2().await;
    let _stream = client
        .request("CONNECT", "/socket", &[(":protocol", "websocket"), ("sec-websocket-version", "13")], false)
        .await;
    let mut upstream = endpoint.h1().await;
    let head = upstream.head().await;
    let accept = crate::h8_websockets::accept(&head);
    upstream
        .write(format!(
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\ncontent-length: 0\r\n\
             sec-websocket-accept: {accept}\r\n\r\n"
        ))
        .await;
    let (_, fields, _) = client.expect_headers().await;
    assert_eq!(field(&fields, "content-length"), None);
}

const UPGRADE: &str = "GET /socket HTTP/1.1\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
    sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n";

/// An upgrade with a body is none; at least it is answered.
#[tokio::test]
async fn an_upgrade_with_a_body_is_answered() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H1, &[&endpoint]).await;
    let mut client = fleet.h1().await;
    client.request(&format!("{UPGRADE}content-length: 5\r\n"), "hello").await;
    let answers = async {
        let mut upstream = endpoint.h1().await;
        if upstream.try_head().await.is_some() {
            upstream.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
            upstream.rest().await;
        }
        std::future::pending().await
    };
    let head = tokio::select! { head = client.try_head() => head, () = answers => None };
    assert!(head.is_some(), "an answer; aborts counted: {}", fleet.metric("tidelock_client_aborts_total"));
}

/// The same at an endpoint that takes WebSockets on streams: no length goes with a tunnel.
#[tokio::test]
async fn a_connect_has_no_length() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H2c, &[&endpoint]).await;
    let mut client = fleet.h1().await;
    client.request(&format!("{UPGRADE}content-length: 0\r\n"), "").await;
    let mut upstream = Peer::endpoint(endpoint.accept().await, &[(8, 1)]).await;
    let (_, fields, _) = upstream.expect_headers().await;
    assert_eq!((field(&fields, ":method"), field(&fields, "content-length")), (Some("CONNECT"), None));
}

/// OPTIONS about a server as a whole (RFC 9112 section 3.2.4).
#[tokio::test]
async fn options_without_a_path() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H1, &[&endpoint]).await;
    let mut client = fleet.h1().await;
    client.request("OPTIONS http://app.test HTTP/1.1\r\n", "").await;
    assert_eq!(endpoint.h1().await.head().await.start, "OPTIONS * HTTP/1.1");
}
