use std::collections::BTreeMap;
use std::sync::Arc;

use tidelock_core::command::{DrainMode, LEVEL, Proposal};
use tidelock_core::health::Verdict;
use tidelock_core::id::{DrainId, EndpointId, Name, NodeId};
use tidelock_core::report::{Counts, NodeReport, Observed};

use super::*;
use crate::fleet::roster::Bulletin;

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn apply(state: &mut State, epoch: u64, command: Command) {
    let outcome = state.apply(Epoch(epoch), &Proposal { at_ms: 0, key: None, command });
    assert!(matches!(outcome, Outcome::Applied { .. }), "{outcome:?}");
}

/// A member that reports the epoch, with so many requests on endpoint 2.
fn member(id: u64, epoch: u64, requests: u64) -> Member {
    let counts = Counts { requests, ..Default::default() };
    let endpoints = if requests == 0 { BTreeMap::new() } else { [(EndpointId(2), counts)].into() };
    let report = NodeReport { epoch: Some(Epoch(epoch)), endpoints, ..NodeReport::default() };
    Member {
        id: NodeId(id),
        role: Role::Follower,
        local: id == 1,
        label: format!("n{id}"),
        age: Some(Duration::ZERO),
        bulletin: Some(Arc::new(Bulletin { name: name("n"), admin: None, level: 1, removed: Vec::new(), report })),
    }
}

fn missing(id: u64) -> Member {
    Member { age: Some(roster::FRESH * 2), ..member(id, 1_000, 0) }
}

fn key(promoted: bool) -> CookieKey {
    CookieKey { id: 1, secret: KeySecret([7; 32]), promoted }
}

#[test]
fn a_new_fleet_gets_its_configuration_and_a_key() {
    let mut memory = Memory::default();
    let state = State::default();
    assert_eq!(next(&state, &[], Some(1), &mut memory, 0), [Chore::Initial, Chore::MakeKey]);
    assert_eq!(next(&state, &[], None, &mut memory, 0), [Chore::MakeKey]);
    memory.initial_refused = true;
    assert_eq!(next(&state, &[], Some(1), &mut memory, 0), [Chore::MakeKey], "a refused one is not repeated");
}

#[test]
fn a_fleet_that_was_emptied_stays_empty() {
    let mut state = State::default();
    apply(&mut state, 2, Command::PutCookieKey { key: key(true) });
    assert_eq!(next(&state, &[], Some(1), &mut Memory::default(), 0), []);
}

#[test]
fn a_key_is_promoted_when_every_member_has_it() {
    let mut state = State::default();
    apply(&mut state, 5, Command::PutCookieKey { key: key(false) });
    let mut memory = Memory::default();
    let mut due = |members: &[Member]| next(&state, members, None, &mut memory, 0);
    assert_eq!(due(&[]), [], "nobody is not everybody");
    assert_eq!(due(&[member(1, 5, 0), member(2, 4, 0)]), [], "a node still reads the table before");
    assert_eq!(due(&[member(1, 5, 0), missing(2)]), [], "one that is cut off still serves");
    assert_eq!(due(&[member(1, 5, 0), member(2, 5, 0)]), [Chore::PromoteKey(key(true))]);
}

#[test]
fn a_new_leader_promotes_a_key_that_it_did_not_make() {
    let mut state = State::default();
    apply(&mut state, 5, Command::PutCookieKey { key: key(false) });
    apply(&mut state, 9, Command::PutPool { name: name("p"), spec: Default::default() });
    let mut memory = Memory::default();
    assert_eq!(next(&state, &[member(1, 8, 0)], None, &mut memory, 0), [], "when it came in is not known");
    apply(&mut state, 10, Command::PutPool { name: name("q"), spec: Default::default() });
    let due = next(&state, &[member(1, 9, 0)], None, &mut memory, 0);
    assert_eq!(due, [Chore::PromoteKey(key(true))], "later entries do not put it off");
}

