//! The log in memory, as the raft crate reads it.
//!
//! It mirrors what the store holds: the driver commits a write to the store first and shows it to
//! this mirror afterwards, so raft never sees anything that a crash could take back.

use std::cell::Cell;
use std::collections::VecDeque;

use raft::prelude::{Entry, HardState, Snapshot};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};

use super::storage::{Loaded, LogStart, Position, Write};

pub(crate) struct Log {
    hard_state: HardState,
    snapshot: Snapshot,
    compacted: Position,
    entries: VecDeque<Entry>,
    /// Sum of the entries' data, for compaction by size.
    bytes: usize,
    /// Raft asked for a snapshot that `snapshot` is no answer to; the driver makes a fresh one.
    /// A Cell because the question comes through `&self`; the log never leaves its thread.
    snapshot_wanted: Cell<bool>,
}

impl Log {
    pub(crate) fn new(loaded: Loaded) -> Self {
        let bytes = loaded.entries.iter().map(|entry| entry.data.len()).sum();
        Self {
            hard_state: loaded.hard_state,
            snapshot: loaded.snapshot,
            compacted: loaded.compacted,
            entries: loaded.entries.into(),
            bytes,
            snapshot_wanted: Cell::new(false),
        }
    }

    /// Repeats a committed write.
    pub(crate) fn mirror(&mut self, write: &Write<'_>) {
        if let Some(snapshot) = write.snapshot {
            self.snapshot = snapshot.clone();
        }
        match write.log {
            LogStart::Keep => {}
            LogStart::CompactTo(position) => {
                while self.entries.front().is_some_and(|entry| entry.index <= position.index) {
                    let entry = self.entries.pop_front().expect("the loop saw a first entry");
                    self.bytes -= entry.data.len();
                }
                self.compacted = position;
            }
            LogStart::ResetTo(position) => {
                self.entries.clear();
                self.bytes = 0;
                self.compacted = position;
            }
        }
        if let Some(first) = write.entries.first() {
            while self.entries.back().is_some_and(|entry| entry.index >= first.index) {
                let entry = self.entries.pop_back().expect("the loop saw a last entry");
                self.bytes -= entry.data.len();
            }
            self.bytes += write.entries.iter().map(|entry| entry.data.len()).sum::<usize>();
            self.entries.extend(write.entries.iter().cloned());
        }
        if let Some(hard_state) = write.hard_state {
            self.hard_state = hard_state.clone();
        }
    }

    pub(crate) fn take_snapshot_wanted(&self) -> bool {
        self.snapshot_wanted.take()
    }

    pub(crate) fn snapshot_index(&self) -> u64 {
        self.snapshot.get_metadata().index
    }

    pub(crate) fn first(&self) -> u64 {
        self.compacted.index + 1
    }

