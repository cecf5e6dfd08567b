//! H9, H10, H16: what passes, and what stays behind: trailers, bodiless responses, fields of one
//! connection.

use std::net::IpAddr;

use tidelock_balancer::ListenAddress;

use crate::fleet::{Endpoint, Fleet, H1, H2c, Speaks, config};
use crate::frames::Peer;
use crate::hpack::field;
use crate::http1::Http1;

#[tokio::test]
async fn trailers_pass_both_ways() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H2c, &[&endpoint]).await;
    let mut client = fleet.h2().await;
    let mut upstream = None;
    for length in [None, Some("11")] {
        let mut fields = vec![("te", "trailers"), ("trailer", "x-sum")];
        fields.extend(length.map(|length| ("content-length", length)));
        let stream = client.request("POST", "/", &fields, false).await;
        client.data(stream, b"some ", false).await;
        client.data(stream, b"bytes.", false).await;
        client.headers(stream, &[("x-sum", "42")], true).await;
        let upstream = match &mut upstream {
            Some(upstream) => upstream,
            none => none.insert(endpoint.h2().await),
        };
        trailers(upstream, &mut client, stream).await;
    }
}

async fn trailers(upstream: &mut Peer, client: &mut Peer, stream: u32) {
    let (at, fields, _) = upstream.expect_headers().await;
    assert_eq!((field(&fields, "te"), field(&fields, "trailer")), (Some("trailers"), Some("x-sum")));
    let mut body = Vec::new();
    while body.len() < 11 {
        let (_, bytes, end) = upstream.expect_data().await;
        assert!(!end);
        body.extend(bytes);
    }
    assert_eq!(body, b"some bytes.");
    assert_eq!(upstream.expect_headers().await, (at, vec![("x-sum".to_owned(), "42".to_owned())], true));
    upstream.headers(at, &[(":status", "200")], false).await;
    upstream.data(at, b"answer", false).await;
    upstream.headers(at, &[("grpc-status", "0"), ("grpc-message", "fine")], true).await;
    let response = client.response(stream).await;
    assert_eq!(response.whole(), ("200", &b"answer"[..]));
    let trailers = response.trailers.as_ref().unwrap();
    assert_eq!((field(trailers, "grpc-status"), field(trailers, "grpc-message")), (Some("0"), Some("fine")));
}

/// One kept connection on each side.
struct Pair {
    fleet: Fleet,
    endpoint: Endpoint,
    client: Side,
    upstream: Option<Side>,
    protocol: Speaks,
}

#[allow(clippy::large_enum_variant)]
enum Side {
    H1(Http1),
    H2(Peer),
}

impl Pair {
    async fn new(h1_client: bool, protocol: Speaks) -> Pair {
        let endpoint = Endpoint::listen("a").await;
        let fleet = Fleet::serving(config(), protocol, &[&endpoint]).await;
        let client = match h1_client {
            true => Side::H1(fleet.h1().await),
            false => Side::H2(fleet.h2().await),
        };
        Pair { fleet, endpoint, client, upstream: None, protocol }
    }

    /// One exchange; `body` is what the endpoint sends. Gives the status, the named length and the
    /// body that the client got.
    async fn exchange(
        &mut self,
        method: &str,
        status: &str,
        length: Option<&str>,
        body: &str,
    ) -> (String, String, String) {
        let mut sent = 0;
        match &mut self.client {
            Side::H1(client) => client.request(&format!("{method} / HTTP/1.1\r\n"), "").await,
            Side::H2(client) => sent = client.request(method, "/", &[], true).await,
        }
        let upstream = match &mut self.upstream {
            Some(upstream) => upstream,
            none => none.insert(match self.protocol {
                H1 => Side::H1(self.endpoint.h1().await),
                H2c => Side::H2(self.endpoint.h2().await),
            }),
        };
        match upstream {
            Side::H1(upstream) => {
                assert!(upstream.head().await.start.starts_with(method));
                let length = length.map(|length| format!("content-length: {length}\r\n")).unwrap_or_default();
                upstream.write(format!("HTTP/1.1 {status} X\r\n{length}\r\n{body}")).await;
            }
            Side::H2(upstream) => {
                let request = upstream.expect_request().await;
                assert_eq!(field(&request.fields, ":method"), Some(method));
                let mut fields = vec![(":status", status)];
                fields.extend(length.map(|length| ("content-length", length)));
                upstream.headers(request.stream, &fields, body.is_empty()).await;
                if !body.is_empty() {
                    upstream.data(request.stream, body.as_bytes(), true).await;
                }
            }
        }
        let own = |text: Option<&str>| text.unwrap_or("none").to_owned();
        match &mut self.client {
            Side::H1(client) => {
                let head = client.head().await;
                assert_eq!(head.field("transfer-encoding"), None);
                let bytes = match method == "HEAD" || ["204", "304"].contains(&status) {
                    true => Vec::new(),
                    false => client.body(&head).await.unwrap(),
                };
                (head.status().to_owned(), own(head.field("content-length")), String::from_utf8(bytes).unwrap())
            }
            Side::H2(client) => {
                let response = client.response(sent).await;
                let (status, bytes) = response.whole();
                let body = String::from_utf8(bytes.to_vec()).unwrap();
                (status.to_owned(), own(response.field("content-length")), body)
            }
        }
    }
}

