//! What is remembered of a request for its access event, which is written when the request has
//! ended, however it ended. Without an access log only the counters are kept.

use std::rc::Rc;
use std::time::Instant;

use http::StatusCode;
use http::request::Parts;
use tidelock_core::choose::{Choice, Placement};
use tidelock_core::id::Name;
use tidelock_core::route::Route;

use crate::body::Abort;
use crate::headers::{Client, Host};
use crate::respond::Reason;
use crate::telemetry::AccessEvent;
use crate::upstream::Endpoint;
use crate::websocket::tunnel::Ended;
use crate::worker::{View, Worker, unix_ms};

/// One request's account. Dropping it writes the event.
pub(crate) struct Access {
    worker: Rc<Worker>,
    status: u16,
    end: End,
    details: Option<Box<Details>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The response has not ended.
    Running,
    Whole,
    Cut,
    Aborted,
    /// One of its time limits was over.
    TimedOut,
    Own(Reason),
}

/// What only the log wants to know.
struct Details {
    start: Instant,
    time_ms: u64,
    client: std::net::IpAddr,
    protocol: &'static str,
    method: http::Method,
    uri: http::Uri,
    host: String,
    epoch: u64,
    /// And its pool: their names, since a WebSocket outlives many tables.
    route: Option<(Name, Name)>,
    endpoint: Option<(Rc<Endpoint>, Placement)>,
    attempts: u32,
    head_us: u64,
    bytes: u64,
}

impl Access {
    pub(crate) fn begin(worker: &Rc<Worker>, client: &Client, head: &Parts) -> Access {
        let details = worker.log.is_some().then(|| {
            Box::new(Details {
                start: Instant::now(),
                time_ms: unix_ms(),
                client: client.address,
                protocol: if head.version == http::Version::HTTP_2 { "h2" } else { "http1" },
                method: head.method.clone(),
                uri: head.uri.clone(),
                host: String::new(),
                epoch: 0,
                route: None,
                endpoint: None,
                attempts: 0,
                head_us: 0,
                bytes: 0,
            })
        });
        Access { worker: worker.clone(), status: 0, end: End::Running, details }
    }

    /// For what could not be read as a request.
    pub(crate) fn of_no_head(worker: &Rc<Worker>, client: &Client) -> Access {
        let (mut head, ()) = http::Request::new(()).into_parts();
        head.method = http::Method::from_bytes(b"-").expect("a hyphen is a token");
        head.uri = http::Uri::from_static("*");
        Access::begin(worker, client, &head)
    }

    pub(crate) fn host(&mut self, host: &Host) {
        if let Some(details) = &mut self.details {
            details.host = host.name().into_owned();
        }
    }

    pub(crate) fn route(&mut self, view: &View, route: &Route) {
        if let Some(details) = &mut self.details {
            details.epoch = view.table.epoch.0;
            details.route = Some((route.name.clone(), view.pools[route.pool].table.name.clone()));
        }
    }

    pub(crate) fn attempt(&mut self, choice: &Choice, endpoint: &Rc<Endpoint>) {
        if let Some(details) = &mut self.details {
            details.attempts += 1;
            details.endpoint = Some((endpoint.clone(), choice.placement));
        }
    }

    /// The response's head is there.
    pub(crate) fn head(&mut self, status: StatusCode) {
        self.status = status.as_u16();
        if let Some(details) = &mut self.details {
            details.head_us = micros(details.start);
        }
    }

    pub(crate) fn sent(&mut self, bytes: usize) {
        if let Some(details) = &mut self.details {
            details.bytes += bytes as u64;
        }
    }

    pub(crate) fn date(&self) -> http::HeaderValue {
        self.worker.date()
    }

    pub(crate) fn own(&mut self, reason: Reason) {
        self.end = End::Own(reason);
    }

    pub(crate) fn whole(&mut self) {
        if self.end == End::Running {
            self.end = End::Whole;
        }
    }

    /// The endpoint's side broke after the head.
    pub(crate) fn cut(&mut self) {
        if self.end == End::Running {
            self.end = End::Cut;
        }
    }

    /// The response will not be whole, and it is not for the client to answer for it where that is a limit of time, or the
    /// end of a drain.
    pub(crate) fn broken(&mut self, abort: Abort) {
        match abort {
            _ if self.end != End::Running => {}
            Abort::Idle | Abort::Slow => self.end = End::TimedOut,
            Abort::Cut => self.end = End::Cut,
            Abort::Gone | Abort::Malformed => {}
        }
    }

    /// A WebSocket has ended.
    pub(crate) fn tunnelled(&mut self, ended: Ended, bytes: u64) {
        self.end = match ended {
            Ended::Closed => End::Whole,
            Ended::Client => End::Aborted,
            Ended::Endpoint => End::Cut,
            Ended::Idle => End::TimedOut,
        };
        if let Some(details) = &mut self.details {
            details.bytes = bytes;
        }
    }

    /// Whether nothing has ended it yet.
    pub(crate) fn is_running(&self) -> bool {
        self.end == End::Running
    }

    /// Whether the client broke off.
    pub(crate) fn is_aborted(&self) -> bool {
        self.end == End::Aborted
    }

    pub(crate) fn aborted(&mut self) {
        if self.end == End::Running {
            self.end = End::Aborted;
        }
    }
}

impl Drop for Access {
    fn drop(&mut self) {
        let counters = &self.worker.counters;
        counters.response(self.status);
        let end = match self.end {
            End::Whole => "whole",
            End::Cut => {
                counters.responses_cut.add();
                "cut"
            }
            // A request that is dropped in its middle was dropped by its client.
            End::Running | End::Aborted => {
                counters.client_aborts.add();
                "aborted"
            }
            End::TimedOut => {
                counters.responses_timed_out.add();
                "timed-out"
            }
            End::Own(reason) => {
                counters.own(reason).add();
                reason.as_str()
            }
        };
        let (Some(details), Some(log)) = (&self.details, &self.worker.log) else { return };
        let event = AccessEvent {
            time_ms: details.time_ms,
            client: details.client,
            protocol: details.protocol,
            method: details.method.as_str(),
            host: &details.host,
            path: details.uri.path(),
            status: self.status,
            epoch: details.epoch,
            route: details.route.as_ref().map_or("", |(name, _)| name.as_str()),
            pool: details.route.as_ref().map_or("", |(_, pool)| pool.as_str()),
            endpoint: details.endpoint.as_ref().map_or("", |(endpoint, _)| endpoint.name.as_str()),
            affinity: details.endpoint.as_ref().map_or("", |(_, placement)| placement.as_str()),
            attempts: details.attempts,
            bytes: details.bytes,
            head_us: details.head_us,
            total_us: micros(details.start),
            end,
        };
        log.write(&event, counters);
    }
}

/// Microseconds since `start`.
fn micros(start: Instant) -> u64 {
    start.elapsed().as_micros() as u64
}
