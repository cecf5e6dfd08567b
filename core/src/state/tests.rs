use proptest::prelude::*;

use super::*;
use crate::health::Verdict;
use crate::table::Table;

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn endpoint(address: &str) -> EndpointSpec {
    EndpointSpec { address: address.parse().unwrap(), weight: Default::default(), revision: None, node: None }
}

fn route_to(pool: &str) -> RouteSpec {
    serde_json::from_value(serde_json::json!({ "pool": pool })).unwrap()
}

struct Fleet {
    state: State,
    epoch: u64,
}

impl Fleet {
    fn new() -> Fleet {
        Fleet { state: State::default(), epoch: 1 }
    }

    fn apply(&mut self, command: Command) -> Outcome {
        self.epoch += 1;
        self.state.apply(Epoch(self.epoch), &Proposal { at_ms: 1000 * self.epoch, key: None, command })
    }

    fn applied(&mut self, command: Command) -> Option<DrainId> {
        match self.apply(command.clone()) {
            Outcome::Applied { epoch, drain, .. } => {
                assert_eq!(epoch, Epoch(self.epoch));
                drain
            }
            Outcome::Rejected { reason } => panic!("{command:?}: {reason}"),
        }
    }

    fn rejected(&mut self, command: Command) -> Rejection {
        let before = self.state.clone();
        match self.apply(command.clone()) {
            Outcome::Applied { .. } => panic!("{command:?} was applied"),
            Outcome::Rejected { reason } => {
                let after = State { epoch: before.epoch, ..self.state.clone() };
                assert_eq!(after, before, "a rejected command changes nothing");
                reason
            }
        }
    }

    fn phase(&self, pool: &str, endpoint: &str) -> &'static str {
        self.state.pools[&name(pool)].endpoints[&name(endpoint)].phase.name()
    }
}

fn two_endpoints() -> Fleet {
    let mut fleet = Fleet::new();
    fleet.applied(Command::PutPool { name: name("app"), spec: PoolSpec::default() });
    for (endpoint_name, address) in [("a", "127.0.0.1:1"), ("b", "127.0.0.1:2")] {
        fleet.applied(Command::PutEndpoint { pool: name("app"), name: name(endpoint_name), spec: endpoint(address) });
    }
    fleet.applied(Command::PutRoute { name: name("web"), spec: route_to("app") });
    fleet
}

fn start(endpoint: &str) -> Command {
    let mode = DrainMode::Streams;
    Command::StartDrain {
        pool: name("app"),
        endpoint: name(endpoint),
        mode,
        deadline_ms: None,
        reason: String::new(),
        pace: None,
    }
}

#[test]
fn a_drain_goes_from_active_to_drained() {
    let mut fleet = two_endpoints();
    let drain = fleet.applied(start("a")).unwrap();
    assert_eq!(drain.0, fleet.epoch);
    assert_eq!(fleet.phase("app", "a"), "draining");
    assert!(matches!(fleet.rejected(start("a")), Rejection::NotActive { .. }));
    fleet.applied(Command::FinishDrain { drain, forced: false });
    assert_eq!(fleet.phase("app", "a"), "drained");
    assert!(matches!(fleet.rejected(Command::FinishDrain { drain, forced: true }), Rejection::UnknownDrain { .. }));
    fleet.applied(Command::DeleteEndpoint { pool: name("app"), name: name("a") });
    assert!(matches!(fleet.rejected(start("a")), Rejection::UnknownEndpoint { .. }));
}

#[test]
fn a_cancelled_drain_leads_back() {
    let mut fleet = two_endpoints();
    let drain = fleet.applied(start("a")).unwrap();
    let cancel = Command::CancelDrain { pool: name("app"), endpoint: name("a") };
    fleet.applied(cancel.clone());
    assert_eq!(fleet.phase("app", "a"), "active");
    assert_eq!(fleet.state.drains[&drain].state, DrainState::Cancelled);
    assert!(matches!(fleet.rejected(cancel), Rejection::NotDraining { .. }));
    // A late report of the leader cannot end the cancelled drain.
    assert!(matches!(fleet.rejected(Command::FinishDrain { drain, forced: false }), Rejection::UnknownDrain { .. }));
}