/// The next response shows that none of them left a byte, or the lack of one, behind.
#[tokio::test]
async fn responses_without_a_body_keep_their_connections() {
    for h1_client in [true, false] {
        for protocol in [H1, H2c] {
            let case = format!("{protocol:?}, h1 client: {h1_client}");
            let mut pair = Pair::new(h1_client, protocol).await;
            let text = |a: &str, b: &str, c: &str| (a.to_owned(), b.to_owned(), c.to_owned());
            for _ in 0..2 {
                assert_eq!(pair.exchange("GET", "200", Some("4"), "fine").await, text("200", "4", "fine"), "{case}");
                assert_eq!(pair.exchange("HEAD", "200", Some("4"), "").await, text("200", "4", ""), "{case}");
                let (status, _, body) = pair.exchange("HEAD", "404", Some("0"), "").await;
                assert_eq!((&status[..], &body[..]), ("404", ""), "{case}");
                assert_eq!(pair.exchange("GET", "204", None, "").await, text("204", "none", ""), "{case}");
                let (status, _, body) = pair.exchange("GET", "304", Some("1234"), "").await;
                assert_eq!((&status[..], &body[..]), ("304", ""), "{case}");
                assert_eq!(pair.exchange("GET", "304", None, "").await.0, "304", "{case}");
                assert_eq!(pair.exchange("GET", "200", Some("0"), "").await, text("200", "0", ""), "{case}");
                assert_eq!(pair.exchange("POST", "201", Some("3"), "abc").await, text("201", "3", "abc"), "{case}");
            }
            assert!(pair.endpoint.nobody(), "{case}: one connection to the endpoint");
            assert_eq!(pair.fleet.metric("tidelock_client_aborts_total"), 0, "{case}: all were whole");
            assert_eq!(pair.fleet.metric("tidelock_responses_cut_total"), 0, "{case}");
        }
    }
}

/// The end of a body that comes as a frame of its own, behind all the bytes that were named.
#[tokio::test]
async fn an_end_that_comes_late_spoils_neither_side() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H2c, &[&endpoint]).await;
    let mut client = fleet.h1().await;
    client.get("/").await;
    let mut upstream = endpoint.h2().await;
    let at = upstream.expect_request().await.stream;
    upstream.headers(at, &[(":status", "200"), ("content-length", "4")], false).await;
    upstream.data(at, b"fine", false).await;
    let (_, body) = client.response().await;
    assert_eq!(body, b"fine");
    upstream.data(at, b"", true).await;
    client.get("/").await;
    let next = upstream.expect_request().await.stream;
    upstream.respond(next, "200", b"again").await;
    assert_eq!(client.response().await.1, b"again");
    upstream.quiet().await;
    assert_eq!(fleet.metric("tidelock_client_aborts_total"), 0);

    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H1, &[&endpoint]).await;
    let mut client = fleet.h2().await;
    let stream = client.request("POST", "/", &[("content-length", "5")], false).await;
    client.data(stream, b"hello", false).await;
    let mut upstream = endpoint.h1().await;
    let head = upstream.head().await;
    assert_eq!(upstream.body(&head).await.unwrap(), b"hello");
    client.data(stream, b"", true).await;
    client.ping().await;
    upstream.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    assert_eq!(client.response(stream).await.whole(), ("200", &b"ok"[..]));
    let stream = client.get("/again").await;
    assert_eq!(upstream.head().await.start, "GET /again HTTP/1.1", "the connection was kept");
    upstream.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    client.response(stream).await.whole();
    client.quiet().await;
}

#[tokio::test]
async fn fields_of_one_connection_stay_behind() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H1, &[&endpoint]).await;
    let mut client = fleet.h1().await;
    let head = "GET /p?q=1 HTTP/1.1\r\nconnection: keep-alive, x-secret\r\nx-secret: 1\r\nkeep-alive: 5\r\n\
        proxy-connection: keep-alive\r\nproxy: evil\r\nte: gzip\r\nupgrade: h2c\r\nx-forwarded-for: 1.2.3.4\r\n\
        cookie: a=1\r\nx-kept: yes\r\n";
    client.request(head, "").await;
    let mut upstream = endpoint.h1().await;
    let head = upstream.head().await;
    assert_eq!(head.start, "GET /p?q=1 HTTP/1.1");
    for gone in ["x-secret", "keep-alive", "proxy-connection", "proxy", "te", "upgrade", "connection"] {
        assert_eq!(head.field(gone), None, "{gone}");
    }
    for (name, value) in [("x-kept", "yes"), ("cookie", "a=1"), ("x-forwarded-for", "127.0.0.1"), ("host", "app.test")]
    {
        assert_eq!(head.field(name), Some(value), "{name}");
    }
    assert_eq!(head.field("x-request-id").map(str::len), Some(32));
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: x-inner\r\nx-inner: 1\r\nkeep-alive: 5\r\n\
        x-outer: 1\r\nproxy-connection: x\r\n\r\nok";
    upstream.write(answer).await;
    let (head, _) = client.response().await;
    assert_eq!((head.field("x-inner"), head.field("keep-alive"), head.field("x-outer")), (None, None, Some("1")));
    assert_eq!(head.field("proxy-connection"), None);
}

