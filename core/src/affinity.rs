//! The affinity cookie: a sealed pin that says where a session lives.
//!
//! A cookie is `base64url(key id, nonce, AES-256-GCM-SIV(pin))`. Sealing hides the fleet's inside
//! from clients and keeps them from choosing an endpoint. GCM-SIV (RFC 8452) because every node
//! seals under the same key with random nonces: a repeated nonce then shows only that two pins
//! are equal. A cookie that does not open is ignored, never an error.

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, Nonce, UnboundKey};
use serde::{Deserialize, Serialize};

use crate::id::{EndpointId, PoolId};

/// The cookie's name.
pub const COOKIE_NAME: &str = "tidelock";

/// A session, chosen at random when it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionId(pub [u8; 16]);

/// Where a session lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pin {
    pub session: SessionId,
    pub pool: PoolId,
    pub endpoint: EndpointId,
    /// A hash of the endpoint's revision; 0 without one.
    pub revision: u64,
    /// Unix time in seconds.
    pub issued: u32,
}

const PIN_LEN: usize = 16 + 8 + 8 + 8 + 4;
const NONCE_LEN: usize = 12;
const TAG_LEN: usize = 16;
/// Version, key id, nonce, pin, tag.
const SEALED_LEN: usize = 2 + NONCE_LEN + PIN_LEN + TAG_LEN;
const TEXT_LEN: usize = SEALED_LEN.div_ceil(3) * 4 - (3 - SEALED_LEN % 3) % 3;
const VERSION: u8 = 1;

impl Pin {
    fn to_bytes(self) -> [u8; PIN_LEN] {
        let mut bytes = [0; PIN_LEN];
        bytes[..16].copy_from_slice(&self.session.0);
        bytes[16..24].copy_from_slice(&self.pool.0.to_be_bytes());
        bytes[24..32].copy_from_slice(&self.endpoint.0.to_be_bytes());
        bytes[32..40].copy_from_slice(&self.revision.to_be_bytes());
        bytes[40..].copy_from_slice(&self.issued.to_be_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8; PIN_LEN]) -> Pin {
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_be_bytes(word)
        };
        let mut session = [0; 16];
        session.copy_from_slice(&bytes[..16]);
        Pin {
            session: SessionId(session),
            pool: PoolId(word(16)),
            endpoint: EndpointId(word(24)),
            revision: word(32),
            issued: (word(36) & 0xffff_ffff) as u32,
        }
    }
}

/// A sealing key as it is replicated. The newest promoted one seals; all of them open.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CookieKey {
    pub id: u8,
    pub secret: KeySecret,
    /// A key is distributed to the whole fleet before any node seals with it.
    pub promoted: bool,
}

/// 32 secret bytes, written in hexadecimal. Never shown by `Debug`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeySecret(pub [u8; 32]);

impl std::fmt::Debug for CookieKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CookieKey({}, promoted: {})", self.id, self.promoted)
    }
}

impl std::fmt::Debug for KeySecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeySecret(..)")
    }
}

impl TryFrom<String> for KeySecret {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let mut secret = [0; 32];
        let ascii = text.len() == 64 && text.is_ascii();
        for (i, byte) in secret.iter_mut().enumerate() {
            let digits = if ascii { &text[2 * i..2 * i + 2] } else { "" };
            *byte = u8::from_str_radix(digits, 16).map_err(|_| "a key is 64 hexadecimal digits".to_owned())?;
        }
        Ok(KeySecret(secret))
    }
}

impl From<KeySecret> for String {
    fn from(secret: KeySecret) -> String {
        secret.0.iter().map(|b| format!("{b:02x}")).collect()
    }
}

/// The keys, ready to seal and open.
pub struct Sealer {
    keys: Vec<(u8, LessSafeKey)>,
    /// The place in `keys` of the one that seals.
    current: Option<usize>,
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sealer({} keys)", self.keys.len())
    }
}

impl Sealer {
    pub fn new(keys: &[CookieKey]) -> Sealer {
        let ready = |key: &CookieKey| {
            let unbound = UnboundKey::new(&AES_256_GCM_SIV, &key.secret.0).expect("32 bytes are an AES-256 key");
            (key.id, LessSafeKey::new(unbound))
        };
        Sealer { keys: keys.iter().map(ready).collect(), current: keys.iter().rposition(|key| key.promoted) }
    }

