//! What costs a client little and the balancer much (H12).

use std::time::Duration;

use super::*;

async fn calmed(client: &mut Peer, what: &str) {
    loop {
        match client.next().await {
            Event::GoAway { code, .. } => break assert_eq!(code, ENHANCE_YOUR_CALM, "{what}"),
            Event::Closed => panic!("{what}: closed without a word"),
            _of_what_ran => {}
        }
    }
    assert_eq!(client.next().await, Event::Closed, "{what}");
}

/// H12: what costs a client little and the balancer much has a limit.
#[tokio::test]
async fn floods_of_nothing_end_the_connection() {
    let (fleet, endpoint) = fleet().await;
    let block = hpack::encode(&GET);
    let head = || frame(HEADERS, 0, 1, &block[..9]);
    for (what, first, more) in [
        ("empty DATA", post(1), data(1, b"", false)),
        ("padding only", post(1), frame(DATA, PADDED, 1, b"\x03\0\0\0")),
        ("empty CONTINUATION", head(), frame(CONTINUATION, 0, 1, b"")),
        ("PRIORITY", Vec::new(), frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 7])),
        ("SETTINGS", Vec::new(), settings(&[(4, 7)])),
        ("unknown frames", Vec::new(), frame(0x77, 0, 1, b"")),
        ("DATA of a stream that was refused", headers(1, &GET[..3], false), data(1, b"", false)),
    ] {
        let mut client = fleet.h2().await;
        client.raw(&first).await;
        for _ in 0..21 {
            client.raw(&more.repeat(1_000)).await;
        }
        calmed(&mut client, what).await;
    }
    let mut client = fleet.h2().await;
    for _ in 0..30 {
        client.raw(&settings(&[(4, 1), (4, 2)].repeat(500))).await;
    }
    calmed(&mut client, "many settings in few frames").await;
    let mut client = fleet.h2().await;
    let long = [hpack::encode(&GET), hpack::encode(&[("x", &"y".repeat(80_000))])].concat();
    client.raw(&frame(HEADERS, 0, 1, &long[..16_000])).await;
    for piece in long[16_000..].chunks(16_000) {
        client.raw(&frame(CONTINUATION, 0, 1, piece)).await;
    }
    calmed(&mut client, "a head that does not end").await;
    for (cause, count) in [("empty-frames", 8), ("large-head", 1), ("resets", 0), ("control-frames", 0)] {
        assert_eq!(fleet.metric(&format!("tidelock_downstream_connections_calmed_total{{cause=\"{cause}\"}}")), count);
    }
    serves(&mut fleet.h2().await, &endpoint, 1).await;
}

