//! Child processes that never outlive their test, with their output kept for a failure.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_tidelock");

/// A folder that goes with the test.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Folder {
        let path =
            std::env::temp_dir().join(format!("tidelock-e2e-{}-{:08x}", std::process::id(), rand::random::<u32>()));
        std::fs::create_dir_all(&path).expect("a temporary folder");
        Folder(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("kept for a look: {}", self.0.display());
        } else {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}

/// The first of a hundred ports that are this process's as long as it lives: tests run side by side, and a port that two of
/// them find free would be bound by one.
fn own_ports() -> u16 {
    static OWN: OnceLock<(u16, File)> = OnceLock::new();
    let claim = || {
        let first = std::process::id() as u16 % 150;
        for range in (first..150).chain(0..first) {
            let path = std::env::temp_dir().join(format!("tidelock-e2e-ports-{range}"));
            let file = File::options().create(true).write(true).truncate(false).open(path).expect("a file to lock");
            if file.try_lock().is_ok() {
                return (12_000 + range * 100, file);
            }
        }
        panic!("no range of ports is free");
    };
    OWN.get_or_init(claim).0
}

/// A port that is free, below the range from which the kernel takes ports for outgoing connections, so that it stays free until
/// the process binds it.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let base = own_ports();
    for _ in 0..100 {
        let port = base + NEXT.fetch_add(1, Ordering::Relaxed) % 100;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port from {base} on");
}

pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `tidelock` with `arguments`, its output in `log`.
    pub(crate) fn tidelock(arguments: &[&str], log: PathBuf) -> Process {
        Process::tidelock_within(&[], arguments, log)
    }

    /// The same through the command `enter`, which becomes `tidelock`.
    pub(crate) fn tidelock_within(enter: &[String], arguments: &[&str], log: PathBuf) -> Process {
        let mut words = enter.iter().map(String::as_str).chain([BINARY]);
        let mut command = Command::new(words.next().expect("at least the binary"));
        command.args(words).args(arguments).arg("--exit-with-parent");
        Process::start(command, log)
    }

    /// Another build's.
    pub(crate) fn of(binary: &Path, arguments: &[&str], log: PathBuf) -> Process {
        let mut command = Command::new(binary);
        command.args(arguments).arg("--exit-with-parent");
        Process::start(command, log)
    }

    pub(crate) fn start(mut command: Command, log: PathBuf) -> Process {
        let file = File::options().create(true).append(true).open(&log).expect("a log file");
        let errors = file.try_clone().expect("a second handle of the log");
        let child = command.stdin(Stdio::piped()).stdout(file).stderr(errors).spawn();
        Process { child: child.expect("the process starts"), log }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status();
        assert!(sent.is_ok_and(|status| status.success()), "kill -{name}");
    }

    /// Stops it where it is. The signal is one thread's to take, and the others run until it has: so this waits until none does.
    pub(crate) fn freeze(&self) {
        self.signal("STOP");
        let tasks = format!("/proc/{}/task", self.child.id());
        let is_stopped = |task: std::io::Result<std::fs::DirEntry>| {
            let stat = std::fs::read_to_string(task.expect("a thread").path().join("stat")).unwrap_or_default();
            // Behind the name, which may hold anything but its closing parenthesis as the last one.
            stat.rsplit(')').next().is_none_or(|rest| rest.starts_with(" T") || rest.is_empty())
        };
        while !std::fs::read_dir(&tasks).expect("it runs").all(is_stopped) {
            std::thread::yield_now();
        }
    }

    /// kill -9, at once.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// How it has ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("the child can be waited for")
    }

    pub(crate) fn wait(&mut self, limit: Duration) -> ExitStatus {
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = self.ended() {
                return status;
            }
            assert!(Instant::now() < end, "the process did not end:\n{}", self.log());
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(30).collect();
            eprintln!("--- end of {}:", self.log.display());
            for line in tail.iter().rev() {
                eprintln!("{line}");
            }
        }
    }
}
