//! How bodies share a connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Wake, Waker};

use super::*;
use crate::outbox::GATHER_MAX;

/// Bodies that share a connection have their turns: none waits for the others to end.
#[test]
fn bodies_go_side_by_side() {
    run(async {
        let (ours, theirs) = duplex(40_000);
        let wide = Config { stream_window: 1 << 20, grown_window: 1 << 20, connection_window: 1 << 24, ..config() };
        let (client, mut connection) = Client::begin(ours, wide);
        let mut receivers = Vec::new();
        let mut uploads: FuturesUnordered<_> = (0..6)
            .map(|_| {
                let (mut sender, receiver) = client.send(&head(&HeaderMap::new()), false).unwrap();
                receivers.push(receiver);
                async move { write_all(&mut sender, body(600_000)).await }
            })
            .collect();
        let ask = poll_fn(|cx| {
            let _ = connection.poll_read(cx);
            let _ = uploads.poll_next_unpin(cx);
            let _ = connection.poll_write(cx);
            Poll::<()>::Pending
        });
        let mut server = server(theirs, Bytes::new(), wide);
        let mut accepted: Vec<(Accepted, usize)> = Vec::new();
        let read = poll_fn(|cx| {
            let _ = server.poll_read(cx);
            while let Some(request) = server.accept() {
                accepted.push((request, 0));
            }
            for (request, read) in &mut accepted {
                while let Poll::Ready(Piece::Data(data)) = request.receiver.poll_piece(cx) {
                    *read += data.len();
                }
            }
            let _ = server.poll_write(cx);
            let (least, most) = (accepted.iter().map(|(_, n)| *n).min(), accepted.iter().map(|(_, n)| *n).max());
            match (least, most) {
                (Some(least), Some(most)) if most >= 400_000 => Poll::Ready((least, most)),
                _ => Poll::Pending,
            }
        });
        tokio::select! {
            () = ask => {}
            (least, most) = read => assert!(least + 150_000 > most, "{least} of one, {most} of another"),
        }
    });
}

/// What is free is one's who is alone; with others it is given out in turns.
#[test]
fn a_turn_is_a_share() {
    run(async {
        let (client, connection) = Client::begin(tokio::io::empty(), config());
        let fields = HeaderMap::new();
        let (mut one, _reads_one) = client.send(&head(&fields), false).unwrap();
        let (mut two, _reads_two) = client.send(&head(&fields), false).unwrap();
        let cx = &mut Context::from_waker(std::task::Waker::noop());
        let mut state = connection.shared.state.borrow_mut();
        state.window_update(0, 1 << 20).unwrap();
        state.window_update(1, 1 << 20).unwrap();
        state.window_update(3, 1 << 20).unwrap();
        drop(state);
        let drained = |cx: &mut Context<'_>| {
            let mut state = connection.shared.state.borrow_mut();
            assert!(state.output.poll_drain(&mut tokio::io::sink(), cx).is_ready());
            state.wake_waiting();
        };
        drained(cx);
        assert_eq!(one.poll_capacity(cx), Poll::Ready(Ok(GATHER_MAX)), "alone");
        one.send_data(body(GATHER_MAX), false).unwrap();
        assert!(one.poll_capacity(cx).is_pending() && two.poll_capacity(cx).is_pending());
        drained(cx);
        assert_eq!(one.poll_capacity(cx), Poll::Ready(Ok(16_384)));
        one.send_data(body(16_384), false).unwrap();
        assert_eq!(two.poll_capacity(cx), Poll::Ready(Ok(16_384)));
        two.send_data(body(16_384), false).unwrap();
        // A socket that takes little: there is room for one of them.
        one.send_data(body(GATHER_MAX - 2 * 16_384), false).unwrap();
        assert!(one.poll_capacity(cx).is_pending() && two.poll_capacity(cx).is_pending());
        let (mut narrow, _other_end) = duplex(10_000);
        let mut state = connection.shared.state.borrow_mut();
        assert!(state.output.poll_drain(&mut narrow, cx).is_pending());
        state.wake_waiting();
        drop(state);
        assert!(two.poll_capacity(cx).is_pending(), "it came second");
        assert_eq!(one.poll_capacity(cx), Poll::Ready(Ok(16_384)));
        one.yields_turn();
        assert_eq!(two.poll_capacity(cx), Poll::Ready(Ok(16_384)), "who does not use its turn gives it on");
        drained(cx);
        drop(two);
        one.send_data(body(16_384), false).unwrap();
        assert_eq!(one.poll_capacity(cx), Poll::Ready(Ok(GATHER_MAX)), "alone again");
    });
}

/// Counts how often it is woken.
#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// The connection's window is what it waits for, too.
#[test]
fn who_waits_for_the_connections_window_is_woken() {
    run(async {
        let (client, connection) = Client::begin(tokio::io::empty(), config());
        let (mut one, _reads) = client.send(&head(&HeaderMap::new()), false).unwrap();
        let woken = Arc::new(Woken::default());
        let (waker, mut output) = (Waker::from(woken.clone()), tokio::io::sink());
        let cx = &mut Context::from_waker(&waker);
        let state = || connection.shared.state.borrow_mut();
        state().window_update(1, 1 << 20).unwrap();
        one.send_data(body(65_535), false).unwrap();
        assert!(state().output.poll_drain(&mut output, cx).is_ready());
        assert!(one.poll_capacity(cx).is_pending());
        let before = woken.0.load(Ordering::Relaxed);
        state().window_update(0, 100).unwrap();
        assert_eq!(woken.0.load(Ordering::Relaxed), before + 1);
        assert_eq!(one.poll_capacity(cx), Poll::Ready(Ok(100)));
    });
}

/// A peer's frames have their turns, too: small ones cost as much as large ones, and a read brings thousands.
#[test]
fn thousands_of_frames_are_several_turns() {
    run(async {
        let (ours, mut theirs) = duplex(1 << 20);
        let (client, mut connection) = Client::begin(ours, config());
        let mut bytes = Vec::new();
        frame::put_settings(&mut bytes, &[]);
        for _ in 0..3_500 {
            frame::put_word(&mut bytes, kind::WINDOW_UPDATE, 0, 1);
        }
        theirs.write_all(&bytes).await.unwrap();
        let mut grown = Vec::new();
        poll_fn(|cx| {
            assert!(connection.poll_read(cx).is_pending());
            grown.push(client.window() - 65_535);
            if client.window() == 65_535 + 3_500 { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        // The SETTINGS were one.
        assert_eq!(grown, [999, 1_999, 2_999, 3_500]);
    });
}
