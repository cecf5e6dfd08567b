//! A majority that is lost for good: one survivor is made a fleet of one, out of what is on its disk.
//!
//! Raft itself cannot do this and must not: the lost voters may have agreed on something that the
//! survivor has not heard of, and if they come back there are two fleets. So a person decides, while
//! the node does not run, and says which node it is. All entries of the survivor's log count, those
//! too that it does not know as committed: one of them may have been acknowledged by the others.

use std::collections::BTreeSet;

use raft::prelude::EntryType;

use super::driver::unframe;
use super::membership::{self, Change, Membership};
use super::storage::{Loaded, Position, Store, StoreError};
use super::{StateMachine, bootstrap};

#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("this node has never been in a fleet: there is nothing to recover")]
    NeverInAFleet,
    #[error("the state on the disk cannot be read: {0}")]
    State(String),
    #[error("the others cannot be removed, so nothing was changed: {0}")]
    Farewell(String),
}

/// What a survivor knows, before anything is changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survivor {
    pub id: u64,
    /// Every other node that its disk has as a member.
    pub others: BTreeSet<u64>,
    /// Its last entry, and what it knows as committed.
    pub last: u64,
    pub commit: u64,
    pub term: u64,
}

/// Reads and changes nothing.
pub fn inspect(store: &mut impl Store) -> Result<Survivor, RecoveryError> {
    survivor(&load(store)?)
}

/// Makes the node the only voter of its fleet. `farewell` applies the last commands of the old fleet,
/// from the index that it is given on, and says the last that it used, or why it cannot be done.
pub fn recover<M: StateMachine>(
    store: &mut impl Store,
    mut machine: M,
    farewell: impl FnOnce(&Survivor, &mut M, u64) -> Result<u64, String>,
) -> Result<Survivor, RecoveryError> {
    let loaded = load(store)?;
    let survivor = survivor(&loaded)?;
    let snapshot_index = loaded.snapshot.get_metadata().index;
    machine.restore(snapshot_index, &loaded.snapshot.data).map_err(RecoveryError::State)?;
    for entry in loaded.entries.iter().filter(|entry| entry.index > snapshot_index) {
        if entry.get_entry_type() == EntryType::EntryNormal
            && let Some((_, payload)) = unframe(&entry.data)
        {
            machine.apply(entry.index, payload);
        }
    }
    // A new term, so that nothing of the old ones can be taken for a part of this log.
    let index = farewell(&survivor, &mut machine, survivor.last + 1).map_err(RecoveryError::Farewell)?;
    let begin = Position { index, term: survivor.term + 1 };
    bootstrap::begin(store, begin, &[survivor.id], machine.snapshot())?;
    Ok(survivor)
}

fn load(store: &mut impl Store) -> Result<Loaded, RecoveryError> {
    let loaded = store.load()?;
    loaded.check()?;
    if loaded.is_initialised() { Ok(loaded) } else { Err(RecoveryError::NeverInAFleet) }
}

fn survivor(loaded: &Loaded) -> Result<Survivor, RecoveryError> {
    let mut others: BTreeSet<u64> = Membership::from(loaded.snapshot.get_metadata().get_conf_state()).ids().collect();
    let mut term = loaded.hard_state.term.max(loaded.snapshot.get_metadata().term);
    let mut last = loaded.snapshot.get_metadata().index.max(loaded.compacted.index);
    for entry in &loaded.entries {
        (last, term) = (last.max(entry.index), term.max(entry.term));
        if entry.get_entry_type() == EntryType::EntryNormal {
            continue;
        }
        for change in membership::decode(&entry.data).unwrap_or_default() {
            // One that was removed is named too: it must not come back either.
            let (Change::AddVoter(id) | Change::AddLearner(id) | Change::Remove(id)) = change;
            others.insert(id);
        }
    }
    others.remove(&loaded.node);
    Ok(Survivor { id: loaded.node, others, last, commit: loaded.hard_state.commit, term })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::bootstrap;
    use crate::raft::driver::{Config, Driver, Role};
    use crate::raft::sim::checker::{Checker, Register};
    use crate::raft::sim::world::World;
    use crate::raft::storage::memory::Disk;

    /// What three nodes agreed on is there, and the one goes on alone.
    #[test]
    fn a_survivor_goes_on_with_everything_it_has() {
        let config = Config { snapshot_every: 4, keep_entries: 2, ..Config::default() };
        let mut world = World::new(7, 3, config.clone());
        world.until(2_000, "a leader", |world| world.leader().is_some());
        let leader = world.leader().unwrap();
        for _ in 0..10 {
            let write = world.write(leader, 100);
            world.until(2_000, "a write", |world| world.outcomes.contains_key(&write));
        }
        let before = world.writes(leader).to_vec();
        assert_eq!(before.len(), 10);
        world.crash(leader);
        let mut store = world.nodes[&leader].disk.store();
        let seen = inspect(&mut store).unwrap();
        assert_eq!((seen.id, seen.others.len()), (leader, 2));
        let machine = Register::new(std::sync::Arc::<std::sync::Mutex<Checker>>::default());
        let refused = recover(&mut store, Register::new(Default::default()), |_, _, _| Err("no".to_owned()));
        assert!(matches!(refused, Err(RecoveryError::Farewell(_))));
        assert_eq!(inspect(&mut store).unwrap(), seen, "nothing was changed");
        let farewell = |_: &Survivor, machine: &mut Register, index| {
            machine.apply(index, &77_u64.to_be_bytes());
            Ok(index)
        };
        assert_eq!(recover(&mut store, machine, farewell).unwrap(), seen);
        let machine = Register::new(std::sync::Arc::<std::sync::Mutex<Checker>>::default());
        let driver = Driver::open(config, store, machine).unwrap();
        let mut expected = before;
        expected.push(77);
        assert_eq!(driver.machine().writes, expected);
        let status = driver.status();
        assert_eq!((status.membership.voters.as_slice(), status.applied), (&[leader][..], seen.last + 1));
        assert_ne!(status.role, Role::Outsider);
        assert!(status.term > seen.term);
    }

    #[test]
    fn a_node_that_was_never_in_a_fleet_has_nothing_to_recover() {
        let disk = Disk::new(3);
        assert!(matches!(inspect(&mut disk.store()), Err(RecoveryError::NeverInAFleet)));
        bootstrap::found(&mut disk.store(), &[1, 2, 3], Vec::new()).unwrap();
        assert_eq!(inspect(&mut disk.store()).unwrap().others, BTreeSet::from([1, 2]));
    }
}
