use super::*;
use crate::command::{LEVEL, Proposal};
use crate::id::NodeId;
use crate::report::{NodeReport, Observed};
use crate::state::{Outcome, Rejection};

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// A pool of two old and two new endpoints, that nodes 1 to 3 look after.
struct Fleet {
    state: State,
    now_ms: u64,
    watch: Watch,
    reports: Vec<NodeReport>,
}

const OLD: [&str; 2] = ["a1", "a2"];
const NEW: [&str; 2] = ["b1", "b2"];

impl Fleet {
    fn new(checked: bool) -> Fleet {
        let mut fleet = Fleet { state: State::default(), now_ms: 1_000, watch: Watch::default(), reports: Vec::new() };
        fleet.apply(Command::SetLevel { level: LEVEL });
        let health = serde_json::json!({ "health": { "check": { "kind": "tcp" } } });
        let spec = if checked { health } else { serde_json::json!({}) };
        fleet.apply(Command::PutPool { name: name("app"), spec: serde_json::from_value(spec).unwrap() });
        OLD.iter().for_each(|endpoint| fleet.add(endpoint, "v1"));
        fleet.apply(Command::SetObservers { nodes: vec![NodeId(1), NodeId(2), NodeId(3)] });
        fleet.reports = vec![NodeReport::default(); 3];
        fleet.read();
        fleet
    }

    fn add(&mut self, endpoint: &str, revision: &str) {
        let spec = serde_json::json!({ "address": format!("{endpoint}:1"), "revision": revision });
        let spec = serde_json::from_value(spec).unwrap();
        self.apply(Command::PutEndpoint { pool: name("app"), name: name(endpoint), spec });
    }

    fn try_apply(&mut self, command: Command) -> Outcome {
        let epoch = Epoch(self.state.epoch.map_or(0, |epoch| epoch.0) + 1);
        self.state.apply(epoch, &Proposal { at_ms: self.now_ms, key: None, command })
    }

    #[track_caller]
    fn apply(&mut self, command: Command) {
        let outcome = self.try_apply(command.clone());
        assert!(matches!(outcome, Outcome::Applied { .. }), "{command:?}: {outcome:?}");
    }

    fn rejected(&mut self, command: Command) -> Rejection {
        match self.try_apply(command) {
            Outcome::Rejected { reason } => reason,
            outcome => panic!("{outcome:?}"),
        }
    }

    /// Every node reads the newest table.
    fn read(&mut self) {
        for report in &mut self.reports {
            report.epoch = self.state.epoch;
        }
    }

    fn next(&mut self) -> Vec<Command> {
        let nodes: Vec<Seen<'_>> = self
            .reports
            .iter()
            .enumerate()
            .map(|(i, report)| Seen { node: NodeId(i as u64 + 1), report: Some(report) })
            .collect();
        self.watch.next(&self.state, &nodes, self.now_ms)
    }

    /// What the leader does, done.
    fn step(&mut self) -> bool {
        let commands = self.next();
        commands.iter().for_each(|command| self.apply(command.clone()));
        !commands.is_empty()
    }

    fn id_of(&self, endpoint: &str) -> EndpointId {
        self.state.pools[&name("app")].endpoints[&name(endpoint)].id
    }

    fn phases(&self) -> Vec<&'static str> {
        self.state.pools[&name("app")].endpoints.values().map(|endpoint| endpoint.phase.name()).collect()
    }

    fn stage(&self) -> Stage {
        self.state.switchovers.values().next_back().unwrap().stage
    }

    fn id(&self) -> SwitchoverId {
        *self.state.switchovers.keys().next_back().unwrap()
    }

    fn finish_drains(&mut self) {
        let under_way: Vec<DrainId> =
            self.state.drains.iter().filter(|(_, d)| d.state == DrainState::Draining).map(|(id, _)| *id).collect();
        for drain in under_way {
            self.apply(Command::FinishDrain { drain, forced: false });
        }
    }
}

fn spec(more: serde_json::Value) -> SwitchoverSpec {
    let mut spec = serde_json::json!({ "from": { "revision": "v1" }, "to": { "revision": "v2" }, "min_ready": 2 });
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    serde_json::from_value(spec).unwrap()
}

fn start(more: serde_json::Value) -> Command {
    Command::StartSwitchover { pool: name("app"), spec: spec(more) }
}

#[test]
fn the_new_side_must_be_seen_up_before_anything_changes() {
    let mut fleet = Fleet::new(true);
    fleet.apply(start(serde_json::json!({})));
    assert!(!fleet.step(), "there is no new side yet");
    NEW.iter().for_each(|endpoint| fleet.add(endpoint, "v2"));
    assert!(!fleet.step(), "nobody has looked at it: it counts as up, and must not be believed");
    fleet.read();
    for endpoint in NEW {
        let id = fleet.id_of(endpoint);
        fleet.reports.iter_mut().for_each(|report| drop(report.health.insert(id, Observed::Pending)));
    }
    assert!(!fleet.step(), "they have only begun to look");
    fleet.reports.iter_mut().for_each(|report| report.health.clear());
    let down = Observed::Down { detail: String::new() };
    let id = fleet.id_of("b2");
    fleet.reports[..2].iter_mut().for_each(|report| drop(report.health.insert(id, down.clone())));
    assert!(!fleet.step(), "one of two is not enough");
    fleet.reports[0].health.clear();
    assert!(fleet.step());
    assert_eq!(fleet.phases(), ["draining", "draining", "active", "active"]);
    assert!(!fleet.step(), "what is left takes its time");
    fleet.finish_drains();
    assert!(fleet.step());
    assert_eq!((fleet.stage(), fleet.phases()), (Stage::Done, vec!["drained", "drained", "active", "active"]));
}

