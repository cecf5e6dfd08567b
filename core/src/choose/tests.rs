mod deploys;

use std::cell::Cell;

use proptest::prelude::*;

use super::*;
use crate::affinity::{CookieKey, KeySecret};
use crate::command::{Command, DrainMode, Proposal};
use crate::health::Verdict;
use crate::id::{Epoch, Name};
use crate::spec::PoolSpec;
use crate::state::State;

struct All;

impl Availability for All {
    fn admits(&self, _: usize, _: bool) -> bool {
        true
    }

    fn in_flight(&self, _: usize) -> u64 {
        0
    }
}

struct Without(usize);

impl Availability for Without {
    fn admits(&self, endpoint: usize, _: bool) -> bool {
        endpoint != self.0
    }

    fn in_flight(&self, _: usize) -> u64 {
        0
    }
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn fleet(endpoints: usize, affinity: serde_json::Value) -> State {
    let mut state = State::default();
    apply(&mut state, Command::SetLevel { level: crate::command::LEVEL });
    let mut commands = vec![Command::PutPool { name: name("p"), spec: PoolSpec::default() }];
    for i in 0..endpoints {
        let spec = serde_json::from_value(serde_json::json!({ "address": format!("h{i}:1") })).unwrap();
        commands.push(Command::PutEndpoint { pool: name("p"), name: name(&format!("e{i}")), spec });
    }
    let spec = serde_json::from_value(serde_json::json!({ "pool": "p", "affinity": affinity })).unwrap();
    commands.push(Command::PutRoute { name: name("r"), spec });
    let key = CookieKey { id: 1, secret: KeySecret([3; 32]), promoted: true };
    commands.push(Command::PutCookieKey { key });
    apply(&mut state, Command::Batch { commands });
    state
}

fn apply(state: &mut State, command: Command) {
    let epoch = Epoch(state.epoch.map_or(1, |e| e.0 + 1));
    let outcome = state.apply(epoch, &Proposal { at_ms: 0, key: None, command });
    assert!(matches!(outcome, crate::state::Outcome::Applied { .. }), "{outcome:?}");
}

fn drain(state: &mut State, endpoint: &str, mode: DrainMode) {
    let reason = String::new();
    apply(
        state,
        Command::StartDrain { pool: name("p"), endpoint: name(endpoint), mode, deadline_ms: None, reason, pace: None },
    );
}

fn request(cookie: Option<&str>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if let Some(cookie) = cookie {
        headers.insert("cookie", cookie.parse().unwrap());
    }
    headers
}

fn asked(headers: &HeaderMap) -> Asked<'_> {
    Asked { headers, path: "/", query: None, client: [192, 0, 2, 1].into() }
}

fn pick(table: &Table, headers: &HeaderMap, available: &impl Availability, seed: u64) -> Result<Choice, NoEndpoint> {
    let route = table.route("any", "/").unwrap();
    let state = Cell::new(seed);
    let mut random = || {
        state.set(state.get().wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407));
        state.get() ^ (state.get() >> 29)
    };
    choose(table, route, &asked(headers), &Moment { now: 1, tried: &[], session: None }, available, &mut random)
}

/// Begins a session and gives its cookie.
fn begin(table: &Table, seed: u64) -> (usize, String) {
    let choice = pick(table, &request(None), &All, seed).unwrap();
    assert_eq!(choice.placement, Placement::New);
    let cookie = table.sealer.seal(choice.pin.unwrap(), [1; 12]).unwrap();
    (choice.endpoint, format!("tidelock={cookie}"))
}

#[test]
fn scaling_up_moves_no_session() {
    let mut state = fleet(3, serde_json::json!({ "kind": "cookie" }));
    let before = Table::compile(&state, None);
    let sessions: Vec<(usize, String)> = (0..100).map(|seed| begin(&before, seed)).collect();
    let spec = serde_json::from_value(serde_json::json!({ "address": "new:1" })).unwrap();
    apply(&mut state, Command::PutEndpoint { pool: name("p"), name: name("e9"), spec });
    let after = Table::compile(&state, Some(&before));
    for (home, cookie) in sessions {
        let choice = pick(&after, &request(Some(&cookie)), &All, 7).unwrap();
        assert_eq!((choice.endpoint, choice.placement, choice.pin), (home, Placement::Kept, None));
    }
}

