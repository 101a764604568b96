//! What a restore would do, and refusing one that would do nothing.

use serde::{Deserialize, Serialize};

use super::selection::{Selected, read};
use super::{Comparison, RestorePlan};
use crate::engine::{Engine, Namespaces};
use crate::error::{Error, Result};
use crate::model::names::CollectionName;
use crate::operations::conflict::{Action, DecidedTarget, RecordCounts};
use crate::progress::Progress;
use crate::repository::Repository;
use crate::repository::format::ManifestCollection;

/// Ids that an outcome names; it is kept for weeks.
const MAX_NAMED_IDS: usize = 20;

/// What a restore would do.
#[derive(Clone, Debug)]
pub struct RestorePreview {
    /// The backup.
    pub backup: String,
    /// Per collection.
    pub collections: Vec<PreviewedCollection>,
    /// Tenants and databases that would be made, beside those of the collections.
    pub namespaces: Namespaces,
}

/// What a restore would do with one collection.
#[derive(Clone, Debug)]
pub struct PreviewedCollection {
    /// Its name in the backup.
    pub name: CollectionName,
    /// Where it would go, and how.
    pub target: DecidedTarget,
    /// What would happen to records.
    pub counts: RecordCounts,
    /// Ids that are asked for and not in the backup.
    pub missing: MissingIds,
}

/// Ids that were asked for and are not there.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct MissingIds {
    /// How many.
    pub count: u64,
    /// The first of them.
    pub first: Vec<String>,
}

impl From<Vec<String>> for MissingIds {
    fn from(ids: Vec<String>) -> Self {
        let (count, mut first) = (ids.len() as u64, ids);
        first.truncate(MAX_NAMED_IDS);
        Self { count, first }
    }
}

impl RestorePlan {
    /// What it would do: reads the backup where that depends on the records.
    ///
    /// # Errors
    /// `BackupCorrupt`, `Canceled`, `StorageFault`.
    pub fn preview(
        &self,
        engine: &Engine,
        repository: &Repository,
        progress: &Progress,
    ) -> Result<RestorePreview> {
        let preview = |(source, target): (&ManifestCollection, &DecidedTarget)| {
            let (counts, missing) =
                self.preview_of(engine, repository, (source, target), progress)?;
            Ok(PreviewedCollection {
                name: source.name.clone(),
                target: target.clone(),
                counts,
                missing,
            })
        };
        let collections: Vec<_> = self.sources().map(preview).collect::<Result<_>>()?;
        self.check_selected(collections.iter().map(|collection| {
            let (action, counts) = (collection.target.action, collection.counts);
            let selected = match action {
                Action::Skipped => 0,
                _ => counts.inserted + counts.updated + counts.unchanged + counts.skipped,
            };
            (action, selected, &collection.missing)
        }))?;
        Ok(RestorePreview {
            backup: self.manifest.id.clone(),
            collections,
            namespaces: engine.missing_namespaces(&self.namespaces),
        })
    }

    /// Checks that there is something to do, given each collection's action, selected records and missing ids.
    pub(super) fn check_selected<'a>(
        &self,
        collections: impl Iterator<Item = (Action, u64, &'a MissingIds)>,
    ) -> Result<()> {
        if self.records.is_all() {
            return Ok(());
        }
        let (mut asked, mut missing) = (false, MissingIds::default());
        for (action, selected, ids) in collections {
            if selected > 0 {
                return Ok(());
            }
            if action != Action::Skipped {
                asked = true;
                if missing.count == 0 {
                    missing = ids.clone();
                }
            }
        }
        if !asked {
            return Ok(());
        }
        let id = &self.manifest.id;
        if missing.count == 0 {
            return Err(Error::unprocessable(format!(
                "no record of {id} is selected; nothing was changed"
            )));
        }
        let named = missing.first.join(", ");
        Err(Error::unprocessable(format!(
            "no record of {id} is selected, and it does not have {named}; nothing was changed"
        ))
        .with("missing", missing.count)
        .with("missing_ids", missing.first))
    }

    fn preview_of(
        &self,
        engine: &Engine,
        repository: &Repository,
        (source, target): (&ManifestCollection, &DecidedTarget),
        progress: &Progress,
    ) -> Result<(RecordCounts, MissingIds)> {
        if target.action == Action::Skipped {
            let counts = RecordCounts::all_skipped(source.records);
            return Ok((counts, MissingIds::default()));
        }
        if target.replaces.is_none() && self.records.is_all() {
            let counts = RecordCounts {
                inserted: source.records,
                ..RecordCounts::default()
            };
            return Ok((counts, MissingIds::default()));
        }
        let mut comparison = Comparison::with(engine, target.replaces)?;
        let count = |found: Selected| comparison.add(found.ordinal, &found.id, &found.hash);
        let missing = read(repository, source, &self.records, progress, count)?;
        let counts = comparison.counts(target.action, self.winner);
        Ok((counts, missing.into()))
    }
}
