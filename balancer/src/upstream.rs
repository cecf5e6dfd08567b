//! Connections to endpoints. Each worker has its own, so that nothing is shared on the request
//! path; a drain lets them end with their last stream.

pub(crate) mod connect;
pub(crate) mod h1;
pub(crate) mod h2;
pub(crate) mod watch;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tidelock_core::id::{DrainId, EndpointId, Name};
use tidelock_core::spec::Address;
use tokio_util::task::TaskTracker;

use crate::flag::{Flag, Raised};
use crate::lease::EndpointState;

/// One endpoint as one worker has it. It lives as long as the endpoint, through every table.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) id: EndpointId,
    pub(crate) name: Name,
    pub(crate) address: Address,
    pub(crate) state: Arc<EndpointState>,
    pub(crate) h1: Rc<h1::Connections>,
    pub(crate) h2: Rc<h2::Connections>,
    /// Up when what still runs here is cut: every connection and exchange listens.
    cut: Rc<Flag>,
    /// The drain whose deadline is being waited for.
    deadline_of: Cell<Option<DrainId>>,
}

/// What lending a stream takes.
pub(crate) struct Lend<'a> {
    pub(crate) endpoint: &'a Endpoint,
    pub(crate) connect_limit: Duration,
    pub(crate) tasks: &'a TaskTracker,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LendError {
    /// No connection came about.
    Connect,
    /// Every connection is full and none became free in time.
    Full,
}

impl Endpoint {
    pub(crate) fn new(id: EndpointId, name: Name, address: Address, state: Arc<EndpointState>) -> Endpoint {
        Endpoint {
            id,
            name,
            address,
            state,
            h1: Rc::default(),
            h2: h2::Connections::new(),
            cut: Rc::default(),
            deadline_of: Cell::new(None),
        }
    }

    /// The endpoint takes nothing new: connections close after what runs on them.
    pub(crate) fn retire(&self) {
        self.h1.retire();
        self.h2.retire();
    }

    /// A cancelled drain: the endpoint is in use again.
    pub(crate) fn reopen(&self) {
        self.deadline_of.set(None);
        self.h1.reopen();
        self.h2.reopen();
        self.cut.lower();
    }

    /// The deadline is over: what still runs ends now.
    fn cut(&self) {
        self.retire();
        self.cut.raise();
    }

    /// Cuts what is left when the deadline of `drain` is over, unless the drain was cancelled.
    pub(crate) fn schedule_cut(self: &Rc<Self>, drain: DrainId, left: Duration) {
        if self.deadline_of.replace(Some(drain)) == Some(drain) {
            return;
        }
        let endpoint = Rc::downgrade(self);
        // Not tracked: a node that leaves waits for what runs, not for the time to cut it. The
        // timer ends with the worker.
        tokio::task::spawn_local(async move {
            tokio::time::sleep(left).await;
            if let Some(endpoint) = endpoint.upgrade()
                && endpoint.deadline_of.get() == Some(drain)
            {
                endpoint.cut();
            }
        });
    }

    /// Whether its drain's deadline is over: a connection would be cut as soon as it is there.
    pub(crate) fn is_cut(&self) -> bool {
        self.cut.is_up()
    }

    /// Ends when what runs on the endpoint is cut. The endpoint's own end is no cut: what runs on
    /// it runs on.
    pub(crate) fn until_cut(&self) -> Raised {
        self.cut.raised()
    }
}