#[test]
fn a_new_address_is_a_new_endpoint() {
    let mut fleet = two_endpoints();
    let before = fleet.state.pools[&name("app")].endpoints[&name("a")].id;
    let drain = fleet.applied(start("a")).unwrap();
    fleet.applied(Command::PutEndpoint { pool: name("app"), name: name("a"), spec: endpoint("127.0.0.1:9") });
    let after = &fleet.state.pools[&name("app")].endpoints[&name("a")];
    assert_ne!(after.id, before);
    assert_eq!(after.phase.name(), "active");
    assert_eq!(fleet.state.drains[&drain].state, DrainState::Removed);
}

#[test]
fn what_is_in_use_or_missing_is_rejected() {
    let mut fleet = two_endpoints();
    assert!(matches!(fleet.rejected(Command::DeletePool { name: name("app") }), Rejection::PoolInUse { .. }));
    assert!(matches!(fleet.rejected(Command::DeletePool { name: name("x") }), Rejection::UnknownPool { .. }));
    let twin = Command::PutEndpoint { pool: name("app"), name: name("c"), spec: endpoint("127.0.0.1:1") };
    assert!(matches!(fleet.rejected(twin), Rejection::DuplicateAddress { .. }));
    let nowhere = Command::PutRoute { name: name("x"), spec: route_to("x") };
    assert!(matches!(fleet.rejected(nowhere), Rejection::UnknownPool { .. }));
    let same = Command::PutRoute { name: name("web2"), spec: route_to("app") };
    assert!(matches!(fleet.rejected(same), Rejection::DuplicateRoute { .. }));
}

#[test]
fn a_batch_is_all_or_nothing() {
    let mut fleet = two_endpoints();
    let commands = vec![
        Command::PutPool { name: name("other"), spec: PoolSpec::default() },
        Command::DeleteRoute { name: name("nope") },
    ];
    assert!(matches!(fleet.rejected(Command::Batch { commands }), Rejection::InBatch { index: 1, .. }));
    let commands = vec![start("a"), start("b")];
    fleet.applied(Command::Batch { commands });
    assert_eq!(fleet.state.drains.len(), 2, "two drains of one epoch have two ids");
}

#[test]
fn a_repeated_key_is_applied_once() {
    let mut fleet = two_endpoints();
    let key = Some(IdempotencyKey::try_from("k1".to_owned()).unwrap());
    let proposal = Proposal { at_ms: 1, key, command: start("a") };
    let first = fleet.state.apply(Epoch(50), &proposal);
    let cancel = Command::CancelDrain { pool: name("app"), endpoint: name("a") };
    fleet.state.apply(Epoch(51), &Proposal { at_ms: 2, key: None, command: cancel });
    assert_eq!(fleet.state.apply(Epoch(52), &proposal), first, "the first answer again");
    assert_eq!(fleet.phase("app", "a"), "active", "and no second drain");
}

#[test]
fn an_edit_shares_what_it_does_not_touch() {
    let mut fleet = two_endpoints();
    fleet.applied(Command::PutPool { name: name("other"), spec: PoolSpec::default() });
    let before = Table::compile(&fleet.state, None);
    fleet.applied(start("a"));
    let after = Table::compile(&fleet.state, Some(&before));
    let pool = |table: &Table, at: usize| table.pools[at].clone();
    assert!(!Arc::ptr_eq(&pool(&before, 0), &pool(&after, 0)));
    assert!(Arc::ptr_eq(&pool(&before, 1), &pool(&after, 1)));
    assert!(Arc::ptr_eq(&before.sealer, &after.sealer));
}

