//! The table: the immutable compiled view of one epoch that requests read.
//!
//! It is compiled from the state and the table before it: what a change did not touch is shared,
//! so that an edit to one pool costs what that pool costs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::affinity::Sealer;
use crate::command::DrainMode;
use crate::health::Verdict;
use crate::id::{EndpointId, Epoch, Name, NodeId, PoolId};
use crate::ring::{self, Member, Ring};
use crate::route::{NoRoute, Route, RouteIndex};
use crate::spec::{Address, NodeName, PoolSpec};
use crate::state::{DrainState, Phase, Pool, State};
use crate::switchover;
use crate::ticket::TicketSealer;

#[derive(Debug)]
pub struct Table {
    pub epoch: Epoch,
    /// In the order of their names.
    pub pools: Vec<Arc<PoolTable>>,
    pub sealer: Arc<Sealer>,
    pub tickets: Arc<TicketSealer>,
    /// The nodes that look after endpoints.
    pub observers: Arc<[NodeId]>,
    /// How much of its drain's pace each node closes at, of endpoints that close at one; in closes in
    /// 1,000 seconds.
    pub closing: Arc<BTreeMap<EndpointId, BTreeMap<NodeId, u64>>>,
    /// The endpoints whose outcomes are to be reported.
    pub watched: Arc<BTreeSet<EndpointId>>,
    routes: Arc<RouteIndex>,
    keys: Vec<crate::affinity::CookieKey>,
}

#[derive(Debug)]
pub struct PoolTable {
    pub id: PoolId,
    pub name: Name,
    pub spec: PoolSpec,
    /// In the order of their names.
    pub endpoints: Vec<EndpointEntry>,
    /// The active endpoints.
    pub ring: Arc<Ring>,
    /// Too few are up for verdicts to be believed.
    panics: bool,
    /// Places in `endpoints`, in the order of ids, to find a pin's endpoint.
    by_id: Vec<u32>,
    /// The places to which sessions of an endpoint go when they lose it, where not the ring decides.
    heirs: BTreeMap<EndpointId, Vec<u32>>,
    source: Arc<Pool>,
}

#[derive(Debug, Clone)]
pub struct EndpointEntry {
    pub id: EndpointId,
    pub name: Name,
    pub address: Address,
    pub phase: Phase,
    /// A hash of its revision; 0 without one.
    pub revision: u64,
    pub verdict: Verdict,
    /// Since when it is that, Unix time in seconds.
    pub since_s: u64,
    /// Pins that were given until this time count no more; Unix time in seconds.
    pub pins_revoked_s: u32,
    /// What the app there calls itself.
    pub node: Option<NodeName>,
}

impl EndpointEntry {
    pub fn takes_new_sessions(&self) -> bool {
        matches!(self.phase, Phase::Active {})
    }

    pub fn takes_pinned_sessions(&self) -> bool {
        matches!(self.phase, Phase::Active {} | Phase::Draining { mode: DrainMode::Sessions, .. })
    }
}

impl Table {
    /// The table of a fleet that has agreed on nothing yet.
    pub fn empty() -> Table {
        Table::compile(&State::default(), None)
    }

    pub fn compile(state: &State, before: Option<&Table>) -> Table {
        let pools: Vec<Arc<PoolTable>> =
            state.pools.iter().map(|(name, pool)| compile_pool(name, pool, before)).collect();
        let place = |name: &Name| pools.binary_search_by(|pool| pool.name.cmp(name)).ok();
        let routes = state.routes.iter().filter_map(|(name, spec)| {
            let pool = place(&spec.pool)?;
            Some(Route { name: name.clone(), spec: spec.clone(), pool })
        });
        let routes: Vec<Route> = routes.collect();
        let routes = match before {
            Some(before) if before.routes.is_of(&routes) => before.routes.clone(),
            _ => Arc::new(RouteIndex::build(routes.into_iter())),
        };
        let (sealer, tickets) = match before {
            Some(before) if before.keys == state.cookie_keys => (before.sealer.clone(), before.tickets.clone()),
            _ => (Arc::new(Sealer::new(&state.cookie_keys)), Arc::new(TicketSealer::new(&state.cookie_keys))),
        };
        let epoch = state.epoch.unwrap_or(Epoch(0));
        let observers = match before {
            Some(before) if *before.observers == *state.observers.nodes => before.observers.clone(),
            _ => state.observers.nodes.clone().into(),
        };
        let closing = shared(closing(state), before.map(|before| &before.closing));
        let watched = shared(switchover::watched(state), before.map(|before| &before.watched));
        let keys = state.cookie_keys.clone();
        Table { epoch, pools, sealer, tickets, observers, closing, watched, routes, keys }
    }

    /// See [`RouteIndex::find`].
    pub fn route(&self, host: &str, path: &str) -> Result<&Arc<Route>, NoRoute> {
        self.routes.find(host, path)
    }

    pub fn pool(&self, id: PoolId) -> Option<&Arc<PoolTable>> {
        self.pools.iter().find(|pool| pool.id == id)
    }

    /// The place of the same pool in this table, in logarithmic time: pools keep their names.
    pub fn place_of(&self, pool: &PoolTable) -> Option<usize> {
        let place = self.pools.binary_search_by(|known| known.name.cmp(&pool.name)).ok()?;
        (self.pools[place].id == pool.id).then_some(place)
    }

