//! H11, H15, H18: what is too large, too many, malformed or for nobody is refused by the balancer
//! itself: exactly that request, and no other.

use tidelock_core::command::Command;

use crate::fleet::{Endpoint, Fleet, H1, H2c, config, name, route};
use crate::frames::{Event, Peer, REFUSED_STREAM};
use crate::hpack::field;

async fn fleet_and_endpoint() -> (Fleet, Endpoint) {
    let endpoint = Endpoint::listen("a").await;
    (Fleet::serving(config(), H2c, &[&endpoint]).await, endpoint)
}

/// A request that goes through, on a connection that had to bear something.
async fn goes_on(client: &mut Peer, endpoint: &Endpoint) {
    let stream = client.get("/fine").await;
    let mut upstream = endpoint.h2().await;
    let request = upstream.expect_request().await;
    upstream.respond(request.stream, "200", b"fine").await;
    assert_eq!(client.response(stream).await.whole(), ("200", &b"fine"[..]));
}

/// H13: a head whose bytes drip is cut in time; a connection that has not begun one waits on.
#[tokio::test]
async fn a_dripping_head_is_cut_and_an_idle_connection_is_not() {
    let mut config = config();
    config.timeouts.request_head = std::time::Duration::from_millis(200);
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config, H2c, &[&endpoint]).await;
    let mut client = fleet.h1().await;
    let mut idle = fleet.h1().await;
    for connection in [&mut client, &mut idle] {
        connection.get("/fine").await;
        let mut upstream = endpoint.h2().await;
        let request = upstream.expect_request().await;
        upstream.respond(request.stream, "200", b"fine").await;
        assert_eq!(connection.response().await.1, b"fine");
        drop(upstream);
    }
    client.write("GET / HTTP/1.1\r\nhost: app.test\r\n").await;
    let drips = async {
        loop {
            client.write("x: y\r\n").await;
            let more = tokio::time::timeout(std::time::Duration::from_millis(20), client.more()).await;
            if more.is_ok_and(|more| !more) {
                return;
            }
        }
    };
    tokio::time::timeout(crate::frames::PATIENCE, drips).await.expect("the slow head is cut");
    idle.get("/fine").await;
    let mut upstream = endpoint.h2().await;
    let request = upstream.expect_request().await;
    upstream.respond(request.stream, "200", b"fine").await;
    assert_eq!(idle.response().await.1, b"fine");
}

/// What an HTTP/1.1 client is answered to `head`, and whether the connection then closes.
async fn refused_h1(fleet: &Fleet, head: impl AsRef<[u8]>) -> String {
    let mut client = fleet.h1().await;
    client.write(head).await;
    let head = client.head().await;
    head.status().to_owned()
}

#[tokio::test]
async fn too_many_fields_are_431_and_the_connection_goes_on() {
    let (fleet, endpoint) = fleet_and_endpoint().await;
    let many: Vec<String> = (0..110).map(|i| format!("x-{i}")).collect();
    let fields: Vec<(&str, &str)> = many.iter().map(|name| (name.as_str(), "v")).collect();
    let mut client = fleet.h2().await;
    let stream = client.request("GET", "/", &fields, true).await;
    let response = client.response(stream).await;
    assert_eq!((response.whole().0, response.field("tidelock-reason")), ("431", Some("headers-too-large")));
    goes_on(&mut client, &endpoint).await;

    let fields: String = many.iter().map(|name| format!("{name}: v\r\n")).collect();
    assert_eq!(refused_h1(&fleet, format!("GET / HTTP/1.1\r\nhost: app.test\r\n{fields}\r\n")).await, "431");
    let fields: String = many[..100].iter().map(|name| format!("{name}: v\r\n")).collect();
    assert_eq!(
        refused_h1(&fleet, format!("GET / HTTP/1.1\r\nhost: app.test\r\n{fields}\r\n")).await,
        "431",
        "host is one"
    );
}

