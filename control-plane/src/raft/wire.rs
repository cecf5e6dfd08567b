//! Raft's messages, entries and snapshots as our own versioned structs, encoded with postcard.
//!
//! The raft crate's types are protobuf 2; its parser (RUSTSEC-2024-0437) must not see bytes from
//! the network, so they are copied into the structs below and back. The decoder is total: any bytes
//! give a value or an error, and a value that would make the raft crate panic is an error as well.
//! `storage` keeps the same forms on disk. Called by `driver`, `storage` and the handler in `raft`.

use bytes::Bytes;
use raft::prelude::{Entry, EntryType, Message, MessageType, Snapshot};
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::membership::{self, Change, Membership};

/// First byte of each encoded message. Nodes of version n and n-1 run together, so a new number
/// needs a decoder for the old one for a release.
const VERSION: u8 = 1;

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum DecodeError {
    #[error("the raft message is empty")]
    Empty,
    #[error("the raft message has version {0}, this node reads {VERSION}")]
    Version(u8),
    #[error("the raft message is malformed")]
    Malformed,
    #[error("the raft message is not one that a peer may send: {0}")]
    Forbidden(&'static str),
}

/// Opaque bytes: serde's default for `Vec<u8>` visits each byte, this copies them at once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Blob(pub(crate) Bytes);

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct BytesVisitor;
        impl Visitor<'_> for BytesVisitor {
            type Value = Blob;

            fn expecting(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                out.write_str("bytes")
            }

            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Blob, E> {
                Ok(Blob(Bytes::copy_from_slice(bytes)))
            }
        }
        deserializer.deserialize_bytes(BytesVisitor)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WireEntry {
    term: u64,
    index: u64,
    context: Blob,
    content: Content,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Content {
    Normal(Blob),
    Membership(Vec<Change>),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WireSnapshot {
    index: u64,
    term: u64,
    membership: Membership,
    data: Blob,
}

#[derive(Debug, Serialize, Deserialize)]
struct WireMessage {
    kind: Kind,
    to: u64,
    from: u64,
    term: u64,
    log_term: u64,
    index: u64,
    commit: u64,
    commit_term: u64,
    reject: bool,
    reject_hint: u64,
    request_snapshot: u64,
    priority: i64,
    context: Blob,
    entries: Vec<WireEntry>,
    snapshot: Option<WireSnapshot>,
}

/// The kinds that one node may send to another. Local kinds (hup, beat, unreachable, ...) have no
/// form here, and neither has a proposal: those are forwarded as frames of their own, so no peer
/// can smuggle in a conf change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Kind {
    Append,
    AppendResponse,
    RequestVote,
    RequestVoteResponse,
    Snapshot,
    Heartbeat,
    HeartbeatResponse,
    TransferLeader,
    TimeoutNow,
    ReadIndex,
    ReadIndexResponse,
    RequestPreVote,
    RequestPreVoteResponse,
}

const KINDS: [(Kind, MessageType); 13] = [
    (Kind::Append, MessageType::MsgAppend),
    (Kind::AppendResponse, MessageType::MsgAppendResponse),
    (Kind::RequestVote, MessageType::MsgRequestVote),
    (Kind::RequestVoteResponse, MessageType::MsgRequestVoteResponse),
    (Kind::Snapshot, MessageType::MsgSnapshot),
    (Kind::Heartbeat, MessageType::MsgHeartbeat),
    (Kind::HeartbeatResponse, MessageType::MsgHeartbeatResponse),
    (Kind::TransferLeader, MessageType::MsgTransferLeader),
    (Kind::TimeoutNow, MessageType::MsgTimeoutNow),
    (Kind::ReadIndex, MessageType::MsgReadIndex),
    (Kind::ReadIndexResponse, MessageType::MsgReadIndexResp),
    (Kind::RequestPreVote, MessageType::MsgRequestPreVote),
    (Kind::RequestPreVoteResponse, MessageType::MsgRequestPreVoteResponse),
];

/// Encodes a message for a peer; `None` for the kinds that stay inside a node.
pub(crate) fn encode(message: &Message) -> Option<Vec<u8>> {
    let kind = KINDS.iter().find(|(_, raft)| *raft == message.get_msg_type())?.0;
    let wire = WireMessage {
        kind,
        to: message.to,
        from: message.from,
        term: message.term,
        log_term: message.log_term,
        index: message.index,
        commit: message.commit,
        commit_term: message.commit_term,
        reject: message.reject,
        reject_hint: message.reject_hint,
        request_snapshot: message.request_snapshot,
        priority: message.priority,
        context: Blob(message.context.clone()),
        entries: message.entries.iter().map(WireEntry::from).collect(),
        snapshot: message.snapshot.as_ref().filter(|s| !s.is_empty()).map(WireSnapshot::from),
    };
    Some(postcard::to_extend(&wire, vec![VERSION]).expect("postcard writes any of these structs to a Vec"))
}

/// Decodes what a peer sent. Beyond the form it checks what the raft crate takes for granted.
pub(crate) fn decode(bytes: &[u8]) -> Result<Message, DecodeError> {
    let (&version, rest) = bytes.split_first().ok_or(DecodeError::Empty)?;
    if version != VERSION {
        return Err(DecodeError::Version(version));
    }
    let wire: WireMessage = postcard::from_bytes(rest).map_err(|_| DecodeError::Malformed)?;
    check(&wire)?;
    let raft_kind = KINDS.iter().find(|(kind, _)| *kind == wire.kind).ok_or(DecodeError::Malformed)?.1;
    let mut message = Message::default();
    message.set_msg_type(raft_kind);
    message.to = wire.to;
    message.from = wire.from;
    message.term = wire.term;
    message.log_term = wire.log_term;
    message.index = wire.index;
    message.commit = wire.commit;
    message.commit_term = wire.commit_term;
    message.reject = wire.reject;
    message.reject_hint = wire.reject_hint;
    message.request_snapshot = wire.request_snapshot;
    message.priority = wire.priority;
    message.context = wire.context.0;
    message.set_entries(wire.entries.into_iter().map(Entry::from).collect::<Vec<_>>().into());
    if let Some(snapshot) = wire.snapshot {
        message.set_snapshot(snapshot.into());
    }
    Ok(message)
}

fn check(wire: &WireMessage) -> Result<(), DecodeError> {
    let refuse = |what| Err(DecodeError::Forbidden(what));
    if wire.from == 0 || wire.to == 0 {
        return refuse("a node id of zero");
    }
    match wire.kind {
        // raft takes the first entry as the request's context without looking.
        Kind::ReadIndex | Kind::ReadIndexResponse if wire.entries.len() != 1 => {
            refuse("a read without exactly one context")
        }
        Kind::Snapshot => match &wire.snapshot {
            Some(snapshot) if snapshot.index > 0 && !snapshot.membership.voters.is_empty() => Ok(()),
            _ => refuse("a snapshot without an index or without voters"),
        },
        Kind::Append if !contiguous(wire) => refuse("entries that do not follow each other"),
        // Terms are checked for overflow because raft adds one to them.
        _ if wire.term == u64::MAX || wire.index == u64::MAX => refuse("a term or index at the end of its range"),
        _ => Ok(()),
    }
}

/// Entries follow the message's index one by one and their terms never fall.
fn contiguous(wire: &WireMessage) -> bool {
    let mut last = (wire.index, wire.log_term);
    wire.entries.iter().all(|entry| {
        let follows = last.0.checked_add(1) == Some(entry.index) && entry.term >= last.1 && entry.term <= wire.term;
        last = (entry.index, entry.term);
        follows
    })
}

impl From<&Entry> for WireEntry {
    fn from(entry: &Entry) -> Self {
        let content = match entry.get_entry_type() {
            EntryType::EntryNormal => Content::Normal(Blob(entry.data.clone())),
            // Only `membership::encode` makes these, so the log holds no other.
            EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => {
                Content::Membership(membership::decode(&entry.data).expect("membership::encode made this entry"))
            }
        };
        Self { term: entry.term, index: entry.index, context: Blob(entry.context.clone()), content }
    }
}

impl From<WireEntry> for Entry {
    fn from(wire: WireEntry) -> Self {
        let mut entry = Entry { term: wire.term, index: wire.index, context: wire.context.0, ..Entry::default() };
        match wire.content {
            Content::Normal(data) => entry.data = data.0,
            Content::Membership(changes) => {
                entry.set_entry_type(EntryType::EntryConfChangeV2);
                entry.data = membership::encode(&changes).into();
            }
        }
        entry
    }
}

impl From<&Snapshot> for WireSnapshot {
    fn from(snapshot: &Snapshot) -> Self {
        let metadata = snapshot.get_metadata();
        Self {
            index: metadata.index,
            term: metadata.term,
            membership: metadata.get_conf_state().into(),
            data: Blob(snapshot.data.clone()),
        }
    }
}

impl From<WireSnapshot> for Snapshot {
    fn from(wire: WireSnapshot) -> Self {
        let mut snapshot = Snapshot { data: wire.data.0, ..Snapshot::default() };
        let metadata = snapshot.mut_metadata();
        metadata.index = wire.index;
        metadata.term = wire.term;
        metadata.set_conf_state((&wire.membership).into());
        snapshot
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry() -> impl Strategy<Value = WireEntry> {
        let change = (0..3u8, any::<u64>()).prop_map(|(kind, id)| match kind {
            0 => Change::AddVoter(id),
            1 => Change::AddLearner(id),
            _ => Change::Remove(id),
        });
        let content = prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..64).prop_map(|data| Content::Normal(Blob(data.into()))),
            proptest::collection::vec(change, 0..4).prop_map(Content::Membership),
        ];
        (content, proptest::collection::vec(any::<u8>(), 0..20)).prop_map(|(content, context)| WireEntry {
            term: 3,
            index: 0,
            context: Blob(context.into()),
            content,
        })
    }

    fn append(mut entries: Vec<WireEntry>, base: u64) -> Message {
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgAppend);
        (message.from, message.to, message.term, message.log_term, message.index) = (1, 2, 4, 2, base);
        for (entry, index) in entries.iter_mut().zip(base + 1..) {
            entry.index = index;
        }
        message.set_entries(entries.into_iter().map(Entry::from).collect::<Vec<_>>().into());
        message
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = decode(&bytes);
            bytes.insert(0, VERSION);
            let _ = decode(&bytes);
        }

        #[test]
        fn a_damaged_message_never_panics(
            entries in proptest::collection::vec(entry(), 0..5), position in any::<prop::sample::Index>(), byte in any::<u8>(),
        ) {
            let mut bytes = encode(&append(entries, 9)).unwrap();
            let position = position.index(bytes.len());
            bytes[position] = byte;
            let _ = decode(&bytes);
            let _ = decode(&bytes[..position]);
        }

        #[test]
        fn a_message_survives_the_wire(entries in proptest::collection::vec(entry(), 0..5), base in 0..1_000_000u64) {
            let message = append(entries, base);
            prop_assert_eq!(decode(&encode(&message).unwrap()).unwrap(), message);
        }

        #[test]
        fn a_snapshot_survives_the_wire(index in 1..u64::MAX, data in proptest::collection::vec(any::<u8>(), 0..99)) {
            let wire = WireSnapshot { index, term: 5, membership: Membership::of_voters(&[1, 2, 3]), data: Blob(data.into()) };
            let mut message = Message::default();
            message.set_msg_type(MessageType::MsgSnapshot);
            (message.from, message.to) = (1, 2);
            message.set_snapshot(wire.into());
            prop_assert_eq!(decode(&encode(&message).unwrap()).unwrap(), message);
        }
    }

    #[test]
    fn local_kinds_and_proposals_have_no_wire_form() {
        for kind in [
            MessageType::MsgHup,
            MessageType::MsgBeat,
            MessageType::MsgPropose,
            MessageType::MsgUnreachable,
            MessageType::MsgSnapStatus,
            MessageType::MsgCheckQuorum,
        ] {
            let mut message = Message::default();
            message.set_msg_type(kind);
            assert_eq!(encode(&message), None, "{kind:?}");
        }
    }

    #[test]
    fn what_would_panic_inside_raft_is_refused() {
        let mut read = Message::default();
        read.set_msg_type(MessageType::MsgReadIndex);
        (read.from, read.to) = (1, 2);
        assert!(matches!(decode(&encode(&read).unwrap()), Err(DecodeError::Forbidden(_))));

        let mut gap = append(vec![], 5);
        let mut stray = Entry::default();
        (stray.index, stray.term) = (9, 3);
        gap.mut_entries().push(stray);
        assert!(matches!(decode(&encode(&gap).unwrap()), Err(DecodeError::Forbidden(_))));
    }

    #[test]
    fn another_version_is_named() {
        assert_eq!(decode(&[9, 1, 2]), Err(DecodeError::Version(9)));
        assert_eq!(decode(&[]), Err(DecodeError::Empty));
    }

    /// Nodes n and n-1 speak to each other: this form may change only with a new version byte.
    #[test]
    fn golden_bytes_of_a_heartbeat() {
        let mut heartbeat = Message::default();
        heartbeat.set_msg_type(MessageType::MsgHeartbeat);
        (heartbeat.from, heartbeat.to, heartbeat.term, heartbeat.commit) = (1, 2, 3, 4);
        assert_eq!(encode(&heartbeat).unwrap(), [1, 5, 2, 1, 3, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0]);
    }
}
