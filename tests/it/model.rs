//! The engine against a model: random writes, reopenings and compactions, then everything that can be read compared
//! with a map that keeps insertion order, with sums of hashes, and with brute force in f64.

mod pursuit;
mod steps;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::json;
use uuid::Uuid;
use vectorkeep::engine::{
    CatchUp, DeleteRequest, Durability, Engine, GetRequest, InspectionLimits, NewCollection,
    Projection, QueryRequest, RecordPatch, WriteMode,
};
use vectorkeep::model::collection::CollectionDefinition;
use vectorkeep::model::configuration::ConfigurationRequest;
use vectorkeep::model::metadata::Metadata;
use vectorkeep::model::names::CollectionName;
use vectorkeep::model::record::Record;
use vectorkeep::model::schema;
use vectorkeep::progress::Progress;

use crate::harness::{digest, distance, numbered, open_engine};
use steps::{DIMENSION, IDS, KEYS, Step, step, vector};

const EVERYTHING: Projection = Projection {
    embedding: true,
    document: true,
    uri: true,
    metadata: true,
};

fn open(directory: &Path) -> Engine {
    open_engine(
        directory,
        Durability::Interval(Duration::from_millis(200)),
        5,
    )
}

fn create(engine: &Engine, name: &str, space: &str) -> Uuid {
    let request: ConfigurationRequest =
        serde_json::from_value(json!({"hnsw": {"space": space}})).unwrap();
    let (configuration, schema) =
        schema::reconcile(&Metadata::new(), Some(request), None, 2).unwrap();
    let definition = CollectionDefinition {
        metadata: Metadata::new(),
        configuration,
        schema,
        dimension: None,
    };
    let name = CollectionName::new("default_tenant", "default_database", name);
    engine
        .create_collection(NewCollection { name, definition }, false)
        .unwrap()
        .descriptor
        .id
}

fn patch_of(record: &Record) -> RecordPatch {
    let metadata = record
        .metadata
        .iter()
        .map(|(key, value)| (key.clone(), Some(value.clone())));
    RecordPatch {
        id: record.id.clone(),
        embedding: Some(record.embedding.clone()),
        document: record.document.clone(),
        uri: record.uri.clone(),
        metadata: metadata.collect(),
    }
}

/// Records by the order of their first insertion.
#[derive(Default)]
struct Model {
    records: BTreeMap<u64, Record>,
    next: u64,
}

impl Model {
    fn place(&self, id: &str) -> Option<u64> {
        self.records
            .iter()
            .find(|(_, record)| record.id == id)
            .map(|(place, _)| *place)
    }

    fn write(&mut self, mode: WriteMode, patch: RecordPatch) {
        match (self.place(&patch.id), mode) {
            (Some(_), WriteMode::Add) | (None, WriteMode::Update) => {}
            (Some(place), _) => {
                let record = self.records.get_mut(&place).unwrap();
                record.embedding = patch.embedding.unwrap_or_else(|| record.embedding.clone());
                record.document = patch.document.or_else(|| record.document.take());
                record.uri = patch.uri.or_else(|| record.uri.take());
                for (key, value) in patch.metadata {
                    record.metadata.remove(&key);
                    record.metadata.extend(value.map(|value| (key, value)));
                }
            }
            (None, _) => {
                let metadata = patch
                    .metadata
                    .into_iter()
                    .filter_map(|(key, value)| Some((key, value?)));
                let record = Record {
                    id: patch.id,
                    embedding: patch.embedding.unwrap(),
                    document: patch.document,
                    uri: patch.uri,
                    metadata: metadata.collect(),
                };
                self.records.insert(self.next, record);
                self.next += 1;
            }
        }
    }

    fn delete(&mut self, most: usize, goes: impl Fn(&Record) -> bool) -> u64 {
        let places: Vec<u64> = self
            .records
            .iter()
            .filter(|(_, record)| goes(record))
            .map(|(place, _)| *place)
            .collect();
        places
            .iter()
            .take(most)
            .filter(|place| self.records.remove(place).is_some())
            .count() as u64
    }