#[tokio::test]
async fn a_target_that_is_too_long_is_414() {
    let (fleet, endpoint) = fleet_and_endpoint().await;
    let long = format!("/{}", "x".repeat(9_000));
    let mut client = fleet.h2().await;
    let stream = client.get(&long).await;
    assert_eq!(client.response(stream).await.whole().0, "414");
    // Larger than all fields may be together.
    let stream = client.get(&format!("/{}", "x".repeat(20_000))).await;
    assert_eq!(client.response(stream).await.whole().0, "431");
    goes_on(&mut client, &endpoint).await;
    for length in [9_000, 20_000] {
        let head = format!("GET /{} HTTP/1.1\r\nhost: app.test\r\n\r\n", "x".repeat(length));
        assert_eq!(refused_h1(&fleet, head).await, "414", "{length}");
    }
}

#[tokio::test]
async fn large_fields_are_431_on_their_stream() {
    let (fleet, endpoint) = fleet_and_endpoint().await;
    let mut client = fleet.h2().await;
    let large = "x".repeat(20_000);
    let stream = client.request("GET", "/", &[("x-large", &large)], true).await;
    assert_eq!(client.response(stream).await.whole().0, "431");
    goes_on(&mut client, &endpoint).await;
}

#[tokio::test]
async fn a_megabyte_of_fields_hurts_nobody_else() {
    let (fleet, endpoint) = fleet_and_endpoint().await;
    let mut other = fleet.h2().await;
    let running = other.get("/running").await;
    let mut upstream = endpoint.h2().await;
    let at = upstream.expect_request().await.stream;
    let huge = "x".repeat(1 << 20);
    let mut client = fleet.h2().await;
    let stream = client.request("GET", "/", &[("x-huge", &huge)], true).await;
    loop {
        match client.next().await {
            Event::Headers { stream: of, fields, .. } => {
                break assert_eq!((of, field(&fields, ":status")), (stream, Some("431")));
            }
            Event::GoAway { .. } | Event::Reset { .. } => {}
            Event::Closed => break,
            other => panic!("{other:?}"),
        }
    }
    let mut client = fleet.h1().await;
    client.request(&format!("GET / HTTP/1.1\r\nx-huge: {huge}\r\n"), "").await;
    if let Some(head) = client.try_head().await {
        assert_eq!(head.status(), "431");
    }
    upstream.respond(at, "200", b"fine").await;
    assert_eq!(other.response(running).await.whole(), ("200", &b"fine"[..]));
    upstream.quiet().await;
}

#[tokio::test]
async fn connect_is_501() {
    let (fleet, endpoint) = fleet_and_endpoint().await;
    let mut client = fleet.h2().await;
    client.headers(1, &[(":method", "CONNECT"), (":authority", "app.test:443")], false).await;
    let response = client.response(1).await;
    assert_eq!((response.whole().0, response.field("tidelock-reason")), ("501", Some("no-connect")));
    let head = "CONNECT app.test:443 HTTP/1.1\r\nhost: app.test:443\r\n\r\n";
    assert_eq!(refused_h1(&fleet, head).await, "501");
    assert!(endpoint.nobody());
}

