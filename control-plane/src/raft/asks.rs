//! Questions from one node to another: a message there, a message back, and a deadline.
//!
//! They pass beside the log and change nothing, so a lost one is not asked again. The bytes are the
//! asker's and the answerer's; they may hold what a client sent, and are never logged.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use super::frame::PeerMessage;
use super::transport::{About, Transport};
use super::wire::Blob;

/// Largest question and answer, 64 KiB: more than a request's head may be. A longer one is as good
/// as none.
pub(crate) const MAX_ASK: usize = 64 << 10;

/// A node's question to this one; [`super::Raft::reply`] answers it.
#[derive(Clone, PartialEq, Eq)]
pub struct Question {
    pub from: u64,
    /// The asker's number for it.
    pub request: u64,
    pub bytes: Vec<u8>,
}

/// Why a question has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    #[error("no connection to it is open")]
    NotConnected,
    /// It is slow or cut off, or of a version that does not know such questions.
    #[error("it did not answer in time")]
    Late,
    #[error("the question is too long to be passed on")]
    TooLong,
}

/// Questions of this node that wait for their answers.
#[derive(Default)]
pub(super) struct Asks {
    next: AtomicU64,
    open: Mutex<HashMap<u64, Open>>,
}

struct Open {
    to: u64,
    reply: oneshot::Sender<Option<Vec<u8>>>,
}

impl Asks {
    pub(super) async fn ask(
        &self,
        transport: &Transport,
        to: u64,
        question: Vec<u8>,
        timeout: Duration,
    ) -> Result<Vec<u8>, AskError> {
        if question.len() > MAX_ASK {
            return Err(AskError::TooLong);
        }
        let request = self.next.fetch_add(1, Ordering::Relaxed);
        let (reply, answer) = oneshot::channel();
        self.lock().insert(request, Open { to, reply });
        let _forgotten = Forget { asks: self, request };
        transport.send(to, &PeerMessage::Ask { request, question: Blob(question.into()) }, About::Ask { request });
        match tokio::time::timeout(timeout, answer).await {
            Ok(Ok(Some(answer))) => Ok(answer),
            Ok(_) => Err(AskError::NotConnected),
            Err(_) => Err(AskError::Late),
        }
    }

    /// Only the node that was asked may answer.
    pub(super) fn answered(&self, from: u64, request: u64, answer: &[u8]) {
        let mut open = self.lock();
        if answer.len() > MAX_ASK || open.get(&request).is_none_or(|open| open.to != from) {
            return;
        }
        if let Some(open) = open.remove(&request) {
            let _ = open.reply.send(Some(answer.to_vec()));
        }
    }

    pub(super) fn undelivered(&self, request: u64) {
        if let Some(open) = self.lock().remove(&request) {
            let _ = open.reply.send(None);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Forgets a question, also when its asker has gone away.
struct Forget<'a> {
    asks: &'a Asks,
    request: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.asks.lock().remove(&self.request);
    }
}
