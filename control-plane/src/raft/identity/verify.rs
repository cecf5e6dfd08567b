//! Who is a peer: one chain and one name for both sides of a connection, and which certificate to show.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, WebPkiServerVerifier, verify_server_name};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::Own;

/// The certificates that a node can show, the one that it prefers first.
#[derive(Debug)]
pub(super) struct Shown(pub(super) Vec<Own>);

impl Shown {
    /// The first that the peer says it knows the authority of. One that says nothing, or names others
    /// (an authority in between), gets the first there is.
    fn choose<'a>(&self, known: impl Iterator<Item = &'a [u8]> + Clone) -> Option<Arc<CertifiedKey>> {
        let is_known =
            |own: &&Own| own.authority.as_ref().is_some_and(|name| known.clone().any(|at| at == name.as_ref()));
        self.0.iter().find(is_known).or(self.0.first()).map(|own| own.key.clone())
    }
}

impl ResolvesClientCert for Shown {
    fn resolve(&self, known: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.choose(known.iter().copied())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.choose(hello.certificate_authorities().unwrap_or_default().iter().map(AsRef::as_ref))
    }
}

/// A dialled peer: as in HTTPS, and it is told which authorities count.
#[derive(Debug)]
pub(super) struct Dialled {
    pub(super) chain: Arc<WebPkiServerVerifier>,
    pub(super) authorities: Vec<DistinguishedName>,
}

impl ServerCertVerifier for Dialled {
    fn verify_server_cert(
        &self,
        own: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.chain.verify_server_cert(own, between, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        own: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, own, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        own: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, own, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }

    fn root_hint_subjects(&self) -> Option<&[DistinguishedName]> {
        Some(&self.authorities)
    }
}

/// A peer that dialled. TLS asks nothing of a client's name; here it must be a node's, or everybody who
/// has a certificate of the same authorities could join in.
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) chain: Arc<dyn ClientCertVerifier>,
    pub(super) name: ServerName<'static>,
}

impl ClientCertVerifier for Accepted {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        own: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.chain.verify_client_cert(own, between, now)?;
        verify_server_name(&ParsedCertificate::try_from(own)?, &self.name)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        own: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, own, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        own: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, own, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}
