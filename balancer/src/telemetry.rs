//! What is counted and logged: one access event a request, and counters that each worker keeps
//! for itself. Cookies, tokens and bodies are never logged.

use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::Serialize;

use crate::http2::TooMuch;
use crate::respond::Reason;

/// Events waiting for standard output; beyond it they are dropped and counted: a slow log must
/// not slow requests.
const QUEUE: usize = 8_192;

macro_rules! counters {
    ($($(#[$doc:meta])* $field:ident: $name:literal, $help:literal;)*) => {
        /// One worker's counters. Only that worker writes them.
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub(crate) struct Counters {
            $($(#[$doc])* pub(crate) $field: Counter,)*
            /// Responses of our own, by reason.
            own: [Counter; Reason::ALL.len()],
        }

        /// The sums over the workers, in OpenMetrics text.
        pub(crate) fn write_metrics(workers: &[Arc<Counters>], text: &mut String) {
            $(
                let sum: u64 = workers.iter().map(|worker| worker.$field.load()).sum();
                // One of several of a family has no help of its own: it follows the first.
                if !$help.is_empty() {
                    let name = $name.split('{').next().unwrap_or($name);
                    // A counter's family is called what its sample is called without the ending (OpenMetrics 1.0).
                    let (family, kind) = name.strip_suffix("_total").map_or((name, "gauge"), |family| (family, "counter"));
                    let _ = writeln!(text, "# HELP {family} {}\n# TYPE {family} {kind}", $help);
                }
                let _ = writeln!(text, "{} {sum}", $name);
            )*
            let family = "tidelock_responses_own";
            let _ = writeln!(text, "# HELP {family} Responses made by the balancer itself.\n# TYPE {family} counter");
            for reason in Reason::ALL {
                let sum: u64 = workers.iter().map(|worker| worker.own(reason).load()).sum();
                let _ = writeln!(text, "{family}_total{{reason=\"{}\"}} {sum}", reason.as_str());
            }
        }
    };
}

counters! {
    connections: "tidelock_downstream_connections_open", "Open downstream connections.";
    connections_total: "tidelock_downstream_connections_total", "Downstream connections accepted.";
    connections_refused: "tidelock_downstream_connections_refused_total", "Downstream connections closed at the node's limit.";
    connections_refused_of_clients: "tidelock_downstream_connections_refused_of_clients_total", "Downstream connections closed at a limit of their client's address.";
    connections_idle: "tidelock_downstream_connections_idle_closed_total", "Downstream connections closed because they were without a request for too long.";
    streams_refused: "tidelock_downstream_streams_refused_total", "HTTP/2 streams refused because their connection had as many as it may.";
    /// Requests that were broken off.
    calmed_resets: "tidelock_downstream_connections_calmed_total{cause=\"resets\"}", "HTTP/2 connections ended with ENHANCE_YOUR_CALM.";
    calmed_faults: "tidelock_downstream_connections_calmed_total{cause=\"stream-errors\"}", "";
    calmed_empty: "tidelock_downstream_connections_calmed_total{cause=\"empty-frames\"}", "";
    calmed_control: "tidelock_downstream_connections_calmed_total{cause=\"control-frames\"}", "";
    calmed_large_head: "tidelock_downstream_connections_calmed_total{cause=\"large-head\"}", "";
    calmed_slow_head: "tidelock_downstream_connections_calmed_total{cause=\"slow-head\"}", "";
    handshakes_failed: "tidelock_downstream_handshakes_failed_total", "Connections whose TLS or first bytes failed.";
    responses_2xx: "tidelock_responses_2xx_total", "Responses with a status from 200 to 299.";
    responses_3xx: "tidelock_responses_3xx_total", "Responses with a status from 300 to 399.";
    responses_4xx: "tidelock_responses_4xx_total", "Responses with a status from 400 to 499.";
    responses_5xx: "tidelock_responses_5xx_total", "Responses with a status from 500 to 599.";
    retries: "tidelock_retries_total", "Attempts after the first.";
    retries_refused: "tidelock_retries_refused_total", "Second tries that the pool's budget did not allow.";
    endpoint_full: "tidelock_endpoint_full_total", "Attempts that found no place at their endpoint (pool limits).";
    routed: "tidelock_requests_routed_total", "Requests that an endpoint sent on to another one (tidelock-route-to).";
    guessed: "tidelock_requests_routed_as_learned_total", "Requests that were sent where an endpoint had said that they belong (tidelock-route-for).";
    held: "tidelock_requests_held_total", "Requests that waited for an endpoint.";
    hold_refused: "tidelock_holds_refused_total", "Requests that had to wait for an endpoint, and more waited already than the pool allows.";
    hold_expired: "tidelock_holds_expired_total", "Requests for which no endpoint came in time.";
    health_checks: "tidelock_health_checks_total", "Checks of endpoints by this node.";
    health_checks_failed: "tidelock_health_checks_failed_total", "Checks that an endpoint did not pass.";
    moved: "tidelock_sessions_moved_total", "Pinned sessions that had to change their endpoint.";
    begun: "tidelock_sessions_begun_total", "Sessions that were given a pin.";
    client_aborts: "tidelock_client_aborts_total", "Requests that the client broke off.";
    responses_timed_out: "tidelock_responses_timed_out_total", "Responses that began and were cut at a time limit: nothing moved, the client read too slowly, or all of it took too long.";
    responses_cut: "tidelock_responses_cut_total", "Responses that began and did not end.";
    websockets_total: "tidelock_websockets_opened_total", "WebSockets opened.";
    websockets_by_connect: "tidelock_websockets_opened_by_connect_total", "WebSockets opened by an extended CONNECT (RFC 8441).";
    websockets_waited: "tidelock_websockets_held_back_total", "WebSockets that waited for their turn at their endpoint (pool limits).";
    closed_at_pace: "tidelock_streams_closed_at_pace_total", "WebSockets and event streams that were asked to close, at the pace of their endpoint's drain.";
    log_dropped: "tidelock_access_log_dropped_total", "Access events dropped because the log was too slow.";
}

/// A number that one thread changes and others read.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self) {
        self.add_up(1);
    }

    pub(crate) fn add_up(&self, amount: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
    }

    pub(crate) fn subtract(&self) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_sub(1), Ordering::Relaxed);
    }

    pub(crate) fn load(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Counters {
    pub(crate) fn own(&self, reason: Reason) -> &Counter {
        &self.own[reason as usize]
    }

    /// HTTP/2 connections that were ended for too much of something.
    pub(crate) fn calmed(&self, what: TooMuch) -> &Counter {
        match what {
            TooMuch::Faults => &self.calmed_faults,
            TooMuch::Resets => &self.calmed_resets,
            TooMuch::Empty => &self.calmed_empty,
            TooMuch::Control => &self.calmed_control,
            TooMuch::Head => &self.calmed_large_head,
        }
    }

    pub(crate) fn response(&self, status: u16) {
        match status / 100 {
            2 => self.responses_2xx.add(),
            3 => self.responses_3xx.add(),
            4 => self.responses_4xx.add(),
            5 => self.responses_5xx.add(),
            _ => {}
        }
    }
}

/// One request, when it has ended.
#[derive(Debug, Serialize)]
pub(crate) struct AccessEvent<'a> {
    /// Unix time in milliseconds at the request's arrival.
    pub(crate) time_ms: u64,
    pub(crate) client: std::net::IpAddr,
    pub(crate) protocol: &'static str,
    pub(crate) method: &'a str,
    pub(crate) host: &'a str,
    /// Without the query, which may hold secrets.
    pub(crate) path: &'a str,
    pub(crate) status: u16,
    pub(crate) epoch: u64,
    pub(crate) route: &'a str,
    pub(crate) pool: &'a str,
    pub(crate) endpoint: &'a str,
    /// none, key, new, kept, moved:REASON.
    pub(crate) affinity: &'a str,
    pub(crate) attempts: u32,
    pub(crate) bytes: u64,
    /// To the response's head, and to the end, in microseconds.
    pub(crate) head_us: u64,
    pub(crate) total_us: u64,
    /// whole, cut (the endpoint's side broke), aborted (the client's did), timed-out, or a reason of our own.
    pub(crate) end: &'a str,
}

/// The way of access events to standard output, through a thread of its own.
#[derive(Debug, Clone)]
pub(crate) struct AccessLog {
    queue: SyncSender<String>,
}

impl AccessLog {
    /// The thread ends, its last events written, when the last handle is gone.
    pub(crate) fn start() -> std::io::Result<(AccessLog, JoinHandle<()>)> {
        let (queue, events) = sync_channel(QUEUE);
        let thread = std::thread::Builder::new().name("access-log".into());
        let writer = thread.spawn(move || write_events(&events))?;
        Ok((AccessLog { queue }, writer))
    }

    pub(crate) fn write(&self, event: &AccessEvent<'_>, counters: &Counters) {
        let line = serde_json::to_string(event);
        if line.is_ok_and(|line| self.queue.try_send(line).is_err()) {
            counters.log_dropped.add();
        }
    }
}

fn write_events(events: &Receiver<String>) {
    let mut out = std::io::BufWriter::with_capacity(64 * 1024, std::io::stdout());
    while let Ok(first) = events.recv() {
        let mut next = Some(first);
        while let Some(line) = next {
            // Nobody is left to tell when standard output is gone.
            let _ = writeln!(out, "{line}");
            next = events.recv_timeout(Duration::from_millis(50)).ok();
        }
        let _ = out.flush();
    }
}
