//! What can be agreed on: the commands that travel through the Raft log.
//!
//! The encoding is one version byte and JSON. JSON because nodes of two versions run together
//! and a log must stay readable for years: fields can be added with a default, and an operator
//! can read an entry. A command that this version does not know is an error here and is refused
//! at proposal; it never reaches `apply`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::affinity::CookieKey;
use crate::health::Verdict;
use crate::id::{DrainId, EndpointId, Epoch, Name, NodeId, SwitchoverId};
use crate::member::{JoinToken, Wanted};
use crate::pace::Pace;
use crate::spec::{EndpointSpec, PoolSpec, RouteSpec};
use crate::switchover::SwitchoverSpec;

/// The version of the encoding, the first byte of each entry.
pub const VERSION: u8 = 1;

/// How much of the log's language this build knows. It grows with each release that adds commands, or
/// fields to specs: nodes of the release before cannot read those.
pub const LEVEL: u32 = 4;

/// A command with what the proposer knew: who, when, and under which key it may be repeated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proposal {
    /// The proposer's clock: Unix time in milliseconds. State never reads a clock of its own.
    pub at_ms: u64,
    /// A repeated proposal with the same key is applied once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<IdempotencyKey>,
    pub command: Command,
}

/// 1 to 128 printable ASCII characters, chosen by the client.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IdempotencyKey(String);

impl TryFrom<String> for IdempotencyKey {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let valid = (1..=128).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
        if valid {
            Ok(IdempotencyKey(text))
        } else {
            Err("an idempotency key is 1 to 128 printable ASCII characters".into())
        }
    }
}

impl From<IdempotencyKey> for String {
    fn from(key: IdempotencyKey) -> String {
        key.0
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Command {
    PutPool {
        name: Name,
        spec: PoolSpec,
    },
    DeletePool {
        name: Name,
    },
    PutEndpoint {
        pool: Name,
        name: Name,
        spec: EndpointSpec,
    },
    DeleteEndpoint {
        pool: Name,
        name: Name,
    },
    PutRoute {
        name: Name,
        spec: RouteSpec,
    },
    DeleteRoute {
        name: Name,
    },
    StartDrain {
        pool: Name,
        endpoint: Name,
        mode: DrainMode,
        deadline_ms: Option<u64>,
        reason: String,
        /// How fast what does not end by itself is closed; without it that waits for the deadline.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pace: Option<Pace>,
    },
    CancelDrain {
        pool: Name,
        endpoint: Name,
    },
    /// The leader's own: all nodes have reported zero, or the deadline is over.
    FinishDrain {
        drain: DrainId,
        forced: bool,
    },
    /// The leader's own: which part of their paces the nodes close at.
    ShareClosing {
        shares: BTreeMap<DrainId, BTreeMap<NodeId, u64>>,
        /// The epoch of the state that it was worked out from: parts that are newer stay.
        seen: Option<Epoch>,
    },
    /// The leader's own: the drain's sessions have had their time, its streams follow at its pace.
    EndSessions {
        drain: DrainId,
    },
    StartSwitchover {
        pool: Name,
        spec: SwitchoverSpec,
    },
    /// The leader's own: enough endpoints of the new side are up.
    ShiftSwitchover {
        switchover: SwitchoverId,
    },
    /// The leader's own: the old side is empty.
    FinishSwitchover {
        switchover: SwitchoverId,
    },
    /// By request; or the leader's own, when the new side fails.
    RollBackSwitchover {
        switchover: SwitchoverId,
        reason: String,
    },
    /// Pins that were given until now count no more.
    RevokePins {
        pool: Name,
        /// None: all of the pool.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        endpoint: Option<Name>,
    },
    /// A key to seal cookies with: the first is the leader's own, as is its promotion.
    PutCookieKey {
        key: CookieKey,
    },
    /// The leader's own: most observers of the endpoint agree.
    SetHealth {
        pool: Name,
        endpoint: Name,
        /// One that was replaced meanwhile is not judged.
        id: EndpointId,
        verdict: Verdict,
        detail: String,
    },
    /// The leader's own: the nodes that look after endpoints.
    SetObservers {
        nodes: Vec<NodeId>,
    },
    /// The leader's own: every member knows the log's language up to here.
    SetLevel {
        level: u32,
    },
    /// What a node of the fleet shall be.
    SetMember {
        node: NodeId,
        wanted: Wanted,
    },
    PutJoinToken {
        token: JoinToken,
    },
    /// The leader's own: `node` has shown the token.
    UseJoinToken {
        sha256: String,
        node: NodeId,
    },
    /// All or nothing.
    Batch {
        commands: Vec<Command>,
    },
}

impl Command {
    /// The level that a node needs to read it. It can be given before the fleet has that level, and is
    /// rejected then: by nodes of this build since it is too early, by older ones since they cannot
    /// read it, so that both have the same state.
    pub fn level(&self) -> u32 {
        match self {
            Command::PutPool { spec, .. } => spec.level(),
            Command::PutRoute { spec, .. } => spec.level(),
            Command::PutEndpoint { spec, .. } => spec.level(),
            Command::SetHealth { .. } | Command::SetObservers { .. } => 2,
            Command::StartDrain { pace: Some(_), .. }
            | Command::ShareClosing { .. }
            | Command::EndSessions { .. }
            | Command::StartSwitchover { .. }
            | Command::ShiftSwitchover { .. }
            | Command::FinishSwitchover { .. }
            | Command::RollBackSwitchover { .. }
            | Command::RevokePins { .. } => 3,
            Command::Batch { commands } => commands.iter().map(Command::level).max().unwrap_or(1),
            // What removes a node must not wait for that node to be upgraded, or to be heard of.
            _ => 1,
        }
    }
}

/// What goes on while an endpoint drains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DrainMode {
    /// Only what is running: the next request of a pinned session moves it.
    Streams,
    /// Pinned sessions stay until the deadline; new ones go elsewhere.
    Sessions,
}

#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("an empty log entry")]
    Empty,
    #[error("the log entry's encoding has version {0}, this node knows {VERSION}: upgrade it")]
    Version(u8),
    #[error("the log entry does not parse: {0}")]
    Json(serde_json::Error),
}