fn any_command() -> impl Strategy<Value = Command> {
    let pools = prop_oneof![Just("p"), Just("q")].prop_map(name);
    let endpoints = prop_oneof![Just("a"), Just("b"), Just("c")].prop_map(name);
    let both = (pools.clone(), endpoints);
    prop_oneof![
        pools.clone().prop_map(|name| Command::PutPool { name, spec: PoolSpec::default() }),
        pools.clone().prop_map(|name| Command::DeletePool { name }),
        (both.clone(), 1u16..4).prop_map(|((pool, name), port)| {
            Command::PutEndpoint { pool, name, spec: endpoint(&format!("h:{port}")) }
        }),
        both.clone().prop_map(|(pool, name)| Command::DeleteEndpoint { pool, name }),
        pools.prop_map(|pool| Command::PutRoute { name: pool.clone(), spec: route_to(pool.as_str()) }),
        both.clone().prop_map(|(pool, endpoint)| {
            Command::StartDrain {
                pool,
                endpoint,
                mode: DrainMode::Sessions,
                deadline_ms: None,
                reason: String::new(),
                pace: None,
            }
        }),
        both.prop_map(|(pool, endpoint)| Command::CancelDrain { pool, endpoint }),
        (0u64..40).prop_map(|id| Command::FinishDrain { drain: DrainId(id), forced: id % 2 == 0 }),
    ]
}

proptest! {
    /// Whatever is proposed: replicas stay equal, a snapshot in the middle changes nothing, every
    /// phase has its drain and every drain under way its endpoint, and tables grown step by step
    /// equal those compiled from nothing.
    #[test]
    fn any_history_keeps_the_invariants(commands in proptest::collection::vec(any_command(), 1..40), cut in 0usize..40) {
        let mut fleet = Fleet::new();
        let mut replica = State::default();
        let mut table = Table::empty();
        for (i, command) in commands.into_iter().enumerate() {
            let outcome = fleet.apply(command.clone());
            if i == cut {
                replica = State::decode(&replica.encode()).unwrap();
            }
            let proposal = Proposal { at_ms: 1000 * fleet.epoch, key: None, command };
            prop_assert_eq!(replica.apply(Epoch(fleet.epoch), &proposal), outcome);
            prop_assert_eq!(&replica, &fleet.state);

            for (pool_name, pool) in &fleet.state.pools {
                for (endpoint_name, endpoint) in &pool.endpoints {
                    if let Phase::Draining { drain, .. } = endpoint.phase {
                        let record = &fleet.state.drains[&drain];
                        prop_assert_eq!((&record.pool, &record.endpoint), (pool_name, endpoint_name));
                        prop_assert_eq!(record.state, DrainState::Draining);
                    }
                }
            }
            for (id, drain) in fleet.state.drains.iter().filter(|(_, d)| d.state == DrainState::Draining) {
                let endpoint = &fleet.state.pools[&drain.pool].endpoints[&drain.endpoint];
                prop_assert_eq!(endpoint.phase.drain(), Some(*id));
            }

            let next = Table::compile(&fleet.state, Some(&table));
            let fresh = Table::compile(&fleet.state, None);
            for key in 0..8u64 {
                let position = key.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                for (grown, new) in next.pools.iter().zip(&fresh.pools) {
                    prop_assert_eq!(&grown.name, &new.name);
                    prop_assert_eq!(
                        grown.ring.walk(position).collect::<Vec<_>>(),
                        new.ring.walk(position).collect::<Vec<_>>()
                    );
                }
            }
            let phases: std::collections::BTreeMap<_, _> = next.endpoints().map(|(_, e)| (e.id, e.phase)).collect();
            let mut followed: std::collections::BTreeMap<_, _> = table.endpoints().map(|(_, e)| (e.id, e.phase)).collect();
            for change in crate::plan::changes(&table, &next) {
                use crate::plan::Change;
                match change {
                    Change::Added(id) => { followed.insert(id, Phase::Active {}); }
                    Change::Phase(id, phase) => { followed.insert(id, phase); }
                    Change::Removed(id) => { followed.remove(&id); }
                }
            }
            prop_assert_eq!(followed, phases, "carrying out the plan gives the new table");
            table = next;
        }
    }
}

