//! What does not end by itself on one endpoint: WebSockets and event streams of one worker. A drain
//! that has a pace asks one after the other to close, the oldest first.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::Endpoint;
use crate::flag::{Flag, Raised};
use crate::telemetry::Counters;

/// The rate may change meanwhile: it is looked at this often.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

#[derive(Debug, Default)]
pub(super) struct Lasting {
    /// In the order of their beginning.
    open: RefCell<BTreeMap<u64, Rc<Flag>>>,
    next: Cell<u64>,
    /// A task closes them.
    closing: Cell<bool>,
}

/// One of them, for as long as it is open.
#[derive(Debug)]
pub(crate) struct Open {
    endpoint: Rc<Endpoint>,
    number: u64,
    asked: Raised,
    cut: Raised,
}

impl Open {
    pub(crate) fn on(endpoint: &Rc<Endpoint>, counters: &Arc<Counters>) -> Open {
        let lasting = &endpoint.lasting;
        let number = lasting.next.replace(lasting.next.get() + 1);
        let flag = Rc::<Flag>::default();
        let asked = flag.raised();
        lasting.open.borrow_mut().insert(number, flag);
        // The gate may have closed since its request was let in.
        endpoint.close_at_pace(counters);
        Open { endpoint: endpoint.clone(), number, asked, cut: endpoint.until_cut() }
    }

    /// Ready when it is to close: it is its turn, or the drain's deadline is over.
    pub(crate) fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match Pin::new(&mut self.asked).poll(cx) {
            Poll::Ready(()) => Poll::Ready(()),
            Poll::Pending => Pin::new(&mut self.cut).poll(cx),
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.endpoint.lasting.open.borrow_mut().remove(&self.number);
    }
}

impl Endpoint {
    /// Closes what lasts here at this node's pace, until nothing does or the pace ends.
    pub(crate) fn close_at_pace(self: &Rc<Self>, counters: &Arc<Counters>) {
        let lasting = &self.lasting;
        if !self.state.pace.closes() || lasting.open.borrow().is_empty() || lasting.closing.replace(true) {
            return;
        }
        let (endpoint, counters) = (Rc::downgrade(self), counters.clone());
        // Not tracked: a node that leaves does not wait for it.
        tokio::task::spawn_local(async move {
            while let Some(endpoint) = endpoint.upgrade() {
                let turn = if endpoint.lasting.open.borrow().is_empty() { None } else { endpoint.state.pace.take() };
                match turn {
                    None => return endpoint.lasting.closing.set(false),
                    Some(Ok(())) => {
                        // Whom it asks is out of the list, and gone when it has closed.
                        if let Some((_, flag)) = endpoint.lasting.open.borrow_mut().pop_first() {
                            flag.raise();
                            counters.closed_at_pace.add();
                        }
                    }
                    Some(Err(wait)) => {
                        drop(endpoint);
                        tokio::time::sleep(wait.min(LOOK_AGAIN)).await;
                    }
                }
            }
        });
    }
}
