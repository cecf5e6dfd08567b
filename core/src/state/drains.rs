//! Drains in the state: begun, cancelled, ended, and closing at a pace.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Endpoint, Phase, Rejection, SESSIONS_LEVEL, State};
use crate::command::DrainMode;
use crate::id::{DrainId, EndpointId, Epoch, Name, NodeId, SwitchoverId};
use crate::pace::Pace;

/// Drains that have ended are kept for people to look at, this many.
const ENDED_DRAINS_KEPT: usize = 64;

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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pace: Option<Pace>,
    /// That it is a part of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub switchover: Option<SwitchoverId>,
    /// How much of the pace each node closes at, in closes in 1,000 seconds.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub shares: BTreeMap<NodeId, u64>,
    /// When it stopped to let its sessions in, if that was later than its begin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed: Option<Epoch>,
    /// The epoch of the shares.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared: Option<Epoch>,
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

/// How an endpoint shall drain.
#[derive(Debug, Clone)]
pub(super) struct DrainPlan {
    pub(super) mode: DrainMode,
    pub(super) deadline_ms: Option<u64>,
    pub(super) pace: Option<Pace>,
    pub(super) reason: String,
    pub(super) switchover: Option<SwitchoverId>,
}

impl State {
    pub(super) fn start_drain(
        &mut self,
        epoch: Epoch,
        now_ms: u64,
        pool: &Name,
        endpoint: &Name,
        plan: DrainPlan,
    ) -> Result<DrainId, Rejection> {
        let drain = DrainId::free(epoch, |id| self.drains.contains_key(id));
        let DrainPlan { mode, deadline_ms, pace, reason, switchover } = plan;
        let Endpoint { phase, id, .. } = self.endpoint_mut(pool, endpoint)?;
        if !matches!(phase, Phase::Active {}) {
            let phase = phase.name().to_owned();
            return Err(Rejection::NotActive { pool: pool.clone(), endpoint: endpoint.clone(), phase });
        }
        *phase = Phase::Draining { drain, mode, deadline_ms };
        let record = Drain {
            pool: pool.clone(),
            endpoint: endpoint.clone(),
            endpoint_id: *id,
            mode,
            started_ms: now_ms,
            deadline_ms,
            reason,
            state: DrainState::Draining,
            ended_ms: None,
            pace,
            switchover,
            shares: BTreeMap::new(),
            closed: None,
            shared: None,
        };
        self.drains.insert(drain, record);
        // A switchover has named its own.
        if self.level() >= SESSIONS_LEVEL
            && switchover.is_none()
            && let Some(pool) = self.pools.get_mut(pool)
        {
            Arc::make_mut(pool).bequeath(endpoint);
        }
        Ok(drain)
    }

    pub(super) fn cancel_drain(&mut self, pool: &Name, endpoint: &Name, now_ms: u64) -> Result<DrainId, Rejection> {
        let target = self.endpoint_mut(pool, endpoint)?;
        let Some(drain) = target.phase.drain() else {
            return Err(Rejection::NotDraining { pool: pool.clone(), endpoint: endpoint.clone() });
        };
        target.phase = Phase::Active {};
        if let Some(pool) = self.pools.get_mut(pool) {
            Arc::make_mut(pool).disinherit(endpoint);
        }
        self.end_drain(drain, DrainState::Cancelled, now_ms);
        Ok(drain)
    }

    pub(super) fn finish_drain(&mut self, drain: DrainId, forced: bool, now_ms: u64) -> Result<DrainId, Rejection> {
        let (pool, endpoint) = self.under_way(drain)?;
        self.endpoint_mut(&pool, &endpoint)?.phase = Phase::Drained { drain };
        let state = if forced { DrainState::Forced } else { DrainState::Drained };
        self.end_drain(drain, state, now_ms);
        Ok(drain)
    }

    /// Drains that have ended, or whose parts are others, since `seen` are passed over.
    pub(crate) fn share_closing(
        &mut self,
        epoch: Epoch,
        seen: Option<Epoch>,
        shares: &BTreeMap<DrainId, BTreeMap<NodeId, u64>>,
    ) {
        for (id, shares) in shares {
            let is_as_seen = |drain: &&mut Drain| drain.state == DrainState::Draining && drain.shared <= seen;
            if let Some(drain) = self.drains.get_mut(id).filter(is_as_seen) {
                drain.shares.clone_from(shares);
                drain.shared = Some(epoch);
            }
        }
    }

    pub(super) fn end_sessions(&mut self, epoch: Epoch, drain: DrainId) -> Result<DrainId, Rejection> {
        let (pool, endpoint) = self.under_way(drain)?;
        if let Phase::Draining { mode, .. } = &mut self.endpoint_mut(&pool, &endpoint)?.phase {
            *mode = DrainMode::Streams;
        }
        if let Some(record) = self.drains.get_mut(&drain) {
            record.mode = DrainMode::Streams;
            record.closed = Some(epoch);
        }
        Ok(drain)
    }

    fn under_way(&self, drain: DrainId) -> Result<(Name, Name), Rejection> {
        let record = self.drains.get(&drain).filter(|drain| drain.state == DrainState::Draining);
        let record = record.ok_or(Rejection::UnknownDrain { drain })?;
        Ok((record.pool.clone(), record.endpoint.clone()))
    }

    pub(super) fn end_drain(&mut self, drain: DrainId, state: DrainState, now_ms: u64) {
        if let Some(record) = self.drains.get_mut(&drain) {
            record.state = state;
            record.ended_ms = Some(now_ms);
        }
        let ended = self.drains.iter().filter(|(_, d)| d.state != DrainState::Draining);
        let held =
            |id: &DrainId| self.pools.values().any(|p| p.endpoints.values().any(|e| e.phase.drain() == Some(*id)));
        let ended: Vec<DrainId> = ended.map(|(id, _)| *id).filter(|id| !held(id)).collect();
        let surplus = ended.len().saturating_sub(ENDED_DRAINS_KEPT);
        let old = ended.into_iter().take(surplus);
        for id in old {
            self.drains.remove(&id);
        }
    }
}
