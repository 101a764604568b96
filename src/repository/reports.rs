//! What verifications found: kept beside the manifests, which never change, and as marks on packs that
//! were damaged, which other backups may need as well.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::format::{Manifest, Verification};
use super::{DAMAGED, Repository, VERIFICATIONS, beside};
use crate::error::{Error, Result};
use crate::model::stored;

impl Repository {
    pub(super) fn damaged_packs(&self) -> Result<BTreeSet<String>> {
        let marks = self.backend.list(DAMAGED)?;
        Ok(marks.iter().map(|mark| mark.name().to_owned()).collect())
    }

    /// Notes which of what was looked at, packs and parts by hash, is damaged, and that the rest is not.
    ///
    /// # Errors
    /// `StorageFault`.
    pub fn mark_damaged<'a>(
        &self,
        looked_at: impl Iterator<Item = &'a str>,
        damaged: &BTreeSet<String>,
    ) -> Result<()> {
        let marked = self.damaged_packs()?;
        for hash in damaged.difference(&marked) {
            self.backend.put(&damaged_path(hash), Bytes::new())?;
        }
        for hash in looked_at.filter(|hash| marked.contains(*hash)) {
            if !damaged.contains(hash) {
                self.backend.delete(&damaged_path(hash))?;
            }
        }
        Ok(())
    }

    /// Takes the marks of packs away that were written again since.
    pub(super) fn unmark_whole(
        &self,
        manifest: &Manifest,
        marked: &BTreeSet<String>,
    ) -> Result<()> {
        if marked.is_empty() {
            return Ok(());
        }
        let packs = manifest
            .packs()
            .filter(|pack| marked.contains(&pack.hash) && self.pack(pack).is_ok());
        // Parts that are marked were compared with what is stored a moment ago.
        let parts = manifest.parts.iter().map(|part| &part.hash);
        let parts = parts.filter(|hash| marked.contains(*hash));
        for hash in packs.map(|pack| &pack.hash).chain(parts) {
            self.backend.delete(&damaged_path(hash))?;
        }
        Ok(())
    }

    /// Keeps the result of a verification, in the place of an earlier one.
    ///
    /// # Errors
    /// `StorageFault`.
    pub fn put_verification(&self, id: &str, verification: &Verification) -> Result<()> {
        let bytes = stored::encode(verification);
        self.backend.put(&beside(VERIFICATIONS, id), bytes.into())
    }

    /// Forgets the verification of a backup.
    ///
    /// # Errors
    /// `StorageFault`.
    pub fn remove_verification(&self, id: &str) -> Result<()> {
        self.backend.delete(&beside(VERIFICATIONS, id)).map(|_| ())
    }

    /// The newest verification of a backup. One that cannot be read counts as none.
    ///
    /// # Errors
    /// `StorageFault` when the repository cannot be asked.
    pub fn verification(&self, id: &str) -> Result<Option<Verification>> {
        let bytes = self.backend.get_or_garbled(&beside(VERIFICATIONS, id))?;
        Ok(bytes.and_then(|bytes| decode(id, &bytes)))
    }
}

/// A kept verification; one that cannot be read counts as none.
pub(super) fn decode(id: &str, bytes: &[u8]) -> Option<Verification> {
    let decoded = stored::decode(bytes).map_err(Error::from);
    decoded
        .inspect_err(|error| tracing::warn!(backup = id, %error, "a verification cannot be read"))
        .ok()
}

fn damaged_path(hash: &str) -> String {
    format!("{DAMAGED}/{hash}")
}