#[test]
fn a_removed_node_does_not_come_back_and_a_token_is_good_once() {
    let mut fleet = Fleet::new();
    fleet.applied(Command::SetMember { node: NodeId(7), wanted: Wanted::Voter });
    fleet.applied(Command::SetMember { node: NodeId(7), wanted: Wanted::Gone });
    let back = fleet.rejected(Command::SetMember { node: NodeId(7), wanted: Wanted::Learner });
    assert_eq!(back, Rejection::NodeGone { node: NodeId(7) });
    // A time of the test's clock is 1,000 times the epoch.
    let token = |sha256: &str, expires_ms| JoinToken { sha256: sha256.into(), wanted: Wanted::Learner, expires_ms };
    fleet.applied(Command::PutJoinToken { token: token("aa", 1_000_000) });
    fleet.applied(Command::PutJoinToken { token: token("bb", 6_500) });
    let used = |sha256: &str, node| Command::UseJoinToken { sha256: sha256.into(), node: NodeId(node) };
    assert_eq!(fleet.rejected(used("bb", 8)), Rejection::UnknownJoinToken {}, "it is too old");
    assert_eq!(fleet.rejected(used("cc", 8)), Rejection::UnknownJoinToken {});
    assert_eq!(fleet.rejected(used("aa", 7)), Rejection::NodeGone { node: NodeId(7) }, "and is not used up by that");
    fleet.applied(used("aa", 8));
    assert_eq!(fleet.state.members[&NodeId(8)], Wanted::Learner);
    assert_eq!(fleet.rejected(used("aa", 9)), Rejection::UnknownJoinToken {}, "once");
}

/// A verdict, a timeout or a revision is no change of the ring, which is what a pool costs most.
#[test]
fn a_ring_is_built_anew_only_when_its_members_change() {
    let mut fleet = two_endpoints();
    fleet.applied(Command::SetLevel { level: 2 });
    let before = Table::compile(&fleet.state, None);
    let id = fleet.state.pools[&name("app")].endpoints[&name("a")].id;
    let (pool, endpoint, detail) = (name("app"), name("a"), String::new());
    fleet.applied(Command::SetHealth { pool, endpoint, id, verdict: Verdict::Down, detail });
    let judged = Table::compile(&fleet.state, Some(&before));
    assert!(!Arc::ptr_eq(&before.pools[0], &judged.pools[0]));
    assert!(Arc::ptr_eq(&before.pools[0].ring, &judged.pools[0].ring));
    let spec = EndpointSpec { weight: 2.try_into().unwrap(), ..endpoint_of(&fleet, "a") };
    fleet.applied(Command::PutEndpoint { pool: name("app"), name: name("a"), spec });
    let heavier = Table::compile(&fleet.state, Some(&judged));
    assert!(!Arc::ptr_eq(&heavier.pools[0].ring, &judged.pools[0].ring));
}

/// Routes are shared as long as they are the same, and lead to the same pools.
#[test]
fn routes_are_built_anew_when_one_changes_or_a_pool_s_place_does() {
    let mut fleet = two_endpoints();
    fleet.applied(Command::PutRoute { name: name("web"), spec: route_to("app") });
    let before = Table::compile(&fleet.state, None);
    let moved: RouteSpec = serde_json::from_value(serde_json::json!({"pool": "app", "path_prefix": "/x"})).unwrap();
    fleet.applied(Command::PutRoute { name: name("web"), spec: moved });
    let after = Table::compile(&fleet.state, Some(&before));
    assert!(before.route("h", "/").is_ok() && after.route("h", "/").is_err() && after.route("h", "/x").is_ok());
    // A pool before it in the order of names.
    fleet.applied(Command::PutPool { name: name("a-first"), spec: PoolSpec::default() });
    let shifted = Table::compile(&fleet.state, Some(&after));
    let route = shifted.route("h", "/x").unwrap();
    assert_eq!(shifted.pools[route.pool].name, name("app"));
}

