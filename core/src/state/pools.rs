//! Pools, endpoints and routes in the state: put, deleted, replaced.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{
    DrainState, Endpoint, MAX_ENDPOINTS_PER_POOL, MAX_POOLS, MAX_ROUTES, Phase, Pool, Rejection, SESSIONS_LEVEL, State,
};
use crate::health::{Health, Verdict};
use crate::id::{EndpointId, Name, PoolId};
use crate::spec::{EndpointSpec, PoolSpec, RouteSpec};
use crate::switchover::Stage;

impl State {
    pub(super) fn put_pool(&mut self, name: &Name, spec: &PoolSpec, now_ms: u64) -> Result<(), Rejection> {
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
        self.pools.insert(
            name.clone(),
            Arc::new(Pool {
                id,
                spec: spec.clone(),
                endpoints: BTreeMap::new(),
                gone: BTreeMap::new(),
                revisions: BTreeMap::new(),
            }),
        );
        Ok(())
    }

    pub(super) fn delete_pool(&mut self, name: &Name, now_ms: u64) -> Result<(), Rejection> {
        if let Some((route, _)) = self.routes.iter().find(|(_, spec)| spec.pool == *name) {
            return Err(Rejection::PoolInUse { pool: name.clone(), route: route.clone() });
        }
        let pool = self.pools.remove(name).ok_or_else(|| Rejection::UnknownPool { pool: name.clone() })?;
        let of_pool = self.switchovers.iter().find(|(_, s)| s.pool == *name && s.stage.is_under_way());
        if let Some(id) = of_pool.map(|(id, _)| *id) {
            self.end_switchover(id, Stage::RolledBack, "the pool was deleted", now_ms);
        }
        for drain in pool.endpoints.values().filter_map(|e| e.phase.drain()) {
            self.end_drain(drain, DrainState::Removed, now_ms);
        }
        Ok(())
    }

    pub(super) fn put_endpoint(
        &mut self,
        pool: &Name,
        name: &Name,
        spec: &EndpointSpec,
        now_ms: u64,
    ) -> Result<(), Rejection> {
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
                let endpoint = Endpoint {
                    id,
                    spec: spec.clone(),
                    phase: Phase::Active {},
                    health,
                    heirs: Vec::new(),
                    inherited: 0,
                    pins_revoked_s: 0,
                };
                if let Some(pool) = self.pools.get_mut(pool).map(Arc::make_mut)
                    && let Some(old) = pool.endpoints.insert(name.clone(), endpoint)
                {
                    pool.remember(old);
                }
                if let Some(drain) = replaced.and_then(|(_, phase)| phase.drain()) {
                    self.end_drain(drain, DrainState::Removed, now_ms);
                }
            }
        }
        if self.level() >= SESSIONS_LEVEL
            && let Some(pool) = self.pools.get_mut(pool)
            && let Some(id) = pool.endpoints.get(name).map(|endpoint| endpoint.id)
        {
            Arc::make_mut(pool).saw_revision(spec.revision.as_ref(), id);
        }
        Ok(())
    }

    pub(super) fn delete_endpoint(&mut self, pool: &Name, name: &Name, now_ms: u64) -> Result<(), Rejection> {
        let phase = self.endpoint_mut(pool, name)?.phase;
        let knows_heirs = self.level() >= SESSIONS_LEVEL;
        if let Some(pool) = self.pools.get_mut(pool).map(Arc::make_mut) {
            if knows_heirs && matches!(phase, Phase::Active {}) {
                pool.bequeath(name);
            }
            if let Some(endpoint) = pool.endpoints.remove(name) {
                pool.remember(endpoint);
            }
        }
        if let Some(drain) = phase.drain() {
            self.end_drain(drain, DrainState::Removed, now_ms);
        }
        Ok(())
    }

    pub(super) fn put_route(&mut self, name: &Name, spec: &RouteSpec) -> Result<(), Rejection> {
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

    pub(super) fn revoke_pins(&mut self, pool: &Name, endpoint: Option<&Name>, now_ms: u64) -> Result<(), Rejection> {
        let until = u32::try_from(now_ms / 1_000).unwrap_or(u32::MAX);
        if let Some(endpoint) = endpoint {
            self.endpoint_mut(pool, endpoint)?.pins_revoked_s = until;
            return Ok(());
        }
        let known = self.pools.get_mut(pool).ok_or_else(|| Rejection::UnknownPool { pool: pool.clone() })?;
        Arc::make_mut(known).endpoints.values_mut().for_each(|endpoint| endpoint.pins_revoked_s = until);
        Ok(())
    }

    pub(super) fn endpoint_mut(&mut self, pool: &Name, endpoint: &Name) -> Result<&mut Endpoint, Rejection> {
        let known = self.pools.get_mut(pool).ok_or_else(|| Rejection::UnknownPool { pool: pool.clone() })?;
        if !known.endpoints.contains_key(endpoint) {
            return Err(Rejection::UnknownEndpoint { pool: pool.clone(), endpoint: endpoint.clone() });
        }
        Ok(Arc::make_mut(known).endpoints.get_mut(endpoint).expect("looked up above"))
    }
}