    /// Whether there is a key to seal with. A fleet has none until its first leader made one.
    pub fn can_seal(&self) -> bool {
        self.current.is_some()
    }

    /// The cookie's value. `nonce` is 96 random bits.
    pub fn seal(&self, pin: Pin, nonce: [u8; NONCE_LEN]) -> Option<String> {
        let (id, key) = &self.keys[self.current?];
        let mut sealed = [0; SEALED_LEN];
        let (head, body) = sealed.split_at_mut(2 + NONCE_LEN);
        head[0] = VERSION;
        head[1] = *id;
        head[2..].copy_from_slice(&nonce);
        let (text, tag) = body.split_at_mut(PIN_LEN);
        text.copy_from_slice(&pin.to_bytes());
        let made = key
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from([VERSION, *id]), text)
            .ok()?;
        tag.copy_from_slice(made.as_ref());
        Some(base64url::encode(&sealed))
    }

    /// The pin in a cookie's value; None for anything that this fleet did not seal.
    pub fn open(&self, value: &[u8]) -> Option<Pin> {
        self.open_with(value).map(|(pin, _)| pin)
    }

    /// The same, and whether it was sealed by the key that seals now.
    pub fn open_with(&self, value: &[u8]) -> Option<(Pin, bool)> {
        let mut sealed = [0; SEALED_LEN];
        if value.len() != TEXT_LEN || !base64url::decode(value, &mut sealed) || sealed[0] != VERSION {
            return None;
        }
        let id = sealed[1];
        let place = self.keys.iter().position(|(known, _)| *known == id)?;
        let (_, key) = &self.keys[place];
        let (head, body) = sealed.split_at_mut(2 + NONCE_LEN);
        let nonce = Nonce::try_assume_unique_for_key(&head[2..]).ok()?;
        let opened = key.open_in_place(nonce, Aad::from([VERSION, id]), body).ok()?;
        let bytes: &[u8; PIN_LEN] = (&*opened).try_into().ok()?;
        Some((Pin::from_bytes(bytes), self.current == Some(place)))
    }
}

/// The values of the cookies called `name`, in the order in which the client sent them. Pairs are
/// separated by ';' in one field or stand in several fields, as HTTP/2 splits them.
pub fn cookies<'a, 'n>(headers: &'a http::HeaderMap, name: &'n str) -> impl Iterator<Item = &'a [u8]> + use<'a, 'n> {
    headers.get_all(http::header::COOKIE).into_iter().flat_map(move |field| {
        field.as_bytes().split(|b| *b == b';').filter_map(move |pair| {
            let pair = pair.trim_ascii();
            let value = pair.strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
            Some(value.strip_prefix(b"\"").and_then(|v| v.strip_suffix(b"\"")).unwrap_or(value))
        })
    })
}

/// Base64 with the URL-safe alphabet and without padding (RFC 4648 section 5), strict: one text
/// for one value, so that a changed letter never opens to the same cookie.
mod base64url {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

    const VALUES: [u8; 256] = {
        let mut values = [0xff; 256];
        let mut i = 0;
        while i < 64 {
            values[ALPHABET[i] as usize] = i as u8;
            i += 1;
        }
        values
    };

    pub(super) fn encode(bytes: &[u8]) -> String {
        let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
        for chunk in bytes.chunks(3) {
            let group = chunk.iter().fold(0u32, |acc, b| acc << 8 | u32::from(*b)) << (8 * (3 - chunk.len()));
            for i in 0..=chunk.len() {
                text.push(char::from(ALPHABET[(group >> (18 - 6 * i) & 63) as usize]));
            }
        }
        text
    }

