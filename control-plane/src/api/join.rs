//! `/v1/join-tokens`: letting nodes in that nobody is there to add, and taking that back.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use tidelock_core::command::Command;
use tidelock_core::id::Epoch;
use tidelock_core::member::JoinToken;
use tidelock_core::state::Outcome;
use utoipa::{IntoParams, ToSchema};

use super::Context;
use super::error::Problem;
use super::extract::{Body, Params, ReadParams, Segments, WriteParams};
use super::nodes::MemberRole;
use super::status::{self, ReadAnswers};
use super::write::{Write, WriteAnswers};
use crate::fleet::clock;

/// A token is for a node that is being set up: an hour, and at most a week.
const TTL_S: u64 = 3_600;
const TTL_MAX_S: u64 = 604_800;

/// Digits of a token's digest that name it: enough to tell 64 tokens apart, and no help in finding one.
const ID_DIGITS: usize = 12;

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wish {
    /// What the node shall be.
    role: MemberRole,
    /// For how long it is good: 3600, at most 604800.
    #[schema(minimum = 1, maximum = 604_800)]
    #[serde(default = "ttl")]
    ttl_seconds: u64,
}

fn ttl() -> u64 {
    TTL_S
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Made {
    /// By which it is listed and revoked.
    id: String,
    /// Shown this once; the fleet keeps a digest of it. Good for one node, which must hold the fleet's
    /// secret too.
    token: String,
    /// Unix time in milliseconds.
    expires_ms: u64,
    #[schema(value_type = u64)]
    epoch: Epoch,
}

/// Makes a token by which one node joins the fleet.
#[utoipa::path(post, path = "/v1/join-tokens", tag = "nodes", request_body = Wish,
    responses((status = 200, body = Made), WriteAnswers))]
pub(super) async fn make(State(api): State<Context>, Body(wish): Body<Wish>) -> Result<Response, Problem> {
    if !(1..=TTL_MAX_S).contains(&wish.ttl_seconds) {
        return Err(Problem::invalid("ttl_seconds", format!("it is a number from 1 to {TTL_MAX_S}")));
    }
    let secret: [u8; 32] = rand::random();
    let token: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let expires_ms = clock::now_ms() + wish.ttl_seconds * 1_000;
    let kept = JoinToken { sha256: crate::raft::sha256(&token), wanted: wish.role.into(), expires_ms };
    let id = id(&kept).to_owned();
    let command = Command::PutJoinToken { token: kept };
    match api.consensus.propose(command.clone(), None).await.map_err(Problem::no_outcome)? {
        Outcome::Applied { epoch, .. } => Ok(Json(Made { id, token, expires_ms, epoch }).into_response()),
        Outcome::Rejected { reason } => Err(Problem::rejected(&reason, &command)),
    }
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Tokens {
    #[schema(value_type = u64)]
    epoch: Epoch,
    /// Those that are still good.
    tokens: Vec<Token>,
}

/// Never the token itself, which nobody has but the one it was shown to.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Token {
    id: String,
    /// `voter` or `learner`.
    role: &'static str,
    /// Unix time in milliseconds.
    expires_ms: u64,
}

/// The tokens that are out and still good.
#[utoipa::path(get, path = "/v1/join-tokens", tag = "nodes", params(ReadParams),
    responses((status = 200, body = Tokens), ReadAnswers))]
pub(super) async fn list(State(api): State<Context>, Params(read): Params<ReadParams>) -> Result<Response, Problem> {
    let moment = status::look(&api, read).await?;
    let shown = |token: &JoinToken| Token {
        id: id(token).to_owned(),
        role: token.wanted.as_str(),
        expires_ms: token.expires_ms,
    };
    let tokens = good(&moment.state.join_tokens).map(shown).collect();
    Ok(Json(Tokens { epoch: moment.epoch(), tokens }).into_response())
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct TokenPath {
    /// As the list shows it.
    id: String,
}

/// Revokes a token. A node that it has let in already stays.
#[utoipa::path(
    delete,
    path = "/v1/join-tokens/{id}",
    tag = "nodes",
    params(TokenPath, WriteParams),
    responses(WriteAnswers)
)]
pub(super) async fn revoke(
    State(api): State<Context>,
    Segments(path): Segments<TokenPath>,
    write: Write,
) -> Result<Response, Problem> {
    let state = api.moment().state;
    let Some(token) = good(&state.join_tokens).find(|token| id(token) == path.id) else {
        return Err(Problem::not_found(format!("There is no join token {}: it is used, revoked or too old.", path.id)));
    };
    // Replaced by one that is over: every node knows this command, also those of the release before.
    let token = JoinToken { expires_ms: 0, ..token.clone() };
    write.run(&api, Command::PutJoinToken { token }).await
}

fn good(tokens: &[JoinToken]) -> impl Iterator<Item = &JoinToken> {
    let now_ms = clock::now_ms();
    tokens.iter().filter(move |token| token.expires_ms > now_ms)
}

fn id(token: &JoinToken) -> &str {
    token.sha256.get(..ID_DIGITS).unwrap_or(&token.sha256)
}
