//! What a stream must do, and what may still come of it.

use super::*;

/// Each costs its stream, and the connection goes on.
#[tokio::test]
async fn what_breaks_a_stream() {
    let with = |fields: &[(&str, &str)], end: bool| headers(1, &[&GET[..], fields].concat(), end);
    let only = |fields: &[(&str, &str)]| headers(1, fields, true);
    let cases: Vec<(&str, u32, Vec<u8>)> = vec![
        ("5.1: DATA behind the end", STREAM_CLOSED, of(&[get(1), data(1, b"x", true)])),
        ("5.1: HEADERS behind the end", STREAM_CLOSED, of(&[get(1), get(1)])),
        (
            "5.1: DATA behind the client's reset",
            STREAM_CLOSED,
            of(&[post(1), word(RST_STREAM, 1, 8), data(1, b"x", true)]),
        ),
        ("5.3.1: a stream that depends on itself", PROTOCOL_ERROR, {
            let payload = [&[0, 0, 0, 1, 0][..], &hpack::encode(&GET)].concat();
            frame(HEADERS, END_HEADERS | END_STREAM | PRIORITISED, 1, &payload)
        }),
        ("6.9: a window that grows by nothing", PROTOCOL_ERROR, of(&[post(1), word(WINDOW_UPDATE, 1, 0)])),
        ("6.9.1: a window beyond 2^31-1", FLOW_CONTROL_ERROR, of(&[post(1), word(WINDOW_UPDATE, 1, 0x7fff_ffff)])),
        ("8.1: a second head", PROTOCOL_ERROR, of(&[post(1), headers(1, &GET, false)])),
        ("8.1: trailers with a pseudo-header", PROTOCOL_ERROR, of(&[post(1), headers(1, &[(":path", "/")], true)])),
        (
            "8.1.1: less than content-length",
            PROTOCOL_ERROR,
            of(&[with(&[("content-length", "5")], false), data(1, b"four", true)]),
        ),
        (
            "8.1.1: more than content-length",
            PROTOCOL_ERROR,
            of(&[with(&[("content-length", "3")], false), data(1, b"four", false)]),
        ),
        ("8.1.1: nothing of content-length", PROTOCOL_ERROR, with(&[("content-length", "5")], true)),
        (
            "8.1.1: trailers instead of content-length",
            PROTOCOL_ERROR,
            of(&[with(&[("content-length", "5")], false), headers(1, &[("a", "b")], true)]),
        ),
        ("8.2.1: a name in upper case", PROTOCOL_ERROR, with(&[("X-Upper", "1")], true)),
        ("8.2.1: a name with a space", PROTOCOL_ERROR, with(&[("x y", "1")], true)),
        ("8.2.1: a name with a colon", PROTOCOL_ERROR, with(&[("x:y", "1")], true)),
        ("8.2.1: no name", PROTOCOL_ERROR, with(&[("", "1")], true)),
        ("8.2.1: a value with a line feed", PROTOCOL_ERROR, with(&[("x", "1\nhost: evil")], true)),
        ("8.2.1: a value with a return", PROTOCOL_ERROR, with(&[("x", "1\r")], true)),
        ("8.2.1: a value with a zero", PROTOCOL_ERROR, with(&[("x", "1\0")], true)),
        ("8.2.1: a value that begins with a blank", PROTOCOL_ERROR, with(&[("x", " 1")], true)),
        ("8.2.1: a value that ends with a tab", PROTOCOL_ERROR, with(&[("x", "1\t")], true)),
        ("8.2.2: connection", PROTOCOL_ERROR, with(&[("connection", "close")], true)),
        ("8.2.2: keep-alive", PROTOCOL_ERROR, with(&[("keep-alive", "1")], true)),
        ("8.2.2: proxy-connection", PROTOCOL_ERROR, with(&[("proxy-connection", "close")], true)),
        ("8.2.2: transfer-encoding", PROTOCOL_ERROR, with(&[("transfer-encoding", "chunked")], true)),
        ("8.2.2: upgrade", PROTOCOL_ERROR, with(&[("upgrade", "h2c")], true)),
        ("8.2.2: te", PROTOCOL_ERROR, with(&[("te", "gzip")], true)),
        ("8.3: a pseudo-header that is unknown", PROTOCOL_ERROR, with(&[(":own", "1")], true)),
        ("8.3: a response's", PROTOCOL_ERROR, with(&[(":status", "200")], true)),
        ("8.3: behind a field", PROTOCOL_ERROR, only(&[GET[0], GET[1], GET[2], ("x", "1"), GET[3]])),
        ("8.3: twice", PROTOCOL_ERROR, with(&[(":method", "GET")], true)),
        ("8.3.1: no method", PROTOCOL_ERROR, only(&GET[1..])),
        ("8.3.1: no scheme", PROTOCOL_ERROR, only(&[GET[0], GET[2], GET[3]])),
        ("8.3.1: no path", PROTOCOL_ERROR, only(&[GET[0], GET[1], GET[3]])),
        ("8.3.1: an empty path", PROTOCOL_ERROR, only(&[GET[0], GET[1], (":path", ""), GET[3]])),
        ("8.3.1: a path without a slash", PROTOCOL_ERROR, only(&[GET[0], GET[1], (":path", "x"), GET[3]])),
        ("8.3.1: a path with a space", PROTOCOL_ERROR, only(&[GET[0], GET[1], (":path", "/a HTTP/1.1"), GET[3]])),
        ("8.3.1: a method with a space", PROTOCOL_ERROR, only(&[(":method", "GET /x"), GET[1], GET[2], GET[3]])),
        (
            "8.3.1: an authority with a path",
            PROTOCOL_ERROR,
            only(&[GET[0], GET[1], GET[2], (":authority", "app.test/x")]),
        ),
        ("8.5: CONNECT with a path", PROTOCOL_ERROR, only(&[(":method", "CONNECT"), (":path", "/"), GET[3]])),
        ("8.5: CONNECT to nobody", PROTOCOL_ERROR, only(&[(":method", "CONNECT")])),
        ("8441: a protocol without CONNECT", PROTOCOL_ERROR, with(&[(":protocol", "websocket")], true)),
    ];
    let (fleet, endpoint) = fleet().await;
    for (what, code, bytes) in cases {
        let mut client = fleet.h2().await;
        client.raw(&bytes).await;
        assert_eq!(client.expect_reset(1).await, code, "{what}");
        serves(&mut client, &endpoint, 3).await;
    }
}

