//! A drain's deadline is for everything that runs, whoever it waits for.

use std::time::Duration;

use tidelock_core::command::DrainMode;

use crate::fleet::{Endpoint, Fleet, H1, H2c, Speaks, config};
use crate::frames::Event;

/// A client that takes nothing does not keep a drain from its end.
async fn blocked_at_the_deadline(protocol: Speaks, h1_client: bool) {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), protocol, &[&endpoint]).await;
    let mut keep: Vec<Box<dyn std::any::Any>> = Vec::new();
    if h1_client {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4_096).unwrap();
        let mut client = socket.connect(fleet.address()).await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut client, b"GET / HTTP/1.1\r\nhost: app.test\r\n\r\n").await.unwrap();
        keep.push(Box::new(client));
    } else {
        let mut client = fleet.h2().await;
        // SETTINGS_INITIAL_WINDOW_SIZE 0.
        client.frame(4, 0, 0, &[0, 4, 0, 0, 0, 0]).await;
        client.ping().await;
        client.get("/").await;
        keep.push(Box::new(client));
    }
    // As much as is taken.
    let floods = async {
        match protocol {
            H1 => {
                let mut upstream = endpoint.h1().await;
                upstream.head().await;
                upstream.write("HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n").await;
                while tokio::io::AsyncWriteExt::write_all(&mut upstream.io, &[b'x'; 60_000]).await.is_ok() {}
            }
            H2c => {
                let mut upstream = endpoint.h2().await;
                let stream = upstream.expect_request().await.stream;
                upstream.headers(stream, &[(":status", "200")], false).await;
                loop {
                    while upstream.may_send(stream) < 10_000 {
                        if upstream.ping().await.iter().any(|event| matches!(event, Event::Closed)) {
                            return;
                        }
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                    upstream.data(stream, &[b'x'; 10_000], false).await;
                }
            }
        }
    };
    let drained = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        fleet.drain(&endpoint, DrainMode::Streams, Some(Duration::from_millis(100))).await;
        fleet.counted(&endpoint, crate::drains::counts(0, 0)).await;
    };
    tokio::pin!(floods);
    tokio::select! { () = drained => {}, () = async { (&mut floods).await; std::future::pending().await } => {} }
}

#[tokio::test]
async fn a_blocked_h2_client_of_an_h1_endpoint_is_cut_at_the_deadline() {
    blocked_at_the_deadline(H1, false).await;
}

#[tokio::test]
async fn a_blocked_h2_client_of_an_h2_endpoint_is_cut_at_the_deadline() {
    blocked_at_the_deadline(H2c, false).await;
}

#[tokio::test]
async fn a_blocked_h1_client_of_an_h1_endpoint_is_cut_at_the_deadline() {
    blocked_at_the_deadline(H1, true).await;
}

#[tokio::test]
async fn a_blocked_h1_client_of_an_h2_endpoint_is_cut_at_the_deadline() {
    blocked_at_the_deadline(H2c, true).await;
}

/// A download that an HTTP/1.1 endpoint sends faster than its client reads ends at the deadline too.
#[tokio::test]
async fn a_fast_download_ends_at_the_deadline() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H1, &[&endpoint]).await;
    let mut client = fleet.h1().await;
    client.get("/large").await;
    let floods = async {
        let mut upstream = endpoint.h1().await;
        upstream.head().await;
        upstream.write("HTTP/1.1 200 OK\r\ncontent-length: 100000000000\r\n\r\n").await;
        while tokio::io::AsyncWriteExt::write_all(&mut upstream.io, &[b'x'; 100_000]).await.is_ok() {}
    };
    let reads = async {
        let mut buffer = vec![0; 20_000];
        while let Ok(1..) = tokio::io::AsyncReadExt::read(&mut client.io, &mut buffer).await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let drained = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        fleet.drain(&endpoint, DrainMode::Streams, Some(Duration::from_millis(100))).await;
        fleet.counted(&endpoint, crate::drains::counts(0, 0)).await;
    };
    tokio::join!(floods, reads, drained);
}

/// A client that did not read when its event stream was cut has done nothing wrong.
#[tokio::test]
async fn who_is_cut_off_has_not_broken_off() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H2c, &[&endpoint]).await;
    let mut client = fleet.h2().await;
    client.frame(4, 0, 0, &[0, 4, 0, 0, 0, 0]).await;
    client.ping().await;
    client.get("/").await;
    let mut upstream = endpoint.h2().await;
    let at = upstream.expect_request().await.stream;
    upstream.headers(at, &[(":status", "200"), ("content-type", "text/event-stream")], false).await;
    upstream.data(at, b"data: x", false).await;
    client.expect_headers().await;
    fleet.drain(&endpoint, DrainMode::Streams, Some(Duration::from_millis(100))).await;
    client.next().await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(fleet.metric("tidelock_client_aborts_total"), 0);
    assert_eq!(fleet.metric("tidelock_responses_cut_total"), 1);
}
