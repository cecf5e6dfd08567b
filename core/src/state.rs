//! What the fleet has agreed on, and what each command does to it.
//!
//! [`State::apply`] is total and deterministic: equal logs give equal states on every node, of
//! every build. Pools and routes are shared by `Arc`: a change copies the one that it touches,
//! and the table compiler sees by the pointer what has not changed.

mod drains;
mod heirs;
mod members;
mod outcome;
mod pools;
mod switchovers;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use self::drains::DrainPlan;
use self::outcome::Made;
use crate::affinity::CookieKey;
use crate::command::{Command, DrainMode, IdempotencyKey, Proposal};
use crate::health::Health;
use crate::id::{DrainId, EndpointId, Epoch, Name, NodeId, PoolId, SwitchoverId};
use crate::member::{JoinToken, Wanted};
use crate::ring::RingHash;
use crate::spec::{EndpointSpec, PoolSpec, RouteSpec};
use crate::switchover::Switchover;

pub use self::drains::{Drain, DrainState};
pub use self::outcome::{Outcome, Rejection};

/// Repeats are recognised among this many of the newest proposals that carried a key.
const KEYS_KEPT: usize = 1_024;
/// Bounds on the state, which travels whole in a Raft snapshot.
pub const MAX_POOLS: usize = 10_000;
pub const MAX_ENDPOINTS_PER_POOL: usize = 10_000;
pub const MAX_ROUTES: usize = 20_000;
/// From this level of the log's language on endpoints have heirs, and some commands are looked at more
/// closely: nodes that speak less take them as they are.
pub(crate) const SESSIONS_LEVEL: u32 = 3;
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
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub switchovers: BTreeMap<SwitchoverId, Switchover>,
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
    /// The heirs of endpoints that are gone.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    gone: BTreeMap<EndpointId, Vec<EndpointId>>,
    /// The first endpoint of each revision that is in use.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    revisions: BTreeMap<Name, EndpointId>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    pub id: EndpointId,
    pub spec: EndpointSpec,
    pub phase: Phase,
    #[serde(default)]
    pub health: Health,
    /// Where its sessions go when they lose it; empty: wherever the ring says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    heirs: Vec<EndpointId>,
    /// Pins that were given until this time count no more; Unix time in seconds.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub pins_revoked_s: u32,
    /// How many endpoints it has taken over from.
    #[serde(default, skip_serializing_if = "is_zero")]
    inherited: u32,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
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
            Ok(made) => Outcome::Applied { epoch, drain: made.drain(), switchover: made.switchover() },
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

    fn try_apply(&mut self, epoch: Epoch, now_ms: u64, command: &Command) -> Result<Made, Rejection> {
        match command {
            Command::PutPool { name, spec } => self.put_pool(name, spec, now_ms).map(|()| Made::Nothing),
            Command::DeletePool { name } => self.delete_pool(name, now_ms).map(|()| Made::Nothing),
            Command::PutEndpoint { pool, name, spec } => {
                self.put_endpoint(pool, name, spec, now_ms).map(|()| Made::Nothing)
            }
            Command::DeleteEndpoint { pool, name } => self.delete_endpoint(pool, name, now_ms).map(|()| Made::Nothing),
            Command::PutRoute { name, spec } => self.put_route(name, spec).map(|()| Made::Nothing),
            Command::DeleteRoute { name } => match self.routes.remove(name) {
                Some(_) => Ok(Made::Nothing),
                None => Err(Rejection::UnknownRoute { route: name.clone() }),
            },
            Command::StartDrain { pool, endpoint, mode, deadline_ms, reason, pace } => {
                let plan = DrainPlan {
                    mode: *mode,
                    deadline_ms: *deadline_ms,
                    pace: *pace,
                    reason: reason.clone(),
                    switchover: None,
                };
                self.start_drain(epoch, now_ms, pool, endpoint, plan).map(Made::Drain)
            }
            Command::CancelDrain { pool, endpoint } => self.cancel_drain(pool, endpoint, now_ms).map(Made::Drain),
            Command::FinishDrain { drain, forced } => self.finish_drain(*drain, *forced, now_ms).map(Made::Drain),
            Command::ShareClosing { shares, seen } => {
                self.share_closing(epoch, *seen, shares);
                Ok(Made::Nothing)
            }
            Command::EndSessions { drain } => self.end_sessions(epoch, *drain).map(Made::Drain),
            Command::StartSwitchover { pool, spec } => {
                self.start_switchover(epoch, now_ms, pool, spec).map(Made::Switchover)
            }
            Command::ShiftSwitchover { switchover } => {
                self.shift_switchover(epoch, now_ms, *switchover).map(Made::Switchover)
            }
            Command::FinishSwitchover { switchover } => {
                self.finish_switchover(*switchover, now_ms).map(Made::Switchover)
            }
            Command::RollBackSwitchover { switchover, reason } => {
                self.roll_back_switchover(epoch, now_ms, *switchover, reason).map(Made::Switchover)
            }
            Command::RevokePins { pool, endpoint } => {
                self.revoke_pins(pool, endpoint.as_ref(), now_ms).map(|()| Made::Nothing)
            }
            Command::PutCookieKey { key } => self.put_cookie_key(key).map(|()| Made::Nothing),
            Command::SetHealth { pool, endpoint, id, verdict, detail } => {
                let target = self.endpoint_mut(pool, endpoint)?;
                if target.id != *id {
                    return Err(Rejection::UnknownEndpoint { pool: pool.clone(), endpoint: endpoint.clone() });
                }
                if self.level() >= SESSIONS_LEVEL && self.pools[pool].spec.health.is_none() {
                    // The check was taken away meanwhile: nobody would ever call it up again.
                    return Err(Rejection::NotChecked { pool: pool.clone() });
                }
                let target = self.endpoint_mut(pool, endpoint)?;
                target.health.set(*verdict, detail, now_ms);
                Ok(Made::Nothing)
            }
            Command::SetObservers { nodes } => {
                self.observers = Observers { nodes: nodes.clone(), since: Some(epoch) };
                Ok(Made::Nothing)
            }
            Command::SetLevel { level } => {
                self.level = self.level.max(*level);
                Ok(Made::Nothing)
            }
            Command::SetMember { node, wanted } => self.set_member(*node, *wanted).map(|()| Made::Nothing),
            Command::PutJoinToken { token } => self.put_join_token(token, now_ms).map(|()| Made::Nothing),
            Command::UseJoinToken { sha256, node } => {
                self.use_join_token(sha256, *node, now_ms).map(|()| Made::Nothing)
            }
            Command::Batch { commands } => {
                // All or nothing: work on a copy. Pools and routes are shared, so it is cheap.
                let mut copy = self.clone();
                let mut last = Made::Nothing;
                for (index, command) in commands.iter().enumerate() {
                    let in_batch = |reason| Rejection::InBatch { index: index as u64, reason: Box::new(reason) };
                    last = last.then(copy.try_apply(epoch, now_ms, command).map_err(in_batch)?);
                }
                *self = copy;
                Ok(last)
            }
        }
    }

    fn put_cookie_key(&mut self, key: &CookieKey) -> Result<(), Rejection> {
        if self.level() >= SESSIONS_LEVEL {
            // Two that rotate at once must not take each other's key away, nor a late word its place.
            if let Some(known) = self.cookie_keys.iter_mut().find(|known| known.id == key.id) {
                if known.secret != key.secret {
                    return Err(Rejection::KeyExists { id: key.id });
                }
                known.promoted |= key.promoted;
                return Ok(());
            }
            if let Some(waiting) = self.cookie_keys.iter().find(|known| !known.promoted) {
                return Err(Rejection::KeyWaiting { id: waiting.id });
            }
        }
        self.cookie_keys.retain(|known| known.id != key.id);
        self.cookie_keys.push(key.clone());
        if self.cookie_keys.len() > MAX_COOKIE_KEYS {
            self.cookie_keys.remove(0);
        }
        Ok(())
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
