//! H5: what an endpoint says it did not look at runs elsewhere, any method, byte for byte. What it
//! may have run never runs twice, unless nobody can tell.

use crate::fleet::{Endpoint, Fleet, H1, H2c, Speaks, config};
use crate::frames::{Ended, NO_ERROR, Peer, REFUSED_STREAM};
use crate::hpack::field;
use crate::http1::Http1;

fn body() -> Vec<u8> {
    (0..30_000u32).map(|i| (i * 31 % 251) as u8).collect()
}

/// How an endpoint says that it did not look at a request.
#[derive(Debug, Clone, Copy)]
enum Refusal {
    GoAway,
    Refused,
}

async fn refuse(upstream: &mut Peer, stream: u32, how: Refusal) {
    match how {
        Refusal::GoAway => upstream.go_away(stream - 2, NO_ERROR).await,
        Refusal::Refused => upstream.reset(stream, REFUSED_STREAM).await,
    }
}

/// A connection that has served one request, so that the next stream is 3.
async fn used(endpoint: &Endpoint, client: &mut Peer) -> Peer {
    let first = client.get("/first").await;
    let mut upstream = endpoint.h2().await;
    let request = upstream.expect_request().await;
    assert_eq!(request.stream, 1);
    upstream.respond(1, "200", b"first").await;
    client.response(first).await.whole();
    upstream
}

#[tokio::test]
async fn a_post_above_the_goaway_is_replayed_byte_for_byte() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H2c, &[&endpoint]).await;
    let mut client = fleet.h2().await;
    let mut upstream = used(&endpoint, &mut client).await;
    let fields = [("content-length", "30000"), ("x-mine", "kept")];
    let stream = client.request("POST", "/up", &fields, false).await;
    client.body(stream, &body(), true).await;
    let (at, ..) = upstream.expect_headers().await;
    assert_eq!(at, 3);
    upstream.expect_data().await;
    refuse(&mut upstream, at, Refusal::GoAway).await;

    let mut again = endpoint.h2().await;
    let request = again.expect_request().await;
    assert_eq!(request.stream, 1, "each connection numbers its streams from 1");
    assert!(request.body == body(), "byte for byte");
    assert_eq!(field(&request.fields, "x-mine"), Some("kept"));
    assert_eq!(field(&request.fields, "content-length"), Some("30000"));
    again.respond(1, "201", b"done").await;
    assert_eq!(client.response(stream).await.whole(), ("201", &b"done"[..]));
    again.quiet().await;
    assert_eq!(fleet.metric("tidelock_retries_total"), 1);
}

#[tokio::test]
async fn a_refused_stream_is_replayed_on_the_connection_it_was_refused_on() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H2c, &[&endpoint]).await;
    let mut client = fleet.h2().await;
    let mut upstream = used(&endpoint, &mut client).await;
    let stream = client.request("POST", "/up", &[("content-length", "30000")], false).await;
    client.body(stream, &body(), true).await;
    let (at, ..) = upstream.expect_headers().await;
    refuse(&mut upstream, at, Refusal::Refused).await;
    let again = loop {
        match upstream.next().await {
            crate::frames::Event::Data { stream, .. } if stream == at => {}
            crate::frames::Event::Headers { stream, .. } => break stream,
            other => panic!("{other:?}"),
        }
    };
    let mut had = Vec::new();
    while had.len() < 30_000 {
        let (of, bytes, _) = upstream.expect_data().await;
        assert_eq!(of, again);
        had.extend(bytes);
    }
    assert!(had == body());
    upstream.respond(again, "201", b"done").await;
    assert_eq!(client.response(stream).await.whole(), ("201", &b"done"[..]));
}

