//! What must hold in every run, and a state machine that notices when it does not.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use super::power::Power;
use crate::raft::StateMachine;

/// Facts about the whole fleet, which no node knows.
#[derive(Default)]
pub(in crate::raft) struct Checker {
    leaders: BTreeMap<u64, u64>,
    digests: BTreeMap<u64, u64>,
    /// Writes whose proposer was told that they were applied.
    acknowledged: BTreeSet<u64>,
    /// Writes whose proposer was told that they certainly were not.
    denied: BTreeSet<u64>,
}

impl Checker {
    /// At most one leader a term.
    pub(in crate::raft) fn leads(&mut self, term: u64, id: u64) {
        let first = *self.leaders.entry(term).or_insert(id);
        assert_eq!(first, id, "two leaders in term {term}");
    }

    /// Equal index, equal state, on whichever node and in whichever life of it.
    fn state_at(&mut self, index: u64, digest: u64) {
        let first = *self.digests.entry(index).or_insert(digest);
        assert_eq!(first, digest, "two states at index {index}");
    }

    pub(in crate::raft) fn acknowledge(&mut self, write: u64) {
        self.acknowledged.insert(write);
    }

    pub(in crate::raft) fn deny(&mut self, write: u64) {
        self.denied.insert(write);
    }

    /// Everything acknowledged so far: what a read that begins now must see.
    pub(in crate::raft) fn acknowledged(&self) -> BTreeSet<u64> {
        self.acknowledged.clone()
    }

    /// No acknowledged write is missing, no denied one is there.
    pub(in crate::raft) fn final_state(&self, writes: &[u64]) {
        let writes: BTreeSet<u64> = writes.iter().copied().collect();
        let lost: Vec<_> = self.acknowledged.difference(&writes).collect();
        assert!(lost.is_empty(), "acknowledged writes are lost: {lost:?}");
        let false_denials: Vec<_> = self.denied.intersection(&writes).collect();
        assert!(false_denials.is_empty(), "writes happened though their callers were told not: {false_denials:?}");
    }
}

/// A register that remembers every write: each a number of eight bytes, written once.
pub(in crate::raft) struct Register {
    pub(in crate::raft) writes: Vec<u64>,
    checker: Arc<Mutex<Checker>>,
    power: Power,
}

impl Register {
    pub(in crate::raft) fn new(checker: Arc<Mutex<Checker>>) -> Self {
        Self::powered(checker, Power::default())
    }

    pub(in crate::raft) fn powered(checker: Arc<Mutex<Checker>>, power: Power) -> Self {
        Self { writes: Vec::new(), checker, power }
    }

    fn check(&self, index: u64) {
        let digest = self
            .writes
            .iter()
            .fold(0xcbf2_9ce4_8422_2325, |digest: u64, write| (digest ^ write).wrapping_mul(0x0100_0000_01b3));
        self.checker.lock().unwrap().state_at(index, digest);
    }
}

impl StateMachine for Register {
    type Answer = usize;

    fn apply(&mut self, index: u64, data: &[u8]) -> usize {
        self.power.effect();
        let write = u64::from_be_bytes(data.try_into().expect("the simulation writes eight bytes"));
        assert!(!self.writes.contains(&write), "write {write} was applied twice");
        self.writes.push(write);
        self.check(index);
        self.writes.len()
    }

    fn snapshot(&self) -> Vec<u8> {
        self.writes.iter().flat_map(|write| write.to_be_bytes()).collect()
    }

    fn restore(&mut self, index: u64, bytes: &[u8]) -> Result<(), String> {
        self.power.effect();
        let (writes, rest) = bytes.as_chunks::<8>();
        if !rest.is_empty() {
            return Err("the snapshot is cut".into());
        }
        self.writes = writes.iter().map(|write| u64::from_be_bytes(*write)).collect();
        self.check(index);
        Ok(())
    }

    fn applied(&mut self, _: u64) {
        self.power.effect();
    }
}
