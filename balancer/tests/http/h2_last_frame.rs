//! H2: END_STREAM rides on data, small bodies are one frame, and the last frame of a longer body
//! waits until the endpoint is seen to read. What has no known length passes at once.

use std::time::{Duration, Instant};

use tidelock_balancer::{Config, Timeouts};
use tidelock_core::spec::PoolSpec;

use crate::fleet::{Endpoint, Fleet, H2c, config};
use crate::frames::{CANCEL, Event, Peer};
use crate::hpack::field;

#[tokio::test]
async fn the_end_rides_on_the_last_data() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H2c, &[&endpoint]).await;
    let mut client = fleet.h2().await;
    let stream = client.request("POST", "/up", &[("content-length", "200")], false).await;
    client.data(stream, &[b'x'; 200], false).await;
    let mut upstream = endpoint.h2().await;
    let (at, ..) = upstream.expect_headers().await;
    client.ping().await;
    upstream.quiet().await;
    client.data(stream, b"", true).await;
    assert_eq!(upstream.expect_data().await, (at, vec![b'x'; 200], true));
    upstream.quiet().await;
}

#[tokio::test]
async fn a_body_of_a_frames_length_is_one_frame() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H2c, &[&endpoint]).await;
    let body: Vec<u8> = (0..16_384u32).map(|i| i as u8).collect();
    let mut client = fleet.h2().await;
    let stream = client.request("POST", "/up", &[("content-length", "16384")], false).await;
    for piece in body.chunks(5_000) {
        client.data(stream, piece, false).await;
        client.ping().await;
    }
    client.data(stream, b"", true).await;
    let mut upstream = endpoint.h2().await;
    let request = upstream.expect_request().await;
    assert_eq!((request.frames, request.body == body), (vec![16_384], true));

    let mut client = fleet.h1().await;
    client.request("POST /up HTTP/1.1\r\ncontent-length: 16384\r\n", &body[..9_000]).await;
    client.write(&body[9_000..]).await;
    let request = upstream.expect_request().await;
    assert_eq!((request.frames, request.body == body), (vec![16_384], true));
}

fn holding_back(hold_back: Duration) -> Config {
    let config = config();
    Config { timeouts: Timeouts { body_hold_back: hold_back, ..config.timeouts.clone() }, ..config }
}

/// An upload of 40,000 bytes as far as it comes before the endpoint has shown that it reads.
async fn held_back(fleet: &Fleet, endpoint: &Endpoint) -> (Peer, Peer, u32, Vec<u8>) {
    let body: Vec<u8> = (0..40_000u32).map(|i| (i / 7) as u8).collect();
    let mut client = fleet.h2().await;
    let stream = client.request("POST", "/up", &[("content-length", "40000")], false).await;
    client.body(stream, &body, true).await;
    client.ping().await;
    let mut upstream = endpoint.h2().await;
    let (at, ..) = upstream.expect_headers().await;
    let mut had = Vec::new();
    while had.len() < 32_768 {
        let (_, bytes, end) = upstream.expect_data().await;
        assert!(!end);
        had.extend(bytes);
    }
    assert_eq!(had, &body[..32_768]);
    (client, upstream, at, body[32_768..].to_vec())
}

#[tokio::test]
async fn the_last_frame_waits_for_a_window_update_on_its_stream() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(holding_back(Duration::from_secs(60)), H2c, &[&endpoint]).await;
    let (_client, mut upstream, at, last) = held_back(&fleet, &endpoint).await;
    upstream.quiet().await;
    upstream.window_update(0, 32_768).await;
    upstream.quiet().await;
    upstream.window_update(at, 1).await;
    assert_eq!(upstream.expect_data().await, (at, last, true));
    upstream.quiet().await;
}

#[tokio::test]
async fn the_last_frame_waits_for_the_answer() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(holding_back(Duration::from_secs(60)), H2c, &[&endpoint]).await;
    let (_client, mut upstream, at, last) = held_back(&fleet, &endpoint).await;
    upstream.quiet().await;
    upstream.headers(at, &[(":status", "200")], false).await;
    assert_eq!(upstream.expect_data().await, (at, last, true));
}

#[tokio::test]
async fn the_last_frame_does_not_wait_for_ever() {
    let endpoint = Endpoint::listen("a").await;
    let hold_back = Duration::from_millis(200);
    let fleet = Fleet::serving(holding_back(hold_back), H2c, &[&endpoint]).await;
    let begun = Instant::now();
    let (_client, mut upstream, at, last) = held_back(&fleet, &endpoint).await;
    assert_eq!(upstream.expect_data().await, (at, last, true));
    assert!(begun.elapsed() >= hold_back, "{:?}", begun.elapsed());
}

/// A client that breaks off while its last frame is held back has not sent a whole request.
#[tokio::test]
async fn an_abort_during_the_wait_is_a_cancel() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(holding_back(Duration::from_secs(60)), H2c, &[&endpoint]).await;
    let (mut client, mut upstream, at, _) = held_back(&fleet, &endpoint).await;
    client.reset(1, CANCEL).await;
    assert_eq!(upstream.expect_reset(at).await, CANCEL);
    upstream.quiet_or_over().await;
}

/// As gRPC streams do it: each message is answered before the next one is sent.
#[tokio::test]
async fn a_body_of_unknown_length_passes_at_once() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(holding_back(Duration::from_secs(60)), H2c, &[&endpoint]).await;
    let mut client = fleet.h2().await;
    let stream = client.request("POST", "/chat", &[("te", "trailers")], false).await;
    let mut upstream = endpoint.h2().await;
    let (at, fields, _) = upstream.expect_headers().await;
    assert_eq!(field(&fields, "te"), Some("trailers"));
    for turn in 0..20u8 {
        client.data(stream, &[turn; 40], false).await;
        assert_eq!(upstream.expect_data().await, (at, vec![turn; 40], false));
        if turn == 0 {
            upstream.headers(at, &[(":status", "200")], false).await;
            client.expect_headers().await;
        }
        upstream.data(at, &[turn; 30], false).await;
        assert_eq!(client.expect_data().await, (stream, vec![turn; 30], false));
    }
    client.data(stream, b"", true).await;
    assert_eq!(upstream.expect_data().await, (at, vec![], true));
    upstream.headers(at, &[("grpc-status", "0")], true).await;
    let response = client.response(stream).await;
    assert_eq!(response.status(), "none", "the trailers alone are left");
    response.whole();
}

#[tokio::test]
async fn a_length_that_is_left_out_has_been_checked() {
    let endpoint = Endpoint::listen("a").await;
    let spec = PoolSpec { protocol: H2c.into(), strip_content_length: true, ..PoolSpec::default() };
    let fleet = Fleet::with_pool(config(), spec, &[&endpoint]).await;
    let mut client = fleet.h2().await;
    let stream = client.request("POST", "/up", &[("content-length", "200")], false).await;
    client.data(stream, &[b'x'; 200], false).await;
    client.data(stream, b"", true).await;
    let mut upstream = endpoint.h2().await;
    let request = upstream.expect_request().await;
    assert_eq!((field(&request.fields, "content-length"), request.frames), (None, vec![200]));

    let short = client.request("POST", "/up", &[("content-length", "30000")], false).await;
    client.data(short, &[b'x'; 16_384], false).await;
    let (at, ..) = upstream.expect_headers().await;
    client.data(short, &[b'x'; 100], true).await;
    loop {
        match upstream.next().await {
            Event::Data { end: false, .. } => {}
            Event::Reset { stream, code } => break assert_eq!((stream, code), (at, CANCEL)),
            other => panic!("{other:?}"),
        }
    }
    upstream.quiet().await;
}
