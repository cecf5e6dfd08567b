//! TLS from clients, and towards [`endpoints`]: TLS 1.2 and 1.3, ALPN for HTTP/2 and HTTP/1.1, a certificate by the name that
//! the client asks for. Certificates are read again when their files change; a handshake that runs
//! keeps what it began with, and no connection notices.

mod certificates;
mod endpoints;
mod followed;
mod handshakes;
mod tickets;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

pub(crate) use certificates::Certificates;
pub(crate) use endpoints::{Identity, towards_endpoints};
pub(crate) use handshakes::Handshakes;
pub(crate) use tickets::FleetTickets;

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{path}: {reason}")]
    File { path: String, reason: String },
    #[error("{certificate} and {key} do not make a TLS server: {source}")]
    Certificate { certificate: String, key: String, source: rustls::Error },
    #[error("a TLS listener cannot be made: {0}")]
    Config(String),
}

impl TlsError {
    fn file(path: &std::path::Path, reason: impl ToString) -> TlsError {
        TlsError::File { path: path.display().to_string(), reason: reason.to_string() }
    }
}

/// What is read again when its files change.
pub(crate) trait Follow: Send + Sync {
    /// Looks at the files; on a thread that may wait for a slow volume.
    fn follow(&self);
}

/// The certificates of a PEM file, at least one.
fn read_chain(path: &std::path::Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain: Vec<CertificateDer<'static>> =
        CertificateDer::pem_file_iter(path).and_then(Iterator::collect).map_err(|error| TlsError::file(path, error))?;
    if chain.is_empty() { Err(TlsError::file(path, "there is no certificate in it")) } else { Ok(chain) }
}
