//! TLS from clients: the protocol is what ALPN agreed on.

use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tidelock_balancer::{ListenerConfig, TlsFiles};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::fleet::{Endpoint, Fleet, H2c, config};
use crate::frames::Peer;
use crate::hpack::field;
use crate::http1::Http1;

/// A directory that goes with its test.
struct Files(std::path::PathBuf);

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

async fn with_tls() -> (Fleet, Endpoint, CertificateDer<'static>) {
    let made = rcgen::generate_simple_self_signed(["app.test".to_owned()]).unwrap();
    let unique = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
    let files = Files(std::env::temp_dir().join(format!("tidelock-tls-{}-{unique}", std::process::id())));
    std::fs::create_dir(&files.0).unwrap();
    let (certificate, key) = (files.0.join("tls.crt"), files.0.join("tls.key"));
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let authority = CertificateDer::from_pem_slice(made.cert.pem().as_bytes()).unwrap();
    let mut config = config();
    config.listeners = vec![ListenerConfig {
        address: "127.0.0.1:0".parse().unwrap(),
        tls: Some(TlsFiles { certificate, key }),
        proxy_protocol: false,
    }];
    let endpoint = Endpoint::listen("a").await;
    let fleet = Fleet::serving(config, H2c, &[&endpoint]).await;
    (fleet, endpoint, authority)
}

async fn connect(fleet: &Fleet, authority: &CertificateDer<'static>, alpn: &[&[u8]]) -> TlsStream<TcpStream> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(authority.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    let tcp = TcpStream::connect(fleet.address()).await.unwrap();
    let name = ServerName::try_from("app.test").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap()
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
