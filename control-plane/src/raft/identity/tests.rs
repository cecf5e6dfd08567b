use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
const OTHER: &[u8] = b"0123456789abcdef0123456789abcdeF";

/// A directory of PEM files that is removed when it is dropped.
pub(in crate::raft) struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// An authority of somebody else's.
pub(in crate::raft) struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(in crate::raft) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    /// A certificate for `name`, and its key.
    fn issue(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }
}

impl Folder {
    pub(in crate::raft) fn new() -> Self {
        let folder = std::env::temp_dir().join(format!("tidelock-identity-{:016x}", rand::random::<u64>()));
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    pub(in crate::raft) fn files(&self) -> GivenFiles {
        let at = |name: &str| self.0.join(name);
        GivenFiles { authorities: at("ca.pem"), certificate: at("tls.crt"), key: at("tls.key"), name: None }
    }

    /// Writes all files as if they were changed `age` seconds before now, so that no two writes have
    /// the same time.
    pub(in crate::raft) fn write(&self, trusted: &[&Authority], by: &Authority, name: &str, age: u64) {
        let files = self.files();
        let (certificate, key) = by.issue(name);
        let authorities: String = trusted.iter().map(|authority| authority.pem.as_str()).collect();
        for (path, text) in [(&files.authorities, authorities), (&files.certificate, certificate), (&files.key, key)] {
            put(path, &text, age);
        }
    }

    pub(in crate::raft) fn credentials(&self) -> Credentials {
        Credentials::Given(self.files())
    }
}

fn put(path: &Path, text: &str, age: u64) {
    std::fs::write(path, text).unwrap();
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.set_modified(SystemTime::now() - std::time::Duration::from_secs(age)).unwrap();
}

fn secret(secret: &[u8], previous: Option<&[u8]>) -> Identity {
    let credentials = Credentials::Secret { secret: secret.to_vec(), previous: previous.map(<[u8]>::to_vec) };
    Identities::new(credentials).unwrap().current()
}

fn given(trusted: &[&Authority], by: &Authority, name: &str) -> Result<Identity, IdentityError> {
    let folder = Folder::new();
    folder.write(trusted, by, name, 0);
    Identities::new(folder.credentials()).map(|identities| identities.current())
}

/// Each side sends one byte and reads one; the errors of both.
async fn meet(client: &Identity, server: &Identity) -> (std::io::Result<u8>, std::io::Result<u8>) {
    let (near, far) = tokio::io::duplex(16 << 10);
    let dial = async {
        let mut stream = TlsConnector::from(client.client.clone()).connect(client.name.clone(), near).await?;
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

async fn both_meet(a: &Identity, b: &Identity) -> bool {
    let mut met = true;
    for (client, server) in [(a, b), (b, a)] {
        let (dialled, accepted) = meet(client, server).await;
        met &= matches!((dialled, accepted), (Ok(2), Ok(1)));
    }
    met
}

/// Neither way, and no byte of the application passes.
async fn neither_meets(a: &Identity, b: &Identity) -> bool {
    let mut refused = true;
    for (client, server) in [(a, b), (b, a)] {
        let (dialled, accepted) = meet(client, server).await;
        refused &= dialled.is_err() && accepted.is_err();
    }
    refused
}

#[tokio::test]
async fn nodes_with_the_same_secret_meet() {
    let with_newline = [SECRET, b"\n"].concat();
    assert!(both_meet(&secret(SECRET, None), &secret(&with_newline, None)).await);
}

#[tokio::test]
async fn a_wrong_secret_is_refused_in_the_handshake() {
    assert!(neither_meets(&secret(SECRET, None), &secret(OTHER, None)).await);
}

/// A rolling restart: first every node gets the new secret beside the old one, then without it.
#[tokio::test]
async fn a_secret_changes_node_by_node() {
    let (old, both, new) = (secret(OTHER, None), secret(SECRET, Some(OTHER)), secret(SECRET, None));
    assert!(both_meet(&old, &both).await, "one that has restarted, and one that has not");
    assert!(both_meet(&both, &both).await);
    assert!(both_meet(&both, &new).await, "the second round");
    assert!(neither_meets(&old, &new).await);
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused() {
    let a = secret(SECRET, None);
    let mut anonymous = a.clone();
    let materials = super::secret::materials(SECRET, None).unwrap();
    anonymous.client = Arc::new(
        ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(materials.roots)
            .with_no_client_auth(),
    );
    let (_, accepted) = meet(&anonymous, &a).await;
    assert!(accepted.is_err());
}

#[tokio::test]
async fn given_certificates_count_by_authority_and_name() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let a = given(&[&ours], &ours, NAME).unwrap();
    assert!(both_meet(&a, &given(&[&ours], &ours, NAME).unwrap()).await);
    assert!(neither_meets(&a, &given(&[&theirs], &theirs, NAME).unwrap()).await, "another authority");
    assert!(neither_meets(&a, &secret(SECRET, None)).await);
    // An authority changes as a secret does: first everybody accepts both.
    let both = given(&[&ours, &theirs], &ours, NAME).unwrap();
    assert!(both_meet(&a, &both).await);
    assert!(both_meet(&both, &given(&[&ours, &theirs], &theirs, NAME).unwrap()).await);
}

/// Of the same authority, but no node: it may neither accept nodes nor dial them.
#[tokio::test]
async fn a_certificate_of_the_authority_for_another_name_is_no_peer() {
    let ours = Authority::new();
    let a = given(&[&ours], &ours, NAME).unwrap();
    let folder = Folder::new();
    folder.write(&[&ours], &ours, "web.example.com", 0);
    let files = GivenFiles { name: Some("web.example.com".into()), ..folder.files() };
    let mut stranger = Identities::new(Credentials::Given(files)).unwrap().current();
    let (_, accepted) = meet(&a, &stranger).await;
    assert!(accepted.is_err(), "it was believed to be a node");
    stranger.name = a.name.clone();
    let (dialled, accepted) = meet(&stranger, &a).await;
    assert!(dialled.is_err() && accepted.is_err(), "it was let in as a node");
}

#[test]
fn a_certificate_that_no_peer_would_accept_is_refused_at_the_start() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    assert!(matches!(given(&[&theirs], &ours, NAME), Err(IdentityError::Own(_))));
    assert!(matches!(given(&[&ours], &ours, "web.example.com"), Err(IdentityError::Own(_))));
}

#[tokio::test]
async fn changed_files_are_taken_up_when_they_go_together() {
    let (old, new) = (Authority::new(), Authority::new());
    let folder = Folder::new();
    folder.write(&[&old], &old, NAME, 90);
    let identities = Identities::new(folder.credentials()).unwrap();
    let of_old = given(&[&old], &old, NAME).unwrap();
    let of_new = given(&[&new], &new, NAME).unwrap();
    // The authorities are there, the certificate is not yet.
    put(&folder.files().authorities, &new.pem, 60);
    identities.follow();
    assert!(both_meet(&identities.current(), &of_old).await);
    folder.write(&[&new], &new, NAME, 30);
    identities.follow();
    assert!(both_meet(&identities.current(), &of_new).await);
    put(&folder.files().key, "no key", 10);
    identities.follow();
    assert!(both_meet(&identities.current(), &of_new).await, "rubbish changes nothing");
}