/// The client is still sending when the endpoint refuses: what was sent is sent again, the rest
/// follows.
#[tokio::test]
async fn an_upload_that_is_under_way_is_replayed_too() {
    for how in [Refusal::GoAway, Refusal::Refused] {
        for h1_client in [false, true] {
            let endpoint = Endpoint::listen("a").await;
            let fleet = Fleet::serving(config(), H2c, &[&endpoint]).await;
            let (mut h2, mut h1) = (fleet.h2().await, fleet.h1().await);
            let mut upstream = used(&endpoint, &mut h2).await;
            let stream = if h1_client {
                h1.request("POST /up HTTP/1.1\r\ncontent-length: 30000\r\n", &body()[..20_000]).await;
                0
            } else {
                let stream = h2.request("POST", "/up", &[], false).await;
                h2.body(stream, &body()[..20_000], false).await;
                stream
            };
            let (at, ..) = upstream.expect_headers().await;
            upstream.expect_data().await;
            refuse(&mut upstream, at, how).await;
            // The connection stays in use where only the stream was refused.
            let mut again = match how {
                Refusal::GoAway => endpoint.h2().await,
                Refusal::Refused => upstream,
            };
            let mut had = Vec::new();
            let mut place = 0;
            let mut rest_is_sent = false;
            loop {
                match again.next().await {
                    crate::frames::Event::Headers { stream, .. } => (place, had) = (stream, Vec::new()),
                    crate::frames::Event::Data { stream, bytes, end } if stream == place => {
                        had.extend(bytes);
                        if end {
                            break;
                        }
                    }
                    crate::frames::Event::Data { .. } => {}
                    other => panic!("{other:?}"),
                }
                if place != 0 && !rest_is_sent {
                    rest_is_sent = true;
                    match h1_client {
                        true => h1.write(&body()[20_000..]).await,
                        false => h2.body(stream, &body()[20_000..], true).await,
                    }
                }
            }
            assert!(had == body(), "{how:?} {h1_client}");
            again.respond(place, "200", b"done").await;
            match h1_client {
                true => assert_eq!(h1.response().await.1, b"done"),
                false => assert_eq!(h2.response(stream).await.whole().1, b"done"),
            }
        }
    }
}

/// The retry is made once at the same place, then elsewhere.
#[tokio::test]
async fn an_endpoint_that_goes_on_refusing_is_left() {
    let (a, b) = (Endpoint::listen("a").await, Endpoint::listen("b").await);
    let fleet = Fleet::serving(config(), H2c, &[&a]).await;
    let mut client = fleet.h2().await;
    let mut upstream = used(&a, &mut client).await;
    // The session lives on `a`, so it is tried first.
    let stream = client.get("/").await;
    let first = upstream.expect_request().await;
    upstream.respond(first.stream, "200", b"").await;
    let cookie = client.response(stream).await;
    let cookie = cookie.field("set-cookie").unwrap().split(';').next().unwrap().to_owned();
    fleet.add(&b);
    fleet.adopted().await;
    let stream = client.request("POST", "/", &[("cookie", &cookie)], true).await;
    for _ in 0..5 {
        let request = upstream.expect_request().await;
        upstream.reset(request.stream, REFUSED_STREAM).await;
    }
    let mut other = b.h2().await;
    let request = other.expect_request().await;
    other.respond(request.stream, "200", b"moved").await;
    assert_eq!(client.response(stream).await.whole(), ("200", &b"moved"[..]));
    upstream.quiet().await;
}

/// Nor is it asked again without end, or without a pause.
#[tokio::test]
async fn an_endpoint_that_refuses_everything_is_asked_eight_times_and_more_and_more_seldom() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H2c, &[&endpoint]).await;
    let mut client = fleet.h2().await;
    let stream = client.request("POST", "/", &[], true).await;
    let mut upstream = endpoint.h2().await;
    let mut arrivals = Vec::new();
    for _ in 0..8 {
        let request = upstream.expect_request().await;
        arrivals.push(std::time::Instant::now());
        upstream.reset(request.stream, REFUSED_STREAM).await;
    }
    let response = client.response(stream).await;
    assert_eq!((response.status(), response.field("tidelock-reason")), ("503", Some("refused")));
    upstream.quiet().await;
    let pauses: u128 = arrivals.windows(2).map(|two| (two[1] - two[0]).as_millis()).sum();
    assert!(pauses >= 5 + 10 + 20 + 40 + 80, "{pauses} ms");
}

