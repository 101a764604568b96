//! Migrating a collection to another name: copied aside while writes go on, caught up, proved equal,
//! made visible in one step.

use serde::Serialize;
use uuid::Uuid;

use super::backup::check_room;
use super::conflict::{Action, OnConflict, Target, decide};
use super::stage::{Expected, Stage};
use crate::disk;
use crate::engine::{CatchUp, CollectionInfo, CutScope, Engine, Publication, Tombstone};
use crate::error::{Error, Result};
use crate::model::digest::Digest;
use crate::model::names::CollectionName;
use crate::progress::Progress;

/// The one environment there is: this store.
pub const LOCAL: &str = "local";

/// What is asked for.
#[derive(Clone, Debug)]
pub struct MigrateRequest {
    /// From.
    pub source: CollectionName,
    /// To.
    pub target: CollectionName,
    /// What to do where the target exists.
    pub on_conflict: OnConflict,
}

/// A checked request.
#[derive(Clone, Debug)]
pub struct MigratePlan {
    source: CollectionName,
    source_id: Uuid,
    target: Target,
}

impl MigratePlan {
    /// Name of the collection that it makes or replaces.
    pub fn target(&self) -> &CollectionName {
        &self.target.name
    }
}

/// What a migration did.
#[derive(Clone, Debug, Serialize)]
pub struct MigrateOutcome {
    /// From.
    pub source: CollectionName,
    /// To.
    pub target: CollectionName,
    /// How the target came to its name.
    pub action: Action,
    /// Records read, those read again by catching up included.
    pub read: u64,
    /// Records in the target.
    pub inserted: u64,
    /// Canonical bytes read.
    pub bytes: u64,
    /// How long it took.
    pub duration_ms: u64,
    /// The source's digest at the moment of the cut.
    pub source_digest: Digest,
    /// The target's digest, recomputed from what was written.
    pub target_digest: Digest,
}

/// Checks a request.
///
/// # Errors
/// `NotFound` for the source, `NameConflict` under `fail`, `Unprocessable` when both are the same,
/// `InsufficientStorage`.
pub fn plan(engine: &Engine, request: MigrateRequest) -> Result<MigratePlan> {
    if request.source == request.target {
        return Err(Error::unprocessable(
            "source and target are the same collection",
        ));
    }
    let source = engine.collection_by_name(&request.source)?;
    let target = decide(engine, request.target, request.on_conflict, "migrated", &[])?;
    check_copy_room(engine, &source)?;
    Ok(MigratePlan {
        source: request.source,
        source_id: source.descriptor.id,
        target,
    })
}

/// Checks that a copy of a collection in the same store has room.
///
/// # Errors
/// `InsufficientStorage`.
pub(super) fn check_copy_room(engine: &Engine, source: &CollectionInfo) -> Result<()> {
    let needed = source.head.bytes.saturating_mul(2);
    check_room(Some(disk::available_bytes(engine.data_dir())?), needed)
}

/// Migrates.
///
/// # Errors
/// `NotFound` when the source is dropped meanwhile, `NameConflict` when names changed since the plan,
/// `Canceled`, `StorageFault`. Nothing is visible then.
pub fn execute(
    engine: &Engine,
    plan: &MigratePlan,
    catch_up: CatchUp,
    progress: &Progress,
) -> Result<MigrateOutcome> {
    let started = std::time::Instant::now();
    let (source, target) = (plan.source_id, &plan.target);
    let copied = copy(engine, source, target, None, catch_up, progress)?;
    Ok(MigrateOutcome {
        source: plan.source.clone(),
        target: plan.target.name.clone(),
        action: plan.target.action,
        read: copied.read,
        inserted: copied.info.head.count,
        bytes: copied.bytes,
        duration_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        source_digest: copied.source_digest,
        target_digest: copied.info.head.digest,
    })
}

/// A copy that was made.
pub(super) struct Copied {
    /// The copy before it was published: definition and head.
    pub(super) info: CollectionInfo,
    source_digest: Digest,
    read: u64,
    bytes: u64,
}

/// Copies a collection aside, catches up, compares, and makes the copy visible; `root` where it is a fork.
///
/// # Errors
/// See [`execute`].
pub(super) fn copy(
    engine: &Engine,
    source: Uuid,
    target: &Target,
    root: Option<Uuid>,
    catch_up: CatchUp,
    progress: &Progress,
) -> Result<Copied> {
    let found = engine.collection(source)?;
    progress.phase("copy", found.head.count);
    let name = target.name.clone();
    let mut stage = Stage::new(engine, name, found.descriptor.definition.clone())?;
    let (mut read, mut bytes) = (0, 0);
    let mut count = |canonical: &[u8]| {
        read += 1;
        bytes += canonical.len() as u64;
        progress.advance(1, canonical.len() as u64);
    };
    let mut last = engine.begin_cut(CutScope::Collections(vec![source])).run(
        catch_up,
        progress,
        |_, layer| {
            stage.remove(&ordinals(&layer.tombstones))?;
            layer.for_each(|ordinal, stored| {
                progress.check()?;
                count(stored.canonical);
                stage.put(ordinal, stored.canonical.to_vec())
            })
        },
    )?;
    let part = last
        .parts
        .remove(&source)
        .ok_or_else(|| Error::internal("the cut lost its collection"))?;
    stage.remove(&ordinals(&part.tombstones))?;
    for (ordinal, _, canonical) in part.records {
        count(&canonical);
        stage.put(ordinal, canonical)?;
    }
    let expected = Expected {
        records: part.info.head.count,
        digest: part.info.head.digest,
    };
    let definition = &part.info.descriptor.definition;
    let info = stage.finish(definition, part.info.head.next_ordinal, expected)?;
    progress.commit()?;
    engine.publish(&[Publication {
        staged: stage.id(),
        name: target.name.clone(),
        replaces: target.replaces,
        root,
    }])?;
    stage.published();
    Ok(Copied {
        source_digest: part.info.head.digest,
        info,
        read,
        bytes,
    })
}

fn ordinals(tombstones: &[Tombstone]) -> Vec<u64> {
    tombstones
        .iter()
        .map(|tombstone| tombstone.ordinal)
        .collect()
}
