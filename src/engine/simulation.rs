//! The engine on a disk that fails at any commit or sync and forgets at any power cut, against a model: what was
//! acknowledged is there, nothing is half there, and what is not known to be whole is not served.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use tempfile::TempDir;
use uuid::Uuid;

use super::store::{Disk, Failure, Store};
use super::testing::{ALL, options, patch, record};
use super::{
    DeleteRequest, Engine, GetRequest, InspectionLimits, NewCollection, Publication, RecordPatch,
    StagedRecord, Staging, WriteMode,
};
use crate::error::{Error, Kind, Result};
use crate::model::names::CollectionName;
use crate::model::record::Record;
use crate::progress::Progress;

/// Records by id, with the version that is in their embedding and their document.
type Model = BTreeMap<String, u16>;

#[derive(Clone, Debug)]
enum Step {
    Upsert(BTreeMap<u8, u16>),
    Delete(Vec<u8>),
    /// Other content, built aside, takes the collection's place.
    Replace(BTreeMap<u8, u16>),
}

/// What happens until the next start.
#[derive(Clone, Debug)]
struct Run {
    steps: Vec<Step>,
    failure: Option<Failure>,
    /// Batches behind the last sync that the power cut leaves.
    kept: usize,
}

fn id(number: u8) -> String {
    format!("record-{number}")
}

/// Every seventh is too long for one value.
fn document(version: u16) -> String {
    let length = if version.is_multiple_of(7) { 30_000 } else { 1 };
    format!("version {version} ").repeat(length / 10 + 1)
}

fn patch_of(id: &str, version: u16) -> RecordPatch {
    let number = i64::from(version);
    let text = document(version);
    patch(id, version.into(), Some(&text), &[("version", number)])
}

fn record_of(id: &str, version: u16) -> Record {
    let number = i64::from(version);
    let text = document(version);
    record(id, version.into(), Some(&text), &[("version", number)])
}

fn after(model: &Model, step: &Step) -> Model {
    let versions = |records: &BTreeMap<u8, u16>| -> Model {
        records
            .iter()
            .map(|(at, version)| (id(*at), *version))
            .collect()
    };
    let mut model = model.clone();
    match step {
        Step::Upsert(records) => model.extend(versions(records)),
        Step::Delete(ids) => ids.iter().for_each(|at| {
            model.remove(&id(*at));
        }),
        Step::Replace(records) => model = versions(records),
    }
    model
}

struct Simulation {
    home: TempDir,
    disk: Arc<Disk>,
    name: CollectionName,
}

impl Simulation {
    fn open(&self) -> Engine {
        let options = options(self.home.path());
        loop {
            match Store::in_memory(&options.store, &self.disk) {
                // A thread that ends lets go of the store a moment later.
                Err(error) if error.kind() == Kind::Conflict => std::thread::yield_now(),
                store => return Engine::on(store.unwrap(), options).unwrap(),
            }
        }
    }

    fn id(&self, engine: &Engine) -> Uuid {
        let found = engine.collection_by_name(&self.name).unwrap();
        found.descriptor.public_id()
    }

    fn take(&self, engine: &Engine, step: &Step) -> Result<()> {
        let collection = self.id(engine);
        match step {
            Step::Upsert(records) => {
                let records = records.iter();
                let patches = records.map(|(at, version)| patch_of(&id(*at), *version));
                engine
                    .write(collection, WriteMode::Upsert, patches.collect())
                    .map(|_| ())
            }
            Step::Delete(ids) => {
                let request = DeleteRequest {
                    ids: Some(ids.iter().map(|at| id(*at)).collect()),
                    ..DeleteRequest::default()
                };
                engine.delete(collection, &request).map(|_| ())
            }
            Step::Replace(records) => {
                let there = engine.addressed(collection)?.descriptor;
                let definition = there.definition.clone();
                let staged =
                    engine.stage(self.name.clone(), definition.clone(), Staging::ToPublish)?;
                let records: Vec<_> = (0..)
                    .zip(records)
                    .map(|(ordinal, (at, version))| StagedRecord {
                        ordinal,
                        canonical: record_of(&id(*at), *version).canonical(),
                    })
                    .collect();
                engine.stage_records(staged, &records)?;
                engine.finish_staging(staged, &definition, 0)?;
                engine.publish(&[Publication {
                    staged,
                    name: self.name.clone(),
                    replaces: Some(there.id),
                    keeps_id: true,
                    root: None,
                }])
            }
        }
    }

