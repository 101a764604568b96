//! Migrations that are not finished: those that run, and those that nobody goes on with.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use parking_lot::Mutex;

use super::MigrateSettings;
use super::checkpoint::Checkpoint;
use crate::engine::Engine;
use crate::environments::{LOCAL, RemoteCollection, Target};
use crate::error::{Error, Result};
use crate::model::stored;
use crate::progress::Progress;

/// Keys of migrations that run: a sweep leaves them alone. Then those whose checkpoint cannot be read, which was logged.
#[derive(Clone, Default)]
pub struct RunningMigrations(Arc<Mutex<BTreeSet<String>>>, Arc<Mutex<BTreeSet<String>>>);

/// One of them, until it is dropped.
pub(super) struct RunningMigration(RunningMigrations, String);

impl RunningMigrations {
    pub(super) fn enter(&self, key: &str) -> RunningMigration {
        self.0.lock().insert(key.to_owned());
        RunningMigration(self.clone(), key.to_owned())
    }

    /// Says once that a checkpoint cannot be read. It stays as it is, and is in nobody's way.
    fn set_aside(&self, key: &str, error: &Error) {
        if self.1.lock().insert(key.to_owned()) {
            tracing::error!(
                checkpoint = key,
                ?error,
                "the checkpoint of a migration cannot be read; it is set aside"
            );
        }
    }
}

impl Drop for RunningMigration {
    fn drop(&mut self) {
        self.0.0.lock().remove(&self.1);
    }
}

/// How long it is known that a migration was done, for whom the job's record may not tell.
pub(super) const DONE_KEPT: Duration = Duration::from_secs(60);

/// Forgets migrations that nobody went on with, all but the newest `most`, and gives their copies up.
///
/// # Errors
/// `StorageFault`, `Unavailable`.
pub fn sweep(
    engine: &Engine,
    settings: &MigrateSettings,
    most: usize,
    now: DateTime<Utc>,
) -> Result<()> {
    let mut found = Vec::new();
    for stored in engine.checkpoints()? {
        match stored::decode::<Checkpoint>(&stored.payload) {
            Ok(checkpoint) => found.push((checkpoint, stored.staged)),
            Err(error) => settings.running.set_aside(&stored.key, &error.into()),
        }
    }
    found.sort_by_key(|(checkpoint, _)| std::cmp::Reverse(checkpoint.at));
    for (index, (checkpoint, staged)) in found.into_iter().enumerate() {
        let age = now.signed_duration_since(checkpoint.at).to_std();
        let age = age.unwrap_or_default();
        let kept = match checkpoint.done_by {
            Some(_) => DONE_KEPT.min(settings.checkpoint_kept),
            None => settings.checkpoint_kept,
        };
        let runs = settings.running.0.lock().contains(&checkpoint.key);
        if runs || (index < most && age < kept) {
            continue;
        }
        engine.remove_checkpoint(&checkpoint.key)?;
        if checkpoint.done_by.is_some() {
            continue;
        }
        tracing::info!(
            environment = checkpoint.environment,
            staging = %checkpoint.staging,
            "a migration that nobody went on with is forgotten"
        );
        if let Some(staged) = staged {
            engine.discard_staged(staged);
        } else if let Err(error) = discard_elsewhere(settings, &checkpoint) {
            tracing::warn!(?error, staging = %checkpoint.staging, "the copy of a migration was not removed");
        }
    }
    Ok(())
}

fn discard_elsewhere(settings: &MigrateSettings, checkpoint: &Checkpoint) -> Result<()> {
    if checkpoint.environment == LOCAL {
        return Ok(());
    }
    let remote = settings.environments.get(&checkpoint.environment)?;
    let staging = &checkpoint.staging;
    let collection = RemoteCollection::new(remote, staging.clone());
    collection.discard(staging, checkpoint.staged.as_deref(), &Progress::default())
}
