//! The durable store: one redb file, one transaction a write.
//!
//! Two-phase commit is on: a double crash can otherwise roll redb back to before a commit that was
//! acknowledged (its changelog of 4.2.0). The file is locked by redb while it is open.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::{fmt, fs};

use raft::prelude::{Entry, HardState, Snapshot};
use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::super::wire::{WireEntry, WireSnapshot};
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
        let mut builder = Database::builder();
        // Every page is read and checked, since redb may panic later on one that is damaged. The file is small.
        builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
        if path.try_exists().map_err(failed)? {
            let database = builder.open(&path).map_err(|e| StoreError::open(&path, e))?;
            let mut store = Self { database, path, node: 0 };
            store.node = store.stored_id()?;
            return Ok(store);
        }
        // It gets its name when its id is in it: redb takes an empty file for a new one, and a log that was
        // cut to nothing must not begin another life of this node.
        let begun = directory.join("raft.redb.new");
        match fs::remove_file(&begun) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let database = builder.create(&begun).map_err(|e| StoreError::open(&begun, e))?;
        let mut store = Self { database, path: path.clone(), node: node.unwrap_or_else(mint) };
        store.identify()?;
        fs::rename(&begun, &path).map_err(failed)?;
        // The name of a new file is durable only with its directory.
        fs::File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed)?;
        Ok(store)
    }

    /// This data directory's Raft id.
    pub fn node_id(&self) -> u64 {
        self.node
    }

    /// Checks the format and reads the node's id.
    fn stored_id(&self) -> Result<u64, StoreError> {
        let transaction = self.database.begin_read().map_err(read_error)?;
        let meta = transaction.open_table(META).map_err(read_error)?;
        match meta_record::<u32>(&meta, "format")? {
            Some(FORMAT) => meta_record(&meta, "node")?.ok_or_else(|| StoreError::corrupt("no node id")),
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
        transaction.set_two_phase_commit(true);
        Ok(transaction)
    }
}

/// A random id that is never zero, which raft reserves for "nobody".
fn mint() -> u64 {
    rand::random_range(1..=u64::MAX)
}

impl Store for RedbStore {
    fn load(&mut self) -> Result<Loaded, StoreError> {
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
        }
        transaction.commit().map_err(write_error)
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
