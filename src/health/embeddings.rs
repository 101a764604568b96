//! Embeddings: right dimension, finite, norms, duplicates, and found again by the search. Read page by page; what
//! is held in memory does not grow with the collection.

use std::collections::HashSet;
use std::str::FromStr;

use serde_json::json;
use uuid::Uuid;
use xxhash_rust::xxh3::Xxh3Default;

use super::{Report, Status};
use crate::config::HealthConfig;
use crate::engine::{CollectionInfo, Engine, GetRequest, Projection, QueryRequest};
use crate::error::{Error, Kind, Result};
use crate::progress::Progress;

/// Records that are read at a time.
const PAGE: usize = 256;
/// Places that a sample is taken from, at least.
const PLACES: usize = 10;
/// Vectors that are looked for with the search; each is compared with the whole collection.
const SELF_QUERIES: usize = 20;
/// How often a record that was not found is looked for, as it may be written meanwhile.
const ATTEMPTS: usize = 3;

/// How many records of a collection are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sample {
    /// So many, spread over it.
    Records(usize),
    /// Every one.
    All,
}

impl FromStr for Sample {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.parse() {
            Ok(0) => Err(Error::unprocessable(
                "sample: a check that looks at nothing proves nothing",
            )),
            Ok(records) => Ok(Self::Records(records)),
            Err(_) if text == "all" => Ok(Self::All),
            Err(_) => Err(Error::unprocessable(
                "sample: a positive integer or \"all\" is expected",
            )),
        }
    }
}

/// What to look at.
#[derive(Clone, Copy, Debug)]
pub struct EmbeddingSelection {
    /// One collection, or all.
    pub collection: Option<Uuid>,
    /// Records per collection.
    pub sample: Sample,
}

/// Checks a sample of embeddings.
///
/// # Errors
/// `NotFound` for a named collection, `Canceled`. What keeps from reading a collection is a failure of its own.
pub fn check_embeddings(
    engine: &Engine,
    selection: EmbeddingSelection,
    config: &HealthConfig,
    progress: &Progress,
) -> Result<Report> {
    let mut report = Report::default();
    let collections = match selection.collection {
        Some(id) => vec![engine.collection(id)?],
        None => engine.all_collections(),
    };
    let planned = collections
        .iter()
        .map(|info| planned(info, selection.sample) as u64);
    progress.phase("check", planned.sum());
    let mut checked = 0;
    for info in &collections {
        let id = info.descriptor.id;
        let sample = Sampling {
            engine,
            info,
            sample: selection.sample,
            progress,
        };
        let mut seen = Seen::new(config);
        let looked_at = sample.each(|number, id, embedding| {
            seen.examine(info, id, embedding);
            sample.search_again(number, id, embedding, &mut seen)
        });
        match looked_at {
            Ok(()) => judge(&mut report, engine, info, &seen),
            // Dropped since it was listed.
            Err(error) if error.kind() == Kind::NotFound && selection.collection.is_none() => {
                continue;
            }
            Err(error) if matches!(error.kind(), Kind::NotFound | Kind::Canceled) => {
                return Err(error);
            }
            Err(error) => {
                let name = info.descriptor.name.to_string();
                let output = Some(format!("{name}: {}", error.message()));
                let observed = json!({"collection": name, "checked_records": seen.records, "records": info.head.count});
                let (check, status) = ("embeddings:sample", Status::Fail);
                report.add_about(Some(id), check, status, observed, "collection", output);
            }
        }
        checked += 1;
    }
    report.pass("embeddings:checked", checked, "collections");
    Ok(report)
}

/// Records that will be looked at.
fn planned(info: &CollectionInfo, sample: Sample) -> usize {
    let count = usize::try_from(info.head.count).unwrap_or(usize::MAX);
    match sample {
        Sample::All => count,
        Sample::Records(records) => records.min(count),
    }
}

/// Ids of which only the first is kept.
#[derive(Default)]
struct Named {
    count: u64,
    first: Option<String>,
}

impl Named {
    fn add(&mut self, id: &str) {
        self.count += 1;
        self.first.get_or_insert_with(|| id.to_owned());
    }

    fn describe(&self, what: &str) -> Option<String> {
        let first = self.first.as_ref()?;
        Some(format!("{} {what}, first {first:?}", self.count))
    }
}

/// What the records that were looked at show.
struct Seen {
    records: u64,
    wrong_dimension: Named,
    not_finite: Named,
    zero_norm: Named,
    lost: Named,
    self_queries: u64,
    duplicates: u64,
    compared: u64,
    hashes: HashSet<u64>,
    max_hashes: usize,
    min_norm: f64,
    max_norm: f64,
    norms: f64,
}

