//! Mutual TLS between the nodes from one secret that all of them hold.
//!
//! The secret yields the key of a certificate authority (HKDF-SHA256, then Ed25519), the same on
//! each node and stored on none. At its start a node issues itself a certificate from it and accepts
//! exactly the peers whose certificate comes from the same authority, on both sides of a connection:
//! who lacks the secret fails in the handshake, before a frame is read. Names and expiry carry no
//! meaning here (nodes differ in address and clock), the chain does.

use std::sync::Arc;

use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SerialNumber, date_time_ymd,
};
use rustls::client::WebPkiServerVerifier;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};

/// The name in every node's certificate. Peers are known by the ids in their Hello.
const NAME: &str = "peer.tidelock";

/// Shortest secret accepted, in bytes: what `head -c 32 /dev/urandom` makes.
pub const MIN_SECRET: usize = 32;

#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("the fleet secret has {0} bytes; it needs at least {MIN_SECRET}, for example from `openssl rand -hex 32`")]
    Short(usize),
    #[error("cannot issue this node's certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    #[error("cannot set up TLS between peers: {0}")]
    Tls(#[from] rustls::Error),
    #[error("cannot set up the verification of peers: {0}")]
    Verifier(#[from] rustls::client::VerifierBuilderError),
}

/// Both sides' TLS configuration. Holds keys, so it has no Debug.
#[derive(Clone)]
pub(crate) struct Identity {
    pub(crate) client: Arc<ClientConfig>,
    pub(crate) server: Arc<ServerConfig>,
}

impl Identity {
    /// `secret` is used without its trailing white space, which editors and `echo` add.
    pub(crate) fn from_secret(secret: &[u8]) -> Result<Self, IdentityError> {
        let secret = secret.trim_ascii_end();
        if secret.len() < MIN_SECRET {
            return Err(IdentityError::Short(secret.len()));
        }
        let authority_key = KeyPair::try_from(&PrivatePkcs8KeyDer::from(authority_key(secret)))?;
        let authority_params = authority_params();
        let authority = authority_params.self_signed(&authority_key)?.der().clone();
        let (certificate, key) = issue(&Issuer::new(authority_params, authority_key))?;

        let mut roots = RootCertStore::empty();
        roots.add(authority)?;
        let roots = Arc::new(roots);
        let provider = Arc::new(default_provider());

        let clients = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone()).build()?;
        let mut server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(clients)
            .with_single_cert(vec![certificate.clone()], key.clone_key())?;
        // Connections live long; a resumed one would skip the check of the peer's certificate.
        server.send_tls13_tickets = 0;
        server.session_storage = Arc::new(NoServerSessionStorage {});

        let servers = WebPkiServerVerifier::builder_with_provider(roots, provider.clone()).build()?;
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_webpki_verifier(servers)
            .with_client_auth_cert(vec![certificate], key)?;
        client.resumption = rustls::client::Resumption::disabled();

        Ok(Self { client: Arc::new(client), server: Arc::new(server) })
    }

    pub(crate) fn server_name() -> ServerName<'static> {
        ServerName::try_from(NAME).expect("the name is a valid DNS name")
    }
}

/// The authority's key in PKCS#8 (RFC 8410 section 7): a fixed head, then the 32 bytes of the seed.
fn authority_key(secret: &[u8]) -> Vec<u8> {
    const HEAD: [u8; 16] =
        [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
    let extracted = Salt::new(HKDF_SHA256, b"tidelock fleet secret, version 1").extract(secret);
    let mut seed = [0; 32];
    extracted
        .expand(&[b"certificate authority"], HKDF_SHA256)
        .and_then(|key| key.fill(&mut seed))
        .expect("HKDF-SHA256 yields up to 8,160 bytes");
    [HEAD.as_slice(), &seed].concat()
}

fn authority_params() -> CertificateParams {
    let mut params = params("tidelock fleet authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.serial_number = Some(SerialNumber::from(1));
    params
}

fn issue(authority: &Issuer<'_, KeyPair>) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>), rcgen::Error> {
    let key = KeyPair::generate_for(&rcgen::PKCS_ED25519)?;
    let mut params = params("tidelock node");
    params.subject_alt_names = vec![rcgen::SanType::DnsName(NAME.try_into()?)];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = params.signed_by(&key, authority)?;
    Ok((certificate.der().clone(), PrivateKeyDer::Pkcs8(key.serialize_der().into())))
}

/// Valid for any clock that is not absurd: certificates live as long as their process, and a node
/// whose clock is off by a day must still reach its fleet.
fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2099, 1, 1);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    use super::*;

    const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
    const OTHER: &[u8] = b"0123456789abcdef0123456789abcdeF";

    /// Each side sends one byte and reads one; the errors of both.
    async fn meet(client: &Identity, server: &Identity) -> (std::io::Result<u8>, std::io::Result<u8>) {
        let (near, far) = tokio::io::duplex(16 << 10);
        let dial = async {
            let mut stream = TlsConnector::from(client.client.clone()).connect(Identity::server_name(), near).await?;
            stream.write_u8(1).await?;
            stream.flush().await?;
            stream.read_u8().await
        };
        let accept = async {
            let mut stream = TlsAcceptor::from(server.server.clone()).accept(far).await?;
            stream.write_u8(2).await?;
            stream.flush().await?;
            stream.read_u8().await
        };
        tokio::join!(dial, accept)
    }

    #[tokio::test]
    async fn nodes_with_the_same_secret_meet() {
        let with_newline = [SECRET, b"\n"].concat();
        let (a, b) = (Identity::from_secret(SECRET).unwrap(), Identity::from_secret(&with_newline).unwrap());
        let (dialled, accepted) = meet(&a, &b).await;
        assert_eq!((dialled.unwrap(), accepted.unwrap()), (2, 1));
    }

    #[tokio::test]
    async fn a_wrong_secret_is_refused_in_the_handshake() {
        let (a, b) = (Identity::from_secret(SECRET).unwrap(), Identity::from_secret(OTHER).unwrap());
        let (dialled, accepted) = meet(&a, &b).await;
        assert!(dialled.is_err() && accepted.is_err(), "no byte of the application may pass");
    }

    #[tokio::test]
    async fn a_client_without_a_certificate_is_refused() {
        let a = Identity::from_secret(SECRET).unwrap();
        let mut anonymous = a.clone();
        let mut roots = RootCertStore::empty();
        let key = KeyPair::try_from(&PrivatePkcs8KeyDer::from(authority_key(SECRET))).unwrap();
        roots.add(authority_params().self_signed(&key).unwrap().der().clone()).unwrap();
        anonymous.client = Arc::new(
            ClientConfig::builder_with_provider(Arc::new(default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(roots)
                .with_no_client_auth(),
        );
        let (_, accepted) = meet(&anonymous, &a).await;
        assert!(accepted.is_err());
    }

    #[test]
    fn a_short_secret_is_refused_with_its_length() {
        assert!(matches!(Identity::from_secret(b"hunter2\n"), Err(IdentityError::Short(7))));
    }

    /// A changed derivation would part the old nodes of a fleet from the new ones.
    #[test]
    fn the_authority_key_is_fixed_by_the_secret() {
        assert_eq!(authority_key(SECRET), authority_key(SECRET));
        assert_ne!(authority_key(SECRET), authority_key(OTHER));
        assert_eq!(crc32fast::hash(&authority_key(SECRET)), GOLDEN_CRC);
    }

    const GOLDEN_CRC: u32 = 0xc5d3_6bea;
}