/// W3C trace context and a request's id are the client's, where it has them (H10).
#[tokio::test]
async fn a_clients_trace_and_id_pass() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H1, &[&endpoint]).await;
    let fields = [
        ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        ("tracestate", "vendor=1"),
        ("x-request-id", "mine"),
    ];
    let mut client = fleet.h2().await;
    client.request("GET", "/", &fields, true).await;
    let head = endpoint.h1().await.head().await;
    for (name, value) in fields {
        assert_eq!(head.field(name), Some(value), "{name}");
    }
}

/// A listener on `[::]` takes IPv4, too, whose addresses are told as such; an endpoint may have either.
#[tokio::test]
async fn both_families_of_addresses_are_served_and_asked() {
    let endpoint = Endpoint::bind("a", "[::1]:0".parse().unwrap()).await;
    let mut config = config();
    config.listeners[0].address = ListenAddress::Ip("[::]:0".parse().unwrap());
    let fleet = Fleet::serving(config, H1, &[&endpoint]).await;
    for address in ["127.0.0.1", "::1"] {
        let at = (address.parse::<IpAddr>().unwrap(), fleet.address().port());
        let mut client = Http1::connect(at.into()).await;
        client.get("/").await;
        let mut upstream = endpoint.h1().await;
        assert_eq!(upstream.head().await.field("x-forwarded-for"), Some(address));
        upstream.write("HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
        assert_eq!(client.response().await.0.status(), "200");
    }
}

#[tokio::test]
async fn cookie_crumbs_are_one_field_for_http1() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H1, &[&endpoint]).await;
    let mut client = fleet.h2().await;
    client.request("GET", "/", &[("cookie", "a=1"), ("cookie", "b=2")], true).await;
    let mut upstream = endpoint.h1().await;
    assert_eq!(upstream.head().await.field("cookie"), Some("a=1; b=2"));
}

/// The client waits for the 100; the endpoint is not asked twice.
#[tokio::test]
async fn expect_is_answered_here() {
    for protocol in [H1, H2c] {
        let endpoint = Endpoint::listen("a").await;
        let fleet = Fleet::serving(config(), protocol, &[&endpoint]).await;
        let mut client = fleet.h1().await;
        client.request("POST / HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 5\r\n", "").await;
        assert_eq!(client.head().await.status(), "100");
        client.write("hello").await;
        match protocol {
            H1 => {
                let mut upstream = endpoint.h1().await;
                let head = upstream.head().await;
                assert_eq!((head.field("expect"), upstream.body(&head).await.unwrap()), (None, b"hello".to_vec()));
                upstream.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
            }
            H2c => {
                let mut upstream = endpoint.h2().await;
                let request = upstream.expect_request().await;
                assert_eq!((field(&request.fields, "expect"), request.body), (None, b"hello".to_vec()));
                upstream.respond(request.stream, "200", b"ok").await;
            }
        }
        assert_eq!(client.response().await.1, b"ok");
    }
}

/// RFC 9110 section 6.6.1: every response has a date, the endpoint's if it gave one.
#[tokio::test]
async fn every_response_has_a_date() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H1, &[&endpoint]).await;
    let mut client = fleet.h1().await;
    let mut upstream = None;
    for (given, kept) in
        [("", None), ("date: Mon, 01 Jan 2001 00:00:00 GMT\r\n", Some("Mon, 01 Jan 2001 00:00:00 GMT"))]
    {
        client.get("/").await;
        let upstream = match &mut upstream {
            Some(upstream) => upstream,
            none => none.insert(endpoint.h1().await),
        };
        upstream.head().await;
        upstream.write(format!("HTTP/1.1 200 OK\r\n{given}content-length: 0\r\n\r\n")).await;
        let (head, _) = client.response().await;
        let date = head.field("date").expect("a date");
        assert!(kept.is_none_or(|kept| kept == date) && date.ends_with(" GMT"), "{date}");
    }
    client.write("GET / HTTP/1.1\r\n\r\n").await;
    let (head, _) = client.response().await;
    assert_eq!(head.status(), "400");
    assert!(head.field("date").is_some_and(|date| date.ends_with(" GMT")));
}
