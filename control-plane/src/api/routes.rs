//! `/v1/routes`: which requests go to which pool.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use tidelock_core::command::Command;
use tidelock_core::spec::RouteSpec;

use super::error::Problem;
use super::extract::{Body, Params, ReadParams, RoutePath, Segments, WriteParams};
use super::status::{self, ReadAnswers};
use super::write::{Write, WriteAnswers};
use super::{Context, schema, tagged, view};

#[utoipa::path(get, path = "/v1/routes", tag = "routes", params(ReadParams),
    responses((status = 200, body = view::Routes), ReadAnswers))]
pub(super) async fn list(State(api): State<Context>, Params(read): Params<ReadParams>) -> Result<Response, Problem> {
    let moment = status::look(&api, read).await?;
    Ok(Json(view::Routes { epoch: moment.epoch(), routes: moment.routes() }).into_response())
}

#[utoipa::path(get, path = "/v1/routes/{route}", tag = "routes", params(RoutePath, ReadParams),
    responses((status = 200, body = view::Route), ReadAnswers))]
pub(super) async fn show(
    State(api): State<Context>,
    Segments(path): Segments<RoutePath>,
    Params(read): Params<ReadParams>,
) -> Result<Response, Problem> {
    let moment = status::look(&api, read).await?;
    let route = moment.route(&path.route);
    let route = route.ok_or_else(|| Problem::not_found(format!("There is no route {}.", path.route)))?;
    Ok(tagged(moment.epoch(), route))
}

#[utoipa::path(put, path = "/v1/routes/{route}", tag = "routes", params(RoutePath, WriteParams),
    request_body = schema::RouteSpec, responses(WriteAnswers))]
pub(super) async fn put(
    State(api): State<Context>,
    Segments(path): Segments<RoutePath>,
    write: Write,
    Body(spec): Body<RouteSpec>,
) -> Result<Response, Problem> {
    spec.check().map_err(|reason| Problem::invalid("affinity", reason))?;
    write.run(&api, Command::PutRoute { name: path.route, spec }).await
}

#[utoipa::path(
    delete,
    path = "/v1/routes/{route}",
    tag = "routes",
    params(RoutePath, WriteParams),
    responses(WriteAnswers)
)]
pub(super) async fn delete(
    State(api): State<Context>,
    Segments(path): Segments<RoutePath>,
    write: Write,
) -> Result<Response, Problem> {
    write.run(&api, Command::DeleteRoute { name: path.route }).await
}
