//! The node's own leaving: every connection is told, what runs ends, and what does not is cut at
//! the deadline.

use std::time::{Duration, Instant};

use tidelock_core::command::DrainMode;
use tokio::net::TcpStream;

use crate::fleet::{Endpoint, Fleet, H1, H2c, config};
use crate::frames::{Ended, Event, NO_ERROR, Peer};

const LONG: Duration = Duration::from_secs(8);

async fn told_to_go(client: &mut Peer) {
    let mut last_id = u32::MAX;
    loop {
        match client.next().await {
            Event::GoAway { last, code } => {
                assert_eq!(code, NO_ERROR);
                assert!(last <= last_id, "a later GOAWAY does not raise it");
                last_id = last;
                if last != 0x7fff_ffff {
                    return;
                }
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn running_streams_finish_behind_the_goaway() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H2c, &[&endpoint]).await;
    let mut idle = fleet.h2().await;
    let mut client = fleet.h2().await;
    let stream = client.get("/download").await;
    let mut upstream = endpoint.h2().await;
    let at = upstream.expect_request().await.stream;
    upstream.headers(at, &[(":status", "200")], false).await;
    client.expect_headers().await;
    let mut kept = fleet.h1().await;
    kept.get("/").await;
    let kept_at = upstream.expect_request().await.stream;
    upstream.respond(kept_at, "200", b"fine").await;
    kept.response().await;
    let mut busy = fleet.h1().await;
    busy.get("/").await;
    let busy_at = upstream.expect_request().await.stream;

    let address = fleet.address();
    fleet.balancer.leave();
    told_to_go(&mut idle).await;
    assert_eq!(idle.next().await, Event::Closed, "an idle connection ends");
    told_to_go(&mut client).await;
    assert!(kept.rest().await.is_empty(), "a kept HTTP/1.1 connection closes");
    assert!(TcpStream::connect(address).await.is_err(), "nobody listens any more");
    fleet.reported(|report| report.leaving).await;

    upstream.data(at, b"all of it", true).await;
    assert_eq!(client.response(stream).await.body, b"all of it");
    assert_eq!(client.next().await, Event::Closed);
    upstream.respond(busy_at, "200", b"fine").await;
    let (head, body) = busy.response().await;
    assert_eq!((head.field("connection"), &body[..]), (Some("close"), &b"fine"[..]));
    assert!(busy.rest().await.is_empty());
    let begun = Instant::now();
    assert!(fleet.balancer.end(LONG).await, "nothing had to be cut");
    assert!(begun.elapsed() < LONG / 2);
}

/// The connection's idle time is over just when a request comes: it takes as long as it takes.
#[tokio::test]
async fn a_request_that_crosses_the_goaway_of_an_idle_connection_is_not_cut() {
    let endpoint = Endpoint::listen("a").await;
    let mut config = config();
    config.timeouts.downstream_idle = Duration::from_millis(100);
    config.timeouts.handshake = Duration::from_millis(200);
    let fleet = Fleet::serving(config, H2c, &[&endpoint]).await;
    let mut client = fleet.h2().await;
    // Its PING is not answered: it is read with what comes next.
    assert_eq!(client.next().await, Event::GoAway { last: 0x7fff_ffff, code: NO_ERROR });
    let stream = client.get("/long").await;
    let mut upstream = endpoint.h2().await;
    let at = upstream.expect_request().await.stream;
    // Longer than a connection that nobody uses is waited for.
    tokio::time::sleep(Duration::from_millis(400)).await;
    upstream.respond(at, "200", b"all of it").await;
    assert_eq!(client.response(stream).await.whole(), ("200", &b"all of it"[..]));
}

#[tokio::test]
async fn a_request_that_came_before_the_goaway_reached_its_client_is_served() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H2c, &[&endpoint]).await;
    let mut client = fleet.h2().await;
    fleet.balancer.leave();
    // The first GOAWAY names no stream: until its PING is answered all streams are taken. The
    // peer here has not read it yet.
    let stream = client.get("/").await;
    let mut upstream = endpoint.h2().await;
    let request = upstream.expect_request().await;
    upstream.respond(request.stream, "200", b"fine").await;
    let response = client.response(stream).await;
    assert_eq!(response.whole(), ("200", &b"fine"[..]));
    assert!(fleet.balancer.end(LONG).await);
}

