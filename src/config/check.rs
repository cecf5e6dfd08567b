//! Third stage: what the values mean together, and the files that they name. Reports what is
//! wrong and yields a configuration only when nothing that it needs is missing.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::sign::CertifiedKey;

use super::layers::Located;
use super::problem::{Problems, Source};
use super::shape::{AdminDraft, CertificateDraft, Draft, FleetDraft, ListenerDraft, NodeDraft, PeerTlsDraft, TlsDraft};
use super::{
    Admin, CertificateFiles, ClientAuth, Config, Fleet, ListenAddress, Listener, ListenerTls, Node, PeerTrust, Secret,
    initial,
};

/// A shared secret is the whole of a peer's identity, so it is as long as an AES-256 key.
const MIN_SECRET_BYTES: usize = 32;
/// A token may be typed by people; shorter ones are guessed.
const MIN_TOKEN_BYTES: usize = 16;

pub(super) fn check(draft: Draft, problems: &mut Problems) -> Option<Config> {
    check_addresses(&draft, problems);
    if draft.settles_too_long() {
        let reason = "is longer than drain.deadline_ms: connections would be cut before any were asked to leave";
        problems.report(&draft.drain_source, "drain.settle_ms", reason);
    }
    if draft.limits.max_path_bytes > draft.limits.max_header_bytes {
        let reason = "is more than limits.max_header_bytes, which counts the path too over HTTP/2";
        problems.report(&draft.limits_source, "limits.max_path_bytes", reason);
    }
    // Every check runs, so none of these may end the function early.
    let node = node(draft.node, problems);
    let fleet = draft.fleet.map(|fleet| check_fleet(fleet, problems));
    let admin = admin(draft.admin, problems);
    let listeners: Vec<_> = draft.listeners.into_iter().map(|draft| listener(draft, problems)).collect();
    let endpoint_tls = draft.endpoint_tls.map(|draft| certificate(draft, problems));
    let initial = initial::check(draft.initial, problems);
    let fleet = match fleet {
        Some(None) => return None,
        Some(fleet) => fleet,
        None => None,
    };
    let endpoint_tls = match endpoint_tls {
        Some(None) => return None,
        Some(files) => files,
        None => None,
    };
    Some(Config {
        node: node?,
        fleet,
        admin: admin?,
        listeners: listeners.into_iter().collect::<Option<_>>()?,
        endpoint_tls,
        access_log: draft.access_log,
        trusted: draft.trusted,
        drain: draft.drain,
        limits: draft.limits,
        timeouts: draft.timeouts,
        initial,
    })
}

/// No two sockets of the node on one address. Port 0 is a different port each time.
fn check_addresses(draft: &Draft, problems: &mut Problems) {
    if draft.listeners.is_empty() {
        problems.report(&Source::Default, "listeners", "there is none: leave the key out for 0.0.0.0:8080");
    }
    let own = |key: &str, at: &Located<SocketAddr>| {
        (key.to_owned(), Located { value: ListenAddress::Ip(at.value), source: at.source.clone() })
    };
    let admin = draft.admin.listen.as_ref().map(|at| own("admin.listen", at));
    let fleet = draft.fleet.as_ref().and_then(|fleet| fleet.listen.as_ref()).map(|at| own("fleet.listen", at));
    let listeners = draft.listeners.iter().filter_map(|listener| {
        let at = listener.address.as_ref()?;
        let at = Located { value: at.value.clone(), source: at.source.clone() };
        Some((format!("{}.address", listener.path), at))
    });
    let mut taken: Vec<(String, Located<ListenAddress>)> = Vec::new();
    for (key, at) in admin.into_iter().chain(fleet).chain(listeners) {
        match taken.iter().find(|(_, other)| overlap(&at.value, &other.value)) {
            Some((other, there)) => {
                let reason = format!("{} is already taken by {other}, {} ({})", at.value, there.value, there.source);
                problems.report(&at.source, key, reason);
            }
            None => taken.push((key, at)),
        }
    }
}