#[tokio::test]
async fn a_bad_host_is_400() {
    let (fleet, endpoint) = fleet_and_endpoint().await;
    for hosts in [
        "",
        "host:\r\n",
        "host: a.test\r\nhost: b.test\r\n",
        "host: a.test\r\nhost: a.test\r\n",
        "host: a.test,b.test\r\n",
        "host: user@a.test\r\n",
        "host: a.test/path\r\n",
        "host: a.test:x\r\n",
        "host: a.test:99999\r\n",
        "host: a.test:80:80\r\n",
        "host: a test\r\n",
        "host: http://a.test\r\n",
        "host: [::1\r\n",
        "host: [v1.x]\r\n",
        "host: a[b]c\r\n",
        "host: a:b\r\n",
        "host: a.test:\r\n",
    ] {
        assert_eq!(refused_h1(&fleet, format!("GET / HTTP/1.1\r\n{hosts}\r\n")).await, "400", "{hosts:?}");
    }
    let head = "GET http://user@app.test/ HTTP/1.1\r\nhost: app.test\r\n\r\n";
    assert_eq!(refused_h1(&fleet, head).await, "400", "userinfo in the target");
    for target in ["app.test", "app.test:80", "one", "*one"] {
        let head = format!("GET {target} HTTP/1.1\r\nhost: app.test\r\n\r\n");
        assert_eq!(refused_h1(&fleet, &head).await, "400", "{target}");
    }

    let mut client = fleet.h2().await;
    let get = [(":method", "GET"), (":scheme", "http"), (":path", "/")];
    for (i, more) in [
        &[][..],
        &[("host", "app.test")],
        &[(":authority", "app.test"), ("host", "other.test")],
        &[(":authority", "user@app.test")],
        &[(":authority", "app.test:99999")],
    ]
    .into_iter()
    .enumerate()
    {
        let stream = 2 * i as u32 + 1;
        client.headers(stream, &[&get[..], more].concat(), true).await;
        match client.next().await {
            Event::Headers { fields, .. } => {
                assert_eq!(field(&fields, ":status"), Some("400"), "{more:?}");
                client.expect_data().await;
            }
            Event::Reset { .. } => {}
            other => panic!("{more:?}: {other:?}"),
        }
    }
    assert!(endpoint.nobody());
    client.headers(101, &[&get[..], &[(":authority", "APP.test:80"), ("host", "app.TEST:80")]].concat(), true).await;
    let mut upstream = endpoint.h2().await;
    let request = upstream.expect_request().await;
    assert_eq!(field(&request.fields, ":authority"), Some("APP.test:80"), "as the client wrote it");
    assert_eq!(field(&request.fields, "host"), None);
}

#[tokio::test]
async fn unknown_hosts_and_paths_have_statuses_of_their_own() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::start(config());
    fleet.apply(Command::PutPool { name: name("app"), spec: Default::default() });
    fleet.add(&endpoint);
    let json = r#"{"pool":"app","host":"app.test","path_prefix":"/app"}"#;
    fleet.apply(Command::PutRoute { name: name("web"), spec: route(json) });
    fleet.adopted().await;
    let mut client = fleet.h2().await;
    let stream = client.get("/apple").await;
    let response = client.response(stream).await;
    assert_eq!((response.whole().0, response.field("tidelock-reason")), ("404", Some("no-route")));
    assert_eq!(refused_h1(&fleet, "GET /app HTTP/1.1\r\nhost: other.test\r\n\r\n").await, "421");
    let head = "GET http://other.test/app HTTP/1.1\r\nhost: app.test\r\n\r\n";
    assert_eq!(refused_h1(&fleet, head).await, "421", "the absolute form overrides Host");

    let mut client = fleet.h1().await;
    client.write("GET http://APP.test./app/x?q HTTP/1.1\r\nhost: other.test\r\n\r\n").await;
    let mut upstream = endpoint.h1().await;
    let head = upstream.head().await;
    assert_eq!((head.start.as_str(), head.field("host")), ("GET /app/x?q HTTP/1.1", Some("APP.test.")));
}

/// RFC 9110 section 9.3.2.
#[tokio::test]
async fn a_head_is_refused_without_a_body() {
    let fleet = Fleet::serving(config(), H2c, &[]).await;
    let mut client = fleet.h2().await;
    let stream = client.request("HEAD", "/", &[], true).await;
    let response = client.response(stream).await;
    assert_eq!(response.whole(), ("503", &b""[..]));
    let mut client = fleet.h1().await;
    for _ in 0..2 {
        client.request("HEAD / HTTP/1.1\r\n", "").await;
        assert_eq!(client.head().await.status(), "503");
    }
}