/// What is good for something has a limit, too, also for a client that reads all answers.
#[tokio::test]
async fn floods_of_small_talk_end_the_connection() {
    let endpoint = Endpoint::listen("a").await;
    let limits = Limits {
        max_streams_per_connection: 1,
        max_empty_frames_per_connection: 2_000,
        max_control_frames_per_connection: 10_000,
        ..Limits::default()
    };
    let fleet = Fleet::serving(Config { limits, ..config() }, H2c, &[&endpoint]).await;
    let many = |frame: Vec<u8>| frame.repeat(10_100);
    let too_many: Vec<u8> = (0..2_100).flat_map(|n| get(2 * n + 3)).collect();
    for (what, first, more) in [
        ("PING", Vec::new(), many(frame(PING, 0, 0, &[7; 8]))),
        ("PING's answers", Vec::new(), many(frame(PING, 1, 0, &[7; 8]))),
        ("SETTINGS' acknowledgements", Vec::new(), many(frame(SETTINGS, 1, 0, b""))),
        ("GOAWAY", Vec::new(), many(frame(GOAWAY, 0, 0, &[0; 8]))),
        ("a window opened by next to nothing", Vec::new(), many(word(WINDOW_UPDATE, 0, 1))),
        ("streams too many", get(1), too_many),
    ] {
        let client = TcpStream::connect(fleet.address()).await.unwrap();
        let (mut read, mut write) = client.into_split();
        let flood = async {
            let preface = of(&[b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), settings(&[]), first]);
            // It may end before all is written.
            let _ = write.write_all(&preface).await;
            let _ = write.write_all(&more).await;
        };
        let mut answers = Vec::new();
        let (_, ()) = soon(what, async { tokio::join!(read.read_to_end(&mut answers), flood) }).await;
        let last = answers.len() - 17;
        assert_eq!((answers[last + 3], answers[last + 16]), (GOAWAY, ENHANCE_YOUR_CALM as u8), "{what}");
    }
    let mut client = fleet.h2().await;
    client.raw(&of(&[get(1), word(RST_STREAM, 1, 8)])).await;
    // Twice: its request has been let go by then.
    client.ping().await;
    client.ping().await;
    for _ in 0..11 {
        client.raw(&word(RST_STREAM, 1, 8).repeat(1_000)).await;
    }
    calmed(&mut client, "resets of what is over").await;
    for (cause, count) in [("empty-frames", 1), ("control-frames", 6)] {
        assert_eq!(fleet.metric(&format!("tidelock_downstream_connections_calmed_total{{cause=\"{cause}\"}}")), count);
    }
    assert_eq!(fleet.metric("tidelock_downstream_streams_refused_total"), 2_000, "and the SETTINGS before them");
    fleet.h2().await.ping().await;
}

/// H13: a head that drips holds what all streams of its connection share.
#[tokio::test]
async fn a_head_that_does_not_end_in_time_ends_the_connection() {
    let endpoint = Endpoint::listen("a").await;
    let mut config = config();
    config.timeouts.request_head = Duration::from_secs(1);
    let fleet = Fleet::serving(config, H2c, &[&endpoint]).await;
    let block = hpack::encode(&GET);
    let whole = frame(HEADERS, END_HEADERS, 3, &block);
    for (what, begun) in [
        ("a block without its last frame", frame(HEADERS, 0, 3, &block[..9])),
        ("a frame without its end", whole[..whole.len() - 1].to_vec()),
    ] {
        let mut client = fleet.h2().await;
        // Others that run do not make it wait.
        client.raw(&get(1)).await;
        let mut upstream = endpoint.h2().await;
        upstream.expect_request().await;
        client.raw(&begun).await;
        calmed(&mut client, what).await;
    }
    // One that is slow and comes to its end is served, and so are later ones: together they take longer than one may.
    let mut client = fleet.h2().await;
    for stream in [1, 3] {
        let head = get(stream);
        client.raw(&head[..20]).await;
        tokio::time::sleep(Duration::from_millis(600)).await;
        client.raw(&head[20..]).await;
        let mut upstream = endpoint.h2().await;
        let theirs = upstream.expect_request().await.stream;
        upstream.respond(theirs, "200", b"ok").await;
        assert_eq!(client.response(stream).await.whole(), ("200", &b"ok"[..]));
    }
}

/// Each head has its time, also when there is never a moment without one that has begun.
#[tokio::test]
async fn heads_that_come_one_in_the_other_are_not_one_slow_head() {
    let endpoint = Endpoint::listen("a").await;
    let mut config = config();
    config.timeouts.request_head = Duration::from_secs(1);
    let fleet = Fleet::serving(config, H2c, &[&endpoint]).await;
    let mut client = fleet.h2().await;
    let mut upstream = None;
    let heads: Vec<Vec<u8>> = (0..8).map(|n| get(2 * n + 1)).collect();
    client.raw(&heads[0][..20]).await;
    for (nth, pair) in heads.windows(2).enumerate() {
        tokio::time::sleep(Duration::from_millis(200)).await;
        client.raw(&[&pair[0][20..], &pair[1][..20]].concat()).await;
        let upstream = match &mut upstream {
            Some(upstream) => upstream,
            none => none.insert(endpoint.h2().await),
        };
        let theirs = upstream.expect_request().await.stream;
        upstream.respond(theirs, "200", b"ok").await;
        assert_eq!(client.response(2 * nth as u32 + 1).await.whole(), ("200", &b"ok"[..]));
    }
}

