//! Certificates: of listeners, of endpoints, and of peers.

use super::*;

const FLEET_OF_TWO: &str =
    "[fleet]\nlisten = \"127.0.0.1:7946\"\nfounders = [\"127.0.0.1:7946\", \"127.0.0.1:7947\"]\n";

#[test]
fn certificates_and_keys_belong_together() {
    let folder = Folder::new();
    let name = || vec!["example.com".to_owned()];
    let (one, other) = (rcgen::generate_simple_self_signed(name()), rcgen::generate_simple_self_signed(name()));
    let (one, other) = (one.unwrap(), other.unwrap());
    folder.write("chain.pem", &one.cert.pem());
    folder.write("key.pem", &one.signing_key.serialize_pem());
    folder.write("other.pem", &other.signing_key.serialize_pem());
    folder.write("junk.pem", "-----BEGIN CERTIFICATE-----\nnot base64!\n-----END CERTIFICATE-----\n");
    let listener = |port: u16, certificate: &str, key: &str| {
        format!(
            "[[listeners]]\naddress = \"127.0.0.1:{port}\"\ntls = {{ certificate = \"{certificate}\", key = \"{key}\" }}\n"
        )
    };
    let good = folder.load(&listener(1, "chain.pem", "key.pem"));
    assert_eq!(good.listeners[0].tls.as_ref().unwrap().certificates[0].key, folder.0.join("key.pem"));
    let bad = [
        listener(1, "chain.pem", "other.pem"),
        listener(2, "junk.pem", "chain.pem"),
        listener(3, "key.pem", "key.pem"),
    ];
    let problems = folder.problems(&bad.concat(), &[], Flags::default());
    let expected = [
        "DIR/t.toml:3: listeners[0].tls.key: DIR/other.pem is not the key of DIR/chain.pem",
        "DIR/t.toml:6: listeners[1].tls.certificate: DIR/junk.pem is not PEM",
        "DIR/t.toml:6: listeners[1].tls.key: DIR/chain.pem holds no private key in PEM",
        "DIR/t.toml:9: listeners[2].tls.certificate: DIR/key.pem holds no certificate in PEM",
    ];
    let lines: Vec<&str> = problems.lines().collect();
    assert_eq!(lines.len(), expected.len(), "{problems}");
    for (line, expected) in lines.iter().zip(expected) {
        assert!(line.starts_with(expected), "{line}\nis not\n{expected}");
    }
}

