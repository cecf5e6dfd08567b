//! H13, H18: everything has its time. What is over it ends, with a word that says so, and never looks whole.

use std::convert::Infallible;
use std::time::Duration;

use tidelock_core::report::Counts;
use tidelock_core::spec::PoolSpec;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpSocket, TcpStream};

use crate::fleet::{Endpoint, Fleet, H1, H2c, Speaks, config};
use crate::frames::{Ended, soon};
use crate::h8_websockets::bridged;
use crate::hpack::field;
use crate::http1::{Cut, Head, Http1};

const INTERNAL_ERROR: u32 = 2;

fn pool(protocol: Speaks, timeouts: serde_json::Value) -> PoolSpec {
    PoolSpec { protocol: protocol.into(), timeouts: serde_json::from_value(timeouts).unwrap(), ..PoolSpec::default() }
}

/// An endpoint that takes a request; and answers it with a byte each 20 ms, for ever, if it `answers`.
async fn app(endpoint: &Endpoint, protocol: Speaks, answers: bool) -> Infallible {
    let every = || tokio::time::sleep(Duration::from_millis(20));
    match protocol {
        H2c => {
            let mut upstream = endpoint.h2().await;
            let (stream, ..) = upstream.expect_headers().await;
            if answers {
                upstream.headers(stream, &[(":status", "200")], false).await;
                loop {
                    upstream.data(stream, b".", false).await;
                    every().await;
                }
            }
            std::future::pending().await
        }
        H1 => {
            let mut upstream = endpoint.h1().await;
            upstream.head().await;
            if answers {
                upstream.write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
                loop {
                    upstream.write("1\r\n.\r\n").await;
                    every().await;
                }
            }
            std::future::pending().await
        }
    }
}

async fn read(client: &mut Http1) -> (Head, Result<Vec<u8>, Cut>) {
    let head = client.head().await;
    let body = client.body(&head).await;
    (head, body)
}

#[tokio::test]
async fn a_request_has_a_time_for_all_of_it() {
    for protocol in [H2c, H1] {
        let endpoint = Endpoint::listen("a").await;
        let spec = pool(protocol, serde_json::json!({ "total_ms": 300 }));
        let fleet = Fleet::with_pool(config(), spec, &[&endpoint]).await;
        for (answers, status) in [(false, "504"), (true, "200")] {
            let mut client = fleet.h2().await;
            client.reads = true;
            let stream = client.get("/").await;
            let response = tokio::select! {
                response = client.response(stream) => response,
                never = app(&endpoint, protocol, answers) => match never {},
            };
            assert_eq!(response.status(), status, "{protocol:?}");
            match answers {
                false => assert_eq!(response.field("tidelock-reason"), Some("too-slow")),
                true => assert_eq!(response.ended(), Ended::Reset(INTERNAL_ERROR), "{} bytes", response.body.len()),
            }
            endpoint.forget();
            let mut client = fleet.h1().await;
            client.get("/").await;
            let (head, body) = tokio::select! {
                response = read(&mut client) => response,
                never = app(&endpoint, protocol, answers) => match never {},
            };
            assert_eq!((head.status(), body.is_ok()), (status, !answers), "{protocol:?}");
            endpoint.forget();
        }
        assert_eq!(fleet.metric("tidelock_responses_timed_out_total"), 2);
        assert_eq!(fleet.metric("tidelock_responses_own_total{reason=\"too-slow\"}"), 2);
        assert_eq!(fleet.metric("tidelock_responses_cut_total"), 0, "each has one cause");
        fleet.counted(&endpoint, Counts::default()).await;
    }
}

