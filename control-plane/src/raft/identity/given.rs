//! Certificates that somebody else issues: files that are read again when they change, as cert-manager
//! and its like replace them.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};

use super::{IdentityError, Materials, NAME, Own};

/// PEM files, and the name that every node's certificate must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GivenFiles {
    pub authorities: PathBuf,
    /// The chain, this node's own certificate first.
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// Default `peer.tidelock`.
    pub name: Option<String>,
}

impl GivenFiles {
    pub(super) fn read(&self) -> Result<Materials, IdentityError> {
        let mut roots = RootCertStore::empty();
        for authority in certificates(&self.authorities)? {
            roots.add(authority)?;
        }
        let chain = certificates(&self.certificate)?;
        let key = PrivateKeyDer::from_pem_file(&self.key).map_err(|error| unreadable(&self.key, error))?;
        let key = CertifiedKey::from_der(chain, key, &default_provider())?;
        let name = self.name.as_deref().unwrap_or(NAME);
        let name = ServerName::try_from(name.to_owned()).map_err(|_| IdentityError::Name(name.to_owned()))?;
        Ok(Materials { roots, own: vec![Own { authority: None, key: key.into() }], name })
    }

    /// When each file was changed last.
    pub(super) fn changed(&self) -> [Option<SystemTime>; 3] {
        [&self.authorities, &self.certificate, &self.key]
            .map(|path| std::fs::metadata(path).and_then(|file| file.modified()).ok())
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let certificates = read.map_err(|error| unreadable(path, error))?;
    if certificates.is_empty() { Err(unreadable(path, "it holds no certificate")) } else { Ok(certificates) }
}

fn unreadable(path: &Path, reason: impl std::fmt::Display) -> IdentityError {
    IdentityError::File { path: path.to_owned(), reason: reason.to_string() }
}
