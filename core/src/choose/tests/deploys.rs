//! Sessions through deploys: who takes over, and how often they move.

use super::*;

fn put(state: &mut State, endpoint: &str, revision: &str) {
    let spec = serde_json::json!({ "address": format!("{endpoint}-{revision}:1"), "revision": revision });
    let spec = serde_json::from_value(spec).unwrap();
    apply(state, Command::PutEndpoint { pool: name("p"), name: name(endpoint), spec });
}

/// Sessions as their clients hold them: each request is answered where it belongs, and may move.
struct Sessions {
    cookies: Vec<String>,
    homes: Vec<Name>,
    moves: usize,
}

impl Sessions {
    fn begin(table: &Table, count: u64) -> Sessions {
        let begun: Vec<(usize, String)> = (0..count).map(|seed| begin(table, seed * 7_919)).collect();
        let homes = begun.iter().map(|(home, _)| table.pools[0].endpoints[*home].name.clone()).collect();
        Sessions { cookies: begun.into_iter().map(|(_, cookie)| cookie).collect(), homes, moves: 0 }
    }

    fn ask(&mut self, table: &Table) {
        for (cookie, home) in self.cookies.iter_mut().zip(&mut self.homes) {
            let choice = pick(table, &request(Some(cookie)), &All, 7).unwrap();
            if let Some(pin) = choice.pin {
                *cookie = format!("tidelock={}", table.sealer.seal(pin, [2; 12]).unwrap());
                *home = table.pools[0].endpoints[choice.endpoint].name.clone();
                self.moves += 1;
            }
        }
    }

    /// The busiest endpoint's sessions over the mean, in percent.
    fn imbalance(&self, endpoints: usize) -> usize {
        let mut counts = std::collections::BTreeMap::new();
        self.homes.iter().for_each(|home| *counts.entry(home).or_insert(0usize) += 1);
        counts.values().max().unwrap() * endpoints * 100 / self.homes.len()
    }
}

/// One new endpoint comes, one old one drains, and so on: each session moves once, and no new endpoint
/// gets more than its share. Whether the old ones drain or vanish.
#[test]
fn a_rolling_deploy_moves_each_session_once() {
    for drains in [true, false] {
        let mut state = fleet(0, serde_json::json!({ "kind": "cookie" }));
        (0..5).for_each(|i| put(&mut state, &format!("old{i}"), "v1"));
        let mut sessions = Sessions::begin(&Table::compile(&state, None), 2_000);
        for i in 0..5 {
            put(&mut state, &format!("new{i}"), "v2");
            let old = format!("old{i}");
            if drains {
                drain(&mut state, &old, DrainMode::Streams);
                sessions.ask(&Table::compile(&state, None));
            }
            apply(&mut state, Command::DeleteEndpoint { pool: name("p"), name: name(&old) });
            sessions.ask(&Table::compile(&state, None));
        }
        assert_eq!(sessions.moves, 2_000, "each session moves once");
        assert!(sessions.homes.iter().all(|home| home.as_str().starts_with("new")));
        assert!(sessions.imbalance(5) <= 125, "{}", sessions.imbalance(5));
    }
}

