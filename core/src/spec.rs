//! What an operator writes: pools, endpoints and routes. Parsing is validating: a spec that
//! exists can be applied, but for what only the state knows (a pool that is not there).

mod affinity;
mod endpoint;
mod health;
mod hold;
mod pool;
mod profile;
mod route;
mod tls;

pub use affinity::{Affinity, CookieSpec, QueryName, SameSite, Strength};
pub use endpoint::{Address, EndpointSpec, InvalidAddress, NodeName, Weight};
pub use health::{Check, CheckHost, CheckPath, HealthSpec, Percent, ServiceName, Status};
pub use hold::{HoldMillis, HoldSpec};
pub use pool::{EndpointLimits, Millis, PoolSpec, Protocol, Timeouts};
pub use profile::Profile;
pub use route::{HostPattern, PathPrefix, RouteSpec, Token};
pub use tls::{Authorities, EndpointTls, ServerName, Verify};

/// Labels of letters, digits, '-' and '_' (which service names use), 253 bytes in all.
fn is_dns_name(host: &str) -> bool {
    let label = |l: &str| {
        !l.is_empty()
            && l.len() <= 63
            && !l.starts_with('-')
            && !l.ends_with('-')
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    !host.is_empty() && host.len() <= 253 && host.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse<T: serde::de::DeserializeOwned>(json: &str) -> Result<T, String> {
        serde_json::from_str(json).map_err(|e| e.to_string())
    }

    #[test]
    fn addresses_are_host_and_port() {
        for good in ["127.0.0.1:1", "[::1]:80", "app-1.svc.cluster.local:4000", "localhost:65535"] {
            assert_eq!(good.parse::<Address>().unwrap().as_str(), good);
        }
        for bad in [
            "",
            "nonsense",
            ":80",
            "a:",
            "a:0",
            "a:65536",
            "a:+1",
            "::1:80",
            "[::1]",
            "300.0.0.1:80",
            "a b:1",
            "http://a:1",
        ] {
            assert!(bad.parse::<Address>().is_err(), "{bad:?}");
        }
        assert_eq!("[::1]:80".parse::<Address>().unwrap().host(), "::1");
    }

    #[test]
    fn cookies_that_browsers_would_not_send_back_are_refused() {
        let check = |cookie: &str| {
            let json = format!(r#"{{"pool":"p","path_prefix":"/app","affinity":{{"kind":"cookie"{cookie}}}}}"#);
            parse::<RouteSpec>(&json).and_then(|spec| spec.check())
        };
        for good in [
            "",
            r#","path":"/""#,
            r#","same_site":"none","secure":true"#,
            r#","name":"__Host-a","path":"/","secure":true"#,
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for bad in [
            r#","max_age_s":0"#,
            r#","path":"/other""#,
            r#","same_site":"none""#,
            r#","name":"__Secure-a""#,
            r#","name":"__Host-a","secure":true"#,
        ] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn unknown_fields_and_wrong_types_are_refused() {
        assert!(parse::<PoolSpec>(r#"{"protocl":"h2c"}"#).unwrap_err().contains("protocl"));
        assert!(parse::<PoolSpec>(r#"{"protocol":"h3"}"#).is_err());
        assert!(parse::<PoolSpec>(r#"{"timeouts":{"connect_ms":0}}"#).is_err());
        assert!(parse::<PoolSpec>(r#"{"limits":{"max_requests":0}}"#).is_err());
        assert!(parse::<PoolSpec>(r#"{"tls":{"verify":"some"}}"#).is_err());
        assert!(parse::<PoolSpec>(r#"{"tls":{"server_name":"10.0.0.1"}}"#).is_err());
        assert!(parse::<EndpointSpec>(r#"{"address":"a:1","weight":0}"#).is_err());
        assert!(parse::<Affinity>(r#"{"kind":"cookie","names":"x"}"#).is_err());
        assert!(parse::<Affinity>(r#"{"kind":"app-cookie","name":"a b"}"#).is_err());
        assert!(parse::<Affinity>(r#"{"kind":"none","x":1}"#).is_err());
    }

    #[test]
    fn specs_survive_their_json() {
        let route = r#"{"host":"*.example.com","path_prefix":"/app","pool":"p","affinity":{"kind":"app-cookie","name":"Session"}}"#;
        let spec: RouteSpec = parse(route).unwrap();
        assert_eq!(serde_json::to_string(&spec).unwrap(), route);
        for affinity in [Affinity::None {}, Affinity::default()] {
            let json = serde_json::to_string(&affinity).unwrap();
            assert_eq!(parse::<Affinity>(&json).unwrap(), affinity, "{json}");
        }
    }

    /// TLS where it is needed, and nowhere else.
    #[test]
    fn a_protocol_and_its_tls_go_together() {
        let tls = ["", r#","tls":{}"#];
        for (protocol, goes) in
            [("http1", [true, true]), ("h2c", [true, false]), ("h2", [false, true]), ("auto", [false, true])]
        {
            for (tls, goes) in tls.into_iter().zip(goes) {
                let parsed = parse::<PoolSpec>(&format!(r#"{{"protocol":"{protocol}"{tls}}}"#));
                assert_eq!(parsed.is_ok(), goes, "{protocol}{tls}: {parsed:?}");
                if let Ok(spec) = parsed {
                    assert_eq!(spec.protocol.as_str(), protocol);
                    let json = serde_json::to_string(&spec).unwrap();
                    assert_eq!(parse::<PoolSpec>(&json).unwrap(), spec, "{json}");
                }
            }
        }
    }

    #[test]
    fn authorities_are_looked_at_before_a_pool_is_accepted() {
        let authorities = |pem: &str| Authorities::try_from(pem.to_owned()).unwrap().certificates();
        assert!(authorities("").unwrap_err().contains("no certificate"));
        assert!(authorities("-----BEGIN CERTIFICATE-----\n?\n-----END CERTIFICATE-----\n").is_err());
        let junk = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(authorities(junk).unwrap_err().contains("certificate 1"));
        assert!(Authorities::try_from("x".repeat(1 << 20)).is_err());
    }

    #[test]
    fn prefixes_match_whole_segments() {
        let prefix = |p: &str| PathPrefix::try_from(p.to_owned()).unwrap();
        assert!(prefix("/app/").covers("/app"));
        assert!(prefix("/app").covers("/app/x"));
        assert!(!prefix("/app").covers("/apple"));
        assert!(prefix("/").covers("/anything"));
        assert!(PathPrefix::try_from("app".to_owned()).is_err());
        assert!(PathPrefix::try_from("/a;b".to_owned()).is_err());
    }
}
