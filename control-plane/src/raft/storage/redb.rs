//! The durable store: one redb file, one transaction a write.
//!
//! A commit syncs once: redb tells by its checksums whether the last transaction is whole, and goes back
//! to the one before if it is not ("1PC+C" in its docs/design.md). Its second phase would guard against
//! somebody who chooses what is written AND in which order the disk takes it; such a one has better
//! ways. The loss after a double crash (changelog of 4.2.0) is mended, and `torn` holds redb to it. The file
//! is locked by redb while it is open.

use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::{fmt, fs};

use raft::prelude::{Entry, HardState, Snapshot};
use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::super::wire::{WireEntry, WireSnapshot};
use super::count::Count;
use super::{Loaded, LogStart, Position, Store, StoreError, WireHardState, Write, seal, unseal};

const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");

/// Format of the records. A newer one is refused, an older one is converted at opening.
const FORMAT: u32 = 1;

/// redb's page cache. The log is read once and then served from memory, so it needs little.
const CACHE_BYTES: usize = 8 << 20;

pub struct RedbStore {
    database: Database,
    path: PathBuf,
    node: u64,
    /// Writes so far.
    commits: u64,
    /// None where the log is not in a directory.
    count: Option<Count>,
    /// Its lock goes with it.
    _directory: Option<fs::File>,
}

impl fmt::Debug for RedbStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedbStore({:016x} in {})", self.node, self.path.display())
    }
}

impl RedbStore {
    /// Opens the log `raft.redb` in `directory`, or creates it.
    ///
    /// `node` is used when the log is created, else the stored id is kept; `None` mints a random one.
    pub fn open(directory: &Path, node: Option<u64>) -> Result<Self, StoreError> {
        let path = directory.join("raft.redb");
        let failed = |error| StoreError::open(&path, redb::Error::Io(error));
        fs::create_dir_all(directory).map_err(failed)?;
        let lock = lock(directory, &path)?;
        if path.try_exists().map_err(failed)? {
            let mut store = whole(|| {
                let database = builder().open(&path).map_err(|e| StoreError::open(&path, e))?;
                Self::known(database, path.clone())
            })?;
            let (count, commits) = Count::open(directory).map_err(failed)?;
            if commits > store.commits {
                let gone = commits - store.commits;
                return Err(StoreError::corrupt(format!("its last {gone} writes, which were whole, are not")));
            }
            (store.count, store._directory) = (Some(count), Some(lock));
            return Ok(store);
        }
        // It gets its name when its id is in it: redb takes an empty file for a new one, and a log that was
        // cut to nothing must not begin another life of this node.
        let begun = directory.join("raft.redb.new");
        match fs::remove_file(&begun) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let database = builder().create(&begun).map_err(|e| StoreError::open(&begun, e))?;
        let mut store = Self::begun(database, path.clone(), node)?;
        let (count, _) = Count::open(directory).map_err(failed)?;
        count.set(0);
        (store.count, store._directory) = (Some(count), Some(lock));
        fs::rename(&begun, &path).map_err(failed)?;
        // The name of a new file is durable only with its directory.
        fs::File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed)?;
        Ok(store)
    }

    /// A log on a disk of a test's own.
    #[cfg(test)]
    pub(super) fn on(backend: impl redb::StorageBackend, node: u64) -> Result<Self, StoreError> {
        let path = PathBuf::from("a test's disk");
        whole(|| {
            let database = builder().create_with_backend(backend).map_err(|e| StoreError::open(&path, e))?;
            let is_new = database.begin_read().map_err(read_error)?.list_tables().map_err(read_error)?.next().is_none();
            if is_new { Self::begun(database, path, Some(node)) } else { Self::known(database, path) }
        })
    }

    fn known(database: Database, path: PathBuf) -> Result<Self, StoreError> {
        let mut store = Self { database, path, node: 0, commits: 0, count: None, _directory: None };
        (store.node, store.commits) = store.stored()?;
        Ok(store)
    }

    fn begun(database: Database, path: PathBuf, node: Option<u64>) -> Result<Self, StoreError> {
        let node = node.unwrap_or_else(mint);
        let mut store = Self { database, path, node, commits: 0, count: None, _directory: None };
        store.identify()?;
        Ok(store)
    }

    /// This data directory's Raft id.
    pub fn node_id(&self) -> u64 {
        self.node
    }

    /// Checks the format and reads the node's id, and how often it was written.
    fn stored(&self) -> Result<(u64, u64), StoreError> {
        let transaction = self.database.begin_read().map_err(read_error)?;
        let meta = transaction.open_table(META).map_err(read_error)?;
        match meta_record::<u32>(&meta, "format")? {
            Some(FORMAT) => {
                let node = meta_record(&meta, "node")?.ok_or_else(|| StoreError::corrupt("no node id"))?;
                Ok((node, meta_record(&meta, "commits")?.unwrap_or(0)))
            }
            Some(found) => Err(StoreError::Format { path: self.path.clone(), found, expected: FORMAT }),
            None => Err(StoreError::corrupt("no format")),
        }
    }

    /// Writes the format and the node's id into a new file.
    fn identify(&mut self) -> Result<(), StoreError> {
        let transaction = self.begin()?;
        {
            let mut meta = transaction.open_table(META).map_err(write_error)?;
            transaction.open_table(LOG).map_err(write_error)?;
            put(&mut meta, "format", &FORMAT)?;
            put(&mut meta, "node", &self.node)?;
        }
        transaction.commit().map_err(write_error)
    }

    fn begin(&self) -> Result<WriteTransaction, StoreError> {
        let mut transaction = self.database.begin_write().map_err(write_error)?;
        transaction.set_durability(Durability::Immediate).map_err(write_error)?;
        Ok(transaction)
    }
}

