//! Switchovers: to begin, to look, to wait for the end, to roll back.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde::Deserialize;
use tidelock_core::command::{Command, DrainMode};
use tidelock_core::id::SwitchoverId;
use tidelock_core::pace::Pace;
use tidelock_core::spec::Millis;
use tidelock_core::switchover::{Side, Stage, SwitchoverSpec};
use tokio::time::{MissedTickBehavior, timeout};
use utoipa::{IntoParams, ToSchema};

use super::drains::{REASON_MAX, WAIT_DEFAULT_S, WAIT_MAX_S};
use super::error::Problem;
use super::extract::{Body, Consistency, OptionalBody, Params, PoolPath, ReadParams, Segments, SwitchoverPath};
use super::status::{self, ReadAnswers};
use super::write::{LOOK_AGAIN, Write, WriteAnswers};
use super::{Context, schema, tagged, view};

/// What replaces what: `from` and `to` each name a revision or a list of endpoints.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SwitchoverRequest {
    #[schema(value_type = schema::Side)]
    from: Side,
    #[schema(value_type = schema::Side)]
    to: Side,
    /// How the old side drains: `streams`.
    #[serde(default)]
    #[schema(value_type = Option<schema::DrainMode>)]
    mode: Option<DrainMode>,
    /// Closes in a second, summed over the fleet: 50.
    #[serde(default)]
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 100_000)]
    pace: Option<Pace>,
    /// From the shift on, what is left on the old side then is cut: 300.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 86_400)]
    deadline_seconds: Option<u64>,
    /// So many endpoints of the new side must be up before anything changes: 1.
    #[serde(default)]
    #[schema(minimum = 1)]
    min_ready: Option<u32>,
    /// For how long to wait for them, then nothing is changed: 600.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 86_400)]
    wait_seconds: Option<u64>,
    /// Roll back when more than so many percent of the attempts on the new side fail. Left out: never.
    #[serde(default)]
    #[schema(maximum = 100)]
    max_error_percent: Option<u8>,
    /// For people, at most 500 bytes.
    #[serde(default)]
    reason: String,
}

fn millis(field: &'static str, seconds: Option<u64>, default: u64) -> Result<Millis, Problem> {
    let seconds = seconds.unwrap_or(default);
    let millis = Millis::try_from(seconds.saturating_mul(1_000));
    millis.map_err(|_| Problem::invalid(field, format!("it is a number from 1 to {}", Millis::MAX / 1_000)))
}

impl SwitchoverRequest {
    fn into_spec(self) -> Result<SwitchoverSpec, Problem> {
        if self.reason.len() > REASON_MAX {
            return Err(Problem::invalid("reason", format!("it has at most {REASON_MAX} bytes")));
        }
        let spec = SwitchoverSpec {
            from: self.from,
            to: self.to,
            mode: self.mode.unwrap_or(DrainMode::Streams),
            pace: self.pace.unwrap_or(Pace::DEFAULT),
            deadline_ms: millis("deadline_seconds", self.deadline_seconds, 300)?,
            min_ready: self.min_ready.unwrap_or(1),
            wait_ms: millis("wait_seconds", self.wait_seconds, 600)?,
            max_error_percent: self.max_error_percent,
            reason: self.reason,
        };
        spec.check().map_err(|detail| Problem::invalid("", detail))?;
        Ok(spec)
    }
}

/// Replaces one side of a pool by another, when the other is up.
#[utoipa::path(post, path = "/v1/pools/{pool}/switchovers", tag = "switchovers",
    params(PoolPath, super::extract::WriteParams), request_body = SwitchoverRequest, responses(WriteAnswers))]
pub(super) async fn start(
    State(api): State<Context>,
    Segments(path): Segments<PoolPath>,
    write: Write,
    Body(request): Body<SwitchoverRequest>,
) -> Result<Response, Problem> {
    let spec = request.into_spec()?;
    write.run(&api, Command::StartSwitchover { pool: path.pool, spec }).await
}

/// Why it is rolled back.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RollBackRequest {
    /// For people, at most 500 bytes.
    reason: String,
}

