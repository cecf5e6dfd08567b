//! H3: a response that ends before its request is a success. The client gets all of it, then the
//! rest of its request is read and dropped within bounds; no later trouble spoils the response.

use std::time::{Duration, Instant};

use crate::fleet::{DRAIN, Endpoint, Fleet, H1, H2c, config};
use crate::frames::{CANCEL, Ended, Event, INTERNAL_ERROR, NO_ERROR, PROTOCOL_ERROR, Peer, data, headers, reset};
use crate::http1::Http1;

const BODY: &[u8] = &[b'r'; 3_000];

/// A refusal in one write, as an app makes it that does not look at the body.
fn refusal(stream: u32) -> Vec<u8> {
    [headers(stream, &[(":status", "429"), ("content-length", "3000")], false), data(stream, BODY, true)].concat()
}

fn refusal_h1() -> Vec<u8> {
    [b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 3000\r\n\r\n", BODY].concat()
}

/// Reads until the upload towards the endpoint has been stopped, not ended.
async fn stopped(upstream: &mut Peer, stream: u32) {
    loop {
        match upstream.next().await {
            Event::Data { end: false, .. } => {}
            Event::Reset { stream: at, code } => {
                assert_eq!(at, stream);
                break assert!(code == CANCEL || code == NO_ERROR, "{code}");
            }
            other => panic!("{other:?}"),
        }
    }
    upstream.quiet_or_over().await;
}

#[tokio::test]
async fn an_h2_client_gets_an_early_response_whole() {
    for length in [40_000, 1 << 20] {
        let endpoint = Endpoint::listen("a").await;
        let fleet = Fleet::serving(config(), H2c, &[&endpoint]).await;
        let mut client = fleet.h2().await;
        let stream = client.request("POST", "/up", &[("content-length", &length.to_string())], false).await;
        let mut upstream = endpoint.h2().await;
        let (at, ..) = upstream.expect_headers().await;
        client.body(stream, &vec![b'x'; length.min(60_000) - 5_000], false).await;
        upstream.raw(&refusal(at)).await;
        let response = client.response(stream).await;
        let answered = Instant::now();
        assert_eq!(response.whole(), ("429", BODY), "{length}");
        stopped(&mut upstream, at).await;
        assert_eq!(client.expect_reset(stream).await, NO_ERROR, "{length}");
        assert!(answered.elapsed() < 2 * DRAIN + DRAIN, "a bounded wait");
        client.quiet().await;
    }
}

/// 1 MB from a client that has written as much as it may by then.
#[tokio::test]
async fn an_h2_client_that_goes_on_sending_is_stopped_behind_the_response() {
    let endpoint = Endpoint::listen("a").await;
    let mut config = config();
    config.limits.early_response_drain_bytes = 64 * 1024;
    let fleet = Fleet::serving(config, H2c, &[&endpoint]).await;
    let mut client = fleet.h2().await;
    let stream = client.request("POST", "/up", &[], false).await;
    client.body(stream, &[b'x'; 200_000], false).await;
    let mut upstream = endpoint.h2().await;
    let (at, ..) = upstream.expect_headers().await;
    upstream.raw(&refusal(at)).await;
    assert_eq!(client.response(stream).await.whole(), ("429", BODY));
    let answered = Instant::now();
    let mut sent = 200_000;
    let code = loop {
        // As fast as the balancer takes it.
        client.data(stream, &[b'x'; 16_384], false).await;
        sent += 16_384;
        let reset = client.ping().await.into_iter().find_map(|event| match event {
            Event::Reset { code, .. } => Some(code),
            _ => None,
        });
        if let Some(code) = reset {
            break code;
        }
        assert!(sent < 1 << 20, "1 MB was taken behind the response");
    };
    assert_eq!(code, NO_ERROR);
    assert!(answered.elapsed() < DRAIN, "the bytes were the bound: {:?}", answered.elapsed());
    stopped(&mut upstream, at).await;
}

/// A client that ends its request in time sees no reset at all, though the endpoint may send one
/// right behind its answer, as nginx does.
#[tokio::test]
async fn a_request_that_ends_in_time_is_not_reset() {
    // All that came has been sent on, or more than the endpoint's window takes.
    for (resets, first) in [(false, 20_000), (true, 20_000), (true, 90_000)] {
        let endpoint = Endpoint::listen("a").await;
        let fleet = Fleet::serving(config(), H2c, &[&endpoint]).await;
        let mut client = fleet.h2().await;
        let length = (first + 20_000).to_string();
        let stream = client.request("POST", "/up", &[("content-length", &length)], false).await;
        client.body(stream, &vec![b'x'; first], false).await;
        client.ping().await;
        let mut upstream = endpoint.h2().await;
        let (at, ..) = upstream.expect_headers().await;
        let behind = if resets { reset(at, NO_ERROR) } else { Vec::new() };
        upstream.raw(&[refusal(at), behind].concat()).await;
        assert_eq!(client.response(stream).await.whole(), ("429", BODY));
        client.quiet().await;
        client.body(stream, &[b'x'; 20_000], true).await;
        client.quiet().await;
        if !resets {
            stopped(&mut upstream, at).await;
        }
    }
}

/// All of the body is here but its last frame when the response ends: it is not sent any more.
#[tokio::test]
async fn a_held_back_end_is_not_sent_behind_a_whole_response() {
    let endpoint = Endpoint::listen("a").await;
    let mut config = config();
    config.timeouts.body_hold_back = crate::frames::PATIENCE * 2;
    let fleet = Fleet::serving(config, H2c, &[&endpoint]).await;
    let mut client = fleet.h2().await;
    let stream = client.request("POST", "/up", &[("content-length", "40000")], false).await;
    client.body(stream, &[b'x'; 40_000], true).await;
    client.ping().await;
    let mut upstream = endpoint.h2().await;
    let (at, ..) = upstream.expect_headers().await;
    upstream.raw(&refusal(at)).await;
    assert_eq!(client.response(stream).await.whole(), ("429", BODY));
    client.quiet().await;
    stopped(&mut upstream, at).await;
}

#[tokio::test]
async fn an_h2_client_gets_the_early_response_of_an_h1_endpoint() {
    for (length, closes) in [(40_000, false), (1 << 20, false), (40_000, true), (1 << 20, true)] {
        let endpoint = Endpoint::listen("a").await;
        let fleet = Fleet::serving(config(), H1, &[&endpoint]).await;
        let mut client = fleet.h2().await;
        let stream = client.request("POST", "/up", &[("content-length", &length.to_string())], false).await;
        client.body(stream, &vec![b'x'; length.min(200_000) - 5_000], false).await;
        let mut upstream = endpoint.h1().await;
        upstream.head().await;
        upstream.write(refusal_h1()).await;
        if closes {
            // With unread bytes: the kernel sends RST behind the response.
            drop(upstream);
            assert_eq!(client.response(stream).await.whole(), ("429", BODY), "{length}");
        } else {
            assert_eq!(client.response(stream).await.whole(), ("429", BODY), "{length}");
            let taken = upstream.rest().await.len();
            assert!(taken < length, "closed before the end of the request");
        }
        assert_eq!(client.expect_reset(stream).await, NO_ERROR);
    }
}

/// Writes a large body whatever comes back, then reads.
async fn stubborn_h1(fleet: &Fleet, length: usize, meanwhile: impl Future) {
    let client = fleet.h1().await;
    let (read, mut write) = client.io.into_split();
    let head = format!("POST /up HTTP/1.1\r\nhost: app.test\r\ncontent-length: {length}\r\n\r\n");
    let writing = async {
        use tokio::io::AsyncWriteExt;
        write.write_all(head.as_bytes()).await.unwrap();
        // Fails when the balancer has closed, as for any client.
        let _ = write.write_all(&vec![b'x'; length]).await;
    };
    let reading = async {
        let mut response = Http1::over(tokio::io::join(read, tokio::io::sink()));
        let head = response.head().await;
        assert_eq!(head.status(), "429", "{length}");
        assert_eq!(response.body(&head).await.as_deref(), Ok(BODY), "{length}");
        // A body that was read to its end anyway leaves the connection in use.
        if length > 1 << 20 { response.rest().await } else { Vec::new() }
    };
    let (_, _, rest) = tokio::join!(meanwhile, writing, reading);
    assert!(rest.is_empty(), "the connection ends behind the response");
}

#[tokio::test]
async fn an_h1_client_that_goes_on_writing_can_read_the_early_response() {
    for length in [40_000, 1 << 20, 20 << 20] {
        let endpoint = Endpoint::listen("a").await;
        let fleet = Fleet::serving(config(), H2c, &[&endpoint]).await;
        stubborn_h1(&fleet, length, async {
            let mut upstream = endpoint.h2().await;
            let (at, ..) = upstream.expect_headers().await;
            upstream.expect_data().await;
            upstream.raw(&refusal(at)).await;
            if length > 40_000 {
                stopped(&mut upstream, at).await;
            }
        })
        .await;

        let endpoint = Endpoint::listen("a").await;
        let fleet = Fleet::serving(config(), H1, &[&endpoint]).await;
        stubborn_h1(&fleet, length, async {
            let mut upstream = endpoint.h1().await;
            upstream.head().await;
            upstream.exact(1_000).await.unwrap();
            upstream.write(refusal_h1()).await;
        })
        .await;
    }
}

/// Bandit resets a stream whose request it did not read with PROTOCOL_ERROR, behind the response.
#[tokio::test]
async fn what_follows_a_whole_response_does_not_spoil_it() {
    for code in [Some(PROTOCOL_ERROR), Some(NO_ERROR), Some(INTERNAL_ERROR), Some(CANCEL), None] {
        for at_once in [true, false] {
            let endpoint = Endpoint::listen("a").await;
            let fleet = Fleet::serving(config(), H2c, &[&endpoint]).await;
            let mut client = fleet.h2().await;
            let stream = client.request("POST", "/up", &[("content-length", "40000")], false).await;
            client.body(stream, &[b'x'; 20_000], false).await;
            let mut h1 = fleet.h1().await;
            h1.request("POST /up HTTP/1.1\r\ncontent-length: 40000\r\n", vec![b'x'; 20_000]).await;
            let mut upstream = endpoint.h2().await;
            let mut streams = Vec::new();
            while streams.len() < 2 {
                if let Event::Headers { stream, .. } = upstream.next().await {
                    streams.push(stream);
                }
            }
            let mut bytes = Vec::new();
            for at in streams {
                bytes.extend(refusal(at));
                if let Some(code) = code {
                    if !at_once {
                        upstream.raw(&std::mem::take(&mut bytes)).await;
                    }
                    bytes.extend(reset(at, code));
                }
            }
            upstream.raw(&bytes).await;
            if code.is_none() {
                // None: the whole connection goes.
                drop(upstream);
            }
            let response = client.response(stream).await;
            assert_eq!(response.whole(), ("429", BODY), "{code:?} {at_once}");
            let (head, body) = h1.response().await;
            assert_eq!((head.status(), &body[..]), ("429", BODY), "{code:?} {at_once}");
        }
    }
}

/// A response without a body is whole with its head.
#[tokio::test]
async fn a_response_that_is_only_a_head_is_not_spoilt_either() {
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config(), H2c, &[&endpoint]).await;
    let mut client = fleet.h2().await;
    let stream = client.request("POST", "/up", &[("content-length", "40000")], false).await;
    client.body(stream, &[b'x'; 20_000], false).await;
    let mut upstream = endpoint.h2().await;
    let (at, ..) = upstream.expect_headers().await;
    upstream.raw(&[headers(at, &[(":status", "401")], true), reset(at, PROTOCOL_ERROR)].concat()).await;
    let response = client.response(stream).await;
    assert_eq!((response.status(), response.ended()), ("401", Ended::Whole));
}

