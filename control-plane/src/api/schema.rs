//! The request shapes as the OpenAPI document shows them. The core parses requests with types of
//! its own and knows nothing of documents; a test keeps the two in step.

use utoipa::ToSchema;

/// How to talk to a pool's endpoints, and for how long to wait for them. Everything has a default.
#[derive(ToSchema)]
#[allow(dead_code, reason = "a description, never made")]
pub(crate) struct PoolSpec {
    #[schema(inline)]
    protocol: Option<Protocol>,
    /// Leave content-length out towards the endpoint once it has been checked here.
    strip_content_length: Option<bool>,
    timeouts: Option<Timeouts>,
    /// Speak TLS to the endpoints. Left out: cleartext.
    tls: Option<EndpointTls>,
    limits: Option<EndpointLimits>,
    /// Look after the endpoints. Left out: all count as up.
    health: Option<HealthSpec>,
    hold: Option<HoldSpec>,
    /// Its endpoints may answer `tidelock-route-to: node=NAME` or `key=KEY`, and the request is sent
    /// there: false.
    route_to: Option<bool>,
}

/// What becomes of requests while no endpoint may be used, or none can be reached.
#[derive(ToSchema)]
#[allow(dead_code, reason = "a description, never made")]
pub(crate) struct HoldSpec {
    /// They wait this long, then 503: 2000. 0 answers at once.
    #[schema(maximum = 60_000)]
    max_ms: Option<u32>,
    /// So many at a time on one node: 1024.
    max_requests: Option<u32>,
}

/// Some endpoints of a pool: a deployed version, or a list.
#[derive(ToSchema)]
#[schema(rename_all = "kebab-case")]
#[allow(dead_code, reason = "a description, never made")]
pub(crate) enum Side {
    Revision(String),
    Endpoints(Vec<String>),
}

#[derive(ToSchema)]
#[allow(dead_code, reason = "a description, never made")]
enum Protocol {
    #[schema(rename = "http1")]
    Http1,
    #[schema(rename = "h2c")]
    H2c,
    /// HTTP/2 over TLS; needs `tls`.
    #[schema(rename = "h2")]
    H2,
    /// What each endpoint chooses by ALPN; needs `tls`.
    #[schema(rename = "auto")]
    Auto,
}

/// Whose certificates are believed, and for which name. An endpoint that asks for the balancer's
/// certificate gets the one in the node's configuration.
#[derive(ToSchema)]
#[allow(dead_code, reason = "a description, never made")]
pub(crate) struct EndpointTls {
    /// Certificates of those who may have signed, in PEM, at most 64 KiB. Left out: the public ones
    /// of Mozilla's root program.
    authorities: Option<String>,
    /// The name that is asked for (SNI) and must be in the certificate. Left out: the host of the
    /// endpoint's address.
    server_name: Option<String>,
    #[schema(inline)]
    verify: Option<Verify>,
}

/// Whether certificates are looked at: `full`.
#[derive(ToSchema)]
#[schema(rename_all = "kebab-case")]
#[allow(dead_code, reason = "a description, never made")]
enum Verify {
    Full,
    /// Any certificate will do: whoever can answer at the address is believed.
    None,
}

/// Three nodes look at each endpoint; it is down when most of them say so.
#[derive(ToSchema)]
#[allow(dead_code, reason = "a description, never made")]
pub(crate) struct HealthSpec {
    check: Check,
    /// Between two checks of one node: 5000.
    #[schema(minimum = 1, maximum = 86_400_000)]
    interval_ms: Option<u64>,
    /// For a check, its connection included: 2000.
    #[schema(minimum = 1, maximum = 86_400_000)]
    timeout_ms: Option<u64>,
    /// Checks in a row that must pass before a node calls an endpoint up again: 2.
    #[schema(minimum = 1, maximum = 255)]
    healthy_threshold: Option<u8>,
    /// Checks in a row that must fail before a node calls an endpoint down: 3.
    #[schema(minimum = 1, maximum = 255)]
    unhealthy_threshold: Option<u8>,
    /// Below this share of endpoints that are up, all are used: 50. 0 is off.
    #[schema(maximum = 100)]
    panic_threshold_percent: Option<u8>,
    /// The time over which an endpoint that is new, or up again, gets to its share. Left out: at once.
    #[schema(minimum = 1, maximum = 86_400_000)]
    slow_start_ms: Option<u64>,
}

/// `{"kind":"tcp"}`, `{"kind":"http","path":"/healthz"}` or `{"kind":"grpc"}`; done with the pool's
/// protocol and its TLS.
#[derive(ToSchema)]
#[allow(dead_code, reason = "a description, never made")]
pub(crate) struct Check {
    #[schema(inline)]
    kind: CheckKind,
    /// Of `http`: path and query of the GET.
    path: Option<String>,
    /// Of `http`: left out, the endpoint's address.
    host: Option<String>,
    /// Of `http`: the status that is right. Left out: 200 to 399.
    #[schema(minimum = 200, maximum = 599)]
    status: Option<u16>,
    /// Of `grpc`: left out, the server as a whole.
    service: Option<String>,
}