#[test]
fn a_drain_in_sessions_mode_keeps_pins_and_takes_no_new_ones() {
    let mut state = fleet(3, serde_json::json!({ "kind": "cookie" }));
    let before = Table::compile(&state, None);
    let sessions: Vec<(usize, String)> = (0..50).map(|seed| begin(&before, seed)).collect();
    drain(&mut state, "e1", DrainMode::Sessions);
    let after = Table::compile(&state, Some(&before));
    for (home, cookie) in &sessions {
        let choice = pick(&after, &request(Some(cookie)), &All, 7).unwrap();
        assert_eq!((choice.endpoint, choice.placement), (*home, Placement::Kept));
    }
    for seed in 0..50 {
        assert_ne!(begin(&after, seed).0, 1);
    }
}

#[test]
fn a_drain_in_streams_mode_moves_each_session_once_and_alike_everywhere() {
    let mut state = fleet(3, serde_json::json!({ "kind": "cookie" }));
    let before = Table::compile(&state, None);
    let sessions: Vec<(usize, String)> = (0..50).map(|seed| begin(&before, seed)).collect();
    drain(&mut state, "e1", DrainMode::Streams);
    let here = Table::compile(&state, Some(&before));
    let there = Table::compile(&State::decode(&state.encode()).unwrap(), None);
    for (home, cookie) in &sessions {
        let choice = pick(&here, &request(Some(cookie)), &All, 7).unwrap();
        if *home != 1 {
            assert_eq!((choice.endpoint, choice.placement), (*home, Placement::Kept));
            continue;
        }
        assert_eq!(choice.placement, Placement::Moved(MoveReason::Draining));
        let elsewhere = pick(&there, &request(Some(cookie)), &All, 99).unwrap();
        assert_eq!(elsewhere.endpoint, choice.endpoint, "every node picks the same new home");
        let moved = format!("tidelock={}", here.sealer.seal(choice.pin.unwrap(), [2; 12]).unwrap());
        assert_eq!(pick(&here, &request(Some(&moved)), &All, 5).unwrap().placement, Placement::Kept);
    }
}

#[test]
fn an_unreachable_home_is_left_for_the_next_on_the_ring() {
    let table = Table::compile(&fleet(3, serde_json::json!({ "kind": "cookie" })), None);
    let (home, cookie) = begin(&table, 1);
    let choice = pick(&table, &request(Some(&cookie)), &Without(home), 7).unwrap();
    assert_ne!(choice.endpoint, home);
    assert_eq!(choice.placement, Placement::Moved(MoveReason::Unavailable));
}

#[test]
fn without_an_admissible_endpoint_there_is_none() {
    let table = Table::compile(&fleet(1, serde_json::json!({ "kind": "cookie" })), None);
    assert_eq!(pick(&table, &request(None), &Without(0), 1), Err(NoEndpoint));
    let none = Table::compile(&fleet(0, serde_json::json!({ "kind": "none" })), None);
    assert_eq!(pick(&none, &request(None), &All, 1), Err(NoEndpoint));
}

#[test]
fn an_apps_own_cookie_is_a_key_on_the_ring() {
    let table = Table::compile(&fleet(5, serde_json::json!({ "kind": "app-cookie", "name": "sid" })), None);
    let first = pick(&table, &request(Some("x=1; sid=alice")), &All, 1).unwrap();
    assert_eq!((first.placement, first.pin), (Placement::Keyed, None));
    for seed in 0..20 {
        assert_eq!(pick(&table, &request(Some("sid=alice")), &All, seed).unwrap().endpoint, first.endpoint);
    }
    assert_eq!(pick(&table, &request(None), &All, 1).unwrap().placement, Placement::Unkeyed);
}