    pub(crate) fn last(&self) -> u64 {
        self.compacted.index + self.entries.len() as u64
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn hard_state(&self) -> &HardState {
        &self.hard_state
    }

    pub(crate) fn position(&self, index: u64) -> Option<Position> {
        let term = self.term_of(index)?;
        Some(Position { index, term })
    }

    /// The last entry that may go so that at most `entries` entries and `bytes` bytes stay.
    pub(crate) fn cut(&self, up_to: u64, entries: u64, bytes: usize) -> u64 {
        let by_count = up_to.saturating_sub(entries);
        let mut kept = 0;
        let by_bytes = self
            .entries
            .iter()
            .rev()
            .skip_while(|entry| entry.index > up_to)
            .find(|entry| {
                kept += entry.data.len();
                kept > bytes
            })
            .map_or(0, |entry| entry.index);
        by_count.max(by_bytes).min(up_to)
    }

    fn offset(&self, index: u64) -> Option<usize> {
        let offset = index.checked_sub(self.first())?;
        usize::try_from(offset).ok()
    }

    fn term_of(&self, index: u64) -> Option<u64> {
        if index == self.compacted.index {
            return Some(self.compacted.term);
        }
        Some(self.entries.get(self.offset(index)?)?.term)
    }
}

impl Storage for Log {
    fn initial_state(&self) -> raft::Result<RaftState> {
        let conf_state = self.snapshot.get_metadata().get_conf_state().clone();
        Ok(RaftState::new(self.hard_state.clone(), conf_state))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        let start = self.offset(low).ok_or(StorageError::Compacted)?;
        let end = self.offset(high).filter(|end| *end <= self.entries.len()).ok_or(StorageError::Unavailable)?;
        let mut entries: Vec<Entry> = self.entries.range(start..end).cloned().collect();
        raft::util::limit_size(&mut entries, max_size.into());
        Ok(entries)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        match self.term_of(index) {
            Some(term) => Ok(term),
            None if index < self.first() => Err(StorageError::Compacted.into()),
            None => Err(StorageError::Unavailable.into()),
        }
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.first())
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    /// A snapshot whose membership lacks the receiver is ignored by it, silently and for ever: a new
    /// learner would never start. So such a one is not sent; raft asks again at the next heartbeat,
    /// and by then the driver has made a fresh one at the applied index.
    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<Snapshot> {
        let metadata = self.snapshot.get_metadata();
        let state = metadata.get_conf_state();
        let knows_receiver = [state.get_voters(), state.get_learners(), state.get_voters_outgoing()]
            .into_iter()
            .flatten()
            .any(|id| *id == to);
        if metadata.index == 0 || metadata.index < request_index || !knows_receiver {
            self.snapshot_wanted.set(true);
            return Err(StorageError::SnapshotTemporarilyUnavailable.into());
        }
        Ok(self.snapshot.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::membership::Membership;

    fn entry(index: u64, term: u64, bytes: usize) -> Entry {
        let mut entry = Entry::default();
        (entry.index, entry.term) = (index, term);
        entry.data = vec![0; bytes].into();
        entry
    }

    fn log(entries: &[Entry]) -> Log {
        let mut snapshot = Snapshot::default();
        snapshot.mut_metadata().index = 1;
        snapshot.mut_metadata().term = 1;
        snapshot.mut_metadata().set_conf_state((&Membership::of_voters(&[1, 2])).into());
        let compacted = Position { index: 1, term: 1 };
        Log::new(Loaded { node: 1, snapshot, compacted, entries: entries.to_vec(), ..Loaded::default() })
    }

    #[test]
    fn an_overlapping_append_drops_the_old_tail_first() {
        let mut log = log(&[entry(2, 1, 5), entry(3, 1, 5), entry(4, 1, 5)]);
        log.mirror(&Write { entries: &[entry(3, 2, 7)], ..Write::default() });
        assert_eq!((log.last(), log.term(3).unwrap(), log.bytes()), (3, 2, 12));
        assert!(log.term(4).is_err());
    }

    #[test]
    fn the_term_at_the_cut_is_remembered() {
        let mut log = log(&[entry(2, 1, 5), entry(3, 2, 5), entry(4, 2, 5)]);
        log.mirror(&Write { log: LogStart::CompactTo(Position { index: 3, term: 2 }), ..Write::default() });
        assert_eq!((log.first(), log.term(3).unwrap(), log.bytes()), (4, 2, 5));
        assert_eq!(log.term(2), Err(StorageError::Compacted.into()));
        assert_eq!(log.entries(3, 5, None, GetEntriesContext::empty(false)), Err(StorageError::Compacted.into()));
    }

    #[test]
    fn a_snapshot_is_refused_to_a_node_it_does_not_name() {
        let log = log(&[]);
        assert!(log.snapshot(0, 2).is_ok());
        assert!(!log.take_snapshot_wanted());
        assert_eq!(log.snapshot(0, 9), Err(StorageError::SnapshotTemporarilyUnavailable.into()));
        assert!(log.take_snapshot_wanted(), "the driver must learn that a fresh one is needed");
    }

    #[test]
    fn the_cut_keeps_a_tail_by_count_and_by_size() {
        let log = log(&[entry(2, 1, 10), entry(3, 1, 10), entry(4, 1, 10), entry(5, 1, 10)]);
        assert_eq!(log.cut(5, 2, 1_000), 3);
        assert_eq!(log.cut(5, 100, 25), 3);
        assert_eq!(log.cut(4, 100, 1_000), 0);
    }
}
