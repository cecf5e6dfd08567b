//! Draining: to begin, to cancel, to look, and to wait until an endpoint is safe to stop.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde::Deserialize;
use tidelock_core::command::{Command, DrainMode};
use tidelock_core::id::DrainId;
use tidelock_core::pace::Pace;
use tidelock_core::state::DrainState;
use tokio::time::{MissedTickBehavior, timeout};
use utoipa::{IntoParams, ToSchema};

use super::error::Problem;
use super::extract::{Consistency, DrainPath, EndpointPath, OptionalBody, Params, ReadParams, Segments, WriteParams};
use super::status::{self, ReadAnswers};
use super::write::{LOOK_AGAIN, Write, WriteAnswers};
use super::{Context, schema, tagged, view};
use crate::fleet::clock;

/// The longest deadline, a week: past any session worth waiting for.
pub(super) const DEADLINE_MAX_S: u64 = 7 * 86_400;
/// A reason is a sentence, and is kept in the log.
pub(super) const REASON_MAX: usize = 500;
/// How long `?wait=safe` waits unless told otherwise, and at most. Then 202.
pub(super) const WAIT_DEFAULT_S: u64 = 60;
pub(super) const WAIT_MAX_S: u64 = 3_600;

/// How to drain. Without a body: streams, no deadline, at the default pace.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct DrainRequest {
    #[schema(value_type = Option<schema::DrainMode>)]
    mode: DrainMode,
    /// From now, 1 to 604800; what is left then is cut. Without it the drain lasts as long as its
    /// streams.
    deadline_seconds: Option<u64>,
    /// For people, at most 500 bytes.
    reason: String,
    /// WebSockets and event streams that are closed in a second, summed over the fleet, at most
    /// 100000: 50. 0 leaves them until the deadline.
    pace: Option<u32>,
}

impl Default for DrainRequest {
    fn default() -> Self {
        DrainRequest { mode: DrainMode::Streams, deadline_seconds: None, reason: String::new(), pace: None }
    }
}

/// The level of the log's language in which drains have a pace.
const PACE_LEVEL: u32 = 3;

/// Whether every member of the fleet knows paces.
pub(super) fn may_pace(state: &tidelock_core::state::State) -> bool {
    state.level() >= PACE_LEVEL
}

impl DrainRequest {
    fn into_command(self, path: EndpointPath, may_pace: bool, now_ms: u64) -> Result<Command, Problem> {
        if self.deadline_seconds.is_some_and(|seconds| !(1..=DEADLINE_MAX_S).contains(&seconds)) {
            return Err(Problem::invalid("deadline_seconds", format!("it is a number from 1 to {DEADLINE_MAX_S}")));
        }
        if self.reason.len() > REASON_MAX {
            return Err(Problem::invalid("reason", format!("it has at most {REASON_MAX} bytes")));
        }
        let deadline_ms = self.deadline_seconds.map(|seconds| now_ms.saturating_add(seconds * 1_000));
        let pace = match self.pace {
            Some(0) => None,
            Some(pace) => Some(Pace::try_from(pace).map_err(|detail| Problem::invalid("pace", detail))?),
            // Nobody asked for one, so a fleet that is being upgraded drains as it did before.
            None => may_pace.then_some(Pace::DEFAULT),
        };
        let EndpointPath { pool, endpoint } = path;
        Ok(Command::StartDrain { pool, endpoint, mode: self.mode, deadline_ms, reason: self.reason, pace })
    }
}

/// Begins a drain: no new sessions, and what runs may finish.
#[utoipa::path(post, path = "/v1/pools/{pool}/endpoints/{endpoint}/drain", tag = "drains",
    params(EndpointPath, WriteParams), request_body = Option<DrainRequest>, responses(WriteAnswers))]
pub(super) async fn start(
    State(api): State<Context>,
    Segments(path): Segments<EndpointPath>,
    write: Write,
    OptionalBody(request): OptionalBody<DrainRequest>,
) -> Result<Response, Problem> {
    let command = request.unwrap_or_default().into_command(path, may_pace(&api.published.state()), clock::now_ms())?;
    write.run(&api, command).await
}

