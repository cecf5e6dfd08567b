//! Rules of the repository that a compiler does not know: who may depend on whom, what the pure
//! crate may name, what may never be committed.

use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn dependencies(manifest: &str) -> Vec<String> {
    let manifest: toml::Table = read(&root().join(manifest)).parse().expect("a manifest is TOML");
    manifest["dependencies"].as_table().expect("a table").keys().cloned().collect()
}

fn sources(folder: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                found.push(path);
            }
        }
    }
    found
}

#[test]
fn core_depends_on_nothing_that_does_io() {
    let allowed = [
        "aws-lc-rs",
        "hashring",
        "http",
        "rustls-pki-types",
        "serde",
        "serde_json",
        "thiserror",
        "twox-hash",
        "webpki",
    ];
    for dependency in dependencies("core/Cargo.toml") {
        assert!(allowed.contains(&dependency.as_str()), "core may not depend on {dependency}");
    }
}

#[test]
fn core_names_no_clock_socket_thread_randomness_or_unordered_map() {
    let banned = [
        "std::fs",
        "std::env",
        "std::process",
        "std::thread",
        "std::io",
        "TcpStream",
        "UdpSocket",
        "Instant",
        "SystemTime",
        "HashMap",
        "HashSet",
        "RandomState",
        "aws_lc_rs::rand",
        "f32",
        "f64",
    ];
    for path in sources("core/src") {
        let text = read(&path);
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        for (number, line) in code.enumerate() {
            let found = banned.iter().find(|word| line.contains(*word));
            assert!(found.is_none(), "{}: line {} of code names {found:?}: {line}", path.display(), number + 1);
        }
    }
}

#[test]
fn the_planes_do_not_know_each_other() {
    let balancer = dependencies("balancer/Cargo.toml");
    let control_plane = dependencies("control-plane/Cargo.toml");
    assert!(!balancer.iter().any(|name| name == "tidelock-control-plane"));
    assert!(!control_plane.iter().any(|name| name == "tidelock-balancer"));
    // The data plane knows neither Raft nor the API's framework, the control plane no proxying.
    assert!(!balancer.iter().any(|name| ["raft", "axum", "redb"].contains(&name.as_str())));
    assert!(!control_plane.iter().any(|name| ["h2", "hashring"].contains(&name.as_str())));
}

/// Whoever adds a metric, or a reason to answer by itself, tells of it.
#[test]
fn what_a_node_tells_of_itself_is_documented() {
    let docs = read(&root().join("docs/observing.md"));
    let mut names = Vec::new();
    for line in read(&root().join("balancer/src/telemetry.rs")).lines() {
        // Of `field: "tidelock_NAME{...}", "HELP";`
        let name = line.split_once(": \"tidelock_").map(|(_, rest)| rest.split(['"', '{', '\\']).next().unwrap_or(""));
        names.extend(name.map(|name| format!("tidelock_{name}")));
    }
    assert!(names.len() > 30, "{names:?}");
    for line in read(&root().join("control-plane/src/metrics.rs")).lines() {
        let of_node = line.trim().strip_prefix("(\"").filter(|rest| rest.contains("\", \""));
        let of_endpoint = line.trim().strip_prefix("registry.register(\"");
        let name = of_node.or(of_endpoint).and_then(|rest| rest.split('"').next());
        names.extend(name.map(|name| format!("tidelock_{name}")));
    }
    for line in read(&root().join("balancer/src/respond.rs")).lines() {
        // The second word of three in `parts`.
        let words: Vec<&str> = line.split('"').collect();
        let reason = words.get(1).filter(|word| line.contains("StatusCode::") && !word.contains(' '));
        names.extend(reason.map(|reason| (*reason).to_owned()));
    }
    let unknown: Vec<&String> = names.iter().filter(|name| !docs.contains(&format!("`{name}"))).collect();
    assert!(unknown.is_empty(), "docs/observing.md does not tell of {unknown:?}");
}

#[test]
fn no_path_of_a_machine_and_no_registry_is_committed() {
    let tracked = Command::new("git").args(["ls-files"]).current_dir(root()).output();
    // A source archive has no git; there is nothing to look at then that git would commit.
    let Ok(tracked) = tracked else { return };
    let pattern = ["/ho", "me/"].concat();
    for name in String::from_utf8_lossy(&tracked.stdout).lines() {
        let path = root().join(name);
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        for line in text.lines() {
            assert!(!line.contains(&pattern), "{name} names a path of a machine: {line}");
            let names_registry = name.ends_with("package-lock.json") && line.contains("\"resolved\"");
            assert!(!names_registry, "{name} names a registry: {line}");
        }
    }
}
