//! Linearizable reads that wait for their index.
//!
//! Raft drops a ReadIndex request without a word when there is no leader, when the leader has not
//! committed in its term yet, or when the network loses it. So each is asked again until its
//! deadline, under the same context: an index confirmed for a later asking is only newer.

use std::collections::BTreeMap;

use super::exchange::{ReadError, Token};

/// Reads in flight on one node; more are refused as busy.
const LIMIT: usize = 4_096;

pub(crate) struct Reads {
    node: u64,
    next: u64,
    reads: BTreeMap<u64, Read>,
}

struct Read {
    token: Token,
    deadline: u64,
    ask_at: u64,
    /// Confirmed; waits until the state machine has applied it.
    index: Option<u64>,
}

impl Reads {
    /// `first` is random: the leader keys requests by context, so no two may be equal, those of this
    /// node's earlier life included.
    pub(crate) fn new(node: u64, first: u64) -> Self {
        Self { node, next: first, reads: BTreeMap::new() }
    }

    pub(crate) fn insert(&mut self, token: Token, now: u64, deadline: u64) -> Result<(), ReadError> {
        if self.reads.len() >= LIMIT {
            return Err(ReadError::Busy);
        }
        self.next = self.next.wrapping_add(1);
        self.reads.insert(self.next, Read { token, deadline, ask_at: now, index: None });
        Ok(())
    }

    /// Contexts to ask for now; each is asked for again `interval` ticks later.
    pub(crate) fn due(&mut self, now: u64, interval: u64) -> Vec<Vec<u8>> {
        let node = self.node;
        self.reads
            .iter_mut()
            .filter(|(_, read)| read.index.is_none() && read.ask_at <= now)
            .map(|(number, read)| {
                read.ask_at = now + interval;
                [node.to_le_bytes(), number.to_le_bytes()].concat()
            })
            .collect()
    }

    pub(crate) fn confirmed(&mut self, context: &[u8], index: u64) {
        let Some((node, number)) = context.split_first_chunk::<8>() else { return };
        let Ok(number) = <[u8; 8]>::try_from(number) else { return };
        if u64::from_le_bytes(*node) == self.node
            && let Some(read) = self.reads.get_mut(&u64::from_le_bytes(number))
        {
            read.index.get_or_insert(index);
        }
    }

    /// Reads whose index has been applied.
    pub(crate) fn ready(&mut self, applied: u64) -> Vec<(Token, u64)> {
        let mut ready = Vec::new();
        self.reads.retain(|_, read| match read.index {
            Some(index) if index <= applied => {
                ready.push((read.token, index));
                false
            }
            _ => true,
        });
        ready
    }

    pub(crate) fn expire(&mut self, now: u64) -> Vec<Token> {
        let mut expired = Vec::new();
        self.reads.retain(|_, read| {
            let keep = read.deadline > now;
            if !keep {
                expired.push(read.token);
            }
            keep
        });
        expired
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_is_asked_again_and_answered_once_its_index_is_applied() {
        let mut reads = Reads::new(5, 40);
        reads.insert(Token(1), 0, 100).unwrap();
        let context = reads.due(0, 5).remove(0);
        assert!(reads.due(4, 5).is_empty());
        assert_eq!(reads.due(5, 5), std::slice::from_ref(&context));
        reads.confirmed(&context, 9);
        reads.confirmed(&context, 12);
        assert_eq!(reads.ready(8), []);
        assert_eq!(reads.ready(9), [(Token(1), 9)]);
        assert_eq!(reads.ready(9), []);
    }

    #[test]
    fn a_context_of_another_node_or_of_no_form_is_ignored() {
        let mut reads = Reads::new(5, 40);
        reads.insert(Token(1), 0, 3).unwrap();
        let mut context = reads.due(0, 5).remove(0);
        context[0] ^= 1;
        reads.confirmed(&context, 9);
        reads.confirmed(b"short", 9);
        assert_eq!(reads.ready(100), []);
        assert_eq!(reads.expire(3), [Token(1)]);
    }
}
