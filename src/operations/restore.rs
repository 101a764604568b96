//! Restoring: built aside from the backup's packs, proved equal to the manifest, made visible in one
//! step. A failure or a crash before that step leaves everything as it was.

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::backup::check_room;
use super::conflict::{Action, OnConflict, Target, decide};
use super::stage::{Expected, Stage};
use crate::disk;
use crate::engine::{Engine, Publication};
use crate::error::{Error, Result};
use crate::model::digest::Digest;
use crate::model::names::CollectionName;
use crate::progress::Progress;
use crate::repository::Repository;
use crate::repository::format::{Manifest, ManifestCollection};
use crate::repository::reader::CollectionReader;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct RestoreRequest {
    /// A backup's id, or `latest`.
    pub backup: String,
    /// These collections and where to; `None`: all of them, to their own names.
    pub collections: Option<Vec<RestoreSelection>>,
    /// What to do where the target exists.
    pub on_conflict: OnConflict,
}

/// One collection to restore.
#[derive(Clone, Debug)]
pub struct RestoreSelection {
    /// Its name in the backup.
    pub name: CollectionName,
    /// Its name here.
    pub to: CollectionName,
}

/// A checked request.
#[derive(Clone, Debug)]
pub struct RestorePlan {
    manifest: Manifest,
    /// Index into the manifest's collections, and where it goes.
    targets: Vec<(usize, Target)>,
}

impl RestorePlan {
    /// Names of the collections that it makes or replaces.
    pub fn target_names(&self) -> impl Iterator<Item = &CollectionName> {
        self.targets.iter().map(|(_, target)| &target.name)
    }
}

/// What a restore did.
#[derive(Clone, Debug, Serialize)]
pub struct RestoreOutcome {
    /// The backup.
    pub backup: String,
    /// When the backup was made.
    pub created_at: DateTime<Utc>,
    /// Per collection.
    pub collections: Vec<RestoredCollection>,
    /// How long it took.
    pub duration_ms: u64,
}

/// One restored collection.
#[derive(Clone, Debug, Serialize)]
pub struct RestoredCollection {
    /// Its name in the backup.
    pub name: CollectionName,
    /// Its name here.
    pub to: CollectionName,
    /// How it came to it.
    pub action: Action,
    /// Records restored.
    pub records: u64,
    /// Its digest, recomputed from what was written.
    pub digest: Digest,
}

/// Sled keeps about twice the payload while it is loaded.
const DISK_FACTOR: u64 = 2;

/// Checks a request.
///
/// # Errors
/// `NotFound` for a backup or a collection in it, `NameConflict` under `fail`, `InsufficientStorage`,
/// `BackupCorrupt` for a damaged manifest.
pub fn plan(
    engine: &Engine,
    repository: &Repository,
    request: &RestoreRequest,
) -> Result<RestorePlan> {
    let manifest = if request.backup == "latest" {
        repository.latest()?
    } else {
        repository.backup(&request.backup)?
    };
    let selected: Vec<(usize, CollectionName)> = match &request.collections {
        None => manifest
            .collections
            .iter()
            .enumerate()
            .map(|(index, collection)| (index, collection.name.clone()))
            .collect(),
        Some(selections) => selections
            .iter()
            .map(|selection| find(&manifest, selection))
            .collect::<Result<_>>()?,
    };
    if selected.is_empty() {
        return Err(Error::unprocessable(format!(
            "nothing to restore: {} holds no collection",
            manifest.id
        )));
    }
    let mut targets: Vec<(usize, Target)> = Vec::new();
    let mut taken = Vec::new();
    for (index, wanted) in selected {
        let target = decide(engine, wanted, request.on_conflict, "restored", &taken)?;
        taken.push(target.name.clone());
        targets.push((index, target));
    }
    let needed: u64 = targets
        .iter()
        .filter_map(|(index, _)| manifest.collections.get(*index))
        .map(|collection| collection.raw_bytes.saturating_mul(DISK_FACTOR))
        .sum();
    check_room(Some(disk::available_bytes(engine.data_dir())?), needed)?;
    Ok(RestorePlan { manifest, targets })
}

fn find(manifest: &Manifest, selection: &RestoreSelection) -> Result<(usize, CollectionName)> {
    let index = manifest
        .collections
        .iter()
        .position(|collection| collection.name == selection.name)
        .ok_or_else(|| {
            Error::not_found(format!(
                "the backup {} holds no collection {}",
                manifest.id, selection.name
            ))
        })?;
    Ok((index, selection.to.clone()))
}

/// Restores.
///
/// # Errors
/// `BackupCorrupt` naming pack and collection, `NameConflict` when names changed since the plan,
/// `Canceled`, `StorageFault`. Nothing is visible then.
pub fn execute(
    engine: &Engine,
    repository: &Repository,
    plan: &RestorePlan,
    progress: &Progress,
) -> Result<RestoreOutcome> {
    let started = std::time::Instant::now();
    progress.phase("copy", plan.manifest.records());
    let mut stages = Vec::new();
    let mut restored = Vec::new();
    for (index, target) in &plan.targets {
        let source = plan
            .manifest
            .collections
            .get(*index)
            .ok_or_else(|| Error::internal("the plan names a collection that is not there"))?;
        let mut stage = Stage::new(engine, target.name.clone(), source.definition.clone())?;
        let digest = copy(repository, source, &mut stage, progress)?;
        restored.push(RestoredCollection {
            name: source.name.clone(),
            to: target.name.clone(),
            action: target.action,
            records: source.records,
            digest,
        });
        stages.push((stage, target));
    }
    progress.commit()?;
    let publications: Vec<Publication> = stages
        .iter()
        .map(|(stage, target)| Publication {
            staged: stage.id(),
            name: target.name.clone(),
            replaces: target.replaces,
            root: None,
        })
        .collect();
    engine.publish(&publications)?;
    stages.iter_mut().for_each(|(stage, _)| stage.published());
    Ok(RestoreOutcome {
        backup: plan.manifest.id.clone(),
        created_at: plan.manifest.created_at,
        collections: restored,
        duration_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
    })
}

fn copy(
    repository: &Repository,
    source: &ManifestCollection,
    stage: &mut Stage<'_>,
    progress: &Progress,
) -> Result<Digest> {
    if source.definition.hash() != source.definition_hash {
        return Err(Error::backup_corrupt(format!(
            "the definition of {} does not have the hash that stands beside it",
            source.name
        ))
        .with("collection", source.name.to_string()));
    }
    for record in CollectionReader::open(repository, source)? {
        let record = record?;
        let canonical = record.record.canonical();
        progress.advance(1, canonical.len() as u64);
        stage.put(record.ordinal, canonical)?;
        progress.check()?;
    }
    let info = stage.finish(
        &source.definition,
        source.next_ordinal,
        Expected {
            records: source.records,
            digest: source.digest,
        },
    )?;
    Ok(info.head.digest)
}
