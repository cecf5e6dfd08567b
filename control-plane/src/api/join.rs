//! `/v1/join-tokens`: letting nodes in that nobody is there to add.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use tidelock_core::command::Command;
use tidelock_core::id::Epoch;
use tidelock_core::member::JoinToken;
use tidelock_core::state::Outcome;
use utoipa::ToSchema;

use super::Context;
use super::error::Problem;
use super::extract::Body;
use super::nodes::MemberRole;
use super::write::WriteAnswers;
use crate::fleet::clock;

/// A token is for a node that is being set up: an hour, and at most a week.
const TTL_S: u64 = 3_600;
const TTL_MAX_S: u64 = 604_800;

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
    let command = Command::PutJoinToken { token: kept };
    match api.consensus.propose(command.clone(), None).await.map_err(Problem::no_outcome)? {
        Outcome::Applied { epoch, .. } => Ok(Json(Made { token, expires_ms, epoch }).into_response()),
        Outcome::Rejected { reason } => Err(Problem::rejected(&reason, &command)),
    }
}
