//! What holds sessions: the keys that seal their cookies, and the pins in them.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use tidelock_core::affinity::{CookieKey, KeySecret};
use tidelock_core::command::Command;
use tidelock_core::id::{Epoch, Name};
use utoipa::{IntoParams, ToSchema};

use super::Context;
use super::error::Problem;
use super::extract::{Params, ReadParams, RepeatKey, WriteParams};
use super::status::{self, ReadAnswers};
use super::write::{Write, WriteAnswers};

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CookieKeys {
    #[schema(value_type = u64)]
    epoch: Epoch,
    /// The oldest first.
    keys: Vec<Key>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Key {
    id: u8,
    /// `opens` cookies that are out there, `seals` new ones, or is `waiting` until every member of the
    /// fleet has it.
    state: &'static str,
    /// Of one that waits: the members that do not have it yet, as far as is known here.
    missing: Vec<String>,
}

/// The keys that seal affinity cookies and TLS tickets; their secrets are shown to nobody.
#[utoipa::path(get, path = "/v1/cookie-keys", tag = "sessions", params(ReadParams),
    responses((status = 200, body = CookieKeys), ReadAnswers))]
pub(super) async fn keys(State(api): State<Context>, Params(read): Params<ReadParams>) -> Result<Response, Problem> {
    let moment = status::look(&api, read).await?;
    let known = &moment.state.cookie_keys;
    let sealing = known.iter().rposition(|key| key.promoted);
    let keys = known.iter().enumerate().map(|(place, key)| {
        let state = match key.promoted {
            false => "waiting",
            true if Some(place) == sealing => "seals",
            true => "opens",
        };
        let lacks = |member: &&crate::fleet::roster::Member| member.epoch().is_none_or(|at| at < moment.epoch());
        let missing = moment.members.iter().filter(lacks).map(|member| member.label.clone());
        Key { id: key.id, state, missing: if key.promoted { Vec::new() } else { missing.collect() } }
    });
    Ok(Json(CookieKeys { epoch: moment.epoch(), keys: keys.collect() }).into_response())
}

/// Makes a new key. It seals when every member of the fleet has it; the older ones go on opening what
/// they have sealed, so that no session notices.
#[utoipa::path(post, path = "/v1/cookie-keys", tag = "sessions", params(WriteParams), responses(WriteAnswers))]
pub(super) async fn rotate(State(api): State<Context>, write: Write) -> Result<Response, Problem> {
    let state = api.published.state();
    // Ids come round; those of the keys that are still known are taken.
    let newest = state.cookie_keys.last().map_or(0, |key| key.id);
    let is_free = |id: &u8| !state.cookie_keys.iter().any(|key| key.id == *id);
    let id = (1..=u8::MAX).map(|step| newest.wrapping_add(step)).find(is_free);
    let id = id.expect("fewer keys are kept than there are ids");
    let key = CookieKey { id, secret: KeySecret(rand::random()), promoted: false };
    write.run(&api, Command::PutCookieKey { key }).await
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct RevokeParams {
    #[param(value_type = String)]
    pool: Name,
    /// Left out: all of the pool.
    #[param(value_type = Option<String>)]
    endpoint: Option<Name>,
}

/// Pins that were given until now count no more: their sessions are placed anew with their next
/// request.
#[utoipa::path(delete, path = "/v1/pins", tag = "sessions", params(RevokeParams), responses(WriteAnswers))]
pub(super) async fn revoke(
    State(api): State<Context>,
    RepeatKey(key): RepeatKey,
    Params(RevokeParams { pool, endpoint }): Params<RevokeParams>,
) -> Result<Response, Problem> {
    Write::plain(key).run(&api, Command::RevokePins { pool, endpoint }).await
}
