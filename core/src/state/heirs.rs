//! Who takes over the sessions of an endpoint that leaves.
//!
//! In a rolling deploy one endpoint after the other is replaced. Sessions that went wherever the ring
//! says would move again when that one is replaced too (1.37 moves a session were measured with pins,
//! 1.75 with plain hashing). So they go to the newest revision, and there to the endpoints that have
//! taken over the fewest so far: each new one gets what one old one had, and each session moves once.
//! It is decided where the endpoint leaves, once, in the log: every node has the same heirs.

use std::collections::{BTreeMap, BTreeSet};

use super::{Endpoint, Phase, Pool};
use crate::health::Verdict;
use crate::id::{EndpointId, Name};

/// Endpoints that are not there any more and have heirs are remembered, so many in a pool: pins to
/// them live as long as their cookies.
const GONE_KEPT: usize = 256;

/// So many take over from one endpoint at most: with more of them the lists of a large pool would grow
/// with its square, and the next to leave chooses among the others.
const MOST_HEIRS: usize = 8;

impl Pool {
    /// `revision` is in the pool from now on, if it was not before. One that has left it and comes back is
    /// a new one: a deploy of what ran before is a deploy.
    pub(super) fn saw_revision(&mut self, revision: Option<&Name>, id: EndpointId) {
        let in_use: BTreeSet<&Name> =
            self.endpoints.values().filter_map(|endpoint| endpoint.spec.revision.as_ref()).collect();
        self.revisions.retain(|known, _| in_use.contains(known));
        if let Some(revision) = revision {
            self.revisions.entry(revision.clone()).or_insert(id);
        }
    }

    /// The revision that came last: an old one that is started again, elsewhere, is no newer.
    fn newest_revision(&self) -> Option<Name> {
        let first = |revision: &Name| {
            let of_it = self.endpoints.values().filter(|endpoint| endpoint.spec.revision.as_ref() == Some(revision));
            self.revisions.get(revision).copied().or_else(|| of_it.map(|endpoint| endpoint.id).min())
        };
        let revisions: BTreeSet<&Name> =
            self.endpoints.values().filter_map(|endpoint| endpoint.spec.revision.as_ref()).collect();
        revisions.into_iter().max_by_key(|revision| first(revision)).cloned()
    }

    /// Gives the sessions of `leaving` to the newest revision. Where that is its own, or there is none,
    /// the ring says where they go.
    pub(super) fn bequeath(&mut self, leaving: &Name) {
        let Some(newest) = self.newest_revision() else { return };
        let Some(endpoint) = self.endpoints.get(leaving) else { return };
        if endpoint.spec.revision.as_ref() == Some(&newest) {
            return;
        }
        let is_heir = |name: &Name, endpoint: &Endpoint| {
            name != leaving
                && matches!(endpoint.phase, Phase::Active {})
                && endpoint.health.verdict == Verdict::Up
                && endpoint.spec.revision.as_ref() == Some(&newest)
        };
        let heirs = || self.endpoints.iter().filter(|(name, endpoint)| is_heir(name, endpoint));
        let Some(fewest) = heirs().map(|(_, heir)| heir.inherited).min() else { return };
        let heirs = heirs().filter(|(_, heir)| heir.inherited == fewest).map(|(name, _)| name.clone());
        let heirs = heirs.take(MOST_HEIRS).collect();
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

    /// `endpoint` keeps its sessions after all.
    pub(super) fn disinherit(&mut self, endpoint: &Name) {
        let heirs = self.endpoints.get_mut(endpoint).map(|endpoint| std::mem::take(&mut endpoint.heirs));
        for id in heirs.unwrap_or_default() {
            if let Some(heir) = self.endpoints.values_mut().find(|heir| heir.id == id) {
                heir.inherited = heir.inherited.saturating_sub(1);
            }
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

    /// The active endpoints that sessions go to when they lose theirs, in order, for every endpoint where not
    /// the ring decides.
    pub(crate) fn heirs(&self) -> BTreeMap<EndpointId, Vec<EndpointId>> {
        let by_id: BTreeMap<EndpointId, &Endpoint> =
            self.endpoints.values().map(|endpoint| (endpoint.id, endpoint)).collect();
        let here = by_id.values().filter(|endpoint| !endpoint.heirs.is_empty()).map(|endpoint| endpoint.id);
        self.gone.keys().copied().chain(here).map(|id| (id, self.heirs_of(id, &by_id))).collect()
    }

    fn heirs_of(&self, endpoint: EndpointId, by_id: &BTreeMap<EndpointId, &Endpoint>) -> Vec<EndpointId> {
        let (mut found, mut seen, mut next) = (Vec::new(), BTreeSet::from([endpoint]), vec![endpoint]);
        while let Some(id) = next.pop() {
            let known = by_id.get(&id);
            if id != endpoint && known.is_some_and(|known| matches!(known.phase, Phase::Active {})) {
                found.push(id);
                continue;
            }
            // An heir that leaves in its turn has heirs of its own.
            let heirs = known.map(|known| &known.heirs).or_else(|| self.gone.get(&id));
            next.extend(heirs.into_iter().flatten().filter(|heir| seen.insert(**heir)));
        }
        found.sort_unstable();
        found
    }
}
