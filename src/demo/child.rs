//! One process of the demo: started, watched, started again when it dies, stopped at the end.

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{ChildStdin, Command};
use tokio::sync::watch;

use super::lesson::say;

/// Long enough to see in the dashboard that a node is away.
const RESTART: Duration = Duration::from_secs(5);
/// From SIGTERM to SIGKILL: a node's own deadline in the demo is 5 s.
const STOP: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Node,
    Endpoint,
}

/// What to start, and again after a death.
pub(super) struct Plan {
    kind: Kind,
    name: String,
    log: PathBuf,
    command: Command,
}

impl Plan {
    pub(super) fn new(kind: Kind, name: &str, log: PathBuf) -> Self {
        Plan { kind, name: name.to_owned(), log, command: Command::new("false") }
    }

    pub(super) fn program(mut self, program: &Path) -> Self {
        self.command = Command::new(program);
        for (variable, _) in std::env::vars_os() {
            // The user's own settings are for the user's own nodes.
            if variable.to_string_lossy().starts_with("TIDELOCK_") {
                self.command.env_remove(variable);
            }
        }
        // A group of its own: Ctrl-C reaches the demo alone, which then stops the others in order.
        self.command.stdin(Stdio::piped()).process_group(0).kill_on_drop(true);
        self
    }

    pub(super) fn args<T: AsRef<OsStr>, const N: usize>(mut self, args: [T; N]) -> Self {
        self.command.args(args);
        self
    }

    pub(super) fn variable(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    fn spawn(&mut self) -> anyhow::Result<Process> {
        let log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        self.command.stdout(log.try_clone()?).stderr(log);
        let mut child = self.command.spawn().with_context(|| format!("cannot start {}", self.title()))?;
        Ok(Process { _input: child.stdin.take(), child })
    }

    fn title(&self) -> String {
        match self.kind {
            Kind::Node => format!("node {}", self.name),
            Kind::Endpoint => format!("endpoint {}", self.name),
        }
    }
}

pub(super) struct Child {
    plan: Plan,
    process: Process,
}

/// A process and the other end of its standard input, whose closing is its signal to end: kept
/// apart, since `tokio::process::Child::wait` would close it.
struct Process {
    child: tokio::process::Child,
    _input: Option<ChildStdin>,
}

impl Child {
    pub(super) fn start(mut plan: Plan) -> anyhow::Result<Child> {
        let process = plan.spawn()?;
        Ok(Child { plan, process })
    }

    pub(super) fn name(&self) -> &str {
        &self.plan.name
    }

    pub(super) fn pid(&self) -> Option<u32> {
        self.process.child.id()
    }

    /// An error with the end of its log when it does not run any more.
    pub(super) fn must_run(&mut self) -> anyhow::Result<()> {
        let Some(status) = self.process.child.try_wait()? else { return Ok(()) };
        let log = std::fs::read_to_string(&self.plan.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let last = lines[lines.len().saturating_sub(10)..].join("\n  ");
        bail!("{} {} while starting. The end of its log:\n  {last}", self.plan.title(), ended(status));
    }

    /// Starts it again whenever it dies, until `stopped` says so; then stops it.
    pub(super) async fn watch(mut self, mut stopped: watch::Receiver<()>) {
        loop {
            let status = tokio::select! {
                biased;
                _ = stopped.changed() => None,
                status = self.process.child.wait() => Some(status.unwrap_or_default()),
            };
            let Some(status) = status else { return self.stop().await };
            let title = self.plan.title();
            say(&format!("{title} {}; it is started again in {} s", ended(status), RESTART.as_secs()));
            tokio::select! {
                _ = stopped.changed() => return,
                () = tokio::time::sleep(RESTART) => {}
            }
            match self.plan.spawn() {
                Ok(process) => {
                    self.process = process;
                    let pid = self.pid().map(|pid| format!(" as process {pid}")).unwrap_or_default();
                    say(&format!("{title} runs again{pid}"));
                }
                Err(error) => return say(&format!("{error:#}")),
            }
        }
    }

    /// SIGTERM to all of its group, then SIGKILL.
    pub(super) async fn stop(mut self) {
        self.signal(Signal::TERM);
        if tokio::time::timeout(STOP, self.process.child.wait()).await.is_err() {
            say(&format!("{} does not stop, it is killed", self.plan.title()));
            self.signal(Signal::KILL);
            let _ = self.process.child.wait().await;
        }
    }

    fn signal(&self, signal: Signal) {
        let group = self.pid().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        // A group that is gone needs no signal.
        let _ = group.map(|group| kill_process_group(group, signal));
    }
}

fn ended(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (_, Some(9)) => "was killed (signal 9)".into(),
        (_, Some(signal)) => format!("died of signal {signal}"),
        (Some(code), None) => format!("ended with code {code}"),
        (None, None) => "ended".into(),
    }
}
