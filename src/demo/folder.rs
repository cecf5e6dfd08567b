//! The demo's folder: a configuration and a data directory a node, one secret, a log a process.

use std::cell::Cell;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

use super::lesson::say;
use super::ports::Ports;

pub(super) struct Folder {
    path: PathBuf,
    keep: Cell<bool>,
}

pub(super) struct Node {
    pub(super) name: String,
    pub(super) config: String,
    pub(super) http: u16,
    pub(super) admin: u16,
}

impl Node {
    pub(super) fn api(&self) -> String {
        format!("http://127.0.0.1:{}", self.admin)
    }
}

impl Folder {
    /// `chosen` is kept; a temporary one is removed at the end unless `keep`.
    pub(super) fn create(chosen: Option<&Path>, keep: bool) -> anyhow::Result<Folder> {
        let path = match chosen {
            Some(path) => path.to_owned(),
            None => std::env::temp_dir().join(format!("tidelock-demo-{:08x}", rand::random::<u32>())),
        };
        let show = path.display().to_string();
        // The fleet's secret lies in it.
        DirBuilder::new().recursive(true).mode(0o700).create(&path).with_context(|| format!("cannot make {show}"))?;
        let empty = fs::read_dir(&path).with_context(|| format!("cannot read {show}"))?.next().is_none();
        ensure!(empty, "{show} is not empty: choose another --dir");
        let path = fs::canonicalize(&path)?;
        Ok(Folder { path, keep: Cell::new(keep || chosen.is_some()) })
    }

    pub(super) fn log(&self, name: &str) -> PathBuf {
        self.path.join(format!("{name}.log"))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn write_nodes(&self, names: &[&str; 3], ports: &Ports) -> anyhow::Result<Vec<Node>> {
        let secret: [u8; 32] = rand::random();
        let secret: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
        self.write("fleet-secret", &secret)?;
        let founders: Vec<String> = ports.peers.iter().map(|port| format!("\"127.0.0.1:{port}\"")).collect();
        let mut nodes = Vec::new();
        for (index, name) in names.iter().enumerate() {
            let (http, admin, peer) = (ports.http[index], ports.admin[index], ports.peers[index]);
            let founders = founders.join(", ");
            // One worker: three nodes share this machine with a browser.
            let text = format!(
                r#"# Node {name} of the demo. Paths are relative to this file.

[node]
name = "{name}"
data_dir = "{name}"
workers = 1

[fleet]
listen = "127.0.0.1:{peer}"
founders = [{founders}]
secret_file = "fleet-secret"

[admin]
listen = "127.0.0.1:{admin}"

[[listeners]]
address = "127.0.0.1:{http}"

[drain]
settle_ms = 500
deadline_ms = 5000
"#
            );
            let config = self.write(&format!("{name}.toml"), &text)?;
            let config = config.into_os_string().into_string().ok().context("the folder's name is not UTF-8")?;
            nodes.push(Node { name: (*name).to_owned(), config, http, admin });
        }
        Ok(nodes)
    }

    fn write(&self, name: &str, text: &str) -> anyhow::Result<PathBuf> {
        let path = self.path.join(name);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        file.and_then(|mut file| file.write_all(text.as_bytes()))
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    /// For someone who wants to know what went wrong.
    pub(super) fn keep(&self) {
        self.keep.set(true);
    }

    pub(super) fn close(self) {
        if self.keep.get() {
            return say(&format!("configuration and logs are in {}", self.path.display()));
        }
        if let Err(error) = fs::remove_dir_all(&self.path) {
            say(&format!("cannot remove {}: {error}", self.path.display()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Flags};

    #[test]
    fn the_files_that_the_demo_writes_are_good_configurations() {
        let folder = Folder::create(None, false).unwrap();
        let ports = Ports { http: [1, 2, 3], admin: [4, 5, 6], peers: [7, 8, 9], endpoints: [10, 11, 12] };
        for (index, node) in folder.write_nodes(&["a", "b", "c"], &ports).unwrap().iter().enumerate() {
            let config =
                Config::load(Some(Path::new(&node.config)), Flags::default(), &crate::config::Environment::default())
                    .unwrap_or_else(|problems| panic!("{problems}"));
            assert_eq!(config.node.name.as_str(), ["a", "b", "c"][index]);
            assert_eq!(config.fleet.unwrap().founders.len(), 3);
            assert_eq!(config.listeners[0].address.ip().unwrap().port(), ports.http[index]);
        }
        let path = folder.path().to_owned();
        folder.close();
        assert!(!path.exists());
    }
}