#[derive(ToSchema)]
#[schema(rename_all = "kebab-case")]
#[allow(dead_code, reason = "a description, never made")]
enum CheckKind {
    Tcp,
    Http,
    Grpc,
}

/// How much one node sends to one endpoint at once. What is left out is not limited.
#[derive(ToSchema)]
#[allow(dead_code, reason = "a description, never made")]
pub(crate) struct EndpointLimits {
    /// Connections, idle ones and WebSockets included. Each worker may have one all the same.
    #[schema(minimum = 1)]
    max_connections: Option<u32>,
    /// Requests in flight; a WebSocket is one while it is open.
    #[schema(minimum = 1)]
    max_requests: Option<u32>,
    /// Requests that wait, for at most `connect_ms`, for a place or a stream: 1024. One more goes
    /// elsewhere if its session allows, else it is answered 503.
    max_pending: Option<u32>,
    /// WebSockets that begin in a second. One more waits for its turn, as long as the pool holds requests;
    /// beyond that it goes elsewhere if it has no session, else it is answered 503.
    #[schema(minimum = 1)]
    max_websockets_per_second: Option<u32>,
}

/// In milliseconds, each from 1 to 86400000.
#[derive(ToSchema)]
#[allow(dead_code, reason = "a description, never made")]
pub(crate) struct Timeouts {
    /// For a connection to an endpoint: 5000.
    #[schema(minimum = 1, maximum = 86_400_000)]
    connect_ms: Option<u64>,
    /// From the end of the request to the response's head: 60000.
    #[schema(minimum = 1, maximum = 86_400_000)]
    first_byte_ms: Option<u64>,
    /// Without a byte in either direction of a stream: 60000.
    #[schema(minimum = 1, maximum = 86_400_000)]
    idle_ms: Option<u64>,
    /// Without a byte in either direction of a WebSocket: 3600000.
    #[schema(minimum = 1, maximum = 86_400_000)]
    websocket_idle_ms: Option<u64>,
    /// From a request's head to the end of its response; not of a WebSocket that is open. Left out, it is no limit.
    #[schema(minimum = 1, maximum = 86_400_000)]
    total_ms: Option<u64>,
    /// For which an HTTP/1.1 connection is kept without a request: 50000.
    #[schema(minimum = 1, maximum = 86_400_000)]
    keep_alive_ms: Option<u64>,
    /// From which on a connection takes no new request: 3600000.
    #[schema(minimum = 1, maximum = 86_400_000)]
    connection_age_ms: Option<u64>,
}

#[derive(ToSchema)]
#[allow(dead_code, reason = "a description, never made")]
pub(crate) struct EndpointSpec {
    /// host:port
    #[schema(example = "10.0.0.5:4000")]
    address: String,
    /// Its share against its neighbours': 1.
    #[schema(minimum = 1, maximum = 100)]
    weight: Option<u32>,
    /// The deployed version of the app.
    revision: Option<String>,
    /// What the app there calls itself, like `app@10.0.3.7`.
    node: Option<String>,
}

/// Which requests go to which pool, and what keeps a session together.
#[derive(ToSchema)]
#[allow(dead_code, reason = "a description, never made")]
pub(crate) struct RouteSpec {
    /// `example.com`, `*.example.com`, or left out for every host.
    host: Option<String>,
    /// Whole segments from the beginning of the path: `/`.
    path_prefix: Option<String>,
    pool: String,
    affinity: Option<Affinity>,
    #[schema(inline)]
    strength: Option<Strength>,
    #[schema(inline)]
    profile: Option<Profile>,
    /// Answer with headers that tell where a request went: false.
    expose: Option<bool>,
}

/// What keeps a session's requests on one endpoint: `{"kind":"cookie"}`.
#[derive(ToSchema)]
#[allow(dead_code, reason = "a description, never made")]
pub(crate) struct Affinity {
    #[schema(inline)]
    kind: AffinityKind,
    /// Of `app-cookie`, `header` and `query`, which it is. Of `cookie`: `tidelock`.
    name: Option<String>,
    /// Of `path-segment`: which one, from 1.
    #[schema(minimum = 1, maximum = 255)]
    number: Option<u8>,
    /// Of `cookie`: left out, the route's prefix.
    path: Option<String>,
    /// Of `cookie`: left out, until the browser ends.
    max_age_s: Option<u32>,
    /// Of `cookie`: `strict`, `lax` (if left out) or `none`.
    same_site: Option<String>,
    /// Of `cookie`: Secure also where this balancer speaks cleartext.
    secure: Option<bool>,
}

