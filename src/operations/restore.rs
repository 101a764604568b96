//! Restoring: built aside from the backup's packs, proved equal to the manifest, made visible in one
//! step. A failure or a crash before that step leaves everything as it was.

mod preview;
mod selection;

use std::path::PathBuf;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::conflict::{Action, DecidedTarget, OnConflict, Overlap, RecordCounts, Winner, decide};
use super::merge::{self, Merge};
use super::namespaces;
use super::stage::{Expected, Stage};
use crate::engine::{CatchUp, CollectionInfo, Engine, Namespaces, Publication, Staging};
use crate::error::{Error, Result};
use crate::model::collection::CollectionDefinition;
use crate::model::digest::{Digest, RecordHash};
use crate::model::names::CollectionName;
use crate::model::selector::Selector;
use crate::progress::Progress;
use crate::repository::Repository;
use crate::repository::format::{Manifest, ManifestCollection};
pub use preview::{MissingIds, PreviewedCollection, RestorePreview};
pub use selection::Selection;
use selection::read;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct RestoreRequest {
    /// Which backup.
    pub backup: Selector,
    /// These collections and where to; `None`: all of them, to their own names.
    pub collections: Option<Vec<RestoreSelection>>,
    /// What to do where the target exists.
    pub on_conflict: OnConflict,
    /// Whose records stay in a merge.
    pub winner: Winner,
    /// Whether what is replaced leaves its id to what takes its place. (A merge always keeps it.)
    pub keep_id: bool,
    /// Which records.
    pub records: Selection,
}

/// One collection to restore.
#[derive(Clone, Debug)]
pub struct RestoreSelection {
    /// Its name in the backup.
    pub name: CollectionName,
    /// Its name here.
    pub to: CollectionName,
}

/// How a restore runs.
#[derive(Clone, Debug)]
pub struct RestoreSettings {
    /// Bounds of catching up with writes to a collection that is merged into.
    pub catch_up: CatchUp,
    /// Where scratch files go.
    pub scratch: PathBuf,
}

/// A checked request.
#[derive(Clone, Debug)]
pub struct RestorePlan {
    manifest: Manifest,
    /// Index into the manifest's collections, and where it goes.
    targets: Vec<(usize, DecidedTarget)>,
    /// Tenants and databases that are to be there at the end: all of the backup's where all of it is restored.
    namespaces: Namespaces,
    winner: Winner,
    keep_id: bool,
    records: Selection,
    /// Bytes of disk that it takes, at most.
    pub needed_bytes: u64,
}

/// What a restore did.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RestoreOutcome {
    /// The backup.
    pub backup: String,
    /// When the backup was made.
    pub created_at: DateTime<Utc>,
    /// Per collection.
    pub collections: Vec<RestoredCollection>,
    /// Tenants and databases that were made, beside those of the collections.
    pub namespaces: Namespaces,
    /// How long it took.
    pub duration_ms: u64,
}

/// One restored collection.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RestoredCollection {
    /// Its name in the backup.
    pub name: CollectionName,
    /// Its name here.
    pub to: CollectionName,
    /// How it came to it.
    pub action: Action,
    /// Records in it; 0 where it was skipped.
    pub records: u64,
    /// What happened to records, beside what was there.
    pub counts: RecordCounts,
    /// Its digest, recomputed from what was written and compared; none where it was skipped.
    pub digest: Option<Digest>,
    /// Ids that were asked for and are not in the backup.
    pub missing: MissingIds,
}

/// Sled keeps about twice the payload while it is loaded.
pub(super) const DISK_FACTOR: u64 = 2;

impl RestorePlan {
    /// The backup's id.
    pub fn backup(&self) -> &str {
        &self.manifest.id
    }

    /// Names of the collections that it makes or replaces.
    pub fn target_names(&self) -> impl ExactSizeIterator<Item = &CollectionName> {
        self.targets.iter().map(|(_, target)| &target.name)
    }

    fn sources(&self) -> impl Iterator<Item = (&ManifestCollection, &DecidedTarget)> {
        let sources = self.targets.iter();
        sources.filter_map(|(index, target)| Some((self.manifest.collections.get(*index)?, target)))
    }
}

/// Records that are brought in, compared by id with those that are there.
pub(super) struct Comparison<'a> {
    engine: &'a Engine,
    there: Option<CollectionInfo>,
    overlap: Overlap,
}

impl<'a> Comparison<'a> {
    pub(super) fn with(engine: &'a Engine, there: Option<Uuid>) -> Result<Self> {
        // What is damaged cannot be compared with; it is replaced all the same.
        let there = there.filter(|there| engine.damage_of(*there).is_none());
        Ok(Self {
            engine,
            there: there.map(|id| engine.collection(id)).transpose()?,
            overlap: Overlap::default(),
        })
    }