/// What is wrong in the first bytes counts as what is wrong later.
#[tokio::test]
async fn faults_that_come_with_the_preface_count() {
    let endpoint = Endpoint::listen("a").await;
    let limits = Limits { max_resets_per_connection: 50, max_resets_per_client: 40, ..Limits::default() };
    let fleet = Fleet::serving(Config { limits, ..config() }, H2c, &[&endpoint]).await;
    let mut flight = of(&[b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), settings(&[])]);
    flight.extend((0..=51).flat_map(|n| headers(2 * n + 1, &[("X", "1")], true)));
    let mut client = TcpStream::connect(fleet.address()).await.unwrap();
    client.write_all(&flight).await.unwrap();
    let mut read = Vec::new();
    soon("the end", client.read_to_end(&mut read)).await.unwrap();
    assert_eq!(fleet.metric("tidelock_downstream_connections_calmed_total{cause=\"stream-errors\"}"), 1);
    assert_eq!(fleet.h1().await.rest().await, b"", "a new connection is closed");
    assert_eq!(fleet.metric("tidelock_downstream_connections_refused_of_clients_total"), 1);
}

/// CVE-2023-44487: what is broken off as soon as it was asked never reaches an endpoint.
#[tokio::test]
async fn a_rapid_reset_costs_no_endpoint_anything() {
    let endpoint = Endpoint::listen("a").await;
    let limits = Limits { max_resets_per_connection: 50, ..Limits::default() };
    let fleet = Fleet::serving(Config { limits, ..config() }, H2c, &[&endpoint]).await;
    let mut client = fleet.h2().await;
    let burst: Vec<u8> = (0..200).flat_map(|n| of(&[get(2 * n + 1), word(RST_STREAM, 2 * n + 1, 8)])).collect();
    client.raw(&burst).await;
    calmed(&mut client, "a burst").await;
    assert!(endpoint.nobody());
    assert_eq!(fleet.metric("tidelock_downstream_connections_calmed_total{cause=\"resets\"}"), 1);
}

/// What no endpoint has seen counts for the client's address, too, and so does what ends a connection.
#[tokio::test]
async fn other_connections_are_no_way_around_a_limit() {
    let endpoint = Endpoint::listen("a").await;
    let limits = Limits { max_resets_per_client: 60, ..Limits::default() };
    let fleet = Fleet::serving(Config { limits, ..config() }, H2c, &[&endpoint]).await;
    let burst: Vec<u8> = (0..40).flat_map(|n| of(&[get(2 * n + 1), word(RST_STREAM, 2 * n + 1, 8)])).collect();
    let (mut first, mut second) = (fleet.h2().await, fleet.h2().await);
    first.raw(&burst).await;
    first.ping().await;
    second.raw(&burst).await;
    calmed(&mut second, "the 80th of the client").await;
    assert!(endpoint.nobody());

    let limits = Limits { max_resets_per_connection: 50, max_resets_per_client: 40, ..Limits::default() };
    let fleet = Fleet::serving(Config { limits, ..config() }, H2c, &[&endpoint]).await;
    let mut client = fleet.h2().await;
    for n in 0..=51 {
        client.raw(&headers(2 * n + 1, &[("X", "1")], true)).await;
    }
    calmed(&mut client, "malformed heads").await;
    assert_eq!(fleet.h1().await.rest().await, b"", "a new connection is closed");
    assert_eq!(fleet.metric("tidelock_downstream_connections_refused_of_clients_total"), 1);
}

