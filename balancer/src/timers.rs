//! Time limits of a request whose timers cost little while all goes well.

mod coarse;

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tidelock_core::spec::Timeouts;
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use coarse::Alarm;
pub(crate) use coarse::tick;

/// Limits from here on may be late by a tick, and are kept where setting one is cheap: a request
/// that waits for its endpoint sets one, and nearly none fires (measured: 4 % of a request's CPU).
const COARSE_FROM: Duration = Duration::from_secs(2);

#[derive(Debug)]
enum Timer {
    Exact(Pin<Box<Sleep>>),
    Coarse(Alarm),
}

impl Timer {
    fn new(limit: Duration) -> Timer {
        let alarm = if limit >= COARSE_FROM { Alarm::set(limit) } else { None };
        alarm.map_or_else(|| Timer::Exact(Box::pin(sleep(limit))), Timer::Coarse)
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Timer::Exact(sleep) => sleep.as_mut().poll(cx),
            Timer::Coarse(alarm) => alarm.poll(cx),
        }
    }
}

/// The time limit on all of a request, if its pool has one.
#[derive(Debug)]
pub(crate) struct Total(Option<Pin<Box<Sleep>>>);

impl Total {
    pub(crate) fn new(deadline: Option<Instant>) -> Total {
        Total(deadline.map(|deadline| Box::pin(sleep_until(deadline))))
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().map_or(Poll::Pending, |sleep| sleep.as_mut().poll(cx))
    }
}

/// The time limit on a response's head. While the request is being sent, it is the limit on bytes
/// not moving; from its end on, the limit on the first byte.
pub(crate) struct FirstByte {
    upload: Idle,
    first_byte: Duration,
    timer: Option<Timer>,
    total: Total,
}

impl FirstByte {
    pub(crate) fn new(timeouts: &Timeouts, deadline: Option<Instant>) -> FirstByte {
        FirstByte {
            upload: Idle::new(timeouts.idle_ms.duration()),
            first_byte: timeouts.first_byte_ms.duration(),
            timer: None,
            total: Total::new(deadline),
        }
    }

    /// Bytes of the upload have moved.
    pub(crate) fn moved(&mut self) {
        self.upload.moved();
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, uploading: bool) -> Poll<()> {
        if self.total.poll(cx).is_ready() {
            return Poll::Ready(());
        }
        if uploading {
            return self.upload.poll(cx);
        }
        let limit = self.first_byte;
        self.timer.get_or_insert_with(|| Timer::new(limit)).poll(cx)
    }
}

/// The time limit on nothing happening. Its timer is made when something first waits, and moved
/// only when it fires: most never wait, and those that do move again soon.
#[derive(Debug)]
pub(crate) struct Idle {
    limit: Duration,
    last: Option<Instant>,
    timer: Option<Timer>,
}

impl Idle {
    pub(crate) fn new(limit: Duration) -> Idle {
        Idle { limit, last: None, timer: None }
    }

    /// Something happened.
    pub(crate) fn moved(&mut self) {
        if self.timer.is_some() {
            self.last = Some(Instant::now());
        }
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let limit = self.limit;
        let timer = self.timer.get_or_insert_with(|| Timer::new(limit));
        while timer.poll(cx).is_ready() {
            let left = self.last.take().and_then(|last| limit.checked_sub(last.elapsed()));
            match left {
                Some(left) if !left.is_zero() => *timer = Timer::new(left),
                _ => return Poll::Ready(()),
            }
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_moves_is_not_idle() {
        for ticking in [false, true] {
            let local = tokio::task::LocalSet::new();
            let elapsed = local
                .run_until(async {
                    if ticking {
                        tokio::task::spawn_local(tick());
                        tokio::task::yield_now().await;
                    }
                    let begin = Instant::now();
                    let mut idle = Idle::new(Duration::from_secs(10));
                    for _ in 0..5 {
                        let due = tokio::time::timeout(Duration::from_secs(6), poll_fn(|cx| idle.poll(cx)));
                        assert!(due.await.is_err());
                        idle.moved();
                    }
                    poll_fn(|cx| idle.poll(cx)).await;
                    begin.elapsed().as_secs()
                })
                .await;
            assert_eq!(elapsed, 40, "ticking: {ticking}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_byte_is_waited_for_from_the_uploads_end() {
        let begin = Instant::now();
        let timeouts = Timeouts::default();
        let mut wait = FirstByte::new(&timeouts, None);
        let sent = tokio::time::timeout(Duration::from_secs(50), poll_fn(|cx| wait.poll(cx, true)));
        assert!(sent.await.is_err());
        poll_fn(|cx| wait.poll(cx, false)).await;
        assert_eq!(begin.elapsed().as_secs(), 110);
    }
}
