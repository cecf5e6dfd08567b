//! One worker: a thread with a current-thread runtime, its own listeners, its own view of the
//! table and its own upstream connections. Requests stay on the worker that accepted them, so
//! nothing on their path is shared (measured: a fifth less CPU a request than one shared runtime).

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::HeaderValue;
use tidelock_core::choose::Availability;
use tidelock_core::id::EndpointId;
use tidelock_core::retry::Budget;
use tidelock_core::spec::PoolSpec;
use tidelock_core::state::Phase;
use tidelock_core::table::{PoolTable, Table};
use tokio::sync::{Notify, watch};
use tokio_util::task::TaskTracker;

use crate::clients::Clients;
use crate::config::Config;
use crate::exchange::Waiting;
use crate::feed::Registry;
use crate::flag::Flag;
use crate::learned::Learned;
use crate::telemetry::{AccessLog, Counters};
use crate::tls::Identity;
use crate::upstream::Endpoint;
use crate::upstream::dial::Dialer;

/// How often idle connections to endpoints are looked at: those that the endpoint has closed hold
/// a file descriptor until then.
const SWEEP_EVERY: Duration = Duration::from_secs(2);

/// What all tasks of one worker share.
pub(crate) struct Worker {
    pub(crate) index: usize,
    pub(crate) config: Arc<Config>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) log: Option<AccessLog>,
    /// Connections to endpoints and tunnels, awaited when the worker ends.
    pub(crate) tasks: TaskTracker,
    pub(crate) stage: watch::Receiver<Stage>,
    /// Up from `Stage::Leaving` on.
    pub(crate) leaving: Rc<Flag>,
    pub(crate) clients: Arc<Clients>,
    registry: Arc<Registry>,
    identity: Option<Identity>,
    view: RefCell<Rc<View>>,
    /// Endpoints that were taken out, on which something may still run.
    former: RefCell<Vec<Weak<Endpoint>>>,
    /// What endpoints have said of requests to come.
    pub(crate) learned: RefCell<Learned>,
    /// Tells of another view.
    pub(crate) changed: Notify,
    random: Cell<u64>,
    /// The second, and how a Date field says it.
    date: RefCell<(u64, HeaderValue)>,
}

/// Where the node is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    Serving,
    /// No new connection; those that are open end with what runs on them.
    Leaving,
    /// What does not end by itself is closed, one after the other.
    Closing,
    /// What is left is cut.
    Ended,
}

/// A table with this worker's endpoints beside it. A request takes it once and keeps it.
pub(crate) struct View {
    pub(crate) table: Arc<Table>,
    /// In the order of the table's pools.
    pub(crate) pools: Vec<Rc<PoolView>>,
}

pub(crate) struct PoolView {
    pub(crate) table: Arc<PoolTable>,
    /// In the order of the pool's endpoints.
    pub(crate) endpoints: Vec<Rc<Endpoint>>,
    /// This worker's, since the pool was changed last.
    pub(crate) retries: Cell<Budget>,
    /// Requests that wait for an endpoint, on this node.
    pub(crate) waiting: Arc<Waiting>,
    dialer: Rc<Dialer>,
    worker: usize,
}

impl Availability for PoolView {
    fn admits(&self, endpoint: usize, pinned: bool) -> bool {
        self.endpoints[endpoint].state.admits(self.worker, pinned)
    }

    fn in_flight(&self, endpoint: usize) -> u64 {
        self.endpoints[endpoint].state.in_flight(self.worker)
    }
}

/// What each worker is given at its start.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) config: Arc<Config>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) clients: Arc<Clients>,
    pub(crate) stage: watch::Receiver<Stage>,
    pub(crate) log: Option<AccessLog>,
    pub(crate) identity: Option<Identity>,
}

impl Worker {
    pub(crate) fn new(index: usize, shared: Shared, counters: Arc<Counters>) -> Rc<Worker> {
        let view = View { table: Arc::new(Table::empty()), pools: Vec::new() };
        Rc::new(Worker {
            index,
            config: shared.config,
            counters,
            log: shared.log,
            tasks: TaskTracker::new(),
            stage: shared.stage,
            leaving: Rc::default(),
            clients: shared.clients,
            registry: shared.registry,
            identity: shared.identity,
            view: RefCell::new(Rc::new(view)),
            former: RefCell::default(),
            learned: RefCell::default(),
            changed: Notify::new(),
            random: Cell::new(seed()),
            date: RefCell::new((0, HeaderValue::from_static(""))),
        })
    }

    pub(crate) fn view(&self) -> Rc<View> {
        self.view.borrow().clone()
    }

