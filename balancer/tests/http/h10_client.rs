//! H10: who the client is: by the socket, by the PROXY protocol, or by a proxy that is trusted.

use std::time::Duration;

use tidelock_balancer::{Balancer, Config, ListenAddress, ListenerConfig};

use crate::fleet::{Endpoint, Fleet, H1, H2c, config};
use crate::frames::Peer;
use crate::hpack::field;
use crate::http1::Http1;

fn with_proxy_protocol() -> Config {
    let mut config = config();
    config.listeners[0].proxy_protocol = true;
    config.timeouts.handshake = Duration::from_millis(200);
    config
}

/// What the endpoint is told the client's address is.
async fn told(endpoint: &Endpoint) -> String {
    let mut upstream = endpoint.h1().await;
    let head = upstream.head().await;
    upstream.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok").await;
    head.field("x-forwarded-for").unwrap().to_owned()
}

const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0f\xc0\x00\x02\x09\x0a\x00\x00\x01\xdc\x04\x01\xbb\x04\x00\x00";

#[tokio::test]
async fn the_proxy_protocol_names_the_client() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(with_proxy_protocol(), H1, &[&endpoint]).await;
    for (preamble, expected) in [
        (&b"PROXY TCP4 192.0.2.7 10.0.0.1 56324 443\r\n"[..], "192.0.2.7"),
        (b"PROXY TCP6 2001:db8::7 ::1 56324 443\r\n", "2001:db8::7"),
        (b"PROXY UNKNOWN\r\n", "127.0.0.1"),
        (V2, "192.0.2.9"),
        (b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00", "127.0.0.1"),
    ] {
        let mut client = fleet.h1().await;
        // Cut in the middle, and with the request in the same bytes.
        client.write(&preamble[..7]).await;
        client.write([&preamble[7..], b"GET / HTTP/1.1\r\nhost: app.test\r\n\r\n"].concat()).await;
        assert_eq!(told(&endpoint).await, expected);
        assert_eq!(client.response().await.1, b"ok");
    }
}

#[tokio::test]
async fn http2_may_follow_the_proxy_protocol() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(with_proxy_protocol(), H1, &[&endpoint]).await;
    let mut client = fleet.h1().await;
    client.write(V2).await;
    let mut client = Peer::client(client.io).await;
    let stream = client.get("/").await;
    assert_eq!(told(&endpoint).await, "192.0.2.9");
    let response = client.response(stream).await;
    assert_eq!(response.whole(), ("200", &b"ok"[..]));
    assert!(field(&response.fields, "set-cookie").is_some());
}

/// Whoever may leave it out may also make it up.
#[tokio::test]
async fn a_connection_without_the_preamble_is_closed() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(with_proxy_protocol(), H1, &[&endpoint]).await;
    let long = format!("PROXY TCP4 {}\r\n", " ".repeat(200));
    for bad in [
        &b"GET / HTTP/1.1\r\nhost: app.test\r\n\r\n"[..],
        b"PROXY TCP4 192.0.2.7\r\nGET / HTTP/1.1\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x31\x11\x00\x0c\xc0\x00\x02\x09\x0a\x00\x00\x01\xdc\x04\x01\xbb",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff\xc0\x00\x02\x09\x0a\x00\x00\x01\xdc\x04\x01\xbb",
        long.as_bytes(),
        // And one that never ends: the handshake's time limit.
        b"PROXY TCP4 192.0.2.7",
    ] {
        let mut client = fleet.h1().await;
        client.write(bad).await;
        assert!(client.rest().await.is_empty(), "{:?}", bad.escape_ascii().to_string());
    }
}

