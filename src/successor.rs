//! SIGUSR2 starts a successor: the binary that is at this one's path by then, to take over.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context;
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};

pub(crate) fn watch_signal() -> anyhow::Result<()> {
    // Now, because the link to a file that was replaced is to nowhere.
    let called = std::env::args_os().next().unwrap_or_default();
    let binary = binary(&called).context("cannot tell this binary's path")?;
    let mut upgrade = signal(SignalKind::user_defined2()).context("cannot listen for SIGUSR2")?;
    tokio::spawn(async move {
        while upgrade.recv().await.is_some() {
            info!(binary = %binary.display(), "starting a successor");
            match command(&binary).spawn() {
                Ok(mut successor) => match successor.wait().await {
                    Ok(status) => warn!(%status, "the successor has ended; this process serves on"),
                    Err(error) => warn!(%error, "the successor cannot be watched"),
                },
                Err(error) => warn!(%error, "the successor cannot be started; this process serves on"),
            }
        }
    });
    Ok(())
}

/// The path by which this process was called: where it is a link to the installed version, the next one
/// is there too. Called by a name alone it is the file itself.
fn binary(called: &OsStr) -> io::Result<PathBuf> {
    let path = Path::new(called);
    let is_path = path.components().count() > 1;
    match std::path::absolute(path) {
        Ok(path) if is_path && path.is_file() => Ok(path),
        _ => std::env::current_exe(),
    }
}

fn command(binary: &Path) -> Command {
    let mut command = Command::new(binary);
    command.args(std::env::args_os().skip(1).filter(|argument| argument != "--take-over")).arg("--take-over");
    // The others were cleared when the sockets were taken.
    command.env_remove("LISTEN_FDNAMES");
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_stays_a_link_and_a_name_is_the_file() {
        let own = std::env::current_exe().unwrap();
        let link = std::env::temp_dir().join(format!("tidelock-link-{:016x}", rand::random::<u64>()));
        std::os::unix::fs::symlink(&own, &link).unwrap();
        assert_eq!(binary(link.as_os_str()).unwrap(), link);
        std::fs::remove_file(&link).unwrap();
        assert_eq!(binary(OsStr::new("tidelock")).unwrap(), own);
        assert_eq!(binary(link.as_os_str()).unwrap(), own, "there is nothing");
    }

    #[test]
    fn a_successor_is_told_of_no_sockets() {
        let command = command(Path::new("/usr/bin/tidelock"));
        let removed: Vec<_> = command.as_std().get_envs().filter(|(_, value)| value.is_none()).collect();
        assert_eq!(removed, [(OsStr::new("LISTEN_FDNAMES"), None)]);
        assert_eq!(command.as_std().get_args().last(), Some(OsStr::new("--take-over")));
    }
}
