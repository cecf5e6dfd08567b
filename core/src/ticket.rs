//! TLS session tickets that every node of the fleet opens: sealed under keys derived from those of
//! the cookies, which are agreed already. A client resumes on whichever node it reaches.

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};

use crate::affinity::CookieKey;

const NONCE_LEN: usize = 12;
const VERSION: u8 = 1;
/// Version, key id, nonce.
const HEAD_LEN: usize = 2 + NONCE_LEN;

/// The keys, ready to seal and open. The newest promoted one seals; all of them open.
pub struct TicketSealer {
    keys: Vec<(u8, LessSafeKey)>,
    current: Option<usize>,
}

impl std::fmt::Debug for TicketSealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TicketSealer({} keys)", self.keys.len())
    }
}

impl TicketSealer {
    pub fn new(keys: &[CookieKey]) -> TicketSealer {
        let derived = |key: &CookieKey| {
            // A key for one purpose each (RFC 5869 section 3.2): a ticket is no cookie.
            let secret = Salt::new(HKDF_SHA256, b"tidelock").extract(&key.secret.0);
            let okm = secret.expand(&[b"tls session ticket"], &AES_256_GCM_SIV).expect("32 bytes are few");
            (key.id, LessSafeKey::new(UnboundKey::from(okm)))
        };
        TicketSealer { keys: keys.iter().map(derived).collect(), current: keys.iter().rposition(|key| key.promoted) }
    }

    pub fn can_seal(&self) -> bool {
        self.current.is_some()
    }

    /// `nonce` is 96 random bits.
    pub fn seal(&self, state: &[u8], nonce: [u8; NONCE_LEN]) -> Option<Vec<u8>> {
        let (id, key) = &self.keys[self.current?];
        let mut ticket = [&[VERSION, *id][..], &nonce, state].concat();
        let aad = Aad::from([VERSION, *id]);
        let tag =
            key.seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), aad, &mut ticket[HEAD_LEN..]).ok()?;
        ticket.extend_from_slice(tag.as_ref());
        Some(ticket)
    }

    /// What was sealed; None for anything that this fleet did not seal.
    pub fn open(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (head, sealed) = ticket.split_at_checked(HEAD_LEN)?;
        if head[0] != VERSION {
            return None;
        }
        let (id, key) = self.keys.iter().find(|(known, _)| *known == head[1])?;
        let nonce = Nonce::try_assume_unique_for_key(&head[2..]).ok()?;
        let mut state = sealed.to_vec();
        let length = key.open_in_place(nonce, Aad::from([VERSION, *id]), &mut state).ok()?.len();
        state.truncate(length);
        Some(state)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::affinity::KeySecret;

    fn key(id: u8, promoted: bool) -> CookieKey {
        CookieKey { id, secret: KeySecret([id; 32]), promoted }
    }

    #[test]
    fn a_key_opens_before_it_seals() {
        let (old, both) = (TicketSealer::new(&[key(1, true)]), TicketSealer::new(&[key(1, true), key(2, false)]));
        let new = TicketSealer::new(&[key(1, true), key(2, true)]);
        let sealed = |by: &TicketSealer| by.seal(b"state", [7; 12]).unwrap();
        assert_eq!(both.open(&sealed(&old)).unwrap(), b"state");
        assert_eq!(both.open(&sealed(&new)).unwrap(), b"state");
        assert_eq!(old.open(&sealed(&new)), None);
        assert!(!TicketSealer::new(&[key(1, false)]).can_seal());
    }

    proptest! {
        #[test]
        fn only_the_fleets_own_tickets_open(state: Vec<u8>, nonce: [u8; 12], at: usize, bit in 0u8..8, junk: Vec<u8>) {
            let sealer = TicketSealer::new(&[key(1, true)]);
            let mut ticket = sealer.seal(&state, nonce).unwrap();
            prop_assert_eq!(sealer.open(&ticket).unwrap(), state);
            let at = at % ticket.len();
            ticket[at] ^= 1 << bit;
            prop_assert_eq!(sealer.open(&ticket), None);
            prop_assert_eq!(sealer.open(&junk), None);
        }
    }
}
