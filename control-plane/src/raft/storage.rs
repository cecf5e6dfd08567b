//! What a node must remember, and the one way to write it down.
//!
//! A [`Store`] is written to by the driver alone, one [`Write`] at a time, each of them atomic and
//! durable when `commit` returns. It is read once, at the start: the log since the last snapshot is
//! small (a configuration, not a database) and `log` keeps it in memory from then on. What is read
//! is checked against its CRC and against the rules a log obeys; a damaged log is refused, never
//! repaired by guessing, because a node that has forgotten a vote or an entry can break the fleet.
//!
//! The membership is stored inside the snapshot only: changes after it are replayed from the log.

mod count;
pub mod memory;
pub mod redb;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use ::redb as redb_crate;
use raft::prelude::{Entry, HardState, Snapshot};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Index and term of an entry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    pub index: u64,
    pub term: u64,
}

/// Durable memory of one node. `memory` has the one for simulations and demos, `redb` the real one.
pub trait Store: Send + 'static {
    /// Everything that was committed, checked. Called before the first `commit`.
    fn load(&mut self) -> Result<Loaded, StoreError>;

    /// Makes one write durable, all of it or nothing. After an error the store must not be used:
    /// whether the write happened is unknown, and the node has to end and read it back.
    fn commit(&mut self, write: &Write<'_>) -> Result<(), StoreError>;
}

/// What a store remembers.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Loaded {
    /// Minted once per data directory, never zero: an id must not come back with an empty disk.
    pub node: u64,
    pub hard_state: HardState,
    /// Index 0 if there is none: the node has neither been founded nor been sent a snapshot.
    pub snapshot: Snapshot,
    /// The last entry that compaction removed; the log begins after it.
    pub compacted: Position,
    pub entries: Vec<Entry>,
    /// The ids that founded the fleet, if this node was one of them.
    pub founders: Option<Vec<u64>>,
    /// Last known addresses of the other nodes; a hint for dialling, nothing depends on it.
    pub addresses: Vec<(u64, String)>,
}

/// One atomic write. The parts are applied in the order of the fields.
#[derive(Debug, Clone, Copy, Default)]
pub struct Write<'a> {
    pub snapshot: Option<&'a Snapshot>,
    pub log: LogStart,
    /// Replaces whatever the log holds from the first of these on (the tail of a deposed leader).
    pub entries: &'a [Entry],
    pub hard_state: Option<&'a HardState>,
    pub founders: Option<&'a [u64]>,
    pub addresses: Option<&'a [(u64, String)]>,
}

