//! Stored encodings: how values are framed and checked, and the layout of keys and small records.
//!
//! Every stored value is `kind u8 | payload | check 8 bytes`. The check is XXH3 of the payload, seeded with
//! XXH3 of the key, seeded with tree and kind, so a flipped bit, a value under another key and a value in
//! another tree are all seen. It guards against accidents, on every read; against everything else there
//! is the record's BLAKE3 hash. Kind [`INLINE`] carries the payload itself; kind [`SPLIT`] says that it
//! lies in numbered chunks, because sled moves large pages to files that it neither syncs nor reclaims.
//!
//! Integers in keys are big-endian (they sort), in payloads little-endian.

use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::error::{Error, Result};
use crate::model::digest::{Digest, RecordHash};
use crate::model::record::RecordView;

/// Version of everything in this file; written when a store is created, checked when it is opened.
pub(super) const STORE_FORMAT: u32 = 2;

/// The payload stands in the value.
pub(super) const INLINE: u8 = 1;
/// The payload lies in chunks.
pub(super) const SPLIT: u8 = 2;

const CHECK_BYTES: usize = 8;

fn check(tree: u8, key: &[u8], kind: u8, payload: &[u8]) -> [u8; CHECK_BYTES] {
    let place = xxh3_64_with_seed(key, u64::from(tree) << 8 | u64::from(kind));
    xxh3_64_with_seed(payload, place).to_le_bytes()
}

/// Frames a payload for `key` in `tree`.
pub(super) fn seal(tree: u8, key: &[u8], kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(payload.len() + 1 + CHECK_BYTES);
    value.push(kind);
    value.extend_from_slice(payload);
    value.extend_from_slice(&check(tree, key, kind, payload));
    value
}

/// Checks a framed value; returns its kind and payload, or `None` if it is damaged.
pub(super) fn unseal<'a>(tree: u8, key: &[u8], value: &'a [u8]) -> Option<(u8, &'a [u8])> {
    let (kind, rest) = value.split_first()?;
    let (payload, stored) = rest.split_last_chunk::<CHECK_BYTES>()?;
    (check(tree, key, *kind, payload) == *stored).then_some((*kind, payload))
}

/// The head of a split value: in how many chunks it lies, and the hash of all of it. A reader takes
/// head and chunks one after the other; the hash tells when a write came in between.
pub(super) struct SplitHead {
    pub(super) chunks: u32,
    pub(super) hash: [u8; 32],
}

impl SplitHead {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = self.chunks.to_le_bytes().to_vec();
        bytes.extend_from_slice(&self.hash);
        bytes
    }

    pub(super) fn decode(payload: &[u8]) -> Option<Self> {
        let (chunks, rest) = payload.split_first_chunk()?;
        Some(Self {
            chunks: u32::from_le_bytes(*chunks),
            hash: *rest.first_chunk()?,
        })
    }

    /// The number of chunks behind a stored (framed) value, without checking it.
    pub(super) fn chunks_behind(value: &[u8]) -> u32 {
        match value.split_first() {
            Some((&SPLIT, rest)) => Self::decode(rest).map_or(0, |head| head.chunks),
            _ => 0,
        }
    }
}

/// Key of chunk `index` of the value under `key` in `tree`.
pub(super) fn chunk_key(tree: u8, key: &[u8], index: u32) -> Vec<u8> {
    let mut chunk = Vec::with_capacity(key.len() + 5);
    chunk.push(tree);
    chunk.extend_from_slice(key);
    chunk.extend_from_slice(&index.to_be_bytes());
    chunk
}

/// `records`: collection, ordinal.
pub(super) fn record_key(collection: Uuid, ordinal: u64) -> Vec<u8> {
    join(collection, &ordinal.to_be_bytes())
}

/// Ids up to this length stand in their key; longer ones are found by their hash, so that no key makes
/// a page too large.
const MAX_ID_KEY_BYTES: usize = 256;
const PLAIN_ID: u8 = 0;
const HASHED_ID: u8 = 1;

/// `ids`: collection, kind of key, id or its hash.
pub(super) fn id_key(collection: Uuid, id: &str) -> Vec<u8> {
    if id.len() <= MAX_ID_KEY_BYTES {
        let mut key = join(collection, &[PLAIN_ID]);
        key.extend_from_slice(id.as_bytes());
        return key;
    }
    let mut key = join(collection, &[HASHED_ID]);
    key.extend_from_slice(blake3::hash(id.as_bytes()).as_bytes());
    key
}

/// The id that an `ids` key stands for, for people.
pub(super) fn printable_id(key: &[u8]) -> String {
    match after_collection(key).ok().and_then(<[u8]>::split_first) {
        Some((&PLAIN_ID, id)) => format!("{:?}", String::from_utf8_lossy(id)),
        _ => "a long id".to_owned(),
    }
}

/// `tombstones`: collection, sequence, ordinal.
pub(super) fn tombstone_key(collection: Uuid, sequence: u64, ordinal: u64) -> Vec<u8> {
    let mut key = join(collection, &sequence.to_be_bytes());
    key.extend_from_slice(&ordinal.to_be_bytes());
    key
}