#[tokio::test]
async fn what_is_stuck_is_cut_at_the_deadline() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H2c, &[&endpoint]).await;
    let mut client = fleet.h2().await;
    let stream = client.get("/stuck").await;
    let mut upstream = endpoint.h2().await;
    let at = upstream.expect_request().await.stream;
    upstream.headers(at, &[(":status", "200")], false).await;
    client.expect_headers().await;
    let deadline = Duration::from_millis(300);
    let begun = Instant::now();
    assert!(!fleet.balancer.end(deadline).await, "a stream had to be cut");
    assert!((deadline..deadline * 5).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    assert_ne!(client.response(stream).await.ended(), Ended::Whole);
}

/// HTTP/1.1 has no word for "no more requests" but a response's `connection: close`.
#[tokio::test]
async fn a_kept_connection_is_told_by_its_next_response() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H2c, &[&endpoint]).await;
    let mut kept = fleet.h1().await;
    kept.get("/").await;
    let mut upstream = endpoint.h2().await;
    let first = upstream.expect_request().await.stream;
    upstream.respond(first, "200", b"fine").await;
    kept.response().await;

    fleet.balancer.leave();
    fleet.reported(|report| report.leaving).await;
    kept.get("/").await;
    let next = upstream.expect_request().await.stream;
    upstream.respond(next, "200", b"fine").await;
    let (head, body) = kept.response().await;
    assert_eq!((head.field("connection"), &body[..]), (Some("close"), &b"fine"[..]));
    assert!(fleet.balancer.end(LONG).await);
}

/// Nothing that only waits keeps the process: idle connections to endpoints, removed ones too,
/// and drains whose deadline is far away.
#[tokio::test]
async fn an_idle_node_ends_at_once() {
    for protocol in [H2c, H1] {
        let (a, b) = (Endpoint::listen("a").await, Endpoint::listen("b").await);
        let fleet = Fleet::serving(config(), protocol, &[&a]).await;
        let mut client = fleet.h2().await;
        let stream = client.get("/").await;
        let (mut h1, mut h2) = (None, None);
        match protocol {
            H2c => {
                let upstream = h2.insert(a.h2().await);
                let at = upstream.expect_request().await.stream;
                upstream.respond(at, "200", b"fine").await;
            }
            H1 => {
                let upstream = h1.insert(a.h1().await);
                upstream.head().await;
                upstream.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
            }
        }
        client.response(stream).await.whole();
        fleet.add(&b);
        fleet.drain(&b, DrainMode::Sessions, Some(Duration::from_secs(3_600))).await;
        drop(client);
        let begun = Instant::now();
        assert!(fleet.balancer.end(LONG).await, "{protocol:?}");
        assert!(begun.elapsed() < LONG / 4, "{protocol:?}: {:?}", begun.elapsed());
    }
}

/// WebSockets do not end by themselves: they are told to come back, elsewhere, one after the other.
#[tokio::test]
async fn websockets_are_sent_away_in_time() {
    let a = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H1, &[&a]).await;
    let mut sockets = Vec::new();
    for _ in 0..3 {
        sockets.push(crate::drains::websocket(&fleet, &a).await);
    }
    let start = std::time::Instant::now();
    let end = tokio::spawn(fleet.balancer.end(LONG));
    for (i, (client, upstream)) in sockets.iter_mut().enumerate() {
        assert_eq!(client.exact(4).await.unwrap(), b"\x88\x02\x03\xf4", "1012");
        assert_eq!(&upstream.exact(8).await.unwrap()[..2], b"\x88\x82");
        // Fifty a second.
        assert!(start.elapsed() + Duration::from_millis(50) >= Duration::from_millis(20) * (i as u32 + 1));
        client.write(b"\x88\x82\0\0\0\0\x03\xf4").await;
    }
    assert!(end.await.unwrap(), "nothing had to be cut");
}