fn overlap(a: &ListenAddress, b: &ListenAddress) -> bool {
    let (Some(a), Some(b)) = (a.ip(), b.ip()) else { return a == b };
    let everywhere = a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() != 0 && a.port() == b.port() && a.is_ipv4() == b.is_ipv4() && (everywhere || a.ip() == b.ip())
}

fn node(draft: NodeDraft, problems: &mut Problems) -> Option<Node> {
    if let Some(at) = draft.data_dir.as_ref().filter(|at| at.value.exists() && !at.value.is_dir()) {
        let reason = format!("{} is not a directory", at.value.display());
        problems.report(&at.source, "node.data_dir", reason);
    }
    Some(Node { name: draft.name?.value, data_dir: draft.data_dir?.value, workers: draft.workers })
}

fn check_fleet(draft: FleetDraft, problems: &mut Problems) -> Option<Fleet> {
    let join_token =
        draft.join_token_file.as_ref().map(|at| secret(at, "fleet.join_token_file", MIN_TOKEN_BYTES, problems));
    let trust = peer_trust(draft.secret_file, draft.previous_secret_file, draft.tls, problems);
    let advertise = match (draft.advertise, &draft.listen) {
        (Some(advertise), _) => Some(advertise),
        (None, Some(listen)) if !draft.advertise_given => {
            let address = listen.value.to_string().parse().ok();
            let reachable = address.filter(|_| !listen.value.ip().is_unspecified());
            if reachable.is_none() {
                let reason = format!("is missing: peers cannot connect to {}", listen.value);
                problems.report(&draft.source, "fleet.advertise", reason);
            }
            reachable.map(|value| Located { value, source: listen.source.clone() })
        }
        (None, _) => None,
    };
    if let (Some(join), Some(_)) = (&draft.join, &draft.founders) {
        problems.report(&join.source, "fleet.join", "stands beside fleet.founders: a node founds a fleet or joins one");
    }
    if let Some(join) = draft.join.as_ref().filter(|join| join.value.is_empty()) {
        problems.report(&join.source, "fleet.join", "names nobody: give the address of a node of the fleet");
    }
    if let (Some(at), None) = (&draft.join_token_file, &draft.join) {
        problems.report(&at.source, "fleet.join_token_file", "is for a node that joins: give fleet.join");
    }
    if let (Some(join), Some(own)) = (&draft.join, &advertise)
        && let Some(found) = join.value.iter().find(|other| other.value == own.value)
    {
        problems.report(&found.source, "fleet.join", format!("{} is this node itself", own.value));
    }
    if let Some(founders) = &draft.founders {
        for (index, founder) in founders.value.iter().enumerate() {
            if founders.value[..index].iter().any(|other| other.value == founder.value) {
                problems.report(&founder.source, "fleet.founders", format!("{} is there twice", founder.value));
            }
        }
        if let Some(own) = &advertise
            && !founders.value.iter().any(|founder| founder.value == own.value)
        {
            let reason = format!("{} is not among them: fleet.advertise ({}) must be", own.value, own.source);
            problems.report(&founders.source, "fleet.founders", reason);
        }
    }
    Some(Fleet {
        listen: draft.listen?.value,
        advertise: advertise?.value,
        founders: draft.join.or(draft.founders)?.value.into_iter().map(|founder| founder.value).collect(),
        join_token: match join_token {
            Some(token) => Some(token?),
            None => None,
        },
        trust: trust?,
    })
}

