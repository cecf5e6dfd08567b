//! Looks after endpoints: those that this node observes (`tidelock_core::health`) are checked, and
//! what was seen goes out with the node's reports. It has a thread of its own, so that checks wait
//! for no request and no request for them.

mod check;

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tidelock_core::health::{Streak, Verdict, observers};
use tidelock_core::id::{EndpointId, Epoch, NodeId, PoolId};
use tidelock_core::report::Observed;
use tidelock_core::spec::{Address, HealthSpec, PoolSpec};
use tidelock_core::table::{PoolTable, Table};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, warn};

use crate::feed::Registry;
use crate::lease::EndpointState;
use crate::telemetry::Counters;
use crate::tls::Identity;
use crate::upstream::dial::Dialer;
use check::{Checked, check};

/// What this node has seen. The lock is taken once a check and once a report.
#[derive(Debug, Default)]
pub(crate) struct Observations {
    /// The epoch by which it looks.
    epoch: AtomicU64,
    not_up: Mutex<BTreeMap<EndpointId, Observed>>,
}

impl Observations {
    pub(crate) fn epoch(&self) -> Epoch {
        Epoch(self.epoch.load(Ordering::Acquire))
    }

    /// This node looks at nothing any more. What it has seen stays: silence would be a good word.
    pub(crate) fn end(&self) {
        self.epoch.store(u64::MAX, Ordering::Release);
    }

    pub(crate) fn not_up(&self) -> BTreeMap<EndpointId, Observed> {
        self.not_up.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, endpoint: EndpointId, observed: Option<Observed>) {
        let mut not_up = self.not_up.lock().unwrap_or_else(PoisonError::into_inner);
        match observed {
            Some(observed) => drop(not_up.insert(endpoint, observed)),
            None => drop(not_up.remove(&endpoint)),
        }
    }
}

pub(crate) struct Observer {
    pub(crate) node: NodeId,
    pub(crate) observations: Arc<Observations>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) identity: Option<Identity>,
    pub(crate) counters: Arc<Counters>,
}

/// A pool as it was when its endpoints' checks were last looked through.
struct Looked {
    table: Arc<PoolTable>,
    dialer: Rc<Dialer>,
    checks: HashMap<EndpointId, Checking>,
}

/// An endpoint's checks; they end with this.
struct Checking {
    address: Address,
    task: JoinHandle<()>,
}

impl Drop for Checking {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Observer {
    /// Follows the tables until the feed ends; within a `LocalSet`.
    pub(crate) async fn run(self, mut tables: watch::Receiver<Arc<Table>>) {
        let mut pools: HashMap<PoolId, Looked> = HashMap::new();
        let mut nodes: Arc<[NodeId]> = Arc::new([]);
        loop {
            let table = tables.borrow_and_update().clone();
            let same_nodes = Arc::ptr_eq(&nodes, &table.observers);
            nodes = table.observers.clone();
            let mut before = std::mem::take(&mut pools);
            for pool in table.pools.iter().filter(|pool| pool.spec.health.is_some()) {
                let looked = before.remove(&pool.id);
                let looked = match looked {
                    Some(looked) if same_nodes && Arc::ptr_eq(&looked.table, pool) => looked,
                    looked => self.look_through(pool, looked, &nodes),
                };
                pools.insert(pool.id, looked);
            }
            for gone in before.into_values() {
                gone.checks.keys().for_each(|id| self.observations.set(*id, None));
            }
            self.observations.epoch.store(table.epoch.0, Ordering::Release);
            if tables.changed().await.is_err() {
                return;
            }
        }
    }

