//! A bad network between the balancer and its endpoints, under mixed load: bodies, uploads, event streams, WebSockets.
//! What must hold: a response that looks whole is whole (H4), no request that is not safe to repeat
//! runs twice (H5), a WebSocket's bytes are those that were sent, nothing is left in flight, memory stays
//! bounded, and when the network is well again so is the balancer.

mod app;
mod client;
mod network;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use tidelock_balancer::{Config, Limits};
use tidelock_core::report::Counts;
use tidelock_core::spec::PoolSpec;
use tokio_rustls::TlsAcceptor;

use self::app::Ran;
use self::client::{Seen, load};
use self::network::Weather;
use crate::fleet::{Endpoint, Fleet, H1, H2c, Speaks, config};
use crate::tls::Files;

/// What the endpoints speak.
#[derive(Debug, Clone, Copy)]
struct Kind {
    protocol: Speaks,
    is_tls: bool,
}

impl Kind {
    fn spec(self) -> PoolSpec {
        let protocol = match (self.protocol, self.is_tls) {
            (H1, _) => "http1",
            (H2c, false) => "h2c",
            (H2c, true) => "h2",
        };
        let tls = self.is_tls.then(|| serde_json::json!({ "verify": "none" }));
        let timeouts = serde_json::json!({
            "connect_ms": 500, "first_byte_ms": 400, "idle_ms": 400, "websocket_idle_ms": 400
        });
        serde_json::from_value(serde_json::json!({ "protocol": protocol, "timeouts": timeouts, "tls": tls })).unwrap()
    }

    fn acceptor(self, files: &Files) -> Option<Arc<TlsAcceptor>> {
        self.is_tls.then(|| {
            let (tls, certificate) = files.certificate("app", &["app.internal"]);
            let key = PrivateKeyDer::from_pem_file(&tls.key).unwrap();
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let builder = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
            let mut config = builder.unwrap().with_no_client_auth().with_single_cert(vec![certificate], key).unwrap();
            if self.protocol == H2c {
                config.alpn_protocols = vec![b"h2".to_vec()];
            }
            Arc::new(TlsAcceptor::from(Arc::new(config)))
        })
    }
}

fn resident_mib() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4_096 / (1 << 20)
}

async fn chaos(kind: Kind, seed: u64) {
    println!("chaos with {kind:?}, seed {seed}");
    let (weather, ran, seen) = (Arc::new(Weather::default()), Arc::new(Ran::default()), Arc::new(Seen::default()));
    let files = Files::new();
    let tls = kind.acceptor(&files);
    let mut endpoints = Vec::new();
    for n in 1..=3 {
        let app = app::serve(kind, tls.clone(), ran.clone()).await;
        endpoints.push(network::in_front_of(app, &format!("app-{n}"), kind, seed * 7 + n, weather.clone()).await);
    }
    let limits = Limits { retry_body_bytes: 32 * 1024, ..Limits::default() };
    let listening: Vec<&Endpoint> = endpoints.iter().collect();
    let fleet = Fleet::with_pool(Config { limits, workers: 2, ..config() }, kind.spec(), &listening).await;
    let before = resident_mib();
    let clients = (0..12).map(|n| {
        let (address, seen) = (fleet.address(), seen.clone());
        tokio::spawn(async move { load(address, n % 3 == 0, seed * 100 + n + 1, 25, &seen).await })
    });
    let clients: Vec<_> = clients.collect();
    let mut done = Vec::new();
    for client in clients {
        done.extend(client.await.expect("no check failed"));
    }
    {
        let posts = ran.posts.lock().unwrap();
        for (id, times) in posts.iter() {
            assert_eq!(*times, 1, "seed {seed}: POST {id} ran {times} times");
        }
        for id in &done {
            assert!(posts.contains_key(id), "seed {seed}: POST {id} was answered and never ran");
        }
    }
    println!("{seen:?}, {weather:?}");
    assert!(weather.broke.load(Ordering::Relaxed) >= 5, "the network was too well to tell anything");
    // Of 300 requests: most break where they can be sent again, to somebody else.
    assert!(seen.whole.load(Ordering::Relaxed) >= 180, "seed {seed}: {seen:?}");
    for endpoint in &endpoints {
        fleet.counted(endpoint, Counts::default()).await;
    }
    let grown = resident_mib().saturating_sub(before);
    assert!(grown < 64, "seed {seed}: {grown} MiB more");
    // The network is well, once what it broke before has been found broken.
    weather.is_well.store(true, Ordering::Relaxed);
    for n in 0..60 {
        load(fleet.address(), n % 2 == 0, seed * 1_000 + n + 1, 1, &Seen::default()).await;
    }
    let healed = Seen::default();
    for n in 0..4 {
        load(fleet.address(), n % 2 == 0, seed * 2_000 + n + 1, 20, &healed).await;
    }
    assert_eq!(healed.whole.load(Ordering::Relaxed), 80, "seed {seed}: {healed:?}");
    assert_eq!(*ran.wrong.lock().unwrap(), Vec::<String>::new(), "seed {seed}");
}

/// `TIDELOCK_CHAOS_SEEDS` runs more of them.
async fn seeds(protocol: Speaks, is_tls: bool) {
    let seeds = std::env::var("TIDELOCK_CHAOS_SEEDS").map_or(1, |seeds| seeds.parse().expect("a number of seeds"));
    for seed in 1..=seeds {
        chaos(Kind { protocol, is_tls }, seed).await;
    }
}

#[tokio::test]
async fn nothing_that_looks_whole_is_not_and_nothing_runs_twice_over_h2c() {
    seeds(H2c, false).await;
}

#[tokio::test]
async fn nothing_that_looks_whole_is_not_and_nothing_runs_twice_over_http1() {
    seeds(H1, false).await;
}

/// Under TLS single bits are flipped, too.
#[tokio::test]
async fn nothing_that_looks_whole_is_not_and_nothing_runs_twice_over_h2_and_tls() {
    seeds(H2c, true).await;
}

#[tokio::test]
async fn nothing_that_looks_whole_is_not_and_nothing_runs_twice_over_http1_and_tls() {
    seeds(H1, true).await;
}
