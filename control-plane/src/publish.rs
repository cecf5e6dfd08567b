//! Makes what has been applied visible: the compiled table to the data plane, the state to the
//! API.
//!
//! Called by the state machine on Raft's thread, once for each batch of applied entries. It never
//! waits for a reader: both channels hold only the newest value, so a reader that sleeps finds the
//! present when it wakes, not a backlog.

use std::sync::Arc;

use tidelock_core::id::Epoch;
use tidelock_core::state::State;
use tidelock_core::table::Table;
use tokio::sync::watch;

/// The writing side, owned by the state machine.
#[derive(Debug)]
pub(crate) struct Publisher {
    table: watch::Sender<Arc<Table>>,
    state: watch::Sender<Arc<State>>,
}

/// The reading side. The table is for the data plane, the state for the API.
#[derive(Debug, Clone)]
pub(crate) struct Published {
    pub(crate) table: watch::Receiver<Arc<Table>>,
    pub(crate) state: watch::Receiver<Arc<State>>,
}

/// Begins with the table of a fleet that has agreed on nothing yet.
pub(crate) fn channel() -> (Publisher, Published) {
    let (table, table_rx) = watch::channel(Arc::new(Table::empty()));
    let (state, state_rx) = watch::channel(Arc::new(State::default()));
    (Publisher { table, state }, Published { table: table_rx, state: state_rx })
}

impl Publisher {
    /// Compiles from the table before, so that what has not changed is shared, and sends both. The
    /// table goes first: who sees an epoch in the API may rely on the data plane having it to read.
    pub(crate) fn publish(&self, state: &State) {
        let before = self.table.borrow().clone();
        self.table.send_replace(Arc::new(Table::compile(state, Some(&before))));
        self.state.send_replace(Arc::new(state.clone()));
    }
}

impl Published {
    /// The newest state.
    pub(crate) fn state(&self) -> Arc<State> {
        self.state.borrow().clone()
    }

    /// The newest epoch; none before the first entry.
    pub(crate) fn epoch(&self) -> Option<Epoch> {
        self.state.borrow().epoch
    }

    /// Returns once the state is at or beyond `epoch`, or at once when nothing can be published any
    /// more.
    pub(crate) async fn reached(&self, epoch: Epoch) {
        let mut state = self.state.clone();
        // An error means that the state machine is gone: there is nothing left to wait for.
        let _ = state.wait_for(|state| state.epoch.is_some_and(|at| at >= epoch)).await;
    }
}
