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
    let builder = match spec.verify {
        Verify::Full => match &spec.authorities {
            None => builder.with_root_certificates(RootCertStore::from_iter(TLS_SERVER_ROOTS.iter().cloned())),
            Some(authorities) => {
                let verifier = Authorised::new(authorities.certificates().map_err(TlsError::Config)?, provider)?;
                builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
            }
        },
        Verify::None => builder.dangerous().with_custom_certificate_verifier(Arc::new(Unverified(provider))),
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

/// Believes what the pool's authorities have signed, and the authorities themselves: `openssl req
/// -x509` makes certificates that call themselves authorities, and whoever puts an endpoint's own
/// among the authorities means that endpoint. The library refuses those (RFC 5280 section 4.2.1.9).
#[derive(Debug)]
struct Authorised {
    signed: Arc<WebPkiServerVerifier>,
    authorities: Vec<CertificateDer<'static>>,
}

impl Authorised {
    fn new(authorities: Vec<CertificateDer<'static>>, provider: Arc<CryptoProvider>) -> Result<Authorised, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in &authorities {
            roots.add(certificate.clone()).map_err(|error| TlsError::Config(error.to_string()))?;
        }
        let signed = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
        let signed = signed.map_err(|error| TlsError::Config(error.to_string()))?;
        Ok(Authorised { signed, authorities })
    }
}

impl ServerCertVerifier for Authorised {
    fn verify_server_cert(
        &self,
        own: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        stapled: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self.signed.verify_server_cert(own, chain, name, stapled, now) {
            // The kind of error under which the library files this one.
            Err(rustls::Error::InvalidCertificate(CertificateError::Other(_))) if self.authorities.contains(own) => {
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
        self.signed.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signed.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.signed.supported_verify_schemes()
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