proptest! {
    /// Forged, stale and damaged cookies are as good as none.
    #[test]
    fn any_cookie_is_an_answer(cookie in "[ -~]{0,200}", seed: u64) {
        let table = Table::compile(&fleet(3, serde_json::json!({ "kind": "cookie" })), None);
        let mut headers = HeaderMap::new();
        headers.insert("cookie", format!("tidelock={cookie}").parse().unwrap());
        prop_assert_eq!(pick(&table, &headers, &All, seed).unwrap().placement, Placement::New);
    }

    /// The less busy of two: an endpoint that is busier than all others is never taken while
    /// another was drawn.
    #[test]
    fn unkeyed_requests_spread(seed: u64) {
        let table = Table::compile(&fleet(4, serde_json::json!({ "kind": "none" })), None);
        let choice = pick(&table, &request(None), &All, seed).unwrap();
        prop_assert!(choice.endpoint < 4);
        prop_assert_eq!(choice.pin, None);
    }
}

/// A pool whose endpoint `e0` is down.
fn with_one_down(endpoints: usize, affinity: serde_json::Value) -> State {
    let mut state = fleet(endpoints, affinity);
    let spec = serde_json::json!({"health": {"check": {"kind": "tcp"}, "slow_start_ms": 100_000}});
    apply(&mut state, Command::PutPool { name: name("p"), spec: serde_json::from_value(spec).unwrap() });
    judge(&mut state, Verdict::Down, 1_000_000);
    state
}

fn judge(state: &mut State, verdict: Verdict, at_ms: u64) {
    let id = state.pools[&name("p")].endpoints[&name("e0")].id;
    let command = Command::SetHealth { pool: name("p"), endpoint: name("e0"), id, verdict, detail: String::new() };
    let epoch = Epoch(state.epoch.unwrap().0 + 1);
    state.apply(epoch, &Proposal { at_ms, key: None, command });
}