    /// What is served; an error where nobody knows whether it would be whole.
    fn read(&self, engine: &Engine) -> Result<Model> {
        let records = engine.get(self.id(engine), &GetRequest::default(), ALL)?;
        let mut model = Model::new();
        for record in records {
            let version = record.embedding.first().copied().unwrap_or(-1.0) as u16;
            assert_eq!(record, record_of(&record.id, version), "a record is whole");
            assert!(
                model.insert(record.id, version).is_none(),
                "an id is there once"
            );
        }
        Ok(model)
    }

    /// Takes steps until one fails; the states from the last acknowledged one on.
    fn run(&self, engine: &Engine, run: &Run) -> Vec<Model> {
        let mut states = vec![self.read(engine).unwrap()];
        if let Some(failure) = run.failure {
            self.disk.fail(failure);
        }
        for step in &run.steps {
            let next = after(states.last().unwrap(), step);
            let taken = self.take(engine, step);
            states.push(next);
            if let Err(error) = taken {
                self.check_stopped(engine, &error, &states);
                return states;
            }
            // Acknowledged: what was before is not to come back.
            states.drain(..states.len() - 1);
            match self.read(engine) {
                Ok(served) => assert_eq!(served, states[0]),
                // What removes replaced content in the background has met the failure.
                Err(error) => assert!(engine.fault().is_some(), "{error:?}"),
            }
        }
        states
    }

    fn check_stopped(&self, engine: &Engine, error: &Error, states: &[Model]) {
        let stopped = [Kind::Unavailable, Kind::StorageFault];
        assert!(stopped.contains(&error.kind()), "{error:?}");
        let write = engine.write(
            self.id(engine),
            WriteMode::Upsert,
            vec![patch_of("more", 1)],
        );
        assert_eq!(write.unwrap_err().kind(), Kind::Unavailable);
        match self.read(engine) {
            Ok(served) => assert!(states.contains(&served), "{served:?} of {states:?}"),
            Err(error) => assert!(stopped.contains(&error.kind()), "{error:?}"),
        }
    }
}

fn records() -> impl Strategy<Value = BTreeMap<u8, u16>> {
    prop::collection::btree_map(0_u8..8, 0_u16..1_000, 1..5)
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => records().prop_map(Step::Upsert),
        2 => prop::collection::vec(0_u8..8, 1..4).prop_map(Step::Delete),
        1 => records().prop_map(Step::Replace),
    ]
}

fn run() -> impl Strategy<Value = Run> {
    let failure = prop_oneof![
        1 => Just(None),
        3 => (1_u64..20).prop_map(|at| Some(Failure::Commit(at))),
        3 => (1_u64..20).prop_map(|at| Some(Failure::Torn(at))),
        3 => (1_u64..20).prop_map(|at| Some(Failure::Sync(at))),
    ];
    (prop::collection::vec(step(), 0..12), failure, 0_usize..4).prop_map(
        |(steps, failure, kept)| Run {
            steps,
            failure,
            kept,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn what_was_acknowledged_is_there_and_nothing_is_half_there(
        runs in prop::collection::vec(run(), 1..5),
    ) {
        let simulation = Simulation {
            home: tempfile::tempdir().unwrap(),
            disk: Arc::default(),
            name: CollectionName::new("default_tenant", "default_database", "records"),
        };
        let mut engine = simulation.open();
        let definition = super::testing::definition();
        let name = simulation.name.clone();
        engine.create_collection(NewCollection { name, definition }, false).unwrap();
        for run in &runs {
            let states = simulation.run(&engine, run);
            // Nothing more is written: what is cut is what the steps left.
            let _ = engine.close();
            drop(engine);
            simulation.disk.cut(run.kept);
            engine = simulation.open();
            let found = simulation.read(&engine).unwrap();
            prop_assert!(states.contains(&found), "{:?} is none of {:?}", found, states);
            let limits = InspectionLimits { max_findings: 10 };
            let collection = engine.collection_by_name(&simulation.name).unwrap().descriptor.id;
            let inspected = engine.inspect(collection, limits, &Progress::default()).unwrap();
            prop_assert!(inspected.is_sound(), "{:?}", inspected.findings);
            prop_assert_eq!(inspected.checked_records, found.len() as u64);
        }
        engine.close().unwrap();
    }
}
