//! TLS from clients: the protocol is what ALPN agreed on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tidelock_balancer::{ClientAuth, Config, ListenerConfig, ListenerTls, TlsFiles};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::fleet::{Endpoint, Fleet, H1, H2c, anywhere, config};
use crate::frames::Peer;
use crate::hpack::field;
use crate::http1::Http1;

/// A directory that goes with its test, with files that a listener reads.
pub(crate) struct Files(std::path::PathBuf);

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Files {
    pub(crate) fn new() -> Files {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let nth = COUNT.fetch_add(1, Ordering::Relaxed);
        let unique = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
        let files = Files(std::env::temp_dir().join(format!("tidelock-tls-{}-{nth}-{unique}", std::process::id())));
        std::fs::create_dir(&files.0).unwrap();
        files
    }

    pub(crate) fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.join(name)
    }

    /// A self-signed certificate for `names`.
    pub(crate) fn certificate(&self, file: &str, names: &[&str]) -> (TlsFiles, CertificateDer<'static>) {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        let (certificate, key) = (self.0.join(format!("{file}.crt")), self.0.join(format!("{file}.key")));
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        std::fs::write(&certificate, made.cert.pem()).unwrap();
        (TlsFiles { certificate, key }, CertificateDer::from_pem_slice(made.cert.pem().as_bytes()).unwrap())
    }
}

pub(crate) fn tls_config(certificates: Vec<TlsFiles>, client_auth: Option<ClientAuth>) -> Config {
    let address = anywhere();
    let tls = Some(ListenerTls { certificates, client_auth });
    Config { listeners: vec![ListenerConfig { address, tls, proxy_protocol: false }], ..config() }
}

async fn with_tls() -> (Fleet, Endpoint, CertificateDer<'static>) {
    let files = Files::new();
    let (tls, authority) = files.certificate("tls", &["app.test"]);
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(tls_config(vec![tls], None), H2c, &[&endpoint]).await;
    (fleet, endpoint, authority)
}

