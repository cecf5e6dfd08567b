//! How often the log was written, kept beside it: `raft.count`.
//!
//! With one sync for each write redb cannot tell a write that power failure has torn, which nobody was
//! promised, from one that was whole and that the disk has damaged since: either way it goes back to
//! the write before. So each write counts, in the log and then in this file. The file is not synced: it
//! can fall behind the log, and never run ahead of it, but for damage to the log.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

pub(super) struct Count {
    file: File,
}

impl Count {
    /// Opens or creates it, and tells what it says; 0 where it says nothing that can be believed.
    pub(super) fn open(directory: &Path) -> io::Result<(Count, u64)> {
        let path = directory.join("raft.count");
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let mut bytes = Vec::new();
        (&mut file).take(16).read_to_end(&mut bytes)?;
        Ok((Count { file }, parse(&bytes).unwrap_or(0)))
    }

    /// The log has had so many writes.
    pub(super) fn set(&self, count: u64) {
        let bytes = [count.to_le_bytes(), (!count).to_le_bytes()].concat();
        if let Err(error) = self.file.write_all_at(&bytes, 0) {
            // It says less than the log then, which is no harm.
            tracing::debug!(%error, "raft.count is not written");
        }
    }
}

/// The number stands there twice, once inverted.
fn parse(bytes: &[u8]) -> Option<u64> {
    let (count, check) = bytes.split_first_chunk::<8>()?;
    let count = u64::from_le_bytes(*count);
    let check: &[u8; 8] = check.try_into().ok()?;
    (u64::from_le_bytes(*check) == !count).then_some(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_believed_when_it_is_whole() {
        let directory = std::env::temp_dir().join(format!("tidelock-count-{:016x}", rand::random::<u64>()));
        std::fs::create_dir(&directory).unwrap();
        let said = || Count::open(&directory).unwrap().1;
        let (count, first) = Count::open(&directory).unwrap();
        count.set(7);
        assert_eq!((first, said()), (0, 7));
        count.file.write_all_at(b"x", 3).unwrap();
        assert_eq!(said(), 0);
        count.file.set_len(9).unwrap();
        assert_eq!(said(), 0);
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
