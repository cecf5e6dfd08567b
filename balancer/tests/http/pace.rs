//! A drain with a pace: what does not end by itself is closed one after the other, in the way in
//! which it can be closed, and nothing else is.

use std::time::{Duration, Instant};

use tidelock_core::command::{Command, DrainMode};
use tidelock_core::id::{DrainId, Epoch, NodeId};
use tidelock_core::report::{Counts, Outcomes};

use crate::drains::{asked_for_websocket, counts, websocket, websocket_opened};
use crate::fleet::{Endpoint, Fleet, H1, H2c, config, name};
use crate::frames::{Peer, soon};
use crate::hpack::field;
use crate::http1::Http1;

const CANCEL: u32 = 8;
/// How much a late close is made up for.
const CATCH_UP: Duration = Duration::from_millis(25);

/// Begins a drain of which this node, and another one, have a share.
async fn drain(fleet: &Fleet, endpoint: &Endpoint, mode: DrainMode) -> DrainId {
    fleet.drain(endpoint, mode, None).await;
    DrainId(fleet.epoch())
}

async fn share(fleet: &Fleet, drain: DrainId, per_1000_s: u64) {
    let shares = [(NodeId(1), per_1000_s), (NodeId(2), 9_000_000)].into_iter().filter(|(_, share)| *share > 0);
    fleet.apply(Command::ShareClosing { shares: [(drain, shares.collect())].into(), seen: Some(Epoch(fleet.epoch())) });
    fleet.adopted().await;
}

fn with_event_streams(requests: u64, event_streams: u64) -> Counts {
    Counts { requests, event_streams, ..Counts::default() }
}

#[tokio::test]
async fn websockets_are_closed_one_after_the_other() {
    let (a, b) = (Endpoint::listen("a").await, Endpoint::listen("b").await);
    let fleet = Fleet::serving(config(), H1, &[&a]).await;
    let mut sockets = Vec::new();
    for _ in 0..5 {
        sockets.push(websocket(&fleet, &a).await);
    }
    fleet.add(&b);
    let id = drain(&fleet, &a, DrainMode::Streams).await;
    assert_eq!(fleet.metric("tidelock_streams_closed_at_pace_total"), 0);
    let start = Instant::now();
    share(&fleet, id, 10_000).await;
    for (i, (mut client, mut upstream)) in sockets.into_iter().enumerate() {
        // One interval after the other, the first within one, in the order of their beginning, and told to come back.
        assert_eq!(client.exact(4).await.unwrap(), b"\x88\x02\x03\xf4", "1012");
        let due = Duration::from_millis(100 * i as u64);
        assert!(start.elapsed() + CATCH_UP >= due, "{i}: {:?}", start.elapsed());
        assert_eq!(&upstream.exact(8).await.unwrap()[..2], b"\x88\x82", "the endpoint hears a close too");
    }
    fleet.counted(&a, counts(0, 0)).await;
    assert_eq!(fleet.metric("tidelock_streams_closed_at_pace_total"), 5);
}

/// Let in before the gate closed, opened behind the last close: its turn comes too.
#[tokio::test]
async fn a_websocket_that_opens_late_is_closed_as_well() {
    let (a, b) = (Endpoint::listen("a").await, Endpoint::listen("b").await);
    let fleet = Fleet::serving(config(), H1, &[&a]).await;
    let (mut early, _from_early) = websocket(&fleet, &a).await;
    let (late, from_late) = asked_for_websocket(&fleet, &a).await;
    fleet.add(&b);
    let id = drain(&fleet, &a, DrainMode::Streams).await;
    share(&fleet, id, 50_000).await;
    assert_eq!(early.exact(4).await.unwrap(), b"\x88\x02\x03\xf4");
    early.write(b"\x88\x82\0\0\0\0\x03\xf4").await;
    // The one who closes has seen by now that nothing is left to close.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let (mut late, _from_late) = websocket_opened(late, from_late).await;
    assert_eq!(late.exact(4).await.unwrap(), b"\x88\x02\x03\xf4");
}

#[tokio::test]
async fn a_changed_share_holds_at_once_and_none_closes_nothing() {
    let (a, b) = (Endpoint::listen("a").await, Endpoint::listen("b").await);
    let fleet = Fleet::serving(config(), H1, &[&a]).await;
    let (mut first, _from_first) = websocket(&fleet, &a).await;
    let (mut second, mut from_second) = websocket(&fleet, &a).await;
    fleet.add(&b);
    let id = drain(&fleet, &a, DrainMode::Streams).await;
    // One in 1,000 seconds.
    share(&fleet, id, 1).await;
    let closed = async { assert_eq!(first.exact(4).await.unwrap(), b"\x88\x02\x03\xf4") };
    let faster = async {
        tokio::time::sleep(Duration::from_millis(150)).await;
        share(&fleet, id, 5_000).await;
    };
    soon("the first close", Box::pin(async { tokio::join!(closed, faster) })).await;
    share(&fleet, id, 0).await;
    tokio::time::sleep(Duration::from_millis(400)).await;
    second.write(b"\x82\x82\0\0\0\0up").await;
    assert_eq!(from_second.exact(8).await.unwrap(), b"\x82\x82\0\0\0\0up", "the other one lives");
    fleet.cancel_drain(&a).await;
    assert_eq!(fleet.metric("tidelock_streams_closed_at_pace_total"), 1);
}

