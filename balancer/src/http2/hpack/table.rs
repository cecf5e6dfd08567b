//! The table that both sides know from the beginning (RFC 7541 appendix A).

use std::sync::LazyLock;

use http::HeaderName;

use super::{Field, Name};

const FIELDS: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

/// The first index of the table that a connection fills.
pub(super) const FIRST_DYNAMIC: usize = FIELDS.len() + 1;

static TABLE: LazyLock<Vec<Field>> = LazyLock::new(|| {
    FIELDS
        .iter()
        .map(|(name, value)| Field::new(Name::from_bytes(name.as_bytes()), name.len(), value.as_bytes()))
        .collect()
});

/// The entry at `index`, which counts from 1.
pub(super) fn entry(index: usize) -> Option<&'static Field> {
    TABLE.get(index.checked_sub(1)?)
}

/// By a name's hash, the first index of that name; 0 for none.
static INDEX: LazyLock<[u8; SLOTS]> = LazyLock::new(|| {
    let mut slots = [0; SLOTS];
    for (at, (name, _)) in FIELDS.iter().enumerate() {
        let mut slot = hash(name.as_bytes()) as usize % SLOTS;
        while slots[slot] != 0 && FIELDS[usize::from(slots[slot]) - 1].0 != *name {
            slot = (slot + 1) % SLOTS;
        }
        if slots[slot] == 0 {
            slots[slot] = at as u8 + 1;
        }
    }
    slots
});

const SLOTS: usize = 256;

/// The index of a field's name; `hash` is the name's. 0 when it has none.
pub(super) fn name_index(name: &HeaderName, hash: u32) -> usize {
    let index = &*INDEX;
    let mut slot = hash as usize % SLOTS;
    while index[slot] != 0 {
        if FIELDS[usize::from(index[slot]) - 1].0 == name.as_str() {
            return usize::from(index[slot]);
        }
        slot = (slot + 1) % SLOTS;
    }
    0
}

/// Of few bytes, and fast. Who makes fields whose hashes meet makes only their own blocks longer.
pub(super) fn hash(bytes: &[u8]) -> u32 {
    const K: u64 = 0x517c_c1b7_2722_0a95;
    let mut hash = bytes.len() as u64;
    let mut words = bytes.chunks_exact(8);
    for word in &mut words {
        let word = u64::from_le_bytes(word.try_into().expect("eight bytes"));
        hash = (hash.rotate_left(5) ^ word).wrapping_mul(K);
    }
    for byte in words.remainder() {
        hash = (hash.rotate_left(5) ^ u64::from(*byte)).wrapping_mul(K);
    }
    (hash >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_is_found_at_its_first_place() {
        for (at, (name, _)) in FIELDS.iter().enumerate() {
            assert_eq!(entry(at + 1).unwrap().size, name.len() + FIELDS[at].1.len() + 32);
            let Ok(field) = name.parse::<HeaderName>() else { continue };
            let found = name_index(&field, hash(name.as_bytes()));
            assert_eq!(FIELDS[found - 1].0, *name);
            assert!(FIELDS[..found - 1].iter().all(|(before, _)| before != name));
        }
        let own = HeaderName::from_static("x-own");
        assert_eq!(name_index(&own, hash(b"x-own")), 0);
        assert!(entry(0).is_none() && entry(62).is_none());
    }
}