    fn list(&self) -> Vec<Record> {
        self.records.values().cloned().collect()
    }
}

/// All that distinguishes two records, bit for bit.
fn bits(record: &Record) -> (String, Vec<u32>, Option<String>, Option<String>, String) {
    let embedding = record
        .embedding
        .iter()
        .map(|component| component.to_bits())
        .collect();
    let metadata = format!("{:?}", record.metadata);
    (
        record.id.clone(),
        embedding,
        record.document.clone(),
        record.uri.clone(),
        metadata,
    )
}

fn apply(engine: &Engine, id: Uuid, model: &mut Model, step: &Step) {
    match step {
        Step::Write(mode, patches) => {
            let mode = [WriteMode::Add, WriteMode::Upsert, WriteMode::Update][usize::from(*mode)];
            let patches: Vec<RecordPatch> = patches
                .iter()
                .map(|patch| RecordPatch {
                    id: IDS[patch.id].to_owned(),
                    embedding: match (patch.embedding, mode) {
                        (None, WriteMode::Add | WriteMode::Upsert) => Some(vec![0.5; DIMENSION]),
                        (embedding, _) => embedding.map(Vec::from),
                    },
                    document: patch.document.text(),
                    uri: patch.uri.clone(),
                    metadata: patch
                        .metadata
                        .iter()
                        .map(|(key, value)| (KEYS[*key].to_owned(), value.clone()))
                        .collect(),
                })
                .collect();
            let before = model.records.len();
            patches
                .iter()
                .for_each(|patch| model.write(mode, patch.clone()));
            let outcome = engine.write(id, mode, patches).unwrap();
            assert_eq!(outcome.inserted as usize, model.records.len() - before);
        }
        Step::DeleteIds(ids) => {
            let ids: Vec<String> = ids.iter().map(|at| IDS[*at].to_owned()).collect();
            let expected = model.delete(usize::MAX, |record| ids.contains(&record.id));
            let request = DeleteRequest {
                ids: Some(ids),
                ..DeleteRequest::default()
            };
            assert_eq!(engine.delete(id, &request).unwrap(), expected);
        }
        Step::DeleteWhere(deletion, limit) => {
            let expected =
                model.delete(limit.unwrap_or(usize::MAX), |record| deletion.holds(record));
            let request = DeleteRequest {
                filter: Some(deletion.filter()),
                limit: *limit,
                ..DeleteRequest::default()
            };
            assert_eq!(
                engine.delete(id, &request).unwrap(),
                expected,
                "{deletion:?}"
            );
        }
        Step::Compact => {
            let catch_up = CatchUp {
                max_last_round: 100,
                max_rounds: 3,
            };
            engine.compact(catch_up, &Progress::default()).unwrap();
        }
        Step::Reopen => {}
    }
}

/// Compares all that can be read with the model.
fn compare(engine: &Engine, id: Uuid, model: &Model, pick: Index) {
    let expected = model.list();
    let get = |request: GetRequest| engine.get(id, &request, EVERYTHING).unwrap();
    let same = |found: &[Record], expected: &[Record]| {
        let (found, expected): (Vec<_>, Vec<_>) = (
            found.iter().map(bits).collect(),
            expected.iter().map(bits).collect(),
        );
        assert_eq!(found, expected);
    };
    same(&get(GetRequest::default()), &expected);
    let head = engine.collection(id).unwrap().head;
    assert_eq!(head.count, expected.len() as u64);
    assert_eq!(head.digest.to_string(), digest(&expected));
    let inspection = engine
        .inspect(
            id,
            InspectionLimits { max_findings: 5 },
            &Progress::default(),
        )
        .unwrap();
    assert!(inspection.is_sound(), "{inspection:?}");
    assert_eq!(inspection.checked_records, expected.len() as u64);

    let offset = pick.index(IDS.len() + 1);
    let page: Vec<_> = expected.iter().skip(offset).take(3).cloned().collect();
    same(
        &get(GetRequest {
            offset,
            limit: Some(3),
            ..GetRequest::default()
        }),
        &page,
    );
    let wanted: BTreeSet<&str> = IDS.iter().skip(offset).step_by(2).copied().collect();
    let some: Vec<_> = expected
        .iter()
        .filter(|record| wanted.contains(&*record.id))
        .cloned()
        .collect();
    let ids = Some(wanted.iter().map(ToString::to_string).collect());
    same(
        &get(GetRequest {
            ids,
            ..GetRequest::default()
        }),
        &some,
    );
}

