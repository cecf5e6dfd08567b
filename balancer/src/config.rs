//! What one node's data plane is told at its start. The binary reads it from the node's
//! configuration; every default is explained in `docs/configuration.md`.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use tidelock_core::id::NodeId;

#[derive(Debug, Clone)]
pub struct Config {
    /// This node among those of a table's observers.
    pub node: NodeId,
    /// Threads, each with a runtime, listeners and upstream connections of its own.
    pub workers: usize,
    pub listeners: Vec<ListenerConfig>,
    /// What endpoints are shown that ask for a certificate (mutual TLS).
    pub endpoint_identity: Option<TlsFiles>,
    pub limits: Limits,
    pub timeouts: Timeouts,
    /// Write an access event for each request to standard output, as JSON.
    pub access_log: bool,
    /// Peers whose word is taken for who the client is (`x-forwarded-*`). From all others such
    /// fields are replaced.
    pub trusted: Vec<IpNet>,
}

/// Where a listener listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAddress {
    Ip(SocketAddr),
    /// A socket in the file system, for whoever is on the same host. Its clients count as
    /// `127.0.0.1`, unless the PROXY protocol names them.
    Unix(PathBuf),
}

impl ListenAddress {
    pub fn ip(&self) -> Option<SocketAddr> {
        match self {
            ListenAddress::Ip(address) => Some(*address),
            ListenAddress::Unix(_) => None,
        }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListenAddress::Ip(address) => address.fmt(f),
            ListenAddress::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[derive(Debug, Clone)]
pub struct ListenerConfig {
    pub address: ListenAddress,
    pub tls: Option<ListenerTls>,
    /// Every connection begins with the PROXY protocol, version 1 or 2, which names the client.
    /// One that does not is closed.
    pub proxy_protocol: bool,
}

#[derive(Debug, Clone)]
pub struct ListenerTls {
    /// At least one. A client is shown the one that names the host it asks for, else the first.
    pub certificates: Vec<TlsFiles>,
    /// None asks no client for a certificate.
    pub client_auth: Option<ClientAuth>,
}

#[derive(Debug, Clone)]
pub struct ClientAuth {
    /// PEM: who may have signed a client's certificate.
    pub authorities: PathBuf,
    /// PEM: revocation lists, one of each authority in a client's chain.
    pub revoked: Option<PathBuf>,
    /// Refuse the handshake of a client without one.
    pub required: bool,
}

/// PEM files, read again when they change.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

#[derive(Debug, Clone)]
pub struct Limits {
    /// Downstream connections of the node; beyond it a connection is closed when accepted.
    pub max_connections: usize,
    /// Downstream connections from one address, over all listeners; 0 is no limit.
    pub max_connections_per_client: usize,
    /// Connections that one address may open within 10 s; 0 is no limit.
    pub max_new_connections_per_client: usize,
    /// Requests that one address may break off within 10 s, over all its connections; 0 is no limit.
    pub max_resets_per_client: usize,
    /// Requests that a client may break off on one HTTP/2 connection within 10 s; beyond it the
    /// connection ends with ENHANCE_YOUR_CALM.
    pub max_resets_per_connection: usize,
    /// Frames of one HTTP/2 connection that carry nothing or open a stream too many, within 10 s; beyond it the same.
    pub max_empty_frames_per_connection: usize,
    /// PINGs, acknowledgements, resets of what is over, and windows opened by less than 512 bytes, within 10 s; beyond it the same.
    pub max_control_frames_per_connection: usize,
    /// Bytes a second of an upload of known length, while the balancer waits for them; below it,
    /// over 20 s of waiting, 408. 0 is no limit.
    pub min_upload_bytes_per_second: u64,
    /// Streams of one downstream HTTP/2 connection; one more is refused with REFUSED_STREAM.
    pub max_streams_per_connection: u32,
    /// Bytes of a request's header fields; beyond it 431.
    pub max_header_bytes: u32,
    /// Header fields of a request; beyond it 431.
    pub max_header_count: usize,
    /// Bytes of a request's target; beyond it 414.
    pub max_path_bytes: usize,
    /// How much of a request's body is kept for a second attempt; beyond it the request is not
    /// replayed.
    pub retry_body_bytes: usize,
    /// How much of a request's body is read and dropped after a response that came first (H3).
    pub early_response_drain_bytes: u64,
}

#[derive(Debug, Clone)]
pub struct Timeouts {
    /// TLS handshake, and the first bytes that tell the protocol.
    pub handshake: Duration,
    /// From the first pause in a request's head to its end; then the connection closes.
    pub request_head: Duration,
    /// A kept connection without a request.
    pub downstream_idle: Duration,
    /// How long a request's body is read and dropped after a response that came first (H3).
    pub early_response_drain: Duration,
    /// How long the end of an upload waits for a sign that the endpoint reads (H2).
    pub body_hold_back: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            max_connections: 65_536,
            max_connections_per_client: 0,
            max_new_connections_per_client: 0,
            max_resets_per_client: 0,
            max_resets_per_connection: 500,
            max_empty_frames_per_connection: 20_000,
            max_control_frames_per_connection: 100_000,
            min_upload_bytes_per_second: 64,
            max_streams_per_connection: 128,
            max_header_bytes: 16 * 1024,
            max_header_count: 100,
            max_path_bytes: 8 * 1024,
            retry_body_bytes: 64 * 1024,
            early_response_drain_bytes: 1024 * 1024,
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts {
            handshake: Duration::from_secs(10),
            request_head: Duration::from_secs(10),
            downstream_idle: Duration::from_secs(75),
            early_response_drain: Duration::from_secs(1),
            body_hold_back: Duration::from_millis(100),
        }
    }
}
