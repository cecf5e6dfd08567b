//! A store in memory: the reference that the conformance tests hold redb against, the disk of the
//! simulation with its crashes, and the store of `tidelock demo`, which leaves nothing behind.

use std::sync::{Arc, Mutex, PoisonError};

use super::{Loaded, LogStart, Position, Store, StoreError, Write};

/// A disk that outlives the stores that write to it, as a real one outlives its processes.
#[derive(Clone)]
pub struct Disk(Arc<Mutex<Image>>);

struct Image {
    /// What a reader sees after a crash.
    durable: Loaded,
    /// What a reader sees without one. Differs from `durable` only while `lazy` holds writes back.
    current: Loaded,
    faults: Faults,
    commits: u64,
}

/// What goes wrong, and when.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    pub crash: Option<CrashPoint>,
    /// The planted bug: answer at once and make only every n-th write durable.
    pub lazy: Option<u64>,
}

/// A crash in the n-th commit from now (1 is the next one).
#[derive(Debug, Clone, Copy)]
pub struct CrashPoint {
    pub commit: u64,
    /// Whether the write reached the disk; the node cannot tell.
    pub written: bool,
}

impl Disk {
    pub fn new(node: u64) -> Self {
        let empty = Loaded { node, ..Loaded::default() };
        Self(Arc::new(Mutex::new(Image {
            durable: empty.clone(),
            current: empty,
            faults: Faults::default(),
            commits: 0,
        })))
    }

    pub fn store(&self) -> MemoryStore {
        MemoryStore { disk: self.clone() }
    }

    pub fn set_faults(&self, faults: Faults) {
        self.image(|image| image.faults = faults);
    }

    /// Power loss: what was not durable is gone.
    pub fn crash(&self) {
        self.image(|image| {
            image.current = image.durable.clone();
            image.faults.crash = None;
        });
    }

    /// What a disk with the fault `lazy` has held back becomes durable.
    #[cfg(test)]
    pub(crate) fn flush(&self) {
        self.image(|image| image.durable = image.current.clone());
    }

    fn image<T>(&self, with: impl FnOnce(&mut Image) -> T) -> T {
        with(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

pub struct MemoryStore {
    disk: Disk,
}

impl Store for MemoryStore {
    fn load(&mut self) -> Result<Loaded, StoreError> {
        let loaded = self.disk.image(|image| image.current.clone());
        loaded.check()?;
        Ok(loaded)
    }

    fn commit(&mut self, write: &Write<'_>) -> Result<(), StoreError> {
        self.disk.image(|image| {
            image.commits += 1;
            if let Some(crash) = &mut image.faults.crash {
                crash.commit = crash.commit.saturating_sub(1);
                if crash.commit == 0 {
                    if crash.written {
                        apply(&mut image.durable, write);
                    }
                    return Err(StoreError::Injected);
                }
            }
            apply(&mut image.current, write);
            if image.faults.lazy.is_none_or(|every| image.commits.is_multiple_of(every)) {
                image.durable = image.current.clone();
            }
            Ok(())
        })
    }
}

fn apply(image: &mut Loaded, write: &Write<'_>) {
    if let Some(snapshot) = write.snapshot {
        image.snapshot = snapshot.clone();
    }
    match write.log {
        LogStart::Keep => {}
        LogStart::CompactTo(position) => {
            image.entries.retain(|entry| entry.index > position.index);
            image.compacted = position;
        }
        LogStart::ResetTo(position) => {
            image.entries.clear();
            image.compacted = position;
        }
    }
    if let Some(first) = write.entries.first() {
        image.entries.retain(|entry| entry.index < first.index);
        image.entries.extend_from_slice(write.entries);
    }
    if let Some(hard_state) = write.hard_state {
        image.hard_state = hard_state.clone();
    }
    if let Some(founders) = write.founders {
        image.founders = Some(founders.to_vec());
    }
    if let Some(addresses) = write.addresses {
        image.addresses = addresses.to_vec();
    }
    debug_assert!(image.compacted == Position::default() || image.compacted.index > 0);
}