/// The k nearest must be the k nearest, up to what single precision can tell apart, and their distances
/// those of f64.
fn compare_nearest(
    engine: &Engine,
    id: Uuid,
    space: &str,
    records: &[Record],
    query: &[f32],
    k: usize,
) {
    let norm = |vector: &[f32]| distance("l2", vector, &vec![0.0; vector.len()]).sqrt();
    let longest = records
        .iter()
        .map(|record| norm(&record.embedding))
        .fold(norm(query), f64::max);
    let tolerance = if space == "cosine" {
        1e-5
    } else {
        1e-6 * (2.0 * longest).powi(2)
    };
    let mut exact: Vec<f64> = records
        .iter()
        .map(|record| distance(space, query, &record.embedding))
        .collect();
    exact.sort_by(f64::total_cmp);
    let request = QueryRequest {
        embeddings: vec![query.to_vec()],
        n_results: k,
        projection: EVERYTHING,
        ..QueryRequest::default()
    };
    let found = engine.query(id, &request).unwrap().remove(0);
    assert_eq!(found.len(), k.min(records.len()));
    let different: BTreeSet<&str> = found
        .iter()
        .map(|neighbour| &*neighbour.record.id)
        .collect();
    assert_eq!(different.len(), found.len());
    for (neighbour, nearest) in found.iter().zip(exact) {
        let record = records
            .iter()
            .find(|record| record.id == neighbour.record.id)
            .unwrap();
        assert_eq!(bits(&neighbour.record), bits(record));
        let (answered, own) = (
            f64::from(neighbour.distance),
            distance(space, query, &record.embedding),
        );
        assert!(
            (answered - own).abs() <= 1e-6 * own.abs() + 1e-12,
            "{space} {:?}: {answered}, exactly {own}",
            record.id
        );
        assert!(
            (own - nearest).abs() <= tolerance,
            "{space} {:?} at {own} in the place of one at {nearest}",
            record.id
        );
    }
    assert!(found.is_sorted_by(|a, b| a.distance <= b.distance));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, max_shrink_iters: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_engine_follows_the_model(
        space in select(vec!["l2", "cosine", "ip"]),
        steps in vec(step(), 1..25),
        queries in vec(vector(), 3),
        k in 1..15_usize,
        pick: Index,
    ) {
        let directory = tempfile::tempdir().unwrap();
        let mut engine = open(directory.path());
        let id = create(&engine, "modelled", space);
        // Keys of another collection lie around those of this one; nothing may touch them.
        let bystanders = numbered("bystander", 3);
        let other = create(&engine, "bystander", "l2");
        engine.write(other, WriteMode::Add, bystanders.iter().map(patch_of).collect()).unwrap();
        let mut model = Model::default();
        for step in steps.iter().chain([&Step::Reopen]) {
            apply(&engine, id, &mut model, step);
            if matches!(step, Step::Reopen) {
                compare(&engine, id, &model, pick);
                let sequence = engine.sequence();
                engine.close().unwrap();
                drop(engine);
                engine = open(directory.path());
                assert!(engine.sequence() >= sequence);
                compare(&engine, id, &model, pick);
            }
        }
        let records = model.list();
        for query in queries {
            // Vectors so short that squares vanish in single precision have a test of their own.
            let measurable = |vector: &[f32]| vector.iter().any(|x| x.abs() > 1e-6) || vector.iter().all(|x| *x == 0.0);
            if space != "cosine" || records.iter().all(|record| measurable(&record.embedding)) && measurable(&query) {
                compare_nearest(&engine, id, space, &records, &query, k);
            }
        }
        prop_assert_eq!(engine.collection(other).unwrap().head.digest.to_string(), digest(&bystanders));
        engine.close().unwrap();
    }
}

