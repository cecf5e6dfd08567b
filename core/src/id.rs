//! The names and numbers by which things are known. A value that exists is valid.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The longest name, in bytes: the limit of a DNS label, so that Kubernetes' names fit.
pub const NAME_MAX: usize = 63;

/// The name of a pool, an endpoint, a route or a node: 1 to 63 of `[a-z0-9._-]`, beginning and
/// ending with a letter or a digit.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(Arc<str>);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a name: use 1 to 63 of a-z, 0-9, '.', '_', '-', beginning and ending with a letter or a digit")]
pub struct InvalidName(pub String);

impl Name {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let bytes = text.as_bytes();
        let edge = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let inner = |b: &u8| edge(b) || matches!(b, b'.' | b'_' | b'-');
        let valid = bytes.len() <= NAME_MAX
            && bytes.first().is_some_and(edge)
            && bytes.last().is_some_and(edge)
            && bytes.iter().all(inner);
        if valid { Ok(Name(text.into())) } else { Err(InvalidName(text.chars().take(80).collect())) }
    }
}

impl TryFrom<String> for Name {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl From<Name> for String {
    fn from(name: Name) -> String {
        name.0.as_ref().to_owned()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }
    };
}

number!(
    /// The configuration's version: the index of the Raft log entry that made it.
    Epoch
);
number!(
    /// A pool, minted by the state machine and never used again.
    PoolId
);
number!(
    /// An endpoint, minted by the state machine and never used again: an endpoint that comes back
    /// under its old name with another address is another endpoint, and pins do not follow it.
    EndpointId
);

macro_rules! lettered {
    ($(#[$doc:meta])* $name:ident, $letter:literal, $what:literal, $invalid:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(pub u64);

        #[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
        #[error("{0:?} is not {what}: they look like \"{letter}9\"", what = $what, letter = $letter)]
        pub struct $invalid(String);

        impl $name {
            /// The epoch that began it.
            pub fn epoch(self) -> Epoch {
                Epoch(self.0 & ((1 << NTH_SHIFT) - 1))
            }

            /// The first one of `epoch` that is free: a batch can begin several, and those behind the
            /// first count on in the upper bits.
            pub(crate) fn free(epoch: Epoch, is_taken: impl Fn(&Self) -> bool) -> Self {
                let mut id = $name(epoch.0);
                while is_taken(&id) {
                    id.0 += 1 << NTH_SHIFT;
                }
                id
            }
        }

        impl FromStr for $name {
            type Err = $invalid;

            fn from_str(text: &str) -> Result<Self, $invalid> {
                let number = text.strip_prefix($letter).and_then(|n| n.parse().ok());
                number.map($name).ok_or_else(|| $invalid(text.chars().take(80).collect()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = $invalid;

            fn try_from(text: String) -> Result<Self, $invalid> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.to_string()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}{}", $letter, self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

const NTH_SHIFT: u32 = 48;

lettered!(
    /// A drain: the epoch that began it, written `d9`.
    DrainId, 'd', "a drain's id", InvalidDrainId
);
lettered!(
    /// A switchover: the epoch that began it, written `s9`.
    SwitchoverId, 's', "a switchover's id", InvalidSwitchoverId
);

/// A node of the fleet: minted at random for each data directory, never zero, written as 16 hex
/// digits. (A Raft id that comes back with an empty disk breaks Raft, so it never does.)
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeId(pub u64);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a node's id: they are 16 hexadecimal digits")]
pub struct InvalidNodeId(String);

impl FromStr for NodeId {
    type Err = InvalidNodeId;

    fn from_str(text: &str) -> Result<Self, InvalidNodeId> {
        match u64::from_str_radix(text, 16) {
            Ok(id) if id != 0 && text.len() == 16 => Ok(NodeId(id)),
            _ => Err(InvalidNodeId(text.chars().take(80).collect())),
        }
    }
}

impl TryFrom<String> for NodeId {
    type Error = InvalidNodeId;

    fn try_from(text: String) -> Result<Self, InvalidNodeId> {
        text.parse()
    }
}

impl From<NodeId> for String {
    fn from(id: NodeId) -> String {
        id.to_string()
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_when_parsed() {
        for good in ["a", "app-1", "v1.2_3", &"x".repeat(63)] {
            assert_eq!(good.parse::<Name>().unwrap().as_str(), good);
        }
        for bad in ["", "-a", "a-", "A", "a b", "a/b", "ä", &"x".repeat(64)] {
            assert!(bad.parse::<Name>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn ids_survive_their_text() {
        assert_eq!("d12".parse(), Ok(DrainId(12)));
        assert_eq!("s12".parse(), Ok(SwitchoverId(12)));
        assert_eq!(
            "d1".parse::<SwitchoverId>().unwrap_err().to_string(),
            "\"d1\" is not a switchover's id: they look like \"s9\""
        );
        assert_eq!(NodeId(0xab).to_string().parse(), Ok(NodeId(0xab)));
        assert!("0".parse::<NodeId>().is_err());
        assert!("12".parse::<DrainId>().is_err());
    }
}