/// Nobody knows how long it will be, so it has no rate: but a byte now and then is not for ever.
#[tokio::test]
async fn an_upload_of_unknown_length_has_a_time_too() {
    for protocol in [H2c, H1] {
        let endpoint = Endpoint::listen("a").await;
        let spec = pool(protocol, serde_json::json!({ "total_ms": 300 }));
        let fleet = Fleet::with_pool(config(), spec, &[&endpoint]).await;
        let mut client = fleet.h2().await;
        let stream = client.request("POST", "/", &[], false).await;
        let crawl = async {
            loop {
                client.data(stream, b".", false).await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::select! {
            () = crawl => {},
            never = app(&endpoint, protocol, false) => match never {},
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
        assert_eq!(client.response(stream).await.status(), "408", "{protocol:?}");
        assert_eq!(fleet.metric("tidelock_responses_own_total{reason=\"slow-request\"}"), 1);
        fleet.counted(&endpoint, Counts::default()).await;
    }
}

/// Waiting for a place is a part of it, and a WebSocket that is open is not.
#[tokio::test]
async fn waiting_counts_and_an_open_websocket_does_not() {
    let endpoint = Endpoint::listen("a").await;
    let mut spec = pool(H1, serde_json::json!({ "total_ms": 300 }));
    spec.limits.max_requests = Some(1.try_into().unwrap());
    let fleet = Fleet::with_pool(config(), spec, &[&endpoint]).await;
    let mut client = fleet.h2().await;
    let (socket, mut upstream) = bridged(&mut client, &endpoint).await;
    let begun = std::time::Instant::now();
    let stream = client.get("/").await;
    let response = client.response(stream).await;
    assert_eq!((response.status(), response.field("tidelock-reason")), ("504", Some("too-slow")));
    assert!(begun.elapsed() >= Duration::from_millis(300), "{:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(4), "it did not wait for connect_ms: {:?}", begun.elapsed());
    upstream.write("\u{1}\u{1}b").await;
    assert_eq!(client.expect_data().await, (socket, b"\x01\x01b".to_vec(), false), "it lives on");
}

/// A client that takes a little now and then takes less than one piece in the idle time, and is cut off.
#[tokio::test]
async fn a_reader_that_trickles_is_cut_off() {
    let endpoint = Endpoint::listen("a").await;
    let spec = pool(H2c, serde_json::json!({ "idle_ms": 400 }));
    let fleet = Fleet::with_pool(config(), spec, &[&endpoint]).await;
    let mut client = fleet.h2().await;
    // SETTINGS_INITIAL_WINDOW_SIZE 0.
    client.frame(4, 0, 0, &[0, 4, 0, 0, 0, 0]).await;
    client.ping().await;
    let stream = client.get("/").await;
    let mut upstream = endpoint.h2().await;
    let theirs = upstream.expect_request().await.stream;
    upstream.headers(theirs, &[(":status", "200")], false).await;
    upstream.body(theirs, &[b'x'; 60_000], false).await;
    assert_eq!(client.expect_headers().await.0, stream);
    let mut taken = 0;
    let begun = std::time::Instant::now();
    let code = loop {
        client.window_update(stream, 1).await;
        match soon("a byte", client.next()).await {
            crate::frames::Event::Data { bytes, .. } => taken += bytes.len(),
            crate::frames::Event::Reset { code, .. } => break code,
            other => panic!("{other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_ne!(code, 0);
    assert!(taken > 2 && taken < 1_000, "{taken}");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(fleet.metric("tidelock_responses_timed_out_total"), 1);
    upstream.expect_reset(theirs).await;

    // The same over HTTP/1.1: the sockets' buffers fill, then it takes a hundred bytes at a time.
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    let mut client: TcpStream = socket.connect(fleet.address()).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut client, b"GET / HTTP/1.1\r\nhost: app.test\r\n\r\n").await.unwrap();
    let theirs = upstream.expect_request().await.stream;
    upstream.headers(theirs, &[(":status", "200")], false).await;
    let floods = async {
        loop {
            // Bytes go as the window lets them, which closes.
            upstream.body(theirs, &[b'x'; 60_000], false).await;
        }
    };
    let trickles = async {
        let mut taken = [0; 100];
        while let Ok(1..) = client.read(&mut taken).await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    soon("the cut", async {
        tokio::select! { () = floods => {}, () = cut_off(&fleet) => {}, () = trickles => {} }
    })
    .await;
}

async fn cut_off(fleet: &Fleet) {
    while fleet.metric("tidelock_responses_timed_out_total") < 2 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn answered_h1(client: &mut Http1, upstream: &mut Http1) {
    client.get("/").await;
    upstream.head().await;
    upstream.write("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    assert_eq!(client.response().await.0.status(), "200");
}

/// Below the endpoint's own time, it never closes a connection under a request.
#[tokio::test]
async fn a_connection_is_kept_for_as_long_as_its_pool_says() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::with_pool(config(), pool(H1, serde_json::json!({ "keep_alive_ms": 300 })), &[&endpoint]).await;
    let mut client = fleet.h1().await;
    client.get("/").await;
    let mut upstream = endpoint.h1().await;
    upstream.head().await;
    upstream.write("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    client.response().await;
    answered_h1(&mut client, &mut upstream).await;
    assert!(endpoint.nobody(), "within its time it is used again");
    let idle = std::time::Instant::now();
    assert!(upstream.rest().await.is_empty(), "then it is closed, though nobody asks for it");
    assert!(idle.elapsed() >= Duration::from_millis(300), "{:?}", idle.elapsed());
    tokio::join!(client.get("/"), async { answer_anew(&endpoint).await });
    assert_eq!(client.response().await.0.status(), "200");
}

async fn answer_anew(endpoint: &Endpoint) -> Http1 {
    let mut upstream = endpoint.h1().await;
    upstream.head().await;
    upstream.write("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    upstream
}

/// Also one that is in use all the time.
#[tokio::test]
async fn an_old_connection_takes_no_new_request() {
    let age = serde_json::json!({ "connection_age_ms": 500 });
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::with_pool(config(), pool(H1, age.clone()), &[&endpoint]).await;
    let mut client = fleet.h1().await;
    let (_, mut upstream) = tokio::join!(client.get("/"), answer_anew(&endpoint));
    client.response().await;
    let begun = std::time::Instant::now();
    let left = loop {
        client.get("/").await;
        if upstream.next_head().await.is_none() {
            break begun.elapsed();
        }
        upstream.write("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        client.response().await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!((400..2_000).contains(&left.as_millis()), "{left:?}");
    answer_anew(&endpoint).await;
    assert_eq!(client.response().await.0.status(), "200");

    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::with_pool(config(), pool(H2c, age), &[&endpoint]).await;
    let mut client = fleet.h2().await;
    let long = client.get("/long").await;
    let mut upstream = endpoint.h2().await;
    let theirs = upstream.expect_request().await.stream;
    // Looked at every two seconds.
    tokio::time::sleep(Duration::from_millis(2_800)).await;
    let stream = client.get("/").await;
    let mut other = endpoint.h2().await;
    let request = other.expect_request().await;
    other.respond(request.stream, "200", b"new").await;
    assert_eq!(client.response(stream).await.whole(), ("200", &b"new"[..]));
    upstream.respond(theirs, "200", b"old").await;
    assert_eq!(client.response(long).await.whole(), ("200", &b"old"[..]), "what runs on it runs to its end");
    assert!(matches!(upstream.next().await, crate::frames::Event::GoAway { code: 0, .. }));
}

/// A client's FIN is the one sign that a long poll's browser has gone, so it counts as the end of its interest, as nginx, Envoy and Go
/// have it: the endpoint is told, and no response is made for nobody.
#[tokio::test]
async fn a_client_that_ends_its_side_has_gone() {
    for protocol in [H2c, H1] {
        let endpoint = Endpoint::listen("a").await;
        let fleet = Fleet::serving(config(), protocol, &[&endpoint]).await;
        let mut client = fleet.h1().await;
        client.get("/poll").await;
        match protocol {
            H2c => {
                let mut upstream = endpoint.h2().await;
                let request = upstream.expect_request().await;
                assert_eq!(field(&request.fields, ":path"), Some("/poll"));
                shut(&mut client).await;
                assert_eq!(upstream.expect_reset(request.stream).await, crate::frames::CANCEL);
            }
            H1 => {
                let mut upstream = endpoint.h1().await;
                upstream.head().await;
                shut(&mut client).await;
                assert!(upstream.rest().await.is_empty(), "its connection ends");
            }
        }
        assert!(client.rest().await.is_empty());
        assert_eq!(fleet.metric("tidelock_client_aborts_total"), 1);
    }
}

async fn shut(client: &mut Http1) {
    tokio::io::AsyncWriteExt::shutdown(&mut client.io).await.unwrap();
}
