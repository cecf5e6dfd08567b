//! Time limits of a request whose timers cost nothing while all goes well.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tidelock_core::spec::Timeouts;
use tokio::time::{Instant, Sleep, sleep_until};

/// The time limit on a response's head. While the request is being sent, it is the limit on bytes
/// not moving; from its end on, the limit on the first byte.
pub(crate) struct FirstByte {
    limits: (Duration, Duration),
    pub(crate) moved: bool,
    was_uploading: bool,
    timer: Option<Pin<Box<Sleep>>>,
}

impl FirstByte {
    pub(crate) fn new(timeouts: &Timeouts) -> FirstByte {
        let limits = (timeouts.idle_ms.duration(), timeouts.first_byte_ms.duration());
        FirstByte { limits, moved: false, was_uploading: true, timer: None }
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, uploading: bool) -> Poll<()> {
        let limit = if uploading { self.limits.0 } else { self.limits.1 };
        let restart = std::mem::take(&mut self.moved) || uploading != self.was_uploading;
        self.was_uploading = uploading;
        let due = || Instant::now() + limit;
        let timer = match &mut self.timer {
            None => self.timer.insert(Box::pin(sleep_until(due()))),
            Some(timer) => {
                if restart {
                    timer.as_mut().reset(due());
                }
                timer
            }
        };
        timer.as_mut().poll(cx)
    }
}

/// The time limit on nothing happening. Its timer is made when something first waits, and moved
/// only when it fires: most never wait, and those that do move again soon.
#[derive(Debug)]
pub(crate) struct Idle {
    limit: Duration,
    last: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
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
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + limit)));
        while timer.as_mut().poll(cx).is_ready() {
            match self.last.take() {
                Some(last) => timer.as_mut().reset(last + limit),
                None => return Poll::Ready(()),
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
        let begin = Instant::now();
        let mut idle = Idle::new(Duration::from_secs(10));
        for _ in 0..5 {
            let due = tokio::time::timeout(Duration::from_secs(6), poll_fn(|cx| idle.poll(cx)));
            assert!(due.await.is_err());
            idle.moved();
        }
        poll_fn(|cx| idle.poll(cx)).await;
        assert_eq!(begin.elapsed().as_secs(), 40);
    }
}
