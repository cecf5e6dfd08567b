//! The address book: every node this one has heard of, and where.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::frame::Hello;

/// What is known of another node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    pub id: u64,
    pub name: String,
    /// Where it says it is reached, host and port.
    pub address: String,
    /// URL of its admin API; empty if it has not said.
    pub admin: String,
    pub version: String,
    /// Since the last frame from it; `None` if it has only been heard of.
    pub last_seen: Option<Duration>,
    /// Whether a connection to it is open, so that messages can be sent.
    pub connected: bool,
    /// The SHA-256 of the join token that it shows, in hexadecimal.
    pub join_token: Option<String>,
}

/// In hexadecimal.
pub(crate) fn sha256(text: &str) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[derive(Default)]
pub(crate) struct AddressBook(Mutex<BTreeMap<u64, Entry>>);

struct Entry {
    name: String,
    address: String,
    admin: String,
    version: String,
    last_seen: Option<Instant>,
    connected: bool,
    join_token: Option<String>,
}

impl AddressBook {
    /// Takes over what a node says of itself.
    pub(crate) fn heard(&self, hello: &Hello) {
        let mut book = self.lock();
        let connected = book.get(&hello.id).is_some_and(|entry| entry.connected);
        book.insert(
            hello.id,
            Entry {
                name: hello.name.clone(),
                address: hello.address.clone(),
                admin: hello.admin.clone(),
                version: hello.version.clone(),
                last_seen: Some(Instant::now()),
                connected,
                join_token: hello.join_token.as_deref().map(sha256),
            },
        );
    }

    /// Takes over what others, or this node's disk, say of a node. Its own word counts more.
    pub(crate) fn heard_of(&self, id: u64, address: &str) {
        self.lock().entry(id).or_insert_with(|| Entry {
            name: String::new(),
            address: address.to_owned(),
            admin: String::new(),
            version: String::new(),
            last_seen: None,
            connected: false,
            join_token: None,
        });
    }

    pub(crate) fn seen(&self, id: u64) {
        if let Some(entry) = self.lock().get_mut(&id) {
            entry.last_seen = Some(Instant::now());
        }
    }

    pub(crate) fn set_connected(&self, id: u64, connected: bool) {
        if let Some(entry) = self.lock().get_mut(&id) {
            entry.connected = connected;
        }
    }

    pub(crate) fn address(&self, id: u64) -> Option<String> {
        self.lock().get(&id).map(|entry| entry.address.clone())
    }

    pub(crate) fn peers(&self) -> Vec<Peer> {
        self.lock()
            .iter()
            .map(|(id, entry)| Peer {
                id: *id,
                name: entry.name.clone(),
                address: entry.address.clone(),
                admin: entry.admin.clone(),
                version: entry.version.clone(),
                last_seen: entry.last_seen.map(|seen| seen.elapsed()),
                connected: entry.connected,
                join_token: entry.join_token.clone(),
            })
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
