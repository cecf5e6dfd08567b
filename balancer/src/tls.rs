//! TLS from clients: TLS 1.2 and 1.3, ALPN for HTTP/2 and HTTP/1.1.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use crate::config::TlsFiles;

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{path}: {reason}")]
    File { path: String, reason: String },
    #[error("{certificate} and {key} do not make a TLS server: {source}")]
    Config { certificate: String, key: String, source: rustls::Error },
}

/// Reads the files and makes the acceptor that all workers share.
pub fn acceptor(files: &TlsFiles) -> Result<Arc<TlsAcceptor>, TlsError> {
    let certificate = files.certificate.display().to_string();
    let key = files.key.display().to_string();
    let file = |path: &str, reason: String| TlsError::File { path: path.to_owned(), reason };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(&files.certificate)
        .and_then(Iterator::collect)
        .map_err(|error| file(&certificate, error.to_string()))?;
    if chain.is_empty() {
        return Err(file(&certificate, "there is no certificate in it".to_owned()));
    }
    let secret = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| file(&key, error.to_string()))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map(|builder| builder.with_no_client_auth())
        .and_then(|builder| builder.with_single_cert(chain, secret));
    let mut config = config.map_err(|source| TlsError::Config { certificate, key, source })?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().unwrap_or(config.ticketer);
    Ok(Arc::new(TlsAcceptor::from(Arc::new(config))))
}