impl Seen {
    fn new(config: &HealthConfig) -> Self {
        Self {
            records: 0,
            wrong_dimension: Named::default(),
            not_finite: Named::default(),
            zero_norm: Named::default(),
            lost: Named::default(),
            self_queries: 0,
            duplicates: 0,
            compared: 0,
            hashes: HashSet::new(),
            max_hashes: config.max_duplicate_entries,
            min_norm: f64::INFINITY,
            max_norm: 0.0,
            norms: 0.0,
        }
    }

    fn examine(&mut self, info: &CollectionInfo, id: &str, embedding: &[f32]) {
        self.records += 1;
        let dimension = info.descriptor.definition.dimension;
        if dimension.is_some_and(|dimension| dimension as usize != embedding.len()) {
            self.wrong_dimension.add(id);
        }
        if !embedding.iter().all(|component| component.is_finite()) {
            self.not_finite.add(id);
        }
        let squares = embedding
            .iter()
            .map(|component| f64::from(*component).powi(2));
        let norm = squares.sum::<f64>().sqrt();
        if norm == 0.0 {
            self.zero_norm.add(id);
        }
        self.min_norm = self.min_norm.min(norm);
        self.max_norm = self.max_norm.max(norm);
        self.norms += norm;
        if self.hashes.len() < self.max_hashes {
            let mut hasher = Xxh3Default::new();
            for component in embedding {
                hasher.update(&component.to_bits().to_le_bytes());
            }
            self.compared += 1;
            if !self.hashes.insert(hasher.digest()) {
                self.duplicates += 1;
            }
        }
    }
}

fn judge(report: &mut Report, engine: &Engine, info: &CollectionInfo, seen: &Seen) {
    let name = info.descriptor.name.to_string();
    let id = info.descriptor.id;
    let records = info.head.count;
    let mean = |sum: f64| {
        if seen.records == 0 {
            0.0
        } else {
            sum / seen.records as f64
        }
    };
    let observed = json!({
        "collection": name,
        "checked_records": seen.records,
        "records": records,
        "dimension": info.descriptor.definition.dimension,
        "self_queries": seen.self_queries,
        "zero_norm": seen.zero_norm.count,
        "duplicates": seen.duplicates,
        "compared_for_duplicates": seen.compared,
        "min_norm": if seen.records == 0 { 0.0 } else { seen.min_norm },
        "mean_norm": mean(seen.norms),
        "max_norm": seen.max_norm,
    });
    let broken: Vec<String> = [
        seen.wrong_dimension.describe("of another dimension"),
        seen.not_finite.describe("not finite"),
        seen.lost.describe("not found by the search"),
    ]
    .into_iter()
    .flatten()
    .collect();
    let now = engine.collection(id).map_or(0, |info| info.head.count);
    let (status, output) = if seen.records == 0 && records.min(now) > 0 {
        (Status::Fail, Some("nothing could be looked at".to_owned()))
    } else if !broken.is_empty() {
        (Status::Fail, Some(broken.join("; ")))
    } else {
        match seen.zero_norm.describe("zero vectors") {
            Some(zeros) => (Status::Warn, Some(zeros)),
            None => (Status::Pass, None),
        }
    };
    let output = output.map(|output| format!("{name}: {output}"));
    let check = "embeddings:sample";
    report.add_about(Some(id), check, status, observed, "collection", output);
}

/// The reading of a sample.
struct Sampling<'a> {
    engine: &'a Engine,
    info: &'a CollectionInfo,
    sample: Sample,
    progress: &'a Progress,
}

