//! How a fleet begins, once, with the same founders on every node.
//!
//! Founders are listed by address in the configuration; their ids are minted with their disks, so
//! each must first hear who the others are. A node begins the fleet only when EVERY founder announces
//! the very set of ids that it sees itself. Two nodes that began with different sets could each find
//! a majority; unanimity rules that out, even while a founder's disk is replaced during the start,
//! because a set needs the announcement of all its members and whoever has begun never announces
//! another. Deciding is pure; `founding` in `raft` runs it.

use std::collections::BTreeMap;

use raft::prelude::{HardState, Snapshot};

use super::frame::Hello;
use super::membership::Membership;
use super::storage::{LogStart, Position, Store, StoreError, Write};

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Nothing yet. `announce` is the complete set as seen here, if it is complete.
    Wait { announce: Option<Vec<u64>>, why: String },
    /// Begin with these ids, all founders agree.
    Found(Vec<u64>),
    /// The others began without this node. It waits to be added and never begins anything.
    StayOut { fleet: Vec<u64>, seen_at: String },
}

/// `heard` has the latest Hello from each address that was dialled. `own` is this node's address.
pub(crate) fn decide(me: u64, own: &str, founders: &[String], heard: &BTreeMap<String, Hello>) -> Decision {
    // A fleet that exists settles it, whatever else is missing; one that names this node comes first,
    // since a member that was added later does not know the founders.
    let existing: Vec<_> = heard.iter().filter(|(_, hello)| hello.initialised).collect();
    let founded_by = |hello: &Hello| hello.founders.clone().unwrap_or_default();
    if let Some((_, hello)) = existing.iter().find(|(_, hello)| founded_by(hello).contains(&me)) {
        return Decision::Found(founded_by(hello));
    }
    if let Some((address, hello)) = existing.first() {
        return Decision::StayOut { fleet: founded_by(hello), seen_at: address.to_string() };
    }
    let others: Vec<&String> = founders.iter().filter(|address| *address != own).collect();
    let silent: Vec<&str> =
        others.iter().filter(|address| !heard.contains_key(**address)).map(|address| address.as_str()).collect();
    if !silent.is_empty() {
        return Decision::Wait { announce: None, why: format!("no answer yet from {}", silent.join(", ")) };
    }
    let mut ids: Vec<u64> = others.iter().filter_map(|address| heard.get(*address)).map(|hello| hello.id).collect();
    ids.push(me);
    ids.sort_unstable();
    let count = ids.len();
    ids.dedup();
    if ids.len() < count {
        let why = "two of the founders' addresses lead to the same node; check [fleet] founders and advertise";
        return Decision::Wait { announce: None, why: why.into() };
    }
    let differing: Vec<&str> = others
        .iter()
        .filter(|address| heard.get(**address).is_none_or(|hello| hello.founders.as_ref() != Some(&ids)))
        .map(|address| address.as_str())
        .collect();
    if differing.is_empty() {
        return Decision::Found(ids);
    }
    let why = format!("{} do not see the same founders yet", differing.join(", "));
    Decision::Wait { announce: Some(ids), why }
}

/// Writes the beginning of a fleet: a snapshot of the empty state at index 1, term 1.
///
/// Not at index 0: then nodes that join later, whose log is empty, always start from a snapshot and
/// never wait for entries that were never written. All founders write the same bytes.
pub fn found<S: Store>(store: &mut S, founders: &[u64], state: Vec<u8>) -> Result<(), StoreError> {
    begin(store, Position { index: 1, term: 1 }, founders, state)
}

/// Replaces whatever the store has by a snapshot of `state` at `begin`, with these voters.
pub(super) fn begin<S: Store>(
    store: &mut S,
    begin: Position,
    voters: &[u64],
    state: Vec<u8>,
) -> Result<(), StoreError> {
    let mut snapshot = Snapshot { data: state.into(), ..Snapshot::default() };
    let metadata = snapshot.mut_metadata();
    (metadata.index, metadata.term) = (begin.index, begin.term);
    metadata.set_conf_state((&Membership::of_voters(voters)).into());
    let mut hard_state = HardState::default();
    (hard_state.term, hard_state.commit) = (begin.term, begin.index);
    store.commit(&Write {
        snapshot: Some(&snapshot),
        log: LogStart::ResetTo(begin),
        hard_state: Some(&hard_state),
        founders: Some(voters),
        // Whoever it knew before is no part of this beginning.
        addresses: Some(&[]),
        ..Write::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(id: u64, initialised: bool, founders: Option<&[u64]>) -> Hello {
        Hello {
            id,
            name: String::new(),
            address: String::new(),
            admin: String::new(),
            version: String::new(),
            initialised,
            founders: founders.map(<[u64]>::to_vec),
            known: vec![],
            join_token: None,
        }
    }

    fn founders() -> Vec<String> {
        ["a:1", "b:1", "c:1"].map(String::from).to_vec()
    }

    fn decide_with(heard: &[(&str, Hello)]) -> Decision {
        let heard = heard.iter().map(|(address, hello)| (address.to_string(), hello.clone())).collect();
        decide(1, "a:1", &founders(), &heard)
    }

    #[test]
    fn a_founder_of_one_begins_alone() {
        assert_eq!(decide(1, "a:1", &["a:1".into()], &BTreeMap::new()), Decision::Found(vec![1]));
    }

    #[test]
    fn a_silent_founder_is_waited_for_and_named() {
        let Decision::Wait { announce: None, why } = decide_with(&[("b:1", hello(2, false, None))]) else {
            panic!("must wait")
        };
        assert!(why.contains("c:1") && !why.contains("b:1"), "{why}");
    }

    #[test]
    fn the_set_is_announced_before_it_is_used() {
        let heard = [("b:1", hello(2, false, None)), ("c:1", hello(3, false, Some(&[1, 2, 3])))];
        assert!(matches!(decide_with(&heard), Decision::Wait { announce: Some(ids), .. } if ids == [1, 2, 3]));
        let heard = [("b:1", hello(2, false, Some(&[1, 2, 3]))), ("c:1", hello(3, false, Some(&[1, 2, 3])))];
        assert_eq!(decide_with(&heard), Decision::Found(vec![1, 2, 3]));
    }

    #[test]
    fn a_founder_that_sees_another_set_is_not_begun_with() {
        // c came back with a new disk; b still announces the old one.
        let heard = [("b:1", hello(2, false, Some(&[1, 2, 3]))), ("c:1", hello(4, false, Some(&[1, 2, 4])))];
        assert!(matches!(decide_with(&heard), Decision::Wait { .. }));
    }

    #[test]
    fn a_fleet_that_names_this_node_is_adopted_though_others_are_silent() {
        assert_eq!(decide_with(&[("b:1", hello(2, true, Some(&[1, 2, 3])))]), Decision::Found(vec![1, 2, 3]));
    }

    #[test]
    fn a_fleet_without_this_node_is_left_alone() {
        let out = Decision::StayOut { fleet: vec![2, 3, 9], seen_at: "b:1".into() };
        assert_eq!(decide_with(&[("b:1", hello(2, true, Some(&[2, 3, 9])))]), out);
        // The fleet exists although this member of it was added later and does not know the founders.
        assert!(matches!(decide_with(&[("b:1", hello(2, true, None))]), Decision::StayOut { .. }));
    }

    #[test]
    fn one_node_behind_two_addresses_is_a_mistake_to_name() {
        let heard = [("b:1", hello(2, false, None)), ("c:1", hello(2, false, None))];
        assert!(matches!(decide_with(&heard), Decision::Wait { announce: None, .. }));
    }
}
