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
    /// Answer with headers that tell where a request went: false.
    expose: Option<bool>,
}

/// What keeps a session's requests on one endpoint: `{"kind":"cookie"}`.
#[derive(ToSchema)]
#[schema(rename_all = "kebab-case")]
#[allow(dead_code, reason = "a description, never made")]
pub(crate) struct Affinity {
    #[schema(inline)]
    kind: AffinityKind,
    /// The cookie's or header's name; of `app-cookie` and `header` only.
    name: Option<String>,
}

#[derive(ToSchema)]
#[schema(rename_all = "kebab-case")]
#[allow(dead_code, reason = "a description, never made")]
enum AffinityKind {
    None,
    Cookie,
    AppCookie,
    Header,
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
        let limits = json!({"max_connections": 1, "max_requests": 1});
        let tls = json!({"authorities": "PEM", "server_name": "a.b", "verify": "none"});
        assert_eq!(described::<PoolSpec>(), written::<spec::PoolSpec>(json!({"tls": tls, "limits": limits})));
        assert_eq!(described::<EndpointTls>(), written::<spec::EndpointTls>(tls));
        assert_eq!(described::<EndpointLimits>(), written::<spec::EndpointLimits>(limits));
        assert_eq!(described::<Timeouts>(), written::<spec::Timeouts>(json!({})));
        let endpoint = json!({"address": "a:1", "revision": "v1"});
        assert_eq!(described::<EndpointSpec>(), written::<spec::EndpointSpec>(endpoint));
        let route = json!({"pool": "p", "host": "a.b", "expose": true});
        assert_eq!(described::<RouteSpec>(), written::<spec::RouteSpec>(route));
        let affinity = json!({"kind": "app-cookie", "name": "session"});
        assert_eq!(described::<Affinity>(), written::<spec::Affinity>(affinity));
    }

    #[test]
    fn every_described_kind_of_affinity_parses() {
        let schema = serde_json::to_value(AffinityKind::schema()).unwrap();
        for kind in schema["enum"].as_array().unwrap() {
            let needs_name = matches!(kind.as_str(), Some("app-cookie" | "header"));
            let json = if needs_name { json!({"kind": kind, "name": "x"}) } else { json!({"kind": kind}) };
            serde_json::from_value::<tidelock_core::spec::Affinity>(json).unwrap();
        }
    }
}
