//! TLS to endpoints: who is believed, what is spoken, and who the balancer says it is.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use serde_json::json;
use tidelock_balancer::{Config, TlsFiles};
use tidelock_core::spec::PoolSpec;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::fleet::{Endpoint, Fleet, config};
use crate::frames::{Peer, soon};
use crate::hpack::field;
use crate::http1::Http1;
use crate::tls::Files;

/// An endpoint that speaks TLS.
struct Secure {
    endpoint: Endpoint,
    /// PEM.
    certificate: String,
    config: ServerConfig,
}

impl Secure {
    /// Its certificate is for `names`; by ALPN it agrees to one of `alpn`.
    async fn listen(files: &Files, names: &[&str], alpn: &[&[u8]]) -> Secure {
        Secure::asking(files, names, alpn, None).await
    }

    /// It wants to see a certificate that `clients` have signed.
    async fn asking(files: &Files, names: &[&str], alpn: &[&[u8]], clients: Option<CertificateDer<'static>>) -> Secure {
        let (TlsFiles { certificate, key }, own) = files.certificate("endpoint", names);
        let certificate = std::fs::read_to_string(certificate).unwrap();
        Secure::showing(certificate, vec![own], PrivateKeyDer::from_pem_file(&key).unwrap(), alpn, clients).await
    }

    async fn showing(
        certificate: String,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        alpn: &[&[u8]],
        clients: Option<CertificateDer<'static>>,
    ) -> Secure {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
        let builder = match clients {
            None => builder.unwrap().with_no_client_auth(),
            Some(clients) => {
                let mut roots = rustls::RootCertStore::empty();
                roots.add(clients).unwrap();
                let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider).build().unwrap();
                builder.unwrap().with_client_cert_verifier(verifier)
            }
        };
        let mut config = builder.with_single_cert(chain, key).unwrap();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        Secure { endpoint: Endpoint::listen("a").await, certificate, config }
    }

    /// Serves the pool `app` of this one endpoint.
    async fn serving(&self, config: Config, spec: serde_json::Value) -> Fleet {
        let spec: PoolSpec = serde_json::from_value(spec).unwrap();
        Fleet::with_pool(config, spec, &[&self.endpoint]).await
    }

    async fn try_accept(&self) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = self.endpoint.accept().await;
        soon("a handshake", TlsAcceptor::from(Arc::new(self.config.clone())).accept(stream)).await
    }

    async fn accept(&self) -> TlsStream<TcpStream> {
        self.try_accept().await.unwrap()
    }
}

async fn answer_h1(upstream: &mut Http1<TlsStream<TcpStream>>, client: &mut Http1) {
    upstream.head().await;
    upstream.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    assert_eq!(client.response().await.1, b"ok");
}

async fn answer_h2(upstream: &mut Peer, client: &mut Http1) {
    let request = upstream.expect_request().await;
    assert_eq!(field(&request.fields, ":scheme"), Some("https"));
    upstream.respond(request.stream, "200", b"ok").await;
    assert_eq!(client.response().await.1, b"ok");
}

/// The endpoint is asked for by the name that the pool gives, and each protocol is what ALPN says.
#[tokio::test]
async fn a_verified_endpoint_is_spoken_to() {
    let files = Files::new();
    for (protocol, alpn) in [("http1", &b"http/1.1"[..]), ("h2", b"h2"), ("auto", b"http/1.1"), ("auto", b"h2")] {
        let secure = Secure::listen(&files, &["app.internal"], &[alpn]).await;
        let tls = json!({"authorities": secure.certificate, "server_name": "app.internal"});
        let fleet = secure.serving(config(), json!({"protocol": protocol, "tls": tls})).await;
        let mut client = fleet.h1().await;
        client.get("/").await;
        let stream = secure.accept().await;
        assert_eq!(stream.get_ref().1.server_name(), Some("app.internal"));
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(alpn), "{protocol}");
        if alpn == b"h2" {
            let mut upstream = Peer::endpoint(stream, &[]).await;
            answer_h2(&mut upstream, &mut client).await;
            client.get("/").await;
            answer_h2(&mut upstream, &mut client).await;
        } else {
            let mut upstream = Http1::over(stream);
            answer_h1(&mut upstream, &mut client).await;
            client.get("/").await;
            answer_h1(&mut upstream, &mut client).await;
        }
        assert!(secure.endpoint.nobody(), "{protocol}: the connection is kept");
    }
}

