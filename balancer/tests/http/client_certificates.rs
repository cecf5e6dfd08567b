//! Whom a listener lets in that asks clients for certificates; and whom not any more.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd,
};
use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tidelock_balancer::{ClientAuth, TlsFiles};

use crate::fleet::{Endpoint, Fleet, H2c};
use crate::hpack::field;
use crate::http1::Http1;
use crate::tls::{Files, handshake, tls_config, trusting};

use rustls::HandshakeKind::{Full, Resumed};

/// Who signs clients' certificates.
struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(name: &str) -> Authority {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        Authority { pem: params.self_signed(&key).unwrap().pem(), issuer: Issuer::new(params, key) }
    }

    /// A client that believes `server` and has a certificate of this authority.
    fn client(&self, number: u64, server: &CertificateDer<'static>) -> Arc<ClientConfig> {
        self.known_client(number, server).0
    }

    /// The same, and its certificate.
    fn known_client(
        &self,
        number: u64,
        server: &CertificateDer<'static>,
    ) -> (Arc<ClientConfig>, CertificateDer<'static>) {
        let mut params = CertificateParams::new(vec!["client".to_owned()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.serial_number = Some(SerialNumber::from(number));
        let key = KeyPair::generate().unwrap();
        let own = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        let secret = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(server.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let chain = vec![own.clone()];
        (Arc::new(builder.with_root_certificates(roots).with_client_auth_cert(chain, secret).unwrap()), own)
    }

    /// The list of what it has taken back.
    fn revoked(&self, number: u64) -> String {
        let revoked = RevokedCertParams {
            serial_number: SerialNumber::from(number),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(2999, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: vec![revoked],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).unwrap().pem().unwrap()
    }
}

/// How a client was let in, if it was. A refusal comes with the first read: TLS 1.3 clients are done before the server is.
async fn enters(fleet: &Fleet, client: &Arc<ClientConfig>) -> Option<rustls::HandshakeKind> {
    let mut http = Http1::over(handshake(fleet, "app.test", client).await.unwrap());
    http.get("/").await;
    http.try_head().await?;
    http.io.get_ref().1.handshake_kind()
}

/// Until a change of files is taken up.
async fn until_let_in(fleet: &Fleet, client: &Arc<ClientConfig>, wanted: bool) {
    let begun = std::time::Instant::now();
    while enters(fleet, client).await.is_some() != wanted {
        assert!(begun.elapsed() < Duration::from_secs(20), "the change is not taken up");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn asking(server: &TlsFiles, authorities: &Path, revoked: Option<&Path>, required: bool) -> Fleet {
    let auth = ClientAuth { authorities: authorities.to_owned(), revoked: revoked.map(Path::to_owned), required };
    let fleet = Fleet::start(tls_config(vec![server.clone()], Some(auth)));
    fleet.adopted().await;
    fleet
}

#[tokio::test]
async fn client_certificates_are_asked_for_where_it_is_configured() {
    let files = Files::new();
    let (server, certificate) = files.certificate("tls", &["app.test"]);
    let authority = Authority::new("clients");
    let authorities = files.path("clients.pem");
    std::fs::write(&authorities, &authority.pem).unwrap();
    let open = Fleet::start(tls_config(vec![server.clone()], None));
    open.adopted().await;
    for required in [true, false] {
        let fleet = asking(&server, &authorities, None, required).await;
        let nobody = || Arc::new(trusting(&[&certificate]));
        assert_eq!(enters(&fleet, &authority.client(1, &certificate)).await, Some(Full));
        assert_eq!(enters(&fleet, &nobody()).await.is_some(), !required, "required: {required}");
        // A ticket from where nothing is asked is no certificate.
        let client = nobody();
        assert_eq!(enters(&open, &client).await, Some(Full));
        assert_eq!(enters(&open, &client).await, Some(Resumed));
        assert_eq!(enters(&fleet, &client).await, (!required).then_some(Full), "required: {required}");
    }
}

/// RFC 9440: endpoints hear whose certificate it was, by its handshake or a ticket, and no client says so itself.
#[tokio::test]
async fn endpoints_are_told_of_the_certificate() {
    let files = Files::new();
    let (server, certificate) = files.certificate("tls", &["app.test"]);
    let authority = Authority::new("clients");
    let authorities = files.path("clients.pem");
    std::fs::write(&authorities, &authority.pem).unwrap();
    let endpoint = Endpoint::listen("a").await;
    let auth = ClientAuth { authorities, revoked: None, required: false };
    let fleet = Fleet::serving(tls_config(vec![server], Some(auth)), H2c, &[&endpoint]).await;
    let (known, own) = authority.known_client(1, &certificate);
    let nobody = Arc::new(trusting(&[&certificate]));
    let shown = format!(":{}:", STANDARD.encode(&own));
    let mut upstream = None;
    for (client, expected, how) in
        [(&known, Some(&*shown), Full), (&known, Some(&*shown), Resumed), (&nobody, None, Full)]
    {
        let mut http = Http1::over(handshake(&fleet, "app.test", client).await.unwrap());
        http.request("GET / HTTP/1.1\r\nclient-cert: :AAAA:\r\nClient-Cert-Chain: :AAAA:\r\n", "").await;
        let upstream = match &mut upstream {
            Some(upstream) => upstream,
            none => none.insert(endpoint.h2().await),
        };
        let request = upstream.expect_request().await;
        assert_eq!(field(&request.fields, "client-cert"), expected, "{how:?}");
        assert_eq!(field(&request.fields, "client-cert-chain"), None);
        upstream.respond(request.stream, "200", b"").await;
        assert_eq!(http.head().await.status(), "200");
        assert_eq!(http.io.get_ref().1.handshake_kind(), Some(how));
    }
}

/// Who is not let in any more does not come back with a ticket either.
#[tokio::test]
async fn authorities_and_revocations_are_followed() {
    let files = Files::new();
    let (server, certificate) = files.certificate("tls", &["app.test"]);
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let (authorities, revoked) = (files.path("clients.pem"), files.path("revoked.pem"));
    std::fs::write(&authorities, &old.pem).unwrap();
    std::fs::write(&revoked, old.revoked(99)).unwrap();
    let fleet = asking(&server, &authorities, Some(&revoked), true).await;
    let [first, second] = [1, 2].map(|number| old.client(number, &certificate));
    for client in [&first, &second] {
        assert_eq!(enters(&fleet, client).await, Some(Full));
        assert_eq!(enters(&fleet, client).await, Some(Resumed));
    }
    std::fs::write(&revoked, old.revoked(1)).unwrap();
    until_let_in(&fleet, &first, false).await;
    assert!(enters(&fleet, &second).await.is_some(), "its certificate is as good as before");

    // What cannot be used leaves all as it was.
    std::fs::write(&authorities, "no certificate").unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(enters(&fleet, &second).await.is_some());

    std::fs::write(&revoked, [old.revoked(1), new.revoked(9)].concat()).unwrap();
    std::fs::write(&authorities, &new.pem).unwrap();
    until_let_in(&fleet, &new.client(1, &certificate), true).await;
    assert_eq!(enters(&fleet, &second).await, None, "its authority is none any more");
}