/// Of 8,000 requests, how many go to `e0` at the second `now`.
fn share_of_e0(state: &State, now: u32) -> usize {
    let table = Table::compile(state, None);
    let route = table.route("any", "/").unwrap().clone();
    let bits = Cell::new(1_u64);
    let random = &mut || {
        bits.set(bits.get().wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
        ring::position(&bits.get().to_be_bytes())
    };
    let moment = Moment { now, tried: &[], session: None };
    let to_e0 = |_: &usize| {
        let choice = choose(&table, &route, &asked(&HeaderMap::new()), &moment, &All, random).unwrap();
        table.pools[0].endpoints[choice.endpoint].name.as_str() == "e0"
    };
    (0..8_000).filter(to_e0).count()
}

#[test]
fn what_is_down_gets_nothing_and_what_is_up_again_little_by_little() {
    for affinity in [serde_json::json!({"kind": "none"}), serde_json::json!({"kind": "cookie"})] {
        let mut state = with_one_down(4, affinity);
        assert_eq!(share_of_e0(&state, 2_000), 0);
        judge(&mut state, Verdict::Up, 2_000_000);
        let shares = [2_000, 2_050, 2_100, 5_000].map(|now| share_of_e0(&state, now));
        // Two of four draws are compared for the busier of the two: with none busy it is the first.
        assert!(shares[0] * 4 < shares[3], "{shares:?}");
        assert!(shares[0] < shares[1] && shares[1] < shares[2], "{shares:?}");
        assert!((1_500..2_500).contains(&shares[3]), "{shares:?}");
    }
}

#[test]
fn verdicts_are_not_believed_when_most_are_down() {
    let mut state = with_one_down(2, serde_json::json!({"kind": "none"}));
    assert_eq!(share_of_e0(&state, 1_000), 0, "half of them are up");
    let id = state.pools[&name("p")].endpoints[&name("e1")].id;
    let endpoint = name("e1");
    let down = Command::SetHealth { pool: name("p"), endpoint, id, verdict: Verdict::Down, detail: String::new() };
    apply(&mut state, down);
    assert!(share_of_e0(&state, 5_000) > 1_000);
    // A keyed request stays where it is, too.
    let mut state = with_one_down(2, serde_json::json!({"kind": "header", "name": "x-key"}));
    let table = Table::compile(&state, None);
    let route = table.route("any", "/").unwrap().clone();
    let moment = Moment { now: 5_000, tried: &[], session: None };
    let mut headers = HeaderMap::new();
    for key in 0..32 {
        headers.insert("x-key", key.into());
        let choice = choose(&table, &route, &asked(&headers), &moment, &All, &mut || 0).unwrap();
        assert_eq!(table.pools[0].endpoints[choice.endpoint].name.as_str(), "e1");
    }
    let endpoint = name("e1");
    let down = Command::SetHealth { pool: name("p"), endpoint, id, verdict: Verdict::Down, detail: String::new() };
    apply(&mut state, down);
    let table = Table::compile(&state, None);
    let kept = |key: i32| {
        let mut headers = HeaderMap::new();
        headers.insert("x-key", key.into());
        choose(&table, &route, &asked(&headers), &moment, &All, &mut || 0).unwrap().placement == Placement::Keyed
    };
    assert!((0..32).all(kept));
}

#[test]
fn every_kind_of_key_keeps_and_tells_apart() {
    let segment = serde_json::json!({ "kind": "path-segment", "number": 2 });
    let query = serde_json::json!({ "kind": "query", "name": "room" });
    let ip = serde_json::json!({ "kind": "client-ip" });
    type Request = (&'static str, Option<&'static str>, &'static str);
    // Two requests of one session, one of another, and one without a key.
    let cases: [(serde_json::Value, [Request; 4]); 3] = [
        (segment, [("/t/a", None, "::1"), ("/t/a/x", Some("q"), "::2"), ("/t/b", None, "::1"), ("/t//a", None, "::1")]),
        (
            query,
            [
                ("/", Some("x=1&room=a"), "::1"),
                ("/y", Some("room=a&room=b"), "::2"),
                ("/", Some("room=b"), "::1"),
                ("/", Some("rooms=a&xroom=a"), "::1"),
            ],
        ),
        (
            ip,
            [
                ("/", None, "192.0.2.1"),
                ("/y", None, "::ffff:192.0.2.1"),
                ("/", None, "2001:db8::1"),
                ("/", None, "::1"),
            ],
        ),
    ];
    for (affinity, requests) in cases {
        let table = Table::compile(&fleet(50, affinity.clone()), None);
        let headers = HeaderMap::new();
        let route = table.route("any", "/").unwrap();
        let moment = Moment { now: 1, tried: &[], session: None };
        let choices = requests.map(|(path, query, client)| {
            let asked = Asked { headers: &headers, path, query, client: client.parse().unwrap() };
            choose(&table, route, &asked, &moment, &All, &mut || 7).unwrap()
        });
        assert_eq!(choices[0], choices[1], "{affinity}");
        assert_eq!(choices[0].placement, Placement::Keyed, "{affinity}");
        assert_ne!(choices[0].endpoint, choices[2].endpoint, "{affinity}");
        let without = if affinity["kind"] == "client-ip" { Placement::Keyed } else { Placement::Unkeyed };
        assert_eq!(choices[3].placement, without, "{affinity}");
    }
}

#[test]
fn a_strict_session_waits_for_its_endpoint_and_moves_only_when_that_is_given_up() {
    let mut state = fleet(3, serde_json::json!({ "kind": "cookie", "name": "mine" }));
    let mut route = serde_json::json!({ "pool": "p", "affinity": { "kind": "cookie", "name": "mine" } });
    route["strength"] = "strict".into();
    apply(&mut state, Command::PutRoute { name: name("r"), spec: serde_json::from_value(route.clone()).unwrap() });
    let table = Table::compile(&state, None);
    let (home, cookie) = begin(&table, 5);
    let cookie = cookie.replace("tidelock=", "mine=");
    let kept = pick(&table, &request(Some(&cookie)), &All, 7).unwrap();
    assert_eq!((kept.endpoint, kept.placement), (home, Placement::Kept));
    assert_eq!(pick(&table, &request(Some(&cookie)), &Without(home), 7), Err(NoEndpoint));
    let endpoint = table.pools[0].endpoints[home].name.clone();
    drain(&mut state, endpoint.as_str(), DrainMode::Streams);
    let table = Table::compile(&state, None);
    let moved = pick(&table, &request(Some(&cookie)), &All, 7).unwrap();
    assert_eq!(moved.placement, Placement::Moved(MoveReason::Draining));
    // Keys do not overflow either.
    route["affinity"] = serde_json::json!({ "kind": "client-ip" });
    apply(&mut state, Command::PutRoute { name: name("r"), spec: serde_json::from_value(route).unwrap() });
    let table = Table::compile(&state, None);
    let home = pick(&table, &HeaderMap::new(), &All, 7).unwrap().endpoint;
    assert_eq!(pick(&table, &HeaderMap::new(), &Without(home), 7), Err(NoEndpoint));
}

/// LiveView and Channels: long polling and uploads need the process that they began with.
#[test]
fn the_phoenix_profile_is_strict_where_a_process_is_meant() {
    let mut state = fleet(3, serde_json::json!({ "kind": "cookie" }));
    let route = |more: serde_json::Value| {
        let mut spec = serde_json::json!({ "pool": "p" });
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        Command::PutRoute { name: name("r"), spec: serde_json::from_value(spec).unwrap() }
    };
    let (home, cookie) = begin(&Table::compile(&state, None), 5);
    let form = "Multipart/Form-Data; boundary=x";
    let cases = [
        ("/socket/longpoll", "application/json", true),
        ("/live/longpoll/", "", true),
        ("/live/websocket", "", false),
        ("/longpolling", "", false),
        ("/files", form, true),
        ("/files", "multipart/form", false),
        ("/", "", false),
    ];
    for (profile, all_strict) in [("prefer", false), ("strict", true)] {
        apply(&mut state, route(serde_json::json!({ "profile": "phoenix", "strength": profile })));
        let table = Table::compile(&state, None);
        for (path, content_type, strict) in cases {
            let mut headers = request(Some(&cookie));
            headers.insert("content-type", content_type.parse().unwrap());
            let asked = Asked { path, ..asked(&headers) };
            let moment = Moment { now: 1, tried: &[], session: None };
            let route = table.route("any", path).unwrap();
            let choice = choose(&table, route, &asked, &moment, &Without(home), &mut || 7);
            assert_eq!(choice.is_err(), strict || all_strict, "{path} {content_type:?}: {choice:?}");
        }
    }
    let Command::PutRoute { spec, .. } = route(serde_json::json!({ "profile": "phoenix" })) else { unreachable!() };
    let seconds = |s| std::time::Duration::from_secs(s);
    assert_eq!((spec.websocket_idle(seconds(10)), spec.websocket_idle(seconds(90))), (seconds(75), seconds(90)));
}

#[test]
fn revoked_pins_count_no_more_and_new_ones_do() {
    let mut state = fleet(3, serde_json::json!({ "kind": "cookie" }));
    let (home, cookie) = begin(&Table::compile(&state, None), 5);
    let endpoint = format!("e{home}");
    let revoke = |endpoint: Option<&str>| Command::RevokePins { pool: name("p"), endpoint: endpoint.map(name) };
    let epoch = Epoch(state.epoch.unwrap().0 + 1);
    for command in [revoke(Some(&endpoint)), revoke(None)] {
        let proposal = Proposal { at_ms: 1_999, key: None, command };
        assert!(matches!(state.apply(epoch, &proposal), crate::state::Outcome::Applied { .. }));
        let table = Table::compile(&state, None);
        let choice = pick(&table, &request(Some(&cookie)), &All, 7).unwrap();
        assert_eq!(choice.placement, Placement::Moved(MoveReason::Revoked));
        // Given a second later.
        let pin = crate::affinity::Pin { issued: 2, ..choice.pin.unwrap() };
        let cookie = format!("tidelock={}", table.sealer.seal(pin, [4; 12]).unwrap());
        assert_eq!(pick(&table, &request(Some(&cookie)), &All, 7).unwrap().placement, Placement::Kept);
    }
}
