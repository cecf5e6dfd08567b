//! `/metrics`: the control plane's numbers in OpenMetrics text, with the data plane's own behind.
//!
//! A registry is filled for each scrape from one look at the fleet: nothing is counted here, so
//! nothing can be out of step with the API. Counts are this node's own; who collects sums them up.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use tidelock_core::health::Verdict;
use tidelock_core::state::DrainState;

use crate::api::Context;
use crate::api::error::Problem;
use crate::api::view::Moment;
use crate::raft::Role;

/// Appends the data plane's metrics: whole families in OpenMetrics text, none of the names below,
/// and without the closing `# EOF`. It is called on a thread of the control plane.
pub type MetricsHook = Arc<dyn Fn(&mut String) + Send + Sync>;

const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Number = Gauge<u64, AtomicU64>;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndpointLabels {
    pool: String,
    endpoint: String,
}

#[utoipa::path(get, path = "/metrics", tag = "metrics",
    responses((status = 200, content_type = "application/openmetrics-text", body = String),
        (status = 401, body = Problem)))]
pub(crate) async fn show(State(api): State<Context>) -> Result<Response, Problem> {
    let mut text = String::new();
    let written = encode_registry(&mut text, &registry(&api.moment()));
    if let Some(hook) = &api.metrics {
        hook(&mut text);
    }
    match written.and_then(|()| encode_eof(&mut text)) {
        Ok(()) => Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response()),
        Err(error) => {
            tracing::error!(%error, "metrics cannot be written");
            Err(Problem::internal())
        }
    }
}

fn registry(moment: &Moment) -> Registry {
    let mut registry = Registry::with_prefix("tidelock");
    let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
    registry.register("build", "The version of this node", build);
    let raft = &moment.raft;
    let under_way = moment.state.drains.values().filter(|drain| drain.state == DrainState::Draining).count();
    let numbers: [(&str, &str, u64); 7] = [
        ("epoch", "The newest epoch that this node has applied", moment.epoch().0),
        ("raft_term", "Raft's term", raft.term),
        ("raft_commit", "The index up to which the log is committed", raft.commit),
        ("raft_applied", "The index up to which the log is applied", raft.applied),
        ("raft_is_leader", "1 when this node leads", (raft.role == Role::Leader).into()),
        ("raft_has_leader", "1 when this node knows a leader", raft.leader.is_some().into()),
        ("drains", "Drains that are under way", under_way as u64),
    ];
    for (name, help, value) in numbers {
        registry.register(name, help, number(value));
    }
    endpoints(moment, &mut registry);
    registry
}

fn endpoints(moment: &Moment, registry: &mut Registry) {
    let requests: Family<EndpointLabels, Number> = Family::default();
    let websockets: Family<EndpointLabels, Number> = Family::default();
    let event_streams: Family<EndpointLabels, Number> = Family::default();
    let up: Family<EndpointLabels, Number> = Family::default();
    let report = moment.members.iter().find(|member| member.local).and_then(|member| member.report());
    for (pool, spec) in &moment.state.pools {
        for (name, endpoint) in &spec.endpoints {
            let counts = report.and_then(|report| report.endpoints.get(&endpoint.id)).copied().unwrap_or_default();
            let labels = EndpointLabels { pool: pool.to_string(), endpoint: name.to_string() };
            requests.get_or_create(&labels).set(counts.requests);
            websockets.get_or_create(&labels).set(counts.websockets);
            event_streams.get_or_create(&labels).set(counts.event_streams);
            if spec.spec.health.is_some() {
                up.get_or_create(&labels).set((endpoint.health.verdict == Verdict::Up).into());
            }
        }
    }
    let help = "Requests alive on an endpoint through this node, WebSockets among them";
    registry.register("endpoint_requests", help, requests);
    registry.register("endpoint_up", "1 when the fleet's verdict on an endpoint is up", up);
    registry.register("endpoint_websockets", "WebSockets alive on an endpoint through this node", websockets);
    registry.register("endpoint_event_streams", "Event streams alive on an endpoint through this node", event_streams);
}

fn number(value: u64) -> Number {
    let gauge = Number::default();
    gauge.set(value);
    gauge
}
