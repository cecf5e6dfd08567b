//! A request that was admitted, and what its attempts and its response need to know of it. One
//! allocation; it is built in one step, so that no future holds the parts it is made of.

mod hold;

use std::fmt::Write;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONTENT_LENGTH, DATE, SET_COOKIE};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, Method, Response, StatusCode};
use tidelock_core::affinity::{Pin, SessionId};
use tidelock_core::choose::{Asked, Choice, Moment, NoEndpoint, Placement, RouteTo, choose};
use tidelock_core::retry::{Failure, Verdict, verdict};
use tidelock_core::route::{NoRoute, Route};
use tidelock_core::spec::Affinity;
use tidelock_core::table::PoolTable;
use tokio::time::{Instant, Sleep, sleep};

pub(crate) use self::hold::Waiting;
use crate::access::Access;
use crate::attempt::{ROUTE_FOR_FIELD, ROUTE_TO_FIELD, Routed};
use crate::headers::{self, Client, Host};
use crate::http2::RequestHead;
use crate::learned::Which;
use crate::lease::{Lasts, Lease};
use crate::respond::Reason;
use crate::source::Source;
use crate::upstream::Endpoint;
use crate::worker::{PoolView, View, Worker, unix_ms};

static EXPOSED_ENDPOINT: HeaderName = HeaderName::from_static("tidelock-endpoint");
static EXPOSED_EPOCH: HeaderName = HeaderName::from_static("tidelock-epoch");
static EXPOSED_AFFINITY: HeaderName = HeaderName::from_static("tidelock-affinity");

/// Connections of one endpoint that may end under a request which has its place there, before it is moved.
const RECYCLED_MOST: u32 = 4;
/// The shortest pause before an attempt; each next one is twice as long.
const PAUSE: Duration = Duration::from_millis(5);

pub(crate) struct Exchange {
    pub(crate) worker: Rc<Worker>,
    pub(crate) client: Rc<Client>,
    /// As endpoints get it, but for what depends on their protocol.
    pub(crate) head: Parts,
    pub(crate) host: Host,
    pub(crate) path: PathAndQuery,
    /// The body's length, if the client named it.
    pub(crate) length: Option<u64>,
    /// Taken once: the request lives by this table whatever is decided meanwhile.
    view: Rc<View>,
    route: Arc<Route>,
    pub(crate) access: Access,
    tries: Tries,
    /// When all of it must have ended, if its pool says so.
    pub(crate) deadline: Option<Instant>,
}

/// The attempts of one request.
#[derive(Default)]
struct Tries {
    tried: Vec<usize>,
    attempts: u32,
    last: Option<Failure>,
    /// How often in a row a connection of the endpoint has ended, or a stream was refused.
    recycled: u32,
    session: Option<SessionId>,
    /// Until when it may wait for an endpoint, once it has.
    hold_until: Option<Instant>,
    /// An endpoint may have worked on it.
    worked_on: bool,
    /// Whose it is, as an endpoint has said.
    routed: Option<RouteTo>,
    /// It was said of an earlier request: whoever gets this one may say otherwise.
    is_guess: bool,
}

