//! How the answers come from what this node knows: pure, and everything from one [`Moment`].

use std::sync::Arc;

use tidelock_core::command::DrainMode;
use tidelock_core::drain::{self, NodeProgress};
use tidelock_core::health;
use tidelock_core::id::{DrainId, Epoch, Name, NodeId};
use tidelock_core::pace::Pace;
use tidelock_core::report::{Counts, Observed};
use tidelock_core::state::{self, DrainState, State};

use super::{Drain, DrainNode, Endpoint, EndpointHealth, EndpointObserver, Node, NodeCounts, Pool, Route, Status};
use crate::fleet::roster::{self, Member};
use crate::raft::{self, Peer, Role};

/// What this node knows at one moment.
pub(crate) struct Moment {
    pub(crate) node: Name,
    pub(crate) state: Arc<State>,
    pub(crate) raft: raft::Status,
    pub(crate) members: Vec<Member>,
    /// Nodes heard of, members and others.
    pub(crate) peers: Vec<Peer>,
}

impl Moment {
    pub(crate) fn epoch(&self) -> Epoch {
        self.state.epoch.unwrap_or(Epoch(0))
    }

    pub(crate) fn status(&self) -> Status {
        let leader = self.members.iter().find(|member| Some(member.id.0) == self.raft.leader);
        Status {
            epoch: self.epoch(),
            node: self.node.clone(),
            leader: leader.map(|leader| leader.label.clone()),
            quorum: self.raft.leader.is_some(),
            pools: self.pools(),
            nodes: self.nodes(),
            drains: self.drains(),
            switchovers: self.switchovers(),
            routes: self.routes(),
        }
    }

    pub(crate) fn pools(&self) -> Vec<Pool> {
        self.state.pools.iter().map(|(name, pool)| self.pool_view(name, pool)).collect()
    }

    pub(crate) fn pool(&self, name: &Name) -> Option<Pool> {
        self.state.pools.get(name).map(|pool| self.pool_view(name, pool))
    }

    pub(crate) fn routes(&self) -> Vec<Route> {
        self.state.routes.iter().map(|(name, spec)| Route { name: name.clone(), spec: spec.clone() }).collect()
    }

    pub(crate) fn route(&self, name: &Name) -> Option<Route> {
        self.state.routes.get(name).map(|spec| Route { name: name.clone(), spec: spec.clone() })
    }

    pub(crate) fn nodes(&self) -> Vec<Node> {
        let members = self.members.iter().map(|member| self.node_view(member));
        members.chain(self.strangers().map(stranger_view)).collect()
    }

    /// Nodes that hold the fleet's secret, are connected, and are no members: they wait to be added.
    fn strangers(&self) -> impl Iterator<Item = &Peer> {
        self.peers.iter().filter(|peer| peer.connected && !self.members.iter().any(|m| m.id.0 == peer.id))
    }

    /// A node by its id, or by its name where only one has it: of the fleet, or waiting to be added.
    pub(crate) fn node(&self, text: &str) -> Result<NodeId, String> {
        let strangers = self.strangers().map(|peer| (NodeId(peer.id), peer.name.as_str()));
        let members = self.members.iter().map(|member| (member.id, member.label.as_str()));
        self.found(text, members.chain(strangers))
    }

    /// A member in the same way. A node that waits under the name of a lost one is not it.
    pub(crate) fn member(&self, text: &str) -> Result<NodeId, String> {
        self.found(text, self.members.iter().map(|member| (member.id, member.label.as_str())))
    }

