//! What was read from files, and is read again when they change.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use tracing::{info, warn};

use super::TlsError;

/// The lock is taken by handshakes and when files change, never by a request.
#[derive(Debug)]
pub(super) struct Followed<T> {
    paths: Vec<PathBuf>,
    current: RwLock<Current<T>>,
}

#[derive(Debug)]
struct Current<T> {
    read: Arc<T>,
    /// When each file was changed last, as what is in use was read.
    changed: Vec<Option<SystemTime>>,
}

impl<T> Followed<T> {
    pub(super) fn new(
        paths: Vec<PathBuf>,
        read: impl FnOnce() -> Result<T, TlsError>,
    ) -> Result<Followed<T>, TlsError> {
        let changed = changed(&paths);
        let current = Current { read: Arc::new(read()?), changed };
        Ok(Followed { paths, current: RwLock::new(current) })
    }

    pub(super) fn current(&self) -> Arc<T> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).read.clone()
    }

    /// Reads the files again if one of them has changed. Files that do not go together are left
    /// alone: whoever replaces a certificate writes two files, one after the other.
    pub(super) fn follow(&self, read: impl FnOnce() -> Result<T, TlsError>) {
        let now = changed(&self.paths);
        if now == self.current.read().unwrap_or_else(PoisonError::into_inner).changed {
            return;
        }
        // Read before the lock: files may be on a slow volume, and handshakes wait for nothing.
        let read = read();
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        // Told once for each change, whether it was good or not.
        current.changed = now;
        match read {
            Ok(read) => {
                current.read = Arc::new(read);
                info!(file = %self.paths[0].display(), "certificates were read again");
            }
            Err(error) => warn!(%error, "changed certificates cannot be used; those before stay in use"),
        }
    }
}

fn changed(paths: &[PathBuf]) -> Vec<Option<SystemTime>> {
    paths.iter().map(|path| std::fs::metadata(path).and_then(|meta| meta.modified()).ok()).collect()
}