/// Without ALPN it is HTTP/1.1, which `h2` does not take.
#[tokio::test]
async fn an_endpoint_without_alpn_speaks_http1() {
    let files = Files::new();
    let secure = Secure::listen(&files, &["app.internal"], &[]).await;
    let tls = json!({"authorities": secure.certificate, "server_name": "app.internal"});
    let fleet = secure.serving(config(), json!({"protocol": "auto", "tls": tls})).await;
    let mut client = fleet.h1().await;
    client.get("/").await;
    answer_h1(&mut Http1::over(secure.accept().await), &mut client).await;
    fleet.change(json!({"protocol": "h2", "tls": tls})).await;
    client.get("/").await;
    secure.accept().await;
    assert_eq!(client.response().await.0.field("tidelock-reason"), Some("unreachable"));
}

/// Many requests ask what an endpoint speaks; one connection finds out.
#[tokio::test]
async fn an_endpoint_is_asked_once_what_it_speaks() {
    let files = Files::new();
    let secure = Secure::listen(&files, &["app.internal"], &[b"h2", b"http/1.1"]).await;
    let tls = json!({"authorities": secure.certificate, "server_name": "app.internal"});
    let fleet = secure.serving(config(), json!({"protocol": "auto", "tls": tls})).await;
    let mut client = fleet.h2().await;
    let streams = [client.get("/").await, client.get("/").await, client.get("/").await];
    let mut upstream = Peer::endpoint(secure.accept().await, &[]).await;
    for _ in streams {
        let request = upstream.expect_request().await;
        upstream.respond(request.stream, "204", b"").await;
    }
    for stream in streams {
        assert_eq!(client.response(stream).await.status(), "204");
    }
    assert!(secure.endpoint.nobody());
}

/// Wrong names and unknown authorities are refused before a byte of a request is sent; without
/// verification they are not looked at.
#[tokio::test]
async fn an_endpoint_that_cannot_prove_its_name_gets_nothing() {
    let files = Files::new();
    let secure = Secure::listen(&files, &["app.internal"], &[]).await;
    let stranger = files.certificate("stranger", &["app.internal"]).0.certificate;
    let stranger = std::fs::read_to_string(stranger).unwrap();
    let own = &secure.certificate;
    for tls in [
        json!({"authorities": own, "server_name": "other.internal"}),
        // The address is the name where none is given.
        json!({"authorities": own}),
        json!({"authorities": stranger, "server_name": "app.internal"}),
        // The public authorities have not signed it.
        json!({"server_name": "app.internal"}),
    ] {
        let spec = json!({"protocol": "http1", "tls": tls, "hold": {"max_ms": 0}});
        let fleet = secure.serving(config(), spec).await;
        let mut client = fleet.h1().await;
        client.get("/").await;
        if let Ok(stream) = secure.try_accept().await {
            assert!(Http1::over(stream).rest().await.is_empty(), "{tls}");
        }
        let (head, _) = client.response().await;
        assert_eq!((head.status(), head.field("tidelock-reason")), ("503", Some("unreachable")), "{tls}");
    }
    let fleet = secure.serving(config(), json!({"protocol": "http1", "tls": {"verify": "none"}})).await;
    let mut client = fleet.h1().await;
    client.get("/").await;
    answer_h1(&mut Http1::over(secure.accept().await), &mut client).await;
}

