//! HPACK (RFC 7541): header fields as HTTP/2 carries them.
//!
//! A field that is well coded and means nothing (a name in upper case, a value with a line break) is
//! handed on without its value: it spoils its own request, while the table goes on for all others of
//! the connection.

mod decode;
mod encode;
mod huffman;
mod table;

use http::{HeaderName, HeaderValue};

pub(super) use decode::Decoder;
pub(super) use encode::Encoder;

/// What every connection begins with, and all that is used here on either side (RFC 9113 section 6.5.2).
const TABLE_SIZE: usize = 4096;
/// What an entry counts for beside its bytes (section 4.1).
const ENTRY_OVERHEAD: usize = 32;

/// A header block that cannot be read. The tables of both sides differ from here on, so that the connection
/// is of no use any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BadBlock;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Name {
    Authority,
    Method,
    Path,
    Scheme,
    Status,
    Protocol,
    Field(HeaderName),
    /// No name of HTTP/2's.
    Bad,
}

impl Name {
    fn from_bytes(bytes: &[u8]) -> Name {
        match bytes {
            b":authority" => Name::Authority,
            b":method" => Name::Method,
            b":path" => Name::Path,
            b":scheme" => Name::Scheme,
            b":status" => Name::Status,
            b":protocol" => Name::Protocol,
            name => HeaderName::from_lowercase(name).map_or(Name::Bad, Name::Field),
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct Field {
    pub(super) name: Name,
    /// None where it has bytes that no value may have (RFC 9113 section 8.2.1).
    pub(super) value: Option<HeaderValue>,
    name_length: usize,
    /// As section 4.1 counts it.
    pub(super) size: usize,
}

impl Field {
    fn new(name: Name, name_length: usize, value: &[u8]) -> Field {
        let size = name_length + value.len() + ENTRY_OVERHEAD;
        Field { name, value: HeaderValue::from_bytes(value).ok(), name_length, size }
    }
}