    pub(super) fn add(&mut self, ordinal: u64, id: &str, hash: &RecordHash) -> Result<()> {
        let there = match &self.there {
            None => None,
            Some(there) => self.engine.record_hash(there.descriptor.id, id, ordinal)?,
        };
        match there {
            None => self.overlap.inserted += 1,
            Some(there) if there == *hash => self.overlap.same += 1,
            Some(_) => self.overlap.different += 1,
        }
        Ok(())
    }

    pub(super) fn counts(&self, action: Action, winner: Winner) -> RecordCounts {
        let there = self.there.as_ref().map_or(0, |info| info.head.count);
        self.overlap.counts(action, winner, there)
    }
}

/// Checks a request.
///
/// # Errors
/// `NotFound` for a backup or a collection in it, `NameConflict` under `fail`, `Unprocessable` for a merge of
/// different dimensions, `BackupCorrupt` for a damaged manifest.
pub fn plan(
    engine: &Engine,
    repository: &Repository,
    request: &RestoreRequest,
) -> Result<RestorePlan> {
    let manifest = repository.selected(&request.backup)?;
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
    // Of a selection nobody expects more than it names.
    let whole = request.collections.is_none() && request.records.is_all();
    let namespaces = if whole {
        namespaces::of(&manifest)
    } else {
        Namespaces::default()
    };
    if selected.is_empty() && engine.missing_namespaces(&namespaces).is_empty() {
        return Err(Error::unprocessable(format!(
            "nothing to restore: {} holds no collection",
            manifest.id
        )));
    }
    let mut targets: Vec<(usize, DecidedTarget)> = Vec::new();
    let mut taken = Vec::new();
    for (index, wanted) in selected {
        let target = decide(engine, wanted, request.on_conflict, "restored", &taken)?;
        refuse_to_drop(engine, &target, &request.records)?;
        taken.push(target.name.clone());
        targets.push((index, target));
    }
    let sources = targets
        .iter()
        .filter(|(_, target)| target.action != Action::Skipped);
    let sources = sources.filter_map(|(index, _)| manifest.collections.get(*index));
    repository.refuse_damaged(&manifest.id, sources)?;
    let mut plan = RestorePlan {
        manifest,
        targets,
        namespaces,
        winner: request.winner,
        keep_id: request.keep_id,
        records: request.records.clone(),
        needed_bytes: 0,
    };
    plan.needed_bytes = needed(engine, &plan)?;
    Ok(plan)
}

/// Replacing a collection by some of its records would drop all others, which nobody asks for.
///
/// # Errors
/// `Unprocessable` that says what to ask for.
fn refuse_to_drop(engine: &Engine, target: &DecidedTarget, records: &Selection) -> Result<()> {
    let Some(live) = target
        .replaces
        .filter(|_| target.action == Action::Replaced && !records.is_all())
    else {
        return Ok(());
    };
    let count = engine.collection(live)?.head.count;
    Err(Error::unprocessable(format!(
        "on_conflict \"replace\" with \"ids\" or \"where\" would leave only the selected records of {} and drop the \
         others of its {count}; use \"merge\" to bring them into it, or \"to\" to restore them beside it",
        target.name
    ))
    .with("records", count))
}

