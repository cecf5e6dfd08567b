//! Both stores do the same, also over a restart, and redb notices damage.

use std::path::PathBuf;

use proptest::prelude::*;
use raft::prelude::{Entry, HardState, Snapshot};

use super::memory::Disk;
use super::redb::RedbStore;
use super::*;
use crate::raft::membership::{self, Change, Membership};
use crate::raft::wire::{WireEntry, WireSnapshot};

struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        let directory = std::env::temp_dir().join(format!("tidelock-store-{:016x}", rand::random::<u64>()));
        Self(directory)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn entry(index: u64, term: u64) -> Entry {
    let mut entry = Entry::default();
    (entry.index, entry.term) = (index, term);
    entry.data = format!("entry {index} of term {term}").into_bytes().into();
    entry
}

pub(in crate::raft) fn snapshot(index: u64, term: u64) -> Snapshot {
    let mut snapshot = Snapshot { data: format!("state {index}").into_bytes().into(), ..Snapshot::default() };
    let metadata = snapshot.mut_metadata();
    (metadata.index, metadata.term) = (index, term);
    metadata.set_conf_state((&Membership::of_voters(&[1, 2, 3])).into());
    snapshot
}

fn hard_state(term: u64, vote: u64, commit: u64) -> HardState {
    let mut state = HardState::default();
    (state.term, state.vote, state.commit) = (term, vote, commit);
    state
}

type Sample = fn() -> Vec<u8>;
type Reread = fn(&[u8]) -> Option<Vec<u8>>;

/// Each kind of record without its checksum, and how it is read: with the right one, or no damage would
/// get as far as the decoder.
pub(in crate::raft) const RECORDS: [(&str, Sample, Reread); 6] = [
    ("record of an entry", || payload(&WireEntry::from(&entry(5, 2))), reread::<WireEntry>),
    ("record of a snapshot", || payload(&WireSnapshot::from(&snapshot(5, 2))), reread::<WireSnapshot>),
    ("record of the hard state", || payload(&WireHardState::from(&hard_state(3, 2, 5))), reread::<WireHardState>),
    ("record of a position", || payload(&Position { index: 5, term: 2 }), reread::<Position>),
    ("record of the founders", || payload(&[1_u64, 2, 3].as_slice()), reread::<Vec<u64>>),
    ("record of addresses", || payload(&[(2_u64, "b:7946")].as_slice()), reread::<Vec<(u64, String)>>),
];

fn payload(value: &impl Serialize) -> Vec<u8> {
    seal(b"key", value).split_off(4)
}

fn reread<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Option<Vec<u8>> {
    let record = [&crc(b"key", bytes).to_le_bytes(), bytes].concat();
    unseal::<T>("a test", b"key", &record).ok().map(|value| payload(&value))
}

/// A step that a driver could take: always leaves a log that `check` accepts.
#[derive(Debug, Clone)]
enum Step {
    Append { back: u64, count: u64 },
    Commit,
    Compact { keep: u64 },
    Install { ahead: u64 },
    Remember,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..4u64, 1..5u64).prop_map(|(back, count)| Step::Append { back, count }),
        Just(Step::Commit),
        (0..3u64).prop_map(|keep| Step::Compact { keep }),
        (1..9u64).prop_map(|ahead| Step::Install { ahead }),
        Just(Step::Remember),
    ]
}

/// Carries the step out on a store, given what the store holds.
fn take(step: &Step, term: u64, at: &Loaded, store: &mut dyn Store) {
    let last = at.compacted.index + at.entries.len() as u64;
    let commit = at.hard_state.commit;
    match *step {
        Step::Append { back, count } => {
            let first = (last + 1).saturating_sub(back).max(commit + 1);
            let entries: Vec<Entry> = (first..first + count).map(|index| entry(index, term)).collect();
            let state = hard_state(term, 2, commit);
            store.commit(&Write { entries: &entries, hard_state: Some(&state), ..Write::default() }).unwrap();
        }
        Step::Commit => {
            let state = hard_state(at.hard_state.term, at.hard_state.vote, last);
            store.commit(&Write { hard_state: Some(&state), ..Write::default() }).unwrap();
        }
        Step::Compact { keep } => {
            let cut = commit.saturating_sub(keep);
            if cut <= at.compacted.index {
                return;
            }
            let cut = &at.entries[(cut - at.compacted.index - 1) as usize];
            let position = Position { index: cut.index, term: cut.term };
            let log = LogStart::CompactTo(position);
            let held = snapshot(commit, at.hard_state.term);
            store.commit(&Write { snapshot: Some(&held), log, ..Write::default() }).unwrap();
        }
        Step::Install { ahead } => {
            let position = Position { index: last + ahead, term };
            let (held, state) = (snapshot(position.index, term), hard_state(term, 0, position.index));
            let log = LogStart::ResetTo(position);
            store.commit(&Write { snapshot: Some(&held), log, hard_state: Some(&state), ..Write::default() }).unwrap();
        }
        Step::Remember => {
            let addresses = [(2, "b:7946".to_owned())];
            store.commit(&Write { founders: Some(&[1, 2]), addresses: Some(&addresses), ..Write::default() }).unwrap();
        }
    }
}

