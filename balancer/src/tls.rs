//! TLS from clients, and towards [`endpoints`]: TLS 1.2 and 1.3, ALPN for HTTP/2 and HTTP/1.1, a certificate by the name that
//! the client asks for. Certificates are read again when their files change; a handshake that runs
//! keeps what it began with, and no connection notices.

mod certificates;
mod endpoints;
mod tickets;

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio_rustls::TlsAcceptor;

pub(crate) use certificates::Certificates;
pub(crate) use endpoints::{Identity, towards_endpoints};
pub(crate) use tickets::FleetTickets;
use tickets::ListenerTickets;

use crate::config::{ClientAuth, ListenerTls};

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

/// Reads the files and makes the acceptor that all workers share.
pub(crate) fn acceptor(
    tls: &ListenerTls,
    certificates: Arc<Certificates>,
    tickets: Arc<FleetTickets>,
) -> Result<Arc<TlsAcceptor>, TlsError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError::Config(error.to_string()))?;
    // What is asked of clients, for their tickets.
    let mut asks = Vec::new();
    let builder = match &tls.client_auth {
        None => builder.with_no_client_auth(),
        Some(ClientAuth { authorities, required }) => {
            asks.push(u8::from(*required));
            let mut roots = rustls::RootCertStore::empty();
            for certificate in read_chain(authorities)? {
                asks.extend_from_slice(&certificate);
                roots.add(certificate).map_err(|error| TlsError::file(authorities, error))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
            let verifier = if *required { verifier } else { verifier.allow_unauthenticated() };
            let verifier = verifier.build().map_err(|error| TlsError::file(authorities, error))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_cert_resolver(certificates);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.ticketer = Arc::new(ListenerTickets::new(tickets, &asks));
    Ok(Arc::new(TlsAcceptor::from(Arc::new(config))))
}

/// The certificates of a PEM file, at least one.
fn read_chain(path: &std::path::Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain: Vec<CertificateDer<'static>> =
        CertificateDer::pem_file_iter(path).and_then(Iterator::collect).map_err(|error| TlsError::file(path, error))?;
    if chain.is_empty() { Err(TlsError::file(path, "there is no certificate in it")) } else { Ok(chain) }
}