/// RFC 9112 section 6.1: nobody sends both by accident.
#[tokio::test]
async fn two_framings_are_400_and_the_end() {
    for protocol in [H2c, H1] {
        let endpoint = Endpoint::listen("a").await;
        let fleet = Fleet::serving(config(), protocol, &[&endpoint]).await;
        for framing in [
            "content-length: 5\r\ntransfer-encoding: chunked\r\n",
            "transfer-encoding: chunked\r\ncontent-length: 5\r\n",
            "Transfer-Encoding: chunked\r\nx-between: 1\r\nContent-Length: 0\r\n",
            "content-length: 5\r\ncontent-length: 6\r\n",
            "content-length: 5, 5\r\n",
            "content-length: +5\r\n",
            "content-length: 5x\r\n",
            "transfer-encoding: gzip\r\n",
            "transfer-encoding: chunked, gzip\r\n",
            "transfer-encoding: chunked, chunked\r\n",
            "transfer-encoding: gzip, chunked\r\n",
        ] {
            let mut client = fleet.h1().await;
            let smuggled = "GET /smuggled HTTP/1.1\r\nhost: app.test\r\n\r\n";
            client.request(&format!("POST / HTTP/1.1\r\n{framing}"), format!("0\r\n\r\n{smuggled}")).await;
            let head = client.head().await;
            assert_eq!(head.status(), "400", "{framing:?}");
            client.body(&head).await.unwrap();
            assert!(client.rest().await.is_empty(), "{framing:?}: closed, nothing smuggled");
            assert!(endpoint.nobody(), "{framing:?}");
        }
    }
}

/// A framing that was seen in one request is not held against the next.
#[tokio::test]
async fn framings_do_not_mix_on_a_kept_connection() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H1, &[&endpoint]).await;
    let mut client = fleet.h1().await;
    let chunked = "POST /1 HTTP/1.1\r\nhost: app.test\r\ntransfer-encoding: chunked\r\n\r\n\
        1c;x=y\r\n\r\ncontent-length: 5\r\n\r\n12345\r\n0\r\ncontent-length: 9\r\n\r\n";
    let sized = "POST /2 HTTP/1.1\r\nhost: app.test\r\ncontent-length: 32\r\n\r\n\r\n\r\ntransfer-encoding: chunked\r\n\r\n\
        POST /3 HTTP/1.1\r\nhost: app.test\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
    let all = format!("{chunked}{sized}");
    // In every cut into two writes that a buffer's edge could make, as one connection.
    for piece in all.as_bytes().chunks(7) {
        client.write(piece).await;
    }
    let mut upstream = endpoint.h1().await;
    for (path, length) in [("/1", 28), ("/2", 32), ("/3", 0)] {
        let head = upstream.head().await;
        assert_eq!(head.start, format!("POST {path} HTTP/1.1"));
        assert_eq!(upstream.body(&head).await.unwrap().len(), length, "{path}");
        upstream.write("HTTP/1.1 204 No Content\r\n\r\n").await;
        assert_eq!(client.head().await.status(), "204", "{path}");
    }
}

#[tokio::test]
async fn without_an_endpoint_it_is_503_and_when_to_come_back() {
    let fleet = Fleet::serving(config(), H2c, &[]).await;
    let mut client = fleet.h2().await;
    let stream = client.get("/").await;
    let response = client.response(stream).await;
    assert_eq!((response.whole().0, response.field("retry-after")), ("503", Some("1")));
    assert_eq!(response.field("tidelock-reason"), Some("no-endpoint"));

    let dead = Endpoint::listen("dead").await;
    fleet.add(&dead);
    fleet.adopted().await;
    drop(dead);
    let stream = client.request("POST", "/", &[], true).await;
    let response = client.response(stream).await;
    assert_eq!((response.whole().0, response.field("tidelock-reason")), ("503", Some("unreachable")));
}

