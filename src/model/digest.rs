//! The hash of one record and the digest of a set of records.
//!
//! A record's hash is BLAKE3 over its canonical bytes (see [`super::record`]). A collection's digest is
//! the sum of its records' hashes modulo 2^256: it does not depend on order, every write can maintain
//! it by subtracting the old hash and adding the new one, and unlike XOR it counts duplicates.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// BLAKE3 of a record's canonical bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RecordHash(pub [u8; 32]);

impl RecordHash {
    /// Hash of canonical bytes.
    pub fn of(canonical: &[u8]) -> Self {
        Self(*blake3::hash(canonical).as_bytes())
    }
}

impl fmt::Debug for RecordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

/// Sum of record hashes modulo 2^256, little-endian 64-bit limbs.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Digest([u64; 4]);

impl Digest {
    /// The digest of nothing.
    pub const EMPTY: Self = Self([0; 4]);

    /// Adds one record.
    pub fn add(&mut self, hash: &RecordHash) {
        let mut carry = false;
        for (limb, addend) in self.0.iter_mut().zip(limbs(&hash.0)) {
            let (sum, first) = limb.overflowing_add(addend);
            let (sum, second) = sum.overflowing_add(u64::from(carry));
            *limb = sum;
            carry = first | second;
        }
    }

    /// Takes one record away.
    pub fn subtract(&mut self, hash: &RecordHash) {
        let mut borrow = false;
        for (limb, subtrahend) in self.0.iter_mut().zip(limbs(&hash.0)) {
            let (difference, first) = limb.overflowing_sub(subtrahend);
            let (difference, second) = difference.overflowing_sub(u64::from(borrow));
            *limb = difference;
            borrow = first | second;
        }
    }

    /// Adds the records of another digest.
    pub fn add_all(&mut self, other: &Self) {
        self.add(&RecordHash(other.to_bytes()));
    }

    /// Takes the records of another digest away.
    pub fn subtract_all(&mut self, other: &Self) {
        self.subtract(&RecordHash(other.to_bytes()));
    }

    /// 32 bytes, little-endian.
    pub fn to_bytes(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        for (chunk, limb) in bytes.chunks_exact_mut(8).zip(self.0) {
            chunk.copy_from_slice(&limb.to_le_bytes());
        }
        bytes
    }

    /// The inverse of [`Digest::to_bytes`].
    pub fn from_bytes(bytes: &[u8; 32]) -> Self {
        let mut digest = Self::EMPTY;
        for (limb, value) in digest.0.iter_mut().zip(limbs(bytes)) {
            *limb = value;
        }
        digest
    }
}

fn limbs(bytes: &[u8; 32]) -> impl Iterator<Item = u64> + '_ {
    bytes.chunks_exact(8).map(|chunk| {
        chunk
            .iter()
            .rev()
            .fold(0, |limb, byte| (limb << 8) | u64::from(*byte))
    })
}

fn write_hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.to_bytes(), f)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let hash = blake3::Hash::from_hex(text).map_err(|error| error.to_string())?;
        Ok(Self::from_bytes(hash.as_bytes()))
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn digest(hashes: &[[u8; 32]]) -> Digest {
        let mut digest = Digest::EMPTY;
        for hash in hashes {
            digest.add(&RecordHash(*hash));
        }
        digest
    }

    #[test]
    fn carries_across_all_limbs() {
        let mut one = [0; 32];
        one[0] = 1;
        assert_eq!(digest(&[[0xff; 32], one]), Digest::EMPTY);
        let mut wrapped = Digest::EMPTY;
        wrapped.subtract(&RecordHash(one));
        assert_eq!(wrapped.to_bytes(), [0xff; 32]);
    }

    proptest! {
        #[test]
        fn order_does_not_matter_and_subtraction_undoes(
            mut hashes in prop::collection::vec(any::<[u8; 32]>(), 1..20), extra: [u8; 32],
        ) {
            let before = digest(&hashes);
            hashes.reverse();
            prop_assert_eq!(digest(&hashes), before);
            let mut changed = before;
            changed.add(&RecordHash(extra));
            changed.subtract(&RecordHash(extra));
            prop_assert_eq!(changed, before);
            prop_assert_eq!(before.to_string().parse::<Digest>(), Ok(before));
        }
    }
}