/// CVE-2025-8671: the balancer is made to reset streams itself, which costs as much.
#[tokio::test]
async fn made_you_reset_costs_the_connection() {
    let endpoint = Endpoint::listen("a").await;
    let limits = Limits { max_resets_per_connection: 50, ..Limits::default() };
    let fleet = Fleet::serving(Config { limits, ..config() }, H2c, &[&endpoint]).await;
    let faults: [fn(u32) -> Vec<u8>; 4] = [
        |stream| word(WINDOW_UPDATE, stream, 0),
        |stream| word(WINDOW_UPDATE, stream, 0x7fff_ffff),
        |stream| data(stream, b"x", false),
        |stream| get(stream),
    ];
    for (nth, fault) in faults.into_iter().enumerate() {
        let mut client = fleet.h2().await;
        for n in 0..=51 {
            client.raw(&of(&[get(2 * n + 1), fault(2 * n + 1)])).await;
        }
        calmed(&mut client, &format!("fault {nth}")).await;
    }
    let mut client = fleet.h2().await;
    for n in 0..=51 {
        client.raw(&headers(2 * n + 1, &[("X", "1")], true)).await;
    }
    calmed(&mut client, "malformed heads").await;
}

/// Answers that nobody reads do not fill the memory: from some point on nothing more is read.
#[tokio::test]
async fn a_client_that_reads_no_answer_gets_no_more() {
    let endpoint = Endpoint::listen("a").await;
    // Its own limit would end it first.
    let limits = Limits { max_control_frames_per_connection: 10_000_000, ..Limits::default() };
    let fleet = Fleet::serving(Config { limits, ..config() }, H2c, &[&endpoint]).await;
    let mut client = TcpStream::connect(fleet.address()).await.unwrap();
    client.write_all(&of(&[b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), settings(&[])])).await.unwrap();
    let pings = frame(PING, 0, 0, &[7; 8]).repeat(1_000);
    let mut sent = 0;
    while let Ok(written) = tokio::time::timeout(PATIENCE / 10, client.write_all(&pings)).await {
        written.unwrap();
        sent += pings.len();
        assert!(sent < 64 << 20, "it would go on for ever");
    }
    serves(&mut fleet.h2().await, &endpoint, 1).await;
    // It reads again, and is answered.
    let mut read = vec![0; 1 << 20];
    soon("answers", client.read_exact(&mut read)).await.unwrap();
}

/// A byte of a header block may stand for four thousand.
#[tokio::test]
async fn a_block_that_unfolds_is_431() {
    let (fleet, endpoint) = fleet().await;
    let mut client = fleet.h2().await;
    let mut block = hpack::encode(&GET);
    // 0x40: kept in the table, where it is the newest one; then named again and again.
    block.extend(b"\x40\x01x\x7f");
    block.extend([0x81, 0x1d]);
    block.extend(vec![b'y'; 127 + 1 + (0x1d << 7)]);
    block.extend(vec![0xbe; 10_000]);
    client.raw(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &block)).await;
    let response = client.response(1).await;
    assert_eq!((response.whole().0, response.field("tidelock-reason")), ("431", Some("headers-too-large")));
    serves(&mut client, &endpoint, 3).await;
}

/// What comes behind the GOAWAY is not served, and not read for ever.
#[tokio::test]
async fn requests_that_ignore_a_goaway_end_the_connection() {
    let endpoint = Endpoint::listen("a").await;
    let mut config = config();
    config.timeouts.downstream_idle = std::time::Duration::from_millis(100);
    let fleet = Fleet::serving(config, H2c, &[&endpoint]).await;
    let mut client = fleet.h2().await;
    assert_eq!(client.next().await, Event::GoAway { last: 0x7fff_ffff, code: 0 });
    client.raw(&post(1)).await;
    assert_eq!(client.next().await, Event::GoAway { last: 1, code: 0 });
    for thousand in 0..21 {
        let many: Vec<u8> = (0..1_000).flat_map(|n| get(2_000 * thousand + 2 * n + 3)).collect();
        client.raw(&many).await;
    }
    calmed(&mut client, "requests").await;
}
