//! Randomness that a seed repeats.

use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::ops::Range;
use std::time::Duration;

const DEFAULT_SEED: u64 = 20_261_123;

/// The seed of this run.
pub(crate) fn seed() -> u64 {
    match std::env::var("VECTORKEEP_CRASH_SEED") {
        Ok(text) => text
            .parse()
            .expect("VECTORKEEP_CRASH_SEED must be a whole number"),
        Err(_) => DEFAULT_SEED,
    }
}

/// SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators).
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// A generator that depends on all of `origin`, and on nothing else.
    pub(crate) fn of(origin: impl Hash) -> Self {
        let mut hasher = DefaultHasher::new();
        origin.hash(&mut hasher);
        Self(hasher.finish())
    }

    pub(crate) fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn within(&mut self, range: Range<u64>) -> u64 {
        range.start + self.number() % (range.end - range.start)
    }

    pub(crate) fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.within(0..length as u64)).unwrap()
    }

    pub(crate) fn percent(&mut self, chance: u64) -> bool {
        self.within(0..100) < chance
    }

    pub(crate) fn duration(&mut self, range: Range<Duration>) -> Duration {
        let micros = |duration: Duration| u64::try_from(duration.as_micros()).unwrap();
        Duration::from_micros(self.within(micros(range.start)..micros(range.end)))
    }
}