fn join(collection: Uuid, rest: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(16 + rest.len());
    key.extend_from_slice(collection.as_bytes());
    key.extend_from_slice(rest);
    key
}

/// What follows the collection in a key of `records`, `ids` or `tombstones`.
pub(super) fn after_collection(key: &[u8]) -> Result<&[u8]> {
    key.get(16..)
        .ok_or_else(|| Error::storage("a stored key is too short"))
}

/// Reads a big-endian integer, as keys have them.
pub(super) fn be_u64(bytes: &[u8]) -> Result<u64> {
    bytes
        .first_chunk()
        .map(|bytes| u64::from_be_bytes(*bytes))
        .ok_or_else(|| Error::storage("a stored number is too short"))
}

/// As [`be_u64`], little-endian.
pub(super) fn le_u64(bytes: &[u8]) -> Result<u64> {
    bytes
        .first_chunk()
        .map(|bytes| u64::from_le_bytes(*bytes))
        .ok_or_else(|| Error::storage("a stored number is too short"))
}

/// Payload of `records`: sequence, record hash, canonical record.
pub(super) fn encode_record(sequence: u64, hash: &RecordHash, canonical: &[u8]) -> Vec<u8> {
    let mut payload = Vec::with_capacity(40 + canonical.len());
    payload.extend_from_slice(&sequence.to_le_bytes());
    payload.extend_from_slice(&hash.0);
    payload.extend_from_slice(canonical);
    payload
}

/// The write that made a stored record.
pub(super) fn record_sequence(payload: &[u8]) -> Result<u64> {
    le_u64(payload)
}

/// A stored record, borrowed from its payload.
#[derive(Clone, Copy, Debug)]
pub struct StoredRecord<'a> {
    /// The write that made this version.
    pub sequence: u64,
    /// Hash of the canonical bytes, as stored.
    pub hash: RecordHash,
    /// The canonical bytes.
    pub canonical: &'a [u8],
    /// The record in them.
    pub view: RecordView<'a>,
}

impl<'a> StoredRecord<'a> {
    pub(super) fn decode(payload: &'a [u8]) -> Result<Self> {
        let short = || Error::storage("a stored record is too short");
        let (sequence, rest) = payload.split_first_chunk().ok_or_else(short)?;
        let (hash, canonical) = rest.split_first_chunk().ok_or_else(short)?;
        Ok(Self {
            sequence: u64::from_le_bytes(*sequence),
            hash: RecordHash(*hash),
            canonical,
            view: RecordView::parse(canonical)?,
        })
    }
}

/// What changes with every write to a collection; stored in the same transaction as the write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// Live records.
    pub count: u64,
    /// The ordinal that the next new record gets.
    pub next_ordinal: u64,
    /// The last write to this collection.
    pub sequence: u64,
    /// Tombstones are complete for every sequence above this one.
    pub tombstone_floor: u64,
    /// Canonical bytes of all live records.
    pub bytes: u64,
    /// Sum of the hashes of all live records.
    pub digest: Digest,
}

impl Head {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut payload = Vec::with_capacity(72);
        for number in [
            self.count,
            self.next_ordinal,
            self.sequence,
            self.tombstone_floor,
            self.bytes,
        ] {
            payload.extend_from_slice(&number.to_le_bytes());
        }
        payload.extend_from_slice(&self.digest.to_bytes());
        payload
    }

    pub(super) fn decode(payload: &[u8]) -> Result<Self> {
        let short = || Error::storage("a collection's head is too short");
        let mut rest = payload;
        let mut next = || {
            let (number, tail) = rest.split_first_chunk().ok_or_else(short)?;
            rest = tail;
            Ok::<_, Error>(u64::from_le_bytes(*number))
        };
        let (count, next_ordinal, sequence, tombstone_floor, bytes) =
            (next()?, next()?, next()?, next()?, next()?);
        Ok(Self {
            count,
            next_ordinal,
            sequence,
            tombstone_floor,
            bytes,
            digest: Digest::from_bytes(rest.first_chunk().ok_or_else(short)?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_and_every_wrong_place_is_seen() {
        let value = seal(3, b"key", INLINE, b"payload");
        assert_eq!(unseal(3, b"key", &value), Some((INLINE, &b"payload"[..])));
        for bit in 0..value.len() * 8 {
            let mut damaged = value.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(unseal(3, b"key", &damaged), None, "bit {bit}");
        }
        assert_eq!(unseal(4, b"key", &value), None);
        assert_eq!(unseal(3, b"kez", &value), None);
        for len in 0..value.len() {
            assert_eq!(unseal(3, b"key", &value[..len]), None);
        }
    }

    #[test]
    fn head_survives_encoding() {
        let mut digest = Digest::EMPTY;
        digest.add(&RecordHash([7; 32]));
        let head = Head {
            count: 1,
            next_ordinal: 2,
            sequence: 3,
            tombstone_floor: 4,
            bytes: 5,
            digest,
        };
        assert_eq!(Head::decode(&head.encode()).ok(), Some(head));
        assert!(Head::decode(&[0; 71]).is_err());
    }
}