/// HAProxy and nginx send `host` and no `:authority` over HTTP/2: it is what they have translated, and taken where they are trusted.
#[tokio::test]
async fn a_host_without_authority_is_believed_of_trusted_proxies() {
    for (trusted, expected) in [("127.0.0.0/8", "200"), ("10.0.0.0/8", "400")] {
        let endpoint = Endpoint::listen("a").await;
        let config = Config { trusted: vec![trusted.parse().unwrap()], ..config() };
        let fleet = Fleet::serving(config, H2c, &[&endpoint]).await;
        let mut proxy = fleet.h2().await;
        let stream = proxy.take_stream();
        let fields = [(":method", "GET"), (":scheme", "http"), (":path", "/"), ("host", "app.test")];
        proxy.headers(stream, &fields, true).await;
        if expected == "200" {
            let mut upstream = endpoint.h2().await;
            let request = upstream.expect_request().await;
            assert_eq!(field(&request.fields, ":authority"), Some("app.test"));
            assert_eq!(field(&request.fields, "host"), None);
            upstream.respond(request.stream, "200", b"").await;
        }
        assert_eq!(proxy.response(stream).await.status(), expected);
    }
}

#[tokio::test]
async fn only_trusted_proxies_speak_for_others() {
    for (trusted, expected) in [(vec!["127.0.0.0/8"], "198.51.100.1, 127.0.0.1"), (vec!["10.0.0.0/8"], "127.0.0.1")] {
        let endpoint = Endpoint::listen("a").await;
        let config = Config { trusted: trusted.iter().map(|range| range.parse().unwrap()).collect(), ..config() };
        let fleet = Fleet::serving(config, H1, &[&endpoint]).await;
        let mut client: Http1 = fleet.h1().await;
        client.request("GET / HTTP/1.1\r\nx-forwarded-for: 198.51.100.1\r\n", "").await;
        assert_eq!(told(&endpoint).await, expected);
        assert_eq!(client.response().await.1, b"ok");
    }
}

/// RFC 9110 section 7.6.2, and the server as a whole (RFC 9112 section 3.2.4).
#[tokio::test]
async fn options_and_trace_go_as_far_as_they_say() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H1, &[&endpoint]).await;
    let mut client = fleet.h1().await;
    for method in ["TRACE", "OPTIONS"] {
        client.request(&format!("{method} / HTTP/1.1\r\nmax-forwards: 0\r\n"), "").await;
        let (head, _) = client.response().await;
        assert_eq!(
            (head.status(), head.field("tidelock-reason"), head.field("allow")),
            ("405", Some("last-hop"), Some(""))
        );
    }
    client.request("OPTIONS * HTTP/1.1\r\nmax-forwards: 7\r\n", "").await;
    let mut upstream = endpoint.h1().await;
    let head = upstream.head().await;
    assert_eq!((&head.start[..], head.field("max-forwards")), ("OPTIONS * HTTP/1.1", Some("6")));
    upstream.write("HTTP/1.1 204 No Content\r\n\r\n").await;
    assert_eq!(client.head().await.status(), "204");
    client.request("GET * HTTP/1.1\r\n", "").await;
    assert_eq!(client.response().await.0.status(), "400");
}

/// A socket in the file system serves like any other; what a dead process left is replaced, what a
/// living one holds is not.
#[tokio::test]
async fn a_socket_in_the_file_system_is_listened_on() {
    let folder = crate::tls::Files::new();
    let path = folder.path("tidelock.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let listener = ListenerConfig { address: ListenAddress::Unix(path.clone()), tls: None, proxy_protocol: false };
    let config = Config { workers: 2, listeners: vec![listener], ..config() };
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config.clone(), H1, &[&endpoint]).await;
    let mut upstream = None;
    for _ in 0..4 {
        let mut client = Http1::over(tokio::net::UnixStream::connect(&path).await.unwrap());
        client.get("/").await;
        let mut from = endpoint.h1().await;
        assert_eq!(from.head().await.field("x-forwarded-for"), Some("127.0.0.1"));
        from.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok").await;
        assert_eq!(client.response().await.1, b"ok");
        upstream = Some(from);
    }
    drop(upstream);
    let (_tables, seen) = tokio::sync::watch::channel(std::sync::Arc::new(tidelock_core::table::Table::empty()));
    let Err(taken) = Balancer::start(config, seen) else { panic!("two on one socket") };
    assert_eq!(taken.to_string(), format!("cannot listen on unix:{}", path.display()));
    assert_eq!(std::error::Error::source(&taken).unwrap().to_string(), "Address already in use (os error 98)");
    drop(fleet);
}
