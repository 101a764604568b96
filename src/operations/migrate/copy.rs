//! Within this store: copied aside while writes go on, caught up, proved equal, made visible in one step.

use uuid::Uuid;

use crate::engine::{
    CatchUp, CollectionInfo, Engine, Namespaces, Publication, SnapshotScope, Staging, Tombstone,
};
use crate::error::Result;
use crate::model::digest::Digest;
use crate::model::names::CollectionName;
use crate::operations::conflict::{Action, DecidedTarget, RecordCounts, Winner};
use crate::operations::merge::{self, Merge};
use crate::operations::restore::{Comparison, RestoreSettings};
use crate::operations::stage::{Expected, Stage};
use crate::progress::Progress;

/// Checks that a copy of a collection in the same store has room.
///
/// # Errors
/// `InsufficientStorage`.
pub(in crate::operations) fn check_copy_room(
    engine: &Engine,
    source: &CollectionInfo,
) -> Result<()> {
    let needed = source.head.bytes.saturating_mul(2);
    engine.check_room(needed)
}

/// A copy that was made.
pub(in crate::operations) struct Copied {
    /// The copy's id.
    pub(in crate::operations) id: Uuid,
    pub(super) source: CollectionInfo,
    pub(super) records: u64,
    pub(super) digest: Digest,
    pub(super) counts: RecordCounts,
    pub(super) read: u64,
    pub(super) bytes: u64,
}

/// Copies a collection to where the target says; `root` where it is a fork.
///
/// # Errors
/// `NotFound` when the source is dropped meanwhile, `NameConflict` when names changed since the plan,
/// `Canceled`, `StorageFault`. Nothing is visible then.
pub(in crate::operations) fn copy(
    engine: &Engine,
    source: Uuid,
    (target, winner): (&DecidedTarget, Winner),
    root: Option<Uuid>,
    settings: &RestoreSettings,
    progress: &Progress,
) -> Result<Copied> {
    let merges = target.replaces.filter(|_| target.action == Action::Merged);
    let staging = match merges {
        Some(_) => Staging::ToConsult,
        None => Staging::ToPublish,
    };
    let (mut stage, staged, mut copied) = copy_aside(
        engine,
        source,
        &target.name,
        staging,
        settings.catch_up,
        progress,
    )?;
    if let Some(live) = merges {
        let mut merge = Merge::new(engine, staged, live, winner, &settings.scratch)?;
        let (merged, published) = merge::run(
            engine,
            vec![&mut merge],
            &[],
            &Namespaces::default(),
            settings.catch_up,
            progress,
        )?;
        engine.published(published)?;
        merge.published();
        for merged in merged {
            (copied.records, copied.digest) = (merged.records, merged.digest);
            copied.counts = merged.counts;
        }
        return Ok(copied);
    }
    copied.counts = match target.replaces {
        Some(_) => compare(engine, stage.id(), target.replaces)?.counts(target.action, winner),
        None => RecordCounts {
            inserted: copied.records,
            ..RecordCounts::default()
        },
    };
    progress.commit()?;
    engine.publish(&[Publication {
        staged: stage.id(),
        name: target.name.clone(),
        replaces: target.replaces,
        keeps_id: false,
        root,
    }])?;
    stage.published();
    Ok(copied)
}

/// A staged collection's records beside those of the one that it replaces.
fn compare(engine: &Engine, staged: Uuid, replaces: Option<Uuid>) -> Result<Comparison<'_>> {
    let mut comparison = Comparison::with(engine, replaces)?;
    engine.scan(staged, 0, |ordinal, stored| {
        comparison.add(ordinal, stored.view.id, &stored.hash)?;
        Ok(true)
    })?;
    Ok(comparison)
}

/// Copies a collection aside as of one moment, and proves the copy equal.
fn copy_aside<'a>(
    engine: &'a Engine,
    source: Uuid,
    name: &CollectionName,
    staging: Staging,
    catch_up: CatchUp,
    progress: &Progress,
) -> Result<(Stage<'a>, CollectionInfo, Copied)> {
    let found = engine.collection(source)?;
    progress.phase("copy", found.head.count);
    let definition = found.descriptor.definition.clone();
    let mut stage = Stage::new(engine, name.clone(), definition, staging)?;
    let (mut read, mut bytes) = (0, 0);
    let mut last = engine
        .begin_snapshot(SnapshotScope::Collections(vec![source]))?
        .run(catch_up, progress, |_, round| {
            stage.remove(&ordinals(&round.removed))?;
            round.for_each(|ordinal, stored| {
                progress.check()?;
                read += 1;
                bytes += stored.canonical.len() as u64;
                progress.advance(1, stored.canonical.len() as u64);
                stage.put(ordinal, stored.canonical.to_vec())
            })
        })?;
    let source = last.take(source)?;
    let expected = Expected {
        records: source.head.count,
        digest: source.head.digest,
    };
    let definition = &source.descriptor.definition;
    let info = stage.finish(definition, source.head.next_ordinal, expected)?;
    let copied = Copied {
        id: stage.id(),
        records: info.head.count,
        digest: info.head.digest,
        source,
        counts: RecordCounts::default(),
        read,
        bytes,
    };
    Ok((stage, info, copied))
}

fn ordinals(tombstones: &[Tombstone]) -> Vec<u64> {
    tombstones
        .iter()
        .map(|tombstone| tombstone.ordinal)
        .collect()
}
