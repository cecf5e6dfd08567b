//! H7, H18: a side that does not read holds the other one back, in bounded memory, and hurts no
//! stream beside it.

use std::time::Duration;

use socket2::SockRef;
use tokio::io::AsyncWriteExt;

use crate::fleet::{Endpoint, Fleet, H1, H2c, config};
use crate::frames::{Peer, soon};

/// What may be under way of one download: windows, buffers and the kernel's.
const BOUND: usize = 2 << 20;

/// How much of 100 MB `write` gets rid of, piece by piece, until nothing moves any more.
async fn until_it_stops(mut write: impl AsyncFnMut(&[u8]) -> bool) -> usize {
    let piece = vec![b'x'; 16_384];
    let mut sent = 0;
    while sent < 100 << 20 {
        match tokio::time::timeout(Duration::from_millis(500), write(&piece)).await {
            Ok(true) => sent += piece.len(),
            _ => break,
        }
    }
    sent
}

async fn one_more(client: &mut Peer, upstream: &mut Peer) {
    let stream = client.get("/other").await;
    let request = upstream.expect_request().await;
    upstream.headers(request.stream, &[(":status", "200")], true).await;
    assert_eq!(client.response(stream).await.whole().0, "200");
}

#[tokio::test]
async fn an_h2_client_that_does_not_read_holds_an_h2_endpoint_back() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H2c, &[&endpoint]).await;
    let mut client = fleet.h2().await;
    let stream = client.get("/100mb").await;
    let mut upstream = endpoint.h2().await;
    let at = upstream.expect_request().await.stream;
    upstream.headers(at, &[(":status", "200")], false).await;
    client.expect_headers().await;
    let mut sent = 0;
    let piece = [b'x'; 16_384];
    // The windows that the balancer has announced are what the endpoint may send.
    upstream.ping().await;
    while upstream.may_send(at) >= piece.len() {
        upstream.data(at, &piece, false).await;
        sent += piece.len();
        upstream.ping().await;
        assert!(sent < BOUND, "{sent} bytes were taken for a client that reads none");
    }
    one_more(&mut client, &mut upstream).await;
    let mut other = fleet.h2().await;
    one_more(&mut other, &mut upstream).await;
    // And it goes on when the client reads.
    client.window_update(0, 1 << 20).await;
    client.window_update(stream, 1 << 20).await;
    client.reads = true;
    let before = sent;
    while sent < before + (1 << 20) {
        upstream.data(at, &piece, false).await;
        sent += piece.len();
        client.ping_and_drop(stream).await;
    }
    upstream.data(at, b"end", true).await;
    let response = client.response(stream).await;
    response.whole();
    assert!(response.body.ends_with(b"end"));
}

#[tokio::test]
async fn an_h1_client_that_does_not_read_holds_an_h2_endpoint_back() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H2c, &[&endpoint]).await;
    let mut client = fleet.h1().await;
    SockRef::from(&client.io).set_recv_buffer_size(16 * 1024).unwrap();
    client.get("/100mb").await;
    let mut upstream = endpoint.h2().await;
    let at = upstream.expect_request().await.stream;
    upstream.headers(at, &[(":status", "200")], false).await;
    client.head().await;
    let piece = [b'x'; 16_384];
    let mut sent = 0;
    let mut still = 0;
    // The kernel's buffer for the client is the balancer's to fill; no window comes behind it.
    while still < 50 {
        upstream.ping().await;
        if upstream.may_send(at) < piece.len() {
            still += 1;
            tokio::time::sleep(Duration::from_millis(5)).await;
            continue;
        }
        still = 0;
        upstream.data(at, &piece, false).await;
        sent += piece.len();
        assert!(sent < 4 * BOUND, "{sent} bytes were taken for a client that reads none");
    }
    let mut other = fleet.h2().await;
    one_more(&mut other, &mut upstream).await;
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_an_h1_endpoint_back() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H1, &[&endpoint]).await;
    let mut client = fleet.h2().await;
    client.get("/100mb").await;
    let mut upstream = endpoint.h1().await;
    SockRef::from(&upstream.io).set_send_buffer_size(16 * 1024).unwrap();
    upstream.head().await;
    upstream.write("HTTP/1.1 200 OK\r\n\r\n").await;
    client.expect_headers().await;
    let sent = until_it_stops(async |piece| upstream.io.write_all(piece).await.is_ok()).await;
    assert!(sent < BOUND, "{sent}");
    let stream = client.get("/other").await;
    let mut second = endpoint.h1().await;
    second.head().await;
    second.write("HTTP/1.1 204 No Content\r\n\r\n").await;
    assert_eq!(client.response(stream).await.whole().0, "204");
}

