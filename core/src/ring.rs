//! The consistent-hash ring: a deterministic layer over the `hashring` crate.
//!
//! `hashring` finds the point at or after a position. Its own hashing goes through
//! `std::hash::Hash`, whose bytes may change between compilers, so positions are computed here,
//! from canonical bytes with XXH3, and passed through an identity hasher. The ring is built once
//! from a sorted list: points that collide keep the one of the smaller name on every node.

use std::hash::{BuildHasher, Hash, Hasher};

use hashring::HashRing;
use twox_hash::XxHash3_64;

/// Points on the ring for one unit of weight. Imbalance of 10 endpoints (busiest over mean):
/// 1.08 at 256, 1.10 to 1.13 at 160, 1.17 to 1.28 at 100.
pub const POINTS_PER_WEIGHT: u32 = 256;

/// Which function places points and keys. It is part of the replicated state: two functions at
/// once in a fleet would send sessions to two places.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub enum RingHash {
    /// XXH3 of the endpoint's name, a zero byte and the point's number in big-endian.
    #[default]
    #[serde(rename = "xxh3-v1")]
    Xxh3V1,
}

/// The position of a key, which is also what [`Ring::walk`] takes.
pub fn position(key: &[u8]) -> u64 {
    XxHash3_64::oneshot(key)
}

fn point_position(name: &str, number: u32) -> u64 {
    let mut bytes = Vec::with_capacity(name.len() + 5);
    bytes.extend_from_slice(name.as_bytes());
    bytes.push(0);
    bytes.extend_from_slice(&number.to_be_bytes());
    position(&bytes)
}

/// A member of the ring: a stable name, its weight, and the index by which the caller knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member<'a> {
    pub name: &'a str,
    pub weight: u32,
    pub index: u32,
}

pub struct Ring {
    points: HashRing<Point, Identity>,
    /// The member's index at each slot, in the order of positions, to walk on from a point.
    order: Vec<u32>,
    members: usize,
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ring({} members, {} points)", self.members, self.order.len())
    }
}

impl Ring {
    pub fn build(members: &[Member<'_>]) -> Ring {
        let mut placed: Vec<(u64, &str, u32)> = members
            .iter()
            .flat_map(|m| {
                (0..m.weight * POINTS_PER_WEIGHT).map(|number| (point_position(m.name, number), m.name, m.index))
            })
            .collect();
        placed.sort_unstable();
        placed.dedup_by_key(|(position, _, _)| *position);
        let order: Vec<u32> = placed.iter().map(|(_, _, index)| *index).collect();
        let mut points = HashRing::with_hasher(Identity);
        let numbered = placed.iter().enumerate();
        points.batch_add(
            numbered.map(|(slot, (position, _, _))| Point { position: *position, slot: slot as u32 }).collect(),
        );
        Ring { points, order, members: members.len() }
    }

    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// The distinct members from `position` on, nearest first.
    pub fn walk(&self, position: u64) -> Walk<'_> {
        let start = self.points.get(&Position(position)).map_or(0, |p| p.slot as usize);
        Walk { ring: self, slot: start, left: self.order.len(), seen: Seen::default() }
    }
}

/// Members in ring order; each once.
pub struct Walk<'a> {
    ring: &'a Ring,
    slot: usize,
    left: usize,
    seen: Seen,
}

impl Iterator for Walk<'_> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        while self.left > 0 && self.seen.len() < self.ring.members {
            let index = self.ring.order[self.slot];
            self.left -= 1;
            self.slot = if self.slot + 1 == self.ring.order.len() { 0 } else { self.slot + 1 };
            if self.seen.insert(index) {
                return Some(index);
            }
        }
        None
    }
}

/// The members already given. Nearly every walk ends at its first member, so the first few sit
/// in the struct and only a long walk allocates.
#[derive(Default)]
struct Seen {
    few: [u32; 4],
    count: usize,
    many: Vec<u32>,
}

impl Seen {
    fn len(&self) -> usize {
        self.count + self.many.len()
    }

