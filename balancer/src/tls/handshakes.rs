//! A listener's part of a handshake: what clients are shown, and which of them are let in.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::CertificateRevocationListDer;
use rustls_pki_types::pem::PemObject;
use tokio_rustls::TlsAcceptor;

use super::certificates::Certificates;
use super::followed::Followed;
use super::tickets::{FleetTickets, ListenerTickets};
use super::{Follow, TlsError, read_chain};
use crate::config::{ClientAuth, ListenerTls};

/// What all workers share of one listener.
pub(crate) struct Handshakes {
    client_auth: Option<ClientAuth>,
    certificates: Arc<Certificates>,
    tickets: Arc<FleetTickets>,
    made: Followed<TlsAcceptor>,
}

impl Handshakes {
    pub(crate) fn read(tls: &ListenerTls, tickets: Arc<FleetTickets>) -> Result<Arc<Handshakes>, TlsError> {
        let certificates = Certificates::read(&tls.certificates)?;
        let client_auth = tls.client_auth.clone();
        let paths = client_auth.iter().flat_map(ClientAuth::paths).cloned().collect();
        let made = Followed::new(paths, || make(client_auth.as_ref(), &certificates, &tickets))?;
        Ok(Arc::new(Handshakes { client_auth, certificates, tickets, made }))
    }

    /// As its files are now.
    pub(crate) fn current(&self) -> Arc<TlsAcceptor> {
        self.made.current()
    }
}

impl Follow for Handshakes {
    fn follow(&self) {
        self.certificates.follow();
        self.made.follow(|| make(self.client_auth.as_ref(), &self.certificates, &self.tickets));
    }
}

impl ClientAuth {
    fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        std::iter::once(&self.authorities).chain(&self.revoked)
    }
}

fn make(
    client_auth: Option<&ClientAuth>,
    certificates: &Arc<Certificates>,
    tickets: &Arc<FleetTickets>,
) -> Result<TlsAcceptor, TlsError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError::Config(error.to_string()))?;
    // What is asked of clients, for their tickets: who is not let in any more does not come back with one either.
    let mut asks = Vec::new();
    let builder = match client_auth {
        None => builder.with_no_client_auth(),
        Some(auth) => builder.with_client_cert_verifier(verifier(auth, provider, &mut asks)?),
    };
    let mut config = builder.with_cert_resolver(certificates.clone());
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.ticketer = Arc::new(ListenerTickets::new(tickets.clone(), &asks));
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn verifier(
    auth: &ClientAuth,
    provider: Arc<rustls::crypto::CryptoProvider>,
    asks: &mut Vec<u8>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let ClientAuth { authorities, revoked, required } = auth;
    asks.push(u8::from(*required));
    let mut roots = RootCertStore::empty();
    for certificate in read_chain(authorities)? {
        asks.extend_from_slice(&certificate);
        roots.add(certificate).map_err(|error| TlsError::file(authorities, error))?;
    }
    let mut builder = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
    if let Some(revoked) = revoked {
        let lists = read_lists(revoked)?;
        lists.iter().for_each(|list| asks.extend_from_slice(list));
        // An expired list says nothing of what was taken back since.
        builder = builder.with_crls(lists).enforce_revocation_expiration();
    }
    let builder = if *required { builder } else { builder.allow_unauthenticated() };
    builder.build().map_err(|error| TlsError::file(revoked.as_ref().unwrap_or(authorities), error))
}

/// The revocation lists of a PEM file, at least one.
fn read_lists(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    let lists: Vec<CertificateRevocationListDer<'static>> = CertificateRevocationListDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| TlsError::file(path, error))?;
    if lists.is_empty() { Err(TlsError::file(path, "there is no revocation list in it")) } else { Ok(lists) }
}
