//! `/v1/prestop`: the hook that a pod runs before it gets its SIGTERM. One call drains everything at an
//! address and answers when it is safe to stop.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use tidelock_core::command::{Command, DrainMode};
use tidelock_core::id::{DrainId, EndpointId, Name};
use tidelock_core::pace::Pace;
use tidelock_core::spec::Address;
use tidelock_core::state::{Outcome, Phase};
use tokio::time::timeout;
use utoipa::{IntoParams, ToSchema};

use super::Context;
use super::drains::{self, DEADLINE_MAX_S, WAIT_MAX_S};
use super::error::Problem;
use super::extract::{Consistency, Params, ReadParams};
use super::{status, view};
use crate::fleet::clock;
use crate::fleet::roster::Member;

/// For what is cut at the deadline to end, and for the nodes to say so.
const CUT_S: u64 = 4;
/// A pod has 30 s from the hook's begin to SIGKILL unless it asks for more.
const TIMEOUT_S: u64 = 25;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct PrestopParams {
    /// Where the endpoint listens, as it was put: `10.0.0.5:4000`.
    #[param(value_type = String)]
    address: Address,
    /// From now, what is left then is cut: 4 s before `timeout_seconds` are over.
    deadline_seconds: Option<u64>,
    /// For the answer, 1 to 3600: 25. Below the pod's terminationGracePeriodSeconds, or it is killed
    /// before.
    timeout_seconds: Option<u64>,
    /// WebSockets and event streams closed in a second: as many as the deadline needs, at least 50.
    #[param(value_type = Option<u32>)]
    pace: Option<Pace>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Prestop {
    /// Every node has reported that nothing is left there: the process may be stopped.
    safe: bool,
    /// One for each pool that has the address. None: nobody is sent there.
    drains: Vec<view::Drain>,
}

/// Drains every endpoint at the address, and answers when nothing is left on it.
#[utoipa::path(post, path = "/v1/prestop", tag = "drains", params(PrestopParams),
    responses(
        (status = 200, body = Prestop, description = "Safe to stop; also when no endpoint has the address"),
        (status = 202, body = Prestop, description = "Something was left when the wait ended"),
        (status = 400, body = Problem), (status = 401, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn run(
    State(api): State<Context>,
    Params(params): Params<PrestopParams>,
) -> Result<Response, Problem> {
    let seconds = params.timeout_seconds.unwrap_or(TIMEOUT_S);
    if !(1..=WAIT_MAX_S).contains(&seconds) {
        return Err(Problem::invalid("timeout_seconds", format!("it is a number from 1 to {WAIT_MAX_S}")));
    }
    let deadline = params.deadline_seconds.unwrap_or(seconds.saturating_sub(CUT_S).max(1));
    if !(1..=DEADLINE_MAX_S).contains(&deadline) {
        return Err(Problem::invalid("deadline_seconds", format!("it is a number from 1 to {DEADLINE_MAX_S}")));
    }
    // What this node does not know yet must not be called safe.
    status::look(&api, ReadParams { consistency: Consistency::Linearizable }).await?;
    let mut ids = Vec::new();
    for (pool, endpoint) in at(&api, &params.address) {
        ids.extend(drain(&api, pool, endpoint, deadline, params.pace).await?);
    }
    let all = async {
        for id in &ids {
            // One that was cancelled or forgotten is seen below.
            let _ = drains::safe(&api, *id).await;
        }
    };
    // What it has come to by then is told, either way.
    let _ = timeout(Duration::from_secs(seconds), all).await;
    let moment = api.moment();
    let drains: Vec<view::Drain> = ids.iter().filter_map(|id| moment.drain(*id)).collect();
    // One that is not there any more says nothing.
    let safe = drains.len() == ids.len() && drains.iter().all(|drain| drain.safe);
    let status = if safe { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, Json(Prestop { safe, drains })).into_response())
}

/// The endpoints at this address, whatever their phase.
fn at(api: &Context, address: &Address) -> Vec<(Name, Name)> {
    let state = api.published.state();
    let endpoints = state.pools.iter().flat_map(|(pool, known)| known.endpoints.iter().map(move |e| (pool, e)));
    let here = endpoints.filter(|(_, (_, endpoint))| endpoint.spec.address == *address);
    here.map(|(pool, (name, _))| (pool.clone(), name.clone())).collect()
}

/// Others drain and undrain too: so often is it looked at again.
const TRIES: u32 = 5;

/// The drain of an endpoint: a new one, or the one that it has. None: it has been taken out meanwhile.
async fn drain(
    api: &Context,
    pool: Name,
    endpoint: Name,
    deadline: u64,
    pace: Option<Pace>,
) -> Result<Option<DrainId>, Problem> {
    let mut last = None;
    for _ in 0..TRIES {
        let state = api.published.state();
        let known = state.pools.get(&pool).and_then(|known| known.endpoints.get(&endpoint));
        let Some(known) = known else { return Ok(None) };
        let command = match known.phase {
            Phase::Drained { drain } | Phase::Draining { drain, mode: DrainMode::Streams, .. } => {
                return Ok(Some(drain));
            }
            // Its process ends: its sessions have had their time, whatever somebody had in mind for them.
            Phase::Draining { drain, mode: DrainMode::Sessions, .. } if drains::may_pace(&state) => {
                Command::EndSessions { drain }
            }
            Phase::Draining { drain, .. } => return Ok(Some(drain)),
            Phase::Active {} => {
                let pace = pace.unwrap_or_else(|| enough(api, known.id, deadline));
                Command::StartDrain {
                    pool: pool.clone(),
                    endpoint: endpoint.clone(),
                    mode: DrainMode::Streams,
                    deadline_ms: Some(clock::now_ms().saturating_add(deadline * 1_000)),
                    reason: "prestop".to_owned(),
                    pace: drains::may_pace(&state).then_some(pace),
                }
            }
        };
        match api.consensus.propose(command.clone(), None).await.map_err(Problem::no_outcome)? {
            Outcome::Applied { epoch, drain, .. } => {
                api.published.reached(epoch).await;
                return Ok(drain);
            }
            // Somebody else was faster. What they did is in the log before this answer.
            Outcome::Rejected { reason } => {
                status::look(api, ReadParams { consistency: Consistency::Linearizable }).await?;
                last = Some(Problem::rejected(&reason, &command));
            }
        }
    }
    Err(last.unwrap_or_else(Problem::internal))
}

/// A pace at which what lasts is closed before the deadline.
fn enough(api: &Context, endpoint: EndpointId, deadline: u64) -> Pace {
    let moment = api.moment();
    let reports = moment.members.iter().filter_map(Member::report);
    let lasting: u64 = reports.filter_map(|report| report.endpoints.get(&endpoint)).map(|c| c.lasting()).sum();
    let needed = u32::try_from(lasting.div_ceil(deadline.saturating_sub(2).max(1))).unwrap_or(Pace::MAX);
    Pace::try_from(needed.clamp(1, Pace::MAX)).unwrap_or(Pace::DEFAULT).max(Pace::DEFAULT)
}
