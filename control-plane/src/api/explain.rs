//! `/v1/explain`: where a request would go, and why, by this node and by every other one. The decision
//! is the data plane's own, over the same table; what only the data plane knows (connections that
//! fail, requests in flight) is left out. `peers` asks the other nodes.

mod peers;

use std::net::IpAddr;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use serde::{Deserialize, Serialize};
use tidelock_core::affinity::cookies;
use tidelock_core::choose::{Asked, Availability, Moment, choose};
use tidelock_core::id::{Epoch, Name};
use tidelock_core::route::NoRoute;
use tidelock_core::spec::{Affinity, Strength};
use tidelock_core::table::{EndpointEntry, PoolTable, Table};
use utoipa::{IntoParams, ToSchema};

use super::error::Problem;
use super::extract::{Params, ReadParams};
use super::status::{self, ReadAnswers};
use super::{Context, schema};
use crate::fleet::clock;
use peers::NodeExplains;
pub(crate) use peers::answer;

// Without Debug: cookies stay out of every log. Nodes of two versions send it to each other.
#[derive(Clone, Deserialize, Serialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ExplainParams {
    /// The request's host, without its port.
    host: String,
    /// Its path, with a query if it has one: `/`.
    path: Option<String>,
    /// Its Cookie field.
    cookie: Option<String>,
    /// One more field, like `x-user: 7`.
    header: Option<String>,
    /// The client's address: 192.0.2.1, which is nobody's.
    #[param(value_type = Option<String>)]
    client: Option<IpAddr>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Explanation {
    #[schema(value_type = u64)]
    epoch: Epoch,
    /// What happens, in a sentence.
    verdict: String,
    #[schema(value_type = Option<String>)]
    route: Option<Name>,
    #[schema(value_type = Option<String>)]
    pool: Option<Name>,
    #[schema(value_type = Option<schema::Affinity>)]
    affinity: Option<Affinity>,
    /// `prefer` or `strict`, for this request.
    #[schema(value_type = Option<String>)]
    strength: Option<Strength>,
    /// The session's pin, if the request has one that this fleet gave.
    pin: Option<Pinned>,
    /// Where it goes. None: nowhere.
    #[schema(value_type = Option<String>)]
    endpoint: Option<Name>,
    /// As the access log and `tidelock-affinity` say it: `new`, `kept`, `moved:draining`, `key`, `none`.
    /// Of `new` and `none` the endpoint is an example: it is drawn.
    placement: Option<&'static str>,
    endpoints: Vec<Candidate>,
    /// Whether all members would do the same; without an endpoint where it is drawn. None: those that
    /// were reached would, and some were not.
    agree: Option<bool>,
    nodes: Vec<NodeExplains>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Pinned {
    /// Where it lives. None: that endpoint is not there any more.
    #[schema(value_type = Option<String>)]
    endpoint: Option<Name>,
    /// Unix time in seconds.
    issued: u32,
    /// It counts no more.
    revoked: bool,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Candidate {
    #[schema(value_type = String)]
    endpoint: Name,
    phase: &'static str,
    /// `up` or `down`, as the fleet has agreed.
    health: &'static str,
    takes_new_sessions: bool,
    takes_pinned_sessions: bool,
}

/// By the phases alone.
struct ByPhase<'a>(&'a PoolTable);

impl Availability for ByPhase<'_> {
    fn admits(&self, place: usize, pinned: bool) -> bool {
        let endpoint = &self.0.endpoints[place];
        endpoint.takes_new_sessions() || pinned && endpoint.takes_pinned_sessions()
    }

    fn in_flight(&self, _: usize) -> u64 {
        0
    }
}

/// Where a request would go by this node's table, and why.
#[utoipa::path(get, path = "/v1/explain", tag = "status", params(ExplainParams),
    responses((status = 200, body = Explanation), ReadAnswers))]
pub(super) async fn show(
    State(api): State<Context>,
    Params(params): Params<ExplainParams>,
) -> Result<Response, Problem> {
    status::look(&api, ReadParams::default()).await?;
    let seed = rand::random();
    let mut explanation = explain(&api.table(), &params, seed)?;
    (explanation.nodes, explanation.agree) = peers::ask(&api, params, seed, &explanation).await;
    Ok(Json(explanation).into_response())
}

