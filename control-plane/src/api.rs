//! The Admin API: HTTP in, commands and views out.
//!
//! Each resource has its file. A handler parses into valid values (`extract`), proposes (`write`)
//! or looks (`view`), and answers; only `error` knows status codes of failures. Reads come from
//! this node's own state, so they work without a leader.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, header};
use tidelock_core::id::{Epoch, Name};
use tidelock_core::table::Table;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::timeout::RequestBodyTimeoutLayer;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::fleet::consensus::Consensus;
use crate::fleet::leave::Leave;
use crate::fleet::roster::Roster;
use crate::metrics::MetricsHook;
use crate::publish::Published;
use error::Problem;
use events::Events;
use view::Moment;

pub(crate) mod auth;
mod drains;
mod endpoints;
pub(crate) mod error;
pub(crate) mod events;
pub(crate) mod explain;
mod extract;
mod join;
pub(crate) mod listener;
mod nodes;
mod openapi;
mod pools;
mod prestop;
mod probes;
mod routes;
mod schema;
mod sessions;
mod status;
mod switchovers;
pub(crate) mod view;
mod write;

/// A request body's largest size, then 413: a pool of 10,000 endpoints is written endpoint by
/// endpoint, so the largest honest body is a few kB.
pub(crate) const BODY_MAX: usize = 1024 * 1024;
/// How long a body may stand still on its way.
const BODY_STALL: Duration = Duration::from_secs(30);

/// The epoch that the answering node has applied.
const EPOCH_HEADER: HeaderName = HeaderName::from_static("tidelock-epoch");

/// What every handler may use. Cheap to clone; it owns no task.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) consensus: Consensus,
    pub(crate) published: Published,
    pub(crate) roster: watch::Receiver<Roster>,
    pub(crate) events: Events,
    pub(crate) leave: Leave,
    pub(crate) node: Name,
    /// This node's API as others reach it.
    pub(crate) admin: Option<Arc<str>>,
    pub(crate) token: Option<auth::BearerToken>,
    /// The data plane's own metrics.
    pub(crate) metrics: Option<MetricsHook>,
    /// The node stops: streams end.
    pub(crate) stop: CancellationToken,
}

impl Context {
    /// One consistent look at the fleet.
    pub(crate) fn moment(&self) -> Moment {
        let raft = self.consensus.status();
        let peers = self.consensus.peers();
        let members = self.roster.borrow().members(&raft, &peers, Instant::now());
        Moment { node: self.node.clone(), state: self.published.state(), raft, members, peers }
    }

    /// The newest table.
    fn table(&self) -> Arc<Table> {
        self.published.table.borrow().clone()
    }

    fn epoch(&self) -> Epoch {
        self.published.epoch().unwrap_or(Epoch(0))
    }
}

/// Everything that the admin listener serves.
pub(crate) fn router(context: Context) -> Router {
    let (protected, _) = protected().split_for_parts();
    let (open, _) = open().split_for_parts();
    protected
        // Set before the layer, so that a wrong method is not told without the token either.
        .method_not_allowed_fallback(wrong_method)
        .route_layer(middleware::from_fn_with_state(context.clone(), auth::require))
        .merge(open.method_not_allowed_fallback(wrong_method))
        .fallback(outside)
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .layer(RequestBodyTimeoutLayer::new(BODY_STALL))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(middleware::from_fn_with_state(context.clone(), mark))
        .with_state(context)
}

/// The routes behind the token.
fn protected() -> OpenApiRouter<Context> {
    OpenApiRouter::new()
        .routes(routes!(pools::list))
        .routes(routes!(pools::show, pools::put, pools::delete))
        .routes(routes!(endpoints::put, endpoints::delete))
        .routes(routes!(drains::start, drains::cancel))
        .routes(routes!(routes::list))
        .routes(routes!(routes::show, routes::put, routes::delete))
        .routes(routes!(drains::list))
        .routes(routes!(drains::show))
        .routes(routes!(prestop::run))
        .routes(routes!(sessions::keys, sessions::rotate))
        .routes(routes!(sessions::revoke))
        .routes(routes!(switchovers::start))
        .routes(routes!(switchovers::list))
        .routes(routes!(switchovers::show, switchovers::roll_back))
        .routes(routes!(nodes::list))
        .routes(routes!(nodes::put, nodes::remove))
        .routes(routes!(nodes::lead))
        .routes(routes!(nodes::leave))
        .routes(routes!(join::list, join::make))
        .routes(routes!(join::revoke))
        .routes(routes!(status::show))
        .routes(routes!(events::stream))
        .routes(routes!(explain::show))
        .routes(routes!(openapi::show))
        .routes(routes!(crate::metrics::show))
}

/// The probes, which an orchestrator asks without a token.
fn open() -> OpenApiRouter<Context> {
    OpenApiRouter::new().routes(routes!(probes::live)).routes(routes!(probes::ready))
}

/// Every path that is not a route: the dashboard's files, or nothing. Below /v1 not even that is
/// told without the token.
async fn outside(State(api): State<Context>, request: Request) -> Response {
    let path = request.uri().path();
    if path == "/v1" || path.starts_with("/v1/") {
        let allowed = auth::check(&api, request.method(), request.headers());
        return allowed.err().unwrap_or_else(|| Problem::unknown_path(path)).into_response();
    }
    crate::ui::serve(request.method(), path)
}

async fn wrong_method(request: Request) -> Problem {
    Problem::method_not_allowed(request.method())
}

/// Puts the epoch on every answer, and keeps answers about the present out of caches.
async fn mark(State(api): State<Context>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(EPOCH_HEADER, HeaderValue::from(api.epoch().0));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn panicked(panic: Box<dyn std::any::Any + Send>) -> Response {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let message = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
    tracing::error!(%message, "a handler of the admin API panicked");
    Problem::internal().into_response()
}

/// A resource with its version. Weak, because the counts in it change within an epoch.
fn tagged<T: serde::Serialize>(epoch: Epoch, body: T) -> Response {
    let tag = HeaderValue::try_from(format!("W/\"{epoch}\"")).expect("digits and quotes");
    ([(header::ETAG, tag)], axum::Json(body)).into_response()
}

#[cfg(test)]
mod tests;
