//! Mutual TLS between the nodes: which certificate a node shows, and whose it accepts.
//!
//! The certificates come from one secret that all nodes hold (`secret`), or from files that somebody
//! else writes (`given`). Either way a node accepts exactly the peers whose certificate comes from the
//! authorities and has the fleet's name, on both sides of a connection: who has none fails in the
//! handshake, before a frame is read. The name is one for all nodes: addresses of pods change, and
//! which node it is says its Hello.

mod given;
mod secret;
#[cfg(test)]
pub(super) mod tests;
mod verify;

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DistinguishedName, RootCertStore, ServerConfig};
use rustls_pki_types::{ServerName, UnixTime};

pub use self::given::GivenFiles;
use self::verify::{Accepted, Dialled, Shown};

/// The name in every node's certificate, unless another is given.
const NAME: &str = "peer.tidelock";

/// Shortest secret accepted, in bytes: what `head -c 32 /dev/urandom` makes.
pub const MIN_SECRET: usize = 32;

/// By what the nodes of a fleet know each other. Holds secrets, so it has no Debug.
#[derive(Clone)]
pub enum Credentials {
    Secret {
        /// The same on every node, at least [`MIN_SECRET`] bytes.
        secret: Vec<u8>,
        /// The one before, while nodes change over one by one.
        previous: Option<Vec<u8>>,
    },
    Given(GivenFiles),
}

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
    #[error("{} cannot be used: {reason}", path.display())]
    File { path: PathBuf, reason: String },
    #[error("{0:?} is no DNS name, and no name of a peer")]
    Name(String),
    #[error("no peer would accept this node's own certificate: {0}")]
    Own(#[source] rustls::Error),
}

/// What an identity is made of.
struct Materials {
    roots: RootCertStore,
    /// The one that is preferred first.
    own: Vec<Own>,
    name: ServerName<'static>,
}

#[derive(Debug, Clone)]
struct Own {
    /// Who issued it, as peers name it; `None` for given ones, of which there is one.
    authority: Option<DistinguishedName>,
    key: Arc<CertifiedKey>,
}

/// Both sides' TLS configuration. Holds keys, so it has no Debug.
#[derive(Clone)]
pub(crate) struct Identity {
    pub(crate) client: Arc<ClientConfig>,
    pub(crate) server: Arc<ServerConfig>,
    /// Whom a dialled peer must be.
    pub(crate) name: ServerName<'static>,
}

impl TryFrom<Materials> for Identity {
    type Error = IdentityError;

    fn try_from(materials: Materials) -> Result<Self, IdentityError> {
        let Materials { roots, own, name } = materials;
        let (provider, authorities) = (Arc::new(default_provider()), roots.subjects());
        let roots = Arc::new(roots);
        let chain = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone()).build()?;
        let accepted = Arc::new(Accepted { chain, name: name.clone() });
        let chain = WebPkiServerVerifier::builder_with_provider(roots, provider.clone()).build()?;
        let dialled = Arc::new(Dialled { chain, authorities });

        // What peers would refuse is a mistake to be told here, not a riddle in their logs.
        for Own { key, .. } in &own {
            let (first, between) = key.cert.split_first().ok_or(rustls::Error::NoCertificatesPresented)?;
            let now = UnixTime::now();
            accepted.verify_client_cert(first, between, now).map_err(IdentityError::Own)?;
            dialled.verify_server_cert(first, between, &name, &[], now).map_err(IdentityError::Own)?;
        }

        let shown = Arc::new(Shown(own));
        let mut server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(accepted)
            .with_cert_resolver(shown.clone());
        // Connections live long; a resumed one would skip the check of the peer's certificate.
        server.send_tls13_tickets = 0;
        server.session_storage = Arc::new(NoServerSessionStorage {});

        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(dialled)
            .with_client_cert_resolver(shown);
        client.resumption = rustls::client::Resumption::disabled();
        Ok(Self { client: Arc::new(client), server: Arc::new(server), name })
    }
}

/// The identity that handshakes use from now on. One that has changed does not touch connections that
/// are open.
pub(crate) struct Identities {
    files: Option<GivenFiles>,
    current: RwLock<(Identity, [Option<SystemTime>; 3])>,
}

impl Identities {
    pub(crate) fn new(credentials: Credentials) -> Result<Self, IdentityError> {
        let (files, changed, materials) = match credentials {
            Credentials::Secret { secret, previous } => {
                (None, Default::default(), secret::materials(&secret, previous.as_deref())?)
            }
            // The times before the content: a change in between is then a change.
            Credentials::Given(files) => (Some(files.clone()), files.changed(), files.read()?),
        };
        Ok(Self { files, current: RwLock::new((materials.try_into()?, changed)) })
    }

    pub(crate) fn current(&self) -> Identity {
        self.current.read().unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    /// Reads the files again if one of them has changed. Files that do not go together are left alone:
    /// whoever replaces a certificate writes two, one after the other.
    pub(crate) fn follow(&self) {
        let Some(files) = &self.files else { return };
        let now = files.changed();
        if now == self.current.read().unwrap_or_else(PoisonError::into_inner).1 {
            return;
        }
        // Read before the lock: files may be on a slow volume, and handshakes wait for nothing.
        let read = files.read().and_then(Identity::try_from);
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        // Told once for each change, whether it was good or not.
        current.1 = now;
        match read {
            Ok(identity) => {
                current.0 = identity;
                tracing::info!(certificate = %files.certificate.display(), "the certificate for peers was read again");
            }
            Err(error) => {
                tracing::warn!(%error, "the changed certificate for peers cannot be used; the one before stays in use");
            }
        }
    }
}
