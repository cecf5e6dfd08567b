//! `/v1/nodes`: the fleet itself, who shall be in it, and this node's own leaving.
//!
//! What shall be is written like anything else, through any node; the leader brings it about in safe
//! steps (`fleet/members`), and the list tells how far it is.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use tidelock_core::command::Command;
use tidelock_core::id::Name;
use tidelock_core::member::Wanted;
use utoipa::{IntoParams, ToSchema};

use super::error::Problem;
use super::extract::{Body, Params, ReadParams, Segments, WriteParams};
use super::status::{self, ReadAnswers};
use super::write::{Write, WriteAnswers};
use super::{Context, view};
use crate::raft::Role;

#[utoipa::path(get, path = "/v1/nodes", tag = "nodes", params(ReadParams),
    responses((status = 200, body = view::Nodes), ReadAnswers))]
pub(super) async fn list(State(api): State<Context>, Params(read): Params<ReadParams>) -> Result<Response, Problem> {
    let moment = status::look(&api, read).await?;
    Ok(Json(view::Nodes { epoch: moment.epoch(), nodes: moment.nodes() }).into_response())
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct NodePath {
    /// Its id, or its name where only one has it.
    node: String,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Membership {
    role: MemberRole,
}

/// `voter` counts for quorums; `learner` has the log, balances, and never counts.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum MemberRole {
    Voter,
    Learner,
}

impl From<MemberRole> for Wanted {
    fn from(role: MemberRole) -> Wanted {
        match role {
            MemberRole::Voter => Wanted::Voter,
            MemberRole::Learner => Wanted::Learner,
        }
    }
}

/// Adds a node that waits, promotes or demotes one. It learns first and votes when it has caught up;
/// `/v1/nodes` tells.
#[utoipa::path(put, path = "/v1/nodes/{node}", tag = "nodes", params(NodePath, WriteParams),
    request_body = Membership, responses(WriteAnswers))]
pub(super) async fn put(
    State(api): State<Context>,
    Segments(path): Segments<NodePath>,
    write: Write,
    Body(membership): Body<Membership>,
) -> Result<Response, Problem> {
    let node = api.moment().node(&path.node).map_err(Problem::not_found)?;
    write.run(&api, Command::SetMember { node, wanted: membership.role.into() }).await
}

/// Removes a node for good: its id is not used again. One that runs leaves by itself, as on SIGTERM, and
/// is a member until it is silent; none is let go before a majority of the others is there to go on.
#[utoipa::path(
    delete,
    path = "/v1/nodes/{node}",
    tag = "nodes",
    params(NodePath, WriteParams),
    responses(WriteAnswers)
)]
pub(super) async fn remove(
    State(api): State<Context>,
    Segments(path): Segments<NodePath>,
    write: Write,
) -> Result<Response, Problem> {
    let node = api.moment().member(&path.node).map_err(Problem::not_found)?;
    write.run(&api, Command::SetMember { node, wanted: Wanted::Gone }).await
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct HandedOver {
    /// Who was asked to lead; the list of nodes tells who does.
    to: String,
}

/// Asks that a voter leads. To be asked of the leader.
#[utoipa::path(post, path = "/v1/nodes/{node}/lead", tag = "nodes", params(NodePath),
    responses((status = 202, body = HandedOver), (status = 401, body = Problem), (status = 404, body = Problem),
        (status = 409, body = Problem)))]
pub(super) async fn lead(State(api): State<Context>, Segments(path): Segments<NodePath>) -> Result<Response, Problem> {
    let moment = api.moment();
    let node = moment.node(&path.node).map_err(Problem::not_found)?;
    if moment.raft.role != Role::Leader {
        let leader = moment.members.iter().find(|member| Some(member.id.0) == moment.raft.leader);
        let admin = leader.and_then(|leader| leader.bulletin.as_ref()?.admin.clone());
        let where_to = match (leader, admin) {
            (None, _) => "There is no leader at the moment.".to_owned(),
            (Some(leader), None) => format!("Ask the leader, {}.", leader.label),
            (Some(leader), Some(admin)) => format!("Ask the leader, {}, at {admin}.", leader.label),
        };
        return Err(Problem::new(StatusCode::CONFLICT, "not-leader", "This node does not lead", where_to));
    }
    if !moment.raft.membership.voters.contains(&node.0) {
        let detail = format!("Only a voter can lead, and {} is none.", path.node);
        return Err(Problem::new(StatusCode::CONFLICT, "not-a-voter", "Not a voter", detail));
    }
    api.consensus.hand_over(node);
    Ok((StatusCode::ACCEPTED, Json(HandedOver { to: node.to_string() })).into_response())
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
