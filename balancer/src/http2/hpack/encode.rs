//! Writing header blocks.
//!
//! What comes again and again (`server`, `x-forwarded-proto`, a browser's `user-agent`) is kept in the table
//! and is one byte from then on; what is told once, or must not be guessed by its length, is not kept.

use std::collections::VecDeque;

use http::header::{
    AGE, AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, COOKIE, ETAG, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED,
    LOCATION, PROXY_AUTHORIZATION, RANGE, SET_COOKIE,
};
use http::{HeaderName, HeaderValue, Method, StatusCode};

use super::table::{self, FIRST_DYNAMIC, hash};
use super::{ENTRY_OVERHEAD, TABLE_SIZE};

/// What the peer knows of what was written to it.
#[derive(Debug)]
pub(crate) struct Encoder {
    /// The oldest first.
    entries: VecDeque<Entry>,
    size: usize,
    max: usize,
    /// The peer has to be told of these sizes, the smallest one between and the last (section 4.2).
    resized: Option<(usize, usize)>,
    /// How many entries there have ever been.
    count: u32,
    /// By the hash of a field, the number of its entry and 1. A later one takes an earlier one's place.
    slots: Option<Box<[u32; SLOTS]>>,
}

/// As many as entries in a table of usual ones, twice.
const SLOTS: usize = 128;

#[derive(Debug)]
struct Entry {
    /// None is `:authority`.
    name: Option<HeaderName>,
    value: Box<[u8]>,
}

impl Entry {
    fn size(&self) -> usize {
        self.name.as_ref().map_or(":authority", |name| name.as_str()).len() + self.value.len() + ENTRY_OVERHEAD
    }
}

impl Default for Encoder {
    fn default() -> Encoder {
        Encoder { entries: VecDeque::new(), size: 0, max: TABLE_SIZE, resized: None, count: 0, slots: None }
    }
}

/// Whether its values come once, or are secrets that a table would let others guess (section 7.1).
fn is_told_once(name: &HeaderName) -> bool {
    static ONCE: [HeaderName; 13] = [
        CONTENT_LENGTH,
        COOKIE,
        SET_COOKIE,
        ETAG,
        LAST_MODIFIED,
        LOCATION,
        AUTHORIZATION,
        AGE,
        IF_NONE_MATCH,
        IF_MODIFIED_SINCE,
        RANGE,
        CONTENT_RANGE,
        PROXY_AUTHORIZATION,
    ];
    ONCE.contains(name)
}

impl Encoder {
    /// The peer's table may be this large.
    pub(in crate::http2) fn resize(&mut self, max: usize) {
        let max = max.min(TABLE_SIZE);
        if max == self.max && self.resized.is_none() {
            return;
        }
        let least = self.resized.map_or(max, |(least, _)| least.min(max));
        self.resized = Some((least, max));
        self.max = least;
        self.evict(0);
        self.max = max;
    }

    /// What comes before a block's fields.
    pub(in crate::http2) fn begin(&mut self, out: &mut Vec<u8>) {
        if let Some((least, last)) = self.resized.take() {
            if least < last {
                integer(out, 0x20, 5, least);
            }
            integer(out, 0x20, 5, last);
        }
    }

    pub(in crate::http2) fn status(&mut self, out: &mut Vec<u8>, status: StatusCode) {
        let index = match status.as_u16() {
            200 => 8,
            204 => 9,
            206 => 10,
            304 => 11,
            400 => 12,
            404 => 13,
            500 => 14,
            _ => return literal(out, 0, 8, status.as_str().as_bytes()),
        };
        out.push(0x80 | index);
    }

    pub(in crate::http2) fn method(&mut self, out: &mut Vec<u8>, method: &Method) {
        match *method {
            Method::GET => out.push(0x80 | 2),
            Method::POST => out.push(0x80 | 3),
            _ => literal(out, 0, 2, method.as_str().as_bytes()),
        }
    }

    pub(in crate::http2) fn scheme(&mut self, out: &mut Vec<u8>, is_https: bool) {
        out.push(0x80 | if is_https { 7 } else { 6 });
    }

    pub(in crate::http2) fn authority(&mut self, out: &mut Vec<u8>, authority: &str) {
        self.kept(out, None, hash(b":authority"), 1, authority.as_bytes());
    }

    pub(in crate::http2) fn path(&mut self, out: &mut Vec<u8>, path: &str) {
        match path {
            "/" => out.push(0x80 | 4),
            _ => literal(out, 0, 4, path.as_bytes()),
        }
    }

    pub(in crate::http2) fn protocol(&mut self, out: &mut Vec<u8>, protocol: &str) {
        out.push(0);
        text(out, b":protocol");
        text(out, protocol.as_bytes());
    }

    pub(in crate::http2) fn field(&mut self, out: &mut Vec<u8>, name: &HeaderName, value: &HeaderValue) {
        let name_hash = hash(name.as_str().as_bytes());
        let index = table::name_index(name, name_hash);
        if value.is_sensitive() {
            return named(out, 0x10, index, name, value.as_bytes());
        }
        if is_told_once(name) {
            return named(out, 0, index, name, value.as_bytes());
        }
        self.kept(out, Some(name), name_hash, index, value.as_bytes());
    }