/// Cancels the endpoint's drain, also one that has ended: the endpoint is active again.
#[utoipa::path(
    delete,
    path = "/v1/pools/{pool}/endpoints/{endpoint}/drain",
    tag = "drains",
    params(EndpointPath, WriteParams),
    responses(WriteAnswers)
)]
pub(super) async fn cancel(
    State(api): State<Context>,
    Segments(path): Segments<EndpointPath>,
    write: Write,
) -> Result<Response, Problem> {
    write.run(&api, Command::CancelDrain { pool: path.pool, endpoint: path.endpoint }).await
}

#[utoipa::path(get, path = "/v1/drains", tag = "drains", params(ReadParams),
    responses((status = 200, body = view::Drains), ReadAnswers))]
pub(super) async fn list(State(api): State<Context>, Params(read): Params<ReadParams>) -> Result<Response, Problem> {
    let moment = status::look(&api, read).await?;
    Ok(Json(view::Drains { epoch: moment.epoch(), drains: moment.drains() }).into_response())
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct DrainParams {
    /// `safe` answers when every node reports that nothing is left.
    #[param(value_type = Option<String>, example = "safe")]
    wait: Option<WaitForDrain>,
    /// For `wait=safe`, 1 to 3600; 60 by default.
    timeout_seconds: Option<u64>,
    /// `linearizable` asks the leader first; the default answers from this node at once.
    #[serde(default)]
    #[param(value_type = Option<String>)]
    consistency: Consistency,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum WaitForDrain {
    Safe,
}

/// One drain, at once or when its endpoint is safe to stop.
#[utoipa::path(get, path = "/v1/drains/{drain}", tag = "drains", params(DrainPath, DrainParams),
    responses(
        (status = 200, body = view::Drain, description = "The drain; with wait=safe, it is safe"),
        (status = 202, body = view::Drain, description = "Not safe yet when the wait ended: see counts and missing"),
        (status = 409, body = Problem, description = "The drain was cancelled: it will never be safe"),
        ReadAnswers))]
pub(super) async fn show(
    State(api): State<Context>,
    Segments(path): Segments<DrainPath>,
    Params(params): Params<DrainParams>,
) -> Result<Response, Problem> {
    let seconds = params.timeout_seconds.unwrap_or(WAIT_DEFAULT_S);
    if !(1..=WAIT_MAX_S).contains(&seconds) {
        return Err(Problem::invalid("timeout_seconds", format!("it is a number from 1 to {WAIT_MAX_S}")));
    }
    status::look(&api, ReadParams { consistency: params.consistency }).await?;
    let Some(WaitForDrain::Safe) = params.wait else {
        let moment = api.moment();
        let drain = moment.drain(path.drain).ok_or_else(|| unknown(path.drain))?;
        return Ok(tagged(moment.epoch(), drain));
    };
    match timeout(Duration::from_secs(seconds), safe(&api, path.drain)).await {
        Ok(waited) => waited,
        Err(_) => {
            let drain = api.moment().drain(path.drain).ok_or_else(|| unknown(path.drain))?;
            let status = if drain.safe { StatusCode::OK } else { StatusCode::ACCEPTED };
            Ok((status, Json(drain)).into_response())
        }
    }
}

/// Answers once the drain is safe or never can be. Progress comes with reports and with entries,
/// and goes with time, as reports expire.
pub(super) async fn safe(api: &Context, id: DrainId) -> Result<Response, Problem> {
    let (mut roster, mut state) = (api.roster.clone(), api.published.state.clone());
    let mut again = tokio::time::interval(LOOK_AGAIN);
    again.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let moment = api.moment();
        let drain = moment.drain(id).ok_or_else(|| unknown(id))?;
        if drain.safe {
            return Ok(tagged(moment.epoch(), drain));
        }
        if drain.state == DrainState::Cancelled {
            let detail = format!("The drain {id} was cancelled: the endpoint is active.");
            return Err(Problem::new(StatusCode::CONFLICT, "drain-cancelled", "Cancelled", detail));
        }
        tokio::select! {
            // A closed channel is a node that stops; the tick goes on until the time-out.
            Ok(()) = roster.changed() => {}
            Ok(()) = state.changed() => {}
            _ = again.tick() => {}
        }
    }
}

fn unknown(id: DrainId) -> Problem {
    Problem::not_found(format!("There is no drain {id}; drains that ended long ago are forgotten."))
}
