//! Certificates from one secret that all nodes hold.
//!
//! The secret yields the key of a certificate authority (HKDF-SHA256, then Ed25519), the same on each
//! node and stored on none. At its start a node issues itself a certificate from it. With a previous
//! secret it has one from each: peers that know one alone are shown the one they know, by the
//! authorities they name in the handshake (RFC 8446 section 4.2.4), so nodes restart one by one.

use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SerialNumber, date_time_ymd,
};
use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};

use super::{IdentityError, MIN_SECRET, Materials, NAME, Own};

/// Each secret is used without its trailing white space, which editors and `echo` add.
pub(super) fn materials(secret: &[u8], previous: Option<&[u8]>) -> Result<Materials, IdentityError> {
    let mut roots = RootCertStore::empty();
    let mut own = Vec::new();
    for secret in [Some(secret), previous].into_iter().flatten() {
        let secret = secret.trim_ascii_end();
        if secret.len() < MIN_SECRET {
            return Err(IdentityError::Short(secret.len()));
        }
        let (params, key) = authority(secret)?;
        let certificate = params.self_signed(&key)?.der().clone();
        let (chain, key) = issue(&Issuer::new(params, key))?;
        roots.add(certificate)?;
        let key = CertifiedKey::from_der(vec![chain], key, &default_provider())?;
        own.push(Own { authority: roots.subjects().pop(), key: key.into() });
    }
    let name = ServerName::try_from(NAME).expect("the name is a valid DNS name");
    Ok(Materials { roots, own, name })
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

/// Its name tells it from that of another secret, and nothing of the secret.
fn authority(secret: &[u8]) -> Result<(CertificateParams, KeyPair), rcgen::Error> {
    let key = KeyPair::try_from(&PrivatePkcs8KeyDer::from(authority_key(secret)))?;
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, key.public_key_raw());
    let short: String = digest.as_ref()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    let mut params = params(&format!("tidelock fleet authority {short}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.serial_number = Some(SerialNumber::from(1));
    Ok((params, key))
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
    use super::*;

    const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
    const OTHER: &[u8] = b"0123456789abcdef0123456789abcdeF";

    /// A changed derivation would part the old nodes of a fleet from the new ones.
    #[test]
    fn the_authority_key_is_fixed_by_the_secret() {
        assert_eq!(authority_key(SECRET), authority_key(SECRET));
        assert_ne!(authority_key(SECRET), authority_key(OTHER));
        assert_eq!(crc32fast::hash(&authority_key(SECRET)), 0xc5d3_6bea);
    }

    #[test]
    fn a_short_secret_is_refused_with_its_length() {
        assert!(matches!(materials(b"hunter2\n", None), Err(IdentityError::Short(7))));
        assert!(matches!(materials(SECRET, Some(b"hunter2\n")), Err(IdentityError::Short(7))));
    }
}