/// RFC 9113 section 5.1: behind its end nothing comes of a stream.
#[tokio::test]
async fn frames_for_a_stream_that_is_over() {
    let (fleet, endpoint) = fleet().await;
    for (what, bytes) in [("DATA", data(1, b"x", true)), ("HEADERS", get(1))] {
        let mut client = fleet.h2().await;
        serves(&mut client, &endpoint, 1).await;
        client.raw(&bytes).await;
        assert!(matches!(client.next().await, Event::GoAway { code: STREAM_CLOSED, .. }), "{what}");
        assert_eq!(client.next().await, Event::Closed, "{what}");
    }
    let mut client = fleet.h2().await;
    serves(&mut client, &endpoint, 1).await;
    let late = of(&[word(WINDOW_UPDATE, 1, 10), word(RST_STREAM, 1, 8), frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 7])]);
    client.raw(&late).await;
    serves(&mut client, &endpoint, 3).await;
}

/// What was on its way when a stream was reset is no fault.
#[tokio::test]
async fn what_crosses_a_reset_is_passed_over() {
    let (fleet, endpoint) = fleet().await;
    let mut client = fleet.h2().await;
    // No authority: the response comes before the body.
    client.headers(1, &[POST[0], POST[1], POST[2]], false).await;
    assert_eq!(client.expect_headers().await.1[0], (":status".into(), "400".into()));
    client.expect_data().await;
    assert_eq!(client.expect_reset(1).await, 0, "the response was whole: no failure");
    let trailers = headers(1, &[("x", "1")], true);
    client.raw(&of(&[data(1, &[0; 9_000], false), data(1, b"x", false), trailers])).await;
    serves(&mut client, &endpoint, 3).await;
    // The table of header fields went on, too.
    client.raw(&frame(HEADERS, END_HEADERS, 5, b"\x82\x86\x84\x41\x08app.test\x40\x01X\x011")).await;
    assert_eq!(client.expect_reset(5).await, PROTOCOL_ERROR);
    client.raw(&frame(HEADERS, END_HEADERS | END_STREAM, 7, b"\x82\x86\x84\xbf")).await;
    let mut upstream = endpoint.h2().await;
    let request = upstream.expect_request().await;
    assert_eq!(hpack::field(&request.fields, ":authority"), Some("app.test"));
    upstream.respond(request.stream, "204", b"").await;
    assert_eq!(client.response(7).await.whole(), ("204", &b""[..]));
}

/// However many streams have come since.
#[tokio::test]
async fn what_crosses_a_reset_is_passed_over_late_too() {
    let (fleet, endpoint) = fleet().await;
    let mut client = fleet.h2().await;
    client.headers(1, &POST[..3], false).await;
    client.expect_headers().await;
    client.expect_data().await;
    assert_eq!(client.expect_reset(1).await, 0);
    for n in 1..=300 {
        client.headers(2 * n + 1, &GET[..3], true).await;
        assert_eq!(client.response(2 * n + 1).await.whole().0, "400");
    }
    client.raw(&data(1, &[0; 600], false)).await;
    client.ping().await;
    serves(&mut client, &endpoint, 2_001).await;
}

/// The burst at a connection's beginning, before its client knows the limit.
#[tokio::test]
async fn streams_beyond_the_limit_are_refused_and_may_come_again() {
    let endpoint = Endpoint::listen("a").await;
    let limits = Limits { max_streams_per_connection: 3, ..Limits::default() };
    let fleet = Fleet::serving(Config { limits, ..config() }, H2c, &[&endpoint]).await;
    let mut client = fleet.h2().await;
    client.raw(&(0..1_000).flat_map(|n| get(2 * n + 1)).collect::<Vec<u8>>()).await;
    for n in 3..1_000 {
        assert_eq!(client.expect_reset(2 * n + 1).await, REFUSED_STREAM);
    }
    let mut upstream = endpoint.h2().await;
    for n in 0..3 {
        let at = upstream.expect_request().await.stream;
        upstream.respond(at, "200", b"fine").await;
        assert_eq!(client.response(2 * n + 1).await.whole().0, "200");
    }
    drop(upstream);
    serves(&mut client, &endpoint, 2_001).await;
}
