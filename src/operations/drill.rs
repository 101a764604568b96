//! A drill: the restore rehearsed. Every collection is restored aside, compared with the manifest, asked
//! for nearest neighbours that are compared with brute force, and dropped again. A backup for which this
//! went well has been restored once.

use std::time::Instant;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::restore::{self, Comparison, DISK_FACTOR, Selection};
use super::stage::Stage;
use super::verify::{self, VerificationOutcome};
use crate::engine::{Engine, QueryRequest, Staging};
use crate::error::{Error, Result};
use crate::model::collection::CollectionDefinition;
use crate::model::configuration::Space;
use crate::model::selector::Selector;
use crate::progress::Progress;
use crate::repository::Repository;
use crate::repository::format::{Manifest, ManifestCollection, VerificationLevel};

/// How much is asked of each collection.
#[derive(Clone, Copy, Debug)]
pub struct DrillSettings {
    /// Queries per collection.
    pub queries: usize,
    /// Neighbours per query.
    pub results: usize,
}

/// What a drill found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DrillOutcome {
    /// The backup.
    pub backup: String,
    /// Whether all of it was restored, is equal and answers rightly.
    pub ok: bool,
    /// Collections that were restored.
    pub collections: u64,
    /// Records that were restored and compared.
    pub checked_records: u64,
    /// Queries whose answers were compared with brute force.
    pub queries: u64,
    /// How long restoring took.
    pub restore_ms: u64,
    /// From the beginning to the answer of the first query; none where there was nothing to ask.
    pub first_query_ms: Option<u64>,
    /// What is wrong, and where.
    pub problems: Vec<String>,
}

/// Distances of one and the same pair may differ by this much, relative to their size: one side adds f32 in
/// another order.
const TOLERANCE: f64 = 1e-4;

/// The backup to rehearse with; there has to be room for its largest collection.
///
/// # Errors
/// `NotFound`, `BackupCorrupt`, `InsufficientStorage`; `Unprocessable` for one without records, which would show
/// nothing.
pub fn plan(engine: &Engine, repository: &Repository, backup: &Selector) -> Result<Manifest> {
    let manifest = repository.selected(backup)?;
    if manifest.totals.records == 0 {
        return Err(Error::unprocessable(format!(
            "{} holds no record: there is nothing to rehearse",
            manifest.id
        )));
    }
    let sizes = manifest.collections.iter().map(|found| found.raw_bytes);
    let needed = sizes.max().unwrap_or(0).saturating_mul(DISK_FACTOR);
    engine.check_room(needed)?;
    Ok(manifest)
}

/// Rehearses, and keeps the result beside the backup.
///
/// # Errors
/// `NotFound` when the backup was deleted, `Canceled`, `InsufficientStorage`, `StorageFault`. Damage is an
/// outcome, no error.
pub fn execute(
    engine: &Engine,
    repository: &Repository,
    manifest: &Manifest,
    settings: DrillSettings,
    at: DateTime<Utc>,
    progress: &Progress,
) -> Result<DrillOutcome> {
    let mut drill = Drill {
        engine,
        repository,
        settings,
        started: Instant::now(),
        seen: VerificationOutcome::new(&manifest.id, VerificationLevel::Drill),
        collections: 0,
        queries: 0,
        restore_ms: 0,
        first_query_ms: None,
    };
    progress.stage("lock");
    let _lock = repository.lock_to_read(progress)?;
    progress.phase("restore", manifest.totals.records);
    for source in &manifest.collections {
        drill.rehearse(source, progress)?;
    }
    let mut seen = drill.seen;
    if seen.checked_records == 0 && seen.problems.is_empty() {
        seen.note("no record was there to be checked".to_owned());
    }
    seen.checked_bytes = verify::distinct_packs(manifest)
        .map(|pack| pack.size_bytes)
        .sum();
    seen.ok = seen.problems.is_empty();
    progress.commit()?;
    verify::keep(repository, &manifest.id, &seen, at)?;
    Ok(DrillOutcome {
        backup: manifest.id.clone(),
        ok: seen.ok,
        collections: drill.collections,
        checked_records: seen.checked_records,
        queries: drill.queries,
        restore_ms: drill.restore_ms,
        first_query_ms: drill.first_query_ms,
        problems: seen.problems,
    })
}

/// The error of a drill that did not go well; it carries what was found.
pub fn failure(outcome: &DrillOutcome) -> Error {
    let first = outcome.problems.first().map_or("", String::as_str);
    Error::backup_corrupt(format!("the drill of {} failed: {first}", outcome.backup))
        .with("backup", outcome.backup.clone())
}

struct Drill<'a> {
    engine: &'a Engine,
    repository: &'a Repository,
    settings: DrillSettings,
    started: Instant,
    seen: VerificationOutcome,
    collections: u64,
    queries: u64,
    restore_ms: u64,
    first_query_ms: Option<u64>,
}

fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