impl Exchange {
    /// Checks what this node answers for itself, before any endpoint hears of the request.
    pub(crate) fn admit(
        worker: &Rc<Worker>,
        client: &Rc<Client>,
        mut head: Parts,
    ) -> Result<Box<Exchange>, (Access, Reason)> {
        let mut access = Access::begin(worker, client, &head);
        let limits = &worker.config.limits;
        let checked = (|| {
            if head.method == Method::CONNECT {
                return Err(Reason::NoConnect);
            }
            if matches!(head.method, Method::TRACE | Method::OPTIONS) && !headers::may_forward(&mut head.headers)? {
                return Err(Reason::LastHop);
            }
            if head.headers.len() > limits.max_header_count {
                return Err(Reason::HeadersTooLarge);
            }
            let length = headers::content_length(&head.headers)?;
            if let Some(length) = length
                && head.headers.get(CONTENT_LENGTH).is_some_and(|text| text.len() > 1 && text.as_bytes()[0] == b'0')
            {
                // Leading zeros are digits, and malformed to some.
                head.headers.insert(CONTENT_LENGTH, length.into());
            }
            let host = headers::host(&head, client.is_trusted())?;
            let path = match head.uri.path_and_query() {
                // The server as a whole, which only OPTIONS may ask about (RFC 9112 section 3.2.4).
                Some(path) if path.as_str() == "*" && head.method != Method::OPTIONS => return Err(Reason::BadRequest),
                // Authority form, which is CONNECT's (section 3.2.3).
                None if head.uri.scheme().is_none() => return Err(Reason::BadRequest),
                // Absolute form without a path means the root (section 3.2.1); it may have a query all the same.
                Some(path) if path.as_str().starts_with('?') && head.uri.scheme().is_some() => {
                    format!("/{}", path.as_str()).parse().map_err(|_| Reason::BadRequest)?
                }
                Some(path) if path.as_str().starts_with('/') || path.as_str() == "*" => path.clone(),
                Some(path) if !path.as_str().is_empty() => return Err(Reason::BadRequest),
                _ => PathAndQuery::from_static("/"),
            };
            if path.as_str().len() > limits.max_path_bytes {
                return Err(Reason::TargetTooLong);
            }
            access.host(&host);
            let view = worker.view();
            let route = view.table.route(&host.name(), path.path()).cloned().map_err(|none| match none {
                NoRoute::Host => Reason::UnknownHost,
                NoRoute::Path => Reason::NoRoute,
            })?;
            Ok((host, path, length, view, route))
        })();
        let (host, path, length, view, route) = match checked {
            Ok(checked) => checked,
            Err(reason) => return Err((access, reason)),
        };
        access.route(&view, &route);
        headers::strip_hop_by_hop(&mut head.headers, head.version);
        headers::forward(&mut head.headers, client, &host, head.version, &mut || worker.random());
        let total = view.pools[route.pool].table.spec.timeouts.total_ms;
        let deadline = total.map(|total| Instant::now() + total.duration());
        Ok(Box::new(Exchange {
            worker: worker.clone(),
            client: client.clone(),
            head,
            host,
            path,
            length,
            view,
            route,
            access,
            tries: Tries::default(),
            deadline,
        }))
    }

    /// For how long its WebSocket may be silent.
    pub(crate) fn websocket_idle(&self) -> Duration {
        self.route.spec.websocket_idle(self.pool().spec.timeouts.websocket_idle_ms.duration())
    }

    pub(crate) fn pool(&self) -> &Arc<PoolTable> {
        &self.pool_view().table
    }

    fn pool_view(&self) -> &Rc<PoolView> {
        &self.view.pools[self.route.pool]
    }

    /// The next endpoint to try, with a lease on it.
    pub(crate) fn next(&mut self) -> Option<(Choice, Rc<Endpoint>, Lease)> {
        if self.tries.attempts == 0 && self.pool().spec.route_to {
            self.guess();
        }
        let (worker, pool) = (&self.worker, &self.view.pools[self.route.pool]);
        let tries = &mut self.tries;
        if tries.attempts == 0 {
            pool.retries.set(pool.retries.get().with_request());
        }
        loop {
            let now = (unix_ms() / 1000) as u32;
            let moment = Moment { now, tried: &tries.tried, session: tries.session };
            let random = &mut || worker.random();
            let fields = &self.head.headers;
            let client = match self.route.spec.affinity {
                Affinity::ClientIp {} => self.client.origin(fields),
                _ => self.client.address,
            };
            let asked = Asked { headers: fields, path: self.path.path(), query: self.path.query(), client };
            let choice = match &tries.routed {
                None => choose(&self.view.table, &self.route, &asked, &moment, &**pool, random),
                Some(to) => {
                    let place = to.find(&pool.table, &tries.tried, &**pool);
                    place.map(Choice::routed).ok_or(NoEndpoint)
                }
            };
            let Ok(choice) = choice else {
                // It would be wrong for the next one too.
                if tries.is_guess {
                    (tries.routed, tries.is_guess) = (None, false);
                    worker.learned.borrow_mut().forget(which(&pool.table, &self.host.name(), &self.path));
                    continue;
                }
                // An endpoint that only broke off, or did not look at it, may serve on a new connection, where
                // there is no other one.
                if matches!(tries.last, Some(Failure::Broken | Failure::Unprocessed)) && !tries.tried.is_empty() {
                    tries.tried.clear();
                    continue;
                }
                return None;
            };
            tries.session = choice.session.or(tries.session);
            let endpoint = &pool.endpoints[choice.endpoint];
            // The gate may have closed since the choice looked at it; then choose again.
            let lives_there = matches!(choice.placement, Placement::Kept | Placement::Routed);
            if let Some(mut lease) = Lease::take(&endpoint.state, worker.index, lives_there) {
                if self.route.spec.is_long_poll(self.path.path()) {
                    lease.lasts(Lasts::LongPoll);
                }
                if let Some(session) = choice.session
                    && lease.is_leaving()
                {
                    endpoint.state.sessions.note(session, u64::from(now / 60));
                }
                tries.attempts += 1;
                let endpoint = endpoint.clone();
                self.access.attempt(&choice, &endpoint);
                return Some((choice, endpoint, lease));
            }
            tries.tried.push(choice.endpoint);
        }
    }

