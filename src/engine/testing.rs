//! A collection of an engine on a fresh store, for tests.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use uuid::Uuid;

use super::{
    DeleteRequest, Durability, Engine, EngineOptions, GetRequest, InspectionLimits, NewCollection,
    OpenOptions, Projection, RecordPatch, WriteMode, WriteOutcome,
};
use crate::model::collection::CollectionDefinition;
use crate::model::filter::{Filter, Limits};
use crate::model::metadata::MetadataValue;
use crate::model::names::{CollectionName, DEFAULT_DATABASE, DEFAULT_TENANT};
use crate::model::record::Record;
use crate::model::schema;
use crate::progress::Progress;

pub(super) const ALL: Projection = Projection {
    embedding: true,
    document: true,
    uri: true,
    metadata: true,
};

/// An engine's, with steps of 10 deletions and no patience with writers.
pub(crate) fn options(data_dir: &Path) -> EngineOptions {
    EngineOptions {
        store: OpenOptions {
            data_dir: data_dir.to_owned(),
            cache_bytes: 1 << 20,
            accept_data_loss: false,
            min_free_bytes: 0,
            sync_timeout: Duration::from_secs(60),
        },
        durability: Durability::Always,
        max_tombstones: 1_000,
        max_delete_step: 10,
        max_write_delay: Duration::ZERO,
    }
}

/// The definition of a collection that nothing was said about.
pub(super) fn definition() -> CollectionDefinition {
    let (configuration, schema) = schema::reconcile(&BTreeMap::new(), None, None, 1).unwrap();
    CollectionDefinition {
        metadata: BTreeMap::new(),
        configuration,
        schema,
        dimension: None,
    }
}

pub(super) struct Opened {
    pub(super) engine: Engine,
    pub(super) id: Uuid,
    _directory: tempfile::TempDir,
}

impl Opened {
    pub(super) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let engine = Engine::open(options(directory.path())).unwrap();
        let new = NewCollection {
            name: CollectionName::new(DEFAULT_TENANT, DEFAULT_DATABASE, "records"),
            definition: definition(),
        };
        let id = engine.create_collection(new, false).unwrap().descriptor.id;
        Self {
            engine,
            id,
            _directory: directory,
        }
    }

    pub(super) fn write(&self, mode: WriteMode, patches: Vec<RecordPatch>) -> WriteOutcome {
        self.engine.write(self.id, mode, patches).unwrap()
    }

    pub(super) fn delete(&self, ids: &[&str]) -> u64 {
        let request = DeleteRequest {
            ids: Some(ids.iter().map(|id| (*id).to_owned()).collect()),
            ..DeleteRequest::default()
        };
        self.engine.delete(self.id, &request).unwrap()
    }

    pub(super) fn records(&self) -> Vec<Record> {
        let all = GetRequest::default();
        self.engine.get(self.id, &all, ALL).unwrap()
    }

    /// Memory, ids and records agree, and so do count and digest.
    pub(super) fn check(&self) {
        let limits = InspectionLimits { max_findings: 10 };
        let found = self.engine.inspect(self.id, limits, &Progress::default());
        let found = found.unwrap();
        assert!(found.is_sound(), "{:?}", found.findings);
        assert_eq!(found.checked_records, self.records().len() as u64);
    }
}

pub(super) fn patch(
    id: &str,
    x: f32,
    document: Option<&str>,
    metadata: &[(&str, i64)],
) -> RecordPatch {
    let entry = |(key, value): &(&str, i64)| ((*key).to_owned(), Some(MetadataValue::Int(*value)));
    RecordPatch {
        id: id.to_owned(),
        embedding: Some(vec![x, 1.0]),
        document: document.map(str::to_owned),
        uri: None,
        metadata: metadata.iter().map(entry).collect(),
    }
}

/// The record that such a patch makes.
pub(super) fn record(id: &str, x: f32, document: Option<&str>, metadata: &[(&str, i64)]) -> Record {
    let RecordPatch {
        id,
        embedding,
        document,
        uri,
        metadata,
    } = patch(id, x, document, metadata);
    let metadata = metadata.into_iter();
    Record {
        id,
        embedding: embedding.unwrap_or_default(),
        document,
        uri,
        metadata: metadata
            .filter_map(|(key, value)| Some((key, value?)))
            .collect(),
    }
}

pub(super) fn filter(clause: &Value) -> Option<Filter> {
    let limits = Limits {
        max_depth: 4,
        max_nodes: 10,
        max_regex_bytes: 1 << 16,
    };
    Filter::parse_where(clause, &limits).unwrap()
}