proptest! {
    // Each case is some dozens of fsyncs.
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn both_stores_agree_over_any_history_and_a_restart(steps in proptest::collection::vec(step(), 1..14)) {
        let directory = Directory::new();
        let memory = Disk::new(7);
        let mut redb = RedbStore::open(&directory.0, Some(7)).unwrap();
        for (term, step) in (1..).zip(&steps) {
            let at = memory.store().load().unwrap();
            prop_assert_eq!(&redb.load().unwrap(), &at);
            take(step, term, &at, &mut memory.store());
            take(step, term, &at, &mut redb);
        }
        drop(redb);
        let mut redb = RedbStore::open(&directory.0, None).unwrap();
        prop_assert_eq!(redb.load().unwrap(), memory.store().load().unwrap());
    }
}

#[test]
fn an_id_is_minted_once_for_a_directory() {
    let directory = Directory::new();
    let id = RedbStore::open(&directory.0, None).unwrap().node_id();
    assert_ne!(id, 0);
    let again = RedbStore::open(&directory.0, Some(id ^ 1)).unwrap().node_id();
    assert_eq!(again, id, "an id given from outside must not replace the disk's");
}

/// What is left of a process that died before its new file was whole.
#[test]
fn a_file_that_never_was_whole_is_begun_again() {
    let directory = Directory::new();
    std::fs::create_dir_all(&directory.0).unwrap();
    std::fs::write(directory.0.join("raft.redb.new"), [7; 5_000]).unwrap();
    let id = RedbStore::open(&directory.0, None).unwrap().node_id();
    assert_eq!(RedbStore::open(&directory.0, None).unwrap().node_id(), id);
    assert!(!directory.0.join("raft.redb.new").exists());
}

/// Whoever is first has the directory, also one that is new.
#[test]
fn of_many_that_begin_at_once_one_does() {
    for _ in 0..20 {
        let directory = Directory::new();
        let begin = std::sync::Barrier::new(4);
        let opened: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        begin.wait();
                        RedbStore::open(&directory.0, None)
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let (open, refused): (Vec<_>, Vec<_>) = opened.into_iter().partition(Result::is_ok);
        assert!(refused.iter().all(|error| matches!(error, Err(StoreError::Locked(_)))), "{refused:?}");
        assert_eq!(open.len(), 1);
        let id = open.into_iter().next().unwrap().unwrap().node_id();
        assert_eq!(RedbStore::open(&directory.0, None).unwrap().node_id(), id);
    }
}

#[test]
fn a_second_process_is_told_that_the_file_is_in_use() {
    let directory = Directory::new();
    let _first = RedbStore::open(&directory.0, None).unwrap();
    let error = RedbStore::open(&directory.0, None).expect_err("the file is locked");
    assert!(matches!(error, StoreError::Locked(_)), "{error}");
}

#[test]
fn a_membership_entry_survives_the_disk() {
    let directory = Directory::new();
    let mut change = Entry::default();
    (change.index, change.term) = (2, 1);
    change.set_entry_type(raft::prelude::EntryType::EntryConfChangeV2);
    change.data = membership::encode(&[Change::AddVoter(9)]).into();
    let mut store = RedbStore::open(&directory.0, Some(7)).unwrap();
    take(&Step::Install { ahead: 1 }, 1, &store.load().unwrap(), &mut store);
    store.commit(&Write { entries: std::slice::from_ref(&change), ..Write::default() }).unwrap();
    assert_eq!(store.load().unwrap().entries, [change]);
}

/// Rewrites one record of the file behind the store's back.
fn damage(directory: &Directory, alter: impl FnOnce(&mut Vec<u8>), table: &str) {
    use ::redb::{Database, ReadableTable, TableDefinition};
    let database = Database::open(directory.0.join("raft.redb")).unwrap();
    let transaction = database.begin_write().unwrap();
    if table == "log" {
        let mut log = transaction.open_table(TableDefinition::<u64, &[u8]>::new("log")).unwrap();
        let mut record = log.get(2).unwrap().unwrap().value().to_vec();
        alter(&mut record);
        log.insert(2, record.as_slice()).unwrap();
    } else {
        let mut meta = transaction.open_table(TableDefinition::<&str, &[u8]>::new("meta")).unwrap();
        let mut record = meta.get(table).unwrap().unwrap().value().to_vec();
        alter(&mut record);
        meta.insert(table, record.as_slice()).unwrap();
    }
    transaction.commit().unwrap();
}

