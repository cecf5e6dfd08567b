//! `/livez` and `/readyz`: what an orchestrator asks. Open to all, and they tell nothing but yes,
//! or no with a reason.

use axum::extract::State;

use super::Context;
use super::error::Problem;
use crate::fleet::leave::LeaveState;

/// The process works. A lost leader is no reason to restart it: it serves its last table.
#[utoipa::path(get, path = "/livez", tag = "probes", security(()),
    responses((status = 200, body = String, content_type = "text/plain"), (status = 503, body = Problem)))]
pub(super) async fn live(State(api): State<Context>) -> Result<&'static str, Problem> {
    if api.consensus.alive() {
        Ok("ok\n")
    } else {
        Err(Problem::not_ready("raft-stopped", "Raft has stopped on this node."))
    }
}

/// New clients may come here.
#[utoipa::path(get, path = "/readyz", tag = "probes", security(()),
    responses((status = 200, body = String, content_type = "text/plain"), (status = 503, body = Problem)))]
pub(super) async fn ready(State(api): State<Context>) -> Result<&'static str, Problem> {
    if api.leave.state() != LeaveState::Serving {
        return Err(Problem::not_ready("leaving", "This node is leaving."));
    }
    if api.published.epoch().is_none() {
        let detail = "There is no table yet: this node waits for the fleet's first entry.";
        return Err(Problem::not_ready("no-table", detail));
    }
    let moment = api.moment();
    let routing = moment.members.iter().any(|member| member.local && member.epoch().is_some());
    if !routing {
        let detail = "The data plane has not taken its first table yet.";
        return Err(Problem::not_ready("table-not-taken", detail));
    }
    Ok("ok\n")
}
