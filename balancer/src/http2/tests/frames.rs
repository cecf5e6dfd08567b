//! Frames of all kinds in any order.

use super::*;

fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let (mut encoder, mut out) = (Encoder::default(), Vec::new());
    encoder.method(&mut out, &Method::POST);
    encoder.scheme(&mut out, false);
    encoder.authority(&mut out, "app.test");
    encoder.path(&mut out, "/");
    for (name, value) in fields {
        encoder.field(&mut out, &name.parse::<HeaderName>().unwrap(), &value.parse::<HeaderValue>().unwrap());
    }
    out
}

/// A frame without its stream, and a hint which that is.
type Loose = (u8, Vec<u8>, u8, u8);

/// Frames, mostly ones that make sense.
fn frames() -> impl Strategy<Value = Vec<Loose>> {
    let head = prop_oneof![
        6 => Just(block(&[])),
        1 => Just(block(&[("content-length", "300"), ("x-own", "1")])),
        1 => Just(block(&[("te", "gzip")])),
        1 => proptest::collection::vec(any::<u8>(), 0..60),
    ];
    let payload = prop_oneof![
        4 => (0..300usize).prop_map(|length| vec![1; length]),
        1 => (8_000..16_000usize).prop_map(|length| vec![1; length]),
        1 => proptest::collection::vec(any::<u8>(), 0..20),
    ];
    let word = prop_oneof![5 => 1..100_000u32, 1 => any::<u32>()].prop_map(|word| word.to_be_bytes().to_vec());
    let setting = (0..10u16, prop_oneof![3 => 0..40_000u32, 1 => any::<u32>()])
        .prop_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat());
    let frame = prop_oneof![
        12 => (Just(kind::HEADERS), head.clone(), prop_oneof![8 => Just(flag::END_HEADERS), 3 => Just(5u8), 1 => any::<u8>()]),
        16 => (Just(kind::DATA), payload.clone(), prop_oneof![8 => Just(0u8), 3 => Just(1u8), 3 => Just(flag::PADDED), 1 => any::<u8>()]),
        4 => (Just(kind::RST_STREAM), word.clone(), Just(0u8)),
        4 => (Just(kind::WINDOW_UPDATE), word.clone(), Just(0u8)),
        1 => (Just(kind::SETTINGS), setting, prop_oneof![5 => Just(0u8), 1 => Just(1u8)]),
        1 => (Just(kind::CONTINUATION), head, any::<u8>()),
        1 => (Just(kind::PING), Just(vec![7; 8]), any::<u8>()),
        1 => (Just(kind::GOAWAY), Just(vec![0; 8]), Just(0u8)),
        1 => (any::<u8>(), payload, any::<u8>()),
    ];
    proptest::collection::vec(
        (frame, any::<u8>()).prop_map(|((kind, payload, flags), hint)| (kind, payload, flags, hint)),
        0..80,
    )
}

/// The frames with streams that fit, mostly: heads open the next one, what else there is goes to one that is open.
fn with_streams(frames: &[Loose], opened: u32) -> Vec<u8> {
    let (mut out, mut next) = (Vec::new(), 2 * opened + 1);
    for (kind, payload, flags, hint) in frames {
        let hint = u32::from(*hint);
        let stream = match *kind {
            kind::SETTINGS | kind::PING | kind::GOAWAY => 0,
            kind::HEADERS if opened == 0 && hint < 220 => {
                next += 2;
                next - 2
            }
            _ if hint < 4 => hint,
            kind::WINDOW_UPDATE if hint < 60 => 0,
            _ => next.saturating_sub(2 + 2 * (hint % 5)),
        };
        frame::put_head(&mut out, payload.len(), *kind, *flags, stream);
        out.extend(payload);
    }
    out
}

proptest! {
    #![proptest_config(cases())]

    /// A client that sends anything.
    #[test]
    fn a_server_bears_any_frames(
        frames in frames(),
        plans in proptest::collection::vec(plan(), 1..5),
        cut in 1..40_000usize,
    ) {
        run(async {
            let (ours, theirs) = duplex(20_000);
            let (mut reads, mut writes) = tokio::io::split(theirs);
            let connection = server(ours, Bytes::new(), config());
            let mut bytes = PREFACE.to_vec();
            frame::put_settings(&mut bytes, &[]);
            bytes.extend(with_streams(&frames, 0));
            let send = async {
                for piece in bytes.chunks(cut) {
                    if writes.write_all(piece).await.is_err() {
                        return;
                    }
                    tokio::task::yield_now().await;
                }
                let _ = writes.shutdown().await;
            };
            let receive = async {
                let _ = reads.read_to_end(&mut Vec::new()).await;
            };
            // Those of the bodies are not ours: their bytes are not looked at.
            let plans: Vec<Plan> = plans.iter().map(|plan| match plan {
                Plan::Echo => Plan::AtOnce(500),
                Plan::Leave(_) => Plan::Leave(0),
                other => *other,
            }).collect();
            tokio::join!(serve(connection, &plans), send, receive);
        });
    }

    /// An endpoint that answers with anything.
    #[test]
    fn a_client_bears_any_frames(
        frames in frames(),
        cut in 1..40_000usize,
    ) {
        run(async {
            let (ours, mut theirs) = duplex(1 << 20);
            let (client, mut connection) = Client::begin(ours, config());
            let mut bytes = Vec::new();
            frame::put_settings(&mut bytes, &[]);
            bytes.extend(with_streams(&frames, 6));
            let mut streams: Vec<_> = (0..6).map(|nth| client.send(&head(&HeaderMap::new()), nth % 2 == 0).unwrap()).collect();
            let send = async {
                for piece in bytes.chunks(cut) {
                    if theirs.write_all(piece).await.is_err() {
                        return;
                    }
                    tokio::task::yield_now().await;
                }
                let _ = theirs.shutdown().await;
            };
            let drive = poll_fn(|cx: &mut Context<'_>| {
                let ended = connection.poll_read(cx);
                for (sender, receiver) in &mut streams {
                    while receiver.take_interim().is_some() {}
                    let _ = receiver.poll_head(cx);
                    let _ = sender.poll_capacity(cx);
                    while let Poll::Ready(Piece::Data(_) | Piece::Trailers(_)) = receiver.poll_piece(cx) {}
                }
                let _ = connection.poll_write(cx);
                ended
            });
            tokio::join!(drive, send);
            let shared = connection.shared.clone();
            drop((connection, streams));
            shared.state.borrow().assert_settled();
        });
    }
}