/// What kind of app a route leads to.
#[derive(ToSchema)]
#[schema(rename_all = "kebab-case")]
#[allow(dead_code, reason = "a description, never made")]
enum Profile {
    /// Long polling and form uploads are kept strictly; WebSockets may be silent for at least 75 s.
    Phoenix,
}

/// How far a session is kept: `prefer`.
#[derive(ToSchema)]
#[schema(rename_all = "kebab-case")]
#[allow(dead_code, reason = "a description, never made")]
enum Strength {
    /// It moves when its endpoint cannot be used now.
    Prefer,
    /// It waits, and is then answered 503.
    Strict,
}

#[derive(ToSchema)]
#[schema(rename_all = "kebab-case")]
#[allow(dead_code, reason = "a description, never made")]
enum AffinityKind {
    None,
    Cookie,
    AppCookie,
    Header,
    Query,
    PathSegment,
    ClientIp,
}

#[derive(ToSchema)]
#[schema(rename_all = "kebab-case")]
#[allow(dead_code, reason = "a description, never made")]
pub(crate) enum DrainMode {
    /// Only what is running: the next request of a pinned session moves it.
    Streams,
    /// Pinned sessions stay until the deadline; new ones go elsewhere.
    Sessions,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::{Value, json};
    use utoipa::PartialSchema;

    use super::*;

    fn described<T: PartialSchema>() -> BTreeSet<String> {
        let schema = serde_json::to_value(T::schema()).unwrap();
        schema["properties"].as_object().unwrap().keys().cloned().collect()
    }

    fn written<T: serde::de::DeserializeOwned + serde::Serialize>(json: Value) -> BTreeSet<String> {
        let parsed: T = serde_json::from_value(json).unwrap();
        serde_json::to_value(parsed).unwrap().as_object().unwrap().keys().cloned().collect()
    }

    /// Every field that the core writes is described, and nothing else is.
    #[test]
    fn the_descriptions_have_the_core_s_fields() {
        use tidelock_core::spec;
        let limits = json!({"max_connections": 1, "max_requests": 1, "max_websockets_per_second": 1});
        let tls = json!({"authorities": "PEM", "server_name": "a.b", "verify": "none"});
        let health = json!({"check": {"kind": "tcp"}, "slow_start_ms": 1});
        assert_eq!(described::<HealthSpec>(), written::<spec::HealthSpec>(health.clone()));
        let pool = json!({"tls": tls, "limits": limits, "health": health, "hold": {"max_ms": 1}, "route_to": true});
        assert_eq!(described::<PoolSpec>(), written::<spec::PoolSpec>(pool));
        let http = json!({"kind": "http", "path": "/", "host": "a", "status": 204});
        let grpc = json!({"kind": "grpc", "service": "s"});
        let checks = [http, grpc].into_iter().flat_map(written::<spec::Check>).collect();
        assert_eq!(described::<Check>(), checks);
        assert_eq!(described::<EndpointTls>(), written::<spec::EndpointTls>(tls));
        assert_eq!(described::<EndpointLimits>(), written::<spec::EndpointLimits>(limits));
        let timeouts = json!({"total_ms": 1, "keep_alive_ms": 1, "connection_age_ms": 1});
        assert_eq!(described::<Timeouts>(), written::<spec::Timeouts>(timeouts));
        let endpoint = json!({"address": "a:1", "revision": "v1", "node": "a@b"});
        assert_eq!(described::<EndpointSpec>(), written::<spec::EndpointSpec>(endpoint));
        assert_eq!(described::<HoldSpec>(), written::<spec::HoldSpec>(json!({})));
        let route = json!({"pool": "p", "host": "a.b", "expose": true, "strength": "strict", "profile": "phoenix"});
        assert_eq!(described::<RouteSpec>(), written::<spec::RouteSpec>(route));
        let cookie =
            json!({"kind": "cookie", "name": "a", "path": "/", "max_age_s": 1, "same_site": "none", "secure": true});
        let segment = json!({"kind": "path-segment", "number": 1});
        let affinities = [cookie, segment].into_iter().flat_map(written::<spec::Affinity>).collect();
        assert_eq!(described::<Affinity>(), affinities);
    }

    #[test]
    fn every_described_kind_of_affinity_parses() {
        let schema = serde_json::to_value(AffinityKind::schema()).unwrap();
        for kind in schema["enum"].as_array().unwrap() {
            let json = match kind.as_str() {
                Some("app-cookie" | "header" | "query") => json!({"kind": kind, "name": "x"}),
                Some("path-segment") => json!({"kind": kind, "number": 1}),
                _ => json!({"kind": kind}),
            };
            serde_json::from_value::<tidelock_core::spec::Affinity>(json).unwrap();
        }
    }
}
