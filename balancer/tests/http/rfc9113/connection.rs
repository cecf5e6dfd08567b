//! What a connection must do, and may.

use super::*;

/// Each ends its connection with a GOAWAY that says why; another client's goes on.
#[tokio::test]
async fn what_breaks_a_connection() {
    let block = hpack::encode(&GET);
    let cases: Vec<(&str, u32, Vec<u8>)> = vec![
        ("4.2: a frame that is too large", FRAME_SIZE_ERROR, of(&[post(1), data(1, &[0; 16_385], false)])),
        ("4.2: headers that are too large", FRAME_SIZE_ERROR, frame(HEADERS, END_HEADERS, 1, &[0; 16_385])),
        ("4.3: no header block", COMPRESSION_ERROR, frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0x80])),
        (
            "4.3: a table larger than allowed",
            COMPRESSION_ERROR,
            frame(HEADERS, END_HEADERS, 1, &[0x3f, 0xff, 0xff, 0x7f]),
        ),
        ("5.1: DATA for a stream that has not begun", PROTOCOL_ERROR, data(1, b"x", true)),
        ("5.1: RST_STREAM for one", PROTOCOL_ERROR, word(RST_STREAM, 1, 8)),
        ("5.1: WINDOW_UPDATE for one", PROTOCOL_ERROR, word(WINDOW_UPDATE, 1, 8)),
        ("5.1: CONTINUATION for one", PROTOCOL_ERROR, frame(CONTINUATION, END_HEADERS, 1, &block)),
        ("5.1.1: a stream of the server's", PROTOCOL_ERROR, get(2)),
        ("5.1.1: numbers that go down", PROTOCOL_ERROR, of(&[get(5), get(3)])),
        ("5.3.1: a stream that depends on itself", PROTOCOL_ERROR, frame(PRIORITY, 0, 1, &[0, 0, 0, 1, 0])),
        ("6.1: DATA for no stream", PROTOCOL_ERROR, data(0, b"x", true)),
        ("6.1: more padding than payload", PROTOCOL_ERROR, of(&[post(1), frame(DATA, PADDED, 1, b"\x05abc")])),
        ("6.1: padding without its length", FRAME_SIZE_ERROR, of(&[post(1), frame(DATA, PADDED, 1, b"")])),
        ("6.2: HEADERS for no stream", PROTOCOL_ERROR, get(0)),
        ("6.2: more padding than payload", PROTOCOL_ERROR, frame(HEADERS, PADDED | END_HEADERS, 1, b"\x05abc")),
        ("6.2: a priority that is cut off", FRAME_SIZE_ERROR, frame(HEADERS, PRIORITISED | END_HEADERS, 1, b"\0\0\0")),
        (
            "6.2: another frame within a block",
            PROTOCOL_ERROR,
            of(&[frame(HEADERS, 0, 1, &block[..9]), frame(PING, 0, 0, &[0; 8])]),
        ),
        (
            "6.2: another stream's block within a block",
            PROTOCOL_ERROR,
            of(&[frame(HEADERS, 0, 1, &block[..9]), get(3)]),
        ),
        (
            "6.2: an unknown frame within a block",
            PROTOCOL_ERROR,
            of(&[frame(HEADERS, 0, 1, &block[..9]), frame(0x77, 0, 1, b"")]),
        ),
        ("6.3: PRIORITY for no stream", PROTOCOL_ERROR, frame(PRIORITY, 0, 0, &[0; 5])),
        ("6.3: PRIORITY of four bytes", FRAME_SIZE_ERROR, frame(PRIORITY, 0, 1, &[0; 4])),
        ("6.4: RST_STREAM for no stream", PROTOCOL_ERROR, word(RST_STREAM, 0, 8)),
        ("6.4: RST_STREAM of three bytes", FRAME_SIZE_ERROR, of(&[post(1), frame(RST_STREAM, 0, 1, &[0; 3])])),
        ("6.5: SETTINGS for a stream", PROTOCOL_ERROR, frame(SETTINGS, 0, 1, &[])),
        ("6.5: SETTINGS of five bytes", FRAME_SIZE_ERROR, frame(SETTINGS, 0, 0, &[0; 5])),
        ("6.5: an acknowledgement that says something", FRAME_SIZE_ERROR, frame(SETTINGS, 1, 0, &[0; 6])),
        ("6.5.2: ENABLE_PUSH of 2", PROTOCOL_ERROR, settings(&[(2, 2)])),
        ("6.5.2: a window of 2^31", FLOW_CONTROL_ERROR, settings(&[(4, 1 << 31)])),
        ("6.5.2: frames below 2^14", PROTOCOL_ERROR, settings(&[(5, 16_383)])),
        ("6.5.2: frames above 2^24-1", PROTOCOL_ERROR, settings(&[(5, 1 << 24)])),
        ("8441: ENABLE_CONNECT_PROTOCOL of 2", PROTOCOL_ERROR, settings(&[(8, 2)])),
        ("8441: ENABLE_CONNECT_PROTOCOL taken back", PROTOCOL_ERROR, settings(&[(8, 1), (8, 0)])),
        ("6.6: a client pushes", PROTOCOL_ERROR, of(&[post(1), frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2])])),
        ("6.7: PING for a stream", PROTOCOL_ERROR, frame(PING, 0, 1, &[0; 8])),
        ("6.7: PING of seven bytes", FRAME_SIZE_ERROR, frame(PING, 0, 0, &[0; 7])),
        ("6.8: GOAWAY for a stream", PROTOCOL_ERROR, frame(GOAWAY, 0, 1, &[0; 8])),
        ("6.8: GOAWAY of seven bytes", FRAME_SIZE_ERROR, frame(GOAWAY, 0, 0, &[0; 7])),
        ("6.9: a window that grows by nothing", PROTOCOL_ERROR, word(WINDOW_UPDATE, 0, 0)),
        ("6.9: WINDOW_UPDATE of three bytes", FRAME_SIZE_ERROR, frame(WINDOW_UPDATE, 0, 0, &[0; 3])),
        (
            "6.9.1: a window beyond 2^31-1",
            FLOW_CONTROL_ERROR,
            of(&[word(WINDOW_UPDATE, 0, 0x7fff_ffff), word(WINDOW_UPDATE, 0, 1)]),
        ),
        (
            "6.9.2: a stream's window beyond 2^31-1",
            FLOW_CONTROL_ERROR,
            of(&[post(1), word(WINDOW_UPDATE, 1, 0x7fff_0000), settings(&[(4, 0x7fff_ffff)])]),
        ),
        (
            "6.10: CONTINUATION behind a whole block",
            PROTOCOL_ERROR,
            of(&[get(1), frame(CONTINUATION, END_HEADERS, 1, &block)]),
        ),
        (
            "6.10: CONTINUATION for no stream",
            PROTOCOL_ERROR,
            of(&[frame(HEADERS, 0, 1, &block[..9]), frame(CONTINUATION, END_HEADERS, 0, &block[9..])]),
        ),
    ];
    let (fleet, endpoint) = fleet().await;
    let mut other = fleet.h2().await;
    for (nth, (what, code, bytes)) in cases.into_iter().enumerate() {
        let mut client = fleet.h2().await;
        client.raw(&bytes).await;
        loop {
            match client.next().await {
                Event::GoAway { code: said, .. } => break assert_eq!(said, code, "{what}"),
                Event::Closed => panic!("{what}: closed without a word"),
                _of_what_ran => {}
            }
        }
        assert_eq!(client.next().await, Event::Closed, "{what}");
        serves(&mut other, &endpoint, 2 * nth as u32 + 1).await;
    }
}