impl Drill<'_> {
    /// Restores one collection aside and looks at it; it is dropped in any case.
    fn rehearse(&mut self, source: &ManifestCollection, progress: &Progress) -> Result<()> {
        let began = Instant::now();
        let name = source.name.to_string();
        let definition = CollectionDefinition::clone(&source.definition);
        let mut scratch = Stage::new(
            self.engine,
            source.name.clone(),
            definition,
            Staging::ToPublish,
        )?;
        let mut comparison = Comparison::with(self.engine, None)?;
        let all = Selection::default();
        let copied = restore::copy(
            self.repository,
            source,
            &all,
            &mut scratch,
            &mut comparison,
            progress,
        );
        let Some((info, _)) = self.seen.judge(&name, copied)? else {
            return Ok(());
        };
        self.restore_ms += millis(began);
        self.collections += 1;
        self.seen.checked_records += info.head.count;
        // Count and digest were compared by the copy; this is what the digest does not speak of.
        if info.descriptor.definition.hash() != source.definition.hash() {
            self.seen
                .note(format!("{name}: restored with another definition"));
        }
        self.ask(&scratch, source, progress)
    }

    /// Asks for the neighbours of records that lie evenly over the collection.
    fn ask(
        &mut self,
        scratch: &Stage<'_>,
        source: &ManifestCollection,
        progress: &Progress,
    ) -> Result<()> {
        let queries = self.samples(scratch, source.records)?;
        let k = self.settings.results;
        let mut answers = Vec::with_capacity(queries.len());
        for query in &queries {
            let request = QueryRequest {
                embeddings: vec![query.clone()],
                n_results: k,
                ..QueryRequest::default()
            };
            answers.extend(self.engine.query_staged(scratch.id(), &request)?);
            let answered = millis(self.started);
            self.first_query_ms.get_or_insert(answered);
        }
        let space = source.definition.configuration.space();
        let mut nearest = vec![Nearest::new(k); queries.len()];
        self.engine.scan(scratch.id(), 0, |_, stored| {
            progress.check()?;
            let vector: Vec<f32> = stored.view.embedding().collect();
            for (query, nearest) in queries.iter().zip(&mut nearest) {
                nearest.offer(stored.view.id, distance(space, query, &vector));
            }
            Ok(true)
        })?;
        for (found, expected) in answers.iter().zip(&nearest) {
            self.queries += 1;
            let found = found
                .iter()
                .map(|neighbour| (neighbour.record.id.as_str(), f64::from(neighbour.distance)));
            if let Some(problem) = expected.differs(found) {
                self.seen.note(format!("{}: {problem}", source.name));
            }
        }
        Ok(())
    }

    fn samples(&self, scratch: &Stage<'_>, records: u64) -> Result<Vec<Vec<f32>>> {
        let step = records.div_ceil(self.settings.queries as u64).max(1);
        let (mut at, mut samples) = (0, Vec::new());
        self.engine.scan(scratch.id(), 0, |_, stored| {
            if at % step == 0 {
                samples.push(stored.view.embedding().collect());
            }
            at += 1;
            Ok(true)
        })?;
        Ok(samples)
    }
}

/// The distance as it is defined, one component after the other in f64.
fn distance(space: Space, a: &[f32], b: &[f32]) -> f64 {
    let sum = |term: fn(f64, f64) -> f64| -> f64 {
        let pairs = a.iter().zip(b);
        pairs.map(|(a, b)| term(f64::from(*a), f64::from(*b))).sum()
    };
    let dot = sum(|a, b| a * b);
    match space {
        Space::L2 => sum(|a, b| (a - b) * (a - b)),
        Space::Ip => 1.0 - dot,
        Space::Cosine => {
            let norms = (sum(|a, _| a * a) * sum(|_, b| b * b)).sqrt();
            if norms == 0.0 { 1.0 } else { 1.0 - dot / norms }
        }
    }
}

/// The nearest records to one query, by brute force.
#[derive(Clone)]
struct Nearest {
    k: usize,
    found: Vec<(f64, String)>,
}

impl Nearest {
    fn new(k: usize) -> Self {
        Self {
            k,
            found: Vec::new(),
        }
    }

    fn offer(&mut self, id: &str, distance: f64) {
        let place = self.found.partition_point(|(there, _)| *there <= distance);
        if place < self.k {
            self.found.insert(place, (distance, id.to_owned()));
            self.found.truncate(self.k);
        }
    }

    /// How an answer differs. Records at the same distance may stand in for each other.
    fn differs<'b>(&self, answer: impl Iterator<Item = (&'b str, f64)>) -> Option<String> {
        let answer: Vec<_> = answer.collect();
        if answer.len() != self.found.len() {
            return Some(format!(
                "a query found {} records instead of {}",
                answer.len(),
                self.found.len()
            ));
        }
        let near = |a: f64, b: f64| (a - b).abs() <= TOLERANCE * (1.0 + a.abs().max(b.abs()));
        let pairs = answer.iter().zip(&self.found);
        pairs
            .filter(|((_, distance), (expected, _))| !near(*distance, *expected))
            .map(|((id, distance), (expected, wanted))| {
                format!(
                    "a query found {id:?} at {distance} in the place of {wanted:?} at {expected}"
                )
            })
            .next()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brute_force_keeps_the_nearest_and_sees_a_wrong_answer() {
        let mut nearest = Nearest::new(2);
        for (id, component) in [("far", 9.0), ("near", 1.0), ("nearest", 0.5)] {
            nearest.offer(id, distance(Space::L2, &[0.0], &[component]));
        }
        let right = [("nearest", 0.25), ("near", 1.0)];
        assert_eq!(nearest.differs(right.into_iter()), None);
        let wrong = [("nearest", 0.25), ("far", 81.0)];
        assert!(nearest.differs(wrong.into_iter()).is_some());
        assert!(nearest.differs(right.into_iter().take(1)).is_some());
    }

    #[test]
    fn distances_are_those_of_the_definition() {
        let (a, b) = ([1.0, 0.0], [0.0, 2.0]);
        assert_eq!(distance(Space::L2, &a, &b), 5.0);
        assert_eq!(distance(Space::Ip, &a, &b), 1.0);
        assert_eq!(distance(Space::Cosine, &a, &b), 1.0);
        assert_eq!(distance(Space::Cosine, &a, &[0.0, 0.0]), 1.0);
    }
}