#[test]
fn tls_to_endpoints_is_checked_with_its_files() {
    let folder = Folder::new();
    let made = rcgen::generate_simple_self_signed(["app.internal".to_owned()]).unwrap();
    folder.write("chain.pem", &made.cert.pem());
    folder.write("key.pem", &made.signing_key.serialize_pem());
    let pool = |name: &str, spec: &str| format!("[[initial.pools]]\nname = \"{name}\"\nspec = {{ {spec} }}\n");
    let identity = "[endpoint_tls]\ncertificate = \"chain.pem\"\nkey = \"key.pem\"\n";
    let spec = r#"protocol = "h2", tls = { authorities_file = "chain.pem", server_name = "app.internal" }, limits = { max_requests = 9 }"#;
    let config = folder.load(&format!("{identity}{}", pool("app", spec)));
    assert_eq!(config.endpoint_tls.unwrap().key, folder.0.join("key.pem"));
    let [Command::PutPool { spec, .. }] = &config.initial.commands[..] else { panic!("one pool") };
    let tls = spec.tls.as_ref().unwrap();
    assert_eq!(tls.authorities.as_ref().unwrap().as_str(), made.cert.pem());
    assert_eq!(spec.limits.max_requests.unwrap().get(), 9);
    let bad = [
        "[endpoint_tls]\ncertificate = \"key.pem\"\n".to_owned(),
        pool("a", r#"protocol = "h2""#),
        pool("b", r#"protocol = "h2c", tls = {}"#),
        pool("c", r#"tls = { authorities_file = "key.pem" }"#),
        pool("d", r#"tls = { authorities_file = "nowhere", verify = "no" }, limits = { max_requests = 0 }"#),
    ];
    let problems = folder.problems(&bad.concat(), &[], Flags::default());
    let expected = [
        "DIR/t.toml:1: endpoint_tls.key: is missing",
        "DIR/t.toml:2: endpoint_tls.certificate: DIR/key.pem holds no certificate in PEM",
        "DIR/t.toml:5: initial.pools[0].spec.tls: protocol h2 is agreed on in TLS: give tls",
        "DIR/t.toml:8: initial.pools[1].spec.tls: protocol h2c is cleartext: use h2 with tls",
        "DIR/t.toml:11: initial.pools[2].spec.tls: there is no certificate in the authorities",
        "DIR/t.toml:14: initial.pools[3].spec.limits.max_requests: invalid value: integer `0`",
        "DIR/t.toml:14: initial.pools[3].spec.tls.authorities_file: DIR/nowhere cannot be used: No such file",
        "DIR/t.toml:14: initial.pools[3].spec.tls.verify: unknown variant `no`",
    ];
    let lines: Vec<&str> = problems.lines().collect();
    assert_eq!(lines.len(), expected.len(), "{problems}");
    for (line, expected) in lines.iter().zip(expected) {
        assert!(line.starts_with(expected), "{line}\nis not\n{expected}");
    }
}

#[test]
fn peers_know_each_other_by_secrets_or_by_certificates() {
    let folder = Folder::new();
    folder.write("secret", &"s".repeat(32));
    folder.write("before", &format!("{}\n", "t".repeat(40)));
    let secrets = "secret_file = \"secret\"\nprevious_secret_file = \"before\"\n";
    let fleet = folder.load(&format!("{FLEET_OF_TWO}{secrets}")).fleet.unwrap();
    let PeerTrust::Secret { previous: Some(previous), .. } = fleet.trust else { panic!("{:?}", fleet.trust) };
    assert_eq!(previous.bytes(), [b't'; 40]);

    let pair = rcgen::generate_simple_self_signed(["peer.tidelock".to_owned()]).unwrap();
    let chain = folder.write("tls.crt", &pair.cert.pem());
    let key = folder.write("tls.key", &pair.signing_key.serialize_pem());
    let tls = "[fleet.tls]\nauthorities = \"tls.crt\"\ncertificate = \"tls.crt\"\nkey = \"tls.key\"\n";
    let fleet = folder.load(&format!("{FLEET_OF_TWO}{tls}")).fleet.unwrap();
    let PeerTrust::Given { authorities, own, name: None } = fleet.trust else { panic!("{:?}", fleet.trust) };
    assert_eq!((authorities, own.certificate, own.key), (chain.clone(), chain, key));
}

#[test]
fn the_certificates_of_peers_come_from_the_environment_too() {
    let folder = Folder::new();
    folder.write("secret", &"s".repeat(32));
    let pair = rcgen::generate_simple_self_signed(["peer.tidelock".to_owned()]).unwrap();
    let chain = folder.write("tls.crt", &pair.cert.pem()).display().to_string();
    let key = folder.write("tls.key", &pair.signing_key.serialize_pem()).display().to_string();
    let env = [
        ("TIDELOCK_FLEET_TLS_AUTHORITIES", chain.as_str()),
        ("TIDELOCK_FLEET_TLS_CERTIFICATE", chain.as_str()),
        ("TIDELOCK_FLEET_TLS_KEY", key.as_str()),
        ("TIDELOCK_FLEET_TLS_NAME", "nodes.example"),
    ];
    let path = folder.write("fleet.toml", FLEET_OF_TWO);
    let fleet = Config::load(Some(&path), Flags::default(), &with_host(&env)).unwrap().fleet.unwrap();
    let PeerTrust::Given { own, name, .. } = fleet.trust else { panic!("{:?}", fleet.trust) };
    assert_eq!((own.key.display().to_string(), name.as_deref()), (key.clone(), Some("nodes.example")));

    assert_lines(
        &folder.problems(&format!("{FLEET_OF_TWO}secret_file = \"secret\"\n"), &env, Flags::default()),
        &["DIR/t.toml:1: fleet.tls: stands beside fleet.secret_file: peers know each other by the one or by the other"],
    );
    assert_lines(
        &folder.problems(FLEET_OF_TWO, &env[3..], Flags::default()),
        &[
            "DIR/t.toml:1: fleet.tls.authorities: is missing",
            "DIR/t.toml:1: fleet.tls.certificate: is missing",
            "DIR/t.toml:1: fleet.tls.key: is missing",
        ],
    );
}

#[test]
fn problems_with_secrets_and_with_certificates_are_reported_together() {
    let folder = Folder::new();
    folder.write("secret", "short");
    folder.write("empty", "");
    let tls = "[fleet.tls]\nauthorities = \"empty\"\nkey = \"nowhere\"\nname = \"a b\"\n";
    assert_lines(
        &folder.problems(&format!("{FLEET_OF_TWO}secret_file = \"secret\"\n{tls}"), &[], Flags::default()),
        &[
            "DIR/t.toml:4: fleet.secret_file: DIR/secret holds 5 bytes, at least 32 are needed",
            "DIR/t.toml:5: fleet.tls: stands beside fleet.secret_file: peers know each other by the one or by the other",
            "DIR/t.toml:5: fleet.tls.certificate: is missing",
            "DIR/t.toml:6: fleet.tls.authorities: DIR/empty holds no certificate in PEM",
            "DIR/t.toml:7: fleet.tls.key: DIR/nowhere cannot be read: No such file or directory (os error 2)",
            "DIR/t.toml:8: fleet.tls.name: \"a b\" is not a DNS name",
        ],
    );
    folder.write("secret", &"s".repeat(32));
    let same = "secret_file = \"secret\"\nprevious_secret_file = \"secret\"\n";
    assert_lines(
        &folder.problems(&format!("{FLEET_OF_TWO}{same}"), &[], Flags::default()),
        &["DIR/t.toml:5: fleet.previous_secret_file: holds the same as fleet.secret_file: give the one before"],
    );
}

#[test]
fn revocation_lists_are_read_with_their_authorities() {
    use rcgen::{CertificateRevocationListParams, Issuer, KeyIdMethod, SerialNumber, date_time_ymd};
    let folder = Folder::new();
    let made = rcgen::generate_simple_self_signed(["example.com".to_owned()]).unwrap();
    folder.write("chain.pem", &made.cert.pem());
    folder.write("key.pem", &made.signing_key.serialize_pem());
    let list = CertificateRevocationListParams {
        this_update: date_time_ymd(2024, 1, 1),
        next_update: date_time_ymd(2999, 1, 1),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: Vec::new(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let issuer = Issuer::new(rcgen::CertificateParams::default(), rcgen::KeyPair::generate().unwrap());
    folder.write("list.pem", &list.signed_by(&issuer).unwrap().pem().unwrap());
    folder.write("junk.pem", "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n");
    let listener = |port: u16, more: &str| {
        let tls = format!("certificate = \"chain.pem\", key = \"key.pem\", {more}");
        format!("[[listeners]]\naddress = \"127.0.0.1:{port}\"\ntls = {{ {tls} }}\n")
    };
    let asks = r#"client_ca = "chain.pem", client_crl = "#;
    let good = folder.load(&listener(1, &format!("{asks}\"list.pem\"")));
    let tls = good.listeners[0].tls.as_ref().unwrap();
    assert_eq!(tls.client_crl.as_deref(), Some(&*folder.0.join("list.pem")));
    let bad = [
        listener(1, "client_crl = \"list.pem\""),
        listener(2, &format!("{asks}\"chain.pem\"")),
        listener(3, &format!("{asks}\"junk.pem\"")),
        listener(4, &format!("{asks}\"nowhere\"")),
    ];
    let problems = folder.problems(&bad.concat(), &[], Flags::default());
    let expected = [
        "DIR/t.toml:3: listeners[0].tls.client_crl: needs client_ca: whose certificates it takes back",
        "DIR/t.toml:6: listeners[1].tls.client_crl: DIR/chain.pem holds no revocation list in PEM",
        "DIR/t.toml:9: listeners[2].tls.client_crl: DIR/junk.pem cannot be used: ",
        "DIR/t.toml:12: listeners[3].tls.client_crl: DIR/nowhere cannot be read: ",
    ];
    let lines: Vec<&str> = problems.lines().collect();
    assert_eq!(lines.len(), expected.len(), "{problems}");
    for (line, expected) in lines.iter().zip(expected) {
        assert!(line.starts_with(expected), "{line}\nis not\n{expected}");
    }
}
