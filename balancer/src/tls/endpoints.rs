//! TLS towards endpoints: TLS 1.2 and 1.3, certificates verified against the pool's authorities, and
//! the node's own certificate for endpoints that ask for one.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tidelock_core::spec::{EndpointTls, Verify};
use webpki_roots::TLS_SERVER_ROOTS;

use super::{Certificates, TlsError};

/// The certificate that the node shows to endpoints, as its files have it now.
pub(crate) type Identity = Arc<Certificates>;

/// What handshakes with a pool's endpoints go by. Each worker has its own, so that no two of them
/// wait for each other's sessions (TLS resumption) either.
pub(crate) fn towards_endpoints(
    spec: &EndpointTls,
    identity: Option<&Identity>,
) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError::Config(error.to_string()))?;
    let believes = match (spec.verify, &spec.authorities) {
        (Verify::None, _) => Some(Believes::Anybody),
        (Verify::Full, Some(authorities)) => {
            let authorities = authorities.certificates().map_err(TlsError::Config)?;
            Some(Believes::authorities(authorities, &provider)?)
        }
        (Verify::Full, None) => None,
    };
    let builder = match believes {
        None => builder.with_root_certificates(RootCertStore::from_iter(TLS_SERVER_ROOTS.iter().cloned())),
        Some(believes) => {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(Verifier { believes, provider }))
        }
    };
    Ok(Arc::new(match identity {
        Some(identity) => builder.with_client_cert_resolver(identity.clone()),
        None => builder.with_no_client_auth(),
    }))
}

impl ResolvesClientCert for Certificates {
    fn resolve(&self, _authorities: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.first())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Whom a pool believes. That whoever shows a certificate has its key is asked for in any case.
#[derive(Debug)]
struct Verifier {
    believes: Believes,
    provider: Arc<CryptoProvider>,
}

#[derive(Debug)]
enum Believes {
    /// Any certificate, for pools that say `verify: none`.
    Anybody,
    /// What the pool's authorities have signed, and the authorities themselves: `openssl req -x509`
    /// makes certificates that call themselves authorities, and whoever puts an endpoint's own among
    /// the authorities means that endpoint. The library refuses those (RFC 5280 section 4.2.1.9).
    Authorities { signed: Arc<WebPkiServerVerifier>, themselves: Vec<CertificateDer<'static>> },
}

impl Believes {
    fn authorities(
        themselves: Vec<CertificateDer<'static>>,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Believes, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in &themselves {
            roots.add(certificate.clone()).map_err(|error| TlsError::Config(error.to_string()))?;
        }
        let signed = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build();
        let signed = signed.map_err(|error| TlsError::Config(error.to_string()))?;
        Ok(Believes::Authorities { signed, themselves })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        own: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        stapled: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Believes::Authorities { signed, themselves } = &self.believes else {
            return Ok(ServerCertVerified::assertion());
        };
        match signed.verify_server_cert(own, chain, name, stapled, now) {
            // The kind of error under which the library files this one.
            Err(rustls::Error::InvalidCertificate(CertificateError::Other(_))) if themselves.contains(own) => {
                let certificate = rustls::server::ParsedCertificate::try_from(own)?;
                rustls::client::verify_server_name(&certificate, name)?;
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