/// Disk that a plan takes: the copies that it makes, of the backup and of what it is merged with.
fn needed(engine: &Engine, plan: &RestorePlan) -> Result<u64> {
    let mut needed: u64 = 0;
    for (source, target) in plan.sources() {
        let incoming = plan.records.share_of(source);
        let copies = match (target.action, target.replaces) {
            (Action::Skipped, _) => 0,
            (Action::Merged, Some(live)) => {
                let live = engine.collection(live)?;
                merge::check_dimensions(source.definition.dimension, &live)?;
                incoming.saturating_mul(2).saturating_add(live.head.bytes)
            }
            _ => incoming,
        };
        needed = needed.saturating_add(copies.saturating_mul(DISK_FACTOR));
    }
    Ok(needed)
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

/// Collections that were built aside.
#[derive(Default)]
struct Built<'a> {
    stages: Vec<Stage<'a>>,
    publications: Vec<Publication>,
    merges: Vec<(usize, Merge<'a>)>,
    /// What is merged; given up at the end in any case.
    consulted: Vec<Stage<'a>>,
    restored: Vec<RestoredCollection>,
}

/// Restores.
///
/// # Errors
/// `BackupCorrupt` naming pack and collection, `NameConflict` when names changed since the plan,
/// `Unprocessable` when no record is selected, `Canceled`, `StorageFault`. Nothing is visible then.
pub fn execute(
    engine: &Engine,
    repository: &Repository,
    plan: &RestorePlan,
    settings: &RestoreSettings,
    progress: &Progress,
) -> Result<RestoreOutcome> {
    let started = std::time::Instant::now();
    progress.stage("lock");
    let _lock = repository.lock_to_read(progress)?;
    let total = plan
        .sources()
        .filter(|(_, target)| target.action != Action::Skipped)
        .map(|(source, _)| source.records)
        .sum();
    progress.phase("copy", total);
    let mut built = Built::default();
    for (source, target) in plan.sources() {
        build(
            engine,
            repository,
            plan,
            (source, target),
            settings,
            progress,
            &mut built,
        )?;
    }
    let restored = built.restored.iter();
    plan.check_selected(
        restored.map(|restored| (restored.action, restored.records, &restored.missing)),
    )?;
    let namespaces = engine.missing_namespaces(&plan.namespaces);
    publish(engine, &mut built, &namespaces, settings, progress)?;
    Ok(RestoreOutcome {
        backup: plan.manifest.id.clone(),
        created_at: plan.manifest.created_at,
        collections: built.restored,
        namespaces,
        duration_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
    })
}

fn build<'a>(
    engine: &'a Engine,
    repository: &Repository,
    plan: &RestorePlan,
    (source, target): (&ManifestCollection, &DecidedTarget),
    settings: &RestoreSettings,
    progress: &Progress,
    built: &mut Built<'a>,
) -> Result<()> {
    let mut restored = RestoredCollection {
        name: source.name.clone(),
        to: target.name.clone(),
        action: target.action,
        records: 0,
        counts: RecordCounts::default(),
        digest: None,
        missing: MissingIds::default(),
    };
    let merges = target.replaces.filter(|_| target.action == Action::Merged);
    if target.action == Action::Skipped {
        restored.counts = RecordCounts::all_skipped(source.records);
        built.restored.push(restored);
        return Ok(());
    }
    let staging = match merges {
        Some(_) => Staging::ToConsult,
        None => Staging::ToPublish,
    };
    let definition = CollectionDefinition::clone(&source.definition);
    let mut stage = Stage::new(engine, target.name.clone(), definition, staging)?;
    let compared = target.replaces.filter(|_| merges.is_none());
    let mut comparison = Comparison::with(engine, compared)?;
    let (info, missing_ids) = copy(
        repository,
        source,
        &plan.records,
        &mut stage,
        &mut comparison,
        progress,
    )?;
    restored.records = info.head.count;
    restored.digest = Some(info.head.digest);
    restored.counts = comparison.counts(target.action, plan.winner);
    restored.missing = missing_ids.into();
    match merges {
        Some(live) => {
            let merge = Merge::new(engine, info, live, plan.winner, &settings.scratch)?;
            built.merges.push((built.restored.len(), merge));
            built.consulted.push(stage);
        }
        None => {
            built.publications.push(Publication {
                staged: stage.id(),
                name: target.name.clone(),
                replaces: target.replaces,
                keeps_id: plan.keep_id,
                root: None,
            });
            built.stages.push(stage);
        }
    }
    built.restored.push(restored);
    Ok(())
}

/// Publishes all names in one step; where something is merged, at the moment of its last round.
fn publish(
    engine: &Engine,
    built: &mut Built<'_>,
    namespaces: &Namespaces,
    settings: &RestoreSettings,
    progress: &Progress,
) -> Result<()> {
    let Built {
        stages,
        publications,
        merges,
        restored,
        ..
    } = built;
    if merges.is_empty() {
        progress.commit()?;
        engine.publish_within(publications, namespaces)?;
    } else {
        let (merged, published) = merge::run(
            engine,
            merges.iter_mut().map(|(_, merge)| merge).collect(),
            publications,
            namespaces,
            settings.catch_up,
            progress,
        )?;
        engine.published(published)?;
        for ((index, merge), merged) in merges.iter_mut().zip(merged) {
            merge.published();
            if let Some(restored) = restored.get_mut(*index) {
                restored.records = merged.records;
                restored.digest = Some(merged.digest);
                restored.counts = merged.counts;
            }
        }
    }
    stages.iter_mut().for_each(Stage::published);
    Ok(())
}

/// Copies a collection of the backup, or what is selected of it, and proves the copy right.
pub(super) fn copy(
    repository: &Repository,
    source: &ManifestCollection,
    records: &Selection,
    stage: &mut Stage<'_>,
    comparison: &mut Comparison<'_>,
    progress: &Progress,
) -> Result<(CollectionInfo, Vec<String>)> {
    if source.definition.stored_hash() != source.definition_hash {
        return Err(Error::backup_corrupt(format!(
            "the definition of {} does not have the hash that stands beside it",
            source.name
        ))
        .with("collection", source.name.to_string()));
    }
    let mut expected = Expected {
        records: 0,
        digest: Digest::EMPTY,
    };
    let missing_ids = read(repository, source, records, progress, |found| {
        expected.records += 1;
        expected.digest.add(&found.hash);
        comparison.add(found.ordinal, &found.id, &found.hash)?;
        stage.put(found.ordinal, found.canonical)
    })?;
    let info = stage.finish(&source.definition, source.next_ordinal, expected)?;
    Ok((info, missing_ids))
}
