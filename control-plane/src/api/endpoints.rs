//! `/v1/pools/{pool}/endpoints`: the processes that serve. They are read with their pool.

use axum::extract::State;
use axum::response::Response;
use tidelock_core::command::Command;
use tidelock_core::spec::EndpointSpec;

use super::error::Problem;
use super::extract::{Body, EndpointPath, Segments, WriteParams};
use super::write::{Write, WriteAnswers};
use super::{Context, schema};

/// Makes an endpoint or changes it. Another address makes it another endpoint: it begins active,
/// and sessions of the old one are not sent to it.
#[utoipa::path(put, path = "/v1/pools/{pool}/endpoints/{endpoint}", tag = "endpoints",
    params(EndpointPath, WriteParams), request_body = schema::EndpointSpec, responses(WriteAnswers))]
pub(super) async fn put(
    State(api): State<Context>,
    Segments(path): Segments<EndpointPath>,
    write: Write,
    Body(spec): Body<EndpointSpec>,
) -> Result<Response, Problem> {
    write.run(&api, Command::PutEndpoint { pool: path.pool, name: path.endpoint, spec }).await
}

/// Takes an endpoint out. It gets nothing new; what runs on it runs to its end. Drain it first to
/// know when that is.
#[utoipa::path(
    delete,
    path = "/v1/pools/{pool}/endpoints/{endpoint}",
    tag = "endpoints",
    params(EndpointPath, WriteParams),
    responses(WriteAnswers)
)]
pub(super) async fn delete(
    State(api): State<Context>,
    Segments(path): Segments<EndpointPath>,
    write: Write,
) -> Result<Response, Problem> {
    write.run(&api, Command::DeleteEndpoint { pool: path.pool, name: path.endpoint }).await
}