    /// Whose the request is by what was said of one like it.
    #[cold]
    fn guess(&mut self) {
        let learned = self.worker.learned.borrow();
        self.tries.routed = learned.find(which(self.pool(), &self.host.name(), &self.path));
        self.tries.is_guess = self.tries.routed.is_some();
        if self.tries.is_guess {
            self.worker.counters.guessed.add();
        }
    }

    /// What a guess was made by is not true any more.
    #[cold]
    fn forget_guess(&mut self) {
        (self.tries.routed, self.tries.is_guess) = (None, false);
        self.worker.learned.borrow_mut().forget(which(self.pool(), &self.host.name(), &self.path));
    }

    /// What a failed attempt means for the request.
    pub(crate) fn failed(&mut self, choice: &Choice, failure: Failure, source: &Source) -> Verdict {
        let was_guess = self.tries.is_guess;
        if was_guess {
            self.forget_guess();
        }
        let of_endpoint =
            !matches!(failure, Failure::Full | Failure::Unprocessed | Failure::Stale | Failure::Malformed);
        if of_endpoint && let Some(endpoint) = self.pool_view().endpoints.get(choice.endpoint) {
            endpoint.state.count_outcome(self.worker.index, false);
        }
        let tries = &mut self.tries;
        tries.last = Some(failure);
        tries.worked_on |= !matches!(failure, Failure::Connect | Failure::Full | Failure::Unprocessed);
        let is_kept = !was_guess && !matches!(choice.placement, Placement::New | Placement::Unkeyed);
        // A GOAWAY or a kept connection's end is no failure of the endpoint: a fresh connection
        // to it serves the session better than another endpoint would.
        let most = match failure {
            Failure::Unprocessed if is_kept => RECYCLED_MOST,
            Failure::Unprocessed | Failure::Stale => 1,
            _ => 0,
        };
        tries.recycled += 1;
        if tries.recycled > most {
            tries.recycled = 0;
            tries.tried.push(choice.endpoint);
        }
        if failure == Failure::Full {
            self.worker.counters.endpoint_full.add();
            // What is kept where it is waits for its endpoint, and is not moved for a moment's load.
            if is_kept {
                return Verdict::GiveUp;
            }
        }
        let verdict = verdict(failure, &self.head.method, source.is_replayable(), tries.attempts);
        if verdict == Verdict::GiveUp {
            return Verdict::GiveUp;
        }
        if failure == Failure::Broken {
            let budget = &self.pool_view().retries;
            let Some(less) = budget.get().without_try() else {
                self.worker.counters.retries_refused.add();
                return Verdict::GiveUp;
            };
            budget.set(less);
        }
        self.worker.counters.retries.add();
        Verdict::Again
    }

    /// An endpoint says whose the request is: it goes there next, once.
    pub(crate) fn route_to(&mut self, routed: Routed, is_replayable: bool) -> Result<(), Reason> {
        if self.tries.is_guess {
            self.forget_guess();
        }
        let Routed { to, time } = routed;
        if let Some(time) = time {
            let host = self.host.name();
            let mut learned = self.worker.learned.borrow_mut();
            learned.learn(which(self.pool(), &host, &self.path), to.clone(), time);
        }
        if self.tries.routed.is_some() {
            return Err(Reason::RoutedTwice);
        }
        if !is_replayable {
            return Err(Reason::RoutedTooLate);
        }
        self.worker.counters.routed.add();
        self.tries.tried.clear();
        self.tries.last = None;
        self.tries.routed = Some(to);
        Ok(())
    }

    /// What it waits before the next attempt: nobody has looked at several, and an endpoint that is asked at once refuses the
    /// next one for the same reason.
    pub(crate) fn pause(&self) -> Option<std::pin::Pin<Box<Sleep>>> {
        let several = self.tries.attempts.checked_sub(3).filter(|_| self.was_unprocessed())?;
        // As often as it is tried at all, so it stays short.
        Some(Box::pin(sleep(PAUSE * 2_u32.pow(several))))
    }

    /// Whether an endpoint did not look at it the last time.
    pub(crate) fn was_unprocessed(&self) -> bool {
        self.tries.last == Some(Failure::Unprocessed)
    }

