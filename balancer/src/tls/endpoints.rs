//! TLS towards endpoints: TLS 1.2 and 1.3, certificates verified against the pool's authorities, and
//! the node's own certificate for endpoints that ask for one.

use std::sync::Arc;

use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tidelock_core::spec::{EndpointTls, Verify};

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
    let builder = match spec.verify {
        Verify::Full => builder.with_root_certificates(roots(spec)?),
        Verify::None => builder.dangerous().with_custom_certificate_verifier(Arc::new(Unverified(provider))),
    };
    Ok(Arc::new(match identity {
        Some(identity) => builder.with_client_cert_resolver(identity.clone()),
        None => builder.with_no_client_auth(),
    }))
}

fn roots(spec: &EndpointTls) -> Result<RootCertStore, TlsError> {
    let Some(authorities) = &spec.authorities else {
        return Ok(webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect());
    };
    let mut roots = RootCertStore::empty();
    for certificate in authorities.certificates().map_err(TlsError::Config)? {
        roots.add(certificate).map_err(|error| TlsError::Config(error.to_string()))?;
    }
    Ok(roots)
}

impl ResolvesClientCert for Certificates {
    fn resolve(&self, _authorities: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.first())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Believes any certificate, for pools that say `verify: none`. That whoever shows it has its key
/// is still asked for.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _own: &CertificateDer<'_>,
        _chain: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _stapled: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