#[tokio::test]
async fn a_forged_cookie_is_ignored() {
    let (fleet, endpoint) = fleet_and_endpoint().await;
    let mut client = fleet.h2().await;
    let first = client.get("/").await;
    let mut upstream = endpoint.h2().await;
    let request = upstream.expect_request().await;
    upstream.respond(request.stream, "200", b"").await;
    let sealed = client.response(first).await;
    let sealed = sealed.field("set-cookie").unwrap().split(';').next().unwrap().to_owned();
    let mut damaged = sealed.clone().into_bytes();
    let last = damaged.len() - 10;
    damaged[last] = if damaged[last] == b'A' { b'B' } else { b'A' };
    let damaged = String::from_utf8(damaged).unwrap();
    let long = format!("tidelock={}", "A".repeat(4_000));
    for cookie in ["tidelock=", "tidelock=a.b.c", "tidelock", &damaged, &long] {
        let stream = client.request("GET", "/", &[("cookie", cookie)], true).await;
        let request = upstream.expect_request().await;
        assert_eq!(field(&request.fields, "cookie"), Some(cookie), "it is the app's to see");
        upstream.respond(request.stream, "200", b"").await;
        let response = client.response(stream).await;
        assert_eq!((response.whole().0, response.field("tidelock-affinity")), ("200", Some("new")), "{cookie}");
        assert!(response.field("set-cookie").is_some());
    }
    let stream = client.request("GET", "/", &[("cookie", &damaged), ("cookie", &sealed)], true).await;
    let request = upstream.expect_request().await;
    upstream.respond(request.stream, "200", b"").await;
    let response = client.response(stream).await;
    assert_eq!(response.field("tidelock-affinity"), Some("kept"), "the good one beside it counts");
}

#[tokio::test]
async fn one_stream_too_many_is_refused_alone() {
    let mut config = config();
    config.limits.max_streams_per_connection = 5;
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config, H2c, &[&endpoint]).await;
    let mut client = fleet.h2().await;
    assert_eq!(client.max_streams, Some(5));
    let mut streams = Vec::new();
    for _ in 0..6 {
        streams.push(client.get("/").await);
    }
    assert_eq!(client.expect_reset(streams[5]).await, REFUSED_STREAM);
    let mut upstream = endpoint.h2().await;
    for _ in 0..5 {
        let request = upstream.expect_request().await;
        upstream.respond(request.stream, "200", b"fine").await;
    }
    for stream in &streams[..5] {
        assert_eq!(client.response(*stream).await.whole(), ("200", &b"fine"[..]));
    }
    let stream = client.get("/").await;
    let request = upstream.expect_request().await;
    upstream.respond(request.stream, "200", b"fine").await;
    client.response(stream).await.whole();
}

#[tokio::test]
async fn one_connection_too_many_is_closed_alone() {
    let mut config = config();
    config.limits.max_connections = 2;
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config, H2c, &[&endpoint]).await;
    let (mut one, _two) = (fleet.h2().await, fleet.h2().await);
    let mut three = fleet.h1().await;
    three.get("/").await;
    assert!(three.rest().await.is_empty());
    goes_on(&mut one, &endpoint).await;
}

/// Garbage from an endpoint is never passed on.
#[tokio::test]
async fn what_is_no_http_is_502() {
    for garbage in [
        "garbage\r\n\r\n",
        "HTTP/9.9 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nxxxx",
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxx",
    ] {
        let endpoint = Endpoint::listen("a").await;
        let fleet = Fleet::serving(config(), H1, &[&endpoint]).await;
        let mut client = fleet.h2().await;
        let stream = client.request("POST", "/", &[], true).await;
        let mut upstream = endpoint.h1().await;
        upstream.head().await;
        upstream.write(garbage).await;
        let response = client.response(stream).await;
        assert_eq!(response.whole().0, "502", "{garbage:?}");
        assert!(endpoint.nobody(), "not sent twice");
    }
}

/// An endpoint that states two lengths is taken by the chunks, and only they are told on.
#[tokio::test]
async fn an_endpoint_with_two_framings_smuggles_nothing() {
    for framing in
        ["content-length: 3\r\ntransfer-encoding: chunked", "transfer-encoding: chunked\r\ncontent-length: 3"]
    {
        let endpoint = Endpoint::listen("a").await;
        let fleet = Fleet::serving(config(), H1, &[&endpoint]).await;
        let mut client = fleet.h1().await;
        client.get("/").await;
        let mut upstream = endpoint.h1().await;
        upstream.head().await;
        upstream.write(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n5\r\nhello\r\n0\r\n\r\n")).await;
        let (head, body) = client.response().await;
        if head.status() != "502" {
            assert_eq!((head.field("content-length"), &body[..]), (None, &b"hello"[..]), "{framing:?}");
        }
    }
}
