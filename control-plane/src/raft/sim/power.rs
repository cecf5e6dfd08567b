//! Power that fails between any two effects of a node.
//!
//! Everything a driver does that anybody else or its disk could notice passes one of its three seams:
//! the outbox, the store and the state machine. Each asks the node's [`Power`] before its effect, and
//! when the power fails it unwinds out of the driver, as if the process ended right there. A crash
//! between two steps of `Driver::ready` that have no effect between them is no other crash. So
//! production code needs no failpoints, and a step that is added to it is covered at once.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::raft::storage::memory::{Disk, Faults, MemoryStore};
use crate::raft::storage::{Loaded, Store, StoreError, Write};

/// One node's supply. A clone is the same one.
#[derive(Clone)]
pub(in crate::raft) struct Power {
    disk: Disk,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// The power fails before the effect that would make this zero.
    left: Option<u64>,
    /// The planted bug: writes are durable only after the effect that follows them.
    late_disk: bool,
    /// Effects until a late write is durable.
    late: u64,
}

/// What the unwinding carries, to be told from a failed check.
struct Lost;

impl Default for Power {
    fn default() -> Self {
        Self::new(Disk::new(1))
    }
}

impl Power {
    pub(super) fn new(disk: Disk) -> Self {
        Self { disk, state: Arc::default() }
    }

    /// Fails before the n-th effect from now; 1 is the next one.
    pub(super) fn fail_before(&self, effect: u64) {
        self.state().left = Some(effect);
    }

    pub(super) fn restore(&self) {
        let mut state = self.state();
        (state.left, state.late) = (None, 0);
    }

    /// From now on the disk is one effect late, as that of a driver which sends or answers before it
    /// writes; `false` makes an honest one of it.
    pub(super) fn set_late_disk(&self, late: bool) {
        self.disk.flush();
        self.disk.set_faults(Faults { lazy: late.then_some(u64::MAX), crash: None });
        let mut state = self.state();
        (state.late_disk, state.late) = (late, 0);
    }

    pub(super) fn store(&self) -> Powered<MemoryStore> {
        Powered { store: self.disk.store(), power: self.clone() }
    }

    /// The driver has done what there was to do: even a late write is durable now, so that it takes a loss
    /// of power between two effects to find it.
    pub(super) fn at_rest(&self) {
        if std::mem::take(&mut self.state().late) > 0 {
            self.disk.flush();
        }
    }

    /// An effect is about to happen.
    pub(super) fn effect(&self) {
        let mut state = self.state();
        if let Some(left) = &mut state.left {
            *left -= 1;
            if *left == 0 {
                state.left = None;
                drop(state);
                // Unlike a panic it says nothing: it is no failure of the test.
                resume_unwind(Box::new(Lost));
            }
        }
        if state.late > 0 {
            state.late -= 1;
            if state.late == 0 {
                self.disk.flush();
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `None` if the power failed meanwhile. What `life` worked on must not be used any further.
pub(super) fn until_lost<T>(life: impl FnOnce() -> T) -> Option<T> {
    match catch_unwind(AssertUnwindSafe(life)) {
        Ok(done) => Some(done),
        Err(panic) if panic.is::<Lost>() => None,
        Err(panic) => resume_unwind(panic),
    }
}

pub(in crate::raft) struct Powered<S> {
    store: S,
    power: Power,
}

impl<S: Store> Store for Powered<S> {
    fn load(&mut self) -> Result<Loaded, StoreError> {
        self.store.load()
    }

    fn commit(&mut self, write: &Write<'_>) -> Result<(), StoreError> {
        self.power.effect();
        self.store.commit(write)?;
        let mut state = self.power.state();
        if state.late_disk {
            state.late = 2;
        }
        Ok(())
    }
}