    fn found<'a>(&self, text: &str, nodes: impl Iterator<Item = (NodeId, &'a str)>) -> Result<NodeId, String> {
        let id: Option<NodeId> = text.parse().ok();
        let is_known = |id: NodeId| self.state.members.contains_key(&id);
        let is_meant = |(known, name): &(NodeId, &str)| Some(*known) == id || *name == text;
        let mut found: Vec<NodeId> = nodes.filter(is_meant).map(|(id, _)| id).collect();
        found.extend(id.filter(|id| found.is_empty() && is_known(*id)));
        match &found[..] {
            [id] => Ok(*id),
            [] => Err(format!("There is no node {text} here. tidelock node list shows those that there are.")),
            several => {
                let ids: Vec<String> = several.iter().map(ToString::to_string).collect();
                Err(format!("Several nodes are called {text}: {}. Name one by its id.", ids.join(", ")))
            }
        }
    }

    pub(crate) fn drains(&self) -> Vec<Drain> {
        self.state.drains.iter().map(|(id, drain)| self.drain_view(*id, drain)).collect()
    }

    pub(crate) fn drain(&self, id: DrainId) -> Option<Drain> {
        self.state.drains.get(&id).map(|drain| self.drain_view(id, drain))
    }

    fn pool_view(&self, name: &Name, pool: &state::Pool) -> Pool {
        let endpoints =
            pool.endpoints.iter().map(|(name, endpoint)| self.endpoint_view(pool, name, endpoint)).collect();
        Pool { name: name.clone(), spec: pool.spec.clone(), endpoints }
    }

    fn health_view(&self, endpoint: &state::Endpoint) -> EndpointHealth {
        let observers = health::observers(endpoint.id, &self.state.observers.nodes).into_iter().map(|id| {
            let member = self.members.iter().find(|member| member.id == id);
            let report = member.and_then(Member::report);
            let (sees, detail) = match report.map(|report| report.health.get(&endpoint.id)) {
                None => ("missing", None),
                Some(None) => ("up", None),
                Some(Some(Observed::Pending)) => ("pending", None),
                Some(Some(Observed::Down { detail })) => ("down", Some(detail.clone())),
            };
            EndpointObserver {
                node: member.map_or_else(|| id.to_string(), |member| member.label.clone()),
                sees,
                detail,
            }
        });
        EndpointHealth {
            verdict: endpoint.health.verdict.as_str(),
            since_ms: endpoint.health.since_ms,
            falls: endpoint.health.falls,
            detail: endpoint.health.detail.clone(),
            observers: observers.collect(),
        }
    }

    fn endpoint_view(&self, pool: &state::Pool, name: &Name, endpoint: &state::Endpoint) -> Endpoint {
        let mut sum = Counts::default();
        let mut by_node = Vec::new();
        for member in &self.members {
            let counts = member.report().and_then(|report| report.endpoints.get(&endpoint.id));
            if let Some(counts) = counts.filter(|counts| !counts.is_zero()) {
                sum += *counts;
                let Counts { requests, websockets, event_streams, .. } = *counts;
                by_node.push(NodeCounts { node: member.label.clone(), requests, websockets, event_streams });
            }
        }
        Endpoint {
            name: name.clone(),
            id: endpoint.id,
            address: endpoint.spec.address.to_string(),
            weight: endpoint.spec.weight.get(),
            revision: endpoint.spec.revision.clone(),
            node: endpoint.spec.node.clone(),
            phase: endpoint.phase.name(),
            health: pool.spec.health.is_some().then(|| self.health_view(endpoint)),
            requests: sum.requests,
            websockets: sum.websockets,
            event_streams: sum.event_streams,
            drain: endpoint.phase.drain(),
            by_node,
        }
    }

    fn drain_view(&self, id: DrainId, drain: &state::Drain) -> Drain {
        let progress = drain::progress(id, drain, &roster::seen(&self.members));
        let mut nodes = Vec::new();
        let mut missing = Vec::new();
        for member in &self.members {
            let left = match progress.by_node.get(&member.id) {
                Some(NodeProgress::Left(counts)) => Some(*counts),
                Some(NodeProgress::Missing) | None => None,
            };
            if left.is_none() {
                missing.push(member.label.clone());
            }
            let Counts { requests, websockets, event_streams, long_polls } = left.unwrap_or_default();
            let (node, reported, epoch) = (member.label.clone(), left.is_some(), member.epoch());
            nodes.push(DrainNode { node, reported, epoch, requests, websockets, event_streams, long_polls });
        }
        let safe = match drain.state {
            // Everybody has reported zero before it was called drained, and takes nothing since.
            DrainState::Drained => progress.counts.is_zero(),
            DrainState::Draining | DrainState::Forced | DrainState::Removed => progress.safe,
            DrainState::Cancelled => false,
        };
        let reports = self.members.iter().filter_map(|member| member.report());
        let lately = reports.filter_map(|report| report.sessions.get(&drain.endpoint_id)).sum();
        let lets_in = drain.state == DrainState::Draining && drain.mode == DrainMode::Sessions;
        let sessions = lets_in.then_some(lately);
        let closes = drain.state == DrainState::Draining && drain.mode == DrainMode::Streams;
        let time = |pace: Pace| pace.time_for(progress.counts.lasting()).div_ceil(1_000);
        let estimate_seconds = drain.pace.filter(|_| closes).map(time);
        Drain {
            id,
            pool: drain.pool.clone(),
            endpoint: drain.endpoint.clone(),
            mode: drain.mode,
            state: drain.state,
            started_ms: drain.started_ms,
            deadline_ms: drain.deadline_ms,
            ended_ms: drain.ended_ms,
            reason: drain.reason.clone(),
            requests: progress.counts.requests,
            websockets: progress.counts.websockets,
            event_streams: progress.counts.event_streams,
            long_polls: progress.counts.long_polls,
            sessions,
            pace: drain.pace,
            estimate_seconds,
            switchover: drain.switchover,
            safe,
            nodes,
            missing,
        }
    }
}

impl Moment {
    fn node_view(&self, member: &Member) -> Node {
        let bulletin = member.bulletin.as_deref();
        let age = member.age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
        Node {
            id: member.id.to_string(),
            name: member.label.clone(),
            role: role_name(member.role),
            wanted: self.state.members.get(&member.id).map(|wanted| wanted.as_str()),
            reachable: member.report().is_some(),
            epoch: member.epoch(),
            admin: bulletin.and_then(|bulletin| bulletin.admin.clone()),
            local: member.local,
            last_seen_ms: age,
            version: bulletin.map(|bulletin| bulletin.report.version.clone()),
            leaving: bulletin.is_some_and(|bulletin| bulletin.report.leaving),
        }
    }
}

fn stranger_view(peer: &Peer) -> Node {
    Node {
        id: NodeId(peer.id).to_string(),
        name: if peer.name.is_empty() { peer.address.clone() } else { peer.name.clone() },
        role: role_name(Role::Outsider),
        wanted: None,
        reachable: true,
        epoch: None,
        admin: Some(peer.admin.clone()).filter(|admin| !admin.is_empty()),
        local: false,
        last_seen_ms: peer.last_seen.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
        version: Some(peer.version.clone()).filter(|version| !version.is_empty()),
        leaving: false,
    }
}

fn role_name(role: Role) -> &'static str {
    match role {
        Role::Leader => "leader",
        Role::Follower => "follower",
        Role::Candidate => "candidate",
        Role::Learner => "learner",
        Role::Founding => "founding",
        Role::Outsider => "outsider",
    }
}