/// More than the default pace would do in time: they are closed evenly, and all before the deadline.
#[tokio::test]
async fn many_websockets_are_sent_away_evenly_and_before_the_deadline() {
    const SOCKETS: usize = 200;
    let a = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H1, &[&a]).await;
    let mut sockets = Vec::new();
    for _ in 0..SOCKETS {
        sockets.push(crate::drains::websocket(&fleet, &a).await);
    }
    let deadline = Duration::from_secs(2);
    let start = std::time::Instant::now();
    let end = tokio::spawn(fleet.balancer.end(deadline));
    let mut told = Vec::new();
    for (client, _) in &mut sockets {
        assert_eq!(client.exact(4).await.unwrap(), b"\x88\x02\x03\xf4");
        told.push(start.elapsed());
        client.write(b"\x88\x82\0\0\0\0\x03\xf4").await;
    }
    assert!(end.await.unwrap(), "nothing had to be cut");
    let (half, last) = (told[SOCKETS / 2], told[SOCKETS - 1]);
    let fifth = deadline / 5;
    assert!((fifth..fifth * 3).contains(&half), "half of them after {half:?}");
    assert!((fifth * 3..fifth * 9 / 2).contains(&last), "the last after {last:?}");
}

/// So are those of an endpoint that has been taken out: they go on there until something ends them.
#[tokio::test]
async fn websockets_of_a_removed_endpoint_are_sent_away_too() {
    let (a, b) = (Endpoint::listen("a").await, Endpoint::listen("b").await);
    let fleet = Fleet::serving(config(), H1, &[&a]).await;
    let (mut client, _upstream) = crate::drains::websocket(&fleet, &a).await;
    fleet.add(&b);
    fleet.remove(&a).await;
    let end = tokio::spawn(fleet.balancer.end(LONG));
    assert_eq!(client.exact(4).await.unwrap(), b"\x88\x02\x03\xf4", "1012");
    client.write(b"\x88\x82\0\0\0\0\x03\xf4").await;
    assert!(end.await.unwrap(), "nothing had to be cut");
}

/// One that has hardly any time is told all the same, and then cut.
#[tokio::test]
async fn a_websocket_is_cut_at_the_deadline() {
    let a = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H1, &[&a]).await;
    let (mut client, mut upstream) = crate::drains::websocket(&fleet, &a).await;
    assert!(!fleet.balancer.end(Duration::from_millis(200)).await);
    assert_eq!(client.rest().await, b"\x88\x02\x03\xf4");
    assert_eq!(upstream.rest().await.len(), 8);
}

/// Workers without connections end first. The others follow the fleet's tables to the end, and the node says so:
/// drains elsewhere wait for its word.
#[tokio::test]
async fn a_node_on_its_way_out_still_says_what_it_reads() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(tidelock_balancer::Config { workers: 4, ..config() }, H2c, &[&endpoint]).await;
    let mut client = fleet.h2().await;
    let stream = client.get("/download").await;
    let mut upstream = endpoint.h2().await;
    let at = upstream.expect_request().await.stream;
    fleet.balancer.leave();
    fleet.reported(|report| report.leaving).await;
    // By now the idle ones have ended, or end before the next table.
    tokio::time::sleep(Duration::from_millis(200)).await;
    fleet.drain(&endpoint, DrainMode::Streams, None).await;
    let epoch = Some(tidelock_core::id::Epoch(fleet.epoch()));
    fleet.reported(|report| report.epoch == epoch).await;
    upstream.respond(at, "200", b"fine").await;
    client.response(stream).await.whole();
    assert!(fleet.balancer.end(LONG).await);
}