    /// Fills `out` exactly, or says false.
    pub(super) fn decode(text: &[u8], out: &mut [u8]) -> bool {
        if text.len() != (out.len() * 4).div_ceil(3) {
            return false;
        }
        for (group, room) in text.chunks(4).zip(out.chunks_mut(3)) {
            let mut bits = 0u32;
            for letter in group {
                let value = VALUES[*letter as usize];
                if value == 0xff {
                    return false;
                }
                bits = bits << 6 | u32::from(value);
            }
            bits <<= 6 * (4 - group.len());
            let bytes = bits.to_be_bytes();
            room.copy_from_slice(&bytes[1..1 + room.len()]);
            // Bits beyond the last byte must be zero, or two texts would mean one value.
            if bytes[1 + room.len()..].iter().any(|b| *b != 0) {
                return false;
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(id: u8, promoted: bool) -> CookieKey {
        CookieKey { id, secret: KeySecret([id; 32]), promoted }
    }

    fn pin() -> Pin {
        Pin {
            session: SessionId([7; 16]),
            pool: PoolId(3),
            endpoint: EndpointId(12),
            revision: 5,
            issued: 1_900_000_000,
        }
    }

    #[test]
    fn a_sealed_pin_opens() {
        let sealer = Sealer::new(&[key(1, true)]);
        let text = sealer.seal(pin(), [9; 12]).unwrap();
        assert_eq!(text.len(), TEXT_LEN);
        assert_eq!(sealer.open(text.as_bytes()), Some(pin()));
    }

    #[test]
    fn a_new_key_opens_before_it_seals() {
        let old = Sealer::new(&[key(1, true)]);
        let both = Sealer::new(&[key(1, true), key(2, false)]);
        let promoted = Sealer::new(&[key(1, true), key(2, true)]);
        let by_both = both.seal(pin(), [1; 12]).unwrap();
        assert_eq!(old.open(by_both.as_bytes()), Some(pin()), "still sealed with the old key");
        let by_promoted = promoted.seal(pin(), [1; 12]).unwrap();
        assert_eq!(both.open(by_promoted.as_bytes()), Some(pin()));
        assert_eq!(old.open(by_promoted.as_bytes()), None);
    }

    #[test]
    fn without_a_key_nothing_is_sealed() {
        assert_eq!(Sealer::new(&[]).seal(pin(), [0; 12]), None);
    }

    #[test]
    fn every_bit_flip_is_ignored() {
        let sealer = Sealer::new(&[key(1, true)]);
        let text = sealer.seal(pin(), [9; 12]).unwrap();
        for at in 0..text.len() {
            for bit in 0..8 {
                let mut damaged = text.clone().into_bytes();
                damaged[at] ^= 1 << bit;
                assert_eq!(sealer.open(&damaged), None, "byte {at} bit {bit}");
            }
        }
    }

    #[test]
    fn cookies_are_found_in_all_fields() {
        let mut headers = http::HeaderMap::new();
        headers.append("cookie", "a=1; tidelock=x;tidelock=\"y\"".parse().unwrap());
        headers.append("cookie", "tidelockx=no; tidelock=z".parse().unwrap());
        let found: Vec<&[u8]> = cookies(&headers, "tidelock").collect();
        assert_eq!(found, [b"x", b"y", b"z"]);
    }

    proptest! {
        #[test]
        fn opening_anything_never_panics(value: Vec<u8>) {
            let _ = Sealer::new(&[key(1, true)]).open(&value);
        }

        /// However the pairs stand in fields, with whatever white space: those of the name are found, in order, and no others.
        #[test]
        fn cookies_are_found_wherever_they_stand(
            pairs in proptest::collection::vec(("(tidelock|tidelockx|xtidelock|a|TideLock)", "[!#-+\\--:<-\\[\\]-~]{0,8}", 0..4usize), 0..8),
        ) {
            let mut lines = vec![String::new()];
            for (name, value, form) in &pairs {
                match form {
                    0 => lines.push(String::new()),
                    _ if lines.last().unwrap().is_empty() => {}
                    1 => lines.last_mut().unwrap().push(';'),
                    2 => lines.last_mut().unwrap().push_str("; "),
                    _ => lines.last_mut().unwrap().push_str(" ;\t"),
                }
                lines.last_mut().unwrap().push_str(&format!("{name}={value}"));
            }
            let mut headers = http::HeaderMap::new();
            for line in &lines {
                headers.append("cookie", line.parse().unwrap());
            }
            let found: Vec<&[u8]> = cookies(&headers, "tidelock").collect();
            let ours = pairs.iter().filter(|(name, ..)| name == "tidelock");
            prop_assert_eq!(found, ours.map(|(_, value, _)| value.as_bytes()).collect::<Vec<_>>());
        }

        #[test]
        fn base64_roundtrip(bytes: Vec<u8>) {
            let text = base64url::encode(&bytes);
            let mut out = vec![0; bytes.len()];
            prop_assert!(base64url::decode(text.as_bytes(), &mut out));
            prop_assert_eq!(out, bytes);
        }
    }
}
