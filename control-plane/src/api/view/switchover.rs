//! Switchovers as the API shows them.

use serde::Serialize;
use tidelock_core::command::DrainMode;
use tidelock_core::health::Verdict;
use tidelock_core::id::{Epoch, Name, SwitchoverId};
use tidelock_core::pace::Pace;
use tidelock_core::state::DrainState;
use tidelock_core::switchover::{self, Side, Stage};
use utoipa::ToSchema;

use super::super::schema;
use super::{Drain, Moment};

#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct Switchovers {
    #[schema(value_type = u64)]
    pub(crate) epoch: Epoch,
    pub(crate) switchovers: Vec<Switchover>,
}

#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct Switchover {
    #[schema(value_type = String)]
    pub(crate) id: SwitchoverId,
    #[schema(value_type = String)]
    pub(crate) pool: Name,
    #[schema(value_type = schema::Side)]
    pub(crate) from: Side,
    #[schema(value_type = schema::Side)]
    pub(crate) to: Side,
    #[schema(value_type = schema::DrainMode)]
    pub(crate) mode: DrainMode,
    #[schema(value_type = u32)]
    pub(crate) pace: Pace,
    pub(crate) max_error_percent: Option<u8>,
    pub(crate) reason: String,
    /// `waiting` (for the new side), `draining` (the old side), `done` or `rolled-back`.
    #[schema(value_type = String)]
    pub(crate) stage: Stage,
    /// Why it was rolled back.
    pub(crate) detail: String,
    pub(crate) started_ms: u64,
    /// When new sessions began to go to the new side.
    pub(crate) shifted_ms: Option<u64>,
    /// When what is left on the old side is cut.
    pub(crate) deadline_ms: Option<u64>,
    pub(crate) ended_ms: Option<u64>,
    /// Endpoints of the new side that are active and up, and how many it waits for.
    pub(crate) ready: u64,
    pub(crate) min_ready: u32,
    /// What is left on the old side, over the nodes that reported.
    pub(crate) requests: u64,
    pub(crate) websockets: u64,
    pub(crate) event_streams: u64,
    /// For closing what lasts at the pace.
    pub(crate) estimate_seconds: Option<u64>,
    /// Of the old side, since the shift.
    pub(crate) drains: Vec<Drain>,
}

impl Moment {
    pub(crate) fn switchovers(&self) -> Vec<Switchover> {
        self.state.switchovers.iter().map(|(id, switchover)| self.switchover_view(*id, switchover)).collect()
    }

    pub(crate) fn switchover(&self, id: SwitchoverId) -> Option<Switchover> {
        self.state.switchovers.get(&id).map(|switchover| self.switchover_view(id, switchover))
    }

    fn switchover_view(&self, id: SwitchoverId, switchover: &switchover::Switchover) -> Switchover {
        let spec = &switchover.spec;
        let pool = self.state.pools.get(&switchover.pool);
        let ready = pool.map_or(0, |pool| {
            spec.new_side(pool).filter(|(_, endpoint)| endpoint.health.verdict == Verdict::Up).count()
        });
        let drains: Vec<Drain> = switchover.drains.iter().filter_map(|drain| self.drain(*drain)).collect();
        let left = |of: fn(&Drain) -> u64| drains.iter().filter(|d| d.state == DrainState::Draining).map(of).sum();
        let (requests, websockets) = (left(|drain| drain.requests), left(|drain| drain.websockets));
        let event_streams = left(|drain| drain.event_streams);
        let is_draining = switchover.stage == Stage::Draining;
        let estimate_seconds = is_draining.then(|| spec.pace.time_for(websockets + event_streams).div_ceil(1_000));
        Switchover {
            id,
            pool: switchover.pool.clone(),
            from: spec.from.clone(),
            to: spec.to.clone(),
            mode: spec.mode,
            pace: spec.pace,
            max_error_percent: spec.max_error_percent,
            reason: spec.reason.clone(),
            stage: switchover.stage,
            detail: switchover.detail.clone(),
            started_ms: switchover.started_ms,
            shifted_ms: switchover.shifted_ms,
            deadline_ms: switchover.shifted_ms.map(|shifted| shifted.saturating_add(spec.deadline_ms.get())),
            ended_ms: switchover.ended_ms,
            ready: ready as u64,
            min_ready: spec.min_ready,
            requests,
            websockets,
            event_streams,
            estimate_seconds,
            drains,
        }
    }
}
