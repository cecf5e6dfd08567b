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
    /// Requests, WebSockets among them, whose streams have not ended in both directions.
    pub requests: u64,
    pub websockets: u64,
}

impl Counts {
    pub fn is_zero(&self) -> bool {
        self.requests == 0 && self.websockets == 0
    }
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Counts) {
        self.requests += other.requests;
        self.websockets += other.websockets;
    }
}