    /// A field that is kept in the table, if it is not there yet. `index` is its name's in the fixed table, or 0.
    fn kept(&mut self, out: &mut Vec<u8>, name: Option<&HeaderName>, name_hash: u32, index: usize, value: &[u8]) {
        let slot = (name_hash.rotate_left(7) ^ hash(value)) as usize % SLOTS;
        let slots = self.slots.get_or_insert_with(|| Box::new([0; SLOTS]));
        // Counts round, and so does what is subtracted from it: an entry is as old as it is.
        let age = self.count.wrapping_sub(slots[slot]) as usize;
        if slots[slot] != 0
            && age < self.entries.len()
            && let Some(entry) = self.entries.get(self.entries.len() - 1 - age)
            && entry.name.as_ref() == name
            && *entry.value == *value
        {
            return integer(out, 0x80, 7, FIRST_DYNAMIC + age);
        }
        let entry = Entry { name: name.cloned(), value: value.into() };
        let size = entry.size();
        // One that would push out most others is not worth it.
        let is_kept = size <= self.max / 4 * 3;
        match name {
            Some(name) => named(out, if is_kept { 0x40 } else { 0 }, index, name, value),
            None => literal(out, if is_kept { 0x40 } else { 0 }, index, value),
        }
        if is_kept {
            self.evict(size);
            self.size += size;
            self.entries.push_back(entry);
            self.count = self.count.wrapping_add(1);
            if let Some(slots) = &mut self.slots {
                slots[slot] = self.count;
            }
        }
    }

    fn evict(&mut self, more: usize) {
        while self.size + more > self.max
            && let Some(oldest) = self.entries.pop_front()
        {
            self.size -= oldest.size();
        }
    }
}

/// A literal whose name is that of entry `index`, or is written out. `kind` says whether it is kept.
fn named(out: &mut Vec<u8>, kind: u8, index: usize, name: &HeaderName, value: &[u8]) {
    if index > 0 {
        return literal(out, kind, index, value);
    }
    out.push(kind);
    text(out, name.as_str().as_bytes());
    text(out, value);
}

fn literal(out: &mut Vec<u8>, kind: u8, index: usize, value: &[u8]) {
    integer(out, kind, if kind == 0x40 { 6 } else { 4 }, index);
    text(out, value);
}

fn text(out: &mut Vec<u8>, bytes: &[u8]) {
    integer(out, 0, 7, bytes.len());
    out.extend_from_slice(bytes);
}

/// An integer behind the first bits of a byte (section 5.1).
fn integer(out: &mut Vec<u8>, first: u8, prefix: u32, value: usize) {
    let most = (1 << prefix) - 1;
    if value < most {
        return out.push(first | value as u8);
    }
    out.push(first | most as u8);
    let mut rest = value - most;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Decoder, Name};
    use super::*;

    fn read(decoder: &mut Decoder, block: &[u8]) -> Vec<(String, String)> {
        let mut fields = Vec::new();
        let each = |field: &super::super::Field| {
            let name = match &field.name {
                Name::Field(name) => name.to_string(),
                pseudo => format!("{pseudo:?}"),
            };
            fields.push((name, field.value.as_ref().unwrap().to_str().unwrap().to_owned()));
        };
        decoder.decode(block, each).unwrap();
        fields
    }

    #[test]
    fn what_comes_again_is_a_byte() {
        let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
        let server = (HeaderName::from_static("server"), HeaderValue::from_static("Cowboy"));
        let own = (HeaderName::from_static("x-own"), HeaderValue::from_static("1"));
        let mut lengths = Vec::new();
        for _ in 0..2 {
            let mut out = Vec::new();
            encoder.begin(&mut out);
            encoder.status(&mut out, StatusCode::OK);
            encoder.authority(&mut out, "app.test");
            encoder.field(&mut out, &server.0, &server.1);
            encoder.field(&mut out, &own.0, &own.1);
            let fields = read(&mut decoder, &out);
            let value = |name: &str| fields.iter().find(|(n, _)| n == name).unwrap().1.clone();
            assert_eq!((value("Status"), value("Authority")), ("200".into(), "app.test".into()));
            assert_eq!((value("server"), value("x-own")), ("Cowboy".into(), "1".into()));
            lengths.push(out.len());
        }
        assert_eq!(lengths[1], 4);
    }

    #[test]
    fn secrets_and_what_comes_once_are_not_kept() {
        let mut encoder = Encoder::default();
        let mut secret = HeaderValue::from_static("s");
        secret.set_sensitive(true);
        let mut out = Vec::new();
        encoder.field(&mut out, &HeaderName::from_static("x-id"), &secret);
        assert_eq!(out, b"\x10\x04x-id\x01s");
        out.clear();
        encoder.field(&mut out, &COOKIE, &HeaderValue::from_static("a=b"));
        assert_eq!(out, b"\x0f\x11\x03a=b");
        assert!(encoder.entries.is_empty());
    }

    proptest! {
        /// Whatever was written before, and however the table's size changed: what is read is what was written.
        #[test]
        fn what_is_read_is_what_was_written(
            blocks in proptest::collection::vec(
                (proptest::collection::vec((0..8usize, 0..40usize, 0..300usize), 0..20), proptest::option::of(0..5000usize)),
                1..40,
            )
        ) {
            let names = ["server", "x-one", "x-two", "cookie", "via", "x-three", "date", "accept"];
            let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
            for (fields, resize) in blocks {
                if let Some(max) = resize {
                    encoder.resize(max);
                    encoder.resize(max / 2);
                    encoder.resize(max);
                }
                let mut out = Vec::new();
                encoder.begin(&mut out);
                let mut written = Vec::new();
                for (name, value, length) in fields {
                    let value = format!("{value}{}", "v".repeat(length));
                    encoder.field(&mut out, &HeaderName::from_static(names[name]), &value.parse().unwrap());
                    written.push((names[name].to_owned(), value));
                }
                prop_assert_eq!(read(&mut decoder, &out), written);
                prop_assert!(encoder.size <= encoder.max);
            }
        }
    }
}
