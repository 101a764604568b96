//! What a merge gave up: the hashes of the records that lost, by the ordinal they have in the live
//! collection. Kept in a file without a name, so that memory does not grow with the collection.
//!
//! An entry is one byte (0: none, 1: both sides were the same, 2: they differed) and the 32 bytes of the hash.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use crate::error::{Error, Result};
use crate::model::digest::{Digest, RecordHash};

const ENTRY_BYTES: usize = 33;
const SAME: u8 = 1;
const DIFFERENT: u8 = 2;

/// The records that lost, with their number and digest.
pub(super) struct Ledger {
    file: File,
    /// Records on both sides with the same content.
    pub(super) same: u64,
    /// Records on both sides with different content.
    pub(super) different: u64,
    /// Of all that lost.
    pub(super) digest: Digest,
}

impl Ledger {
    /// An empty one; its file is in `scratch` and gone when the process is.
    ///
    /// # Errors
    /// `StorageFault`.
    pub(super) fn new(scratch: &Path) -> Result<Self> {
        let made = std::fs::create_dir_all(scratch);
        let made = made.and_then(|()| tempfile::tempfile_in(scratch));
        Ok(Self {
            file: made.map_err(unusable)?,
            same: 0,
            different: 0,
            digest: Digest::EMPTY,
        })
    }

    /// How many lost.
    pub(super) fn count(&self) -> u64 {
        self.same + self.different
    }

    /// Notes what lost against a record at this ordinal, in the place of what was noted before.
    pub(super) fn set(&mut self, ordinal: u64, lost: &RecordHash, won: &RecordHash) -> Result<()> {
        self.clear(ordinal)?;
        let state = if lost == won { SAME } else { DIFFERENT };
        let mut entry = [0; ENTRY_BYTES];
        let (first, hash) = entry.split_at_mut(1);
        first.fill(state);
        hash.copy_from_slice(&lost.0);
        self.file
            .write_all_at(&entry, place(ordinal))
            .map_err(unusable)?;
        *self.counter(state) += 1;
        self.digest.add(lost);
        Ok(())
    }

    /// Forgets what was noted at an ordinal.
    pub(super) fn clear(&mut self, ordinal: u64) -> Result<()> {
        let mut entry = [0; ENTRY_BYTES];
        match self.file.read_exact_at(&mut entry, place(ordinal)) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(unusable(error)),
        }
        if let Some((state @ (&SAME | &DIFFERENT), hash)) = entry.split_first()
            && let Ok(hash) = <[u8; 32]>::try_from(hash)
        {
            self.file
                .write_all_at(&[0], place(ordinal))
                .map_err(unusable)?;
            *self.counter(*state) -= 1;
            self.digest.subtract(&RecordHash(hash));
        }
        Ok(())
    }

    fn counter(&mut self, state: u8) -> &mut u64 {
        if state == SAME {
            &mut self.same
        } else {
            &mut self.different
        }
    }
}

fn place(ordinal: u64) -> u64 {
    ordinal * ENTRY_BYTES as u64
}

fn unusable(error: std::io::Error) -> Error {
    Error::file("the scratch file of a merge cannot be used", error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_digest_follow_what_is_set_and_cleared() {
        let scratch = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::new(scratch.path()).unwrap();
        let hash = |byte: u8| RecordHash([byte; 32]);
        ledger.set(7, &hash(1), &hash(2)).unwrap();
        ledger.set(3, &hash(5), &hash(5)).unwrap();
        assert_eq!((ledger.same, ledger.different), (1, 1));
        ledger.set(7, &hash(9), &hash(9)).unwrap();
        assert_eq!((ledger.same, ledger.different), (2, 0));
        ledger.clear(3).unwrap();
        ledger.clear(3).unwrap();
        ledger.clear(1_000_000).unwrap();
        let mut expected = Digest::EMPTY;
        expected.add(&hash(9));
        assert_eq!((ledger.count(), ledger.digest), (1, expected));
        assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0);
    }
}
