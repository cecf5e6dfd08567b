//! Bytes that somebody made worse: a seeded generator of damage to valid encodings, and the trial that every
//! decoder must stand. It is included by the tests of several crates, so it needs nothing but std.
//!
//! A decoder never panics, never asks for memory beyond a bound that grows with its input, and what it accepts
//! it writes in a form that it reads as the same again. `TIDELOCK_HOSTILE_CASES=N` tries N pieces of damage on
//! each decoder instead of the default.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use super::counting;

/// A second or two for each decoder without optimisation.
const CASES: u64 = 12_000;

/// One row of the table.
pub(crate) struct Decoder {
    pub(crate) name: &'static str,
    /// Valid encodings, to be damaged.
    pub(crate) samples: Vec<Vec<u8>>,
    /// What was read, written again; `None` where it is refused.
    pub(crate) decode: fn(&[u8]) -> Option<Vec<u8>>,
    /// Bytes of memory for each byte of input, and whatever the input: asked for in all, not at one time.
    pub(crate) memory: (usize, usize),
}

pub(crate) fn try_all(decoders: &[Decoder]) {
    for decoder in decoders {
        let mut accepted = 0;
        let mut most = 0;
        for sample in &decoder.samples {
            assert!((decoder.decode)(sample).is_some(), "{}: a sample is refused: {sample:?}", decoder.name);
        }
        for case in 0..cases() {
            let input = Damage(case).damaged(&decoder.samples);
            let (read, bytes) = counting::during(|| catch_unwind(AssertUnwindSafe(|| (decoder.decode)(&input))));
            let read = read.unwrap_or_else(|panic| {
                eprintln!("{}, case {case}: {input:?}", decoder.name);
                resume_unwind(panic)
            });
            let limit = decoder.memory.0 * input.len() + decoder.memory.1;
            assert!(bytes <= limit, "{}, case {case}: {bytes} bytes for {} of input", decoder.name, input.len());
            most = most.max(bytes);
            if let Some(written) = read {
                accepted += 1;
                let again = (decoder.decode)(&written);
                assert_eq!(again.as_ref(), Some(&written), "{}, case {case}: {input:?}", decoder.name);
            }
        }
        println!("{}: {} cases, {accepted} accepted, at most {most} bytes of memory", decoder.name, cases());
    }
}

pub(crate) fn cases() -> u64 {
    std::env::var("TIDELOCK_HOSTILE_CASES").map_or(CASES, |cases| cases.parse().expect("a number of cases"))
}

/// Numbers that decoders trip over.
const NUMBERS: [&str; 9] = [
    "99999999999999999999999999",
    "18446744073709551615",
    "18446744073709551616",
    "-1",
    "-9223372036854775809",
    "1e999",
    "0.5",
    "4294967296",
    "0",
];

/// The largest number in postcard's encoding, and one that has no end.
const VARINTS: [&[u8]; 3] =
    [&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01], &[0xff; 20], &[0xff, 0xff, 0xff, 0xff, 0x0f]];

const BRACKETS: [(&str, &str); 4] =
    [("[", "]"), ("{\"a\":", "}"), ("{\"op\":\"batch\",\"commands\":[", "]}"), ("\"", "\"")];

/// SplitMix64: any seed will do, also those that follow each other.
pub(crate) struct Damage(pub(crate) u64);

impl Damage {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    fn one_of<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }

    pub(crate) fn damaged(&mut self, samples: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = self.one_of(samples).clone();
        // Mostly one piece of damage: what is broken in many places is refused at the first.
        for _ in 0..=self.below(2) * self.below(4) {
            self.once(&mut bytes, samples);
        }
        bytes
    }

    fn once(&mut self, bytes: &mut Vec<u8>, samples: &[Vec<u8>]) {
        let start = self.below(bytes.len() + 1);
        let end = (start + self.below(12)).min(bytes.len());
        match self.below(12) {
            0 | 1 if start < bytes.len() => bytes[start] ^= 1 << self.below(8),
            2 if start < bytes.len() => bytes[start] = *self.one_of(&[0, 1, 0x7f, 0x80, 0xff]),
            3 => bytes.truncate(start),
            // The head of this and the tail of another.
            4 => {
                let other = self.one_of(samples).clone();
                bytes.truncate(start);
                bytes.extend_from_slice(&other[self.below(other.len() + 1)..]);
            }
            5 => drop(bytes.drain(start..end)),
            6 => {
                let piece = bytes[start..end].to_vec();
                let place = self.below(bytes.len() + 1);
                bytes.splice(place..place, piece);
            }
            7 => {
                let noise: Vec<u8> = (0..self.below(9)).map(|_| self.next() as u8).collect();
                bytes.splice(start..start, noise);
            }
            // A length, an index, a number.
            8 => _ = bytes.splice(start..(start + 1).min(bytes.len()), self.one_of(&VARINTS).iter().copied()),
            9 => {
                let number = *self.one_of(&NUMBERS);
                let (from, to) = digits(bytes, start);
                bytes.splice(from..to, number.bytes());
            }
            10 => {
                let depth = 1 + self.below(400);
                let (open, close) = *self.one_of(&BRACKETS);
                bytes.splice(end..end, close.repeat(depth).bytes());
                bytes.splice(start..start, open.repeat(depth).bytes());
            }
            _ => {
                let long = vec![*self.one_of(b"a1[{\"\\\x00\xff"); self.below(3_000)];
                bytes.splice(start..start, long);
            }
        }
    }
}

/// The first run of digits at or behind a place.
fn digits(bytes: &[u8], at: usize) -> (usize, usize) {
    let from = bytes[at..].iter().position(u8::is_ascii_digit).map_or(at, |offset| at + offset);
    let length = bytes[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    (from, from + length)
}