#[test]
fn a_side_that_never_comes_up_changes_nothing() {
    let mut fleet = Fleet::new(true);
    fleet.apply(start(serde_json::json!({ "wait_ms": 5_000 })));
    NEW.iter().for_each(|endpoint| fleet.add(endpoint, "v2"));
    // Down, and nobody looks any more: it never comes up by itself.
    let id = fleet.id_of("b1");
    let (pool, endpoint, detail) = (name("app"), name("b1"), String::new());
    fleet.apply(Command::SetHealth { pool: pool.clone(), endpoint, id, verdict: Verdict::Down, detail });
    fleet.now_ms += 4_999;
    assert!(!fleet.step());
    fleet.now_ms += 1;
    assert!(fleet.step());
    assert_eq!((fleet.stage(), fleet.phases()), (Stage::RolledBack, vec!["active"; 4]));
    assert!(fleet.state.switchovers[&fleet.id()].detail.contains("5 s"));
}

#[test]
fn a_new_side_that_fails_is_left_again() {
    let mut fleet = Fleet::new(false);
    NEW.iter().for_each(|endpoint| fleet.add(endpoint, "v2"));
    fleet.apply(start(serde_json::json!({ "max_error_percent": 10 })));
    assert!(fleet.step(), "without checks what is there is ready");
    assert_eq!(watched(&fleet.state), NEW.iter().map(|endpoint| fleet.id_of(endpoint)).collect());
    let id = fleet.id_of("b1");
    let count = |fleet: &mut Fleet, good, failed| {
        fleet.reports[0].outcomes.insert(id, Outcomes { good, failed });
        fleet.step()
    };
    assert!(!count(&mut fleet, 1_000, 900), "what was before it is not held against it");
    // Nor what a node that is heard of late had seen before.
    let late = Outcomes { good: 0, failed: 5_000 };
    fleet.reports[1].outcomes.insert(id, late);
    assert!(!fleet.step());
    fleet.reports[1].outcomes.clear();
    assert!(!fleet.step());
    fleet.reports[1].outcomes.insert(id, late);
    assert!(!fleet.step(), "it was away for a moment");
    fleet.reports[1].outcomes.insert(id, Outcomes::default());
    assert!(!fleet.step(), "it has started anew");
    fleet.reports[1].outcomes.clear();
    assert!(!count(&mut fleet, 1_000, 919), "too few to tell");
    assert!(!count(&mut fleet, 1_200, 919), "not too many");
    fleet.now_ms += WINDOW_MS;
    assert!(!count(&mut fleet, 1_200, 919), "the window begins anew");
    assert!(!count(&mut fleet, 1_218, 921), "exactly a tenth");
    // One of the old side has drained already: it may have been stopped, and stays where it is.
    let drained = fleet.state.switchovers[&fleet.id()].drains[0];
    fleet.apply(Command::FinishDrain { drain: drained, forced: false });
    assert!(count(&mut fleet, 1_218, 922));
    assert_eq!((fleet.stage(), fleet.phases()), (Stage::RolledBack, vec!["drained", "active", "draining", "draining"]));
    assert!(watched(&fleet.state).is_empty());
}

#[test]
fn a_switchover_is_rolled_back_by_request_while_there_is_something_to_go_back_to() {
    let mut fleet = Fleet::new(false);
    NEW.iter().for_each(|endpoint| fleet.add(endpoint, "v2"));
    fleet.apply(start(serde_json::json!({})));
    assert!(matches!(fleet.rejected(start(serde_json::json!({}))), Rejection::SwitchoverUnderWay { .. }));
    fleet.step();
    let back = Command::RollBackSwitchover { switchover: fleet.id(), reason: "x".into() };
    for endpoint in OLD {
        fleet.apply(Command::DeleteEndpoint { pool: name("app"), name: name(endpoint) });
    }
    assert!(matches!(fleet.rejected(back.clone()), Rejection::NothingToReturnTo { .. }));
    assert!(fleet.step(), "with the old side gone it is done");
    assert_eq!(fleet.stage(), Stage::Done);
    assert!(matches!(fleet.rejected(back), Rejection::UnknownSwitchover { .. }));
    assert!(matches!(fleet.rejected(start(serde_json::json!({}))), Rejection::NothingToReplace { .. }));
}

#[test]
fn the_leader_cannot_shift_what_is_not_ready_any_more() {
    let mut fleet = Fleet::new(false);
    fleet.apply(start(serde_json::json!({})));
    let shift = Command::ShiftSwitchover { switchover: fleet.id() };
    assert_eq!(fleet.rejected(shift), Rejection::NotReady {});
    fleet.apply(Command::DeletePool { name: name("app") });
    assert_eq!(fleet.stage(), Stage::RolledBack);
}

#[test]
fn sides_that_do_not_go_together_are_refused() {
    let check = |json| spec(json).check();
    assert_eq!(check(serde_json::json!({})), Ok(()));
    let same = serde_json::json!({ "to": { "revision": "v1" } });
    let lists = serde_json::json!({ "from": { "endpoints": ["a", "b"] }, "to": { "endpoints": ["b"] } });
    let empty = serde_json::json!({ "to": { "endpoints": [] } });
    let (none, percent) = (serde_json::json!({ "min_ready": 0 }), serde_json::json!({ "max_error_percent": 101 }));
    for bad in [same, lists, empty, none, percent] {
        assert!(check(bad.clone()).is_err(), "{bad}");
    }
}
