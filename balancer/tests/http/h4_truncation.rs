//! H4: a response that the endpoint did not end looks broken to the client, in every protocol.

use crate::fleet::{Endpoint, Fleet, H1, H2c, config};
use crate::frames::{self, CANCEL, Ended, INTERNAL_ERROR, NO_ERROR, REFUSED_STREAM};
use crate::hpack::field;
use crate::http1::Http1;

/// What breaks a response in its middle.
#[derive(Debug, Clone, Copy)]
enum Break {
    Reset(u32),
    Close,
    /// END_STREAM before content-length is reached.
    Short,
}

const BREAKS: [Break; 6] = [
    Break::Reset(NO_ERROR),
    Break::Reset(CANCEL),
    Break::Reset(INTERNAL_ERROR),
    Break::Reset(REFUSED_STREAM),
    Break::Close,
    Break::Short,
];

/// Every break of a response with and without a length; END_STREAM is too soon only with one.
fn cases() -> impl Iterator<Item = (Break, Option<&'static str>, bool)> {
    let lengths = BREAKS.into_iter().flat_map(|how| [(how, Some("5000")), (how, None)]);
    let cases = lengths.filter(|case| !matches!(case, (Break::Short, None)));
    cases.flat_map(|(how, length)| [(how, length, false), (how, length, true)])
}

/// Answers one request over h2c with the first 1,000 bytes of more, lets `seen` happen, and breaks
/// the response.
async fn broken<T>(endpoint: &Endpoint, how: Break, length: Option<&str>, seen: impl Future<Output = T>) -> T {
    let mut upstream = endpoint.h2().await;
    let at = upstream.expect_request().await.stream;
    let mut fields = vec![(":status", "200")];
    fields.extend(length.map(|length| ("content-length", length)));
    let begin = [frames::headers(at, &fields, false), frames::data(at, &[b'x'; 1_000], false)].concat();
    upstream.raw(&begin).await;
    let seen = seen.await;
    match how {
        Break::Reset(code) => upstream.reset(at, code).await,
        Break::Short => upstream.data(at, b"end", true).await,
        Break::Close => return seen,
    }
    upstream.ping().await;
    seen
}

#[tokio::test]
async fn an_h2_client_sees_a_reset() {
    for (how, length, at_once) in cases() {
        let case = format!("{how:?} {length:?} at once: {at_once}");
        let endpoint = Endpoint::listen("a").await;
        let fleet = Fleet::serving(config(), H2c, &[&endpoint]).await;
        let mut client = fleet.h2().await;
        let stream = client.get("/").await;
        let seen = async {
            if !at_once {
                assert_eq!(field(&client.expect_headers().await.1, ":status"), Some("200"));
                assert_eq!(client.expect_data().await.1.len(), 1_000);
            }
        };
        broken(&endpoint, how, length, seen).await;
        match client.response(stream).await.ended() {
            Ended::Reset(code) => assert!(![NO_ERROR, REFUSED_STREAM].contains(&code), "{case}: {code}"),
            other => panic!("{case}: {other:?}"),
        }
        client.quiet().await;
        assert_eq!(fleet.metric("tidelock_responses_cut_total"), 1, "{case}");
    }
}

/// The rest of a response whose head and first bytes came already, or nothing at all.
async fn expect_cut(client: &mut Http1, case: &str) {
    let Some(head) = client.try_head().await else { return };
    assert_eq!(head.status(), "200");
    let body = client.body(&head).await;
    assert!(body.is_err(), "{case}: looks whole, {} bytes", body.unwrap().len());
}

#[tokio::test]
async fn an_h1_client_sees_a_body_without_its_end() {
    for (how, length, at_once) in cases() {
        let case = format!("{how:?} {length:?} at once: {at_once}");
        let endpoint = Endpoint::listen("a").await;
        let fleet = Fleet::serving(config(), H2c, &[&endpoint]).await;
        let mut client = fleet.h1().await;
        client.get("/").await;
        let seen = async {
            if at_once {
                return None;
            }
            let head = client.head().await;
            let first = match length {
                Some(_) => client.exact(1_000).await.unwrap(),
                None => client.chunk().await.unwrap(),
            };
            assert_eq!((head.status(), first.len(), head.field("content-length")), ("200", 1_000, length));
            Some(head)
        };
        if broken(&endpoint, how, length, seen).await.is_none() {
            expect_cut(&mut client, &case).await;
        } else {
            let rest = client.rest().await;
            assert!(!rest.ends_with(b"0\r\n\r\n") && rest.len() < 4_000, "{case}: {rest:?}");
        }
    }
}

#[tokio::test]
async fn an_h1_endpoint_that_closes_too_soon_is_no_end_either() {
    let cut: [&[u8]; 3] = [
        b"HTTP/1.1 200 OK\r\ncontent-length: 5000\r\n\r\nxxxxx",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nxxxxx\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nxxxxx\r\n0\r\n",
    ];
    for answer in cut {
        let endpoint = Endpoint::listen("a").await;
        let fleet = Fleet::serving(config(), H1, &[&endpoint]).await;
        let mut h2 = fleet.h2().await;
        let stream = h2.get("/").await;
        let mut upstream = endpoint.h1().await;
        upstream.head().await;
        upstream.write(answer).await;
        drop(upstream);
        let response = h2.response(stream).await;
        assert!(matches!(response.ended(), Ended::Reset(_)), "{:?}", response.ended());

        let mut h1 = fleet.h1().await;
        h1.get("/").await;
        let mut upstream = endpoint.h1().await;
        upstream.head().await;
        upstream.write(answer).await;
        drop(upstream);
        expect_cut(&mut h1, "closed").await;
    }
}

/// Without a length and without chunks the close is the end (RFC 9112 section 6.3).
#[tokio::test]
async fn a_body_that_the_close_ends_is_whole() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H1, &[&endpoint]).await;
    let mut client = fleet.h2().await;
    let stream = client.get("/").await;
    let mut upstream = endpoint.h1().await;
    upstream.head().await;
    upstream.write("HTTP/1.1 200 OK\r\n\r\nall of it").await;
    drop(upstream);
    assert_eq!(client.response(stream).await.whole(), ("200", &b"all of it"[..]));
}

/// An endpoint that goes silent is cut off, and its client told.
#[tokio::test]
async fn a_silent_endpoint_is_cut_off() {
    let endpoint = Endpoint::listen("a").await;
    let spec = serde_json::from_str(r#"{"protocol":"h2c","timeouts":{"idle_ms":100,"first_byte_ms":100}}"#).unwrap();
    let fleet = Fleet::with_pool(config(), spec, &[&endpoint]).await;
    let mut client = fleet.h2().await;
    let silent = client.get("/").await;
    let mut upstream = endpoint.h2().await;
    let at = upstream.expect_request().await.stream;
    assert_eq!(client.response(silent).await.whole().0, "504");
    assert_eq!(upstream.expect_reset(at).await, CANCEL);

    let stalled = client.get("/").await;
    let at = upstream.expect_request().await.stream;
    upstream.headers(at, &[(":status", "200")], false).await;
    upstream.data(at, b"some", false).await;
    assert!(matches!(client.response(stalled).await.ended(), Ended::Reset(_)));
    assert_eq!(upstream.expect_reset(at).await, CANCEL);
}