/// Old pods are scheduled anew, so their endpoints are the youngest; and one heir is down.
#[test]
fn sessions_go_to_the_revision_that_came_last_and_not_to_the_youngest_endpoint() {
    let mut state = fleet(0, serde_json::json!({ "kind": "cookie" }));
    (0..3).for_each(|i| put(&mut state, &format!("old{i}"), "v1"));
    let mut sessions = Sessions::begin(&Table::compile(&state, None), 300);
    put(&mut state, "new0", "v2");
    put(&mut state, "new1", "v2");
    for i in 1..3 {
        let spec = serde_json::json!({ "address": format!("moved{i}:1"), "revision": "v1" });
        let spec = serde_json::from_value(spec).unwrap();
        apply(&mut state, Command::PutEndpoint { pool: name("p"), name: name(&format!("old{i}")), spec });
    }
    sessions.ask(&Table::compile(&state, None));
    drain(&mut state, "old1", DrainMode::Streams);
    // The heirs are up when they are named, and one goes down behind that.
    let id = state.pools[&name("p")].endpoints[&name("new0")].id;
    let health = serde_json::from_str(r#"{"health":{"check":{"kind":"tcp"}}}"#).unwrap();
    apply(&mut state, Command::PutPool { name: name("p"), spec: health });
    let (pool, endpoint, detail) = (name("p"), name("new0"), String::new());
    apply(&mut state, Command::SetHealth { pool, endpoint, id, verdict: Verdict::Down, detail });
    drain(&mut state, "old2", DrainMode::Streams);
    let moved = sessions.homes.iter().filter(|home| ["old1", "old2", "new0"].contains(&home.as_str())).count();
    let before = sessions.moves;
    sessions.ask(&Table::compile(&state, None));
    assert!(moved > 0 && sessions.moves - before == moved);
    let left: Vec<&Name> = sessions.homes.iter().filter(|home| !["old0", "new1"].contains(&home.as_str())).collect();
    assert!(left.is_empty(), "{left:?}");
    // A drain that is cancelled gives its heirs back what they had.
    let inherited = |state: &State| format!("{:?}", state.pools[&name("p")].endpoints[&name("new1")]);
    let with = inherited(&state);
    drain(&mut state, "old0", DrainMode::Streams);
    assert_ne!(inherited(&state), with);
    apply(&mut state, Command::CancelDrain { pool: name("p"), endpoint: name("old0") });
    assert_eq!(inherited(&state), with);
}

/// Each pin that is used is sealed again before its key, or its cookie, goes.
#[test]
fn an_active_session_outlives_its_key_and_its_cookie() {
    let mut state = fleet(3, serde_json::json!({ "kind": "cookie" }));
    let mut sessions = Sessions::begin(&Table::compile(&state, None), 20);
    let homes = sessions.homes.clone();
    for id in 2..30 {
        let key = |promoted| CookieKey { id, secret: KeySecret([id; 32]), promoted };
        for promoted in [false, true] {
            apply(&mut state, Command::PutCookieKey { key: key(promoted) });
            sessions.ask(&Table::compile(&state, None));
        }
    }
    assert_eq!(sessions.homes, homes);
    assert_eq!(sessions.moves, 20 * 28, "sealed again once for each key");
    let affinity = serde_json::json!({ "kind": "cookie", "max_age_s": 100 });
    let spec = serde_json::from_value(serde_json::json!({ "pool": "p", "affinity": affinity })).unwrap();
    apply(&mut state, Command::PutRoute { name: name("r"), spec });
    let table = Table::compile(&state, None);
    let headers = request(Some(&sessions.cookies[0]));
    let pin_at = |now| {
        let moment = Moment { now, tried: &[], session: None };
        let route = table.route("any", "/").unwrap();
        let choice = choose(&table, route, &asked(&headers), &moment, &All, &mut || 0).unwrap();
        assert_eq!(choice.placement, Placement::Kept);
        choice.pin.map(|pin| pin.issued)
    };
    assert_eq!((pin_at(50), pin_at(51)), (None, Some(51)), "half of its time is over");
}

#[test]
fn heirs_of_heirs_are_found_and_those_that_are_down_are_passed_over() {
    let mut state = fleet(0, serde_json::json!({ "kind": "cookie" }));
    (0..2).for_each(|i| put(&mut state, &format!("a{i}"), "v1"));
    let mut sessions = Sessions::begin(&Table::compile(&state, None), 200);
    for revision in ["v2", "v3"] {
        for i in 0..2 {
            put(&mut state, &format!("{revision}-{i}"), revision);
            let old = if revision == "v2" { format!("a{i}") } else { format!("v2-{i}") };
            apply(&mut state, Command::DeleteEndpoint { pool: name("p"), name: name(&old) });
        }
    }
    // Nobody asked between the two deploys.
    let table = Table::compile(&state, None);
    let inherits = |endpoint: &str, cookie: &str| {
        let choice = pick(&table, &request(Some(cookie)), &All, 7).unwrap();
        (table.pools[0].endpoints[choice.endpoint].name.as_str() == endpoint, choice)
    };
    for (cookie, home) in sessions.cookies.iter().zip(&sessions.homes) {
        let heir = if home.as_str() == "a0" { "v3-0" } else { "v3-1" };
        let (inherits, choice) = inherits(heir, cookie);
        assert!(inherits && choice.placement == Placement::Moved(MoveReason::Gone), "{home} {choice:?}");
        let other = pick(&table, &request(Some(cookie)), &Without(choice.endpoint), 7).unwrap();
        assert_ne!(other.endpoint, choice.endpoint, "this node cannot reach the heir");
    }
    sessions.ask(&table);
    // A rollback of an old revision, and an endpoint of the newest, have no heirs: the ring decides.
    put(&mut state, "v1-again", "v1");
    drain(&mut state, "v3-0", DrainMode::Streams);
    let table = Table::compile(&state, None);
    let gone_to: std::collections::BTreeSet<String> = sessions
        .cookies
        .iter()
        .map(|cookie| pick(&table, &request(Some(cookie)), &All, 7).unwrap().endpoint)
        .map(|place| table.pools[0].endpoints[place].name.to_string())
        .collect();
    assert_eq!(gone_to.len(), 2, "{gone_to:?}");
}

/// The names of those that take over from `endpoint`.
fn heirs(state: &State, endpoint: &str) -> Vec<String> {
    let table = Table::compile(state, None);
    let pool = &table.pools[0];
    let id = state.pools[&name("p")].endpoints[&name(endpoint)].id;
    pool.heirs(id).iter().map(|heir| pool.endpoints[*heir as usize].name.to_string()).collect()
}

fn goes_down(state: &mut State, endpoint: &str) {
    let health = serde_json::from_str(r#"{"health":{"check":{"kind":"tcp"}}}"#).unwrap();
    apply(state, Command::PutPool { name: name("p"), spec: health });
    let id = state.pools[&name("p")].endpoints[&name(endpoint)].id;
    let (pool, endpoint, detail) = (name("p"), name(endpoint), String::new());
    apply(state, Command::SetHealth { pool, endpoint, id, verdict: Verdict::Down, detail });
}

#[test]
fn what_is_down_inherits_nothing() {
    let mut state = fleet(0, serde_json::json!({ "kind": "cookie" }));
    put(&mut state, "old", "v1");
    (0..3).for_each(|i| put(&mut state, &format!("new{i}"), "v2"));
    goes_down(&mut state, "new1");
    drain(&mut state, "old", DrainMode::Streams);
    assert_eq!(heirs(&state, "old"), ["new0", "new2"]);
}

/// An heir that this node cannot reach is followed by others of its revision: an old endpoint would only
/// be left again.
#[test]
fn a_session_whose_heir_cannot_be_used_still_goes_to_the_new_revision() {
    let mut state = fleet(0, serde_json::json!({ "kind": "cookie" }));
    (0..5).for_each(|i| put(&mut state, &format!("old{i}"), "v1"));
    let sessions = Sessions::begin(&Table::compile(&state, None), 200);
    put(&mut state, "new0", "v2");
    drain(&mut state, "old0", DrainMode::Streams);
    put(&mut state, "new1", "v2");
    assert_eq!(heirs(&state, "old0"), ["new0"]);
    let table = Table::compile(&state, None);
    let place = |endpoint: &str| {
        table.pools[0].endpoints.iter().position(|known| known.name.as_str() == endpoint).expect("it is in the pool")
    };
    let of_old0 = sessions.cookies.iter().zip(&sessions.homes).filter(|(_, home)| home.as_str() == "old0");
    let of_old0: Vec<&String> = of_old0.map(|(cookie, _)| cookie).collect();
    assert!(of_old0.len() > 10);
    for cookie in of_old0 {
        let choice = pick(&table, &request(Some(cookie)), &Without(place("new0")), 7).unwrap();
        assert_eq!(choice.endpoint, place("new1"));
    }
}

/// A node of a level below would go where the ring says, so all do.
#[test]
fn heirs_are_named_when_every_node_knows_of_them() {
    for (level, expected) in [(crate::state::SESSIONS_LEVEL - 1, &[][..]), (crate::state::SESSIONS_LEVEL, &["new"])] {
        let mut state = State::default();
        let pool = Command::PutPool { name: name("p"), spec: PoolSpec::default() };
        apply(&mut state, Command::Batch { commands: vec![Command::SetLevel { level }, pool] });
        put(&mut state, "old", "v1");
        put(&mut state, "new", "v2");
        drain(&mut state, "old", DrainMode::Streams);
        assert_eq!(heirs(&state, "old"), expected, "level {level}");
    }
}

/// Nobody may be given a pin that is revoked already.
#[test]
fn a_revoked_session_settles_also_where_the_clock_is_behind() {
    let mut state = fleet(1, serde_json::json!({ "kind": "cookie" }));
    let mut sessions = Sessions::begin(&Table::compile(&state, None), 3);
    let revoke = Command::RevokePins { pool: name("p"), endpoint: Some(name("e0")) };
    let epoch = Epoch(state.epoch.unwrap().0 + 1);
    state.apply(epoch, &Proposal { at_ms: 90_000, key: None, command: revoke });
    let table = Table::compile(&state, None);
    // `ask` says that it is one second past 1970.
    sessions.ask(&table);
    assert_eq!(sessions.moves, 3, "each is placed anew");
    sessions.ask(&table);
    assert_eq!(sessions.moves, 3, "and stays");
}

/// Where a switchover replaces a part of a pool the others get nothing of it.
#[test]
fn the_new_side_of_a_switchover_takes_over_from_the_old_one() {
    let mut state = fleet(0, serde_json::json!({ "kind": "cookie" }));
    (0..6).for_each(|i| put(&mut state, &format!("e{i}"), "v1"));
    let mut sessions = Sessions::begin(&Table::compile(&state, None), 600);
    let spec = serde_json::json!({ "from": { "endpoints": ["e0", "e1"] }, "to": { "endpoints": ["e2", "e3"] } });
    let spec = serde_json::from_value(spec).unwrap();
    apply(&mut state, Command::StartSwitchover { pool: name("p"), spec });
    let switchover = *state.switchovers.keys().next().unwrap();
    let homes = sessions.homes.clone();
    apply(&mut state, Command::ShiftSwitchover { switchover });
    sessions.ask(&Table::compile(&state, None));
    for (before, now) in homes.iter().zip(&sessions.homes) {
        match before.as_str() {
            "e0" | "e1" => assert!(["e2", "e3"].contains(&now.as_str()), "{before} to {now}"),
            _ => assert_eq!(before, now),
        }
    }
    let moved = homes.iter().filter(|home| ["e0", "e1"].contains(&home.as_str())).count();
    assert_eq!(sessions.moves, moved);
    let gained = |heir: &str| homes.iter().zip(&sessions.homes).filter(|(b, n)| b != n && n.as_str() == heir).count();
    assert!(gained("e2") > moved / 4 && gained("e3") > moved / 4, "{moved}: {} {}", gained("e2"), gained("e3"));
}
