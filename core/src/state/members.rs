//! Nodes in the state: what operators want of them, and the tokens that let new ones in.

use super::{Rejection, State};
use crate::id::NodeId;
use crate::member::{JoinToken, MAX_JOIN_TOKENS, MAX_MEMBERS, Wanted};

impl State {
    pub(super) fn set_member(&mut self, node: NodeId, wanted: Wanted) -> Result<(), Rejection> {
        let before = self.members.get(&node);
        if before == Some(&Wanted::Gone) && wanted != Wanted::Gone {
            return Err(Rejection::NodeGone { node });
        }
        if before.is_none() && self.members.len() >= MAX_MEMBERS {
            return Err(Rejection::LimitReached { what: "nodes".into(), limit: MAX_MEMBERS as u64 });
        }
        self.members.insert(node, wanted);
        Ok(())
    }

    pub(super) fn put_join_token(&mut self, token: &JoinToken, now_ms: u64) -> Result<(), Rejection> {
        self.join_tokens.retain(|known| known.expires_ms > now_ms && known.sha256 != token.sha256);
        if self.join_tokens.len() >= MAX_JOIN_TOKENS {
            return Err(Rejection::LimitReached { what: "join tokens".into(), limit: MAX_JOIN_TOKENS as u64 });
        }
        self.join_tokens.push(token.clone());
        Ok(())
    }

    pub(super) fn use_join_token(&mut self, sha256: &str, node: NodeId, now_ms: u64) -> Result<(), Rejection> {
        let is_good = |token: &JoinToken| token.sha256 == *sha256 && token.expires_ms > now_ms;
        let place = self.join_tokens.iter().position(is_good).ok_or(Rejection::UnknownJoinToken {})?;
        let wanted = self.join_tokens[place].wanted;
        self.set_member(node, wanted)?;
        self.join_tokens.remove(place);
        Ok(())
    }
}
