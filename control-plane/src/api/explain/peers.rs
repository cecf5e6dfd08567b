//! The same question to every other node, over the connections that they have anyway: each explains
//! by its own table, and says what it finds down itself.
//!
//! JSON between the nodes, as bulletins are. A question holds the client's cookie: it goes to peers
//! under mutual TLS and into no log.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tidelock_core::id::{Epoch, Name};
use tidelock_core::report::Observed;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use utoipa::ToSchema;

use super::{ExplainParams, Explanation, explain};
use crate::api::Context;
use crate::raft::Question;

/// For the answers of all nodes, which are asked at one time. 2 s: a node that is up needs
/// milliseconds, and a person waits for the one that is not.
const PATIENCE: Duration = Duration::from_secs(2);

/// Endpoints that a node names as down; with more the first ones say enough.
const DOWN_MAX: usize = 16;

/// What one node would do with the request.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct NodeExplains {
    node: String,
    /// Of its answer; of one that was not reached, as it was heard last.
    #[schema(value_type = Option<u64>)]
    epoch: Option<Epoch>,
    /// It decides by the epoch of the node that was asked. None: it is not heard of.
    same: Option<bool>,
    /// Why there is no answer of it.
    not_reached: Option<String>,
    /// None: it was not reached.
    #[schema(inline)]
    explains: Option<Says>,
}

/// A node's own words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
struct Says {
    #[schema(value_type = u64)]
    epoch: Epoch,
    verdict: String,
    #[schema(value_type = Option<String>)]
    route: Option<Name>,
    #[schema(value_type = Option<String>)]
    pool: Option<Name>,
    #[schema(value_type = Option<String>)]
    endpoint: Option<Name>,
    placement: Option<String>,
    /// The pool's endpoints that this node itself does not find up, the first 16. The choice goes by
    /// what the fleet has agreed.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    finds_down: Vec<Name>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Asked {
    Explain { params: ExplainParams, seed: u64 },
}

impl Says {
    fn of(api: &Context, explanation: &Explanation) -> Says {
        Says {
            epoch: explanation.epoch,
            verdict: explanation.verdict.clone(),
            route: explanation.route.clone(),
            pool: explanation.pool.clone(),
            endpoint: explanation.endpoint.clone(),
            placement: explanation.placement.map(str::to_owned),
            finds_down: finds_down(api, explanation.pool.as_ref()),
        }
    }

    /// The same would happen. Where the endpoint is drawn it is an example, and another one is no
    /// other answer.
    fn agrees(&self, other: &Says) -> bool {
        let drawn = matches!(self.placement.as_deref(), Some("new" | "none"));
        (&self.route, &self.pool, &self.placement) == (&other.route, &other.pool, &other.placement)
            && (drawn || self.endpoint == other.endpoint)
            && (self.endpoint.is_some() || self.verdict == other.verdict)
    }
}

/// What this node's own checks and requests say, before the fleet has agreed on it.
fn finds_down(api: &Context, pool: Option<&Name>) -> Vec<Name> {
    let table = api.table();
    let Some(pool) = table.pools.iter().find(|known| Some(&known.name) == pool) else { return Vec::new() };
    let members = api.moment().members;
    let own = members.iter().find(|member| member.local).and_then(|member| member.report());
    let is_down = |id| own.is_some_and(|report| matches!(report.health.get(&id), Some(Observed::Down { .. })));
    pool.endpoints.iter().filter(|endpoint| is_down(endpoint.id)).map(|e| e.name.clone()).take(DOWN_MAX).collect()
}

