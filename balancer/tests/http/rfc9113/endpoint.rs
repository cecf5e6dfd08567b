//! RFC 9113 against endpoints that break it: what is no response is 502 or a cut, never passed on as a whole, and never
//! asked for again where it may have been done.

use super::{COMPRESSION_ERROR, FLOW_CONTROL_ERROR, FRAME_SIZE_ERROR};
use crate::fleet::{Endpoint, Fleet, H2c, config};
use crate::frames::{Ended, Event, INTERNAL_ERROR, PROTOCOL_ERROR, Peer, data, frame, headers};

/// A request that an endpoint has as its first, on stream 1: what both hang on, the client and its stream, the endpoint's side.
async fn asked(method: &str) -> ((Endpoint, Fleet), Peer, u32, Peer) {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H2c, &[&endpoint]).await;
    let mut client = fleet.h2().await;
    let stream = client.request(method, "/", &[], true).await;
    let mut upstream = endpoint.h2().await;
    assert_eq!(upstream.expect_request().await.stream, 1);
    ((endpoint, fleet), client, stream, upstream)
}

/// Costs its request alone: the connection serves the next.
#[tokio::test]
async fn a_response_that_is_none_is_502() {
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("no status", headers(1, &[("x", "1")], true)),
        ("a status that is none", headers(1, &[(":status", "20")], true)),
        ("a request's field", headers(1, &[(":status", "200"), (":path", "/")], true)),
        ("a status behind a field", headers(1, &[("x", "1"), (":status", "200")], true)),
        ("two statuses", headers(1, &[(":status", "200"), (":status", "204")], true)),
        ("a name in upper case", headers(1, &[(":status", "200"), ("X", "1")], true)),
        ("a value with a line feed", headers(1, &[(":status", "200"), ("x", "a\nb")], true)),
        ("a field of a connection's", headers(1, &[(":status", "200"), ("connection", "close")], true)),
        ("a change of protocol", headers(1, &[(":status", "101")], false)),
        ("an interim response as the end", headers(1, &[(":status", "103")], true)),
        ("DATA before the head", data(1, b"x", true)),
        ("two lengths", headers(1, &[(":status", "200"), ("content-length", "1"), ("content-length", "2")], false)),
        ("a length with a sign", headers(1, &[(":status", "200"), ("content-length", "+1")], false)),
        ("a length that is none", headers(1, &[(":status", "200"), ("content-length", "x")], false)),
        ("nothing of its length", headers(1, &[(":status", "200"), ("content-length", "5")], true)),
        ("a head of a megabyte", {
            let long = "y".repeat(60_000);
            headers(1, &[(":status", "200"), ("a", &long), ("b", &long), ("c", &long)], true)
        }),
    ];
    for (what, bytes) in cases {
        let (_held, mut client, stream, mut upstream) = asked("POST").await;
        upstream.raw(&bytes).await;
        assert_eq!(client.response(stream).await.whole().0, "502", "{what}");
        assert_eq!(upstream.expect_reset(1).await, PROTOCOL_ERROR, "{what}");
        let stream = client.get("/").await;
        let request = upstream.expect_request().await;
        assert_eq!(request.stream, 3, "{what}: not sent twice");
        upstream.respond(3, "200", b"fine").await;
        assert_eq!(client.response(stream).await.whole(), ("200", &b"fine"[..]), "{what}");
    }
}

/// A body that its own length or form contradicts never looks whole.
#[tokio::test]
async fn a_body_that_is_none_is_cut() {
    let head = |length: &str| headers(1, &[(":status", "200"), ("content-length", length)], false);
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("too short", [head("5"), data(1, b"four", true)].concat()),
        ("too long", [head("3"), data(1, b"four", false)].concat()),
        ("too long at its end", [head("3"), data(1, b"abc", false), data(1, b"d", true)].concat()),
        ("trailers before its length", [head("5"), data(1, b"four", false), headers(1, &[("x", "1")], true)].concat()),
        ("a second head", [head("9"), data(1, b"four", false), headers(1, &[(":status", "200")], false)].concat()),
        (
            "trailers with a status",
            [head("4"), data(1, b"four", false), headers(1, &[(":status", "200")], true)].concat(),
        ),
    ];
    for (what, bytes) in cases {
        let (_held, mut client, stream, mut upstream) = asked("GET").await;
        upstream.raw(&bytes).await;
        let response = client.response(stream).await;
        assert_eq!((response.status(), response.ended()), ("200", Ended::Reset(INTERNAL_ERROR)), "{what}");
        assert_eq!(upstream.expect_reset(1).await, PROTOCOL_ERROR, "{what}");
    }
}

/// What has no body has none, whatever length it would have had (RFC 9110 section 8.6).
#[tokio::test]
async fn lengths_of_bodies_that_do_not_come_are_fine() {
    // 204 has none: to nghttp2 it would be a malformed response.
    for (method, status, length) in [("HEAD", "200", Some("5")), ("GET", "304", Some("5")), ("GET", "204", None)] {
        let (_held, mut client, stream, mut upstream) = asked(method).await;
        upstream.headers(1, &[(":status", status), ("content-length", "5")], true).await;
        let response = client.response(stream).await;
        assert_eq!((response.whole(), response.field("content-length")), ((status, &b""[..]), length), "{method}");
    }
}

