//! What a request pays for its choice, and what a change pays for its table.
//!
//!     cargo bench -p tidelock-core

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use http::{HeaderMap, HeaderValue};
use tidelock_core::affinity::{COOKIE_NAME, CookieKey, KeySecret};
use tidelock_core::choose::{Asked, Availability, Moment, choose};
use tidelock_core::command::{Command, LEVEL, Proposal};
use tidelock_core::health::Verdict;
use tidelock_core::id::{Epoch, Name};
use tidelock_core::plan::changes;
use tidelock_core::state::State;
use tidelock_core::table::Table;

struct AllAdmitted;

impl Availability for AllAdmitted {
    fn admits(&self, _: usize, _: bool) -> bool {
        true
    }

    fn in_flight(&self, _: usize) -> u64 {
        0
    }
}

fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

fn apply(state: &mut State, epoch: &mut u64, command: Command) {
    *epoch += 1;
    let _ = state.apply(Epoch(*epoch), &Proposal { at_ms: 0, key: None, command });
}

/// Pools of `endpoints` each, with a route by path to each of them.
fn state(pools: usize, endpoints: usize, affinity: &str) -> (State, u64) {
    let (mut state, mut epoch) = (State::default(), 0);
    let key = CookieKey { id: 1, secret: KeySecret([7; 32]), promoted: true };
    apply(&mut state, &mut epoch, Command::PutCookieKey { key });
    for pool in 0..pools {
        let pool_name = name(&format!("pool-{pool}"));
        apply(&mut state, &mut epoch, Command::PutPool { name: pool_name.clone(), spec: Default::default() });
        for endpoint in 0..endpoints {
            let spec = format!(r#"{{"address":"10.{}.{}.{}:4000"}}"#, pool % 250, endpoint / 250, endpoint % 250);
            let spec = serde_json::from_str(&spec).expect("a spec");
            let command =
                Command::PutEndpoint { pool: pool_name.clone(), name: name(&format!("app-{endpoint}")), spec };
            apply(&mut state, &mut epoch, command);
        }
        let spec = format!(r#"{{"pool":"pool-{pool}","path_prefix":"/{pool}","affinity":{affinity}}}"#);
        let spec = serde_json::from_str(&spec).expect("a spec");
        apply(&mut state, &mut epoch, Command::PutRoute { name: name(&format!("route-{pool}")), spec });
    }
    (state, epoch)
}

fn choices(c: &mut Criterion) {
    let mut group = c.benchmark_group("choose");
    for endpoints in [10, 100, 1_000] {
        for (kind, affinity) in [
            ("cookie", r#"{"kind":"cookie"}"#),
            ("app-cookie", r#"{"kind":"app-cookie","name":"session"}"#),
            ("none", r#"{"kind":"none"}"#),
        ] {
            let (state, _) = state(1, endpoints, affinity);
            let table = Table::compile(&state, None);
            let route = table.route("app.test", "/0/page").expect("a route");
            let mut random = 1_u64;
            let mut random = || {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                random
            };
            let moment = Moment { now: 1, tried: &[], session: None };
            let mut headers = HeaderMap::new();
            headers.insert("accept", HeaderValue::from_static("*/*"));
            let mut cookie = "theme=dark; session=0123456789abcdef".to_owned();
            let client = [192, 0, 2, 1].into();
            let asked = Asked { headers: &headers, path: "/0/page", query: None, client };
            let first = choose(&table, route, &asked, &moment, &AllAdmitted, &mut random).expect("an endpoint");
            if let Some(pin) = first.pin {
                let sealed = table.sealer.seal(pin, [7; 12]).expect("there is a key");
                cookie = format!("{cookie}; {COOKIE_NAME}={sealed}");
            }
            headers.insert("cookie", HeaderValue::try_from(cookie).expect("visible ASCII"));
            let asked = Asked { headers: &headers, path: "/0/page", query: None, client };
            group.bench_function(BenchmarkId::new(kind, endpoints), |b| {
                b.iter(|| choose(&table, route, &asked, &moment, &AllAdmitted, &mut random));
            });
        }
    }
}

fn tables(c: &mut Criterion) {
    let mut group = c.benchmark_group("compile");
    group.sample_size(20);
    for (pools, endpoints) in [(1, 10), (100, 10), (1_000, 10), (10, 1_000), (1, 10_000)] {
        let (mut state, mut epoch) = state(pools, endpoints, r#"{"kind":"cookie"}"#);
        let size = format!("{pools} pools of {endpoints}");
        group.bench_function(BenchmarkId::new("all", &size), |b| b.iter(|| Table::compile(&state, None)));
        let before = Table::compile(&state, None);
        let spec = serde_json::from_str(r#"{"address":"10.255.0.1:4000"}"#).expect("a spec");
        apply(&mut state, &mut epoch, Command::PutEndpoint { pool: name("pool-0"), name: name("one-more"), spec });
        group.bench_function(BenchmarkId::new("one more endpoint", &size), |b| {
            b.iter(|| Table::compile(&state, Some(&before)));
        });
        // What does not change the ring: a verdict, as a drain's progress or a timeout.
        let before = Table::compile(&state, None);
        let id = state.pools[&name("pool-0")].endpoints[&name("app-0")].id;
        apply(&mut state, &mut epoch, Command::SetLevel { level: LEVEL });
        let (pool, endpoint, detail) = (name("pool-0"), name("app-0"), String::new());
        let command = Command::SetHealth { pool, endpoint, id, verdict: Verdict::Down, detail };
        group.bench_function(BenchmarkId::new("apply a verdict", &size), |b| {
            b.iter_batched(
                || state.clone(),
                |mut state| apply(&mut state, &mut epoch.clone(), command.clone()),
                criterion::BatchSize::SmallInput,
            );
        });
        apply(&mut state, &mut epoch, command);
        group.bench_function(BenchmarkId::new("one verdict", &size), |b| {
            b.iter(|| Table::compile(&state, Some(&before)));
        });
        let after = Table::compile(&state, Some(&before));
        group.bench_function(BenchmarkId::new("plan of one verdict", &size), |b| b.iter(|| changes(&before, &after)));
    }
}

criterion_group!(benches, choices, tables);
criterion_main!(benches);