/// By what peers know each other: one secret, or certificates.
fn peer_trust(
    at: Option<Located<PathBuf>>,
    previous: Option<Located<PathBuf>>,
    tls: Option<PeerTlsDraft>,
    problems: &mut Problems,
) -> Option<PeerTrust> {
    let secret_at =
        |at: &Located<PathBuf>, key: &str, problems: &mut Problems| secret(at, key, MIN_SECRET_BYTES, problems);
    let current = at.as_ref().map(|at| secret_at(at, "fleet.secret_file", problems));
    let before = previous.as_ref().map(|at| secret_at(at, "fleet.previous_secret_file", problems));
    if let (Some(previous), None) = (&previous, &at) {
        let reason = "is the secret before fleet.secret_file, which is not given";
        problems.report(&previous.source, "fleet.previous_secret_file", reason);
    }
    if let (Some(previous), Some(Some(before)), Some(Some(current))) = (&previous, &before, &current)
        && before == current
    {
        let reason = "holds the same as fleet.secret_file: give the one before";
        problems.report(&previous.source, "fleet.previous_secret_file", reason);
    }
    let Some(tls) = tls else {
        let before = match before {
            Some(before) => Some(before?),
            None => None,
        };
        return Some(PeerTrust::Secret { secret: current??, previous: before });
    };
    if at.is_some() {
        let reason = "stands beside fleet.secret_file: peers know each other by the one or by the other";
        problems.report(&tls.source, "fleet.tls", reason);
    }
    if let Some(name) = tls.name.as_ref().filter(|name| ServerName::try_from(name.value.as_str()).is_err()) {
        problems.report(&name.source, "fleet.tls.name", format!("{:?} is not a DNS name", name.value));
    }
    let key = "fleet.tls.authorities";
    let authorities = tls.authorities.and_then(|at| {
        let pem = read(&at, key, problems)?;
        reported(chain(&pem, &at.value), &at, key, problems)?;
        Some(at.value)
    });
    let own = certificate(tls.own, problems);
    Some(PeerTrust::Given { authorities: authorities?, own: own?, name: tls.name.map(|name| name.value) })
}

fn admin(draft: AdminDraft, problems: &mut Problems) -> Option<Admin> {
    if let Some(at) = &draft.advertise {
        let known = at.value.strip_prefix("http://").or_else(|| at.value.strip_prefix("https://"));
        if known.is_none_or(|rest| rest.is_empty() || rest.contains(char::is_whitespace)) {
            let reason = format!("{:?} is not a URL: write http://10.0.0.1:9900", at.value);
            problems.report(&at.source, "admin.advertise", reason);
        }
    }
    if let Some(at) = &draft.listen
        && !at.value.ip().is_loopback()
        && !draft.token_file_given
    {
        let reason = format!("{} is not loopback: anyone could change the fleet. Give admin.token_file", at.value);
        problems.report(&at.source, "admin.listen", reason);
    }
    let token = draft.token_file.as_ref().map(|at| token(at, problems));
    let token = match token {
        Some(None) => return None,
        Some(token) => token,
        None => None,
    };
    Some(Admin { listen: draft.listen?.value, advertise: draft.advertise.map(|at| at.value), token })
}

fn token(at: &Located<PathBuf>, problems: &mut Problems) -> Option<Secret> {
    let token = secret(at, "admin.token_file", MIN_TOKEN_BYTES, problems)?;
    if !token.bytes().iter().all(u8::is_ascii_graphic) {
        let reason = format!("{} holds more than printable ASCII, which no header can carry", at.value.display());
        problems.report(&at.source, "admin.token_file", reason);
        return None;
    }
    Some(token)
}

/// The content of a file without the newline that editors leave at its end.
fn secret(at: &Located<PathBuf>, key: &str, at_least: usize, problems: &mut Problems) -> Option<Secret> {
    let content = read(at, key, problems)?;
    let end = content.iter().rposition(|byte| !matches!(byte, b'\n' | b'\r')).map_or(0, |last| last + 1);
    if end < at_least {
        let reason = format!("{} holds {end} bytes, at least {at_least} are needed", at.value.display());
        problems.report(&at.source, key, reason);
        return None;
    }
    Some(Secret(content[..end].into()))
}

fn read(at: &Located<PathBuf>, key: &str, problems: &mut Problems) -> Option<Vec<u8>> {
    std::fs::read(&at.value)
        .inspect_err(|error| {
            problems.report(&at.source, key, format!("{} cannot be read: {error}", at.value.display()));
        })
        .ok()
}

fn listener(draft: ListenerDraft, problems: &mut Problems) -> Option<Listener> {
    let path = format!("{}.tls", draft.path);
    let tls = draft.tls.map(|tls| listener_tls(tls, &path, problems));
    let tls = match tls {
        Some(None) => return None,
        Some(tls) => tls,
        None => None,
    };
    Some(Listener { address: draft.address?.value, tls, proxy_protocol: draft.proxy_protocol })
}