/// A large response to a client whose kernel takes little of it at a time, and which goes on
/// writing: the balancer's close must not take the rest of the response along.
#[tokio::test]
async fn a_slow_h1_client_gets_all_of_a_large_early_response() {
    use tokio::io::AsyncWriteExt;
    let endpoint = Endpoint::listen("a").await;
    let mut config = config();
    config.timeouts.early_response_drain = crate::frames::PATIENCE;
    let fleet = Fleet::serving(config, H2c, &[&endpoint]).await;
    let client = fleet.h1().await;
    socket2::SockRef::from(&client.io).set_recv_buffer_size(8 * 1024).unwrap();
    let (read, mut write) = client.io.into_split();
    let writing = async {
        let head = "POST /up HTTP/1.1\r\nhost: app.test\r\ncontent-length: 20000000\r\n\r\n";
        write.write_all(head.as_bytes()).await.unwrap();
        let _ = write.write_all(&vec![b'x'; 20_000_000]).await;
    };
    let answering = async {
        let mut upstream = endpoint.h2().await;
        let (at, ..) = upstream.expect_headers().await;
        upstream.respond(at, "429", &[b'r'; 200_000]).await;
        upstream
    };
    let reading = async {
        let mut response = Http1::over(tokio::io::join(read, tokio::io::sink()));
        let head = response.head().await;
        assert_eq!(head.status(), "429");
        let mut had = 0;
        while had < 200_000 {
            let Ok(piece) = response.exact(10_000).await else { panic!("cut behind {had} bytes") };
            had += piece.len();
        }
    };
    tokio::select! {
        ((), _) = async { tokio::join!(reading, answering) } => {}
        // The balancer stops reading, so the client never gets rid of all of it.
        () = async { writing.await; std::future::pending().await } => {}
    }
}