fn written() -> Directory {
    let directory = Directory::new();
    let mut store = RedbStore::open(&directory.0, Some(7)).unwrap();
    take(&Step::Install { ahead: 1 }, 1, &store.load().unwrap(), &mut store);
    take(&Step::Append { back: 0, count: 3 }, 2, &store.load().unwrap(), &mut store);
    directory
}

#[test]
fn a_flipped_bit_in_any_record_is_refused_with_what_to_do() {
    for table in ["log", "hard state", "snapshot", "compacted"] {
        let directory = written();
        damage(&directory, |record| *record.last_mut().unwrap() ^= 1, table);
        let error = RedbStore::open(&directory.0, None).unwrap().load().unwrap_err();
        assert!(matches!(error, StoreError::Corrupt { .. }), "{table}: {error}");
        assert!(error.to_string().contains("delete its data directory"), "{error}");
    }
}

#[test]
fn a_cut_record_is_refused() {
    let directory = written();
    damage(&directory, |record| record.truncate(3), "log");
    assert!(matches!(RedbStore::open(&directory.0, None).unwrap().load(), Err(StoreError::Corrupt { .. })));
}

#[test]
fn a_file_that_was_cut_short_is_refused_and_never_a_new_log() {
    for length in [0, 1, 100, 4_096, 20_000] {
        let directory = written();
        let file = std::fs::File::options().write(true).open(directory.0.join("raft.redb")).unwrap();
        file.set_len(length).unwrap();
        let error = RedbStore::open(&directory.0, None).expect_err("it is refused");
        assert!(matches!(error, StoreError::Corrupt { .. }), "{length}: {error}");
    }
}

#[test]
fn a_log_whose_making_was_cut_short_is_made_again() {
    let directory = Directory::new();
    std::fs::create_dir_all(&directory.0).unwrap();
    std::fs::write(directory.0.join("raft.redb.new"), b"half").unwrap();
    let id = RedbStore::open(&directory.0, Some(7)).unwrap().node_id();
    assert_eq!(id, 7);
    assert!(!directory.0.join("raft.redb.new").exists());
}

#[test]
fn a_newer_format_is_refused_by_its_number() {
    let directory = written();
    damage(&directory, |record| *record = seal(b"format", &9u32), "format");
    let error = RedbStore::open(&directory.0, None).expect_err("the format is unknown");
    assert!(matches!(error, StoreError::Format { found: 9, .. }), "{error}");
}

#[test]
fn whole_records_that_contradict_each_other_are_refused() {
    type Contradiction = fn(&mut Loaded);
    let contradictions: [(&str, Contradiction); 5] = [
        ("a gap", |loaded| _ = loaded.entries.remove(0)),
        ("a falling term", |loaded| loaded.entries[2].term = 1),
        ("a commit beyond the log", |loaded| loaded.hard_state.commit = 99),
        ("a commit before the snapshot", |loaded| loaded.hard_state.commit = 0),
        ("a term below the log's", |loaded| loaded.hard_state.term = 1),
    ];
    for (name, contradict) in contradictions {
        let mut loaded = RedbStore::open(&written().0, None).unwrap().load().unwrap();
        contradict(&mut loaded);
        assert!(matches!(loaded.check(), Err(StoreError::Corrupt { .. })), "{name}");
    }
}

/// redb goes back to the write before, as it must where power failed in the middle of one: this one
/// was whole.
#[test]
fn a_write_that_was_whole_and_is_gone_is_noticed() {
    let directory = Directory::new();
    let path = directory.0.join("raft.redb");
    let mut store = RedbStore::open(&directory.0, Some(7)).unwrap();
    store.commit(&Write { entries: &[entry(1, 1)], ..Write::default() }).unwrap();
    drop(store);
    let before = std::fs::read(&path).unwrap();
    let mut store = RedbStore::open(&directory.0, None).unwrap();
    store.commit(&Write { entries: &[entry(2, 1)], ..Write::default() }).unwrap();
    drop(store);
    RedbStore::open(&directory.0, None).unwrap();
    std::fs::write(&path, before).unwrap();
    let error = RedbStore::open(&directory.0, None).unwrap_err().to_string();
    assert!(error.contains("its last 1 writes, which were whole, are not"), "{error}");
    // Without its witness it cannot be told.
    std::fs::remove_file(directory.0.join("raft.count")).unwrap();
    RedbStore::open(&directory.0, None).unwrap();
}