/// A client that believes `authorities`.
pub(crate) fn trusting(authorities: &[&CertificateDer<'static>]) -> rustls::ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    for authority in authorities {
        roots.add((*authority).clone()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    builder.with_root_certificates(roots).with_no_client_auth()
}

pub(crate) async fn handshake(
    fleet: &Fleet,
    name: &'static str,
    config: &Arc<rustls::ClientConfig>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(fleet.address()).await.unwrap();
    TlsConnector::from(config.clone()).connect(ServerName::try_from(name).unwrap(), tcp).await
}

async fn connect(fleet: &Fleet, authority: &CertificateDer<'static>, alpn: &[&[u8]]) -> TlsStream<TcpStream> {
    let mut config = trusting(&[authority]);
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    handshake(fleet, "app.test", &Arc::new(config)).await.unwrap()
}

#[tokio::test]
async fn alpn_chooses_http2() {
    let (fleet, endpoint, authority) = with_tls().await;
    let tls = connect(&fleet, &authority, &[b"h2", b"http/1.1"]).await;
    assert_eq!(tls.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let mut client = Peer::client(tls).await;
    let stream = client.get("/").await;
    let mut upstream = endpoint.h2().await;
    let request = upstream.expect_request().await;
    assert_eq!(field(&request.fields, "x-forwarded-proto"), Some("https"));
    let body = vec![b'x'; 50_000];
    upstream.respond(request.stream, "200", &body).await;
    let response = client.response(stream).await;
    assert_eq!(response.whole(), ("200", &body[..]));
    assert!(response.field("set-cookie").unwrap().ends_with("; Secure"));
}

#[tokio::test]
async fn alpn_chooses_http1_and_so_does_its_absence() {
    let (fleet, endpoint, authority) = with_tls().await;
    let mut upstream = None;
    for alpn in [&[&b"http/1.1"[..]][..], &[]] {
        let tls = connect(&fleet, &authority, alpn).await;
        let mut client = Http1::over(tls);
        for _ in 0..2 {
            client.get("/").await;
            let upstream = match &mut upstream {
                Some(upstream) => upstream,
                none => none.insert(endpoint.h2().await),
            };
            let request = upstream.expect_request().await;
            upstream.respond(request.stream, "200", b"fine").await;
            let (head, body) = client.response().await;
            assert_eq!((head.status(), &body[..]), ("200", &b"fine"[..]));
        }
    }
}

/// An early response over TLS is readable to its end, too.
#[tokio::test]
async fn an_aborted_handshake_costs_nothing() {
    let (fleet, endpoint, authority) = with_tls().await;
    let mut plain = Http1::connect(fleet.address()).await;
    plain.get("/").await;
    let answer = plain.rest().await;
    assert!(!answer.starts_with(b"HTTP"), "no cleartext on a TLS port");
    drop(TcpStream::connect(fleet.address()).await.unwrap());
    let mut client = Peer::client(connect(&fleet, &authority, &[b"h2"]).await).await;
    let stream = client.get("/").await;
    let mut upstream = endpoint.h2().await;
    let request = upstream.expect_request().await;
    upstream.respond(request.stream, "204", b"").await;
    assert_eq!(client.response(stream).await.whole().0, "204");
}

/// The certificate that a client is shown who asks for `name`.
async fn shown(fleet: &Fleet, name: &'static str, authorities: &[&CertificateDer<'static>]) -> CertificateDer<'static> {
    let tls = handshake(fleet, name, &Arc::new(trusting(authorities))).await.unwrap();
    tls.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
}

#[tokio::test]
async fn a_client_is_shown_the_certificate_of_the_host_it_asks_for() {
    let files = Files::new();
    let (first, a) = files.certificate("a", &["app.test"]);
    let (second, b) = files.certificate("b", &["*.shop.test", "shop.test"]);
    let (third, c) = files.certificate("c", &["vip.shop.test"]);
    let fleet = Fleet::start(tls_config(vec![first, second, third], None));
    let all = [&a, &b, &c];
    for (name, certificate) in [("app.test", &a), ("shop.test", &b), ("EU.Shop.test", &b), ("vip.shop.test", &c)] {
        assert_eq!(shown(&fleet, name, &all).await, *certificate, "{name}");
    }
    // A wildcard is one label, and nobody's name gets the first: the client decides.
    for name in ["a.b.shop.test", "other.test"] {
        assert!(handshake(&fleet, name, &Arc::new(trusting(&all))).await.is_err(), "{name}");
    }
}

#[tokio::test]
async fn changed_files_are_taken_up_and_no_connection_notices() {
    let files = Files::new();
    let (tls, old) = files.certificate("tls", &["app.test"]);
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(tls_config(vec![tls.clone()], None), H1, &[&endpoint]).await;
    let mut client = Http1::over(connect(&fleet, &old, &[]).await);
    let (_, new) = files.certificate("tls", &["app.test"]);
    let both = [&old, &new];
    let begun = std::time::Instant::now();
    while shown(&fleet, "app.test", &both).await != new {
        assert!(begun.elapsed() < Duration::from_secs(20), "the new certificate is not taken up");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    client.get("/").await;
    let mut upstream = endpoint.h1().await;
    upstream.head().await;
    upstream.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    assert_eq!(client.response().await.1, b"ok", "on the old connection");
}

/// A client resumes on whichever node it reaches: the keys are the fleet's.
#[tokio::test]
async fn a_session_is_resumed_on_another_node() {
    let files = Files::new();
    let (tls, authority) = files.certificate("tls", &["app.test"]);
    let nodes = [Fleet::start(tls_config(vec![tls.clone()], None)), Fleet::start(tls_config(vec![tls], None))];
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(authority.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]).unwrap();
        let config = Arc::new(builder.with_root_certificates(roots).with_no_client_auth());
        let mut kinds = Vec::new();
        for node in &nodes {
            node.adopted().await;
            let tls = handshake(node, "app.test", &config).await.unwrap();
            // Tickets of TLS 1.3 come with the first bytes of the response.
            let mut client = Http1::over(tls);
            client.get("/").await;
            client.response().await;
            kinds.push(client.io.get_ref().1.handshake_kind());
        }
        use rustls::HandshakeKind::{Full, Resumed};
        assert_eq!(kinds, [Some(Full), Some(Resumed)], "{version:?}");
    }
}