#[test]
fn a_drain_ends_when_every_member_reports_zero() {
    let mut state = State::default();
    apply(&mut state, 2, Command::PutCookieKey { key: key(true) });
    apply(&mut state, 3, Command::PutPool { name: name("p"), spec: Default::default() });
    let spec = serde_json::from_str(r#"{"address":"a:1"}"#).unwrap();
    apply(&mut state, 4, Command::PutEndpoint { pool: name("p"), name: name("e"), spec });
    assert_eq!(state.pools[&name("p")].endpoints[&name("e")].id, EndpointId(2));
    let due = |state: &State, members: &[Member]| next(state, members, None, &mut Memory::default(), 0);
    assert_eq!(due(&state, &[member(1, 4, 0)]), []);
    let start = Command::StartDrain {
        pool: name("p"),
        endpoint: name("e"),
        mode: DrainMode::Streams,
        deadline_ms: None,
        reason: String::new(),
        pace: None,
    };
    apply(&mut state, 5, start);
    assert_eq!(due(&state, &[member(1, 5, 0), member(2, 5, 1)]), [], "a request is left");
    assert_eq!(due(&state, &[member(1, 5, 0), missing(2)]), [], "a missing node is not a node at zero");
    let finish = Command::FinishDrain { drain: DrainId(5), forced: false };
    assert_eq!(due(&state, &[member(1, 5, 0), member(2, 6, 0)]), [Chore::FinishDrain(finish)]);
}

/// Nodes 1 to 3 look after endpoint 2, which those in `down` do not reach.
fn checked(down: &[u64]) -> (State, Vec<Member>) {
    let mut state = State::default();
    apply(&mut state, 1, Command::SetLevel { level: LEVEL });
    apply(&mut state, 2, Command::PutCookieKey { key: key(true) });
    let spec = serde_json::from_str(r#"{"health":{"check":{"kind":"tcp"}}}"#).unwrap();
    apply(&mut state, 3, Command::PutPool { name: name("p"), spec });
    let spec = serde_json::from_str(r#"{"address":"a:1"}"#).unwrap();
    apply(&mut state, 4, Command::PutEndpoint { pool: name("p"), name: name("e"), spec });
    let members = (1..=3).map(|id| {
        let mut member = member(id, 5, 0);
        if down.contains(&id) {
            let mut bulletin = (**member.bulletin.as_ref().unwrap()).clone();
            bulletin.report.health = [(EndpointId(2), Observed::Down { detail: "refused".into() })].into();
            member.bulletin = Some(Arc::new(bulletin));
        }
        member
    });
    (state, members.collect())
}

#[test]
fn observers_are_named_at_once_and_changed_when_it_lasts() {
    let (mut state, members) = checked(&[]);
    let mut memory = Memory::default();
    let nodes = vec![NodeId(1), NodeId(2), NodeId(3)];
    let named = Command::SetObservers { nodes };
    assert_eq!(next(&state, &members, None, &mut memory, 0), [Chore::NameObservers(named.clone())]);
    apply(&mut state, 5, named);
    assert_eq!(next(&state, &members, None, &mut memory, 100), []);
    // One is away for a moment, and comes back.
    let fewer = [members[0].clone(), members[1].clone(), missing(3)];
    assert_eq!(next(&state, &fewer, None, &mut memory, 1_000), []);
    assert_eq!(next(&state, &members, None, &mut memory, 4_000), []);
    assert_eq!(next(&state, &fewer, None, &mut memory, 8_000), []);
    assert_eq!(next(&state, &fewer, None, &mut memory, 12_999), []);
    let named = Command::SetObservers { nodes: vec![NodeId(1), NodeId(2)] };
    assert_eq!(next(&state, &fewer, None, &mut memory, 13_000), [Chore::NameObservers(named)]);
}

#[test]
fn an_endpoint_is_judged_by_most_of_its_observers() {
    for (down, is_down) in [(&[1][..], false), (&[1, 3], true)] {
        let (mut state, members) = checked(down);
        let nodes = vec![NodeId(1), NodeId(2), NodeId(3)];
        apply(&mut state, 5, Command::SetObservers { nodes });
        let judged = Command::SetHealth {
            pool: name("p"),
            endpoint: name("e"),
            id: EndpointId(2),
            verdict: Verdict::Down,
            detail: "refused".into(),
        };
        let due: Vec<Chore> = is_down.then_some(Chore::Judge(judged)).into_iter().collect();
        assert_eq!(next(&state, &members, None, &mut Memory::default(), 0), due, "{down:?}");
    }
}

/// A node that is not upgraded, or not heard of, cannot read what is new: nobody says it before.
#[test]
fn the_level_is_raised_when_every_member_knows_it() {
    let at = |id, level| {
        let mut member = member(id, 5, 0);
        let bulletin = Bulletin { level, ..(**member.bulletin.as_ref().unwrap()).clone() };
        member.bulletin = Some(Arc::new(bulletin));
        member
    };
    let mut state = State::default();
    let due = |state: &State, members: &[Member]| next(state, members, Some(LEVEL), &mut Memory::default(), 0);
    assert_eq!(due(&state, &[at(1, LEVEL), at(2, 1)]), [], "and what needs it waits, the first key too");
    assert_eq!(due(&state, &[at(1, LEVEL), missing(2)]), []);
    assert_eq!(due(&state, &[at(1, LEVEL), at(2, LEVEL + 1)]), [Chore::RaiseLevel(LEVEL)]);
    apply(&mut state, 2, Command::SetLevel { level: LEVEL });
    assert_eq!(due(&state, &[at(1, LEVEL), at(2, LEVEL)]), [Chore::Initial, Chore::MakeKey]);
}

/// A drain with a pace and a switchover come to their ends by chores alone.
#[test]
fn the_leader_goes_on_with_switchovers_and_shares_out_their_pace() {
    let mut state = State::default();
    apply(&mut state, 1, Command::SetLevel { level: LEVEL });
    apply(&mut state, 2, Command::PutCookieKey { key: key(true) });
    apply(&mut state, 3, Command::PutPool { name: name("p"), spec: Default::default() });
    for (epoch, endpoint) in [(4, "a"), (5, "b")] {
        let spec = serde_json::from_value(serde_json::json!({ "address": format!("{endpoint}:1") })).unwrap();
        apply(&mut state, epoch, Command::PutEndpoint { pool: name("p"), name: name(endpoint), spec });
    }
    let spec = serde_json::json!({ "from": { "endpoints": ["a"] }, "to": { "endpoints": ["b"] } });
    let spec = serde_json::from_value(spec).unwrap();
    apply(&mut state, 6, Command::StartSwitchover { pool: name("p"), spec });
    let mut memory = Memory::default();
    let mut next = |state: &State, members: &[Member]| next(state, members, None, &mut memory, 0);
    let chores = next(&state, &[member(1, 6, 0)]);
    let [Chore::SwitchOver(shift)] = &chores[..] else { panic!("{chores:?}") };
    apply(&mut state, 7, shift.clone());
    let with_sockets = |epoch, count| {
        let counts = Counts { requests: count, websockets: count, ..Counts::default() };
        let report = NodeReport {
            epoch: Some(Epoch(epoch)),
            endpoints: [(EndpointId(2), counts)].into(),
            ..NodeReport::default()
        };
        let mut member = member(1, 0, 0);
        let bulletin = Bulletin { name: name("n"), admin: None, level: 1, removed: Vec::new(), report };
        member.bulletin = Some(Arc::new(bulletin));
        member
    };
    let chores = next(&state, &[with_sockets(7, 9)]);
    let [Chore::ShareClosing(shares)] = &chores[..] else { panic!("{chores:?}") };
    apply(&mut state, 8, shares.clone());
    assert_eq!(state.drains[&DrainId(7)].shares, [(NodeId(1), 50_000)].into());
    assert_eq!(next(&state, &[with_sockets(8, 4)]), [], "they close");
    let chores = next(&state, &[member(1, 8, 0)]);
    let [Chore::FinishDrain(finish)] = &chores[..] else { panic!("{chores:?}") };
    apply(&mut state, 9, finish.clone());
    let chores = next(&state, &[member(1, 9, 0)]);
    let [Chore::SwitchOver(finish)] = &chores[..] else { panic!("{chores:?}") };
    apply(&mut state, 10, finish.clone());
    assert_eq!(next(&state, &[member(1, 10, 0)]), []);
}
