//! What two ends do not have in common, record by record: counted, and the first named.

use std::collections::{BTreeMap, HashMap};

use super::{MigratePlan, MigrateSettings};
use crate::engine::{Engine, Staging};
use crate::environments::{Batch, Loss, RemoteCollection, Source, Target};
use crate::error::Result;
use crate::model::configuration::Space;
use crate::model::record::Record;
use crate::operations::conflict::{Action, Overlap, RecordCounts, Winner};
use crate::progress::Progress;

/// Records that are named for one loss.
const MAX_EXAMPLES: usize = 5;

/// What a target cannot hold.
#[derive(Default)]
pub(super) struct Losses {
    /// Of the collection itself.
    pub(super) found: Vec<Loss>,
    pub(super) records: BTreeMap<&'static str, Loss>,
}

impl Losses {
    pub(super) fn note(&mut self, what: &'static str, id: &str) {
        let loss = self.records.entry(what).or_insert_with(|| Loss {
            what: what.to_owned(),
            records: 0,
            examples: Vec::new(),
        });
        loss.records += 1;
        if loss.examples.len() < MAX_EXAMPLES {
            loss.examples.push(id.to_owned());
        }
    }

    pub(super) fn collection(&mut self, what: String) {
        if self.found.iter().any(|found| found.what == what) {
            return;
        }
        self.found.push(Loss {
            what,
            records: 0,
            examples: Vec::new(),
        });
    }

    pub(super) fn has_records(&self) -> bool {
        !self.records.is_empty()
    }

    pub(super) fn of_records(&self) -> Vec<Loss> {
        self.records.values().cloned().collect()
    }

    pub(super) fn all(&self) -> Vec<Loss> {
        let records = self.records.values();
        self.found.iter().chain(records).cloned().collect()
    }
}

/// What a plan finds by looking at records.
pub(super) struct Survey {
    pub(super) counts: RecordCounts,
    pub(super) losses: Vec<Loss>,
}

/// What the target cannot hold of the source's records.
///
/// # Errors
/// Those of reading.
pub(super) fn record_losses(
    source: &dyn Source,
    target: &dyn Target,
    plan: &MigratePlan,
    progress: &Progress,
) -> Result<Vec<Loss>> {
    let space = plan.space();
    let mut losses = Losses::default();
    source.stream(None, plan.size, progress, &mut |batch: Batch| {
        for mut record in batch.records {
            for what in target.fit(space, &mut record) {
                losses.note(what, &record.id);
            }
        }
        Ok(())
    })?;
    Ok(losses.of_records())
}

/// What a migration would do to records, and what would be lost. Both ends are read where that is needed.
///
/// # Errors
/// Those of reading.
pub(super) fn survey(
    engine: &Engine,
    plan: &MigratePlan,
    settings: &MigrateSettings,
    progress: &Progress,
) -> Result<Survey> {
    let mut survey = Survey {
        counts: RecordCounts::default(),
        losses: Vec::new(),
    };
    if plan.action == Action::Skipped {
        survey.counts = RecordCounts::all_skipped(plan.described.records);
        return Ok(survey);
    }
    let source = plan.source.source(engine, settings)?;
    let target = plan.target.target(engine, Staging::ToPublish);
    let Some(there) = &plan.replaces else {
        survey.counts.inserted = plan.described.records;
        if !plan.target.is_local() {
            survey.losses = record_losses(source.as_ref(), target.as_ref(), plan, progress)?;
        }
        return Ok(survey);
    };
    let space = plan.space();
    let mut losses = Losses::default();
    let mut overlap = Overlap::default();
    source.stream(None, plan.size, progress, &mut |mut batch: Batch| {
        for record in &mut batch.records {
            for what in target.fit(space, record) {
                losses.note(what, &record.id);
            }
        }
        tally_up(
            &mut overlap,
            target.as_ref(),
            (&there.id, space),
            &batch.records,
            progress,
        )
    })?;
    survey.counts = overlap.counts(plan.action, plan.winner, there.records);
    survey.losses = losses.of_records();
    Ok(survey)
}

