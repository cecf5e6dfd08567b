//! Whole files, good and bad: what a user sees is what is compared.

mod certificates;

use std::fs;
use std::path::Path;

use tidelock_core::command::Command;

use super::*;

/// A folder of this test's own, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("tidelock-config-{:016x}", rand::random::<u64>()));
        fs::create_dir(&path).unwrap();
        Folder(path)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// Its path in a message becomes DIR.
    fn hide(&self, text: &str) -> String {
        text.replace(&self.0.display().to_string(), "DIR")
    }

    /// What is wrong with a file of this text, in this environment.
    fn problems(&self, text: &str, env: &[(&str, &str)], flags: Flags) -> String {
        let path = self.write("t.toml", text);
        match Config::load(Some(&path), flags, &with_host(env)) {
            Ok(config) => panic!("no problem with {config:?}"),
            Err(problems) => self.hide(&problems.to_string()),
        }
    }

    fn load(&self, text: &str) -> Config {
        let path = self.write("t.toml", text);
        Config::load(Some(&path), Flags::default(), &with_host(&[])).unwrap_or_else(|problems| panic!("{problems}"))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn with_host(variables: &[(&str, &str)]) -> Environment {
    let all = [&[("HOSTNAME", "host-1")], variables].concat();
    all.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

#[track_caller]
fn assert_lines(actual: &str, expected: &[&str]) {
    let actual: Vec<&str> = actual.lines().collect();
    assert_eq!(actual, expected, "\n{}\n", actual.join("\n"));
}

#[test]
fn nothing_written_is_a_fleet_of_one() {
    let config = Config::load(None, Flags::default(), &with_host(&[])).unwrap();
    assert_eq!(config.node.name.as_str(), "host-1");
    assert_eq!(config.node.data_dir, Path::new("/var/lib/tidelock"));
    assert!(config.fleet.is_none());
    assert_eq!(config.admin.listen, "127.0.0.1:9900".parse().unwrap());
    assert_eq!(config.listeners.len(), 1);
    assert_eq!(config.listeners[0].address.to_string(), "0.0.0.0:8080");
    assert_eq!(config.limits.max_header_bytes, 16_384);
    assert_eq!(config.timeouts.downstream_idle, Duration::from_secs(75));
    assert!(config.initial.commands.is_empty());
}

#[test]
fn a_whole_file_is_read() {
    let folder = Folder::new();
    folder.write("secret", &format!("{}\n", "s".repeat(32)));
    folder.write("token", "0123456789abcdef\r\n");
    let config = folder.load(
        r#"
[node]
name = "a"
data_dir = "data"
workers = 2
[fleet]
listen = "0.0.0.0:7946"
advertise = "tidelock-0.peers:7946"
founders = ["tidelock-0.peers:7946", "tidelock-1.peers:7946"]
secret_file = "secret"
[admin]
listen = "0.0.0.0:9900"
advertise = "http://10.0.0.1:9900"
token_file = "token"
[[listeners]]
address = "0.0.0.0:8080"
[[listeners]]
address = "[::1]:0"
proxy_protocol = "required"
[forwarded]
trusted = ["10.0.0.0/8", "192.0.2.7"]
[access_log]
format = "off"
[drain]
settle_ms = 0
deadline_ms = 1000
[limits]
max_header_bytes = 0x8000
[timeouts]
body_hold_back_ms = 0
[[initial.pools]]
name = "app"
spec = { protocol = "h2c", timeouts = { connect_ms = 100 } }
endpoints = [{ name = "app-1", address = "10.0.0.5:4000", weight = 2 }]
[[initial.routes]]
name = "web"
spec = { pool = "app", affinity = { kind = "header", name = "x-user" }, expose = true }
"#,
    );
    assert_eq!(config.node.data_dir, folder.0.join("data"), "relative to the file");
    let fleet = config.fleet.unwrap();
    let PeerTrust::Secret { secret, previous: None } = fleet.trust else { panic!("{:?}", fleet.trust) };
    assert_eq!(secret.bytes(), [b's'; 32], "without the newline");
    assert_eq!(fleet.advertise.as_str(), "tidelock-0.peers:7946");
    let token = config.admin.token.unwrap();
    assert_eq!(token.bytes(), b"0123456789abcdef");
    assert_eq!(format!("{:?}", token), "Secret(16 bytes)");
    assert_eq!(config.access_log, AccessLog::Off);
    let proxies: Vec<ProxyProtocol> = config.listeners.iter().map(|listener| listener.proxy_protocol).collect();
    assert_eq!(proxies, [ProxyProtocol::Off, ProxyProtocol::Required]);
    assert_eq!(config.trusted, ["10.0.0.0/8".parse().unwrap(), "192.0.2.7/32".parse().unwrap()]);
    assert_eq!(config.limits.max_header_bytes, 32_768);
    assert_eq!(config.timeouts.body_hold_back, Duration::ZERO);
    assert_eq!(config.initial.commands.len(), 3);
}

#[test]
fn every_problem_of_a_file_is_reported_at_once() {
    let folder = Folder::new();
    let text = r#"[node]
nmae = "a"
name = "Upper"
workers = 0

[fleet]
listen = "0.0.0.0:7946"
founders = ["a:7946", "a:7946", "nonsense"]
secret_file = "nowhere"

[admin]
listen = "0.0.0.0:9900"
port = 9900

[[listeners]]
address = "localhost:8080"
[[listeners]]
address = "0.0.0.0:8443"
[[listeners]]
address = "127.0.0.1:8443"
tls = { certificate = "chain.pem", client_auth = "maybe", additional = [{ key = "k.pem" }] }
[[listeners]]
address = "127.0.0.1:8444"
tls = { certificate = "chain.pem", key = "k.pem", client_auth = "optional" }
[[listeners]]

[access_log]
format = "xml"

[limits]
max_header_bytes = "16k"
max_path_bytes = 1
retry_body_bytes = -1

[timeout]
handshake_ms = 1

[forwarded]
trusted = ["10.0.0.0/33"]
"#;
    assert_lines(
        &folder.problems(text, &[], Flags::default()),
        &[
            "DIR/t.toml:2: node.nmae: unknown field, did you mean name?",
            "DIR/t.toml:3: node.name: \"Upper\" is not a name: use 1 to 63 of a-z, 0-9, '.', '_', '-', beginning and ending with a letter or a digit",
            "DIR/t.toml:4: node.workers: 0 is out of range: use 1 to 1024",
            "DIR/t.toml:6: fleet.advertise: is missing: peers cannot connect to 0.0.0.0:7946",
            "DIR/t.toml:8: fleet.founders: \"nonsense\" is not an address: write host:port, for example 10.0.0.5:4000, [fd00::5]:4000 or app.internal:4000",
            "DIR/t.toml:9: fleet.secret_file: DIR/nowhere cannot be read: No such file or directory (os error 2)",
            "DIR/t.toml:12: admin.listen: 0.0.0.0:9900 is not loopback: anyone could change the fleet. Give admin.token_file",
            "DIR/t.toml:13: admin.port: unknown field; known are token_file, listen, advertise",
            "DIR/t.toml:16: listeners[0].address: \"localhost:8080\" is not an IP address and a port: write 127.0.0.1:9900, 0.0.0.0:8080 or [::]:8080, or unix:/PATH",
            "DIR/t.toml:20: listeners[2].address: 127.0.0.1:8443 is already taken by listeners[1].address, 0.0.0.0:8443 (DIR/t.toml:18)",
            "DIR/t.toml:21: listeners[2].tls.additional[0].certificate: is missing",
            "DIR/t.toml:21: listeners[2].tls.additional[0].key: DIR/k.pem cannot be read: No such file or directory (os error 2)",
            "DIR/t.toml:21: listeners[2].tls.certificate: DIR/chain.pem cannot be read: No such file or directory (os error 2)",
            "DIR/t.toml:21: listeners[2].tls.client_auth: expected \"optional\" or \"required\", found \"maybe\"",
            "DIR/t.toml:21: listeners[2].tls.key: is missing",
            "DIR/t.toml:24: listeners[3].tls.certificate: DIR/chain.pem cannot be read: No such file or directory (os error 2)",
            "DIR/t.toml:24: listeners[3].tls.client_auth: needs client_ca: who may have signed a client's certificate",
            "DIR/t.toml:24: listeners[3].tls.key: DIR/k.pem cannot be read: No such file or directory (os error 2)",
            "DIR/t.toml:25: listeners[4].address: is missing",
            "DIR/t.toml:28: access_log.format: expected \"json\" or \"off\", found \"xml\"",
            "DIR/t.toml:31: limits.max_header_bytes: expected a whole number, found a string",
            "DIR/t.toml:32: limits.max_path_bytes: 1 is out of range: use 256 to 1048576",
            "DIR/t.toml:33: limits.retry_body_bytes: expected a whole number, not negative, found -1",
            "DIR/t.toml:35: timeout: unknown field, did you mean timeouts?",
            "DIR/t.toml:39: forwarded.trusted: \"10.0.0.0/33\" is not a range of IP addresses: write 10.0.0.0/8, fd00::/8 or 192.0.2.7",
        ],
    );
}

#[test]
fn broken_syntax_does_not_hide_other_problems() {
    let folder = Folder::new();
    let text = "[node]\nname = \n[admin]\nlistne = \"127.0.0.1:9900\"\n[limits\n";
    let problems = folder.problems(text, &[], Flags::default());
    let lines: Vec<&str> = problems.lines().collect();
    assert!(lines.iter().any(|line| line.starts_with("DIR/t.toml:2: ")), "{problems}");
    assert!(lines.contains(&"DIR/t.toml:4: admin.listne: unknown field, did you mean listen?"), "{problems}");
    assert!(lines.iter().any(|line| line.starts_with("DIR/t.toml:5: ")), "{problems}");
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let folder = Folder::new();
    let path = folder.write("t.toml", "[node]\nname = \"file\"\nworkers = 3\n[drain]\nsettle_ms = 1\n");
    let env = [("TIDELOCK_NODE_NAME", "env"), ("TIDELOCK_NODE_WORKERS", "4"), ("TIDELOCK_ADMIN_LISTEN", "[::1]:1")];
    let flags = Flags { name: Some("flag".into()), ..Flags::default() };
    let config = Config::load(Some(&path), flags, &with_host(&env)).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(config.node.name.as_str(), "flag");
    assert_eq!(config.node.workers, 4);
    assert_eq!(config.admin.listen, "[::1]:1".parse().unwrap());
    assert_eq!(config.drain.settle, Duration::from_millis(1));
}

#[test]
fn a_problem_names_the_variable_or_the_flag() {
    let folder = Folder::new();
    let env =
        [("TIDELOCK_NODE_WORKERS", "many"), ("TIDELOCK_FLEET_FOUNDERS", "a:1, b"), ("TIDELOCK_DRAIN_SETTLE_MS", "-1")];
    let flags = Flags { admin_listen: Some("9900".into()), ..Flags::default() };
    assert_lines(
        &folder.problems("", &env, flags),
        &[
            "DIR/t.toml: fleet.advertise: is missing: peers cannot connect to 0.0.0.0:7946",
            "DIR/t.toml: fleet.secret_file: is missing",
            "TIDELOCK_DRAIN_SETTLE_MS: drain.settle_ms: expected a whole number, found \"-1\"",
            "TIDELOCK_FLEET_FOUNDERS: fleet.founders: \"b\" is not an address: write host:port, for example 10.0.0.5:4000, [fd00::5]:4000 or app.internal:4000",
            "TIDELOCK_NODE_WORKERS: node.workers: expected a whole number, found \"many\"",
            "--admin-listen: admin.listen: \"9900\" is not an IP address and a port: write 127.0.0.1:9900, 0.0.0.0:8080 or [::]:8080",
        ],
    );
}

#[test]
fn a_variable_that_is_none_is_named_and_what_others_set_is_let_be() {
    let folder = Folder::new();
    let env = [
        ("TIDELOCK_NODE_WORKER", "4"),
        ("TIDELOCK_NOED_NAME", "a"),
        ("TIDELOCK_LIMITS_COLOUR", "red"),
        ("TIDELOCK_ADMIN_PORT", "9900"),
        // A flag's, this project's tests', and those of Services named tidelock and tidelock-admin.
        ("TIDELOCK_TOKEN", "secret"),
        ("TIDELOCK_FUZZ_CASES", "1"),
        ("TIDELOCK_SERVICE_HOST", "10.0.0.1"),
        ("TIDELOCK_PORT", "tcp://10.0.0.1:80"),
        ("TIDELOCK_ADMIN_SERVICE_HOST", "10.0.0.1"),
        ("TIDELOCK_ADMIN_SERVICE_PORT_API", "9900"),
        ("TIDELOCK_ADMIN_PORT_9900_TCP_ADDR", "10.0.0.1"),
    ];
    assert_lines(
        &folder.problems("", &env, Flags::default()),
        &[
            "TIDELOCK_ADMIN_PORT: unknown variable: no field has this name",
            "TIDELOCK_LIMITS_COLOUR: unknown variable: no field has this name",
            "TIDELOCK_NODE_WORKER: unknown variable, did you mean TIDELOCK_NODE_WORKERS?",
            "TIDELOCK_NOED_NAME: unknown variable, did you mean TIDELOCK_NODE_NAME?",
        ],
    );
    Config::load(None, Flags::default(), &with_host(&env[4..])).unwrap_or_else(|problems| panic!("{problems}"));
}

#[test]
fn founders_include_this_node_once() {
    let folder = Folder::new();
    folder.write("secret", &"s".repeat(31));
    let text = "[fleet]\nlisten = \"127.0.0.1:7946\"\nfounders = [\n  \"127.0.0.1:1\",\n  \"127.0.0.1:1\",\n]\nsecret_file = \"secret\"\n";
    assert_lines(
        &folder.problems(text, &[], Flags::default()),
        &[
            "DIR/t.toml:3: fleet.founders: 127.0.0.1:7946 is not among them: fleet.advertise (DIR/t.toml:2) must be",
            "DIR/t.toml:5: fleet.founders: 127.0.0.1:1 is there twice",
            "DIR/t.toml:7: fleet.secret_file: DIR/secret holds 31 bytes, at least 32 are needed",
        ],
    );
}

#[test]
fn initial_objects_are_checked_as_the_fleet_would() {
    let folder = Folder::new();
    let text = r#"[[initial.pools]]
name = "app"
spec = { protocol = "h3", timeouts = { connect_ms = 0, conect_ms = 1 } }
[[initial.pools.endpoints]]
name = "app-1"
address = "10.0.0.5:4000"
[[initial.pools.endpoints]]
name = "app-2"
address = "10.0.0.5:4000"
weight = 101
[[initial.pools]]
name = "app"
[[initial.routes]]
name = "web"
spec = { pool = "other" }
[[initial.routes]]
name = "bare"
[[initial.routes]]
name = "odd"
spec = { pool = "app", affinity = { kind = "cookies" }, path_prefix = "x" }
"#;
    let problems = folder.problems(text, &[], Flags::default());
    let expected = [
        "DIR/t.toml:3: initial.pools[0].spec.protocol: unknown variant `h3`",
        "DIR/t.toml:3: initial.pools[0].spec.timeouts.conect_ms: unknown field, did you mean connect_ms?",
        "DIR/t.toml:3: initial.pools[0].spec.timeouts.connect_ms: 0 is not a number of milliseconds",
        "DIR/t.toml:8: initial.pools[0].endpoints[1].name: endpoint app-1 of this pool already has the address 10.0.0.5:4000",
        "DIR/t.toml:10: initial.pools[0].endpoints[1].weight: 101 is not a weight",
        "DIR/t.toml:12: initial.pools[1].name: there is a pool of this name further up",
        "DIR/t.toml:14: initial.routes[0].name: there is no pool other",
        "DIR/t.toml:16: initial.routes[1].spec: is missing",
        "DIR/t.toml:20: initial.routes[2].spec.affinity: unknown variant `cookies`",
        "DIR/t.toml:20: initial.routes[2].spec.path_prefix: \"x\" is not a path prefix",
    ];
    let lines: Vec<&str> = problems.lines().collect();
    assert_eq!(lines.len(), expected.len(), "{problems}");
    for (line, expected) in lines.iter().zip(expected) {
        assert!(line.starts_with(expected), "{line}\nis not\n{expected}");
    }
}

#[test]
fn unreadable_files_and_tokens_are_problems() {
    let folder = Folder::new();
    let missing = folder.0.join("missing.toml");
    let problems = Config::load(Some(&missing), Flags::default(), &with_host(&[])).unwrap_err();
    assert_lines(
        &folder.hide(&problems.to_string()),
        &["DIR/missing.toml: cannot be read: No such file or directory (os error 2)"],
    );
    folder.write("token", "with a blank in it");
    let text =
        "[admin]\ntoken_file = \"token\"\nadvertise = \"10.0.0.1\"\n[drain]\nsettle_ms = 2000\ndeadline_ms = 1000\n";
    assert_lines(
        &folder.problems(text, &[], Flags::default()),
        &[
            "DIR/t.toml:2: admin.token_file: DIR/token holds more than printable ASCII, which no header can carry",
            "DIR/t.toml:3: admin.advertise: \"10.0.0.1\" is not a URL: write http://10.0.0.1:9900",
            "DIR/t.toml:4: drain.settle_ms: is longer than drain.deadline_ms: connections would be cut before any were asked to leave",
        ],
    );
}

/// The reference for people names every field, its variable and its default.
#[test]
fn the_reference_names_every_field() {
    let reference = include_str!("../../docs/configuration.md");
    let env = with_host(&[]);
    Config::load(None, Flags::default(), &env).unwrap();
    let mut variables = env.asked();
    variables.retain(|name| name != "HOSTNAME");
    assert!(variables.len() > 20, "{variables:?}");
    for variable in variables {
        assert!(reference.contains(&format!("`{variable}`")), "docs/configuration.md does not name {variable}");
    }
}
