//! The seam to the control plane: tables in, observations out.
//!
//! The feed carries out what a new table means for what all workers share (the gates), hands the
//! table to the workers, and reports the epoch that all of them read with what is in flight.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tidelock_core::command::DrainMode;
use tidelock_core::id::{EndpointId, Epoch, NodeId, PoolId};
use tidelock_core::pace::Pace;
use tidelock_core::plan::{Change, changes};
use tidelock_core::report::NodeReport;
use tidelock_core::state::Phase;
use tidelock_core::table::Table;
use tokio::sync::watch;

use crate::exchange::Waiting;
use crate::health::Observations;
use crate::lease::{EndpointState, Gate};
use crate::tls::FleetTickets;
use crate::worker::{Stage, unix_ms};

/// How often in-flight counts are looked at. A report goes out only when it differs.
const REPORT_EVERY: Duration = Duration::from_millis(100);

/// What the workers share: the endpoints' words, and who has come how far. The lock is taken when
/// a table changes, never by a request.
#[derive(Debug)]
pub(crate) struct Registry {
    node: NodeId,
    workers: usize,
    endpoints: Mutex<HashMap<EndpointId, Arc<EndpointState>>>,
    adopted: Box<[AtomicU64]>,
    waiting: Mutex<HashMap<PoolId, Arc<Waiting>>>,
    /// When the node leaves: what lasts is closed by then.
    closed_by: OnceLock<Instant>,
}

impl Registry {
    pub(crate) fn new(node: NodeId, workers: usize) -> Arc<Registry> {
        let adopted = (0..workers).map(|_| AtomicU64::new(0)).collect();
        Arc::new(Registry {
            node,
            workers,
            endpoints: Mutex::default(),
            adopted,
            waiting: Mutex::default(),
            closed_by: OnceLock::new(),
        })
    }

    /// The endpoint's words; made at its first mention.
    pub(crate) fn endpoint(&self, id: EndpointId, phase: &Phase) -> Arc<EndpointState> {
        let mut endpoints = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        endpoints.entry(id).or_insert_with(|| EndpointState::new(id, self.workers, Gate::of(phase))).clone()
    }