fn endpoint_of(fleet: &Fleet, endpoint: &str) -> EndpointSpec {
    fleet.state.pools[&name("app")].endpoints[&name(endpoint)].spec.clone()
}

/// Until every member can read it: by newer nodes too, and not remembered under its key.
#[test]
fn what_older_nodes_cannot_read_is_rejected() {
    let mut fleet = Fleet::new();
    let observers = Command::SetObservers { nodes: vec![NodeId(1)] };
    assert_eq!(fleet.rejected(observers.clone()), Rejection::FleetTooOld { needed: 2, level: 1 });
    let key = Some(IdempotencyKey::try_from("again".to_owned()).unwrap());
    let keyed = Proposal { at_ms: 0, key, command: observers };
    let early = fleet.state.apply(Epoch(8), &keyed);
    assert!(matches!(early, Outcome::Rejected { .. }));
    assert!(fleet.state.check(0, &keyed.command).is_err());
    fleet.applied(Command::SetLevel { level: 2 });
    assert!(matches!(fleet.state.apply(Epoch(9), &keyed), Outcome::Applied { .. }), "the key is not used up");
}

#[test]
fn two_that_rotate_at_once_do_not_take_each_other_s_key_away() {
    let mut fleet = Fleet::new();
    fleet.applied(Command::SetLevel { level: crate::command::LEVEL });
    let key = |secret, promoted| {
        let key = CookieKey { id: 2, secret: crate::affinity::KeySecret([secret; 32]), promoted };
        Command::PutCookieKey { key }
    };
    fleet.applied(key(1, false));
    assert_eq!(fleet.rejected(key(2, false)), Rejection::KeyExists { id: 2 });
    let third = CookieKey { id: 3, secret: crate::affinity::KeySecret([3; 32]), promoted: false };
    assert_eq!(fleet.rejected(Command::PutCookieKey { key: third.clone() }), Rejection::KeyWaiting { id: 2 });
    fleet.applied(key(1, true));
    fleet.applied(Command::PutCookieKey { key: third });
    // A late promotion changes no order, or the key that waits would never be found.
    fleet.applied(key(1, true));
    fleet.applied(key(1, false));
    let keys: Vec<(u8, bool)> = fleet.state.cookie_keys.iter().map(|key| (key.id, key.promoted)).collect();
    assert_eq!(keys, [(2, true), (3, false)]);
}

