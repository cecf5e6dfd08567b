//! What the API shows: the shapes of its answers. `moment` fills them.

use std::sync::Arc;

use serde::Serialize;
use tidelock_core::command::DrainMode;
use tidelock_core::id::{DrainId, EndpointId, Epoch, Name, SwitchoverId};
use tidelock_core::pace::Pace;
use tidelock_core::spec::{NodeName, PoolSpec, RouteSpec};
use tidelock_core::state::DrainState;
use utoipa::ToSchema;

use super::schema;
pub(crate) use moment::Moment;
pub(crate) use switchover::{Switchover, Switchovers};

mod moment;
mod switchover;

#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct Status {
    #[schema(value_type = u64)]
    pub(crate) epoch: Epoch,
    /// The node that answers.
    #[schema(value_type = String)]
    pub(crate) node: Name,
    pub(crate) leader: Option<String>,
    /// There is a leader that a majority follows, so writes are answered.
    pub(crate) quorum: bool,
    pub(crate) pools: Vec<Pool>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) drains: Vec<Drain>,
    pub(crate) switchovers: Vec<Switchover>,
    pub(crate) routes: Vec<Route>,
}

#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct Pools {
    #[schema(value_type = u64)]
    pub(crate) epoch: Epoch,
    pub(crate) pools: Vec<Pool>,
}

#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct Pool {
    #[schema(value_type = String)]
    pub(crate) name: Name,
    #[schema(value_type = schema::PoolSpec)]
    pub(crate) spec: PoolSpec,
    pub(crate) endpoints: Vec<Endpoint>,
}

#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct Endpoint {
    #[schema(value_type = String)]
    pub(crate) name: Name,
    #[schema(value_type = u64)]
    pub(crate) id: EndpointId,
    pub(crate) address: String,
    pub(crate) weight: u32,
    #[schema(value_type = Option<String>)]
    pub(crate) revision: Option<Name>,
    /// What the app there calls itself.
    #[schema(value_type = Option<String>)]
    pub(crate) node: Option<NodeName>,
    /// `active`, `draining` or `drained`.
    pub(crate) phase: &'static str,
    /// `up` or `down`, as the fleet has agreed; none in a pool without checks.
    pub(crate) health: Option<EndpointHealth>,
    /// Over the nodes that report, WebSockets among them.
    pub(crate) requests: u64,
    pub(crate) websockets: u64,
    /// Responses of type text/event-stream.
    pub(crate) event_streams: u64,
    #[schema(value_type = Option<String>)]
    pub(crate) drain: Option<DrainId>,
    /// The nodes on which there is something; the others that report have none.
    pub(crate) by_node: Vec<NodeCounts>,
}

#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct EndpointHealth {
    /// `up` or `down`.
    pub(crate) verdict: &'static str,
    /// Unix time in milliseconds.
    pub(crate) since_ms: u64,
    /// How often it has fallen lately.
    pub(crate) falls: u32,
    /// What an observer saw when it went down.
    pub(crate) detail: String,
    /// The nodes that look after it, by what they see now.
    pub(crate) observers: Vec<EndpointObserver>,
}

#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct EndpointObserver {
    pub(crate) node: String,
    /// `up`, `down`, `pending` (it has not looked often enough) or `missing` (it is not heard of).
    pub(crate) sees: &'static str,
    pub(crate) detail: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct NodeCounts {
    pub(crate) node: String,
    pub(crate) requests: u64,
    pub(crate) websockets: u64,
    pub(crate) event_streams: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct Routes {
    #[schema(value_type = u64)]
    pub(crate) epoch: Epoch,
    pub(crate) routes: Vec<Route>,
}

#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct Route {
    #[schema(value_type = String)]
    pub(crate) name: Name,
    #[schema(value_type = schema::RouteSpec)]
    pub(crate) spec: Arc<RouteSpec>,
}

#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct Nodes {
    #[schema(value_type = u64)]
    pub(crate) epoch: Epoch,
    pub(crate) nodes: Vec<Node>,
}

#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct Node {
    pub(crate) id: String,
    /// Its address or id, while it was never heard of.
    pub(crate) name: String,
    /// `leader`, `follower`, `candidate`, `learner`, `founding` (it waits for the other founders) or
    /// `outsider` (it waits to be added, or was removed).
    pub(crate) role: &'static str,
    /// `voter`, `learner` or `gone`: what an operator wants of it, which the leader brings about.
    pub(crate) wanted: Option<&'static str>,
    /// Heard of in the last three seconds.
    pub(crate) reachable: bool,
    /// That its requests are routed by; none before its first table or when it is not reachable.
    #[schema(value_type = Option<u64>)]
    pub(crate) epoch: Option<Epoch>,
    pub(crate) admin: Option<String>,
    #[serde(rename = "self")]
    pub(crate) local: bool,
    pub(crate) last_seen_ms: Option<u64>,
    pub(crate) version: Option<String>,
    pub(crate) leaving: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct Drains {
    #[schema(value_type = u64)]
    pub(crate) epoch: Epoch,
    pub(crate) drains: Vec<Drain>,
}

#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct Drain {
    #[schema(value_type = String)]
    pub(crate) id: DrainId,
    #[schema(value_type = String)]
    pub(crate) pool: Name,
    #[schema(value_type = String)]
    pub(crate) endpoint: Name,
    #[schema(value_type = schema::DrainMode)]
    pub(crate) mode: DrainMode,
    /// `draining`, `drained`, `forced` (the deadline came first), `cancelled` or `removed`.
    #[schema(value_type = String)]
    pub(crate) state: DrainState,
    pub(crate) started_ms: u64,
    pub(crate) deadline_ms: Option<u64>,
    pub(crate) ended_ms: Option<u64>,
    pub(crate) reason: String,
    /// Over the nodes that reported.
    pub(crate) requests: u64,
    pub(crate) websockets: u64,
    pub(crate) event_streams: u64,
    /// Requests of long polling, as far as the route's profile knows them.
    pub(crate) long_polls: u64,
    /// About how many sessions have come in the last five minutes. One that comes through two nodes counts
    /// twice. None: they are not let in.
    pub(crate) sessions: Option<u64>,
    /// WebSockets and event streams closed in a second, summed over the fleet; none: they are left
    /// until the deadline.
    #[schema(value_type = Option<u32>)]
    pub(crate) pace: Option<Pace>,
    /// For closing what lasts at the pace. None while sessions may stay.
    pub(crate) estimate_seconds: Option<u64>,
    /// That it is a part of.
    #[schema(value_type = Option<String>)]
    pub(crate) switchover: Option<SwitchoverId>,
    /// Every node has reported that nothing is left: the endpoint may be stopped.
    pub(crate) safe: bool,
    pub(crate) nodes: Vec<DrainNode>,
    /// The nodes that have not reported; none of them is counted as zero.
    pub(crate) missing: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct DrainNode {
    pub(crate) node: String,
    /// From a table that has the drain, within the last three seconds.
    pub(crate) reported: bool,
    #[schema(value_type = Option<u64>)]
    pub(crate) epoch: Option<Epoch>,
    pub(crate) requests: u64,
    pub(crate) websockets: u64,
    pub(crate) event_streams: u64,
    pub(crate) long_polls: u64,
}
