//! What may be changed of a backup after it was made, and its removal.

use std::collections::BTreeSet;

use super::format::{Annotations, Manifest};
use super::{ANNOTATIONS, Repository, VERIFICATIONS, beside, manifest_path};
use crate::error::{Error, Kind, Result};

impl Repository {
    /// Changes what may be changed of a backup; the backup as it is then.
    ///
    /// # Errors
    /// `NotFound`, `BackupCorrupt` when its manifest is damaged, `StorageFault`.
    pub fn annotate(&self, id: &str, change: Annotations) -> Result<Manifest> {
        let _one_at_a_time = self.annotating.lock();
        let manifest = self.manifest(id)?;
        let mut annotations = self.annotations(id)?;
        annotations.pinned = change.pinned.or(annotations.pinned);
        annotations.labels = change.labels.or(annotations.labels);
        let bytes = annotations.encode();
        self.backend.put(&beside(ANNOTATIONS, id), bytes.into())?;
        Ok(manifest.annotated(annotations))
    }

    /// What was changed of a backup since it was made. Damaged, it may have been a pin, and counts as one.
    pub(super) fn annotations(&self, id: &str) -> Result<Annotations> {
        let Some(bytes) = self.backend.get_or_garbled(&beside(ANNOTATIONS, id))? else {
            return Ok(Annotations::default());
        };
        Ok(Annotations::decode(&bytes).unwrap_or_else(|| {
            tracing::warn!(
                backup = id,
                "its annotations are damaged; it counts as pinned"
            );
            Annotations {
                pinned: Some(true),
                labels: None,
            }
        }))
    }

    /// Removes a backup: its manifest, then what stands beside it. Its packs, whose hashes are returned, stay
    /// until they are collected. (A pin that another process sets in the same moment may come too late.)
    ///
    /// # Errors
    /// `NotFound`; `Conflict` when it is pinned; `Unprocessable` when another program wrote it; `StorageFault`.
    pub fn remove(&self, id: &str) -> Result<BTreeSet<String>> {
        let _one_at_a_time = self.annotating.lock();
        let (pinned, packs) = match self.manifest(id) {
            Ok(manifest) => {
                let manifest = manifest.annotated(self.annotations(id)?);
                let needed = manifest.needed().map(str::to_owned);
                (manifest.pinned, needed.collect())
            }
            // One that nobody can restore may go all the same.
            Err(error) if error.kind() == Kind::BackupCorrupt => {
                let pinned = self.annotations(id)?.pinned == Some(true);
                (pinned, BTreeSet::new())
            }
            Err(error) => return Err(error),
        };
        if pinned {
            return Err(Error::new(
                Kind::Conflict,
                format!("the backup {id} is pinned; take the pin away first"),
            ));
        }
        self.backend.delete(&manifest_path(id))?;
        self.backend.delete(&beside(ANNOTATIONS, id))?;
        self.backend.delete(&beside(VERIFICATIONS, id))?;
        Ok(packs)
    }
}