/// One of everything that a state can hold.
fn one_of_everything() -> State {
    let mut fleet = Fleet::new();
    let pool = |json: &str| serde_json::from_str::<PoolSpec>(json).unwrap();
    fleet.applied(Command::SetLevel { level: 2 });
    let full = r#"{"protocol":"auto","strip_content_length":true,"tls":{"authorities":"PEM","server_name":"app.internal",
        "verify":"none"},"limits":{"max_connections":2,"max_requests":8,"max_pending":3},
        "health":{"check":{"kind":"http","path":"/healthz","host":"app.internal"},"slow_start_ms":5000}}"#;
    fleet.applied(Command::PutPool { name: name("app"), spec: pool(full) });
    fleet.applied(Command::PutPool { name: name("bare"), spec: PoolSpec::default() });
    for (at, spec) in [
        ("a", r#"{"address":"10.0.0.1:4000"}"#),
        ("b", r#"{"address":"app-b:4000","weight":7,"revision":"v2"}"#),
        ("c", r#"{"address":"[::1]:4000"}"#),
    ] {
        let spec = serde_json::from_str(spec).unwrap();
        fleet.applied(Command::PutEndpoint { pool: name("app"), name: name(at), spec });
    }
    let (pool, reason) = (name("app"), "deploy".to_owned());
    let drain = |endpoint: &str, mode, deadline_ms| Command::StartDrain {
        pool: pool.clone(),
        endpoint: name(endpoint),
        mode,
        deadline_ms,
        reason: reason.clone(),
        pace: None,
    };
    let finished = fleet.applied(drain("b", DrainMode::Streams, Some(90_000))).unwrap();
    fleet.applied(Command::FinishDrain { drain: finished, forced: true });
    fleet.applied(drain("c", DrainMode::Sessions, None));
    fleet.applied(drain("a", DrainMode::Sessions, None));
    fleet.applied(Command::CancelDrain { pool: pool.clone(), endpoint: name("a") });
    let (endpoint, id) = (name("a"), fleet.state.pools[&pool].endpoints[&name("a")].id);
    let detail = "connection refused".to_owned();
    fleet.applied(Command::SetHealth { pool: pool.clone(), endpoint, id, verdict: Verdict::Down, detail });
    for (at, spec) in [
        ("every", r#"{"pool":"bare"}"#),
        (
            "named",
            r#"{"pool":"app","host":"*.example.com","path_prefix":"/x","affinity":{"kind":"none"},"expose":true}"#,
        ),
        ("theirs", r#"{"pool":"app","path_prefix":"/y","affinity":{"kind":"app-cookie","name":"sid"}}"#),
        ("short-lived", r#"{"pool":"app","path_prefix":"/w"}"#),
        ("header", r#"{"pool":"app","path_prefix":"/z","affinity":{"kind":"header","name":"x-session"}}"#),
    ] {
        fleet.applied(Command::PutRoute { name: name(at), spec: serde_json::from_str(spec).unwrap() });
    }
    let secret = crate::affinity::KeySecret([0xab; 32]);
    fleet.applied(Command::PutCookieKey { key: CookieKey { id: 3, secret, promoted: true } });
    fleet.applied(Command::SetObservers { nodes: vec![NodeId(0xab), NodeId(u64::MAX)] });
    for (node, wanted) in [(1, Wanted::Voter), (2, Wanted::Learner), (3, Wanted::Gone)] {
        fleet.applied(Command::SetMember { node: NodeId(node), wanted });
    }
    let token = JoinToken { sha256: "ff".repeat(32), wanted: Wanted::Learner, expires_ms: u64::MAX };
    fleet.applied(Command::PutJoinToken { token });
    for (key, command) in [
        ("applied", Command::DeleteRoute { name: name("short-lived") }),
        ("rejected", Command::Batch { commands: vec![Command::DeletePool { name: name("bare") }] }),
    ] {
        fleet.epoch += 1;
        let key = Some(IdempotencyKey::try_from(key.to_owned()).unwrap());
        fleet.state.apply(Epoch(fleet.epoch), &Proposal { at_ms: 99_000, key, command });
    }
    fleet.state
}

/// As snapshots of fleets out there hold it: it must be read for ever. When a field is added that is always
/// written, this constant stays for reading, and another one beside it says what is written.
const STATE_OF_LEVEL_2: &str = concat!(
    r#"{"epoch":26,"ring_hash":"xxh3-v1","pools":{"app":{"id":1,"spec":{"protocol":"auto","#,
    r#""strip_content_length":true,"timeouts":{"connect_ms":5000,"first_byte_ms":60000,"idle_ms":60000,"#,
    r#""websocket_idle_ms":3600000},"tls":{"authorities":"PEM","server_name":"app.internal","verify":"none"},"#,
    r#""limits":{"max_connections":2,"max_requests":8,"max_pending":3},"health":{"check":{"kind":"http","#,
    r#""path":"/healthz","host":"app.internal"},"interval_ms":5000,"timeout_ms":2000,"healthy_threshold":2,"#,
    r#""unhealthy_threshold":3,"panic_threshold_percent":50,"slow_start_ms":5000}},"endpoints":{"a":{"id":3,"#,
    r#""spec":{"address":"10.0.0.1:4000","weight":1},"phase":{"phase":"active"},"health":{"verdict":"down","#,
    r#""since_ms":13000,"falls":1,"detail":"connection refused"}},"b":{"id":4,"spec":{"address":"app-b:4000","#,
    r#""weight":7,"revision":"v2"},"phase":{"phase":"drained","drain":"d8"},"health":{"verdict":"up","#,
    r#""since_ms":6000,"falls":0}},"c":{"id":5,"spec":{"address":"[::1]:4000","weight":1},"#,
    r#""phase":{"phase":"draining","drain":"d10","mode":"sessions","deadline_ms":null},"#,
    r#""health":{"verdict":"up","since_ms":7000,"falls":0}}}},"bare":{"id":2,"spec":{"protocol":"http1","#,
    r#""strip_content_length":false,"timeouts":{"connect_ms":5000,"first_byte_ms":60000,"idle_ms":60000,"#,
    r#""websocket_idle_ms":3600000}},"endpoints":{}}},"routes":{"every":{"path_prefix":"/","pool":"bare","#,
    r#""affinity":{"kind":"cookie"}},"header":{"path_prefix":"/z","pool":"app","affinity":{"kind":"header","#,
    r#""name":"x-session"}},"named":{"host":"*.example.com","path_prefix":"/x","pool":"app","#,
    r#""affinity":{"kind":"none"},"expose":true},"theirs":{"path_prefix":"/y","pool":"app","#,
    r#""affinity":{"kind":"app-cookie","name":"sid"}}},"drains":{"d8":{"pool":"app","endpoint":"b","#,
    r#""endpoint_id":4,"mode":"streams","started_ms":8000,"deadline_ms":90000,"reason":"deploy","#,
    r#""state":"forced","ended_ms":9000},"d10":{"pool":"app","endpoint":"c","endpoint_id":5,"mode":"sessions","#,
    r#""started_ms":10000,"deadline_ms":null,"reason":"deploy","state":"draining","ended_ms":null},"#,
    r#""d11":{"pool":"app","endpoint":"a","endpoint_id":3,"mode":"sessions","started_ms":11000,"#,
    r#""deadline_ms":null,"reason":"deploy","state":"cancelled","ended_ms":12000}},"cookie_keys":[{"id":3,"#,
    r#""secret":"abababababababababababababababababababababababababababababababab","promoted":true}],"#,
    r#""observers":{"nodes":["00000000000000ab","ffffffffffffffff"],"since":20},"level":2,"#,
    r#""members":{"0000000000000001":"voter","0000000000000002":"learner","0000000000000003":"gone"},"#,
    r#""join_tokens":[{"sha256":"ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff","#,
    r#""wanted":"learner","expires_ms":18446744073709551615}],"next_id":5,"answered":[["applied","#,
    r#"{"outcome":"applied","epoch":25,"drain":null}],["rejected",{"outcome":"rejected","#,
    r#""reason":{"code":"in-batch","index":0,"reason":{"code":"pool-in-use","pool":"bare","#,
    r#""route":"every"}}}]]}"#,
);

#[test]
fn golden_bytes_of_a_state_with_one_of_everything() {
    let state = one_of_everything();
    let bytes = [&[crate::command::VERSION], STATE_OF_LEVEL_2.as_bytes()].concat();
    assert_eq!(String::from_utf8(state.encode()).unwrap(), String::from_utf8(bytes.clone()).unwrap());
    let read = State::decode(&bytes).unwrap();
    assert_eq!(read, state);
    assert_eq!(read.encode(), bytes);
}
