//! H7: who gets a stream, and on which connection: those who wait hear what the endpoint says, and no connection that many share
//! is given more than its endpoint bears.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use serde_json::json;

use crate::fleet::{Endpoint, Fleet, H2c, config};
use crate::frames::{Event, Peer, REFUSED_STREAM};
use crate::hpack::field;

/// What is looked for comes at once, not when somebody gives up waiting.
const AT_ONCE: Duration = Duration::from_secs(2);

/// A fleet of one connection to its endpoint.
async fn one_connection() -> (Endpoint, Fleet, Peer) {
    let endpoint = Endpoint::listen("a").await;
    let spec = json!({"protocol": "h2c", "limits": {"max_connections": 1}});
    let fleet = Fleet::with_pool(config(), serde_json::from_value(spec).unwrap(), &[&endpoint]).await;
    let client = fleet.h2().await;
    (endpoint, fleet, client)
}

/// An endpoint that takes one stream at a time, has one, and another one waits.
async fn one_at_a_time() -> (Endpoint, Fleet, Peer, Peer, u32) {
    let (endpoint, fleet, mut client) = one_connection().await;
    client.get("/long").await;
    let mut upstream = Peer::endpoint(endpoint.accept().await, &[(3, 1)]).await;
    let first = upstream.expect_request().await.stream;
    upstream.ping().await;
    client.get("/next").await;
    client.quiet().await;
    upstream.quiet().await;
    (endpoint, fleet, client, upstream, first)
}

/// An endpoint that takes more streams than before is given them.
#[tokio::test]
async fn who_waits_for_a_stream_hears_that_there_may_be_more() {
    let (_endpoint, _fleet, _client, mut upstream, _) = one_at_a_time().await;
    // SETTINGS_MAX_CONCURRENT_STREAMS 100.
    upstream.frame(4, 0, 0, &[0, 3, 0, 0, 0, 100]).await;
    let request = tokio::time::timeout(AT_ONCE, upstream.expect_request()).await.expect("there is a stream for it now");
    assert_eq!(field(&request.fields, ":path"), Some("/next"));
}

/// GOAWAY: the connection is of no use to those who wait; they may have another.
#[tokio::test]
async fn who_waits_for_a_stream_hears_that_the_connection_goes() {
    let (endpoint, _fleet, _client, mut upstream, first) = one_at_a_time().await;
    upstream.go_away(first, 0).await;
    let next = async {
        let mut upstream = endpoint.h2().await;
        upstream.expect_request().await
    };
    let request = tokio::time::timeout(AT_ONCE, next).await.expect("a new connection");
    assert_eq!(field(&request.fields, ":path"), Some("/next"));
}

/// Before an endpoint has said how many streams it takes it gets a hundred; the others follow when it has.
#[tokio::test]
async fn a_burst_beyond_a_hundred() {
    let (endpoint, _fleet, mut client) = one_connection().await;
    for _ in 0..120 {
        client.get("/poll").await;
    }
    let mut upstream = endpoint.h2().await;
    let mut got = 0;
    let begun = std::time::Instant::now();
    while got < 120 && begun.elapsed().as_secs() < 3 {
        match tokio::time::timeout(std::time::Duration::from_secs(3), upstream.next()).await {
            Ok(Event::Headers { .. }) => got += 1,
            Ok(other) => panic!("{other:?}"),
            Err(_) => break,
        }
    }
    assert_eq!(got, 120);
}

/// The time of all of a request says nothing of the connection.
#[tokio::test]
async fn a_total_that_is_over_keeps_the_connection() {
    let endpoint = Endpoint::listen("a").await;
    let spec = json!({"protocol": "h2c", "timeouts": {"total_ms": 200}});
    let fleet = Fleet::with_pool(config(), serde_json::from_value(spec).unwrap(), &[&endpoint]).await;
    let mut client = fleet.h2().await;
    let first = client.get("/slow").await;
    let mut upstream = endpoint.h2().await;
    let at = upstream.expect_request().await.stream;
    assert_eq!(client.response(first).await.status(), "504");
    upstream.expect_reset(at).await;
    client.get("/next").await;
    let next = tokio::time::timeout(Duration::from_secs(1), upstream.expect_request()).await;
    assert_eq!(field(&next.expect("on the same connection").fields, ":path"), Some("/next"));
}

