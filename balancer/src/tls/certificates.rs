//! Which certificate a client is shown: the one that names the host it asks for (SNI, RFC 6066
//! section 3), else the listener's first.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use tracing::{info, warn};

use super::{TlsError, read_chain};
use crate::config::TlsFiles;

/// The certificates of one listener. The lock is taken by handshakes and when files change, never
/// by a request.
#[derive(Debug)]
pub(crate) struct Certificates {
    files: Vec<TlsFiles>,
    current: RwLock<Current>,
}

#[derive(Debug, Clone)]
struct Current {
    index: Arc<Index>,
    /// When each file was changed last, as the certificates in use were read.
    changed: Vec<Option<SystemTime>>,
}

#[derive(Debug)]
struct Index {
    /// By name, `*.example.com` among them; several where keys are of several kinds.
    by_name: HashMap<String, Vec<Arc<CertifiedKey>>>,
    first: Arc<CertifiedKey>,
}

impl Certificates {
    /// `files` is not empty.
    pub(crate) fn read(files: &[TlsFiles]) -> Result<Arc<Certificates>, TlsError> {
        let current = RwLock::new(Current { changed: changed(files), index: Arc::new(Index::read(files)?) });
        Ok(Arc::new(Certificates { files: files.to_vec(), current }))
    }

    /// Reads the files again if one of them has changed. Files that do not go together are left
    /// alone: whoever replaces a certificate writes two files, one after the other.
    pub(crate) fn follow(&self) {
        let now = changed(&self.files);
        if now == self.current.read().unwrap_or_else(PoisonError::into_inner).changed {
            return;
        }
        // Read before the lock: files may be on a slow volume, and handshakes wait for nothing.
        let read = Index::read(&self.files);
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        // Told once for each change, whether it was good or not.
        current.changed = now;
        match read {
            Ok(index) => {
                current.index = Arc::new(index);
                info!(certificate = %self.files[0].certificate.display(), "certificates were read again");
            }
            Err(error) => warn!(%error, "changed certificates cannot be used; those before stay in use"),
        }
    }
}

impl Certificates {
    /// The first of them, as it is now.
    pub(super) fn first(&self) -> Arc<CertifiedKey> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).index.first.clone()
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let index = self.current.read().unwrap_or_else(PoisonError::into_inner).index.clone();
        let named = hello.server_name().and_then(|name| index.find(name));
        let fits = |key: &&Arc<CertifiedKey>| key.key.choose_scheme(hello.signature_schemes()).is_some();
        let of_its_kind = named.and_then(|keys| keys.iter().find(fits).or(keys.first()));
        Some(of_its_kind.unwrap_or(&index.first).clone())
    }
}

impl Index {
    fn read(files: &[TlsFiles]) -> Result<Index, TlsError> {
        let mut by_name: HashMap<String, Vec<Arc<CertifiedKey>>> = HashMap::new();
        let mut first = None;
        for files in files {
            let key = Arc::new(read(files)?);
            for name in names(&key, files)? {
                by_name.entry(name).or_default().push(key.clone());
            }
            first.get_or_insert(key);
        }
        let first = first.ok_or_else(|| TlsError::Config("there is no certificate".to_owned()))?;
        Ok(Index { by_name, first })
    }

    /// An exact name wins over a wildcard, which stands for one label (RFC 9525 section 6.3).
    fn find(&self, name: &str) -> Option<&Vec<Arc<CertifiedKey>>> {
        let name = name.to_ascii_lowercase();
        self.by_name.get(&name).or_else(|| {
            let (_, parent) = name.split_once('.')?;
            self.by_name.get(&format!("*.{parent}"))
        })
    }
}

fn read(files: &TlsFiles) -> Result<CertifiedKey, TlsError> {
    let chain = read_chain(&files.certificate)?;
    let secret = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| TlsError::file(&files.key, error))?;
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    CertifiedKey::from_der(chain, secret, &provider).map_err(|source| TlsError::Certificate {
        certificate: files.certificate.display().to_string(),
        key: files.key.display().to_string(),
        source,
    })
}

fn names(key: &CertifiedKey, files: &TlsFiles) -> Result<Vec<String>, TlsError> {
    let Some(own) = key.cert.first() else { return Ok(Vec::new()) };
    let parsed = webpki::EndEntityCert::try_from(own).map_err(|error| TlsError::file(&files.certificate, error))?;
    Ok(parsed.valid_dns_names().map(str::to_ascii_lowercase).collect())
}

fn changed(files: &[TlsFiles]) -> Vec<Option<SystemTime>> {
    let at = |path| std::fs::metadata(path).and_then(|meta| meta.modified()).ok();
    files.iter().flat_map(|files| [at(&files.certificate), at(&files.key)]).collect()
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};
    use std::time::Duration;

    use super::*;

    /// Writes a file as if it were changed `age` seconds before now, so that no two writes have the
    /// same time.
    fn write(path: &Path, text: &str, age: u64) {
        std::fs::write(path, text).unwrap();
        let file = std::fs::File::options().write(true).open(path).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
    }

    #[test]
    fn files_are_taken_up_when_they_go_together() {
        let folder: PathBuf = std::env::temp_dir().join(format!("tidelock-certificates-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let files = TlsFiles { certificate: folder.join("a.crt"), key: folder.join("a.key") };
        let [old, new] =
            ["old.test", "new.test"].map(|name| rcgen::generate_simple_self_signed([name.to_owned()]).unwrap());
        write(&files.key, &old.signing_key.serialize_pem(), 90);
        write(&files.certificate, &old.cert.pem(), 90);
        let certificates = Certificates::read(std::slice::from_ref(&files)).unwrap();
        let knows = |name| certificates.current.read().unwrap().index.find(name).is_some();
        // The new certificate is there, its key is not yet.
        write(&files.certificate, &new.cert.pem(), 60);
        certificates.follow();
        assert!(knows("old.test") && !knows("new.test"));
        write(&files.key, &new.signing_key.serialize_pem(), 30);
        certificates.follow();
        assert!(knows("new.test") && !knows("old.test"));
        write(&files.key, "no key", 10);
        certificates.follow();
        assert!(knows("new.test"));
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
