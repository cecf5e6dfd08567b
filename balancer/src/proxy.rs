//! The life of a request (DESIGN section 4): table, choice, lease, attempt, response. Only this
//! module goes down to an endpoint and comes back.

use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;
use http::header::SET_COOKIE;
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Version};
use tidelock_core::affinity::{COOKIE_NAME, Pin};
use tidelock_core::choose::{Choice, Moment, Placement, choose};
use tidelock_core::retry::{Failure, Verdict, verdict};
use tidelock_core::route::{NoRoute, Route};
use tidelock_core::spec::Protocol;

use crate::access::Access;
use crate::body::{Abort, Received};
use crate::exchange::{Attempt, Failed, Proxied, content_length};
use crate::headers::{self, Client, Host};
use crate::lease::Lease;
use crate::respond::{Reason, respond};
use crate::source::Source;
use crate::upstream::{Endpoint, Lend};
use crate::worker::{View, Worker, unix_ms};

static EXPOSED_ENDPOINT: HeaderName = HeaderName::from_static("tidelock-endpoint");
static EXPOSED_EPOCH: HeaderName = HeaderName::from_static("tidelock-epoch");
static EXPOSED_AFFINITY: HeaderName = HeaderName::from_static("tidelock-affinity");

/// What goes back to the client.
#[allow(clippy::large_enum_variant, reason = "nearly every one is a response")]
pub(crate) enum Outbound {
    Response(Response<OutBody>, Access),
    /// The client broke off, or the body was malformed where no response can be given.
    Abort(Abort),
}

#[allow(clippy::large_enum_variant, reason = "one lives in a request at a time, and boxing it costs every request")]
pub(crate) enum OutBody {
    /// Made here; and what the client has not sent yet of its request, to be read and dropped.
    Own(Bytes, Received),
    Proxied(Proxied),
}

/// A request on its way up, read off the wire and checked.
pub(crate) struct Checked {
    pub(crate) head: Parts,
    pub(crate) host: Host,
    pub(crate) path: PathAndQuery,
    /// The body's length, if the client named it.
    pub(crate) length: Option<u64>,
}

/// Checks what this node answers for itself, before any endpoint hears of the request.
pub(crate) fn check(worker: &Worker, head: Parts) -> Result<Checked, Reason> {
    let limits = &worker.config.limits;
    if head.method == Method::CONNECT {
        return Err(Reason::NoConnect);
    }
    if head.headers.len() > limits.max_header_count {
        return Err(Reason::HeadersTooLarge);
    }
    headers::check_framing(&head)?;
    let host = headers::host(&head)?;
    let path = match head.uri.path_and_query() {
        // Absolute form without a path means the root (RFC 9112 section 3.2.1).
        Some(path) if !path.as_str().is_empty() => path.clone(),
        _ => PathAndQuery::from_static("/"),
    };
    if path.as_str().len() > limits.max_path_bytes {
        return Err(Reason::TargetTooLong);
    }
    let length = content_length(&head.headers);
    Ok(Checked { head, host, path, length })
}

/// One request, from its head to its response's.
pub(crate) async fn serve(worker: &Rc<Worker>, client: &Client, head: Parts, body: Received) -> Outbound {
    let mut access = Access::begin(worker, client, &head);
    let checked = match check(worker, head) {
        Ok(checked) => checked,
        Err(reason) => return own(access, reason, body),
    };
    access.host(&checked.host);
    let view = worker.view();
    let route = match find_route(&view, &checked) {
        Ok(route) => route,
        Err(reason) => return own(access, reason, body),
    };
    access.route(&view, route);
    let mut source = Source::new(body, worker.config.limits.retry_body_bytes);
    let Checked { mut head, host, path, length } = checked;
    headers::strip_hop_by_hop(&mut head.headers);
    headers::forward(&mut head.headers, client, &host, &mut || worker.random());

    let mut tries = Tries::default();
    loop {
        let Some((choice, endpoint, lease)) = tries.next(worker, &view, route, &head.headers) else {
            return own(access, tries.reason(), source.into_rest());
        };
        access.attempt(&choice, &endpoint);
        let pool = &view.pools[route.pool].table;
        let request = outgoing(&head, &host, &path, pool.spec.protocol, pool.spec.strip_content_length);
        let Some(request) = request else { return own(access, Reason::BadHost, source.into_rest()) };
        let attempt = Attempt {
            endpoint: &endpoint,
            protocol: pool.spec.protocol,
            timeouts: &pool.spec.timeouts,
            lend: Lend {
                endpoint: &endpoint,
                connect_limit: pool.spec.timeouts.connect_ms.duration(),
                tasks: &worker.tasks,
            },
            hold_back: worker.config.timeouts.body_hold_back,
            length,
        };
        match attempt.run(request, source, lease).await {
            Ok(response) => {
                let response = response.map(OutBody::Proxied);
                let response = finish_head(worker, client, &view, route, &choice, &endpoint, response);
                access.head(response.status());
                return Outbound::Response(response, access);
            }
            Err(Failed::Client(Abort::Malformed)) => return own(access, Reason::BadBody, Received::Empty),
            Err(Failed::Client(abort)) => {
                access.aborted();
                return Outbound::Abort(abort);
            }
            Err(Failed::Endpoint(failure, rest)) => {
                source = rest;
                match tries.failed(choice.endpoint, failure, &head.method, &source) {
                    Verdict::Again => {
                        worker.counters.retries.add();
                        source.rewind();
                    }
                    Verdict::GiveUp => return own(access, tries.reason(), source.into_rest()),
                }
            }
        }
    }
}