/// Cowboy 2.8 gives back nothing of the connection's window for what an app has not read: what comes then is sent on another one.
#[tokio::test]
async fn a_window_that_does_not_come_back_is_left() {
    for is_answered in [true, false] {
        let endpoint = Endpoint::listen("a").await;
        let fleet = Fleet::serving(config(), H2c, &[&endpoint]).await;
        let mut quiet = fleet.h2().await;
        let patient = quiet.get("/patient").await;
        let mut first = endpoint.h2().await;
        let at = first.expect_request().await.stream;
        let mut client = fleet.h2().await;
        let upload = client.request("POST", "/", &[], false).await;
        client.body(upload, &[b'x'; 40_000], false).await;
        let (theirs, ..) = first.expect_headers().await;
        let mut unread = 0;
        while unread < 40_000 {
            unread += first.expect_data().await.1.len();
        }
        if is_answered {
            first.respond(theirs, "429", b"no").await;
            assert_eq!(client.response(upload).await.whole(), ("429", &b"no"[..]));
        } else {
            client.reset(upload, crate::frames::CANCEL).await;
        }
        assert_eq!(first.expect_reset(theirs).await, crate::frames::CANCEL);
        let upload = client.request("POST", "/", &[], false).await;
        client.body(upload, &[b'x'; 50_000], true).await;
        let mut second = endpoint.h2().await;
        let request = second.expect_request().await;
        assert_eq!(request.body.len(), 50_000);
        second.respond(request.stream, "200", b"read").await;
        assert_eq!(client.response(upload).await.whole(), ("200", &b"read"[..]));
        first.respond(at, "200", b"first").await;
        assert_eq!(quiet.response(patient).await.whole(), ("200", &b"first"[..]), "what runs on it runs on");
    }
}

/// Bytes that wait for the window become those of the last frame, whose end does not come: who is let send then sends nothing,
/// and must not be what others wait for.
#[tokio::test]
async fn uploads_that_stop_before_their_end_hold_up_no_other() {
    let (endpoint, _fleet, mut client) = one_connection().await;
    let mut stopping = Vec::new();
    for _ in 0..4 {
        let stream = client.request("POST", "/stops", &[("content-length", "20000")], false).await;
        client.data(stream, &[b'a'; 10_000], false).await;
        stopping.push(stream);
    }
    let mut upstream = endpoint.h2().await;
    let mut got = 0;
    let data = |event| match event {
        Event::Data { bytes, .. } => bytes.len(),
        _ => 0,
    };
    while got < 40_000 {
        got += data(upstream.next().await);
    }
    let filler = client.request("POST", "/fills", &[], false).await;
    client.body(filler, &[b'b'; 40_000], false).await;
    while got < 65_535 {
        got += data(upstream.next().await);
    }
    for part in [6_000, 4_000] {
        for &stream in &stopping {
            client.data(stream, &vec![b'c'; part], false).await;
        }
        client.quiet().await;
    }
    upstream.window_update(0, 200_000).await;
    let other = client.request("POST", "/other", &[], false).await;
    client.body(other, &[b'd'; 30_000], true).await;
    let arrives = async {
        let mut left = 30_000;
        while left > 0 {
            if let Event::Data { bytes, .. } = upstream.next().await {
                left -= bytes.iter().filter(|byte| **byte == b'd').count();
            }
        }
    };
    tokio::time::timeout(AT_ONCE, arrives).await.expect("nobody else's end is waited for");
}

/// Cowboy gives back the window of what its app has read, and the app may take its time: nobody else waits for that, as long as
/// there may be another connection.
#[tokio::test]
async fn an_upload_that_is_not_read_yet_holds_up_no_other() {
    for max_connections in [None, Some(1)] {
        let endpoint = Endpoint::listen("a").await;
        let fleet = Fleet::serving(config(), H2c, &[&endpoint]).await;
        fleet.change(json!({ "protocol": "h2c", "limits": { "max_connections": max_connections } })).await;
        let mut slow = fleet.h2().await;
        let upload = slow.request("POST", "/slow", &[], false).await;
        slow.body(upload, &[b'x'; 60_000], true).await;
        let mut first = endpoint.h2().await;
        let (at, ..) = first.expect_headers().await;
        while !first.expect_data().await.2 {}
        // Longer than a window is low where all is well.
        tokio::time::sleep(Duration::from_millis(200)).await;
        let mut client = fleet.h2().await;
        let other = client.request("POST", "/", &[], false).await;
        client.body(other, b"little", true).await;
        let mut elsewhere = match max_connections {
            None => Some(endpoint.h2().await),
            Some(_) => None,
        };
        let peer = elsewhere.as_mut().unwrap_or(&mut first);
        let request = tokio::time::timeout(AT_ONCE, peer.expect_request()).await.expect("at once");
        assert_eq!(request.body, b"little");
        peer.respond(request.stream, "204", b"").await;
        assert_eq!(client.response(other).await.status(), "204");
        let without_body = client.get("/without").await;
        let at_first = first.expect_request().await.stream;
        first.respond(at_first, "204", b"").await;
        assert_eq!(client.response(without_body).await.status(), "204", "which has nothing to wait for");
        // Read now, and as good as new.
        first.window_update(0, 60_000).await;
        first.respond(at, "200", b"read").await;
        assert_eq!(slow.response(upload).await.whole(), ("200", &b"read"[..]));
        drop(elsewhere);
        let third = client.get("/third").await;
        let at = first.expect_request().await.stream;
        first.respond(at, "200", b"third").await;
        assert_eq!(client.response(third).await.whole(), ("200", &b"third"[..]));
    }
}

/// Cowboy ends a connection on which more than 10,000 frames come in 10 s (`max_received_frame_rate`).
const FRAMES_MAX: usize = 10_000;

