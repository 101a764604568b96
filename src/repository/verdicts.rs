//! What verifications found: kept beside the manifests, which never change, and as marks on packs that
//! were damaged, which other backups may need as well.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::format::{Manifest, PackReference, Verification, VerificationLevel};
use super::{DAMAGED, Repository, VERIFICATIONS, beside};
use crate::error::{Error, Result};

impl Repository {
    /// Whether the newest verification of a backup, or one of another backup that shares packs with it, found
    /// damage that is not known to be gone.
    ///
    /// # Errors
    /// `StorageFault` when the repository cannot be asked.
    pub fn is_known_damaged(&self, manifest: &Manifest) -> Result<bool> {
        if self
            .verification(&manifest.id)?
            .is_some_and(|found| !found.ok)
        {
            return Ok(true);
        }
        let damaged = self.damaged_packs()?;
        Ok(!damaged.is_empty() && manifest.packs().any(|pack| damaged.contains(&pack.hash)))
    }

    /// Whether a verification that read its bytes found it sound, and nothing is known against it since.
    ///
    /// # Errors
    /// `StorageFault` when the repository cannot be asked.
    pub fn is_verified_sound(&self, manifest: &Manifest) -> Result<bool> {
        let found = self.verification(&manifest.id)?;
        let read = found.is_some_and(|found| found.ok && found.level > VerificationLevel::Manifest);
        Ok(read && !self.is_known_damaged(manifest)?)
    }

    pub(super) fn damaged_packs(&self) -> Result<BTreeSet<String>> {
        let marks = self.backend.list(DAMAGED)?;
        Ok(marks.iter().map(|mark| mark.name().to_owned()).collect())
    }

    /// Notes which of the packs that were looked at are damaged, and that the others are not.
    ///
    /// # Errors
    /// `StorageFault`.
    pub fn mark_damaged<'a>(
        &self,
        looked_at: impl Iterator<Item = &'a PackReference>,
        damaged: &BTreeSet<String>,
    ) -> Result<()> {
        let marked = self.damaged_packs()?;
        for hash in damaged.difference(&marked) {
            self.backend.put(&damaged_path(hash), Bytes::new())?;
        }
        for pack in looked_at.filter(|pack| marked.contains(&pack.hash)) {
            if !damaged.contains(&pack.hash) {
                self.backend.delete(&damaged_path(&pack.hash))?;
            }
        }
        Ok(())
    }

    /// Takes the marks of packs away that were written again since.
    pub(super) fn unmark_whole(&self, manifest: &Manifest) -> Result<()> {
        let marked = self.damaged_packs()?;
        if marked.is_empty() {
            return Ok(());
        }
        for pack in manifest.packs().filter(|pack| marked.contains(&pack.hash)) {
            if self.pack(pack).is_ok() {
                self.backend.delete(&damaged_path(&pack.hash))?;
            }
        }
        Ok(())
    }

    /// Keeps the result of a verification, in the place of an earlier one.
    ///
    /// # Errors
    /// `StorageFault`.
    pub fn put_verification(&self, id: &str, verification: &Verification) -> Result<()> {
        let bytes = serde_json::to_vec_pretty(verification)
            .map_err(|error| Error::internal("a verification cannot be encoded").because(error))?;
        self.backend.put(&beside(VERIFICATIONS, id), bytes.into())
    }

    /// The newest verification of a backup. One that cannot be read counts as none.
    ///
    /// # Errors
    /// `StorageFault` when the repository cannot be asked.
    pub fn verification(&self, id: &str) -> Result<Option<Verification>> {
        let bytes = self.backend.get(&beside(VERIFICATIONS, id))?;
        Ok(bytes.and_then(|bytes| {
            serde_json::from_slice(&bytes)
                .inspect_err(
                    |error| tracing::warn!(backup = id, %error, "a verification cannot be read"),
                )
                .ok()
        }))
    }
}

fn damaged_path(hash: &str) -> String {
    format!("{DAMAGED}/{hash}")
}
