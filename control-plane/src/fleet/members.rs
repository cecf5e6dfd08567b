//! From what operators want of nodes to Raft's membership: which step is next. Pure; the leader's
//! chores carry it out.
//!
//! No step may leave the fleet without a majority of voters that are heard of: better a node too many
//! than a fleet that cannot decide. A node learns before it votes, and a leader that shall not vote
//! hands over first. A node that shall be gone leaves by itself (`exchange`) and stays a member until
//! it is silent: drains ask it for its word as long as it may be serving.

use std::collections::BTreeMap;

use tidelock_core::command::Command;
use tidelock_core::id::NodeId;
use tidelock_core::member::Wanted;
use tidelock_core::state::State;

use super::roster::Member;
use crate::raft::{Change, Membership, Peer, Status};

/// A learner this many entries behind has caught up: what is left arrives within a round trip.
const CAUGHT_UP: u64 = 100;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    Nothing,
    /// This node leads and shall not vote: that one leads next.
    HandOver(NodeId),
    /// More than one change goes through joint consensus.
    Change(Vec<Change>),
}

/// `peers` are all nodes that are known, members or not.
pub(super) fn next(state: &State, raft: &Status, members: &[Member], peers: &[Peer]) -> Step {
    let membership = &raft.membership;
    if membership.is_joint() {
        return Step::Nothing;
    }
    let is_heard = |id: u64| id == raft.id || members.iter().any(|m| m.id.0 == id && m.report().is_some());
    // One that has nothing yet has not caught up with a young fleet either.
    let has_caught_up = |id: u64| {
        let matched = raft.matched.get(&id).copied().unwrap_or(0);
        is_heard(id) && matched > 0 && matched + CAUGHT_UP >= raft.commit
    };
    // A member that is not there would hold up every drain, which waits for its word.
    let is_there = |id: u64| peers.iter().any(|peer| peer.id == id && peer.connected);
    let mut voters = membership.voters.clone();
    let mut changes = Vec::new();
    let mut hand_over = false;
    for (node, wanted) in &state.members {
        let id = node.0;
        let (votes, learns) = (voters.contains(&id), membership.learners.contains(&id));
        let change = match wanted {
            Wanted::Voter if votes => continue,
            Wanted::Voter if learns && has_caught_up(id) => Change::AddVoter(id),
            Wanted::Voter | Wanted::Learner if learns => continue,
            Wanted::Voter | Wanted::Learner if votes || is_there(id) => Change::AddLearner(id),
            Wanted::Voter | Wanted::Learner => continue,
            Wanted::Gone if id == raft.id && votes => Change::Remove(id),
            Wanted::Gone if (votes || learns) && !is_heard(id) => Change::Remove(id),
            Wanted::Gone => continue,
        };
        let mut after = voters.clone();
        match change {
            Change::AddVoter(id) => after.push(id),
            Change::AddLearner(id) | Change::Remove(id) => after.retain(|voter| *voter != id),
        }
        if after != voters {
            let heard = after.iter().filter(|voter| is_heard(**voter)).count();
            if heard * 2 <= after.len() {
                continue;
            }
            if id == raft.id {
                hand_over = true;
                continue;
            }
        }
        voters = after;
        changes.push(change);
    }
    if !changes.is_empty() {
        return Step::Change(changes);
    }
    match successor(state, raft, members) {
        Some(successor) if hand_over => Step::HandOver(successor),
        _ => Step::Nothing,
    }
}

/// The voter to lead next: of those that are heard of and stay, the one that has most of the log.
pub(super) fn successor(state: &State, raft: &Status, members: &[Member]) -> Option<NodeId> {
    let stays = |member: &&Member| {
        let wanted = state.members.get(&member.id);
        !member.local
            && raft.membership.voters.contains(&member.id.0)
            && !matches!(wanted, Some(Wanted::Gone | Wanted::Learner))
            && member.report().is_some_and(|report| !report.leaving)
    };
    let matched = |member: &&Member| raft.matched.get(&member.id.0).copied();
    members.iter().filter(stays).max_by_key(|member| (matched(member), member.id)).map(|member| member.id)
}

/// Nodes that show a token that is good.
pub(super) fn joining(state: &State, membership: &Membership, peers: &[Peer], now_ms: u64) -> Vec<Command> {
    // An id that has lost its disk stays in the address book, and is not there.
    let strangers = peers.iter().filter(|peer| peer.connected && !membership.contains(peer.id));
    let applicants = strangers.filter_map(|peer| {
        let sha256 = peer.join_token.clone()?;
        let node = NodeId(peer.id);
        let is_good = state.join_tokens.iter().any(|token| token.sha256 == sha256 && token.expires_ms > now_ms);
        (is_good && !state.members.contains_key(&node)).then_some((sha256, node))
    });
    // One node for each token.
    let by_token: BTreeMap<String, NodeId> = applicants.collect();
    by_token.into_iter().map(|(sha256, node)| Command::UseJoinToken { sha256, node }).collect()
}

#[cfg(test)]
mod tests;
