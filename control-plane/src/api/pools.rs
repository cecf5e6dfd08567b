//! `/v1/pools`: what requests are spread over.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use tidelock_core::command::Command;
use tidelock_core::spec::PoolSpec;

use super::error::Problem;
use super::extract::{Body, Params, PoolPath, ReadParams, Segments, WriteParams};
use super::status::{self, ReadAnswers};
use super::write::{Write, WriteAnswers};
use super::{Context, schema, tagged, view};

#[utoipa::path(get, path = "/v1/pools", tag = "pools", params(ReadParams),
    responses((status = 200, body = view::Pools), ReadAnswers))]
pub(super) async fn list(State(api): State<Context>, Params(read): Params<ReadParams>) -> Result<Response, Problem> {
    let moment = status::look(&api, read).await?;
    Ok(Json(view::Pools { epoch: moment.epoch(), pools: moment.pools() }).into_response())
}

#[utoipa::path(get, path = "/v1/pools/{pool}", tag = "pools", params(PoolPath, ReadParams),
    responses((status = 200, body = view::Pool), ReadAnswers))]
pub(super) async fn show(
    State(api): State<Context>,
    Segments(path): Segments<PoolPath>,
    Params(read): Params<ReadParams>,
) -> Result<Response, Problem> {
    let moment = status::look(&api, read).await?;
    let pool = moment.pool(&path.pool);
    let pool = pool.ok_or_else(|| Problem::not_found(format!("There is no pool {}.", path.pool)))?;
    Ok(tagged(moment.epoch(), pool))
}

/// Makes a pool or changes its spec; its endpoints stay.
#[utoipa::path(put, path = "/v1/pools/{pool}", tag = "pools", params(PoolPath, WriteParams),
    request_body = schema::PoolSpec, responses(WriteAnswers))]
pub(super) async fn put(
    State(api): State<Context>,
    Segments(path): Segments<PoolPath>,
    write: Write,
    Body(spec): Body<PoolSpec>,
) -> Result<Response, Problem> {
    spec.check().map_err(|reason| Problem::invalid("tls", reason))?;
    write.run(&api, Command::PutPool { name: path.pool, spec }).await
}

/// Deletes a pool with its endpoints. What runs on them runs to its end.
#[utoipa::path(
    delete,
    path = "/v1/pools/{pool}",
    tag = "pools",
    params(PoolPath, WriteParams),
    responses(WriteAnswers)
)]
pub(super) async fn delete(
    State(api): State<Context>,
    Segments(path): Segments<PoolPath>,
    write: Write,
) -> Result<Response, Problem> {
    write.run(&api, Command::DeletePool { name: path.pool }).await
}