/// A response that no endpoint gave, to a request of which `rest` is still to come.
pub(crate) fn own(mut access: Access, reason: Reason, rest: Received) -> Outbound {
    access.own(reason);
    let response = respond(reason);
    access.head(response.status());
    Outbound::Response(response.map(|text| OutBody::Own(text, rest)), access)
}

pub(crate) fn find_route<'a>(view: &'a View, checked: &Checked) -> Result<&'a Route, Reason> {
    let found = view.table.route(&checked.host.name(), checked.path.path());
    found.map(AsRef::as_ref).map_err(|none| match none {
        NoRoute::Host => Reason::UnknownHost,
        NoRoute::Path => Reason::NoRoute,
    })
}

/// The attempts of one request.
#[derive(Default)]
pub(crate) struct Tries {
    tried: Vec<usize>,
    attempts: u32,
    last: Option<Failure>,
    session: Option<tidelock_core::affinity::SessionId>,
}

impl Tries {
    /// The next endpoint, with a lease on it.
    pub(crate) fn next(
        &mut self,
        worker: &Worker,
        view: &View,
        route: &Route,
        headers: &HeaderMap,
    ) -> Option<(Choice, Rc<Endpoint>, Lease)> {
        let pool = &view.pools[route.pool];
        loop {
            let now = (unix_ms() / 1000) as u32;
            let moment = Moment { now, tried: &self.tried, session: self.session };
            let choice = choose(&view.table, route, headers, &moment, &**pool, &mut || worker.random()).ok()?;
            self.session = choice.pin.map(|pin| pin.session).or(self.session);
            let endpoint = &pool.endpoints[choice.endpoint];
            // The gate may have closed since the choice looked at it; then choose again.
            if let Some(lease) = Lease::take(&endpoint.state, worker.index, choice.placement == Placement::Kept) {
                self.attempts += 1;
                return Some((choice, endpoint.clone(), lease));
            }
            self.tried.push(choice.endpoint);
        }
    }

    pub(crate) fn failed(&mut self, endpoint: usize, failure: Failure, method: &Method, source: &Source) -> Verdict {
        let before = self.last.replace(failure);
        // A GOAWAY or a kept connection's end is no failure of the endpoint: a fresh connection
        // to it, tried once, serves the session better than another endpoint would.
        if failure != Failure::Unprocessed || before == Some(Failure::Unprocessed) {
            self.tried.push(endpoint);
        }
        verdict(failure, method, source.is_replayable(), self.attempts)
    }

    pub(crate) fn reason(&self) -> Reason {
        match self.last {
            None => Reason::NoEndpoint,
            Some(Failure::Connect) => Reason::Unreachable,
            Some(Failure::Unprocessed | Failure::Broken) => Reason::BrokenOff,
            Some(Failure::Timeout) => Reason::TooSlow,
            Some(Failure::Protocol) => Reason::BadResponse,
        }
    }
}

/// The request's head as one attempt sends it.
pub(crate) fn outgoing(
    head: &Parts,
    host: &Host,
    path: &PathAndQuery,
    protocol: Protocol,
    strip_content_length: bool,
) -> Option<Request<()>> {
    let mut request = Request::new(());
    *request.method_mut() = head.method.clone();
    let fields = request.headers_mut();
    *fields = head.headers.clone();
    fields.remove(http::header::EXPECT);
    if strip_content_length {
        fields.remove(http::header::CONTENT_LENGTH);
    }
    match protocol {
        Protocol::H2c => {
            fields.remove(http::header::HOST);
            *request.uri_mut() = headers::h2_target(host, path)?;
            *request.version_mut() = Version::HTTP_2;
        }
        Protocol::Http1 => {
            fields.remove(http::header::TE);
            *request.uri_mut() = headers::h1_target(request.headers_mut(), host, path)?;
            *request.version_mut() = Version::HTTP_11;
        }
    }
    Some(request)
}

/// What the balancer changes in a response's head.
pub(crate) fn finish_head<B>(
    worker: &Worker,
    client: &Client,
    view: &View,
    route: &Route,
    choice: &Choice,
    endpoint: &Endpoint,
    mut response: Response<B>,
) -> Response<B> {
    match choice.placement {
        Placement::New => worker.counters.begun.add(),
        Placement::Moved(_) => worker.counters.moved.add(),
        _ => {}
    }
    let headers = response.headers_mut();
    headers::strip_hop_by_hop(headers);
    if let Some(pin) = choice.pin
        && let Some(cookie) = set_cookie(worker, client, view, route, pin)
    {
        headers.append(SET_COOKIE, cookie);
    }
    if route.spec.expose {
        if let Ok(name) = HeaderValue::from_str(endpoint.name.as_str()) {
            headers.insert(EXPOSED_ENDPOINT.clone(), name);
        }
        headers.insert(EXPOSED_EPOCH.clone(), HeaderValue::from(view.table.epoch.0));
        headers.insert(EXPOSED_AFFINITY.clone(), HeaderValue::from_static(choice.placement.as_str()));
    }
    response
}

fn set_cookie(worker: &Worker, client: &Client, view: &View, route: &Route, pin: Pin) -> Option<HeaderValue> {
    let mut nonce = [0; 12];
    nonce[..8].copy_from_slice(&worker.random().to_be_bytes());
    nonce[8..].copy_from_slice(&worker.random().to_be_bytes()[..4]);
    let value = view.table.sealer.seal(pin, nonce)?;
    let path = route.spec.path_prefix.as_str();
    let secure = if client.tls { "; Secure" } else { "" };
    HeaderValue::try_from(format!("{COOKIE_NAME}={value}; Path={path}; HttpOnly; SameSite=Lax{secure}")).ok()
}

/// Microseconds since `start`.
pub(crate) fn micros(start: Instant) -> u64 {
    start.elapsed().as_micros() as u64
}