    /// The requests that wait for an endpoint of the pool.
    pub(crate) fn waiting(&self, pool: PoolId) -> Arc<Waiting> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        // Of pools that are gone nobody holds one any more.
        waiting.retain(|id, known| *id == pool || Arc::strong_count(known) > 1);
        waiting.entry(pool).or_default().clone()
    }

    pub(crate) fn adopted(&self, worker: usize, epoch: Epoch) {
        self.adopted[worker].store(epoch.0, Ordering::Release);
    }

    /// The worker reads no table any more.
    pub(crate) fn ended(&self, worker: usize) {
        self.adopted(worker, Epoch(u64::MAX));
    }

    /// The newest epoch that every worker reads; None before the first.
    fn epoch(&self) -> Option<Epoch> {
        let oldest = self.adopted.iter().map(|epoch| epoch.load(Ordering::Acquire)).min()?;
        (oldest > 0).then_some(Epoch(oldest))
    }

    /// How fast this node closes what lasts on endpoints that drain at a pace.
    fn pace(&self, before: &Table, table: &Table) {
        if Arc::ptr_eq(&before.closing, &table.closing) {
            return;
        }
        let endpoints = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        for id in before.closing.keys().chain(table.closing.keys()) {
            let rate = table.closing.get(id).and_then(|shares| shares.get(&self.node)).copied().unwrap_or(0);
            if let Some(state) = endpoints.get(id) {
                state.pace.set(rate);
            }
        }
    }

    /// This node leaves within so much time, four fifths of which what lasts may take.
    pub(crate) fn leave_within(&self, time: Duration) {
        // Said once.
        let _ = self.closed_by.set(Instant::now() + time * 4 / 5);
        self.pace_leaving();
    }

    /// What lasts is closed by then, and not slower than by default, on all endpoints together. Worked out
    /// again and again, since more may have begun meanwhile.
    fn pace_leaving(&self) {
        let Some(closed_by) = self.closed_by.get() else { return };
        let endpoints = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        let lasting = |state: &EndpointState| state.counts().lasting().max(1);
        let total: u64 = endpoints.values().map(|state| lasting(state)).sum();
        let left = closed_by.saturating_duration_since(Instant::now()).max(REPORT_EVERY);
        let millis = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        let rate = (total.saturating_mul(1_000_000) / millis).max(u64::from(Pace::DEFAULT.get()) * 1_000);
        for state in endpoints.values() {
            let part = u128::from(rate) * u128::from(lasting(state)) / u128::from(total.max(1));
            state.pace.leave(part.max(1) as u64);
        }
    }

    fn apply(&self, changes: &[Change]) {
        for change in changes {
            match change {
                Change::Added(id) => drop(self.endpoint(*id, &Phase::Active {})),
                Change::Phase(id, phase) => self.endpoint(*id, phase).set_gate(Gate::of(phase)),
                Change::Removed(id) => self.endpoint(*id, &Phase::Active {}).set_gate(Gate::Closed),
            }
        }
    }

    /// The epoch is read before the counts: zero is then claimed only for gates that had closed
    /// when it was counted.
    fn report(&self, table: &Table, observations: &Observations, leaving: bool) -> NodeReport {
        // Who looks after endpoints knows the table too, or its silence would be a good word.
        let epoch = self.epoch().map(|epoch| epoch.min(observations.epoch()).min(table.epoch));
        let epoch = epoch.filter(|epoch| epoch.0 > 0);
        let health = observations.not_up();
        let mut endpoints = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        let configured: std::collections::HashSet<EndpointId> = table.endpoints().map(|(_, e)| e.id).collect();
        // A removed endpoint is forgotten when nothing runs on it any more.
        endpoints.retain(|id, state| configured.contains(id) || !state.counts().is_zero());
        let counts: BTreeMap<_, _> = endpoints
            .values()
            .map(|state| (state.id, state.counts()))
            .filter(|(_, counts)| !counts.is_zero())
            .collect();
        let outcomes = endpoints
            .values()
            .filter(|state| table.watched.contains(&state.id))
            .map(|state| (state.id, state.outcomes()))
            .collect();
        let minute = unix_ms() / 60_000;
        let with_sessions = |phase: &Phase| matches!(phase, Phase::Draining { mode: DrainMode::Sessions, .. });
        let sessions = table
            .endpoints()
            .filter(|(_, endpoint)| with_sessions(&endpoint.phase))
            .filter_map(|(_, endpoint)| Some((endpoint.id, endpoints.get(&endpoint.id)?.sessions.lately(minute)?)))
            .collect();
        let version = env!("CARGO_PKG_VERSION").to_owned();
        NodeReport { epoch, leaving, version, endpoints: counts, health, outcomes, sessions }
    }
}

/// Gives the workers the table after `current`.
pub(crate) fn give(
    registry: &Registry,
    tickets: &FleetTickets,
    workers: &watch::Sender<Arc<Table>>,
    current: &Table,
    next: &Arc<Table>,
) {
    // Gates first: from here on no worker takes what the new table refuses, whichever table it reads.
    registry.apply(&changes(current, next));
    registry.pace(current, next);
    tickets.adopt(next);
    workers.send_replace(next.clone());
}

/// Carries tables to the workers and reports back, until the control plane's end of the tables is
/// gone.
pub(crate) async fn run(
    registry: Arc<Registry>,
    observations: Arc<Observations>,
    tickets: Arc<FleetTickets>,
    mut tables: watch::Receiver<Arc<Table>>,
    workers: watch::Sender<Arc<Table>>,
    reports: watch::Sender<NodeReport>,
    stage: watch::Receiver<Stage>,
) {
    // The first was given before there were workers.
    let mut current = workers.borrow().clone();
    let mut ticks = tokio::time::interval(REPORT_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let next = tables.borrow_and_update().clone();
        if !Arc::ptr_eq(&next, &current) {
            give(&registry, &tickets, &workers, &current, &next);
            current = next;
        }
        registry.pace_leaving();
        let leaving = *stage.borrow() >= Stage::Leaving;
        let report = registry.report(&current, &observations, leaving);
        reports.send_if_modified(|known| {
            let changed = *known != report;
            *known = report;
            changed
        });
        tokio::select! {
            changed = tables.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            _ = ticks.tick() => {}
        }
    }
}