    fn insert(&mut self, index: u32) -> bool {
        if self.few[..self.count].contains(&index) || self.many.contains(&index) {
            return false;
        }
        if self.count < self.few.len() {
            self.few[self.count] = index;
            self.count += 1;
        } else {
            self.many.push(index);
        }
        true
    }
}

struct Point {
    position: u64,
    slot: u32,
}

impl Hash for Point {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.position);
    }
}

struct Position(u64);

impl Hash for Position {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0);
    }
}

#[derive(Clone)]
struct Identity;

impl BuildHasher for Identity {
    type Hasher = IdentityHasher;

    fn build_hasher(&self) -> IdentityHasher {
        IdentityHasher(0)
    }
}

/// Gives back the one `u64` that it was fed.
struct IdentityHasher(u64);

impl Hasher for IdentityHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("the ring hashes positions only, which are written as u64");
    }

    fn write_u64(&mut self, position: u64) {
        self.0 = position;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn ring(names: &[String]) -> Ring {
        let members: Vec<Member<'_>> =
            names.iter().enumerate().map(|(i, name)| Member { name, weight: 1, index: i as u32 }).collect();
        Ring::build(&members)
    }

    fn names(n: usize) -> Vec<String> {
        (0..n).map(|i| format!("app-{i}")).collect()
    }

    /// Where these keys lie is a promise to every session out there: a change of this test is a
    /// reshuffle of all fleets, and needs a new `RingHash`.
    #[test]
    fn golden_positions() {
        assert_eq!(position(b""), 0x2d06_8005_38d3_94c2);
        assert_eq!(position(b"a"), 0xe6c6_32b6_1e96_4e1f);
        let ring = ring(&names(10));
        let homes: Vec<u32> =
            (0..16).map(|i| ring.walk(position(format!("session-{i}").as_bytes())).next().unwrap()).collect();
        assert_eq!(homes, GOLDEN_HOMES);
    }

    const GOLDEN_HOMES: [u32; 16] = [8, 6, 9, 8, 9, 5, 2, 1, 0, 6, 8, 4, 9, 4, 7, 2];

    #[test]
    fn an_empty_ring_has_no_walk() {
        assert_eq!(ring(&[]).walk(7).next(), None);
    }

    #[test]
    fn shares_are_even_within_a_fifth() {
        let ring = ring(&names(10));
        let mut counts = BTreeMap::new();
        for i in 0..20_000 {
            *counts.entry(ring.walk(position(format!("k{i}").as_bytes())).next().unwrap()).or_insert(0) += 1;
        }
        let busiest = counts.values().max().unwrap();
        assert!(*busiest < 2_400, "busiest of 10 has {busiest} of 20000");
    }

    proptest! {
        /// Every member comes up exactly once on a walk, whatever the start.
        #[test]
        fn a_walk_visits_each_member_once(n in 1usize..20, start: u64) {
            let mut seen: Vec<u32> = ring(&names(n)).walk(start).collect();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..n as u32).collect::<Vec<_>>());
        }

        /// Taking one member out moves its own keys only, each to the next on its walk.
        #[test]
        fn removing_a_member_moves_only_its_keys(n in 2usize..12, gone in 0usize..12, key: u64) {
            let all = names(n);
            let gone = gone % n;
            let full = ring(&all);
            let members: Vec<Member<'_>> = all.iter().enumerate().filter(|(i, _)| *i != gone)
                .map(|(i, name)| Member { name, weight: 1, index: i as u32 }).collect();
            let less = Ring::build(&members);
            let before = full.walk(key).find(|i| *i != gone as u32);
            prop_assert_eq!(less.walk(key).next(), before);
        }

        /// The order in which members are listed does not matter.
        #[test]
        fn listing_order_does_not_matter(n in 1usize..12, key: u64) {
            let all = names(n);
            let mut members: Vec<Member<'_>> = all.iter().enumerate()
                .map(|(i, name)| Member { name, weight: 1, index: i as u32 }).collect();
            let forward = Ring::build(&members).walk(key).collect::<Vec<_>>();
            members.reverse();
            prop_assert_eq!(Ring::build(&members).walk(key).collect::<Vec<_>>(), forward);
        }
    }
}
