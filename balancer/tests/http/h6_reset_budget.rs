//! H6, H7: connections that get no new stream any more. An endpoint that closes those on which much is
//! cancelled (Bandit at 500 in 10 s) does not get to, and one that is half open is not used on.

use crate::drains::closed;
use crate::fleet::{Endpoint, Fleet, H2c, config};
use crate::frames::{CANCEL, PROTOCOL_ERROR};

#[tokio::test]
async fn cancels_are_spread_and_cost_nobody_else() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H2c, &[&endpoint]).await;
    let mut quiet = fleet.h2().await;
    let patient = quiet.get("/patient").await;
    let mut first = endpoint.h2().await;
    let at = first.expect_request().await.stream;

    let mut client = fleet.h2().await;
    // One after the other, as browsers do it; at some point the budget is spent, and the next stream is on a new
    // connection, the patient one on the old.
    let mut cancelled = 0;
    let (stream, mut second) = loop {
        let stream = client.get("/").await;
        tokio::select! {
            second = endpoint.h2() => break (stream, second),
            request = first.expect_request() => {
                client.reset(stream, CANCEL).await;
                assert_eq!(first.expect_reset(request.stream).await, CANCEL);
                cancelled += 1;
            }
        }
    };
    // A half at once, and what has come back of it while this ran.
    assert!((120..200).contains(&cancelled), "{cancelled}");
    let theirs = second.expect_request().await.stream;
    second.respond(theirs, "200", b"second").await;
    assert_eq!(client.response(stream).await.whole(), ("200", &b"second"[..]));
    first.respond(at, "200", b"first").await;
    assert_eq!(quiet.response(patient).await.whole(), ("200", &b"first"[..]));
    closed(&mut first).await;
}

/// Streams that end by themselves are not counted.
#[tokio::test]
async fn whole_exchanges_spend_nothing() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H2c, &[&endpoint]).await;
    let mut client = fleet.h2().await;
    let mut upstream = None;
    for n in 0..450 {
        let stream = match n % 3 {
            0 => client.get("/").await,
            1 => client.request("HEAD", "/", &[], true).await,
            _ => {
                let stream = client.request("POST", "/", &[], false).await;
                client.data(stream, b"body", true).await;
                stream
            }
        };
        let upstream = match &mut upstream {
            Some(upstream) => upstream,
            none => none.insert(endpoint.h2().await),
        };
        let theirs = upstream.expect_request().await.stream;
        upstream.respond(theirs, "200", if n % 3 == 1 { b"" } else { b"ok" }).await;
        assert_eq!(client.response(stream).await.whole().0, "200", "{n}");
    }
}

/// One that has said nothing at all since a request timed out on it is not asked again.
#[tokio::test]
async fn a_connection_that_has_fallen_silent_is_left() {
    let endpoint = Endpoint::listen("a").await;
    let spec = serde_json::json!({ "protocol": "h2c", "timeouts": { "first_byte_ms": 150 } });
    let fleet = Fleet::with_pool(config(), serde_json::from_value(spec).unwrap(), &[&endpoint]).await;
    let mut client = fleet.h2().await;
    let mut first = None;
    // The second time nothing is left of the connection's beginning.
    for _ in 0..2 {
        let stream = client.get("/").await;
        let first = match &mut first {
            Some(first) => first,
            none => none.insert(endpoint.h2().await),
        };
        let theirs = first.expect_request().await.stream;
        first.respond(theirs, "200", b"ok").await;
        assert_eq!(client.response(stream).await.whole().0, "200");
        first.ping().await;
    }
    let silent = client.get("/").await;
    assert_eq!(client.response(silent).await.whole().0, "504");
    let next = client.get("/").await;
    let mut second = endpoint.h2().await;
    let theirs = second.expect_request().await.stream;
    second.respond(theirs, "200", b"second").await;
    assert_eq!(client.response(next).await.whole(), ("200", &b"second"[..]));
}

/// Cowboy ends a connection on which it found ten requests malformed. Whoever sends such ones shall not end what others run there.
#[tokio::test]
async fn requests_that_an_endpoint_finds_malformed_are_spread_too() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H2c, &[&endpoint]).await;
    let mut quiet = fleet.h2().await;
    let patient = quiet.get("/patient").await;
    let mut first = endpoint.h2().await;
    let at = first.expect_request().await.stream;
    let mut client = fleet.h2().await;
    let mut refused = 0;
    let (stream, mut second) = loop {
        let stream = client.request("POST", "/", &[], true).await;
        tokio::select! {
            second = endpoint.h2() => break (stream, second),
            request = first.expect_request() => {
                first.reset(request.stream, PROTOCOL_ERROR).await;
                assert_eq!(client.response(stream).await.whole().0, "502");
                refused += 1;
            }
        }
    };
    assert!((4..8).contains(&refused), "{refused}");
    let theirs = second.expect_request().await.stream;
    second.respond(theirs, "200", b"second").await;
    assert_eq!(client.response(stream).await.whole(), ("200", &b"second"[..]));
    first.respond(at, "200", b"first").await;
    assert_eq!(quiet.response(patient).await.whole(), ("200", &b"first"[..]));
}
