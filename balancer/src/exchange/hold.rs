//! Holding: a request for which there is no endpoint now waits for one, for as long as its pool
//! allows. A gap between the last old endpoint and the first new one then costs time, not errors.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tidelock_core::retry::Failure;
use tokio::time::Instant;

use super::Exchange;

/// An endpoint that refused connections is asked again this often while somebody waits for it.
const RETRY: Duration = Duration::from_millis(100);

/// The requests of one pool that wait on this node, over all workers.
#[derive(Debug, Default)]
pub(crate) struct Waiting(AtomicU32);

/// One request's place among them.
struct Held {
    waiting: Arc<Waiting>,
}

impl Held {
    /// None when too many wait already.
    fn enter(waiting: &Arc<Waiting>, most: u32) -> Option<Held> {
        let entered = waiting.0.fetch_add(1, Ordering::AcqRel);
        let held = Held { waiting: waiting.clone() };
        // Dropping it gives the place back.
        (entered < most).then_some(held)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.waiting.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Exchange {
    /// Waits until there may be an endpoint. False when there was none in time, or the request may
    /// not wait: it is answered then. Boxed and apart, since few wait, and all others would pay for it.
    #[cold]
    pub(crate) fn hold(&mut self) -> Pin<Box<dyn Future<Output = bool> + '_>> {
        Box::pin(self.until_there_may_be_an_endpoint())
    }

    async fn until_there_may_be_an_endpoint(&mut self) -> bool {
        // What had an endpoint that was full, slow or broken has its answer; so has what one may have worked
        // on, which must not be sent again and again.
        let may_wait = matches!(self.tries.last, None | Some(Failure::Connect));
        if !may_wait || self.tries.worked_on || self.tries.routed.is_some() {
            return false;
        }
        let counters = &self.worker.counters;
        let pool = self.view.pools[self.route.pool].clone();
        let spec = &pool.table.spec.hold;
        if spec.max_ms.get() == 0 {
            return false;
        }
        // Given back when the wait is over: who has an endpoint takes no place.
        let Some(_place) = Held::enter(&pool.waiting, spec.max_requests) else {
            counters.hold_refused.add();
            return false;
        };
        let now = Instant::now();
        let until = *self.tries.hold_until.get_or_insert_with(|| {
            counters.held.add();
            let until = now + Duration::from_millis(spec.max_ms.get().into());
            self.deadline.map_or(until, |deadline| until.min(deadline))
        });
        if now >= until {
            counters.hold_expired.add();
            return false;
        }
        // A table that came during the attempts is tried at once.
        if Rc::ptr_eq(&self.view, &self.worker.view()) {
            let left = until - now;
            let wait = match self.tries.last {
                // It may come back without a word of anybody's.
                Some(_) => left.min(RETRY),
                None => left,
            };
            let changed = self.worker.changed.notified();
            let _ = tokio::time::timeout(wait, changed).await;
        }
        for endpoint in &pool.endpoints {
            endpoint.hurry();
        }
        let view = self.worker.view();
        let Ok(route) = view.table.route(&self.host.name(), self.path.path()).cloned() else { return false };
        self.access.route(&view, &route);
        (self.view, self.route) = (view, route);
        // Not none, or the request would count once more for the budget of second tries.
        let tries = &mut self.tries;
        tries.tried.clear();
        tries.last = None;
        tries.attempts = 1;
        true
    }
}
