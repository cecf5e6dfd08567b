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
}

#[derive(ToSchema)]
#[allow(dead_code, reason = "a description, never made")]
enum Protocol {
    #[schema(rename = "http1")]
    Http1,
    #[schema(rename = "h2c")]
    H2c,
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
        assert_eq!(described::<PoolSpec>(), written::<spec::PoolSpec>(json!({})));
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
