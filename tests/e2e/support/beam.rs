//! Endpoints on the BEAM: Elixir and Cowboy, started by `tests/elixir/run.sh`.

use std::net::SocketAddr;
use std::process::Command;

use super::fleet::until_listening;
use super::process::{Folder, Process, free_port};

pub(crate) struct Beam {
    pub(crate) name: &'static str,
    pub(crate) address: SocketAddr,
    pub(crate) process: Process,
}

pub(crate) async fn beam(name: &'static str, folder: &Folder) -> Beam {
    let port = free_port();
    let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/elixir/run.sh"));
    command.env("PORT", port.to_string()).env("NAME", name);
    let process = Process::start(command, folder.path().join(format!("{name}.log")));
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    until_listening(name, address).await;
    Beam { name, address, process }
}