#[tokio::test]
async fn a_body_that_was_not_kept_is_not_replayed() {
    let mut config = config();
    config.limits.retry_body_bytes = 10_000;
    for how in [Refusal::GoAway, Refusal::Refused] {
        let endpoint = Endpoint::listen("a").await;
        let fleet = Fleet::serving(config.clone(), H2c, &[&endpoint]).await;
        let mut client = fleet.h2().await;
        let mut upstream = used(&endpoint, &mut client).await;
        let stream = client.request("POST", "/up", &[("content-length", "30000")], false).await;
        client.body(stream, &body()[..20_000], false).await;
        let (at, ..) = upstream.expect_headers().await;
        upstream.expect_data().await;
        upstream.expect_data().await;
        refuse(&mut upstream, at, how).await;
        let response = client.response(stream).await;
        assert_eq!((response.whole().0, response.field("tidelock-reason")), ("503", Some("refused")));
        assert!(endpoint.nobody(), "{how:?}");
    }
}

#[tokio::test]
async fn a_connection_that_breaks_replays_a_get_and_no_post() {
    for protocol in [H2c, H1] {
        for method in ["GET", "POST"] {
            let (a, b) = (Endpoint::listen("a").await, Endpoint::listen("b").await);
            let fleet = Fleet::serving(config(), protocol, &[&a, &b]).await;
            let mut client = fleet.h2().await;
            let stream = client.request(method, "/", &[], true).await;
            // The session's place is the ring's choice.
            let (first, other) = if a.is_first(&b).await { (&a, &b) } else { (&b, &a) };
            arrive(first, protocol, None).await;
            if method == "GET" {
                arrive(other, protocol, Some("again")).await;
                assert_eq!(client.response(stream).await.whole(), ("200", &b"again"[..]), "{protocol:?}");
            } else {
                assert_eq!(client.response(stream).await.whole().0, "502", "{protocol:?}");
                assert!(other.nobody(), "exactly one arrival");
            }
            assert!(first.nobody());
        }
    }
}

/// Takes a request; answers it, or closes the connection.
async fn arrive(endpoint: &Endpoint, protocol: Speaks, answer: Option<&str>) {
    match protocol {
        H2c => {
            let mut upstream = endpoint.h2().await;
            let request = upstream.expect_request().await;
            if let Some(answer) = answer {
                upstream.respond(request.stream, "200", answer.as_bytes()).await;
                upstream.quiet().await;
            }
        }
        H1 => {
            let mut upstream = endpoint.h1().await;
            upstream.head().await;
            if let Some(answer) = answer {
                upstream.write(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{answer}", answer.len())).await;
            }
        }
    }
}

/// At or below the GOAWAY's last stream the endpoint may have run the request.
#[tokio::test]
async fn a_post_that_was_taken_is_not_replayed_after_a_goaway() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H2c, &[&endpoint]).await;
    let mut client = fleet.h2().await;
    let stream = client.request("POST", "/", &[], true).await;
    let mut upstream = endpoint.h2().await;
    let request = upstream.expect_request().await;
    upstream.go_away(request.stream, NO_ERROR).await;
    drop(upstream);
    assert_eq!(client.response(stream).await.whole().0, "502");
    assert!(endpoint.nobody(), "exactly one arrival");
}

#[tokio::test]
async fn streams_below_the_goaway_run_on_and_the_endpoint_stays_in_use() {
    let (a, b) = (Endpoint::listen("a").await, Endpoint::listen("b").await);
    let fleet = Fleet::serving(config(), H2c, &[&a]).await;
    let mut client = fleet.h2().await;
    let running = client.get("/download").await;
    let mut upstream = a.h2().await;
    let at = upstream.expect_request().await.stream;
    upstream.headers(at, &[(":status", "200")], false).await;
    upstream.data(at, b"one ", false).await;
    let (_, head, _) = client.expect_headers().await;
    let cookie = field(&head, "set-cookie").unwrap().split(';').next().unwrap().to_owned();
    assert_eq!(client.expect_data().await.1, b"one ");
    fleet.add(&b);
    fleet.adopted().await;
    upstream.go_away(at, NO_ERROR).await;
    upstream.quiet().await;

    let session = client.request("GET", "/", &[("cookie", &cookie)], true).await;
    let mut fresh = a.h2().await;
    let request = fresh.expect_request().await;
    fresh.respond(request.stream, "200", b"").await;
    let response = client.response(session).await;
    assert_eq!(response.field("tidelock-endpoint"), Some("a"), "a GOAWAY is no failure");
    assert_eq!(response.field("tidelock-affinity"), Some("kept"));

    upstream.data(at, b"two", true).await;
    assert_eq!(client.expect_data().await, (running, b"two".to_vec(), true));
    assert_eq!(upstream.next().await, crate::frames::Event::GoAway { last: 0, code: NO_ERROR });
    assert_eq!(upstream.next().await, crate::frames::Event::Closed, "after its last stream");
}

