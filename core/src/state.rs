//! What the fleet has agreed on, and what each command does to it.
//!
//! [`State::apply`] is total and deterministic: equal logs give equal states on every node, of
//! every build. Pools and routes are shared by `Arc`: a change copies the one that it touches,
//! and the table compiler sees by the pointer what has not changed.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::affinity::CookieKey;
use crate::command::{Command, DrainMode, IdempotencyKey, Proposal};
use crate::health::{Health, Verdict};
use crate::id::{DrainId, EndpointId, Epoch, Name, NodeId, PoolId};
use crate::member::{JoinToken, MAX_JOIN_TOKENS, MAX_MEMBERS, Wanted};
use crate::ring::RingHash;
use crate::spec::{EndpointSpec, PoolSpec, RouteSpec};

/// Drains that have ended are kept for people to look at, this many.
const ENDED_DRAINS_KEPT: usize = 64;
/// Repeats are recognised among this many of the newest proposals that carried a key.
const KEYS_KEPT: usize = 1_024;
/// Bounds on the state, which travels whole in a Raft snapshot.
pub const MAX_POOLS: usize = 10_000;
pub const MAX_ENDPOINTS_PER_POOL: usize = 10_000;
pub const MAX_ROUTES: usize = 20_000;
/// Keys that may still be out there in cookies.
const MAX_COOKIE_KEYS: usize = 8;

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    pub epoch: Option<Epoch>,
    pub ring_hash: RingHash,
    pub pools: BTreeMap<Name, Arc<Pool>>,
    pub routes: BTreeMap<Name, Arc<RouteSpec>>,
    pub drains: BTreeMap<DrainId, Drain>,
    pub cookie_keys: Vec<CookieKey>,
    #[serde(default)]
    pub observers: Observers,
    /// What every member can read of the log's language; 0 is 1.
    #[serde(default)]
    level: u32,
    /// What operators want of nodes.
    #[serde(default)]
    pub members: BTreeMap<NodeId, Wanted>,
    #[serde(default)]
    pub join_tokens: Vec<JoinToken>,
    /// The next pool's or endpoint's number.
    next_id: u64,
    /// What the newest proposals with a key came to, oldest first.
    answered: VecDeque<(IdempotencyKey, Outcome)>,
}

/// The nodes that look after endpoints, and since when they do.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Observers {
    /// In order.
    pub nodes: Vec<NodeId>,
    pub since: Option<Epoch>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pool {
    pub id: PoolId,
    pub spec: PoolSpec,
    pub endpoints: BTreeMap<Name, Endpoint>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    pub id: EndpointId,
    pub spec: EndpointSpec,
    pub phase: Phase,
    #[serde(default)]
    pub health: Health,
}

/// The life of an endpoint: active -> draining -> drained -> removed; a cancel leads back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "phase", deny_unknown_fields)]
pub enum Phase {
    Active {},
    Draining { drain: DrainId, mode: DrainMode, deadline_ms: Option<u64> },
    Drained { drain: DrainId },
}

