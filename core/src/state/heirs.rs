//! Who takes over the sessions of an endpoint that leaves.
//!
//! In a rolling deploy one endpoint after the other is replaced. Sessions that went wherever the ring
//! says would move again when that one is replaced too (1.37 moves a session were measured with pins,
//! 1.75 with plain hashing). So they go to the newest revision, and there to the endpoints that have
//! taken over the fewest so far: each new one gets what one old one had, and each session moves once.
//! It is decided where the endpoint leaves, once, in the log: every node has the same heirs.

use super::{Endpoint, Phase, Pool};
use crate::id::{EndpointId, Name};

/// Endpoints that are not there any more and have heirs are remembered, so many in a pool: pins to
/// them live as long as their cookies.
const GONE_KEPT: usize = 256;

/// The revision that came last: the one whose first endpoint is the youngest. An old one that is
/// started again makes its revision no newer.
fn newest_revision(pool: &Pool) -> Option<Name> {
    let first = |revision: &Name| {
        let of_it = pool.endpoints.values().filter(|endpoint| endpoint.spec.revision.as_ref() == Some(revision));
        of_it.map(|endpoint| endpoint.id).min()
    };
    let revisions = pool.endpoints.values().filter_map(|endpoint| endpoint.spec.revision.as_ref());
    revisions.max_by_key(|revision| first(revision)).cloned()
}

impl Pool {
    /// Gives the sessions of `leaving` to the newest revision. Where that is its own, or there is none,
    /// the ring says where they go.
    pub(super) fn bequeath(&mut self, leaving: &Name) {
        let Some(newest) = newest_revision(self) else { return };
        let Some(endpoint) = self.endpoints.get(leaving) else { return };
        if endpoint.spec.revision.as_ref() == Some(&newest) {
            return;
        }
        let is_heir = |name: &Name, endpoint: &Endpoint| {
            name != leaving
                && matches!(endpoint.phase, Phase::Active {})
                && endpoint.spec.revision.as_ref() == Some(&newest)
        };
        let heirs = || self.endpoints.iter().filter(|(name, endpoint)| is_heir(name, endpoint));
        let Some(fewest) = heirs().map(|(_, heir)| heir.inherited).min() else { return };
        let heirs = heirs().filter(|(_, heir)| heir.inherited == fewest).map(|(name, _)| name.clone()).collect();
        self.bequeath_to(leaving, heirs);
    }

    pub(super) fn bequeath_to(&mut self, leaving: &Name, heirs: Vec<Name>) {
        let mut ids = Vec::new();
        for heir in heirs {
            if let Some(heir) = self.endpoints.get_mut(&heir) {
                heir.inherited = heir.inherited.saturating_add(1);
                ids.push(heir.id);
            }
        }
        if let Some(endpoint) = self.endpoints.get_mut(leaving) {
            endpoint.heirs = ids;
        }
    }

    /// `endpoint` is no longer in the pool: pins to it are still out there.
    pub(super) fn remember(&mut self, endpoint: Endpoint) {
        if endpoint.heirs.is_empty() {
            return;
        }
        self.gone.insert(endpoint.id, endpoint.heirs);
        while self.gone.len() > GONE_KEPT {
            self.gone.pop_first();
        }
    }

    /// The active endpoints that sessions of `endpoint` go to, wherever it is; empty: the ring decides.
    pub(crate) fn heirs(&self, endpoint: EndpointId) -> Vec<EndpointId> {
        let by_id = |id: EndpointId| self.endpoints.values().find(|endpoint| endpoint.id == id);
        let (mut found, mut seen, mut next) = (Vec::new(), vec![endpoint], vec![endpoint]);
        while let Some(id) = next.pop() {
            let endpoint = by_id(id);
            if id != seen[0] && endpoint.is_some_and(|endpoint| matches!(endpoint.phase, Phase::Active {})) {
                found.push(id);
                continue;
            }
            // An heir that leaves in its turn has heirs of its own.
            let heirs = endpoint.map(|endpoint| &endpoint.heirs).or_else(|| self.gone.get(&id));
            for heir in heirs.into_iter().flatten() {
                if !seen.contains(heir) {
                    seen.push(*heir);
                    next.push(*heir);
                }
            }
        }
        found.sort_unstable();
        found
    }

    /// Every endpoint whose sessions have somewhere to go.
    pub(crate) fn testators(&self) -> impl Iterator<Item = EndpointId> + '_ {
        let here = self.endpoints.values().filter(|endpoint| !endpoint.heirs.is_empty()).map(|endpoint| endpoint.id);
        self.gone.keys().copied().chain(here)
    }
}