    /// Whether a connection has failed it that could have ended at any time.
    pub(crate) fn wants_fresh(&self) -> bool {
        self.tries.last == Some(Failure::Stale)
    }

    /// Why the client gets no endpoint's answer.
    pub(crate) fn reason(&self) -> Reason {
        match self.tries.last {
            // What was sent there and broke off, or took too long, may have been done: that is said.
            None | Some(Failure::Connect) if self.tries.routed.is_some() => Reason::RoutedNowhere,
            None => Reason::NoEndpoint,
            Some(Failure::Connect) => Reason::Unreachable,
            Some(Failure::Full) => Reason::EndpointFull,
            Some(Failure::Unprocessed) if !self.tries.worked_on => Reason::Refused,
            Some(Failure::Unprocessed | Failure::Stale | Failure::Broken | Failure::Malformed) => Reason::BrokenOff,
            Some(Failure::Timeout) => Reason::TooSlow,
            Some(Failure::Protocol) => Reason::BadResponse,
        }
    }

    /// The request's head as HTTP/2 endpoints get it, `without` some of its fields.
    pub(crate) fn h2_head<'a>(&'a self, is_https: bool, without: &'a [HeaderName]) -> RequestHead<'a> {
        RequestHead {
            method: &self.head.method,
            is_https,
            authority: self.host.authority.as_str(),
            path: self.path.as_str(),
            protocol: None,
            fields: &self.head.headers,
            without,
        }
    }

    /// What the balancer changes in a response's head.
    pub(crate) fn finish_head<B>(&mut self, choice: &Choice, endpoint: &Endpoint, response: &mut Response<B>) {
        match choice.placement {
            Placement::New => self.worker.counters.begun.add(),
            Placement::Moved(_) => self.worker.counters.moved.add(),
            _ => {}
        }
        self.access.head(response.status());
        endpoint.state.count_outcome(self.worker.index, !response.status().is_server_error());
        let (version, is_routing) = (response.version(), self.pool().spec.route_to);
        // RFC 9110 section 8.6.
        let has_no_length = response.status() == StatusCode::NO_CONTENT || response.status().is_informational();
        let fields = response.headers_mut();
        headers::strip_hop_by_hop(fields, version);
        if has_no_length {
            fields.remove(CONTENT_LENGTH);
        }
        if is_routing {
            // Between endpoints and the balancer only.
            fields.remove(&ROUTE_TO_FIELD);
            fields.remove(&ROUTE_FOR_FIELD);
        }
        if !fields.contains_key(DATE) {
            // Who passes a response on without one adds it (RFC 9110 section 6.6.1).
            fields.insert(DATE, self.worker.date());
        }
        if let Some(pin) = choice.pin
            && let Some(cookie) = self.set_cookie(pin)
        {
            fields.append(SET_COOKIE, cookie);
        }
        if self.route.spec.expose {
            if let Ok(name) = HeaderValue::from_str(endpoint.name.as_str()) {
                fields.insert(EXPOSED_ENDPOINT.clone(), name);
            }
            fields.insert(EXPOSED_EPOCH.clone(), HeaderValue::from(self.view.table.epoch.0));
            fields.insert(EXPOSED_AFFINITY.clone(), HeaderValue::from_static(choice.placement.as_str()));
        }
    }

    fn set_cookie(&self, pin: Pin) -> Option<HeaderValue> {
        let mut nonce = [0; 12];
        nonce[..8].copy_from_slice(&self.worker.random().to_be_bytes());
        nonce[8..].copy_from_slice(&self.worker.random().to_be_bytes()[..4]);
        let value = self.view.table.sealer.seal(pin, nonce)?;
        let Affinity::Cookie(spec) = &self.route.spec.affinity else { return None };
        let path = spec.path.as_ref().unwrap_or(&self.route.spec.path_prefix).as_str();
        let (name, same_site) = (spec.name.as_str(), spec.same_site.as_str());
        let mut cookie = format!("{name}={value}; Path={path}; HttpOnly; SameSite={same_site}");
        if let Some(seconds) = spec.max_age_s {
            let _ = write!(cookie, "; Max-Age={seconds}");
        }
        if self.client.tls || spec.secure {
            cookie.push_str("; Secure");
        }
        HeaderValue::try_from(cookie).ok()
    }
}

/// Requests that are like this one.
fn which<'a>(pool: &PoolTable, host: &'a str, path: &'a PathAndQuery) -> Which<'a> {
    Which { pool: pool.id, host, path: path.path() }
}