/// Begins an event stream; its cookie too.
async fn events(client: &mut Peer, upstream: &mut Peer) -> (u32, u32) {
    let stream = client.get("/events").await;
    let at = upstream.expect_request().await.stream;
    upstream.headers(at, &[(":status", "200"), ("content-type", "text/event-stream; charset=utf-8")], false).await;
    let (_, head, _) = client.expect_headers().await;
    assert!(field(&head, "content-type").unwrap().starts_with("text/event-stream"));
    (stream, at)
}

#[tokio::test]
async fn event_streams_end_between_two_events() {
    let (a, b) = (Endpoint::listen("a").await, Endpoint::listen("b").await);
    let fleet = Fleet::serving(config(), H2c, &[&a]).await;
    let mut client = fleet.h2().await;
    let stream = client.get("/plain").await;
    let mut upstream = a.h2().await;
    let plain = upstream.expect_request().await.stream;
    upstream.headers(plain, &[(":status", "200"), ("content-type", "text/plain")], false).await;
    client.expect_headers().await;
    let (whole, whole_at) = events(&mut client, &mut upstream).await;
    upstream.data(whole_at, b"data: 1\n\n", false).await;
    assert_eq!(client.expect_data().await.1, b"data: 1\n\n");
    let (half, half_at) = events(&mut client, &mut upstream).await;
    upstream.data(half_at, b"data: 1\n\ndata:", false).await;
    assert_eq!(client.expect_data().await.1, b"data: 1\n\ndata:");
    fleet.counted(&a, with_event_streams(3, 2)).await;

    fleet.add(&b);
    let id = drain(&fleet, &a, DrainMode::Streams).await;
    share(&fleet, id, 20_000).await;
    assert_eq!(client.expect_data().await, (whole, vec![], true), "ended in order");
    assert_eq!(upstream.expect_reset(whole_at).await, CANCEL);
    upstream.quiet().await;
    upstream.data(half_at, b" 2\n", false).await;
    assert_eq!(client.expect_data().await, (half, b" 2\n".to_vec(), false));
    upstream.data(half_at, b"\n", false).await;
    assert_eq!(client.expect_data().await, (half, b"\n".to_vec(), false), "the event ends");
    assert_eq!(client.expect_data().await, (half, vec![], true));
    assert_eq!(upstream.expect_reset(half_at).await, CANCEL);
    // A response that ends by itself is left to it.
    fleet.counted(&a, counts(1, 0)).await;
    upstream.data(plain, b"whole", true).await;
    assert_eq!(client.expect_data().await, (stream, b"whole".to_vec(), true));
}

#[tokio::test]
async fn event_streams_over_http1_end_with_their_last_chunk() {
    let (a, b) = (Endpoint::listen("a").await, Endpoint::listen("b").await);
    let fleet = Fleet::serving(config(), H1, &[&a]).await;
    let mut client = fleet.h1().await;
    client.get("/events").await;
    let mut upstream = a.h1().await;
    upstream.head().await;
    upstream.write("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n").await;
    upstream.write("9\r\ndata: 1\n\n\r\n").await;
    assert_eq!(client.head().await.status(), "200");
    assert_eq!(client.chunk().await.unwrap(), b"data: 1\n\n");
    fleet.counted(&a, with_event_streams(1, 1)).await;
    fleet.add(&b);
    let id = drain(&fleet, &a, DrainMode::Streams).await;
    share(&fleet, id, 20_000).await;
    assert_eq!(client.chunk().await.unwrap(), b"", "the last chunk");
    assert!(upstream.rest().await.is_empty(), "the endpoint's connection is of no more use");
    fleet.counted(&a, counts(0, 0)).await;
    // The client's connection goes on.
    client.trailers().await;
    client.get("/again").await;
    let mut from_b: Http1 = b.h1().await;
    from_b.head().await;
}