#[tokio::test]
async fn a_kept_connection_that_the_endpoint_closed_costs_nothing() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H1, &[&endpoint]).await;
    let mut client = fleet.h2().await;
    for method in ["POST", "POST", "GET"] {
        let stream = client.request(method, "/", &[("content-length", "5")], false).await;
        client.data(stream, b"hello", true).await;
        let mut upstream = endpoint.h1().await;
        let head = upstream.head().await;
        assert_eq!(upstream.body(&head).await.unwrap(), b"hello");
        upstream.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
        assert_eq!(client.response(stream).await.whole(), ("200", &b"ok"[..]));
        // The close has arrived before the next request does.
        drop(upstream);
        client.ping().await;
    }
}

/// A dead endpoint costs the request nothing but a try.
#[tokio::test]
async fn a_dead_endpoint_is_passed_over_within_the_request() {
    for protocol in [H2c, H1] {
        let (dead, alive) = (Endpoint::listen("dead").await, Endpoint::listen("alive").await);
        let fleet = Fleet::serving(config(), protocol, &[&dead]).await;
        let mut client = fleet.h2().await;
        let stream = client.get("/").await;
        arrive(&dead, protocol, Some("hello")).await;
        let response = client.response(stream).await;
        let cookie = response.field("set-cookie").unwrap().split(';').next().unwrap().to_owned();
        fleet.add(&alive);
        fleet.adopted().await;
        // The port is free: connections to it are refused from here on.
        drop(dead);
        client.ping().await;
        let stream = client.request("POST", "/", &[("cookie", &cookie), ("content-length", "5")], false).await;
        client.data(stream, b"hello", true).await;
        arrive(&alive, protocol, Some("from the other")).await;
        let response = client.response(stream).await;
        assert_eq!(response.whole(), ("200", &b"from the other"[..]), "{protocol:?}");
        assert_eq!(response.field("tidelock-affinity"), Some("moved:unavailable"));
        assert!(response.field("set-cookie").is_some(), "the session has a new home");
        assert!(matches!(response.ended(), Ended::Whole));
    }
}

/// Endpoints that break under what they are asked are not asked twice for all of it.
#[tokio::test]
async fn second_tries_are_budgeted() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H1, &[&endpoint]).await;
    let breaking = async {
        loop {
            let mut upstream = Http1::over(endpoint.accept_patiently().await);
            drop(upstream.next_head().await);
        }
    };
    let asking = async {
        for _ in 0..100 {
            let mut client = fleet.h1().await;
            client.get("/").await;
            assert_eq!(client.response().await.0.status(), "502");
        }
    };
    tokio::select! {
        () = asking => {}
        () = breaking => {}
    }
    // 50 to begin with, and one for five requests: of 200 that could have been.
    let retries = fleet.metric("tidelock_retries_total");
    assert!((60..=75).contains(&retries), "{retries}");
    assert!(fleet.metric("tidelock_retries_refused_total") > 25);
}

/// Why an endpoint breaks a stream off, or its connection, says nothing of what it has done: only "not processed" does.
#[tokio::test]
async fn no_reason_but_one_says_that_a_request_did_not_run() {
    for reason in [NO_ERROR, 1, 2, 5, 8, 0xb, 0xd, 0x77] {
        for (method, by_goaway) in [("GET", false), ("POST", false), ("GET", true), ("POST", true)] {
            let (a, b) = (Endpoint::listen("a").await, Endpoint::listen("b").await);
            let fleet = Fleet::serving(config(), H2c, &[&a, &b]).await;
            let mut client = fleet.h2().await;
            let stream = client.request(method, "/", &[], true).await;
            let (first, other) = if a.is_first(&b).await { (&a, &b) } else { (&b, &a) };
            let mut upstream = first.h2().await;
            let request = upstream.expect_request().await;
            match by_goaway {
                false => upstream.reset(request.stream, reason).await,
                true => {
                    upstream.go_away(request.stream, reason).await;
                    drop(upstream);
                }
            }
            let what = format!("{method}, {reason}, GOAWAY: {by_goaway}");
            if method == "GET" {
                arrive(other, H2c, Some("again")).await;
                assert_eq!(client.response(stream).await.whole(), ("200", &b"again"[..]), "{what}");
            } else {
                let response = client.response(stream).await;
                let answer = (response.whole().0, response.field("tidelock-reason"));
                assert_eq!(answer, ("502", Some("broken-off")), "{what}");
                assert!(other.nobody(), "{what}");
            }
        }
    }
}

