//! What peers say to each other on a connection: length-prefixed, versioned messages.
//!
//! Frames are read only after both sides have proved that they hold the fleet's secret, and still
//! bounded and decoded totally: a peer of another version or a bug must not take this node down.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::exchange::{Forward, ForwardOutcome, Outgoing};
use super::wire::{self, Blob};

/// First byte of each frame's content.
const VERSION: u8 = 1;

/// Largest frame, 32 MiB. A snapshot travels in one frame, so it bounds the replicated state; a
/// longer frame ends the connection, and one that would be longer is not sent.
pub(crate) const MAX_FRAME: usize = 32 << 20;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum PeerMessage {
    /// First on each connection, from both sides, and again whenever its content changes.
    Hello(Hello),
    Raft(Blob),
    Forward {
        request: u64,
        term: u64,
        id: u128,
        payload: Blob,
    },
    ForwardReply {
        request: u64,
        outcome: ForwardOutcome,
    },
    /// A node's status, opaque here.
    Report(Blob),
    /// Keeps a quiet connection known as alive.
    Ping,
    /// A question to this node alone, opaque here. An older version passes over it.
    Ask {
        request: u64,
        question: Blob,
    },
    Answer {
        request: u64,
        answer: Blob,
    },
}

/// Who a node is and what it knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub(crate) id: u64,
    pub(crate) name: String,
    /// Where peers reach it, host and port.
    pub(crate) address: String,
    /// URL of its admin API, shown to people; may be empty.
    pub(crate) admin: String,
    pub(crate) version: String,
    pub(crate) initialised: bool,
    /// Initialised: the ids that founded its fleet, if it was one of them. Else the complete set of
    /// founders as it sees them, once it has heard them all.
    pub(crate) founders: Option<Vec<u64>>,
    /// Addresses of the fleet's members, so that two nodes without a common list find each other.
    pub(crate) known: Vec<(u64, String)>,
    /// The token by which it asks to be let in.
    pub(crate) join_token: Option<String>,
}

impl PeerMessage {
    pub(crate) fn from_outgoing(message: &Outgoing) -> Option<Self> {
        Some(match message {
            Outgoing::Raft(message) => Self::Raft(Blob(wire::encode(message)?.into())),
            Outgoing::Forward(forward) => Self::Forward {
                request: forward.request,
                term: forward.term,
                id: forward.id,
                payload: Blob(Bytes::copy_from_slice(&forward.payload)),
            },
            Outgoing::ForwardReply { request, outcome } => Self::ForwardReply { request: *request, outcome: *outcome },
        })
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        postcard::to_extend(self, vec![VERSION]).expect("postcard writes any of these structs to a Vec")
    }

    /// `None` for what this version cannot read; a newer peer may say more than we know.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        match bytes.split_first()? {
            (&VERSION, rest) => postcard::from_bytes(rest).ok(),
            _ => None,
        }
    }
}

pub(crate) fn forward(request: u64, term: u64, id: u128, payload: &Blob) -> Forward {
    Forward { request, term, id, payload: payload.0.to_vec() }
}

/// Reads one frame. Memory grows with what arrives, not with what the length field claims.
pub(crate) async fn read(from: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Vec<u8>> {
    let length = from.read_u32().await? as usize;
    if length > MAX_FRAME {
        let what = format!("a frame of {length} bytes is longer than {MAX_FRAME}");
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, what));
    }
    let mut frame = Vec::with_capacity(length.min(64 << 10));
    if from.take(length as u64).read_to_end(&mut frame).await? < length {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    Ok(frame)
}

pub(crate) async fn write(to: &mut (impl AsyncWrite + Unpin), frame: &[u8]) -> std::io::Result<()> {
    let length = u32::try_from(frame.len()).map_err(|_| std::io::ErrorKind::InvalidInput)?;
    to.write_u32(length).await?;
    to.write_all(frame).await?;
    to.flush().await
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn random_frames_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = PeerMessage::decode(&bytes);
            bytes.insert(0, VERSION);
            let _ = PeerMessage::decode(&bytes);
        }

        #[test]
        fn a_forward_survives_the_wire(request: u64, term: u64, id: u128, payload: Vec<u8>) {
            let message = PeerMessage::Forward { request, term, id, payload: Blob(payload.into()) };
            prop_assert_eq!(PeerMessage::decode(&message.encode()), Some(message));
        }
    }

    /// Nodes of two versions must greet each other: a field more would end that. What is new goes into
    /// a message of its own, behind the last one, which older nodes pass over.
    #[test]
    fn a_hello_has_these_bytes() {
        let hello = Hello {
            id: 1,
            name: "a".into(),
            address: "b:1".into(),
            admin: String::new(),
            version: "0.1.0".into(),
            initialised: true,
            founders: Some(vec![1, 2]),
            known: vec![(2, "c:1".into())],
            join_token: None,
        };
        let bytes = b"\x01\x00\x01\x01a\x03b:1\x00\x050.1.0\x01\x01\x02\x01\x02\x01\x02\x03c:1\x00";
        assert_eq!(PeerMessage::Hello(hello.clone()).encode(), bytes);
        assert_eq!(PeerMessage::decode(bytes), Some(PeerMessage::Hello(hello)));
    }

    #[tokio::test]
    async fn a_frame_longer_than_the_limit_is_refused_by_its_length_alone() {
        let claim = (MAX_FRAME as u32 + 1).to_be_bytes();
        let error = read(&mut claim.as_slice()).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
    }

    #[tokio::test]
    async fn a_cut_frame_is_an_error() {
        let mut bytes = Vec::new();
        write(&mut bytes, b"whole").await.unwrap();
        assert_eq!(read(&mut bytes.as_slice()).await.unwrap(), b"whole");
        bytes.pop();
        assert_eq!(read(&mut bytes.as_slice()).await.unwrap_err().kind(), std::io::ErrorKind::UnexpectedEof);
    }
}