impl Phase {
    pub fn name(&self) -> &'static str {
        match self {
            Phase::Active {} => "active",
            Phase::Draining { .. } => "draining",
            Phase::Drained { .. } => "drained",
        }
    }

    pub fn drain(&self) -> Option<DrainId> {
        match self {
            Phase::Active {} => None,
            Phase::Draining { drain, .. } | Phase::Drained { drain } => Some(*drain),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drain {
    pub pool: Name,
    pub endpoint: Name,
    pub endpoint_id: EndpointId,
    pub mode: DrainMode,
    pub started_ms: u64,
    /// Unix time in milliseconds at which what is left is cut.
    pub deadline_ms: Option<u64>,
    pub reason: String,
    pub state: DrainState,
    /// When it ended, Unix time in milliseconds.
    pub ended_ms: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DrainState {
    Draining,
    /// Nothing was left, on any node.
    Drained,
    /// The deadline came first; what was left has been cut.
    Forced,
    Cancelled,
    /// The endpoint was deleted or replaced meanwhile.
    Removed,
}

/// What a command came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "outcome", deny_unknown_fields)]
pub enum Outcome {
    Applied { epoch: Epoch, drain: Option<DrainId> },
    Rejected { reason: Rejection },
}

/// Why a valid command cannot be applied to the present state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case", tag = "code", deny_unknown_fields)]
pub enum Rejection {
    #[error("there is no pool {pool}")]
    UnknownPool { pool: Name },
    #[error("pool {pool} has no endpoint {endpoint}")]
    UnknownEndpoint { pool: Name, endpoint: Name },
    #[error("there is no route {route}")]
    UnknownRoute { route: Name },
    #[error("pool {pool} is used by route {route}: delete or change that first")]
    PoolInUse { pool: Name, route: Name },
    #[error("route {other} already has this host and path prefix")]
    DuplicateRoute { other: Name },
    #[error("endpoint {other} of this pool already has the address {address}")]
    DuplicateAddress { other: Name, address: String },
    #[error("endpoint {endpoint} of pool {pool} is {phase}, it cannot be drained again")]
    NotActive { pool: Name, endpoint: Name, phase: String },
    #[error("endpoint {endpoint} of pool {pool} is not draining or drained")]
    NotDraining { pool: Name, endpoint: Name },
    #[error("the drain {drain} is not under way")]
    UnknownDrain { drain: DrainId },
    #[error(
        "this needs level {needed} of the fleet's language, and the fleet has {level}: not every node has been upgraded, or \
         heard of since. tidelock node list shows their versions"
    )]
    FleetTooOld { needed: u32, level: u32 },
    #[error("node {node} was removed, and its id is not used again: wipe its data directory, then it is another node")]
    NodeGone { node: NodeId },
    #[error("there is no such join token: it is wrong, used, or too old")]
    UnknownJoinToken {},
    #[error("at most {limit} {what}")]
    LimitReached { what: String, limit: u64 },
    #[error("this node cannot read the command: {detail}")]
    Unreadable { detail: String },
    #[error("command {index} of the batch: {reason}")]
    InBatch { index: u64, reason: Box<Rejection> },
}

impl State {
    /// Applies the entry at `epoch`. A rejected command changes nothing but the epoch.
    pub fn apply(&mut self, epoch: Epoch, proposal: &Proposal) -> Outcome {
        self.epoch = Some(epoch);
        if let Err(reason) = self.check_level(&proposal.command) {
            // Not remembered under its key: older nodes cannot read the key either.
            return Outcome::Rejected { reason };
        }
        if let Some(key) = &proposal.key
            && let Some((_, outcome)) = self.answered.iter().find(|(known, _)| known == key)
        {
            return outcome.clone();
        }
        let outcome = match self.try_apply(epoch, proposal.at_ms, &proposal.command) {
            Ok(drain) => Outcome::Applied { epoch, drain },
            Err(reason) => Outcome::Rejected { reason },
        };
        if let Some(key) = &proposal.key {
            if self.answered.len() == KEYS_KEPT {
                self.answered.pop_front();
            }
            self.answered.push_back((key.clone(), outcome.clone()));
        }
        outcome
    }

    /// What applying `command` now would come to, without doing it.
    pub fn check(&self, now_ms: u64, command: &Command) -> Result<(), Rejection> {
        self.check_level(command)?;
        let mut copy = self.clone();
        let epoch = Epoch(self.epoch.map_or(0, |e| e.0) + 1);
        copy.try_apply(epoch, now_ms, command).map(|_| ())
    }

    /// What every member of the fleet can read.
    pub fn level(&self) -> u32 {
        self.level.max(1)
    }

    fn check_level(&self, command: &Command) -> Result<(), Rejection> {
        let (needed, level) = (command.level(), self.level());
        if needed > level { Err(Rejection::FleetTooOld { needed, level }) } else { Ok(()) }
    }

    fn try_apply(&mut self, epoch: Epoch, now_ms: u64, command: &Command) -> Result<Option<DrainId>, Rejection> {
        match command {
            Command::PutPool { name, spec } => self.put_pool(name, spec, now_ms).map(|()| None),
            Command::DeletePool { name } => self.delete_pool(name, now_ms).map(|()| None),
            Command::PutEndpoint { pool, name, spec } => self.put_endpoint(pool, name, spec, now_ms).map(|()| None),
            Command::DeleteEndpoint { pool, name } => self.delete_endpoint(pool, name, now_ms).map(|()| None),
            Command::PutRoute { name, spec } => self.put_route(name, spec).map(|()| None),
            Command::DeleteRoute { name } => match self.routes.remove(name) {
                Some(_) => Ok(None),
                None => Err(Rejection::UnknownRoute { route: name.clone() }),
            },
            Command::StartDrain { pool, endpoint, mode, deadline_ms, reason } => {
                let drain = self.free_drain_id(epoch);
                let (phase, id) = {
                    let endpoint = self.endpoint_mut(pool, endpoint)?;
                    (&mut endpoint.phase, endpoint.id)
                };
                if !matches!(phase, Phase::Active {}) {
                    let phase = phase.name().to_owned();
                    return Err(Rejection::NotActive { pool: pool.clone(), endpoint: endpoint.clone(), phase });
                }
                *phase = Phase::Draining { drain, mode: *mode, deadline_ms: *deadline_ms };
                let record = Drain {
                    pool: pool.clone(),
                    endpoint: endpoint.clone(),
                    endpoint_id: id,
                    mode: *mode,
                    started_ms: now_ms,
                    deadline_ms: *deadline_ms,
                    reason: reason.clone(),
                    state: DrainState::Draining,
                    ended_ms: None,
                };
                self.drains.insert(drain, record);
                Ok(Some(drain))
            }
            Command::CancelDrain { pool, endpoint } => {
                let target = self.endpoint_mut(pool, endpoint)?;
                let Some(drain) = target.phase.drain() else {
                    return Err(Rejection::NotDraining { pool: pool.clone(), endpoint: endpoint.clone() });
                };
                target.phase = Phase::Active {};
                self.end_drain(drain, DrainState::Cancelled, now_ms);
                Ok(Some(drain))
            }
            Command::FinishDrain { drain, forced } => {
                let under_way = self.drains.get(drain).filter(|d| d.state == DrainState::Draining);
                let Some((pool, endpoint)) = under_way.map(|d| (d.pool.clone(), d.endpoint.clone())) else {
                    return Err(Rejection::UnknownDrain { drain: *drain });
                };
                self.endpoint_mut(&pool, &endpoint)?.phase = Phase::Drained { drain: *drain };
                let state = if *forced { DrainState::Forced } else { DrainState::Drained };
                self.end_drain(*drain, state, now_ms);
                Ok(Some(*drain))
            }
            Command::PutCookieKey { key } => {
                self.cookie_keys.retain(|known| known.id != key.id);
                self.cookie_keys.push(key.clone());
                if self.cookie_keys.len() > MAX_COOKIE_KEYS {
                    self.cookie_keys.remove(0);
                }
                Ok(None)
            }
            Command::SetHealth { pool, endpoint, id, verdict, detail } => {
                let target = self.endpoint_mut(pool, endpoint)?;
                if target.id != *id {
                    return Err(Rejection::UnknownEndpoint { pool: pool.clone(), endpoint: endpoint.clone() });
                }
                target.health.set(*verdict, detail, now_ms);
                Ok(None)
            }
            Command::SetObservers { nodes } => {
                self.observers = Observers { nodes: nodes.clone(), since: Some(epoch) };
                Ok(None)
            }
            Command::SetLevel { level } => {
                self.level = self.level.max(*level);
                Ok(None)
            }
            Command::SetMember { node, wanted } => self.set_member(*node, *wanted).map(|()| None),
            Command::PutJoinToken { token } => {
                self.join_tokens.retain(|known| known.expires_ms > now_ms && known.sha256 != token.sha256);
                if self.join_tokens.len() >= MAX_JOIN_TOKENS {
                    return Err(Rejection::LimitReached { what: "join tokens".into(), limit: MAX_JOIN_TOKENS as u64 });
                }
                self.join_tokens.push(token.clone());
                Ok(None)
            }
            Command::UseJoinToken { sha256, node } => {
                let is_good = |token: &JoinToken| token.sha256 == *sha256 && token.expires_ms > now_ms;
                let place = self.join_tokens.iter().position(is_good).ok_or(Rejection::UnknownJoinToken {})?;
                let wanted = self.join_tokens[place].wanted;
                self.set_member(*node, wanted)?;
                self.join_tokens.remove(place);
                Ok(None)
            }
            Command::Batch { commands } => {
                // All or nothing: work on a copy. Pools and routes are shared, so it is cheap.
                let mut copy = self.clone();
                let mut last = None;
                for (index, command) in commands.iter().enumerate() {
                    let in_batch = |reason| Rejection::InBatch { index: index as u64, reason: Box::new(reason) };
                    last = copy.try_apply(epoch, now_ms, command).map_err(in_batch)?.or(last);
                }
                *self = copy;
                Ok(last)
            }
        }
    }

    fn set_member(&mut self, node: NodeId, wanted: Wanted) -> Result<(), Rejection> {
        let before = self.members.get(&node);
        if before == Some(&Wanted::Gone) && wanted != Wanted::Gone {
            return Err(Rejection::NodeGone { node });
        }
        if before.is_none() && self.members.len() >= MAX_MEMBERS {
            return Err(Rejection::LimitReached { what: "nodes".into(), limit: MAX_MEMBERS as u64 });
        }
        self.members.insert(node, wanted);
        Ok(())
    }

    fn put_pool(&mut self, name: &Name, spec: &PoolSpec, now_ms: u64) -> Result<(), Rejection> {
        if let Some(pool) = self.pools.get_mut(name) {
            if pool.spec != *spec {
                let pool = Arc::make_mut(pool);
                pool.spec = spec.clone();
                if spec.health.is_none() {
                    // What nobody looks at any more counts as up.
                    pool.endpoints.values_mut().for_each(|e| e.health.set(Verdict::Up, "", now_ms));
                }
            }
            return Ok(());
        }
        if self.pools.len() >= MAX_POOLS {
            return Err(Rejection::LimitReached { what: "pools".into(), limit: MAX_POOLS as u64 });
        }
        let id = PoolId(self.mint());
        self.pools.insert(name.clone(), Arc::new(Pool { id, spec: spec.clone(), endpoints: BTreeMap::new() }));
        Ok(())
    }

    fn delete_pool(&mut self, name: &Name, now_ms: u64) -> Result<(), Rejection> {
        if let Some((route, _)) = self.routes.iter().find(|(_, spec)| spec.pool == *name) {
            return Err(Rejection::PoolInUse { pool: name.clone(), route: route.clone() });
        }
        let pool = self.pools.remove(name).ok_or_else(|| Rejection::UnknownPool { pool: name.clone() })?;
        for drain in pool.endpoints.values().filter_map(|e| e.phase.drain()) {
            self.end_drain(drain, DrainState::Removed, now_ms);
        }
        Ok(())
    }

    fn put_endpoint(&mut self, pool: &Name, name: &Name, spec: &EndpointSpec, now_ms: u64) -> Result<(), Rejection> {
        let known = self.pools.get(pool).ok_or_else(|| Rejection::UnknownPool { pool: pool.clone() })?;
        let twin = known.endpoints.iter().find(|(other, e)| *other != name && e.spec.address == spec.address);
        if let Some((other, _)) = twin {
            let address = spec.address.to_string();
            return Err(Rejection::DuplicateAddress { other: other.clone(), address });
        }
        let before = known.endpoints.get(name).map(|e| (e.spec.clone(), e.phase));
        if before.is_none() && known.endpoints.len() >= MAX_ENDPOINTS_PER_POOL {
            let limit = MAX_ENDPOINTS_PER_POOL as u64;
            return Err(Rejection::LimitReached { what: "endpoints in a pool".into(), limit });
        }
        // Another address is another process: it gets a number of its own, begins active, and
        // pins to the old one are lost rather than sent to a stranger.
        match before {
            Some((old, _)) if old == *spec => {}
            Some((old, _)) if old.address == spec.address => {
                self.endpoint_mut(pool, name)?.spec = spec.clone();
            }
            replaced => {
                let id = EndpointId(self.mint());
                let health = Health::new(now_ms);
                let endpoint = Endpoint { id, spec: spec.clone(), phase: Phase::Active {}, health };
                if let Some(pool) = self.pools.get_mut(pool) {
                    Arc::make_mut(pool).endpoints.insert(name.clone(), endpoint);
                }
                if let Some(drain) = replaced.and_then(|(_, phase)| phase.drain()) {
                    self.end_drain(drain, DrainState::Removed, now_ms);
                }
            }
        }
        Ok(())
    }

    fn delete_endpoint(&mut self, pool: &Name, name: &Name, now_ms: u64) -> Result<(), Rejection> {
        let phase = self.endpoint_mut(pool, name)?.phase;
        if let Some(pool) = self.pools.get_mut(pool) {
            Arc::make_mut(pool).endpoints.remove(name);
        }
        if let Some(drain) = phase.drain() {
            self.end_drain(drain, DrainState::Removed, now_ms);
        }
        Ok(())
    }

    fn put_route(&mut self, name: &Name, spec: &RouteSpec) -> Result<(), Rejection> {
        if !self.pools.contains_key(&spec.pool) {
            return Err(Rejection::UnknownPool { pool: spec.pool.clone() });
        }
        let same = |other: &RouteSpec| other.host == spec.host && other.path_prefix == spec.path_prefix;
        if let Some((other, _)) = self.routes.iter().find(|(other, s)| *other != name && same(s)) {
            return Err(Rejection::DuplicateRoute { other: other.clone() });
        }
        if !self.routes.contains_key(name) && self.routes.len() >= MAX_ROUTES {
            return Err(Rejection::LimitReached { what: "routes".into(), limit: MAX_ROUTES as u64 });
        }
        if self.routes.get(name).is_none_or(|known| **known != *spec) {
            self.routes.insert(name.clone(), Arc::new(spec.clone()));
        }
        Ok(())
    }

    fn endpoint_mut(&mut self, pool: &Name, endpoint: &Name) -> Result<&mut Endpoint, Rejection> {
        let known = self.pools.get_mut(pool).ok_or_else(|| Rejection::UnknownPool { pool: pool.clone() })?;
        if !known.endpoints.contains_key(endpoint) {
            return Err(Rejection::UnknownEndpoint { pool: pool.clone(), endpoint: endpoint.clone() });
        }
        Ok(Arc::make_mut(known).endpoints.get_mut(endpoint).expect("looked up above"))
    }

    /// A drain is named for the epoch that began it. A batch can begin several in one epoch:
    /// those behind the first count on in the upper bits.
    fn free_drain_id(&self, epoch: Epoch) -> DrainId {
        let mut id = DrainId(epoch.0);
        while self.drains.contains_key(&id) {
            id.0 += 1 << 48;
        }
        id
    }

    fn end_drain(&mut self, drain: DrainId, state: DrainState, now_ms: u64) {
        if let Some(record) = self.drains.get_mut(&drain) {
            record.state = state;
            record.ended_ms = Some(now_ms);
        }
        let ended = self.drains.iter().filter(|(_, d)| d.state != DrainState::Draining);
        let held =
            |id: &DrainId| self.pools.values().any(|p| p.endpoints.values().any(|e| e.phase.drain() == Some(*id)));
        let surplus = ended.clone().count().saturating_sub(ENDED_DRAINS_KEPT);
        let old: Vec<DrainId> = ended.map(|(id, _)| *id).filter(|id| !held(id)).take(surplus).collect();
        for id in old {
            self.drains.remove(&id);
        }
    }

    fn mint(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// The whole state, for a Raft snapshot: one version byte and JSON.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![crate::command::VERSION];
        serde_json::to_writer(&mut bytes, self).expect("maps have string keys and a Vec takes every write");
        bytes
    }

    pub fn decode(bytes: &[u8]) -> Result<State, crate::command::DecodeError> {
        use crate::command::{DecodeError, VERSION};
        match bytes.split_first() {
            None => Err(DecodeError::Empty),
            Some((&VERSION, json)) => serde_json::from_slice(json).map_err(DecodeError::Json),
            Some((&version, _)) => Err(DecodeError::Version(version)),
        }
    }
}

#[cfg(test)]
mod tests;
