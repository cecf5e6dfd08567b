//! Which certificate a client is shown: the one that names the host it asks for (SNI, RFC 6066
//! section 3), else the listener's first.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;

use super::followed::Followed;
use super::{Follow, TlsError, read_chain};
use crate::config::TlsFiles;

/// The certificates of one listener, or of this node towards endpoints.
#[derive(Debug)]
pub(crate) struct Certificates {
    files: Vec<TlsFiles>,
    index: Followed<Index>,
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
        let paths = files.iter().flat_map(|files| [files.certificate.clone(), files.key.clone()]).collect();
        let index = Followed::new(paths, || Index::read(files))?;
        Ok(Arc::new(Certificates { files: files.to_vec(), index }))
    }

    /// The first of them, as it is now.
    pub(super) fn first(&self) -> Arc<CertifiedKey> {
        self.index.current().first.clone()
    }
}

impl Follow for Certificates {
    fn follow(&self) {
        self.index.follow(|| Index::read(&self.files));
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let index = self.index.current();
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

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};
    use std::time::{Duration, SystemTime};

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
        let knows = |name| certificates.index.current().find(name).is_some();
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
