//! Disks of a node's own, mounted where only that node sees them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::fleet::Fleet;

/// A small disk in memory under the data directory of node `i`, which has not been started yet.
pub(crate) fn mount_small(fleet: &Fleet, i: usize, kib: usize) {
    let data = &fleet.nodes[i].data;
    std::fs::create_dir_all(data).expect("the data directory");
    fleet.network().within(i, &format!("mount -t tmpfs -o size={kib}k none {}", data.display()));
}

/// Where the test finds the data directory of node `i`.
pub(crate) fn data_of(fleet: &Fleet, i: usize) -> PathBuf {
    fleet.network().path_within(i, &fleet.nodes[i].data)
}

/// A disk under a node's data directory that can be stopped: writes wait, in the kernel, as they do for
/// a volume that does not answer.
pub(crate) struct Stalling {
    path: PathBuf,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Stalling {
    pub(crate) fn mount(fleet: &Fleet, i: usize) -> Stalling {
        let data = &fleet.nodes[i].data;
        std::fs::create_dir_all(data).expect("the data directory");
        let image = data.with_extension("image");
        let file = std::fs::File::create(&image).and_then(|file| file.set_len(32 << 20));
        file.expect("room for an image of a disk");
        fleet.network().within(i, &format!("mkfs.ext4 -q -F {}", image.display()));
        fleet.network().within(i, &format!("mount -o loop {} {}", image.display(), data.display()));
        Stalling { path: data_of(fleet, i), stop: Arc::default(), thread: None }
    }

    /// From here on the disk stands for `still` and works for `moves`, in turn.
    pub(crate) fn stall(&mut self, still: Duration, moves: Duration) {
        let (path, stop) = (self.path.clone(), self.stop.clone());
        self.thread = Some(std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                freeze(&path, "--freeze");
                std::thread::park_timeout(still);
                freeze(&path, "--unfreeze");
                std::thread::park_timeout(moves);
            }
        }));
    }

    /// It stands until `recover`.
    pub(crate) fn stand(&mut self) {
        self.recover();
        freeze(&self.path, "--freeze");
    }

    pub(crate) fn recover(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        self.stop = Arc::default();
        // It may not stand.
        let _ = Command::new("fsfreeze").arg("--unfreeze").arg(&self.path).output();
    }
}

fn freeze(path: &Path, how: &str) {
    let output = Command::new("fsfreeze").arg(how).arg(path).output().expect("fsfreeze (util-linux) starts");
    assert!(output.status.success(), "fsfreeze {how}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Drop for Stalling {
    /// A file system that stands would keep its disk for ever.
    fn drop(&mut self) {
        self.recover();
    }
}