    /// 64 random bits: good enough to place sessions and to be a nonce that GCM-SIV forgives;
    /// not for keys. (xorshift64*, seeded by the operating system.)
    pub(crate) fn random(&self) -> u64 {
        let mut x = self.random.get();
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        self.random.set(x);
        x.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Now, as a Date field says it; made once a second.
    pub(crate) fn date(&self) -> HeaderValue {
        let now = SystemTime::now();
        let second = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let mut date = self.date.borrow_mut();
        if date.0 != second {
            let text = httpdate::fmt_http_date(now);
            *date = (second, HeaderValue::try_from(text).expect("a date is visible ASCII"));
        }
        date.1.clone()
    }

    /// Follows the tables until the feed ends.
    pub(crate) async fn follow(self: Rc<Self>, mut tables: watch::Receiver<Arc<Table>>) {
        loop {
            let table = tables.borrow_and_update().clone();
            self.adopt(table);
            if tables.changed().await.is_err() {
                return;
            }
        }
    }

    /// Raises the flag of leaving when it is time.
    pub(crate) async fn await_leaving(self: Rc<Self>) {
        let mut stage = self.stage.clone();
        // The sender's end is the node's.
        let _ = stage.wait_for(|stage| *stage >= Stage::Leaving).await;
        self.leaving.raise();
        let _ = stage.wait_for(|stage| *stage >= Stage::Closing).await;
        self.close_at_pace();
    }

    /// Closes what lasts on endpoints for which this node has a pace.
    fn close_at_pace(&self) {
        let former: Vec<Rc<Endpoint>> = self.former.borrow().iter().filter_map(Weak::upgrade).collect();
        for endpoint in self.view().pools.iter().flat_map(|pool| &pool.endpoints).chain(&former) {
            endpoint.close_at_pace(&self.counters);
        }
    }

    /// Looks after connections to endpoints.
    pub(crate) async fn sweep(self: Rc<Self>) {
        let mut interval = tokio::time::interval(SWEEP_EVERY);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            for endpoint in self.view().pools.iter().flat_map(|pool| &pool.endpoints) {
                endpoint.sweep();
            }
        }
    }

    /// No connection to an endpoint is kept: each closes after what runs on it.
    pub(crate) fn retire_all(&self) {
        for endpoint in self.view().pools.iter().flat_map(|pool| &pool.endpoints) {
            endpoint.retire();
        }
    }

    fn adopt(&self, table: Arc<Table>) {
        let old = self.view();
        let known: HashMap<EndpointId, &Rc<Endpoint>> =
            old.pools.iter().flat_map(|pool| pool.endpoints.iter().map(|e| (e.id, e))).collect();
        let pools: Vec<Rc<PoolView>> = table
            .pools
            .iter()
            .map(|pool| {
                let before = old.table.place_of(pool).map(|place| &old.pools[place]);
                match before {
                    // A pool that the change did not touch is shared with what runs.
                    Some(before) if Arc::ptr_eq(&before.table, pool) => before.clone(),
                    _ => Rc::new(self.pool_view(pool, before, &known)),
                }
            })
            .collect();
        let kept: std::collections::HashSet<EndpointId> =
            pools.iter().flat_map(|pool| pool.endpoints.iter().map(|e| e.id)).collect();
        for endpoint in old.pools.iter().flat_map(|pool| &pool.endpoints) {
            if !kept.contains(&endpoint.id) {
                endpoint.retire();
                let mut former = self.former.borrow_mut();
                former.retain(|known| known.strong_count() > 0);
                former.push(Rc::downgrade(endpoint));
            }
        }
        let (epoch, closes) = (table.epoch, !table.closing.is_empty());
        self.view.replace(Rc::new(View { table, pools }));
        if closes {
            self.close_at_pace();
        }
        self.changed.notify_waiters();
        self.registry.adopted(self.index, epoch);
    }

    fn pool_view(
        &self,
        pool: &Arc<PoolTable>,
        before: Option<&Rc<PoolView>>,
        known: &HashMap<EndpointId, &Rc<Endpoint>>,
    ) -> PoolView {
        let reached = |spec: &PoolSpec| (spec.protocol, spec.tls.clone());
        let dialer = match before {
            Some(before) if reached(&before.table.spec) == reached(&pool.spec) => before.dialer.clone(),
            _ => Rc::new(Dialer::new(&pool.spec, self.identity.as_ref())),
        };
        let endpoint = |entry: &tidelock_core::table::EndpointEntry| {
            let endpoint = known.get(&entry.id).map_or_else(
                || {
                    let state = self.registry.endpoint(entry.id, &entry.phase);
                    let (name, address) = (entry.name.clone(), entry.address.clone());
                    Rc::new(Endpoint::new(entry.id, name, address, state, dialer.clone()))
                },
                |known| (*known).clone(),
            );
            endpoint.dial_by(&dialer);
            endpoint.keep_by(&pool.spec.timeouts);
            self.enter_phase(&endpoint, &entry.phase);
            endpoint
        };
        PoolView {
            table: pool.clone(),
            endpoints: pool.endpoints.iter().map(endpoint).collect(),
            retries: Cell::default(),
            waiting: self.registry.waiting(pool.id),
            dialer,
            worker: self.index,
        }
    }

    fn enter_phase(&self, endpoint: &Rc<Endpoint>, phase: &Phase) {
        match phase {
            // At the very end connections that were retired stay so.
            Phase::Active {} if !self.tasks.is_closed() => endpoint.reopen(),
            Phase::Active {} => {}
            Phase::Draining { drain, deadline_ms, mode } => {
                // Where the end of the drain before it was not seen here.
                if endpoint.is_of_another(*drain) {
                    endpoint.reopen();
                }
                if *mode == tidelock_core::command::DrainMode::Streams {
                    endpoint.retire();
                }
                if let Some(deadline) = deadline_ms {
                    let left = Duration::from_millis(deadline.saturating_sub(unix_ms()));
                    endpoint.schedule_cut(*drain, left);
                }
            }
            // What is left when a drain has ended by its deadline; a node that was away may not have seen it begin.
            Phase::Drained { .. } => endpoint.cut(),
        }
    }
}

/// Unix time in milliseconds.
pub(crate) fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

fn seed() -> u64 {
    let mut bytes = [0; 8];
    aws_lc_rs::rand::fill(&mut bytes).expect("the operating system gives random bytes");
    u64::from_ne_bytes(bytes) | 1
}
