//! What verifications found: kept beside the manifests, which never change, and as marks on packs that
//! were damaged, which other backups may need as well.

use std::collections::BTreeSet;

use bytes::Bytes;
use chrono::{DateTime, Utc};

use super::format::{Manifest, PackReference, Verification, VerificationLevel};
use super::{DAMAGED, Repository, VERIFICATIONS, beside};
use crate::error::{Error, Result};

/// A backup that a verification of its records, or a drill, found sound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedBackup {
    /// The backup.
    pub id: String,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When that was found.
    pub verified_at: DateTime<Utc>,
}

/// What watchers want to know of all backups.
#[derive(Clone, Debug, Default)]
pub struct BackupsSeen {
    /// The newest one's id.
    pub newest: Option<String>,
    /// The newest one that is known to be sound.
    pub verified: Option<VerifiedBackup>,
}

impl Repository {
    /// The newest backup, and the newest that was verified down to its records and of which nothing bad is known
    /// since.
    ///
    /// # Errors
    /// `StorageFault` or `RemoteUnavailable` when the repository cannot be asked.
    pub fn backups_seen(&self) -> Result<BackupsSeen> {
        let (manifests, _) = self.backups()?;
        let damaged = self.damaged_packs()?;
        let mut seen = BackupsSeen {
            newest: manifests.first().map(|manifest| manifest.id.clone()),
            verified: None,
        };
        // One listing, and then only what is there: most backups may never have been verified.
        let verdicts = self.backend.list(VERIFICATIONS)?;
        let verdicts: BTreeSet<&str> = verdicts
            .iter()
            .map(|verdict| verdict.path.as_str())
            .collect();
        for manifest in manifests {
            if !verdicts.contains(beside(VERIFICATIONS, &manifest.id).as_str()) {
                continue;
            }
            let found = self.verification(&manifest.id)?;
            let sound = found.filter(|found| found.ok && found.level >= VerificationLevel::Records);
            if let Some(found) = sound
                && !manifest.packs().any(|pack| damaged.contains(&pack.hash))
            {
                seen.verified = Some(VerifiedBackup {
                    id: manifest.id,
                    created_at: manifest.created_at,
                    verified_at: found.at,
                });
                break;
            }
        }
        Ok(seen)
    }

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