/// What has no body, and sends one.
#[tokio::test]
async fn bodies_that_may_not_come_are_cut() {
    for (method, status) in [("HEAD", "200"), ("GET", "304"), ("GET", "204")] {
        let (_held, mut client, stream, mut upstream) = asked(method).await;
        upstream.raw(&[headers(1, &[(":status", status)], false), data(1, b"body", true)].concat()).await;
        let response = client.response(stream).await;
        assert!(response.body.is_empty(), "{method}");
        assert_ne!(response.ended(), Ended::Whole, "{method}");
    }
}

/// A GOAWAY ends an idle connection, and what it has refused is no fault when it comes all the same.
#[tokio::test]
async fn a_goaway_is_the_end_of_what_it_says() {
    let (a, b) = (Endpoint::listen("a").await, Endpoint::listen("b").await);
    let fleet = Fleet::serving(config(), H2c, &[&a]).await;
    let mut client = fleet.h2().await;
    let (first, second) = (client.get("/1").await, client.get("/2").await);
    let mut upstream = a.h2().await;
    let (one, two) = (upstream.expect_request().await.stream, upstream.expect_request().await.stream);
    fleet.add(&b);
    fleet.adopted().await;
    upstream.go_away(one, 0).await;
    let mut fresh = a.h2().await;
    let at = fresh.expect_request().await.stream;
    fresh.respond(at, "200", b"two").await;
    assert_eq!(client.response(second).await.whole(), ("200", &b"two"[..]));
    upstream.respond(two, "200", b"too late").await;
    upstream.respond(one, "200", b"one").await;
    assert_eq!(client.response(first).await.whole(), ("200", &b"one"[..]));

    fresh.go_away(at, 0).await;
    assert_eq!(fresh.next().await, Event::GoAway { last: 0, code: 0 });
    assert_eq!(fresh.next().await, Event::Closed);
}

/// What ends the connection says why; the request that ran there is answered, and the next one has another connection.
#[tokio::test]
async fn what_breaks_a_connection() {
    let settings = |id: u16, value: u32| frame(4, 0, 0, &[&id.to_be_bytes()[..], &value.to_be_bytes()].concat());
    let cases: Vec<(&str, u32, Vec<u8>)> = vec![
        ("a push", PROTOCOL_ERROR, frame(5, 4, 1, &[0, 0, 0, 2, 0x88])),
        ("a stream of its own", PROTOCOL_ERROR, headers(2, &[(":status", "200")], true)),
        ("a stream that nobody has opened", PROTOCOL_ERROR, headers(9, &[(":status", "200")], true)),
        ("ENABLE_PUSH", PROTOCOL_ERROR, settings(2, 1)),
        ("a window of 2^31", FLOW_CONTROL_ERROR, settings(4, 1 << 31)),
        ("a frame beyond what was offered", FRAME_SIZE_ERROR, data(1, &[0; 65_537], false)),
        ("no header block", COMPRESSION_ERROR, frame(1, 4, 1, &[0x80])),
    ];
    for (what, code, bytes) in cases {
        // A GET may be asked again, but not where its own response has broken the connection.
        let is_own = bytes[5..9] == [0, 0, 0, 1];
        let ((endpoint, _fleet), mut client, stream, mut upstream) = asked(if is_own { "GET" } else { "POST" }).await;
        upstream.raw(&bytes).await;
        assert_eq!(client.response(stream).await.whole().0, "502", "{what}");
        assert!(matches!(upstream.next().await, Event::GoAway { code: said, .. } if said == code), "{what}");
        let stream = client.get("/").await;
        let mut fresh = endpoint.h2().await;
        let request = fresh.expect_request().await;
        fresh.respond(request.stream, "200", b"fine").await;
        assert_eq!(client.response(stream).await.whole(), ("200", &b"fine"[..]), "{what}");
    }
}

/// An endpoint that takes one stream at a time gets one at a time; one that says so late, too.
#[tokio::test]
async fn the_endpoints_limit_of_streams_is_kept() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H2c, &[&endpoint]).await;
    let mut client = fleet.h2().await;
    let first = client.get("/1").await;
    let mut upstream = endpoint.h2().await;
    let at = upstream.expect_request().await.stream;
    // SETTINGS_MAX_CONCURRENT_STREAMS 1.
    upstream.frame(4, 0, 0, &[0, 3, 0, 0, 0, 1]).await;
    upstream.ping().await;
    let second = client.get("/2").await;
    let mut other = endpoint.h2().await;
    let theirs = other.expect_request().await.stream;
    upstream.quiet().await;
    upstream.respond(at, "200", b"one").await;
    other.respond(theirs, "200", b"two").await;
    assert_eq!(client.response(first).await.whole(), ("200", &b"one"[..]));
    assert_eq!(client.response(second).await.whole(), ("200", &b"two"[..]));
}
