//! Holding: a request for which there is no endpoint now waits for one, for as long as its pool
//! allows. A gap between the last old endpoint and the first new one then costs time, not errors.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tidelock_core::retry::Failure;
use tokio::time::Instant;

use super::{Exchange, Tries};

/// An endpoint that refused connections is asked again this often while somebody waits for it.
const RETRY: Duration = Duration::from_millis(100);

/// The requests of one pool that wait on this node, over all workers.
#[derive(Debug, Default)]
pub(crate) struct Waiting(AtomicU32);

/// One request's place among them.
pub(crate) struct Held {
    waiting: Arc<Waiting>,
    until: Instant,
}

impl Held {
    /// None when too many wait already.
    fn enter(waiting: &Arc<Waiting>, most: u32, time: Duration) -> Option<Held> {
        let entered = waiting.0.fetch_add(1, Ordering::AcqRel);
        let held = Held { waiting: waiting.clone(), until: Instant::now() + time };
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
    /// not wait: it is answered then.
    pub(crate) async fn hold(&mut self) -> bool {
        // What had an endpoint that was full, slow or broken has its answer.
        if self.tries.routed.is_some() || !matches!(self.tries.last, None | Some(Failure::Connect)) {
            return false;
        }
        let counters = &self.worker.counters;
        let pool = self.view.pools[self.route.pool].clone();
        let Some(until) = self.tries.held.as_ref().map(|held| held.until).or_else(|| {
            let spec = &pool.table.spec.hold;
            let time = Duration::from_millis(spec.max_ms.get().into());
            if time.is_zero() {
                return None;
            }
            let held = Held::enter(&pool.waiting, spec.max_requests, time);
            match &held {
                Some(_) => counters.held.add(),
                None => counters.hold_refused.add(),
            }
            self.tries.held = held;
            self.tries.held.as_ref().map(|held| held.until)
        }) else {
            return false;
        };
        let now = Instant::now();
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
        let Tries { held, session, .. } = std::mem::take(&mut self.tries);
        self.tries = Tries { held, session, ..Tries::default() };
        true
    }
}
