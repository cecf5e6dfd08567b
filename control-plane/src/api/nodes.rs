//! `/v1/nodes`: the fleet itself, and this node's own leaving.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use tidelock_core::id::Name;
use utoipa::{IntoParams, ToSchema};

use super::error::Problem;
use super::extract::{Params, ReadParams};
use super::status::{self, ReadAnswers};
use super::{Context, view};

#[utoipa::path(get, path = "/v1/nodes", tag = "nodes", params(ReadParams),
    responses((status = 200, body = view::Nodes), ReadAnswers))]
pub(super) async fn list(State(api): State<Context>, Params(read): Params<ReadParams>) -> Result<Response, Problem> {
    let moment = status::look(&api, read).await?;
    Ok(Json(view::Nodes { epoch: moment.epoch(), nodes: moment.nodes() }).into_response())
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct LeaveParams {
    /// Answer only when nothing runs on this node any more, or its deadline has cut the rest.
    #[serde(default)]
    wait: bool,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Leaving {
    #[schema(value_type = String)]
    node: Name,
    /// `leaving` or `left`.
    state: &'static str,
}

/// Lets this node leave, as SIGTERM does: not ready any more, connections sent away, then the
/// process ends. It does not come back without a restart. The wait has no bound of its own: the
/// node's drain deadline ends it.
#[utoipa::path(post, path = "/v1/nodes/self/leave", tag = "nodes", params(LeaveParams),
    responses(
        (status = 200, body = Leaving, description = "It has left"),
        (status = 202, body = Leaving, description = "It is leaving"),
        (status = 400, body = Problem), (status = 401, body = Problem)))]
pub(super) async fn leave(
    State(api): State<Context>,
    Params(params): Params<LeaveParams>,
) -> Result<Response, Problem> {
    api.leave.request();
    if params.wait {
        api.leave.left().await;
    }
    let state = api.leave.state();
    let status = if state == crate::LeaveState::Left { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, Json(Leaving { node: api.node.clone(), state: state.name() })).into_response())
}
