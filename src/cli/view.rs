//! The API's answers, as far as the command line shows them. Fields that it does not know are
//! passed over and missing ones are empty, so that an older command line talks to a newer node.

use serde::Deserialize;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Status {
    pub(super) epoch: u64,
    pub(super) node: String,
    pub(super) leader: Option<String>,
    pub(super) quorum: bool,
    pub(super) pools: Vec<Pool>,
    pub(super) routes: Vec<Route>,
    pub(super) nodes: Vec<Node>,
    pub(super) drains: Vec<Drain>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Pools {
    pub(super) pools: Vec<Pool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Routes {
    pub(super) routes: Vec<Route>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Nodes {
    pub(super) nodes: Vec<Node>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct JoinTokens {
    pub(super) tokens: Vec<JoinToken>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct JoinToken {
    pub(super) id: String,
    pub(super) role: String,
    pub(super) expires_ms: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Drains {
    pub(super) drains: Vec<Drain>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Pool {
    pub(super) name: String,
    pub(super) spec: PoolSpec,
    pub(super) endpoints: Vec<Endpoint>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct PoolSpec {
    pub(super) protocol: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Endpoint {
    pub(super) name: String,
    pub(super) address: String,
    pub(super) weight: u32,
    pub(super) revision: Option<String>,
    pub(super) phase: String,
    pub(super) health: Option<EndpointHealth>,
    pub(super) requests: u64,
    pub(super) websockets: u64,
    pub(super) drain: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct EndpointHealth {
    pub(super) verdict: String,
    pub(super) detail: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Route {
    pub(super) name: String,
    pub(super) spec: RouteSpec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RouteSpec {
    pub(super) host: Option<String>,
    pub(super) path_prefix: String,
    pub(super) pool: String,
    pub(super) affinity: Affinity,
    pub(super) strength: String,
    pub(super) profile: Option<String>,
    pub(super) expose: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Affinity {
    kind: String,
    name: Option<String>,
    number: Option<u8>,
}

impl Affinity {
    /// As `--affinity` takes it.
    pub(super) fn show(&self) -> String {
        match (&self.name, self.number) {
            (Some(name), _) => format!("{}:{name}", self.kind),
            (None, Some(number)) => format!("{}:{number}", self.kind),
            (None, None) => self.kind.clone(),
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Node {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) role: String,
    pub(super) wanted: Option<String>,
    pub(super) reachable: bool,
    pub(super) epoch: Option<u64>,
    pub(super) admin: Option<String>,
    #[serde(rename = "self")]
    pub(super) is_self: bool,
    pub(super) version: Option<String>,
    pub(super) leaving: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Drain {
    pub(super) id: String,
    pub(super) pool: String,
    pub(super) endpoint: String,
    pub(super) mode: String,
    pub(super) state: String,
    /// Unix time in milliseconds.
    pub(super) deadline_ms: Option<u64>,
    pub(super) reason: String,
    /// Closes in a second.
    pub(super) pace: Option<u32>,
    pub(super) requests: u64,
    pub(super) websockets: u64,
    pub(super) event_streams: u64,
    pub(super) long_polls: u64,
    /// That have come lately.
    pub(super) sessions: Option<u64>,
    pub(super) safe: bool,
    pub(super) nodes: Vec<DrainNode>,
    pub(super) missing: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Switchovers {
    pub(super) switchovers: Vec<Switchover>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Switchover {
    pub(super) id: String,
    pub(super) pool: String,
    pub(super) from: Side,
    pub(super) to: Side,
    pub(super) stage: String,
    pub(super) detail: String,
    pub(super) reason: String,
    pub(super) pace: u32,
    pub(super) ready: u64,
    pub(super) min_ready: u32,
    pub(super) requests: u64,
    pub(super) websockets: u64,
    pub(super) event_streams: u64,
    pub(super) deadline_ms: Option<u64>,
    pub(super) drains: Vec<Drain>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Explanation {
    pub(super) verdict: String,
    pub(super) route: Option<String>,
    pub(super) placement: Option<String>,
    pub(super) pin: Option<Pin>,
    pub(super) endpoints: Vec<Candidate>,
    pub(super) agree: Option<bool>,
    pub(super) nodes: Vec<NodeExplains>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Pin {
    pub(super) endpoint: Option<String>,
    pub(super) revoked: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Candidate {
    pub(super) endpoint: String,
    pub(super) phase: String,
    pub(super) health: String,
    pub(super) takes_new_sessions: bool,
    pub(super) takes_pinned_sessions: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct NodeExplains {
    pub(super) node: String,
    pub(super) epoch: Option<u64>,
    pub(super) not_reached: Option<String>,
    pub(super) explains: Option<NodeSays>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct NodeSays {
    pub(super) verdict: String,
    pub(super) endpoint: Option<String>,
    pub(super) placement: Option<String>,
    pub(super) finds_down: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Prestop {
    pub(super) safe: bool,
    pub(super) drains: Vec<Drain>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct CookieKeys {
    pub(super) keys: Vec<CookieKey>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct CookieKey {
    pub(super) id: u8,
    pub(super) state: String,
    pub(super) missing: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Side {
    revision: Option<String>,
    endpoints: Vec<String>,
}

impl Side {
    /// As it is typed.
    pub(super) fn show(&self) -> String {
        self.revision.clone().unwrap_or_else(|| self.endpoints.join(","))
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct DrainNode {
    pub(super) node: String,
    pub(super) reported: bool,
    pub(super) requests: u64,
    pub(super) websockets: u64,
    pub(super) event_streams: u64,
    pub(super) long_polls: u64,
}
