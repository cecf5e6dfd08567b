//! What a node has told others, held against its disk whenever it loses its power.
//!
//! A broken promise seldom does harm at once: a majority must have counted on it. Looked at directly,
//! each is seen at the first crash after it.

use raft::prelude::{Message, MessageType};

use crate::raft::storage::Loaded;

#[derive(Debug, Default)]
pub(super) struct Promises {
    /// The highest term it has spoken in.
    term: u64,
    /// The last vote it has given to another: in which term, and to whom.
    vote: Option<(u64, u64)>,
    /// In that term, up to which entry it has acknowledged the leader's log.
    acknowledged: (u64, u64),
}

impl Promises {
    pub(super) fn sent(&mut self, message: &Message) {
        match message.get_msg_type() {
            // A term in these is a question, or the answer to one.
            MessageType::MsgRequestPreVote | MessageType::MsgRequestPreVoteResponse => return,
            MessageType::MsgRequestVoteResponse if !message.reject => self.vote = Some((message.term, message.to)),
            MessageType::MsgAppendResponse if !message.reject => {
                let (term, index) = self.acknowledged;
                self.acknowledged =
                    (message.term, if term == message.term { index.max(message.index) } else { message.index });
            }
            _ => {}
        }
        self.term = self.term.max(message.term);
    }

    pub(super) fn hold(&self, id: u64, disk: &Loaded) {
        let (term, vote) = (disk.hard_state.term, disk.hard_state.vote);
        assert!(term >= self.term, "node {id} spoke in term {} and remembers {term}", self.term);
        if let Some((voted_in, for_whom)) = self.vote {
            assert!(
                term > voted_in || vote == for_whom,
                "node {id} voted for {for_whom} in term {voted_in} and remembers {vote}"
            );
        }
        // A later leader may have cut off what an earlier one was told.
        let last = disk.entries.last().map_or(disk.compacted.index, |entry| entry.index);
        let (told_in, index) = self.acknowledged;
        assert!(
            term > told_in || last >= index,
            "node {id} acknowledged entry {index} in term {told_in} and has {last}"
        );
    }
}