/// An event that never ends is not waited for.
#[tokio::test]
async fn an_event_stream_that_hangs_in_an_event_is_cut() {
    let (a, b) = (Endpoint::listen("a").await, Endpoint::listen("b").await);
    let fleet = Fleet::serving(config(), H2c, &[&a]).await;
    let mut client = fleet.h2().await;
    let stream = client.get("/events").await;
    let mut upstream = a.h2().await;
    let at = upstream.expect_request().await.stream;
    upstream.headers(at, &[(":status", "200"), ("content-type", "text/event-stream")], false).await;
    upstream.data(at, b"data: 1", false).await;
    client.expect_headers().await;
    client.expect_data().await;
    fleet.add(&b);
    let id = drain(&fleet, &a, DrainMode::Streams).await;
    share(&fleet, id, 20_000).await;
    client.expect_reset(stream).await;
    fleet.counted(&a, counts(0, 0)).await;
}

#[tokio::test]
async fn sessions_that_have_had_their_time_are_closed_too() {
    let (a, b) = (Endpoint::listen("a").await, Endpoint::listen("b").await);
    let fleet = Fleet::serving(config(), H1, &[&a]).await;
    let (mut client, _upstream) = websocket(&fleet, &a).await;
    fleet.add(&b);
    let id = drain(&fleet, &a, DrainMode::Sessions).await;
    fleet.apply(Command::EndSessions { drain: id });
    share(&fleet, id, 20_000).await;
    assert_eq!(client.rest().await, b"\x88\x02\x03\xf4");
}

/// What a switchover is judged by, of its new side only.
#[tokio::test]
async fn outcomes_are_reported_of_a_switchovers_new_side() {
    let (a, b) = (Endpoint::listen("a").await, Endpoint::listen("b").await);
    let fleet = Fleet::serving(config(), H1, &[&a, &b]).await;
    let spec =
        serde_json::json!({ "from": { "endpoints": ["a"] }, "to": { "endpoints": ["b"] }, "max_error_percent": 5 });
    fleet.apply(Command::StartSwitchover { pool: name("app"), spec: serde_json::from_value(spec).unwrap() });
    let switchover = tidelock_core::id::SwitchoverId(fleet.epoch());
    fleet.apply(Command::ShiftSwitchover { switchover });
    fleet.adopted().await;
    let mut client = fleet.h1().await;
    for (answer, good, failed) in
        [("200 OK", 1, 0), ("404 Not Found", 2, 0), ("500 Internal Server Error", 2, 1), ("", 2, 2)]
    {
        client.request("POST / HTTP/1.1\r\n", "").await;
        let mut upstream = match answer {
            "" => None,
            _ => Some(b.h1().await),
        };
        if let Some(upstream) = &mut upstream {
            upstream.head().await;
            upstream.write(format!("HTTP/1.1 {answer}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")).await;
        } else {
            drop(b.accept().await);
        }
        client.response().await;
        let outcomes = [(fleet.id(&b), Outcomes { good, failed })].into();
        fleet.reported(|report| report.outcomes == outcomes).await;
    }
}

/// What a POST is answered with is an answer, however long it takes: it is not cut, and nobody would ask
/// for it again.
#[tokio::test]
async fn an_answer_to_a_post_that_comes_as_events_is_left_to_end() {
    let (a, b) = (Endpoint::listen("a").await, Endpoint::listen("b").await);
    let fleet = Fleet::serving(config(), H2c, &[&a]).await;
    let mut client = fleet.h2().await;
    let stream = client.request("POST", "/completions", &[], true).await;
    let mut upstream = a.h2().await;
    let at = upstream.expect_request().await.stream;
    upstream.headers(at, &[(":status", "200"), ("content-type", "text/event-stream")], false).await;
    upstream.data(at, b"data: 1\n\n", false).await;
    client.expect_headers().await;
    client.expect_data().await;
    fleet.counted(&a, counts(1, 0)).await;
    fleet.add(&b);
    let id = drain(&fleet, &a, DrainMode::Streams).await;
    share(&fleet, id, 50_000).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    upstream.data(at, b"data: 2\n\n", true).await;
    assert_eq!(client.expect_data().await, (stream, b"data: 2\n\n".to_vec(), true));
}

/// A client that does not read is not waited for either.
#[tokio::test]
async fn an_event_stream_whose_client_does_not_read_is_cut_in_time() {
    let (a, b) = (Endpoint::listen("a").await, Endpoint::listen("b").await);
    let fleet = Fleet::serving(config(), H1, &[&a]).await;
    let mut client = fleet.h1().await;
    client.get("/events").await;
    let mut upstream = a.h1().await;
    upstream.head().await;
    upstream.write("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n").await;
    client.head().await;
    // More than all buffers between the two hold.
    let flood = vec![b'\n'; 1 << 20];
    while tokio::time::timeout(Duration::from_millis(300), upstream.write(&flood)).await.is_ok() {}
    fleet.counted(&a, with_event_streams(1, 1)).await;
    fleet.add(&b);
    let id = drain(&fleet, &a, DrainMode::Streams).await;
    let start = Instant::now();
    share(&fleet, id, 50_000).await;
    fleet.counted(&a, counts(0, 0)).await;
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
}