/// An authority vouches for whom it has signed; and for itself, as the certificates of `openssl req
/// -x509` do, but for no name that is not in it.
#[tokio::test]
async fn an_authority_is_believed() {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    let authority_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(["authority.internal".to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = params.self_signed(&authority_key).unwrap();
    let leaf_key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(["app.internal".to_owned()]).unwrap();
    let leaf = leaf.signed_by(&leaf_key, &Issuer::new(params, &authority_key)).unwrap();
    for (shown, key, name, is_believed) in [
        (&leaf, &leaf_key, "app.internal", true),
        (&leaf, &leaf_key, "authority.internal", false),
        (&authority, &authority_key, "authority.internal", true),
        (&authority, &authority_key, "app.internal", false),
    ] {
        let chain = vec![shown.der().clone()];
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let secure = Secure::showing(authority.pem(), chain, key, &[], None).await;
        let tls = json!({"authorities": secure.certificate, "server_name": name});
        let fleet = secure.serving(config(), json!({"tls": tls})).await;
        let mut client = fleet.h1().await;
        client.get("/").await;
        let accepted = secure.try_accept().await;
        if is_believed {
            answer_h1(&mut Http1::over(accepted.unwrap()), &mut client).await;
        } else {
            assert!(accepted.is_err(), "{name}");
            assert_eq!(client.response().await.0.status(), "503", "{name}");
        }
    }
}

/// A certificate for the address itself.
#[tokio::test]
async fn an_address_is_a_name_too() {
    let files = Files::new();
    let secure = Secure::listen(&files, &["127.0.0.1"], &[]).await;
    let fleet = secure.serving(config(), json!({"tls": {"authorities": secure.certificate}})).await;
    let mut client = fleet.h1().await;
    client.get("/").await;
    let stream = secure.accept().await;
    assert_eq!(stream.get_ref().1.server_name(), None, "an address is no SNI (RFC 6066 section 3)");
    answer_h1(&mut Http1::over(stream), &mut client).await;
}

#[tokio::test]
async fn an_endpoint_that_asks_sees_the_balancers_certificate() {
    let files = Files::new();
    let (identity, own) = files.certificate("balancer", &["balancer.internal"]);
    let secure = Secure::asking(&files, &["app.internal"], &[b"h2"], Some(own.clone())).await;
    let tls = json!({"authorities": secure.certificate, "server_name": "app.internal"});
    let spec = json!({"protocol": "h2", "tls": tls, "hold": {"max_ms": 0}});
    let fleet = secure.serving(Config { endpoint_identity: Some(identity), ..config() }, spec.clone()).await;
    let mut client = fleet.h1().await;
    client.get("/").await;
    let stream = secure.accept().await;
    assert_eq!(stream.get_ref().1.peer_certificates().unwrap()[0], own);
    answer_h2(&mut Peer::endpoint(stream, &[]).await, &mut client).await;
    // A node without one is sent away.
    let fleet = secure.serving(config(), spec).await;
    let mut client = fleet.h1().await;
    client.get("/").await;
    assert!(secure.try_accept().await.is_err());
    assert_eq!(client.response().await.0.status(), "503");
}

/// From the change on nothing is sent in cleartext; what runs is not disturbed.
#[tokio::test]
async fn a_pool_that_turns_to_tls_leaves_its_connections() {
    let files = Files::new();
    let secure = Secure::listen(&files, &["app.internal"], &[b"h2", b"http/1.1"]).await;
    let tls = json!({"authorities": secure.certificate, "server_name": "app.internal"});
    for (before, after) in [("http1", "http1"), ("h2c", "h2"), ("http1", "auto")] {
        let fleet = secure.serving(config(), json!({"protocol": before})).await;
        let mut client = fleet.h1().await;
        client.get("/slow").await;
        let plain = secure.endpoint.accept().await;
        let change = json!({"protocol": after, "tls": tls});
        if before == "h2c" {
            let mut upstream = Peer::endpoint(plain, &[]).await;
            let request = upstream.expect_request().await;
            fleet.change(change).await;
            upstream.respond(request.stream, "200", b"ok").await;
            assert_eq!(client.response().await.1, b"ok");
            while !matches!(upstream.next().await, crate::frames::Event::Closed) {}
        } else {
            let mut upstream = Http1::over(plain);
            upstream.head().await;
            fleet.change(change).await;
            upstream.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
            assert_eq!(client.response().await.1, b"ok");
            assert!(upstream.rest().await.is_empty());
        }
        client.get("/").await;
        let stream = secure.accept().await;
        if after == "http1" {
            answer_h1(&mut Http1::over(stream), &mut client).await;
        } else {
            answer_h2(&mut Peer::endpoint(stream, &[]).await, &mut client).await;
        }
    }
}

/// One more connection that does not come about says nothing of those that are there.
#[tokio::test]
async fn a_failed_dial_hides_no_connection() {
    let files = Files::new();
    let secure = Secure::listen(&files, &["app.internal"], &[b"h2", b"http/1.1"]).await;
    let tls = json!({"authorities": secure.certificate, "server_name": "app.internal"});
    for protocol in ["auto", "h2"] {
        let fleet = secure.serving(config(), json!({"protocol": protocol, "tls": tls})).await;
        let mut client = fleet.h2().await;
        let first = client.get("/1").await;
        // One stream at a time.
        let mut upstream = Peer::endpoint(secure.accept().await, &[(3, 1)]).await;
        let request = upstream.expect_request().await;
        upstream.ping().await;
        let second = client.get("/2").await;
        drop(secure.endpoint.accept().await);
        client.quiet().await;
        let third = client.get("/3").await;
        client.quiet().await;
        upstream.respond(request.stream, "204", b"").await;
        assert_eq!(client.response(first).await.status(), "204");
        for _ in [second, third] {
            let request = upstream.expect_request().await;
            upstream.respond(request.stream, "204", b"").await;
        }
        for stream in [second, third] {
            assert_eq!(client.response(stream).await.status(), "204", "{protocol}");
        }
    }
}