/// The same holds for what the balancer answers itself.
#[tokio::test]
async fn an_answer_of_the_balancers_own_waits_for_the_request_too() {
    let fleet = Fleet::serving(config(), H2c, &[]).await;
    let mut client = fleet.h2().await;
    for ends in [true, false] {
        let stream = client.request("POST", "/up", &[("content-length", "40000")], false).await;
        client.body(stream, &[b'x'; 20_000], false).await;
        assert_eq!(client.response(stream).await.whole().0, "503");
        client.quiet().await;
        if ends {
            client.body(stream, &[b'x'; 20_000], true).await;
            client.quiet().await;
        } else {
            assert_eq!(client.expect_reset(stream).await, NO_ERROR);
        }
    }
}

/// H3, where the endpoint has closed while the balancer was still writing to it: the client is read on for a while.
#[tokio::test]
async fn a_client_is_read_on_where_an_h1_endpoint_takes_no_more() {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(8).unwrap();
    let endpoint = Endpoint::elsewhere("a", listener.local_addr().unwrap()).await;
    let fleet = Fleet::serving(config(), H1, &[&endpoint]).await;
    let mut client = fleet.h2().await;
    let stream = client.request("POST", "/up", &[], false).await;
    let (mut upstream, _) = listener.accept().await.unwrap();
    // As much as the balancer takes while the endpoint reads nothing.
    let mut quiet = 0;
    while quiet < 5 {
        if client.may_send(stream) >= 16_384 {
            client.data(stream, &[b'x'; 16_384], false).await;
            quiet = 0;
        } else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            client.ping().await;
            quiet += 1;
        }
    }
    let answer = b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 5\r\n\r\nno ok";
    tokio::io::AsyncWriteExt::write_all(&mut upstream, answer).await.unwrap();
    drop(upstream);
    assert_eq!(client.response(stream).await.whole(), ("429", &b"no ok"[..]));
    // The end of the request comes in time: no reset.
    client.quiet().await;
    client.frame(0, 1, stream, b"").await;
    client.quiet().await;
}
