//! Deleting a backup. No other depends on it: each manifest names all packs that it needs.

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::error::{Kind, Result};
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
    repository.remove(id)?;
    Ok(Deleted {
        deleted: id.to_owned(),
        collected: collect_if_free(repository, grace, now)?,
    })
}

/// Removes what is due unless the repository is in use: it is then found again by the next collection.
///
/// # Errors
/// `StorageFault`.
pub fn collect_if_free(
    repository: &Repository,
    grace: Duration,
    now: DateTime<Utc>,
) -> Result<Collected> {
    let outcome = match repository.try_lock_exclusive()? {
        Some(lock) => repository.collect(&lock, grace, now),
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
    match outcome {
        // Nothing is removed as long as it is not known what a damaged manifest needs.
        Err(error) if error.kind() == Kind::BackupCorrupt => {
            tracing::warn!(%error, "nothing was collected");
            Ok(Collected::default())
        }
        outcome => outcome,
    }
}