impl Sampling<'_> {
    /// Visits the records of the sample, numbered.
    fn each(&self, mut visit: impl FnMut(usize, &str, &[f32]) -> Result<()>) -> Result<()> {
        let count = usize::try_from(self.info.head.count).unwrap_or(usize::MAX);
        let wanted = match self.sample {
            Sample::Records(records) if records < count => records,
            _ => return self.page(0, 0, usize::MAX, &mut visit),
        };
        // Places spread evenly over the collection, so that the sample is not just its beginning.
        let places = PLACES.max(wanted.div_ceil(PAGE)).min(wanted);
        let mut taken = 0;
        for place in 1..=places {
            let here = wanted * place / places - taken;
            let offset = taken as u128 * count as u128 / wanted as u128;
            let offset = usize::try_from(offset).unwrap_or(usize::MAX);
            let id = self.info.descriptor.id;
            if let Some(start) = self.engine.ordinal_at(id, offset)? {
                self.page(start, taken, here, &mut visit)?;
            }
            taken += here;
        }
        Ok(())
    }

    /// Visits so many records from an ordinal on. They are read some at a time: what `visit` does may take long.
    fn page(
        &self,
        start: u64,
        number: usize,
        wanted: usize,
        visit: &mut impl FnMut(usize, &str, &[f32]) -> Result<()>,
    ) -> Result<()> {
        let (mut start, mut number) = (start, number);
        let end = number.saturating_add(wanted);
        while number < end {
            self.progress.check()?;
            let mut page: Vec<(String, Vec<f32>)> = Vec::new();
            let most = PAGE.min(end - number);
            let id = self.info.descriptor.id;
            // A collection that was dropped is not read on.
            self.engine.collection(id)?;
            self.engine.scan(id, start, |ordinal, stored| {
                page.push((stored.view.id.to_owned(), stored.view.embedding().collect()));
                start = ordinal + 1;
                Ok(page.len() < most)
            })?;
            let last = page.len() < most;
            for (id, embedding) in &page {
                visit(number, id, embedding)?;
                number += 1;
            }
            let bytes = page.iter().map(|(_, vector)| vector.len() as u64 * 4).sum();
            self.progress.advance(page.len() as u64, bytes);
            if last {
                break;
            }
        }
        Ok(())
    }

    /// Looks for some of the records with their own vectors, through the path that clients use. A record is lost
    /// when it is neither in the answer nor beaten by all of it.
    fn search_again(
        &self,
        number: usize,
        id: &str,
        embedding: &[f32],
        seen: &mut Seen,
    ) -> Result<()> {
        let step = planned(self.info, self.sample)
            .div_ceil(SELF_QUERIES)
            .max(1);
        if !number.is_multiple_of(step) || seen.self_queries > SELF_QUERIES as u64 {
            return Ok(());
        }
        seen.self_queries += 1;
        let mut embedding = embedding.to_vec();
        for _ in 0..ATTEMPTS {
            if self.is_found(id, &embedding)? {
                return Ok(());
            }
            // Written or deleted since it was read?
            match self.current(id)? {
                Some(current) => embedding = current,
                None => return Ok(()),
            }
        }
        seen.lost.add(id);
        Ok(())
    }

    fn is_found(&self, id: &str, embedding: &[f32]) -> Result<bool> {
        let nearest = |ids: Option<Vec<String>>| {
            let request = QueryRequest {
                embeddings: vec![embedding.to_vec()],
                n_results: 1,
                ids,
                ..QueryRequest::default()
            };
            let found = self.engine.query(self.info.descriptor.id, &request)?;
            Ok::<_, Error>(found.into_iter().flatten().next())
        };
        let own = match nearest(Some(vec![id.to_owned()])) {
            // Deleted since it was read; that the collection was dropped shows below.
            Err(error) if error.kind() == Kind::NotFound => None,
            own => own?,
        };
        let best = nearest(None)?;
        Ok(match (own, best) {
            (Some(own), Some(best)) => best.distance <= own.distance,
            _ => false,
        })
    }

    fn current(&self, id: &str) -> Result<Option<Vec<f32>>> {
        let request = GetRequest {
            ids: Some(vec![id.to_owned()]),
            ..GetRequest::default()
        };
        let projection = Projection {
            embedding: true,
            ..Projection::default()
        };
        let found = self
            .engine
            .get(self.info.descriptor.id, &request, projection)?;
        Ok(found.into_iter().next().map(|record| record.embedding))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{NewCollection, RecordPatch, WriteMode};
    use crate::model::collection::CollectionDefinition;
    use crate::model::metadata::Metadata;
    use crate::model::names::CollectionName;
    use crate::model::schema;

    /// A check that ran beside deletions ended with "no such record".
    #[test]
    fn a_record_that_is_deleted_while_it_is_looked_at_is_not_lost() {
        let home = tempfile::tempdir().unwrap();
        let engine = super::super::engine_in(home.path());
        let (configuration, schema) = schema::reconcile(&Metadata::new(), None, None, 2).unwrap();
        let definition = CollectionDefinition {
            metadata: Metadata::new(),
            configuration,
            schema,
            dimension: None,
        };
        let name = CollectionName::new("default_tenant", "default_database", "words");
        let info = engine
            .create_collection(NewCollection { name, definition }, false)
            .unwrap();
        let patch = RecordPatch {
            id: "kept".to_owned(),
            embedding: Some(vec![1.0, 2.0]),
            document: None,
            uri: None,
            metadata: Vec::new().into_iter().collect(),
        };
        let id = info.descriptor.id;
        engine.write(id, WriteMode::Add, vec![patch]).unwrap();
        let progress = Progress::default();
        let sampling = Sampling {
            engine: &engine,
            info: &info,
            sample: Sample::Records(10),
            progress: &progress,
        };
        assert!(sampling.is_found("kept", &[1.0, 2.0]).unwrap());
        assert!(!sampling.is_found("gone", &[1.0, 2.0]).unwrap());
        let config = crate::config::Config::baseline().unwrap().health;
        let mut seen = Seen::new(&config);
        sampling
            .search_again(0, "gone", &[1.0, 2.0], &mut seen)
            .unwrap();
        assert_eq!((seen.self_queries, seen.lost.count), (1, 0));
        engine.close().unwrap();
    }
}