/// The first frame has to be SETTINGS (section 3.4), and what is no preface is no HTTP/2.
#[tokio::test]
async fn a_connection_begins_as_it_must() {
    let (fleet, _endpoint) = fleet().await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    for first in [frame(PING, 0, 0, &[0; 8]), get(1), frame(SETTINGS, 1, 0, &[]), frame(0x77, 0, 0, b"")] {
        let mut client = TcpStream::connect(fleet.address()).await.unwrap();
        client.write_all(&of(&[preface.clone(), first])).await.unwrap();
        let mut read = Vec::new();
        soon("the end", client.read_to_end(&mut read)).await.unwrap();
        let goaway = [&[0, 0, 8, GOAWAY, 0, 0, 0, 0, 0][..], &[0; 4], &PROTOCOL_ERROR.to_be_bytes()].concat();
        assert!(read.ends_with(&goaway), "{read:?}");
    }
    let mut client = TcpStream::connect(fleet.address()).await.unwrap();
    client.write_all(&of(&[preface[..20].to_vec(), b"XXXX".to_vec(), settings(&[])])).await.unwrap();
    soon("the end", client.read_to_end(&mut Vec::new())).await.unwrap();
}

/// RFC 9113 section 6.8: what a GOAWAY has said is not taken back, and the connection ends with its last stream.
#[tokio::test]
async fn a_second_goaway_promises_no_more_than_the_first() {
    let endpoint = Endpoint::listen("a").await;
    let mut config = config();
    config.timeouts.downstream_idle = std::time::Duration::from_millis(100);
    let fleet = Fleet::serving(config, H2c, &[&endpoint]).await;
    let mut client = fleet.h2().await;
    serves(&mut client, &endpoint, 1).await;
    assert_eq!(client.next().await, Event::GoAway { last: 0x7fff_ffff, code: 0 });
    // It answers the PING behind it when it reads it, and hears which stream was the last.
    client.raw(&post(3)).await;
    let (mut seen, mut end) = (Vec::new(), Vec::new());
    while seen.is_empty() {
        match client.next().await {
            Event::GoAway { last, .. } => seen.push(last),
            Event::Closed => panic!("too early"),
            _of_what_ran => {}
        }
    }
    client.raw(&of(&[get(5), word(WINDOW_UPDATE, 0, 0)])).await;
    loop {
        match client.next().await {
            Event::GoAway { last, .. } => end.push(last),
            Event::Closed => break,
            _of_what_ran => {}
        }
    }
    assert_eq!(seen, end, "5 came too late, and may be sent again elsewhere");
}

