//! What a new table means for what is running: the difference of two tables, as data. The data
//! plane carries it out.

use crate::id::EndpointId;
use crate::state::Phase;
use crate::table::Table;

/// The new phase of an endpoint; unchanged ones are not mentioned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The endpoint is new.
    Added(EndpointId),
    /// Its phase is another one now.
    Phase(EndpointId, Phase),
    /// It is in no pool any more: it takes nothing new, and what runs on it runs to its end.
    Removed(EndpointId),
}

/// The changes from `old` to `new`, in the order of endpoint ids.
pub fn changes(old: &Table, new: &Table) -> Vec<Change> {
    let mut changes = Vec::new();
    for pool in &new.pools {
        let before = old.place_of(pool).map(|place| &old.pools[place]);
        // Shared pools are unchanged; that is what makes a small change cheap.
        if before.is_some_and(|before| std::sync::Arc::ptr_eq(before, pool)) {
            continue;
        }
        for endpoint in &pool.endpoints {
            let known = before.and_then(|before| before.find(endpoint.id).map(|place| &before.endpoints[place]));
            match known {
                None => {
                    changes.push(Change::Added(endpoint.id));
                    if !matches!(endpoint.phase, Phase::Active {}) {
                        changes.push(Change::Phase(endpoint.id, endpoint.phase));
                    }
                }
                Some(known) if known.phase != endpoint.phase => {
                    changes.push(Change::Phase(endpoint.id, endpoint.phase));
                }
                Some(_) => {}
            }
        }
    }
    for pool in &old.pools {
        let now = new.place_of(pool).map(|place| &new.pools[place]);
        if now.is_some_and(|now| std::sync::Arc::ptr_eq(now, pool)) {
            continue;
        }
        let gone = pool.endpoints.iter().filter(|e| now.is_none_or(|now| now.find(e.id).is_none()));
        changes.extend(gone.map(|e| Change::Removed(e.id)));
    }
    changes.sort_by_key(|change| match change {
        Change::Added(id) | Change::Phase(id, _) | Change::Removed(id) => *id,
    });
    changes
}
