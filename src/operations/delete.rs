//! Deleting a backup. No other depends on it: each manifest names all packs that it needs.

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::error::{Error, Kind, Result};
use crate::repository::{Collected, Repository};

/// What deleting did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Deleted {
    /// The backup.
    pub deleted: String,
    /// Bytes freed and to be freed, what was waiting from before included.
    #[serde(flatten)]
    pub collected: Collected,
}

/// Deletes a backup and removes what is due.
///
/// # Errors
/// `NotFound`, `Conflict` when it is pinned, `StorageFault`.
pub fn execute(
    repository: &Repository,
    id: &str,
    grace: Duration,
    now: DateTime<Utc>,
) -> Result<Deleted> {
    let freed = repository.remove(id)?;
    Ok(Deleted {
        deleted: id.to_owned(),
        collected: collect_if_free(repository, &freed, grace, now)?,
    })
}

/// Removes what is due, as far as there is anything; for doing it from time to time.
///
/// # Errors
/// `StorageFault`.
pub fn sweep(repository: &Repository, grace: Duration, now: DateTime<Utc>) -> Result<Collected> {
    // Looked at without the lock first: a lock for nothing is in the way of backups.
    match repository.has_garbage(grace, now) {
        Ok(false) => Ok(Collected::default()),
        Ok(true) => collect_if_free(repository, &BTreeSet::new(), grace, now),
        Err(error) => without_knowledge(error),
    }
}

/// Nothing is removed as long as it is not known what a damaged manifest needs.
fn without_knowledge(error: Error) -> Result<Collected> {
    if matches!(error.kind(), Kind::BackupCorrupt | Kind::Unprocessable) {
        tracing::warn!(%error, "nothing was collected");
        return Ok(Collected::default());
    }
    Err(error)
}

/// Removes what is due unless the repository is in use: it is then found again by the next collection.
/// `freed` are packs of backups that were removed just now.
///
/// # Errors
/// `StorageFault`.
fn collect_if_free(
    repository: &Repository,
    freed: &BTreeSet<String>,
    grace: Duration,
    now: DateTime<Utc>,
) -> Result<Collected> {
    let outcome = match repository.try_lock_exclusive()? {
        Some(lock) => repository.collect(&lock, freed, grace, now),
        None => repository.would_collect(&BTreeSet::new(), grace, now).map(
            |Collected {
                 freed_bytes,
                 pending_bytes,
             }| Collected {
                freed_bytes: 0,
                pending_bytes: pending_bytes + freed_bytes,
            },
        ),
    };
    outcome.or_else(without_knowledge)
}
