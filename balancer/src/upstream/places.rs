//! What one node has at one endpoint: connections, requests, and requests that wait. All workers
//! count in the same words, so a pool's limits refuse exactly what is too much (H18).
//!
//! Requests are counted only where the pool limits them: no word is shared on the way of others.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tidelock_core::spec::EndpointLimits;
use tokio::sync::Notify;

use crate::lease::EndpointState;

#[derive(Debug, Default)]
pub(crate) struct Places {
    requests: Count,
    pub(super) connections: Count,
    pending: AtomicU32,
}

/// Something of which there may be so many at once.
#[derive(Debug, Default)]
pub(super) struct Count {
    taken: AtomicU32,
    /// Those who wait for one; who comes now goes behind them.
    waiting: AtomicU32,
    freed: Notify,
}

impl Count {
    fn try_take(&self, limit: Option<NonZeroU32>) -> bool {
        let most = limit.map_or(u32::MAX, NonZeroU32::get);
        let one_more = |taken| (taken < most).then(|| taken + 1);
        self.taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more).is_ok()
    }

    /// Takes one whatever the limit says.
    pub(super) fn take(&self) {
        self.taken.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn give_back(&self) {
        self.taken.fetch_sub(1, Ordering::AcqRel);
        if self.is_wanted() {
            self.freed.notify_one();
        }
    }

    pub(super) fn is_wanted(&self) -> bool {
        self.waiting.load(Ordering::Acquire) > 0
    }

    /// Takes one unless the limit is reached, or others wait for one.
    pub(super) fn try_take_in_turn(&self, limit: Option<NonZeroU32>) -> bool {
        !self.is_wanted() && self.try_take(limit)
    }

    /// Takes one as soon as there is one, behind those who wait already.
    pub(super) async fn taken(&self, limit: Option<NonZeroU32>) {
        let mut is_in_turn = !self.is_wanted();
        let waiting = Waiting::new(&self.waiting);
        loop {
            // Listen before looking, or one that is given back between the two is missed.
            let freed = self.freed.notified();
            if is_in_turn && self.try_take(limit) {
                break;
            }
            freed.await;
            is_in_turn = true;
        }
        drop(waiting);
        // Of several that are given back at once, before anybody listens, one wakes somebody: the
        // others are passed on from hand to hand.
        let is_left = limit.is_none_or(|limit| self.taken.load(Ordering::Acquire) < limit.get());
        if is_left && self.is_wanted() {
            self.freed.notify_one();
        }
    }
}

struct Waiting<'a>(&'a AtomicU32);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicU32) -> Waiting<'a> {
        count.fetch_add(1, Ordering::AcqRel);
        Waiting(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The queue of an endpoint is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct QueueFull;

/// One of the requests that wait.
pub(super) struct Pending<'a> {
    _waiting: Waiting<'a>,
}

impl Places {
    /// Joins the queue, if it is not full.
    pub(super) fn enqueue(&self, limits: &EndpointLimits) -> Result<Pending<'_>, QueueFull> {
        let waiting = Waiting::new(&self.pending);
        if self.pending.load(Ordering::Acquire) > limits.max_pending {
            return Err(QueueFull);
        }
        Ok(Pending { _waiting: waiting })
    }

    /// Runs `wait` as one of the requests that wait.
    pub(super) async fn pending<T>(
        &self,
        limits: &EndpointLimits,
        wait: impl Future<Output = T>,
    ) -> Result<T, QueueFull> {
        let _pending = self.enqueue(limits)?;
        Ok(wait.await)
    }
}

/// A request's place at an endpoint whose pool limits them.
#[derive(Debug)]
pub(crate) struct RequestPlace(Arc<EndpointState>);

impl RequestPlace {
    /// None when there is none now.
    pub(super) fn try_take(state: &Arc<EndpointState>, limits: &EndpointLimits) -> Option<RequestPlace> {
        state.places.requests.try_take_in_turn(limits.max_requests).then(|| RequestPlace(state.clone()))
    }

    /// As soon as there is one.
    pub(super) async fn taken(state: &Arc<EndpointState>, limits: &EndpointLimits) -> Result<RequestPlace, QueueFull> {
        let places = &state.places;
        places.pending(limits, places.requests.taken(limits.max_requests)).await?;
        Ok(RequestPlace(state.clone()))
    }
}

impl Drop for RequestPlace {
    fn drop(&mut self) {
        self.0.places.requests.give_back();
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Waker};

    use tidelock_core::id::EndpointId;

    use super::*;
    use crate::lease::Gate;

    #[test]
    fn a_place_goes_to_who_waited_longest() {
        let state = EndpointState::new(EndpointId(1), 1, Gate::Open);
        let limits = EndpointLimits { max_requests: NonZeroU32::new(1), max_pending: 2, ..Default::default() };
        let cx = &mut Context::from_waker(Waker::noop());
        let first = RequestPlace::try_take(&state, &limits).unwrap();
        let mut second = pin!(RequestPlace::taken(&state, &limits));
        assert!(second.as_mut().poll(cx).is_pending());
        let mut third = pin!(RequestPlace::taken(&state, &limits));
        assert!(third.as_mut().poll(cx).is_pending());
        let mut fourth = Box::pin(RequestPlace::taken(&state, &limits));
        assert!(matches!(fourth.as_mut().poll(cx), std::task::Poll::Ready(Err(QueueFull))));
        drop(fourth);
        drop(first);
        assert!(RequestPlace::try_take(&state, &limits).is_none(), "others wait");
        assert!(third.as_mut().poll(cx).is_pending());
        let std::task::Poll::Ready(Ok(place)) = second.as_mut().poll(cx) else { panic!("it was freed") };
        drop(place);
        assert!(third.as_mut().poll(cx).is_ready());
        assert!(RequestPlace::try_take(&state, &limits).is_some(), "nobody waits");
    }

    /// Who gives up waiting takes no place with him.
    #[test]
    fn a_wait_that_ends_loses_no_place() {
        let state = EndpointState::new(EndpointId(1), 1, Gate::Open);
        let limits = EndpointLimits { max_requests: NonZeroU32::new(1), ..Default::default() };
        let cx = &mut Context::from_waker(Waker::noop());
        let first = RequestPlace::try_take(&state, &limits).unwrap();
        let mut second = Box::pin(RequestPlace::taken(&state, &limits));
        let mut third = pin!(RequestPlace::taken(&state, &limits));
        assert!(second.as_mut().poll(cx).is_pending() && third.as_mut().poll(cx).is_pending());
        drop(first);
        drop(second);
        assert!(third.as_mut().poll(cx).is_ready());
    }
}
