//! What a store holds, changed by hand while no service runs on it.

use std::path::Path;
use std::time::Instant;

use serde_json::Value;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{BOUND, POLL, text};

/// Trees by their numbers, which stand in the checksums.
const TREES: [&str; 6] = ["meta", "catalog", "records", "ids", "tombstones", "jobs"];

/// What is done to a stored value.
pub(crate) enum Harm {
    /// One bit is another, and the checksum is wrong.
    Flip,
    /// It is gone.
    Remove,
    /// It is this, with its right checksum.
    Rewrite(Vec<u8>),
}

/// Opens the files of a store. sled's threads let go of them a little after the store was closed. Blocks.
pub(super) fn open(data_dir: &Path) -> sled::Db {
    let pointer = std::fs::read(data_dir.join("vectorkeep.json")).unwrap();
    let pointer: Value = serde_json::from_slice(&pointer).unwrap();
    let directory = data_dir.join(text(&pointer["directory"]));
    let settings = std::fs::read(directory.join("conf")).unwrap();
    let settings = String::from_utf8_lossy(&settings);
    let segment = settings
        .lines()
        .find_map(|line| line.strip_prefix("segment_size: "))
        .unwrap();
    let config = sled::Config::new()
        .path(directory)
        .segment_size(segment.trim().parse().unwrap());
    let started = Instant::now();
    loop {
        match config.open() {
            Ok(db) => return db,
            Err(error)
                if error.to_string().contains("could not acquire lock")
                    && started.elapsed() < BOUND =>
            {
                std::thread::sleep(POLL);
            }
            Err(error) => panic!("the store does not open: {error}"),
        }
    }
}

/// Harms the values of a tree that `choose` picks by key and payload; how many. Blocks.
pub(crate) fn harm(
    data_dir: &Path,
    tree: &str,
    choose: impl Fn(&[u8], &[u8]) -> Option<Harm>,
) -> usize {
    let number = TREES.iter().position(|name| *name == tree).unwrap() as u8;
    let db = open(data_dir);
    let opened = db.open_tree(tree).unwrap();
    let entries: Vec<_> = opened.iter().map(Result::unwrap).collect();
    let mut harmed = 0;
    for (key, value) in entries {
        let payload = &value[1..value.len() - 8];
        match choose(&key, payload) {
            None => continue,
            Some(Harm::Remove) => opened.remove(&key).unwrap(),
            Some(Harm::Rewrite(payload)) => {
                opened.insert(&key, seal(number, &key, &payload)).unwrap()
            }
            Some(Harm::Flip) => {
                let mut bytes = value.to_vec();
                let middle = bytes.len() / 2;
                bytes[middle] ^= 0x10;
                opened.insert(&key, bytes).unwrap()
            }
        };
        harmed += 1;
    }
    db.flush().unwrap();
    harmed
}

/// As the format says: kind, payload, XXH3 of the payload seeded with that of the key, seeded with tree and kind.
fn seal(tree: u8, key: &[u8], payload: &[u8]) -> Vec<u8> {
    const INLINE: u8 = 1;
    let place = xxh3_64_with_seed(key, u64::from(tree) << 8 | u64::from(INLINE));
    let check = xxh3_64_with_seed(payload, place).to_le_bytes();
    [&[INLINE], payload, &check].concat()
}