impl Proposal {
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        serde_json::to_writer(&mut bytes, self).expect("commands have string keys and a Vec takes every write");
        bytes
    }

    pub fn decode(bytes: &[u8]) -> Result<Proposal, DecodeError> {
        match bytes.split_first() {
            None => Err(DecodeError::Empty),
            Some((&VERSION, json)) => serde_json::from_slice(json).map_err(DecodeError::Json),
            Some((&version, _)) => Err(DecodeError::Version(version)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn golden(command: Command, json: &str) {
        let proposal = Proposal { at_ms: 1_800_000_000_000, key: None, command };
        let bytes = proposal.encode();
        let expected = format!("\x01{{\"at_ms\":1800000000000,\"command\":{json}}}");
        assert_eq!(String::from_utf8(bytes.clone()).unwrap(), expected);
        assert_eq!(Proposal::decode(&bytes).unwrap(), proposal);
    }

    /// Entries that are in the logs of fleets out there: add lines, never change one.
    #[test]
    fn golden_bytes() {
        let name = |text: &str| text.parse::<Name>().unwrap();
        golden(
            Command::PutPool { name: name("app"), spec: PoolSpec::default() },
            r#"{"op":"put-pool","name":"app","spec":{"protocol":"http1","strip_content_length":false,"timeouts":{"connect_ms":5000,"first_byte_ms":60000,"idle_ms":60000,"websocket_idle_ms":3600000}}}"#,
        );
        let tls = r#"{"protocol":"auto","tls":{"authorities":"PEM","server_name":"app.internal","verify":"none"},"limits":{"max_connections":2,"max_requests":8,"max_pending":3}}"#;
        golden(
            Command::PutPool { name: name("app"), spec: serde_json::from_str(tls).unwrap() },
            r#"{"op":"put-pool","name":"app","spec":{"protocol":"auto","strip_content_length":false,"timeouts":{"connect_ms":5000,"first_byte_ms":60000,"idle_ms":60000,"websocket_idle_ms":3600000},"tls":{"authorities":"PEM","server_name":"app.internal","verify":"none"},"limits":{"max_connections":2,"max_requests":8,"max_pending":3}}}"#,
        );
        golden(Command::DeletePool { name: name("app") }, r#"{"op":"delete-pool","name":"app"}"#);
        let spec = EndpointSpec {
            address: "a:1".parse().unwrap(),
            weight: Default::default(),
            revision: Some(name("v1")),
            node: None,
        };
        golden(
            Command::PutEndpoint { pool: name("app"), name: name("a"), spec },
            r#"{"op":"put-endpoint","pool":"app","name":"a","spec":{"address":"a:1","weight":1,"revision":"v1"}}"#,
        );
        golden(
            Command::StartDrain {
                pool: name("app"),
                endpoint: name("a"),
                mode: DrainMode::Streams,
                deadline_ms: Some(5),
                reason: "x".into(),
                pace: None,
            },
            r#"{"op":"start-drain","pool":"app","endpoint":"a","mode":"streams","deadline_ms":5,"reason":"x"}"#,
        );
        let start = r#"{"op":"start-drain","pool":"app","endpoint":"a","mode":"sessions","deadline_ms":null,"reason":"","pace":50}"#;
        golden(serde_json::from_str(start).unwrap(), start);
        golden(
            Command::ShareClosing {
                shares: [(DrainId(9), [(NodeId(0xab), 500)].into())].into(),
                seen: Some(Epoch(12)),
            },
            r#"{"op":"share-closing","shares":{"d9":{"00000000000000ab":500}},"seen":12}"#,
        );
        golden(Command::EndSessions { drain: DrainId(9) }, r#"{"op":"end-sessions","drain":"d9"}"#);
        let start = r#"{"op":"start-switchover","pool":"app","spec":{"from":{"revision":"v1"},"to":{"endpoints":["b"]},"mode":"streams","pace":50,"deadline_ms":300000,"min_ready":1,"wait_ms":600000,"max_error_percent":5,"reason":"x"}}"#;
        golden(serde_json::from_str(start).unwrap(), start);
        golden(
            Command::RevokePins { pool: name("app"), endpoint: Some(name("a")) },
            r#"{"op":"revoke-pins","pool":"app","endpoint":"a"}"#,
        );
        golden(
            Command::ShiftSwitchover { switchover: SwitchoverId(9) },
            r#"{"op":"shift-switchover","switchover":"s9"}"#,
        );
        golden(
            Command::FinishSwitchover { switchover: SwitchoverId(9) },
            r#"{"op":"finish-switchover","switchover":"s9"}"#,
        );
        golden(
            Command::RollBackSwitchover { switchover: SwitchoverId(9), reason: "x".into() },
            r#"{"op":"roll-back-switchover","switchover":"s9","reason":"x"}"#,
        );
        golden(
            Command::SetHealth {
                pool: name("app"),
                endpoint: name("a"),
                id: EndpointId(7),
                verdict: Verdict::Down,
                detail: "x".into(),
            },
            r#"{"op":"set-health","pool":"app","endpoint":"a","id":7,"verdict":"down","detail":"x"}"#,
        );
        golden(
            Command::SetObservers { nodes: vec![NodeId(0xab)] },
            r#"{"op":"set-observers","nodes":["00000000000000ab"]}"#,
        );
        golden(Command::SetLevel { level: 2 }, r#"{"op":"set-level","level":2}"#);
        golden(
            Command::SetMember { node: NodeId(0xab), wanted: Wanted::Gone },
            r#"{"op":"set-member","node":"00000000000000ab","wanted":"gone"}"#,
        );
        let token = JoinToken { sha256: "ff".into(), wanted: Wanted::Voter, expires_ms: 9 };
        golden(
            Command::PutJoinToken { token },
            r#"{"op":"put-join-token","token":{"sha256":"ff","wanted":"voter","expires_ms":9}}"#,
        );
        golden(
            Command::UseJoinToken { sha256: "ff".into(), node: NodeId(0xab) },
            r#"{"op":"use-join-token","sha256":"ff","node":"00000000000000ab"}"#,
        );
        golden(
            Command::FinishDrain { drain: DrainId(9), forced: false },
            r#"{"op":"finish-drain","drain":"d9","forced":false}"#,
        );
    }

    #[test]
    fn other_versions_and_rubbish_are_errors() {
        assert!(matches!(Proposal::decode(b""), Err(DecodeError::Empty)));
        assert!(matches!(Proposal::decode(b"\x02{}"), Err(DecodeError::Version(2))));
        assert!(matches!(Proposal::decode(b"\x01{\"op\":1}"), Err(DecodeError::Json(_))));
        assert!(matches!(
            Proposal::decode(
                br#"{"at_ms":1,"command":{"op":"launch"}}"#
                    .iter()
                    .fold(vec![1u8], |mut v, b| {
                        v.push(*b);
                        v
                    })
                    .as_slice()
            ),
            Err(DecodeError::Json(_))
        ));
    }

    /// An older node could not read them, so they wait until there is none.
    #[test]
    fn what_is_new_in_a_spec_needs_its_level() {
        let pool = |json: &str| {
            Command::PutPool { name: "p".parse().unwrap(), spec: serde_json::from_str(json).unwrap() }.level()
        };
        let route =
            |json| Command::PutRoute { name: "r".parse().unwrap(), spec: serde_json::from_str(json).unwrap() }.level();
        assert_eq!(pool("{}"), 1);
        assert_eq!(pool(r#"{"limits":{"max_requests":1}}"#), 2);
        assert_eq!(pool(r#"{"hold":{"max_ms":1},"protocol":"h2","tls":{}}"#), 3);
        assert_eq!(pool(r#"{"hold":{"max_ms":1},"limits":{"max_websockets_per_second":1}}"#), 4);
        for field in ["total_ms", "keep_alive_ms", "connection_age_ms"] {
            assert_eq!(pool(&format!(r#"{{"timeouts":{{"{field}":1}}}}"#)), 4, "{field}");
        }
        assert_eq!(route(r#"{"pool":"p"}"#), 1);
        assert_eq!(route(r#"{"pool":"p","strength":"strict"}"#), 3);
        assert_eq!(route(r#"{"pool":"p","affinity":{"kind":"client-ip"}}"#), 3);
        assert_eq!(route(r#"{"pool":"p","profile":"phoenix"}"#), 4);
    }
}