/// The other way: an endpoint that does not read holds its uploads back.
#[tokio::test]
async fn an_endpoint_that_does_not_read_holds_its_clients_back() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H2c, &[&endpoint]).await;
    let mut client = fleet.h2().await;
    let stream = client.request("POST", "/100mb", &[], false).await;
    let piece = [b'x'; 16_384];
    let mut sent = 0;
    client.ping().await;
    while client.may_send(stream) >= piece.len() {
        client.data(stream, &piece, false).await;
        sent += piece.len();
        client.ping().await;
        assert!(sent < BOUND, "{sent} bytes were taken for an endpoint that reads none");
    }
    let mut upstream = endpoint.h2().await;
    upstream.expect_headers().await;
    for _ in 0..4 {
        upstream.expect_data().await;
    }
    upstream.quiet().await;
    // The connection's window is used up as well: new streams without a body still pass.
    one_more(&mut client, &mut upstream).await;
}

/// A client may have many streams and take nothing of any: of each, little is held; and more where something is read.
#[tokio::test]
async fn a_response_that_is_read_gets_a_wider_window() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H2c, &[&endpoint]).await;
    let mut client = fleet.h2().await;
    client.frame(4, 0, 0, &INITIAL_WINDOW_0).await;
    let stream = client.get("/").await;
    let mut upstream = endpoint.h2().await;
    let at = upstream.expect_request().await.stream;
    upstream.headers(at, &[(":status", "200")], false).await;
    upstream.ping().await;
    assert_eq!(upstream.may_send(at), 64 * 1024);
    upstream.body(at, &[b'x'; 64 * 1024], false).await;
    upstream.ping().await;
    assert_eq!(upstream.may_send(at), 0, "nothing was read");
    let room = grown(&mut client, stream, &mut upstream, at).await;
    assert!((200_000..256 * 1024).contains(&room), "{room}");
}

/// What the endpoint may send when the client has read a little, and then nothing more.
async fn grown(client: &mut Peer, stream: u32, upstream: &mut Peer, at: u32) -> usize {
    client.window_update(stream, 40_000).await;
    let room = async {
        while upstream.may_send(at) == 0 {
            client.ping_and_drop(stream).await;
            upstream.ping().await;
        }
        upstream.may_send(at)
    };
    soon("a wider window", room).await
}

/// SETTINGS_INITIAL_WINDOW_SIZE.
const INITIAL_WINDOW_0: [u8; 6] = [0, 4, 0, 0, 0, 0];

/// A stream's window that is full and that nobody reads is taken from the connection's. What is left of that is still
/// given back in time: here two thirds are held.
#[tokio::test]
async fn many_clients_that_do_not_read_starve_no_other_one() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H2c, &[&endpoint]).await;
    let mut upstream = None;
    let mut stalled = Vec::new();
    for _ in 0..2 {
        let mut client = fleet.h2().await;
        client.frame(4, 0, 0, &INITIAL_WINDOW_0).await;
        client.window_update(0, 10 << 20).await;
        for _ in 0..96 {
            let stream = client.get("/").await;
            let upstream = match &mut upstream {
                Some(upstream) => upstream,
                none => none.insert(endpoint.h2().await),
            };
            let at = upstream.expect_request().await.stream;
            upstream.headers(at, &[(":status", "200")], false).await;
            upstream.body(at, &[b'x'; 64 * 1024], false).await;
            let room = grown(&mut client, stream, upstream, at).await;
            upstream.body(at, &vec![b'x'; room], false).await;
        }
        stalled.push(client);
    }
    let upstream: &mut Peer = upstream.as_mut().unwrap();
    let mut client = fleet.h2().await;
    client.reads = true;
    let stream = client.get("/").await;
    let at = upstream.expect_request().await.stream;
    let body = vec![b'y'; 24 << 20];
    let send = async {
        upstream.headers(at, &[(":status", "200")], false).await;
        upstream.body(at, &body, true).await;
    };
    let (response, ()) = tokio::join!(client.response(stream), send);
    assert!(response.whole().1 == body);
}

/// The same of uploads that no endpoint reads.
#[tokio::test]
async fn many_uploads_that_nobody_reads_starve_no_other_one() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H2c, &[&endpoint]).await;
    let mut client = fleet.h2().await;
    client.ping().await;
    let full = vec![b'x'; 256 * 1024];
    for _ in 0..127 {
        let stream = client.request("POST", "/", &[], false).await;
        client.body(stream, &full, false).await;
    }
    let stream = client.request("POST", "/", &[], false).await;
    client.ping().await;
    assert!(client.may_send(stream) >= full.len(), "{}", client.may_send(stream));
}
