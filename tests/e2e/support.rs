//! What the stories are told with.

pub(crate) mod api;
pub(crate) mod beam;
pub(crate) mod disk;
pub(crate) mod fleet;
pub(crate) mod grpc;
pub(crate) mod http;
pub(crate) mod network;
pub(crate) mod process;
pub(crate) mod traffic;
pub(crate) mod websocket;
pub(crate) mod writes;

use std::time::{Duration, Instant};

/// Repeats `look` until it gives something; panics with `what` when it takes too long.
pub(crate) async fn eventually<T>(what: &str, limit: Duration, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < end, "not within {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