/// What means nothing here is passed over, and what is allowed is taken (4.1, 5.5, 6.1, 6.2, 6.5, 6.10).
#[tokio::test]
async fn what_is_allowed_is_taken() {
    let (fleet, endpoint) = fleet().await;
    let mut client = fleet.h2().await;
    let block = hpack::encode(&[&POST[..], &[("x-long", &"y".repeat(6_000))]].concat());
    let mut frames = vec![
        frame(0x77, 0xff, 0, b"unknown"),
        frame(0x77, 0xff, 9, b"unknown"),
        settings(&[(0x99, 7), (1, 0), (1, 4_096), (3, 0), (6, 1)]),
        frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 7]),
        frame(PRIORITY, 0, 101, &[0, 0, 0, 3, 7]),
        word(WINDOW_UPDATE, 0, 100),
        frame(HEADERS, PADDED | PRIORITISED, 1, &[&[3, 0x80, 0, 0, 0, 7][..], &block[..100], &[0; 3]].concat()),
    ];
    frames.extend(block[100..].chunks(700).map(|piece| frame(CONTINUATION, 0, 1, piece)));
    frames.push(frame(CONTINUATION, END_HEADERS, 1, b""));
    frames.push(frame(DATA, PADDED, 1, b"\x04hello\0\0\0\0"));
    frames.push(frame(DATA, PADDED, 1, b"\0, "));
    frames.push(frame(DATA, 0, 1, b""));
    frames.push(data(1, b"world", false));
    frames.push(headers(1, &[("x-sum", "7")], true));
    // Bit by bit, too.
    for piece in frames.concat().chunks(1_000) {
        client.raw(piece).await;
    }
    let mut upstream = endpoint.h2().await;
    let (stream, fields, _) = upstream.expect_headers().await;
    assert_eq!(hpack::field(&fields, "x-long").map(str::len), Some(6_000));
    let mut body = Vec::new();
    let trailers = loop {
        match upstream.next().await {
            Event::Data { bytes, .. } => body.extend(bytes),
            Event::Headers { fields, end: true, .. } => break fields,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((&body[..], hpack::field(&trailers, "x-sum")), (&b"hello, world"[..], Some("7")));
    upstream.respond(stream, "200", b"fine").await;
    assert_eq!(client.response(1).await.whole(), ("200", &b"fine"[..]));
}
