//! What a node observes and tells the others: the stream from the data plane back to the control
//! plane.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::id::{EndpointId, Epoch};

/// One node's view at one moment. Counts of endpoints that have none are left out.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NodeReport {
    /// The newest epoch that every worker of this node's data plane reads.
    pub epoch: Option<Epoch>,
    /// The node is on its way out.
    pub leaving: bool,
    pub version: String,
    pub endpoints: BTreeMap<EndpointId, Counts>,
    /// What this node, as an observer, does not find up.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub health: BTreeMap<EndpointId, Observed>,
    /// How requests went on the endpoints that a switchover leads to, since the node started.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub outcomes: BTreeMap<EndpointId, Outcomes>,
    /// About how many sessions came in the last five minutes to endpoints that drain with theirs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sessions: BTreeMap<EndpointId, u64>,
}

/// How attempts on one endpoint went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Outcomes {
    /// With a response below 500.
    pub good: u64,
    /// With one of 500 or more, or without one.
    pub failed: u64,
}

impl std::ops::AddAssign for Outcomes {
    fn add_assign(&mut self, other: Outcomes) {
        self.good += other.good;
        self.failed += other.failed;
    }
}

/// What an observer has seen of an endpoint that is not up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "observed")]
pub enum Observed {
    /// It has not looked often enough yet.
    Pending,
    Down {
        detail: String,
    },
}

/// What is alive on one endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counts {
    /// Requests, WebSockets and event streams among them, whose streams have not ended in both
    /// directions.
    pub requests: u64,
    pub websockets: u64,
    /// Responses of type `text/event-stream`.
    #[serde(default)]
    pub event_streams: u64,
    /// Of a route whose profile knows them. They end by themselves.
    #[serde(default)]
    pub long_polls: u64,
}

impl Counts {
    pub fn is_zero(&self) -> bool {
        *self == Counts::default()
    }

    /// What does not end by itself, and what a drain closes at its pace.
    pub fn lasting(&self) -> u64 {
        self.websockets + self.event_streams
    }
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Counts) {
        self.requests += other.requests;
        self.websockets += other.websockets;
        self.event_streams += other.event_streams;
        self.long_polls += other.long_polls;
    }
}
