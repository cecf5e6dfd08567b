//! `/v1/status`: everything at once, as the dashboard shows it; and how every read looks.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use utoipa::IntoResponses;

use super::error::Problem;
use super::extract::{Consistency, Params, ReadParams};
use super::view::Moment;
use super::{Context, view};

/// For the OpenAPI document: how a read may fail.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "a description, never made")]
pub(crate) enum ReadAnswers {
    /// A parameter or a name is malformed.
    #[response(status = 400)]
    Invalid(Problem),
    /// The token is missing or wrong.
    #[response(status = 401)]
    Unauthorized(Problem),
    /// There is no such thing.
    #[response(status = 404)]
    Unknown(Problem),
    /// A linearizable read found no leader.
    #[response(status = 503)]
    NoLeader(Problem),
}

#[utoipa::path(get, path = "/v1/status", tag = "status", params(ReadParams),
    responses((status = 200, body = view::Status), ReadAnswers))]
pub(super) async fn show(State(api): State<Context>, Params(read): Params<ReadParams>) -> Result<Response, Problem> {
    Ok(Json(look(&api, read).await?.status()).into_response())
}

/// What this node knows, at once or after asking the leader how new that must be.
pub(super) async fn look(api: &Context, read: ReadParams) -> Result<Moment, Problem> {
    if read.consistency == Consistency::Linearizable {
        api.consensus.read_index().await.map_err(Problem::no_read)?;
    }
    Ok(api.moment())
}