/// What a write does to the front of the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LogStart {
    #[default]
    Keep,
    /// Forget entries up to and with this one.
    CompactTo(Position),
    /// Forget every entry: a snapshot from the leader replaced the log.
    ResetTo(Position),
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error(
        "another process has {} open: one data directory belongs to one running node. \
         Stop the other process or set another data_dir", .0.display()
    )]
    Locked(PathBuf),
    #[error("cannot open the Raft log {}: {source}", path.display())]
    Open {
        path: PathBuf,
        #[source]
        source: Box<redb_crate::Error>,
    },
    #[error("the Raft log {} was written in format {found}, this version reads format {expected}", path.display())]
    Format { path: PathBuf, found: u32, expected: u32 },
    #[error(
        "the Raft log raft.redb is damaged ({what}). This node cannot take part safely any more: stop it, remove its id \
         from the fleet, delete its data directory and add it again as a new node"
    )]
    Corrupt { what: String },
    #[error(
        "cannot write the Raft log raft.redb: {0}. Nothing that was acknowledged is lost: make room on the disk of the \
         data directory, or see what is wrong with it, and start this node again"
    )]
    Write(#[source] Box<redb_crate::Error>),
    #[error("cannot read the Raft log: {0}")]
    Read(#[source] Box<redb_crate::Error>),
    /// The in-memory store was told to fail here.
    #[error("injected crash")]
    Injected,
}

impl StoreError {
    fn corrupt(what: impl Into<String>) -> Self {
        Self::Corrupt { what: what.into() }
    }

    fn open(path: &Path, source: impl Into<redb_crate::Error>) -> Self {
        match source.into() {
            redb_crate::Error::DatabaseAlreadyOpen => Self::Locked(path.to_owned()),
            redb_crate::Error::Corrupted(what) => Self::corrupt(what),
            // Other than our own format, redb's is the same since the first release: this is damage.
            source @ redb_crate::Error::UpgradeRequired(_) => Self::corrupt(source.to_string()),
            redb_crate::Error::Io(source)
                if matches!(source.kind(), ErrorKind::InvalidData | ErrorKind::UnexpectedEof) =>
            {
                Self::corrupt(source.to_string())
            }
            source => Self::Open { path: path.to_owned(), source: Box::new(source) },
        }
    }
}

impl Loaded {
    pub fn is_initialised(&self) -> bool {
        self.snapshot.get_metadata().index > 0
    }

    /// The rules that any sequence of writes by the driver keeps. A store whose records are whole
    /// can still break them (a restored backup, a file system that lost a write), and the raft crate
    /// would panic on it later or, worse, not at all.
    pub fn check(&self) -> Result<(), StoreError> {
        let broken = |what: String| Err(StoreError::corrupt(what));
        if self.node == 0 {
            return broken("node id zero".into());
        }
        let mut last = self.compacted;
        for entry in &self.entries {
            if entry.index != last.index + 1 || entry.term < last.term {
                return broken(format!(
                    "entry {} of term {} follows entry {} of term {}",
                    entry.index, entry.term, last.index, last.term
                ));
            }
            last = Position { index: entry.index, term: entry.term };
        }
        let snapshot = self.snapshot.get_metadata();
        let commit = self.hard_state.commit;
        if snapshot.index < self.compacted.index {
            return broken(format!("compacted to {} beyond snapshot {}", self.compacted.index, snapshot.index));
        }
        if commit < snapshot.index || commit > last.index {
            return broken(format!("commit {commit} outside snapshot {} to last entry {}", snapshot.index, last.index));
        }
        if self.hard_state.term < last.term {
            return broken(format!("term {} below the log's {}", self.hard_state.term, last.term));
        }
        Ok(())
    }
}

#[derive(Serialize, Deserialize)]
struct WireHardState {
    term: u64,
    vote: u64,
    commit: u64,
}

impl From<&HardState> for WireHardState {
    fn from(state: &HardState) -> Self {
        Self { term: state.term, vote: state.vote, commit: state.commit }
    }
}

impl From<WireHardState> for HardState {
    fn from(wire: WireHardState) -> Self {
        let mut state = HardState::default();
        (state.term, state.vote, state.commit) = (wire.term, wire.vote, wire.commit);
        state
    }
}

/// A record as stored: CRC32 over key and payload, then the payload. The key is in the sum, so a
/// record that turns up under another key is noticed too.
fn seal(key: &[u8], value: &impl Serialize) -> Vec<u8> {
    let mut record = postcard::to_extend(value, vec![0; 4]).expect("postcard writes any of our structs to a Vec");
    let crc = crc(key, &record[4..]);
    record[..4].copy_from_slice(&crc.to_le_bytes());
    record
}

fn unseal<T: DeserializeOwned>(name: &str, key: &[u8], record: &[u8]) -> Result<T, StoreError> {
    let damaged = || StoreError::corrupt(format!("the record of {name} fails its checksum"));
    let (stored, payload) = record.split_first_chunk::<4>().ok_or_else(damaged)?;
    if u32::from_le_bytes(*stored) != crc(key, payload) {
        return Err(damaged());
    }
    postcard::from_bytes(payload).map_err(|_| StoreError::corrupt(format!("the record of {name} cannot be decoded")))
}

fn crc(key: &[u8], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(payload);
    hasher.finalize()
}

#[cfg(test)]
pub(super) mod tests;
#[cfg(test)]
mod torn;