fn fields(params: &ExplainParams) -> Result<HeaderMap, Problem> {
    let mut headers = HeaderMap::new();
    if let Some(cookie) = &params.cookie {
        let value = HeaderValue::from_str(cookie);
        headers.insert(header::COOKIE, value.map_err(|_| Problem::invalid("cookie", "it is not a field's value"))?);
    }
    if let Some(field) = &params.header {
        let parsed = field.split_once(':').and_then(|(name, value)| {
            let name = HeaderName::from_bytes(name.trim().as_bytes()).ok()?;
            Some((name, HeaderValue::from_str(value.trim()).ok()?))
        });
        let (name, value) = parsed.ok_or_else(|| Problem::invalid("header", "write a field as name: value"))?;
        headers.insert(name, value);
    }
    Ok(headers)
}

/// `seed` decides what is drawn: two nodes with one table then draw alike.
fn explain(table: &Table, params: &ExplainParams, seed: u64) -> Result<Explanation, Problem> {
    let headers = fields(params)?;
    let path = params.path.as_deref().unwrap_or("/");
    if !path.starts_with('/') {
        return Err(Problem::invalid("path", "it begins with /"));
    }
    let mut explanation = Explanation {
        epoch: table.epoch,
        verdict: String::new(),
        route: None,
        pool: None,
        affinity: None,
        strength: None,
        pin: None,
        endpoint: None,
        placement: None,
        endpoints: Vec::new(),
        agree: None,
        nodes: Vec::new(),
    };
    let (only_path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
    let route = match table.route(&params.host.to_ascii_lowercase(), only_path) {
        Ok(route) => route,
        Err(NoRoute::Host) => {
            explanation.verdict = "421: no route is for this host".into();
            return Ok(explanation);
        }
        Err(NoRoute::Path) => {
            explanation.verdict = "404: the host has routes, and none is for this path".into();
            return Ok(explanation);
        }
    };
    let pool = &table.pools[route.pool];
    explanation.route = Some(route.name.clone());
    explanation.pool = Some(pool.name.clone());
    explanation.affinity = Some(route.spec.affinity.clone());
    explanation.strength = Some(route.spec.strength_for(only_path, &headers));
    explanation.endpoints = pool.endpoints.iter().map(candidate).collect();
    if let Affinity::Cookie(cookie) = &route.spec.affinity {
        let mut pins = cookies(&headers, cookie.name.as_str()).filter_map(|value| table.sealer.open(value));
        explanation.pin = pins.find(|pin| pin.pool == pool.id).map(|pin| {
            let endpoint = pool.find(pin.endpoint).map(|place| &pool.endpoints[place]);
            Pinned {
                endpoint: endpoint.map(|endpoint| endpoint.name.clone()),
                issued: pin.issued,
                revoked: endpoint.is_some_and(|endpoint| pin.issued <= endpoint.pins_revoked_s),
            }
        });
    }
    let client = params.client.unwrap_or(IpAddr::from([192, 0, 2, 1]));
    let asked = Asked { headers: &headers, path: only_path, query, client };
    let moment = Moment { now: (clock::now_ms() / 1_000) as u32, tried: &[], session: None };
    let mut random = StdRng::seed_from_u64(seed);
    match choose(table, route, &asked, &moment, &ByPhase(pool), &mut || random.next_u64()) {
        Ok(choice) => {
            let endpoint = &pool.endpoints[choice.endpoint].name;
            explanation.verdict = format!("endpoint {endpoint} of pool {}", pool.name);
            explanation.endpoint = Some(endpoint.clone());
            explanation.placement = Some(choice.placement.as_str());
        }
        Err(_) => {
            let hold = pool.spec.hold.max_ms.get();
            explanation.verdict = format!("no endpoint may be used now: it waits for up to {hold} ms, then 503");
        }
    }
    Ok(explanation)
}

fn candidate(endpoint: &EndpointEntry) -> Candidate {
    Candidate {
        endpoint: endpoint.name.clone(),
        phase: endpoint.phase.name(),
        health: endpoint.verdict.as_str(),
        takes_new_sessions: endpoint.takes_new_sessions(),
        takes_pinned_sessions: endpoint.takes_pinned_sessions(),
    }
}