#[tokio::test]
async fn an_upload_in_tiny_chunks_is_not_as_many_frames() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H2c, &[&endpoint]).await;
    let mut client = fleet.h1().await;
    let body = [&b"1\r\nx\r\n".repeat(FRAMES_MAX + 100)[..], b"0\r\n\r\n"].concat();
    client.request("POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n", body).await;
    let mut upstream = endpoint.h2().await;
    let request = upstream.expect_request().await;
    assert_eq!(request.body.len(), FRAMES_MAX + 100);
    assert!(request.frames.len() < FRAMES_MAX / 10, "{} frames", request.frames.len());
}

/// How many requests an endpoint that calls itself `server` gets on one connection, of some more than Cowboy bears.
async fn most_on_one(server: &'static str) -> usize {
    let endpoint = Rc::new(Endpoint::listen("a").await);
    let fleet = Fleet::serving(config(), H2c, &[&endpoint]).await;
    let most = Rc::new(Cell::new(0));
    let local = tokio::task::LocalSet::new();
    let (listens, counts) = (endpoint.clone(), most.clone());
    local.spawn_local(async move {
        loop {
            let (stream, most) = (listens.accept_patiently().await, counts.clone());
            tokio::task::spawn_local(async move {
                let mut upstream = Peer::endpoint(stream, &[]).await;
                let mut frames = 0;
                loop {
                    match upstream.next().await {
                        Event::Headers { stream, .. } => {
                            frames += 1;
                            most.set(most.get().max(frames));
                            upstream.headers(stream, &[(":status", "204"), ("server", server)], true).await;
                        }
                        Event::Closed => return,
                        _ => {}
                    }
                }
            });
        }
    });
    let asks = async {
        let begun = std::time::Instant::now();
        let mut client = fleet.h2().await;
        for _ in 0..(FRAMES_MAX + 100) / 100 {
            let mut all = Vec::new();
            for _ in 0..100 {
                let stream = client.take_stream();
                let fields = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "app.test")];
                all.extend(crate::frames::headers(stream, &fields, true));
            }
            client.raw(&all).await;
            for _ in 0..100 {
                let (_, fields, _) = client.expect_headers().await;
                assert_eq!(field(&fields, ":status"), Some("204"));
            }
        }
        assert!(begun.elapsed() < Duration::from_secs(9), "too slow a machine for this test");
    };
    local.run_until(asks).await;
    most.get()
}

#[tokio::test]
async fn a_busy_cowboy_gets_no_more_frames_on_a_connection_than_it_bears() {
    let most = most_on_one("Cowboy").await;
    assert!((FRAMES_MAX / 2..FRAMES_MAX).contains(&most), "{most}");
    assert!(most_on_one("Other").await > FRAMES_MAX, "nobody else counts them");
}

/// Who has met the end of a connection takes the one that has carried least: those that began together end together.
#[tokio::test]
async fn a_second_attempt_takes_the_connection_that_has_carried_least() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H2c, &[&endpoint]).await;
    let mut client = fleet.h2().await;
    let first = client.get("/first").await;
    let mut old = Peer::endpoint(endpoint.accept().await, &[(3, 1)]).await;
    let at = old.expect_request().await.stream;
    old.ping().await;
    let second = client.get("/second").await;
    let mut young = Peer::endpoint(endpoint.accept().await, &[]).await;
    let request = young.expect_request().await;
    young.respond(request.stream, "204", b"").await;
    client.response(second).await;
    old.respond(at, "204", b"").await;
    client.response(first).await;
    for nth in 0..3 {
        let stream = client.get("/more").await;
        let request = old.expect_request().await;
        if nth < 2 {
            old.respond(request.stream, "204", b"").await;
            client.response(stream).await;
            continue;
        }
        old.reset(request.stream, REFUSED_STREAM).await;
        let request = tokio::time::timeout(AT_ONCE, young.expect_request()).await.expect("the other connection");
        young.respond(request.stream, "200", b"again").await;
        assert_eq!(client.response(stream).await.whole(), ("200", &b"again"[..]));
    }
}

/// Who waits for a stream is not left with a connection that takes no more: old ones are looked for every two seconds.
#[tokio::test]
async fn who_waits_hears_that_a_connection_is_too_old() {
    let endpoint = Endpoint::listen("a").await;
    let timeouts = json!({"connect_ms": 60_000, "connection_age_ms": 1_000});
    let spec = json!({"protocol": "h2c", "limits": {"max_connections": 1}, "timeouts": timeouts});
    let fleet = Fleet::with_pool(config(), serde_json::from_value(spec).unwrap(), &[&endpoint]).await;
    let mut client = fleet.h2().await;
    client.get("/long").await;
    let mut old = Peer::endpoint(endpoint.accept().await, &[(3, 1)]).await;
    old.expect_request().await;
    old.ping().await;
    let next = client.get("/next").await;
    let mut young = endpoint.h2().await;
    let request = young.expect_request().await;
    young.respond(request.stream, "200", b"next").await;
    assert_eq!(client.response(next).await.whole(), ("200", &b"next"[..]));
    old.quiet().await;
}
