//! What one node runs with: a TOML file, the environment and a few flags, layered in that order.
//!
//! Three stages, each in its own file: `read` (file to table), `shape` (table to typed values),
//! `check` (what values mean together, and the files they name). Each stage goes on after a
//! problem, so that one run reports them all, with the line, variable or flag that is to blame.
//! Nothing here opens a socket. `docs/configuration.md` is the same list for people.

mod check;
mod environment;
mod initial;
mod layers;
mod limits;
mod problem;
mod read;
mod scalar;
mod shape;
mod suggest;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use tidelock_core::id::Name;
use tidelock_core::spec::Address;

pub(crate) use environment::Environment;
pub(crate) use initial::Initial;
pub(crate) use limits::{Limits, Timeouts};
pub(crate) use problem::Problems;
pub(crate) use tidelock_balancer::ListenAddress;

/// A configuration that a node can start with: the files it names have been read.
#[derive(Debug)]
pub(crate) struct Config {
    pub node: Node,
    /// None is a fleet of one.
    pub fleet: Option<Fleet>,
    pub admin: Admin,
    /// At least one, no two of them on one address.
    pub listeners: Vec<Listener>,
    /// What endpoints are shown that ask for a certificate. Default: nothing.
    pub endpoint_tls: Option<CertificateFiles>,
    pub access_log: AccessLog,
    /// Peers whose `x-forwarded-*` fields are believed. Default: none.
    pub trusted: Vec<IpNet>,
    pub drain: Drain,
    pub limits: Limits,
    pub timeouts: Timeouts,
    /// What the first leader proposes to an empty fleet; every command of it applies.
    pub initial: Initial,
}

#[derive(Debug)]
pub(crate) struct Node {
    /// Unique in the fleet. Default: the host name.
    pub name: Name,
    /// Raft's log and the last table. Default: `/var/lib/tidelock`.
    pub data_dir: PathBuf,
    /// Threads of the data plane, 1 to 1024. Default: one a core.
    pub workers: usize,
}

#[derive(Debug)]
pub(crate) struct Fleet {
    /// For peers, over mutual TLS. Default: `0.0.0.0:7946`.
    pub listen: SocketAddr,
    /// How peers reach this node. Default: `listen`, unless that is every address.
    pub advertise: Address,
    /// The nodes that begin the fleet, this one among them, without repeats; or those that a node
    /// which is none of them joins.
    pub founders: Vec<Address>,
    /// The content of `fleet.join_token_file`, of a node that joins a fleet.
    pub join_token: Option<Secret>,
    pub trust: PeerTrust,
}

/// By what peers know each other.
#[derive(Debug)]
pub(crate) enum PeerTrust {
    /// The contents of `fleet.secret_file` and `fleet.previous_secret_file`, each at least 32 bytes,
    /// without a newline at its end.
    Secret { secret: Secret, previous: Option<Secret> },
    /// `[fleet.tls]`; without a name it is `peer.tidelock`.
    Given { authorities: PathBuf, own: CertificateFiles, name: Option<String> },
}

#[derive(Debug)]
pub(crate) struct Admin {
    /// API, dashboard, probes and metrics. Default: `127.0.0.1:9900`.
    pub listen: SocketAddr,
    /// The URL under which people reach it.
    pub advertise: Option<String>,
    /// The content of `admin.token_file`, at least 16 characters of printable ASCII. There is one
    /// whenever `listen` is not loopback.
    pub token: Option<Secret>,
}

#[derive(Debug)]
pub(crate) struct Listener {
    pub address: ListenAddress,
    pub tls: Option<ListenerTls>,
    /// Each connection begins with the PROXY protocol. Default: off.
    pub proxy_protocol: ProxyProtocol,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProxyProtocol {
    Off,
    /// Version 1 or 2; a connection without it is closed.
    Required,
}

#[derive(Debug)]
pub(crate) struct ListenerTls {
    /// At least one; a client is shown the one that names its host, else the first.
    pub certificates: Vec<CertificateFiles>,
    /// The file of authorities, if clients are asked for certificates.
    pub client_ca: Option<PathBuf>,
    /// The file of revocation lists.
    pub client_crl: Option<PathBuf>,
    /// Default, with `client_ca`: required.
    pub client_auth: ClientAuth,
}

/// Files that were good when they were read: the key belongs to the first certificate.
#[derive(Debug)]
pub(crate) struct CertificateFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ClientAuth {
    Optional,
    Required,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AccessLog {
    /// One line of JSON a request on standard output.
    Json,
    Off,
}

/// The node's own leaving on SIGTERM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Drain {
    /// How long readiness is false while listeners still accept. Default: 5 s.
    pub settle: Duration,
    /// When what is left is cut, from the signal on. Default: 30 s.
    pub deadline: Duration,
}

/// Bytes that no log may show.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(Arc<[u8]>);

impl Secret {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({} bytes)", self.0.len())
    }
}

/// What the command line says; it wins over the environment and the file.
#[derive(Debug, Default)]
pub(crate) struct Flags {
    pub name: Option<String>,
    pub data_dir: Option<String>,
    pub admin_listen: Option<String>,
}

impl Flags {
    /// The flag that stands for `key`, if it was given.
    fn find(&self, key: &str) -> Option<(&'static str, &str)> {
        let (flag, value) = match key {
            "node.name" => ("--name", &self.name),
            "node.data_dir" => ("--data-dir", &self.data_dir),
            "admin.listen" => ("--admin-listen", &self.admin_listen),
            _ => return None,
        };
        value.as_deref().map(|value| (flag, value))
    }
}

impl Config {
    /// Reads `path` (none: defaults, environment and flags alone) and the files it names.
    pub(crate) fn load(path: Option<&Path>, overrides: Flags, env: &Environment) -> Result<Config, Problems> {
        let mut problems = Problems::default();
        let text = match path.map(read::text).transpose() {
            Ok(text) => text,
            Err(problem) => {
                problems.push(problem);
                return Err(problems);
            }
        };
        let file = text.as_ref().map(|text| text.parse(&mut problems));
        let layers = layers::Layers::new(file.as_ref(), &overrides, env);
        let draft = shape::shape(&layers);
        problems.extend(layers.into_problems());
        let config = check::check(draft, &mut problems);
        match config {
            Some(config) if problems.is_empty() => Ok(config),
            _ => Err(problems),
        }
    }
}

#[cfg(test)]
mod tests;