/// redb panics on some files that a disk has damaged. Those are as refused as the ones it can tell.
fn whole<T>(reading: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    catch_unwind(AssertUnwindSafe(reading)).unwrap_or_else(|_| Err(StoreError::corrupt("redb cannot read the file")))
}

fn builder() -> redb::Builder {
    let mut builder = Database::builder();
    // Every page is read and checked, since redb may panic later on one that is damaged. The file is small.
    builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
    builder
}

/// One process has the directory, from before it looks for the log: redb's own lock is one of a file that is there, and two that
/// begin one at once would each put its own in place.
fn lock(directory: &Path, log: &Path) -> Result<fs::File, StoreError> {
    let failed = |error| StoreError::open(log, redb::Error::Io(error));
    let path = directory.join("raft.lock");
    let lock = fs::File::options().create(true).truncate(false).write(true).open(path).map_err(failed)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(fs::TryLockError::WouldBlock) => Err(StoreError::Locked(log.to_owned())),
        Err(fs::TryLockError::Error(error)) => Err(failed(error)),
    }
}

/// A random id that is never zero, which raft reserves for "nobody".
fn mint() -> u64 {
    rand::random_range(1..=u64::MAX)
}

impl RedbStore {
    fn read(&self) -> Result<Loaded, StoreError> {
        let transaction = self.database.begin_read().map_err(read_error)?;
        let meta = transaction.open_table(META).map_err(read_error)?;
        let log = transaction.open_table(LOG).map_err(read_error)?;
        let mut entries = Vec::new();
        for record in log.iter().map_err(read_error)? {
            let (key, value) = record.map_err(read_error)?;
            let index = key.value();
            let entry: WireEntry = unseal(&format!("entry {index}"), &index.to_le_bytes(), value.value())?;
            entries.push(Entry::from(entry));
        }
        let loaded = Loaded {
            node: self.node,
            hard_state: meta_record::<WireHardState>(&meta, "hard state")?.map_or_else(HardState::default, Into::into),
            snapshot: meta_record::<WireSnapshot>(&meta, "snapshot")?.map_or_else(Snapshot::default, Into::into),
            compacted: meta_record::<Position>(&meta, "compacted")?.unwrap_or_default(),
            entries,
            founders: meta_record(&meta, "founders")?,
            addresses: meta_record(&meta, "addresses")?.unwrap_or_default(),
        };
        loaded.check()?;
        Ok(loaded)
    }
}

impl Store for RedbStore {
    fn load(&mut self) -> Result<Loaded, StoreError> {
        whole(|| self.read())
    }

    fn commit(&mut self, write: &Write<'_>) -> Result<(), StoreError> {
        let transaction = self.begin()?;
        {
            let mut meta = transaction.open_table(META).map_err(write_error)?;
            let mut log = transaction.open_table(LOG).map_err(write_error)?;
            if let Some(snapshot) = write.snapshot {
                put(&mut meta, "snapshot", &WireSnapshot::from(snapshot))?;
            }
            match write.log {
                LogStart::Keep => {}
                LogStart::CompactTo(position) => {
                    log.retain_in(..=position.index, |_, _| false).map_err(write_error)?;
                    put(&mut meta, "compacted", &position)?;
                }
                LogStart::ResetTo(position) => {
                    log.retain(|_, _| false).map_err(write_error)?;
                    put(&mut meta, "compacted", &position)?;
                }
            }
            if let Some(first) = write.entries.first() {
                log.retain_in(first.index.., |_, _| false).map_err(write_error)?;
            }
            for entry in write.entries {
                let record = seal(&entry.index.to_le_bytes(), &WireEntry::from(entry));
                log.insert(entry.index, record.as_slice()).map_err(write_error)?;
            }
            if let Some(hard_state) = write.hard_state {
                put(&mut meta, "hard state", &WireHardState::from(hard_state))?;
            }
            if let Some(founders) = write.founders {
                put(&mut meta, "founders", &founders)?;
            }
            if let Some(addresses) = write.addresses {
                put(&mut meta, "addresses", &addresses)?;
            }
            put(&mut meta, "commits", &(self.commits + 1))?;
        }
        transaction.commit().map_err(write_error)?;
        self.commits += 1;
        if let Some(count) = &self.count {
            count.set(self.commits);
        }
        Ok(())
    }
}

fn put(
    meta: &mut redb::Table<'_, &'static str, &'static [u8]>,
    name: &str,
    value: &impl Serialize,
) -> Result<(), StoreError> {
    meta.insert(name, seal(name.as_bytes(), value).as_slice()).map_err(write_error)?;
    Ok(())
}

fn meta_record<T: DeserializeOwned>(
    meta: &impl ReadableTable<&'static str, &'static [u8]>,
    name: &str,
) -> Result<Option<T>, StoreError> {
    let record = meta.get(name).map_err(read_error)?;
    record.map(|record| unseal(name, name.as_bytes(), record.value())).transpose()
}

fn write_error(error: impl Into<redb::Error>) -> StoreError {
    StoreError::Write(Box::new(error.into()))
}

fn read_error(error: impl Into<redb::Error>) -> StoreError {
    match error.into() {
        redb::Error::Corrupted(what) => StoreError::corrupt(what),
        error => StoreError::Read(Box::new(error)),
    }
}
