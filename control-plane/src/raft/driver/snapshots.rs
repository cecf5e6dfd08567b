//! Snapshots of our own state: to bound the log, and for a member that the log cannot serve.

use raft::prelude::Snapshot;

use super::super::StateMachine;
use super::super::storage::{LogStart, Store, Write};
use super::{Driver, Fatal};

impl<S: Store, M: StateMachine> Driver<S, M> {
    /// Takes a snapshot when the log has grown by `snapshot_every` entries or beyond its size, or
    /// when raft needs one that names a member the last one does not know.
    pub(super) fn compact(&mut self) -> Result<(), Fatal> {
        let log = self.node.raft.store();
        let wanted = log.take_snapshot_wanted();
        let since = self.applied.saturating_sub(log.snapshot_index());
        let grown = since >= self.config.snapshot_every || log.bytes() > self.config.compact_bytes;
        if since == 0 || !(grown || wanted) {
            return Ok(());
        }
        let Some(applied) = log.position(self.applied) else { return Ok(()) };
        let mut snapshot = Snapshot::default();
        snapshot.data = self.machine.snapshot().into();
        let metadata = snapshot.mut_metadata();
        (metadata.index, metadata.term) = (applied.index, applied.term);
        // Changes of membership take effect when they are applied, so this is the one at `applied`.
        metadata.set_conf_state(self.node.raft.prs().conf().to_conf_state());

        let cut = log.cut(applied.index, self.config.keep_entries, self.config.compact_bytes / 2);
        let compact = log.position(cut).filter(|_| grown && cut >= log.first());
        let write = Write {
            snapshot: Some(&snapshot),
            log: compact.map_or(LogStart::Keep, LogStart::CompactTo),
            ..Write::default()
        };
        // `commit` writes how far the log is committed along with it, which is `applied` or beyond.
        self.commit(&write)
    }
}