/// Squares of 1e-30 vanish and those of 1e30 overflow in single precision; every finite f32 may be stored.
#[test]
fn the_nearest_of_very_short_and_very_long_vectors_are_found() {
    let directory = tempfile::tempdir().unwrap();
    let engine = open(directory.path());
    let mut wrong = Vec::new();
    for (name, factor) in [("short", 1e-30_f32), ("subnormal", 1e-40), ("long", 1e30)] {
        for space in ["l2", "cosine", "ip"] {
            let id = create(&engine, &format!("{name}-{space}"), space);
            let mut records = numbered("r", 40);
            records
                .iter_mut()
                .flat_map(|record| &mut record.embedding)
                .for_each(|component| *component *= factor);
            engine
                .write(id, WriteMode::Add, records.iter().map(patch_of).collect())
                .unwrap();
            for at in [39, 21, 0] {
                let query = records[at].embedding.clone();
                let request = QueryRequest {
                    embeddings: vec![query.clone()],
                    n_results: 5,
                    projection: EVERYTHING,
                    ..QueryRequest::default()
                };
                let found = engine.query(id, &request).unwrap().remove(0);
                let mut exact: Vec<_> = records
                    .iter()
                    .map(|record| distance(space, &query, &record.embedding))
                    .collect();
                exact.sort_by(f64::total_cmp);
                for (neighbour, nearest) in found.iter().zip(exact) {
                    let own = distance(space, &query, &neighbour.record.embedding);
                    // As far as the distances of an answer, single precision, can tell.
                    let (own, nearest) = (own as f32, nearest as f32);
                    let relative = 1e-5 * nearest.abs().max(own.abs());
                    let tolerance = relative + if space == "cosine" { 1e-6 } else { 0.0 };
                    if own != nearest && (own - nearest).abs() > tolerance {
                        let id = &neighbour.record.id;
                        wrong.push(format!("{name} {space}, query {at}: {id} at {own:e} in the place of one at {nearest:e}"));
                    }
                }
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} wrong neighbours: {:#?}",
        wrong.len(),
        &wrong[..5.min(wrong.len())]
    );
    engine.close().unwrap();
}

#[test]
fn ordinals_are_not_given_twice_after_everything_was_deleted() {
    let directory = tempfile::tempdir().unwrap();
    let mut engine = open(directory.path());
    let id = create(&engine, "emptied", "l2");
    let records = numbered("r", 30);
    for round in 0..3 {
        let mut order: Vec<_> = records.iter().collect();
        order.rotate_left(round * 7);
        for record in &order {
            engine
                .write(id, WriteMode::Add, vec![patch_of(record)])
                .unwrap();
        }
        let found = engine
            .get(id, &GetRequest::default(), Projection::default())
            .unwrap();
        assert_eq!(
            found.iter().map(|r| &r.id).collect::<Vec<_>>(),
            order.iter().map(|r| &r.id).collect::<Vec<_>>()
        );
        let next = engine.collection(id).unwrap().head.next_ordinal;
        let all = DeleteRequest {
            ids: Some(records.iter().map(|r| r.id.clone()).collect()),
            ..DeleteRequest::default()
        };
        assert_eq!(engine.delete(id, &all).unwrap(), 30);
        engine.close().unwrap();
        drop(engine);
        engine = open(directory.path());
        let head = engine.collection(id).unwrap().head;
        assert_eq!((head.count, head.next_ordinal), (0, next));
        assert_eq!(head.digest.to_string(), "00".repeat(32));
    }
    engine.close().unwrap();
}