    /// Begins the checks that are new and ends those that are not this node's any more. Others run
    /// on, whatever else of the pool has changed.
    fn look_through(&self, pool: &Arc<PoolTable>, before: Option<Looked>, nodes: &[NodeId]) -> Looked {
        let asked = |spec: &PoolSpec| (spec.protocol, spec.tls.clone(), spec.health.clone());
        let (dialer, mut known, all_known) = match before {
            Some(looked) if asked(&looked.table.spec) == asked(&pool.spec) => (looked.dialer, looked.checks, None),
            Some(looked) => {
                (Rc::new(Dialer::new(&pool.spec, self.identity.as_ref())), HashMap::new(), Some(looked.checks))
            }
            None => (Rc::new(Dialer::new(&pool.spec, self.identity.as_ref())), HashMap::new(), None),
        };
        let mut checks = HashMap::new();
        for endpoint in &pool.endpoints {
            if !observers(endpoint.id, nodes).contains(&self.node) {
                continue;
            }
            let checking = match known.remove(&endpoint.id) {
                Some(checking) if checking.address == endpoint.address => checking,
                _ => {
                    self.observations.set(endpoint.id, Some(Observed::Pending));
                    let state = self.registry.endpoint(endpoint.id, &endpoint.phase);
                    let task = self.begin(state, endpoint.address.clone(), dialer.clone(), pool);
                    Checking { address: endpoint.address.clone(), task }
                }
            };
            checks.insert(endpoint.id, checking);
        }
        for id in known.keys().chain(all_known.iter().flat_map(HashMap::keys)).filter(|id| !checks.contains_key(id)) {
            self.observations.set(*id, None);
        }
        Looked { table: pool.clone(), dialer, checks }
    }

    fn begin(
        &self,
        state: Arc<EndpointState>,
        address: Address,
        dialer: Rc<Dialer>,
        pool: &PoolTable,
    ) -> JoinHandle<()> {
        let (observations, counters) = (self.observations.clone(), self.counters.clone());
        let health = pool.spec.health.clone();
        tokio::task::spawn_local(async move {
            if let Some(health) = health {
                look_after(&state, &address, &dialer, &health, &observations, &counters).await;
            }
        })
    }
}

/// While a node changes its mind it looks so much more often, and so soon after a request could not
/// reach the endpoint.
const SOONER: u32 = 4;

async fn look_after(
    state: &EndpointState,
    address: &Address,
    dialer: &Dialer,
    health: &HealthSpec,
    observations: &Observations,
    counters: &Counters,
) {
    let interval = health.interval_ms.duration();
    // Each endpoint at a moment of its own.
    let mut next = Instant::now() + spread(interval / SOONER);
    let mut streak = Streak::default();
    loop {
        sleep_until(next).await;
        let began = Instant::now();
        let outcome = match tokio::time::timeout(health.timeout_ms.duration(), check(dialer, address, health)).await {
            Ok(Checked::Up) => Ok(()),
            Ok(Checked::Down(detail)) => Err(detail),
            Ok(Checked::Unasked(error)) => {
                warn!(%address, error, "this node cannot check an endpoint: nothing is said of it");
                next = began + interval;
                continue;
            }
            Err(_) => Err(format!("no answer in {} ms", health.timeout_ms.get())),
        };
        counters.health_checks.add();
        if outcome.is_err() {
            counters.health_checks_failed.add();
        }
        let before = streak.seen();
        let is_settled = streak.take(outcome.is_ok(), health);
        if streak.seen() != before {
            debug!(%address, outcome = ?outcome, "an endpoint is seen to have changed");
            observations.set(
                state.id,
                match streak.seen() {
                    Some(Verdict::Down) => Some(Observed::Down { detail: outcome.err().unwrap_or_default() }),
                    _ => None,
                },
            );
        }
        let soon = began + interval / SOONER;
        next = if is_settled { began + interval - interval / 10 + spread(interval / 5) } else { soon };
        tokio::select! {
            () = sleep_until(next) => {}
            () = state.suspected.notified() => next = soon,
        }
    }
}

/// Less than `most`, by chance.
fn spread(most: Duration) -> Duration {
    let mut bytes = [0; 4];
    aws_lc_rs::rand::fill(&mut bytes).expect("the operating system gives random bytes");
    most.mul_f64(f64::from(u32::from_ne_bytes(bytes)) / f64::from(u32::MAX))
}
