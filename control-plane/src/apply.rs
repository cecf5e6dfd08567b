//! The state machine that Raft drives: the core's `State`, fed with entries.
//!
//! It decodes, applies and publishes, and decides nothing: equal logs give equal states on every
//! node. It runs on Raft's thread, so nothing here waits.

use tidelock_core::command::Proposal;
use tidelock_core::id::Epoch;
use tidelock_core::state::{Outcome, Rejection, State};

use crate::publish::Publisher;
use crate::raft::StateMachine;

pub(crate) struct Machine {
    state: State,
    publisher: Publisher,
    /// The state differs from what was published last.
    dirty: bool,
}

impl Machine {
    pub(crate) fn new(publisher: Publisher) -> Machine {
        Machine { state: State::default(), publisher, dirty: false }
    }
}

impl StateMachine for Machine {
    type Answer = Outcome;

    /// Applies one committed entry. An entry that this version cannot read is rejected and not
    /// fatal: the log is the fleet's, and a node that died of an entry would die of it again after
    /// each restart.
    fn apply(&mut self, index: u64, entry: &[u8]) -> Outcome {
        let epoch = Epoch(index);
        self.dirty = true;
        match Proposal::decode(entry) {
            Ok(proposal) => self.state.apply(epoch, &proposal),
            Err(error) => {
                tracing::error!(%error, index, "a log entry cannot be read and changes nothing");
                self.state.epoch = Some(epoch);
                Outcome::Rejected { reason: Rejection::Unreadable { detail: error.to_string() } }
            }
        }
    }

    fn snapshot(&self) -> Vec<u8> {
        self.state.encode()
    }

    /// Takes over a whole state: at the start from this node's disk, later from the leader.
    fn restore(&mut self, _index: u64, snapshot: &[u8]) -> Result<(), String> {
        self.state = State::decode(snapshot).map_err(|error| error.to_string())?;
        self.dirty = true;
        Ok(())
    }

    /// Publishes what the entries since the last call have changed, once for all of them.
    fn applied(&mut self, _index: u64) {
        if std::mem::take(&mut self.dirty) {
            self.publisher.publish(&self.state);
        }
    }
}

#[cfg(test)]
mod tests {
    use tidelock_core::command::Command;
    use tidelock_core::spec::PoolSpec;

    use super::*;
    use crate::publish;

    fn put_pool(name: &str) -> Vec<u8> {
        let command = Command::PutPool { name: name.parse().unwrap(), spec: PoolSpec::default() };
        Proposal { at_ms: 1, key: None, command }.encode()
    }

    #[test]
    fn a_batch_of_entries_publishes_once() {
        let (publisher, mut published) = publish::channel();
        let mut machine = Machine::new(publisher);
        published.table.mark_unchanged();
        machine.apply(2, &put_pool("a"));
        machine.apply(3, &put_pool("b"));
        assert!(!published.table.has_changed().unwrap(), "half a batch is not shown");
        machine.applied(3);
        assert_eq!(published.epoch(), Some(Epoch(3)));
        let table = published.table.borrow_and_update().clone();
        assert_eq!((table.epoch, table.pools.len()), (Epoch(3), 2));
        machine.applied(3);
        assert!(!published.table.has_changed().unwrap(), "nothing new, nothing sent");
    }

    #[test]
    fn an_unreadable_entry_is_rejected_and_changes_nothing_but_the_epoch() {
        let (publisher, published) = publish::channel();
        let mut machine = Machine::new(publisher);
        machine.apply(2, &put_pool("a"));
        for (index, entry) in [(3, &b""[..]), (4, b"\x07{}"), (5, b"\x01{\"nonsense\":1}"), (6, b"\xff\xff")] {
            let outcome = machine.apply(index, entry);
            assert!(matches!(outcome, Outcome::Rejected { reason: Rejection::Unreadable { .. } }), "{outcome:?}");
        }
        machine.applied(6);
        assert_eq!(published.epoch(), Some(Epoch(6)));
        assert_eq!(published.state().pools.len(), 1);
    }

    #[test]
    fn a_snapshot_carries_the_whole_state() {
        let (publisher, _published) = publish::channel();
        let mut machine = Machine::new(publisher);
        machine.apply(2, &put_pool("a"));
        let (publisher, published) = publish::channel();
        let mut other = Machine::new(publisher);
        other.restore(2, &machine.snapshot()).unwrap();
        other.applied(2);
        assert_eq!(*published.state(), machine.state);
        assert!(other.restore(3, b"rubbish").is_err());
        assert_eq!(other.state, machine.state, "a bad snapshot changes nothing");
    }
}