/// Sorts records by what another collection of the target has under their ids.
fn tally_up(
    overlap: &mut Overlap,
    target: &dyn Target,
    (there, space): (&str, Space),
    records: &[Record],
    progress: &Progress,
) -> Result<()> {
    let there = by_id(target.staged_lookup(there, &ids(records), progress)?);
    for record in records {
        match there.get(&record.id) {
            None => overlap.inserted += 1,
            Some(there) if target.holds(space, record, there) => overlap.same += 1,
            Some(_) => overlap.different += 1,
        }
    }
    Ok(())
}

fn ids(records: &[Record]) -> Vec<&str> {
    records.iter().map(|record| record.id.as_str()).collect()
}

pub(super) fn by_id(records: Vec<Record>) -> HashMap<String, Record> {
    let pairs = records
        .into_iter()
        .map(|record| (record.id.clone(), record));
    pairs.collect()
}

/// A staged collection's records beside those of the one that it replaces.
///
/// # Errors
/// Those of reading.
pub(super) fn against(
    target: &dyn Target,
    staged: &str,
    there: &str,
    count: u64,
    plan: &MigratePlan,
    progress: &Progress,
) -> Result<RecordCounts> {
    let mut overlap = Overlap::default();
    target.staged_records(staged, plan.size, progress, &mut |records| {
        tally_up(
            &mut overlap,
            target,
            (there, plan.space()),
            &records,
            progress,
        )
    })?;
    Ok(overlap.counts(plan.action, plan.winner, count))
}

/// The first ids that differ: other content, too much, or missing. What was written to the source after `moment` is
/// none of them, where it knows that.
///
/// # Errors
/// Those of reading.
pub(super) fn named(
    source: &dyn Source,
    (target, staged): (&dyn Target, &str),
    moment: Option<u64>,
    plan: &MigratePlan,
    most: usize,
    progress: &Progress,
) -> Result<Vec<String>> {
    let space = plan.space();
    let mut differing = Vec::new();
    target.staged_records(staged, plan.size, progress, &mut |records| {
        if differing.len() < most {
            let mut wanted = source.lookup(&ids(&records), moment, progress)?;
            wanted.iter_mut().for_each(|record| {
                target.fit(space, record);
            });
            let wanted = by_id(wanted);
            let differs = |r: &&Record| match wanted.get(&r.id) {
                Some(wanted) => !target.holds(space, wanted, r),
                None => moment.is_none(),
            };
            differing.extend(records.iter().filter(differs).map(|r| r.id.clone()));
        }
        Ok(())
    })?;
    source.stream(None, plan.size, progress, &mut |batch: Batch| {
        if differing.len() < most && batch.fresh {
            let found = by_id(target.staged_lookup(staged, &ids(&batch.records), progress)?);
            let missing = |id: &&str| !found.contains_key(*id);
            let missing: Vec<&str> = ids(&batch.records).into_iter().filter(missing).collect();
            let missing = source.lookup(&missing, moment, progress)?;
            differing.extend(missing.into_iter().map(|record| record.id));
        }
        Ok(())
    })?;
    differing.truncate(most);
    Ok(differing)
}

/// Records that are to be brought into a live collection of another server, sorted by what has to be done.
#[derive(Default)]
pub(super) struct Sorted {
    pub(super) write: Vec<Record>,
    /// Ids that were not there.
    pub(super) new: Vec<String>,
    pub(super) inserted: u64,
    pub(super) updated: u64,
    pub(super) unchanged: u64,
    pub(super) skipped: u64,
}

/// # Errors
/// Those of reading.
pub(super) fn sort(
    collection: &RemoteCollection,
    live: &str,
    records: Vec<Record>,
    plan: &MigratePlan,
    progress: &Progress,
) -> Result<Sorted> {
    let there = by_id(collection.staged_lookup(live, &ids(&records), progress)?);
    let mut sorted = Sorted::default();
    for record in records {
        match there.get(&record.id) {
            Some(there) if collection.holds(plan.space(), &record, there) => {
                sorted.unchanged += 1;
            }
            Some(_) if plan.winner == Winner::Existing => sorted.skipped += 1,
            Some(_) => {
                sorted.updated += 1;
                sorted.write.push(record);
            }
            None => {
                sorted.inserted += 1;
                sorted.new.push(record.id.clone());
                sorted.write.push(record);
            }
        }
    }
    Ok(sorted)
}
