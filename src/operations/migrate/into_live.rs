//! Merging into a live collection of another server. It is there for others to write to as well, so there is
//! no copy to swap: records are brought in one by one, each whole, and read back. Done again, it finds what is
//! there already.

use std::collections::HashSet;

use super::differences::{self, Losses, by_id, record_losses};
use super::{MigrateOutcome, MigratePlan, MigrateSettings, check_losses};
use crate::engine::Engine;
use crate::environments::{Batch, RemoteCollection, Source, Target};
use crate::error::{Error, Kind, Result};
use crate::model::record::Record;
use crate::progress::Progress;

/// The first half of an id's hash.
fn short(id: &str) -> u128 {
    let hash = blake3::hash(id.as_bytes());
    let half = hash.as_bytes().first_chunk().copied().unwrap_or_default();
    u128::from_le_bytes(half)
}

/// # Errors
/// `RemoteUnavailable`, `Unprocessable` for what the target cannot hold, `Conflict` when a record was not found
/// as it was written, `Canceled`. What is done stays done.
pub(super) fn merge(
    engine: &Engine,
    plan: &MigratePlan,
    settings: &MigrateSettings,
    progress: &Progress,
) -> Result<MigrateOutcome> {
    let (Some(remote), Some(there)) = (&plan.target.remote, &plan.replaces) else {
        return Err(Error::internal("there is nothing to merge into"));
    };
    let collection = plan.target.collection(remote);
    let source = plan.source.source(engine, settings)?;
    let mut outcome = MigrateOutcome::default();
    let mut losses = Losses::default();
    // Ids that only the source had, in short: what is written or deleted there meanwhile follows.
    let mut brought = HashSet::new();
    if plan.source.is_local() {
        check_losses(
            plan,
            &record_losses(source.as_ref(), &collection, plan, progress)?,
        )?;
    }
    progress.phase("merge", plan.described.records);
    let end = source.stream(None, plan.size, progress, &mut |mut batch: Batch| {
        for record in &mut batch.records {
            let bytes = record.canonical().len() as u64;
            outcome.read += 1;
            outcome.bytes += bytes;
            progress.advance(1, bytes);
            for what in collection.fit(plan.space(), record) {
                losses.note(what, &record.id);
            }
        }
        check_losses(plan, &losses.of_records())?;
        let first = batch.fresh;
        let is_ours = |id: &str| brought.contains(&short(id));
        let gone = batch.removed.iter().map(String::as_str);
        let gone: Vec<&str> = gone.filter(|id| is_ours(id)).collect();
        collection.remove(&there.id, &gone, progress)?;
        // What we brought ourselves is the source's, whoever wins.
        let (ours, others): (Vec<_>, Vec<_>) = batch
            .records
            .into_iter()
            .partition(|record| is_ours(&record.id));
        let mut sorted = differences::sort(&collection, &there.id, others, plan, progress)?;
        // Only a source in this store sends anything again.
        if plan.source.is_local() {
            brought.extend(sorted.new.iter().map(|id| short(id)));
        }
        sorted.write.extend(ours);
        // What comes again is counted once.
        if first {
            outcome.counts.inserted += sorted.inserted;
            outcome.counts.updated += sorted.updated;
            outcome.counts.unchanged += sorted.unchanged;
            outcome.counts.skipped += sorted.skipped;
        }
        collection.put_exactly(&there.id, &sorted.write, progress)?;
        if plan.verify {
            check_written(&collection, &there.id, &sorted.write, plan, progress)?;
        }
        Ok(())
    })?;
    outcome.source_digest = end.contents.map(|contents| contents.digest);
    outcome.losses = losses.all();
    outcome.verified = plan.verify;
    if plan.verify {
        let found = collection.contents(plan.size, progress)?;
        outcome.target_digest = Some(found.digest);
    }
    Ok(outcome)
}

/// Reads records back.
///
/// # Errors
/// `Conflict` that names the first one that is not there as it was written; `RemoteUnavailable`.
fn check_written(
    collection: &RemoteCollection,
    there: &str,
    written: &[Record],
    plan: &MigratePlan,
    progress: &Progress,
) -> Result<()> {
    let ids: Vec<&str> = written.iter().map(|record| record.id.as_str()).collect();
    let found = by_id(collection.staged_lookup(there, &ids, progress)?);
    let space = plan.space();
    let is_there = |record: &&Record| {
        let found = found.get(&record.id);
        found.is_some_and(|found| collection.holds(space, record, found))
    };
    let Some(record) = written.iter().find(|record| !is_there(record)) else {
        return Ok(());
    };
    Err(Error::new(
        Kind::Conflict,
        format!(
            "{:?} is not in {} as it was written: somebody else writes there, or it cannot hold it",
            record.id, plan.target.name
        ),
    )
    .with("differences", vec![record.id.clone()]))
}
