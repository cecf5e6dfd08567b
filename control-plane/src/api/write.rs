//! Every write: one command, one of three outcomes.

use std::time::Duration;

use axum::Json;
use axum::extract::FromRequestParts;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::request::Parts;
use serde::Serialize;
use tidelock_core::command::{Command, IdempotencyKey};
use tidelock_core::id::{DrainId, Epoch, SwitchoverId};
use tidelock_core::state::Outcome;
use tokio::time::{MissedTickBehavior, timeout};
use utoipa::{IntoResponses, ToSchema};

use super::Context;
use super::error::Problem;
use super::extract::{Params, RepeatKey, WaitFor, WriteParams};
use crate::fleet::clock;

/// How long `?wait=fleet` waits unless told otherwise, and at most; then 202. A node takes a table
/// within milliseconds, so a longer wait would only tell later that one is ill.
const WAIT_MAX_S: u64 = 30;

/// Reports expire with time alone, so waits look again this often even when nothing arrives.
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(250);

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Written {
    /// `applied`, or `would-apply` of a dry run.
    pub(super) outcome: &'static str,
    /// At which it applied; of a dry run, the epoch that was looked at.
    #[schema(value_type = u64)]
    pub(super) epoch: Epoch,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub(super) drain: Option<DrainId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub(super) switchover: Option<SwitchoverId>,
    /// With `?wait=fleet`: live nodes that do not route by this epoch yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) lagging: Option<Vec<String>>,
    /// With `?wait=fleet`: nodes that are not heard of, about which nothing is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) missing: Option<Vec<String>>,
}

impl Written {
    fn at(epoch: Epoch, outcome: &'static str) -> Written {
        Written { outcome, epoch, drain: None, switchover: None, lagging: None, missing: None }
    }
}

/// For the OpenAPI document: what every write may answer.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "a description, never made")]
pub(crate) enum WriteAnswers {
    /// Applied, or would apply.
    #[response(status = 200)]
    Applied(Written),
    /// Applied, and some live nodes do not route by it yet after the wait.
    #[response(status = 202)]
    Lagging(Written),
    /// The request is malformed.
    #[response(status = 400)]
    Invalid(Problem),
    /// The token is missing or wrong.
    #[response(status = 401)]
    Unauthorized(Problem),
    /// Rejected: what it names is not there.
    #[response(status = 404)]
    Unknown(Problem),
    /// Rejected by the present state.
    #[response(status = 409)]
    Conflict(Problem),
    /// The body has more than 1 MiB.
    #[response(status = 413)]
    TooLarge(Problem),
    /// The body is not declared as JSON.
    #[response(status = 415)]
    NotJson(Problem),
    /// Rejected: a bound of the fleet.
    #[response(status = 422)]
    Limit(Problem),
    /// Unknown: the write may or may not have happened. Repeat it with the same Idempotency-Key.
    #[response(status = 503)]
    NoOutcome(Problem),
}

/// How a write is to be made: the parts of the request that are the same for all of them.
pub(crate) struct Write {
    params: WriteParams,
    key: Option<IdempotencyKey>,
}

impl<S: Send + Sync> FromRequestParts<S> for Write {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Params(params) = Params::<WriteParams>::from_request_parts(parts, state).await?;
        if params.timeout_seconds.is_some_and(|seconds| !(1..=WAIT_MAX_S).contains(&seconds)) {
            return Err(Problem::invalid("timeout_seconds", format!("it is a number from 1 to {WAIT_MAX_S}")));
        }
        let RepeatKey(key) = RepeatKey::from_request_parts(parts, state).await?;
        Ok(Write { params, key })
    }
}

impl Write {
    /// One that is answered as soon as it is applied.
    pub(super) fn plain(key: Option<IdempotencyKey>) -> Write {
        Write { params: WriteParams::default(), key }
    }

    pub(super) async fn run(self, api: &Context, command: Command) -> Result<Response, Problem> {
        if self.params.dry_run {
            return dry_run(api, &command);
        }
        let outcome = api.consensus.propose(command.clone(), self.key).await.map_err(Problem::no_outcome)?;
        let (epoch, drain, switchover) = match outcome {
            Outcome::Applied { epoch, drain, switchover } => (epoch, drain, switchover),
            Outcome::Rejected { reason } => return Err(Problem::rejected(&reason, &command)),
        };
        // Who has an answer sees the write in this node's next read.
        api.published.reached(epoch).await;
        let mut written = Written { drain, switchover, ..Written::at(epoch, "applied") };
        if self.params.wait != Some(WaitFor::Fleet) {
            return Ok(Json(written).into_response());
        }
        let wait = Duration::from_secs(self.params.timeout_seconds.unwrap_or(WAIT_MAX_S));
        // The last look counts, whether the wait was over or given up.
        let _ = timeout(wait, reached_fleet(api, epoch)).await;
        let (lagging, missing) = laggards(api, epoch);
        let status = if lagging.is_empty() { StatusCode::OK } else { StatusCode::ACCEPTED };
        written.lagging = Some(lagging);
        written.missing = Some(missing);
        Ok((status, Json(written)).into_response())
    }
}

fn dry_run(api: &Context, command: &Command) -> Result<Response, Problem> {
    let state = api.published.state();
    state.check(clock::now_ms(), command).map_err(|reason| Problem::rejected(&reason, command))?;
    let epoch = state.epoch.unwrap_or(Epoch(0));
    Ok(Json(Written::at(epoch, "would-apply")).into_response())
}

/// Returns once every live node routes by `epoch`.
async fn reached_fleet(api: &Context, epoch: Epoch) {
    let mut roster = api.roster.clone();
    let mut again = tokio::time::interval(LOOK_AGAIN);
    again.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !laggards(api, epoch).0.is_empty() {
        tokio::select! {
            changed = roster.changed() => if changed.is_err() { return },
            _ = again.tick() => {}
        }
    }
}

/// The live nodes that are behind `epoch`, and the nodes that are not heard of.
fn laggards(api: &Context, epoch: Epoch) -> (Vec<String>, Vec<String>) {
    let (mut lagging, mut missing) = (Vec::new(), Vec::new());
    for member in api.moment().members {
        match member.report() {
            None => missing.push(member.label),
            Some(report) if report.epoch.is_none_or(|at| at < epoch) => lagging.push(member.label),
            Some(_) => {}
        }
    }
    (lagging, missing)
}
