//! Switchovers in the state: begun, shifted, finished, rolled back.

use std::sync::Arc;

use super::drains::DrainPlan;
use super::{Endpoint, Phase, Pool, Rejection, State};
use crate::command::DrainMode;
use crate::health::Verdict;
use crate::id::{Epoch, Name, SwitchoverId};
use crate::switchover::{Stage, Switchover, SwitchoverSpec};

/// More would weigh on every table: the ring decides then.
const MOST_BEQUESTS: usize = 4_096;
/// Switchovers that have ended are kept for people to look at, this many.
const ENDED_SWITCHOVERS_KEPT: usize = 64;

impl State {
    pub(super) fn start_switchover(
        &mut self,
        epoch: Epoch,
        now_ms: u64,
        pool: &Name,
        spec: &SwitchoverSpec,
    ) -> Result<SwitchoverId, Rejection> {
        let known = self.pools.get(pool).ok_or_else(|| Rejection::UnknownPool { pool: pool.clone() })?;
        // Two at once would each take the other's new side for its old one.
        let other = self.switchovers.iter().find(|(_, s)| s.pool == *pool && s.stage.is_under_way());
        if let Some((switchover, _)) = other {
            return Err(Rejection::SwitchoverUnderWay { pool: pool.clone(), switchover: *switchover });
        }
        if spec.old_side(known).next().is_none() {
            return Err(Rejection::NothingToReplace { pool: pool.clone() });
        }
        let id = SwitchoverId::free(epoch, |id| self.switchovers.contains_key(id));
        let switchover = Switchover {
            pool: pool.clone(),
            spec: spec.clone(),
            started_ms: now_ms,
            stage: Stage::Waiting,
            drains: Vec::new(),
            shifted_ms: None,
            ended_ms: None,
            detail: String::new(),
        };
        self.switchovers.insert(id, switchover);
        Ok(id)
    }

    pub(super) fn shift_switchover(
        &mut self,
        epoch: Epoch,
        now_ms: u64,
        id: SwitchoverId,
    ) -> Result<SwitchoverId, Rejection> {
        let (switchover, pool) = self.switchover(id, |stage| stage == Stage::Waiting)?;
        let spec = &switchover.spec;
        let up = spec.new_side(pool).filter(|(_, endpoint)| endpoint.health.verdict == Verdict::Up).count();
        if up < spec.min_ready as usize {
            return Err(Rejection::NotReady {});
        }
        let old: Vec<Name> = spec.old_side(pool).map(|(name, _)| name.clone()).collect();
        let new: Vec<Name> = spec.new_side(pool).map(|(name, _)| name.clone()).collect();
        let (pool, plan) = (switchover.pool.clone(), plan(id, spec, spec.mode, now_ms));
        let mut drains = Vec::new();
        for endpoint in &old {
            drains.push(self.start_drain(epoch, now_ms, &pool, endpoint, plan.clone())?);
        }
        self.bequeath_all(&pool, &old, &new);
        self.change_switchover(id, |switchover| {
            switchover.stage = Stage::Draining;
            switchover.shifted_ms = Some(now_ms);
            switchover.drains = drains;
        });
        Ok(id)
    }

    pub(super) fn finish_switchover(&mut self, id: SwitchoverId, now_ms: u64) -> Result<SwitchoverId, Rejection> {
        self.switchover(id, |stage| stage == Stage::Draining)?;
        self.end_switchover(id, Stage::Done, "", now_ms);
        Ok(id)
    }

    /// What of the old side still drains is active again; what has drained was called safe to stop, and
    /// may have been. The new side drains, so that its sessions come back too. One that only waited leaves
    /// nothing behind.
    pub(super) fn roll_back_switchover(
        &mut self,
        epoch: Epoch,
        now_ms: u64,
        id: SwitchoverId,
        reason: &str,
    ) -> Result<SwitchoverId, Rejection> {
        let (switchover, pool) = self.switchover(id, Stage::is_under_way)?;
        if switchover.stage == Stage::Draining {
            let spec = &switchover.spec;
            let of_it =
                |phase: &Phase| matches!(phase, Phase::Draining { drain, .. } if switchover.drains.contains(drain));
            let old: Vec<Name> =
                pool.endpoints.iter().filter(|(_, e)| of_it(&e.phase)).map(|(name, _)| name.clone()).collect();
            let new: Vec<Name> = spec.new_side(pool).map(|(name, _)| name.clone()).collect();
            let name = switchover.pool.clone();
            if old.is_empty() {
                return Err(Rejection::NothingToReturnTo { pool: name });
            }
            let plan = plan(id, spec, DrainMode::Streams, now_ms);
            for endpoint in &old {
                self.cancel_drain(&name, endpoint, now_ms)?;
            }
            for endpoint in &new {
                self.start_drain(epoch, now_ms, &name, endpoint, plan.clone())?;
            }
            self.bequeath_all(&name, &new, &old);
        }
        self.end_switchover(id, Stage::RolledBack, reason, now_ms);
        Ok(id)
    }

    /// What lived on any of `from` goes to all of `to`. Where nobody else is left the ring does that.
    fn bequeath_all(&mut self, pool: &Name, from: &[Name], to: &[Name]) {
        let Some(pool) = self.pools.get_mut(pool) else { return };
        let active = |endpoint: &&Endpoint| matches!(endpoint.phase, Phase::Active {});
        let others = pool.endpoints.values().filter(active).count() > to.len();
        if others && from.len() * to.len() <= MOST_BEQUESTS {
            let pool = Arc::make_mut(pool);
            from.iter().for_each(|endpoint| pool.bequeath_to(endpoint, to.to_vec()));
        }
    }

    /// A switchover in such a stage, and its pool.
    fn switchover(&self, id: SwitchoverId, stage: impl Fn(Stage) -> bool) -> Result<(&Switchover, &Pool), Rejection> {
        let switchover = self.switchovers.get(&id).filter(|switchover| stage(switchover.stage));
        let switchover = switchover.ok_or(Rejection::UnknownSwitchover { switchover: id })?;
        let pool = &switchover.pool;
        let known = self.pools.get(pool).ok_or_else(|| Rejection::UnknownPool { pool: pool.clone() })?;
        Ok((switchover, known))
    }

    fn change_switchover(&mut self, id: SwitchoverId, change: impl FnOnce(&mut Switchover)) {
        change(self.switchovers.get_mut(&id).expect("it was looked up before"));
    }

    pub(super) fn end_switchover(&mut self, id: SwitchoverId, stage: Stage, detail: &str, now_ms: u64) {
        self.change_switchover(id, |switchover| {
            switchover.stage = stage;
            switchover.ended_ms = Some(now_ms);
            switchover.detail = detail.to_owned();
        });
        let ended: Vec<SwitchoverId> =
            self.switchovers.iter().filter(|(_, s)| !s.stage.is_under_way()).map(|(id, _)| *id).collect();
        for id in &ended[..ended.len().saturating_sub(ENDED_SWITCHOVERS_KEPT)] {
            self.switchovers.remove(id);
        }
    }
}

fn plan(id: SwitchoverId, spec: &SwitchoverSpec, mode: DrainMode, now_ms: u64) -> DrainPlan {
    DrainPlan {
        mode,
        deadline_ms: Some(now_ms.saturating_add(spec.deadline_ms.get())),
        pace: Some(spec.pace),
        reason: spec.reason.clone(),
        switchover: Some(id),
    }
}
