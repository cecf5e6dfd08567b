//! The decoders of peers' messages and of the disk's records, for the trial in `crate::hostile`.

use bytes::Bytes;
use futures_util::FutureExt;
use raft::prelude::{Entry, EntryType, Message, MessageType};

use super::driver::unframe;
use super::exchange::ForwardOutcome;
use super::frame::{self, Hello, PeerMessage};
use super::membership::{self, Change, Membership};
use super::storage::tests::{RECORDS, snapshot};
use super::wire::{self, Blob};
use crate::hostile::mutate::Decoder;

/// What a decoder may ask for whatever its input. postcard makes room for no more than what is left of it.
const FIXED: usize = 256 << 10;

/// protobuf 2 makes room for what a length claims, up to 10 MB a field. Only what this node has encoded
/// itself gets there: peers and disk have a form of their own.
const PROTOBUF: usize = 32 << 20;

pub(crate) fn decoders() -> Vec<Decoder> {
    let raft: Vec<Vec<u8>> = raft_messages().iter().filter_map(wire::encode).collect();
    let frames: Vec<Vec<u8>> = peer_messages(&raft).iter().map(PeerMessage::encode).collect();
    let on_the_wire = frames.iter().map(|frame| [&(frame.len() as u32).to_be_bytes(), frame.as_slice()].concat());
    let mut decoders = vec![
        Decoder { name: "frame", samples: on_the_wire.collect(), decode: read_frame, memory: (8, 128 << 10) },
        Decoder {
            name: "peer's message",
            samples: frames,
            decode: |bytes| Some(PeerMessage::decode(bytes)?.encode()),
            memory: (64, FIXED),
        },
        Decoder {
            name: "raft message",
            samples: raft,
            decode: |bytes| wire::encode(&wire::decode(bytes).ok()?),
            memory: (64, FIXED),
        },
        Decoder {
            name: "membership change",
            samples: vec![membership::encode(&[Change::AddVoter(9), Change::AddLearner(2), Change::Remove(1)])],
            decode: |bytes| Some(membership::encode(&membership::decode(bytes)?)),
            memory: (64, PROTOBUF),
        },
        Decoder {
            name: "command in the log",
            samples: vec![[7; 40].to_vec()],
            decode: |bytes| unframe(bytes).map(|(id, payload)| [&id.to_be_bytes(), payload].concat()),
            memory: (2, 64),
        },
    ];
    decoders.extend(RECORDS.map(|(name, sample, decode)| Decoder {
        name,
        samples: vec![sample()],
        decode,
        memory: (64, FIXED),
    }));
    decoders
}

fn read_frame(mut bytes: &[u8]) -> Option<Vec<u8>> {
    let frame = frame::read(&mut bytes).now_or_never()?.ok()?;
    let mut written = Vec::new();
    frame::write(&mut written, &frame).now_or_never()?.ok()?;
    Some(written)
}

fn message(kind: MessageType) -> Message {
    let mut message = Message { from: 1, to: 2, term: 9, ..Message::default() };
    message.set_msg_type(kind);
    message
}

fn raft_messages() -> Vec<Message> {
    let mut append = Message { index: 4, log_term: 8, commit: 4, ..message(MessageType::MsgAppend) };
    let mut change = Entry { index: 6, term: 9, ..Entry::default() };
    change.set_entry_type(EntryType::EntryConfChangeV2);
    change.data = membership::encode(&[Change::AddVoter(9)]).into();
    let command = Entry { index: 5, term: 8, data: vec![7; 40].into(), ..Entry::default() };
    append.set_entries(vec![command, change].into());
    let mut install = message(MessageType::MsgSnapshot);
    install.set_snapshot(snapshot(7, 3));
    let mut read = message(MessageType::MsgReadIndex);
    read.mut_entries().push(Entry { data: vec![1, 2, 3].into(), ..Entry::default() });
    vec![append, install, read, message(MessageType::MsgHeartbeat), message(MessageType::MsgRequestVote)]
}

fn peer_messages(raft: &[Vec<u8>]) -> Vec<PeerMessage> {
    let hello = Hello {
        id: 1,
        name: "a".into(),
        address: "b:1".into(),
        admin: "http://b:2".into(),
        version: "0.1.0".into(),
        initialised: true,
        founders: Some(vec![1, 2]),
        known: vec![(2, "c:1".into()), (3, "d:1".into())],
        join_token: Some("token".into()),
    };
    let mut messages: Vec<_> = raft.iter().map(|raft| PeerMessage::Raft(Blob(Bytes::copy_from_slice(raft)))).collect();
    messages.extend([
        PeerMessage::Hello(hello),
        PeerMessage::Forward { request: 1, term: 2, id: 3, payload: Blob(vec![7; 30].into()) },
        PeerMessage::ForwardReply { request: 1, outcome: ForwardOutcome::Appended { index: 5 } },
        PeerMessage::Report(Blob(Membership::of_voters(&[1, 2]).voters.iter().map(|id| *id as u8).collect())),
        PeerMessage::Ping,
        PeerMessage::Ask { request: 1, question: Blob(vec![7; 30].into()) },
        PeerMessage::Answer { request: 1, answer: Blob(vec![7; 30].into()) },
    ]);
    messages
}
