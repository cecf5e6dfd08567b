//! About how many sessions have come to an endpoint lately, for who drains it with its sessions and wonders
//! whether it is worth the wait.
//!
//! Linear counting (Whang, Vander-Zanden, Taylor 1990): each session sets one of many bits, and the bits
//! that are left unset tell how many there were. Exact would be a set that all workers share.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use tidelock_core::affinity::SessionId;

/// 4 KiB a minute. Good to a few percent for up to 100,000 sessions.
const BITS: usize = 1 << 15;
/// Minutes that are looked back at.
const MINUTES: usize = 5;

/// Nothing is allocated before the first session is noted.
#[derive(Debug, Default)]
pub(crate) struct Sessions(OnceLock<Box<[Slot; MINUTES]>>);

#[derive(Debug)]
struct Slot {
    /// Unix time in minutes, of what is noted here.
    minute: AtomicU64,
    words: [AtomicU64; BITS / 64],
}

impl Sessions {
    pub(crate) fn note(&self, session: SessionId, minute: u64) {
        let slots = self.0.get_or_init(|| {
            let slot = || Slot { minute: AtomicU64::new(0), words: std::array::from_fn(|_| AtomicU64::new(0)) };
            Box::new(std::array::from_fn(|_| slot()))
        });
        let slot = &slots[minute as usize % MINUTES];
        // Whoever begins the minute clears it. What others note meanwhile may be lost: it comes again.
        if slot.minute.load(Ordering::Relaxed) != minute && slot.minute.swap(minute, Ordering::Relaxed) != minute {
            slot.words.iter().for_each(|word| word.store(0, Ordering::Relaxed));
        }
        // Ids are random.
        let bit = usize::from(u16::from_be_bytes([session.0[0], session.0[1]])) % BITS;
        let (word, mask) = (&slot.words[bit / 64], 1 << (bit % 64));
        if word.load(Ordering::Relaxed) & mask == 0 {
            word.fetch_or(mask, Ordering::Relaxed);
        }
    }

    /// In this minute and the four before it. None: none ever came.
    pub(crate) fn lately(&self, minute: u64) -> Option<u64> {
        let slots = self.0.get()?;
        let recent = |slot: &&Slot| minute.saturating_sub(slot.minute.load(Ordering::Relaxed)) < MINUTES as u64;
        let recent: Vec<&Slot> = slots.iter().filter(recent).collect();
        let set = |word: usize| recent.iter().fold(0, |bits, slot| bits | slot.words[word].load(Ordering::Relaxed));
        let ones: u32 = (0..BITS / 64).map(|word| set(word).count_ones()).sum();
        let zeros = (BITS - ones as usize).max(1);
        Some((BITS as f64 * (BITS as f64 / zeros as f64).ln()).round() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_estimate_is_close_and_forgets() {
        let sessions = Sessions::default();
        assert_eq!(sessions.lately(100), None);
        // Distinct, and as random as ids are (the finalizer of splitmix64).
        let id = |number: u64| {
            let mixed = (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            SessionId((u128::from(mixed ^ (mixed >> 31)) << 64).to_be_bytes())
        };
        for (minute, until) in [(100, 50u64), (101, 1_000), (104, 20_000)] {
            for number in (0..until).chain(0..until) {
                sessions.note(id(number), minute);
            }
            let found = sessions.lately(minute).unwrap();
            assert!(found.abs_diff(until) <= until / 20 + 1, "{found} for {until}");
        }
        for number in 0..10 {
            sessions.note(id(number), 109);
        }
        assert_eq!(sessions.lately(109), Some(10), "what is older than five minutes is forgotten");
        assert_eq!(sessions.lately(114), Some(0));
    }
}