/// Asks every other member; in the order of their names, with this node among them.
pub(super) async fn ask(
    api: &Context,
    params: ExplainParams,
    seed: u64,
    explanation: &Explanation,
) -> (Vec<NodeExplains>, Option<bool>) {
    let question = serde_json::to_vec(&Asked::Explain { params, seed }).expect("text and numbers");
    let own = Says::of(api, explanation);
    let members = api.moment().members;
    let mut answers: Vec<Result<Says, String>> = members.iter().map(|_| Ok(own.clone())).collect();
    let mut asked = JoinSet::new();
    for (place, member) in members.iter().enumerate().filter(|(_, member)| !member.local) {
        let (consensus, id, question) = (api.consensus.clone(), member.id, question.clone());
        asked.spawn(async move { (place, consensus.ask(id, question, PATIENCE).await) });
    }
    // A task that panics would leave a place without its answer; none here can.
    while let Some(Ok((place, answer))) = asked.join_next().await {
        let unread = |_| "its answer cannot be read: it is of another version".to_owned();
        answers[place] = answer
            .map_err(|error| error.to_string())
            .and_then(|bytes| serde_json::from_slice::<Says>(&bytes).map_err(unread));
    }
    let agree = agreement(&own, &answers);
    let node = |(member, answer): (&crate::fleet::roster::Member, Result<Says, String>)| {
        let (explains, not_reached) = match answer {
            Ok(says) => (Some(says), None),
            Err(why) => (None, Some(why)),
        };
        let epoch = explains.as_ref().map(|says| says.epoch).or(member.epoch());
        let same = epoch.map(|epoch| epoch == own.epoch);
        NodeExplains { node: member.label.clone(), epoch, same, not_reached, explains }
    };
    (members.iter().zip(answers).map(node).collect(), agree)
}

/// One that differs is enough for no; for yes all must have answered.
fn agreement(own: &Says, answers: &[Result<Says, String>]) -> Option<bool> {
    let differs = answers.iter().flatten().any(|says| !says.agrees(own));
    if differs { Some(false) } else { answers.iter().all(Result::is_ok).then_some(true) }
}

/// Answers the other nodes' questions, one after the other. What cannot be read is not answered.
pub(crate) async fn answer(api: Context, mut questions: mpsc::Receiver<Question>) {
    while let Some(question) = questions.recv().await {
        let Ok(Asked::Explain { params, seed }) = serde_json::from_slice(&question.bytes) else {
            tracing::debug!(from = question.from, "a node's question cannot be read: it is of another version");
            continue;
        };
        // The asker has explained it by its own table before: it is well formed.
        let Ok(explanation) = explain(&api.table(), &params, seed) else { continue };
        let answer = serde_json::to_vec(&Says::of(&api, &explanation)).expect("text and numbers");
        api.consensus.reply(&question, answer);
    }
    // A fleet of one has nobody who asks.
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(placement: Option<&str>, endpoint: Option<&str>, verdict: &str) -> Says {
        Says {
            epoch: Epoch(7),
            verdict: verdict.into(),
            route: Some("web".parse().unwrap()),
            pool: Some("app".parse().unwrap()),
            endpoint: endpoint.map(|name| name.parse().unwrap()),
            placement: placement.map(str::to_owned),
            finds_down: Vec::new(),
        }
    }

    #[test]
    fn nodes_agree_on_what_happens_and_not_on_what_is_drawn() {
        let kept = says(Some("kept"), Some("a"), "endpoint a");
        for (own, other, agrees) in [
            (&kept, Says { epoch: Epoch(8), ..kept.clone() }, true),
            (&kept, says(Some("kept"), Some("b"), "endpoint b"), false),
            (&kept, says(Some("moved:gone"), Some("a"), "endpoint a"), false),
            (&kept, says(None, None, "503"), false),
            (&kept, Says { route: Some("other".parse().unwrap()), ..kept.clone() }, false),
            (&says(Some("new"), Some("a"), "a"), says(Some("new"), Some("b"), "b"), true),
            (&says(Some("none"), Some("a"), "a"), says(Some("none"), Some("b"), "b"), true),
            (&says(None, None, "404"), says(None, None, "421"), false),
        ] {
            assert_eq!(own.agrees(&other), agrees, "{own:?} {other:?}");
        }
    }

    #[test]
    fn one_that_differs_is_a_no_and_one_that_is_away_no_yes() {
        let (own, other) = (says(Some("kept"), Some("a"), ""), says(Some("kept"), Some("b"), ""));
        let away = || Err("away".to_owned());
        assert_eq!(agreement(&own, &[Ok(own.clone()), Ok(own.clone())]), Some(true));
        assert_eq!(agreement(&own, &[Ok(own.clone()), away()]), None);
        assert_eq!(agreement(&own, &[Ok(own.clone()), away(), Ok(other)]), Some(false));
    }
}