/// Whatever the reason: what is above the last stream did not run, also where the connection closes behind the word.
#[tokio::test]
async fn a_goaway_with_an_error_keeps_its_word_of_the_last_stream() {
    for reason in [1, 2, 0xb] {
        let endpoint = Endpoint::listen("a").await;
        let fleet = Fleet::serving(config(), H2c, &[&endpoint]).await;
        let mut client = fleet.h2().await;
        let mut upstream = used(&endpoint, &mut client).await;
        let stream = client.request("POST", "/up", &[("content-length", "2")], false).await;
        client.data(stream, b"up", true).await;
        assert_eq!(upstream.expect_request().await.stream, 3);
        upstream.go_away(1, reason).await;
        drop(upstream);
        let mut again = endpoint.h2().await;
        let request = again.expect_request().await;
        assert_eq!((request.stream, &request.body[..]), (1, &b"up"[..]), "{reason}");
        again.respond(1, "201", b"done").await;
        assert_eq!(client.response(stream).await.whole(), ("201", &b"done"[..]), "{reason}");
    }
}

/// A response that has begun is never begun again, however it ends.
#[tokio::test]
async fn a_response_that_breaks_off_is_cut_whatever_the_reason() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H2c, &[&endpoint]).await;
    for reason in [NO_ERROR, 1, 2, REFUSED_STREAM, 8, 0xb, 0x77] {
        let mut client = fleet.h2().await;
        let stream = client.get("/").await;
        let mut upstream = endpoint.h2().await;
        let theirs = upstream.expect_request().await.stream;
        upstream.headers(theirs, &[(":status", "200"), ("content-length", "9")], false).await;
        upstream.data(theirs, b"half", false).await;
        upstream.reset(theirs, reason).await;
        let response = client.response(stream).await;
        assert_eq!((response.status(), &response.body[..]), ("200", &b"half"[..]), "{reason}");
        assert!(matches!(response.ended(), Ended::Reset(code) if code != NO_ERROR), "{reason}: {:?}", response.ended());
        upstream.go_away(theirs, NO_ERROR).await;
        assert!(endpoint.nobody());
    }
}

/// Where a kept connection ended under a request another kept one may do so, too: the next try is on a new one.
#[tokio::test]
async fn a_second_try_does_not_trust_another_kept_connection() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H1, &[&endpoint]).await;
    let mut client = fleet.h2().await;
    let mut kept = Vec::new();
    for _ in 0..3 {
        client.get("/").await;
        kept.push(endpoint.h1().await);
    }
    for upstream in &mut kept {
        upstream.head().await;
        upstream.write("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        client.expect_headers().await;
    }
    client.ping().await;
    let stream = client.get("/again").await;
    let closes = async {
        // Each reads the request and closes.
        futures_util::future::join_all(kept.into_iter().map(|mut upstream| async move { upstream.try_head().await }))
            .await
            .into_iter()
            .flatten()
            .count()
    };
    let serves = async {
        let mut upstream = endpoint.h1().await;
        assert_eq!(upstream.head().await.start, "GET /again HTTP/1.1");
        upstream.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
        upstream
    };
    let (response, _upstream) = tokio::select! {
        both = async { tokio::join!(client.response(stream), serves) } => both,
        tried = async { let tried = closes.await; std::future::pending::<()>().await; tried } => panic!("{tried} tried"),
    };
    assert_eq!(response.whole(), ("200", &b"ok"[..]));
}