fn listener_tls(draft: TlsDraft, path: &str, problems: &mut Problems) -> Option<ListenerTls> {
    let ca_key = format!("{path}.client_ca");
    let client_ca = draft.client_ca.map(|at| {
        let pem = read(&at, &ca_key, problems)?;
        let authorities = reported(chain(&pem, &at.value), &at, &ca_key, problems)?;
        Some((at.value, authorities))
    });
    if let (Some(at), None) = (&draft.client_auth, &client_ca) {
        problems.report(
            &at.source,
            format!("{path}.client_auth"),
            "needs client_ca: who may have signed a client's certificate",
        );
    }
    let certificates: Vec<_> = draft.certificates.into_iter().map(|draft| certificate(draft, problems)).collect();
    let crl_key = format!("{path}.client_crl");
    let client_crl = draft.client_crl.map(|at| {
        if client_ca.is_none() {
            problems.report(&at.source, &crl_key, "needs client_ca: whose certificates it takes back");
        }
        let (pem, (_, authorities)) = (read(&at, &crl_key, problems)?, client_ca.as_ref()?.as_ref()?);
        reported(revocations(&pem, &at.value, authorities), &at, &crl_key, problems)?;
        Some(at.value)
    });
    let (client_ca, client_crl) = match (client_ca, client_crl) {
        (Some(None), _) | (_, Some(None)) => return None,
        (ca, crl) => (ca.flatten().map(|(path, _)| path), crl.flatten()),
    };
    Some(ListenerTls {
        certificates: certificates.into_iter().collect::<Option<_>>()?,
        client_ca,
        client_crl,
        client_auth: draft.client_auth.map_or(ClientAuth::Required, |at| at.value),
    })
}

fn certificate(draft: CertificateDraft, problems: &mut Problems) -> Option<CertificateFiles> {
    let certificate_key = format!("{}.certificate", draft.path);
    let key_key = format!("{}.key", draft.path);
    let chain = draft.certificate.as_ref().and_then(|at| {
        let pem = read(at, &certificate_key, problems)?;
        reported(chain(&pem, &at.value), at, &certificate_key, problems)
    });
    let key = draft.key.as_ref().and_then(|at| {
        let pem = read(at, &key_key, problems)?;
        let key = PrivateKeyDer::from_pem_slice(&pem)
            .map_err(|error| format!("{} holds no private key in PEM: {error}", at.value.display()));
        reported(key, at, &key_key, problems)
    });
    let (certificate_at, key_at) = (draft.certificate?, draft.key?);
    let certified = CertifiedKey::from_der(chain?, key?, &aws_lc_rs::default_provider()).map_err(|error| {
        let (key, certificate) = (key_at.value.display(), certificate_at.value.display());
        match error {
            rustls::Error::InconsistentKeys(_) => format!("{key} is not the key of {certificate}"),
            other => format!("{key} and {certificate} cannot be used: {other}"),
        }
    });
    reported(certified, &key_at, &key_key, problems)?;
    Some(CertificateFiles { certificate: certificate_at.value, key: key_at.value })
}

fn chain(pem: &[u8], path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("{} is not PEM: {error}", path.display()))?;
    if chain.is_empty() {
        return Err(format!("{} holds no certificate in PEM", path.display()));
    }
    Ok(chain)
}

/// Whether the lists are good for certificates of these authorities.
fn revocations(pem: &[u8], path: &Path, authorities: &[CertificateDer<'static>]) -> Result<(), String> {
    let lists: Vec<_> = CertificateRevocationListDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("{} is not PEM: {error}", path.display()))?;
    if lists.is_empty() {
        return Err(format!("{} holds no revocation list in PEM", path.display()));
    }
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(authorities.iter().cloned());
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).with_crls(lists).build();
    verifier.map(|_| ()).map_err(|error| format!("{} cannot be used: {error}", path.display()))
}

fn reported<T>(result: Result<T, String>, at: &Located<PathBuf>, key: &str, problems: &mut Problems) -> Option<T> {
    result.map_err(|reason| problems.report(&at.source, key, reason)).ok()
}