/// Goes back: the old side is active again, and what had gone to the new side drains. One that only
/// waits ends without a trace.
#[utoipa::path(delete, path = "/v1/switchovers/{switchover}", tag = "switchovers",
    params(SwitchoverPath, super::extract::WriteParams), request_body = Option<RollBackRequest>, responses(WriteAnswers))]
pub(super) async fn roll_back(
    State(api): State<Context>,
    Segments(path): Segments<SwitchoverPath>,
    write: Write,
    OptionalBody(request): OptionalBody<RollBackRequest>,
) -> Result<Response, Problem> {
    let RollBackRequest { reason } = request.unwrap_or_default();
    if reason.len() > REASON_MAX {
        return Err(Problem::invalid("reason", format!("it has at most {REASON_MAX} bytes")));
    }
    let reason = if reason.is_empty() { "by request".to_owned() } else { reason };
    write.run(&api, Command::RollBackSwitchover { switchover: path.switchover, reason }).await
}

#[utoipa::path(get, path = "/v1/switchovers", tag = "switchovers", params(ReadParams),
    responses((status = 200, body = view::Switchovers), ReadAnswers))]
pub(super) async fn list(State(api): State<Context>, Params(read): Params<ReadParams>) -> Result<Response, Problem> {
    let moment = status::look(&api, read).await?;
    Ok(Json(view::Switchovers { epoch: moment.epoch(), switchovers: moment.switchovers() }).into_response())
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct SwitchoverParams {
    /// `end` answers when it is done or rolled back.
    #[param(value_type = Option<String>, example = "end")]
    wait: Option<WaitForSwitchover>,
    /// For `wait=end`, 1 to 3600; 60 by default.
    timeout_seconds: Option<u64>,
    /// `linearizable` asks the leader first; the default answers from this node at once.
    #[serde(default)]
    #[param(value_type = Option<String>)]
    consistency: Consistency,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum WaitForSwitchover {
    End,
}

/// One switchover, at once or at its end.
#[utoipa::path(get, path = "/v1/switchovers/{switchover}", tag = "switchovers", params(SwitchoverPath, SwitchoverParams),
    responses(
        (status = 200, body = view::Switchover, description = "The switchover; with wait=end, it has ended"),
        (status = 202, body = view::Switchover, description = "Not at its end yet when the wait was over"),
        ReadAnswers))]
pub(super) async fn show(
    State(api): State<Context>,
    Segments(path): Segments<SwitchoverPath>,
    Params(params): Params<SwitchoverParams>,
) -> Result<Response, Problem> {
    let seconds = params.timeout_seconds.unwrap_or(WAIT_DEFAULT_S);
    if !(1..=WAIT_MAX_S).contains(&seconds) {
        return Err(Problem::invalid("timeout_seconds", format!("it is a number from 1 to {WAIT_MAX_S}")));
    }
    status::look(&api, ReadParams { consistency: params.consistency }).await?;
    let id = path.switchover;
    if let Some(WaitForSwitchover::End) = params.wait {
        // What it has come to by then is shown, either way.
        let _ = timeout(Duration::from_secs(seconds), ended(&api, id)).await;
    }
    let moment = api.moment();
    let switchover = moment.switchover(id).ok_or_else(|| {
        Problem::not_found(format!("There is no switchover {id}; those that ended long ago are forgotten."))
    })?;
    if params.wait.is_some() && switchover.stage.is_under_way() {
        return Ok((StatusCode::ACCEPTED, Json(switchover)).into_response());
    }
    Ok(tagged(moment.epoch(), switchover))
}

async fn ended(api: &Context, id: SwitchoverId) {
    let mut state = api.published.state.clone();
    let mut again = tokio::time::interval(LOOK_AGAIN);
    again.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let stage = || api.published.state().switchovers.get(&id).map(|switchover| switchover.stage);
    while stage().is_some_and(Stage::is_under_way) {
        tokio::select! {
            // A closed channel is a node that stops; the tick goes on until the time-out.
            Ok(()) = state.changed() => {}
            _ = again.tick() => {}
        }
    }
}