    /// Every endpoint with its pool.
    pub fn endpoints(&self) -> impl Iterator<Item = (&Arc<PoolTable>, &EndpointEntry)> {
        self.pools.iter().flat_map(|pool| pool.endpoints.iter().map(move |endpoint| (pool, endpoint)))
    }
}

impl PoolTable {
    /// Whether the fleet's verdict lets requests go there.
    pub fn is_up(&self, place: usize) -> bool {
        self.panics || self.endpoints[place].verdict == Verdict::Up
    }

    /// Which share of its own an endpoint has, in thousandths, while it is new or up again: a tenth at
    /// first, so that it is seen to work.
    pub fn warmth(&self, place: usize, now_s: u64) -> u64 {
        let Some(slow_start) = self.spec.health.as_ref().and_then(|health| health.slow_start_ms) else { return 1_000 };
        let Some(up_for_s) = now_s.checked_sub(self.endpoints[place].since_s) else { return 1_000 };
        let up_for_ms = up_for_s * 1_000;
        (up_for_ms * 1_000 / slow_start.get()).clamp(100, 1_000)
    }

    /// The places that sessions go to when they lose `endpoint`; none where the ring decides.
    pub fn heirs(&self, endpoint: EndpointId) -> &[u32] {
        self.heirs.get(&endpoint).map_or(&[], Vec::as_slice)
    }

    /// The place of an endpoint in `endpoints`.
    pub fn find(&self, id: EndpointId) -> Option<usize> {
        let found = self.by_id.binary_search_by(|place| self.endpoints[*place as usize].id.cmp(&id)).ok()?;
        Some(self.by_id[found] as usize)
    }
}

/// What was there before, if it is the same.
fn shared<T: PartialEq>(now: T, before: Option<&Arc<T>>) -> Arc<T> {
    before.filter(|before| ***before == now).cloned().unwrap_or_else(|| Arc::new(now))
}

fn closing(state: &State) -> BTreeMap<EndpointId, BTreeMap<NodeId, u64>> {
    let drains = state.drains.values().filter(|drain| drain.state == DrainState::Draining && !drain.shares.is_empty());
    drains.map(|drain| (drain.endpoint_id, drain.shares.clone())).collect()
}

/// The active endpoints, by their place in the table.
fn members(pool: &Pool) -> impl Iterator<Item = Member<'_>> {
    let active = |endpoint: &crate::state::Endpoint| matches!(endpoint.phase, Phase::Active {});
    let placed = pool.endpoints.iter().enumerate().filter(move |(_, (_, endpoint))| active(endpoint));
    placed.map(|(i, (name, endpoint))| Member {
        name: name.as_str(),
        weight: endpoint.spec.weight.get(),
        index: i as u32,
    })
}

/// Whether fewer active endpoints are up than the pool wants for verdicts to be believed.
fn panics(pool: &Pool) -> bool {
    let threshold = pool.spec.health.as_ref().map_or(0, |health| usize::from(health.panic_threshold_percent.get()));
    let active = || pool.endpoints.values().filter(|endpoint| matches!(endpoint.phase, Phase::Active {}));
    let up = active().filter(|endpoint| endpoint.health.verdict == Verdict::Up).count();
    up * 100 < threshold * active().count()
}

fn compile_pool(name: &Name, pool: &Arc<Pool>, before: Option<&Table>) -> Arc<PoolTable> {
    let known = before.and_then(|table| {
        let at = table.pools.binary_search_by(|known| known.name.cmp(name)).ok()?;
        Some(&table.pools[at])
    });
    if let Some(known) = known
        && (Arc::ptr_eq(&known.source, pool) || known.source == *pool)
    {
        return known.clone();
    }
    let entry = |(name, endpoint): (&Name, &crate::state::Endpoint)| EndpointEntry {
        id: endpoint.id,
        name: name.clone(),
        address: endpoint.spec.address.clone(),
        phase: endpoint.phase,
        verdict: endpoint.health.verdict,
        since_s: endpoint.health.since_ms / 1_000,
        pins_revoked_s: endpoint.pins_revoked_s,
        node: endpoint.spec.node.clone(),
        revision: endpoint.spec.revision.as_ref().map_or(0, |revision| ring::position(revision.as_str().as_bytes())),
    };
    let endpoints: Vec<EndpointEntry> = pool.endpoints.iter().map(entry).collect();
    let ring = match known {
        // Most changes of a pool are none of its ring: verdicts, timeouts, revisions.
        Some(known) if members(&known.source).eq(members(pool)) => known.ring.clone(),
        _ => Arc::new(Ring::build(&members(pool).collect::<Vec<_>>())),
    };
    let mut by_id: Vec<u32> = (0..endpoints.len() as u32).collect();
    by_id.sort_unstable_by_key(|place| endpoints[*place as usize].id);
    let place = |id: EndpointId| {
        let found = by_id.binary_search_by(|place| endpoints[*place as usize].id.cmp(&id)).ok()?;
        Some(by_id[found])
    };
    let places = |ids: Vec<EndpointId>| ids.into_iter().filter_map(place).collect();
    let heirs = pool.heirs().into_iter().map(|(id, heirs)| (id, places(heirs))).collect();
    Arc::new(PoolTable {
        heirs,
        id: pool.id,
        name: name.clone(),
        spec: pool.spec.clone(),
        endpoints,
        ring,
        panics: panics(pool),
        by_id,
        source: pool.clone(),
    })
}
