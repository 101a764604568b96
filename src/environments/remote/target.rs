//! A collection of another server as a target: it grows under a name of its own, and is read back.

use std::collections::BTreeMap;

use reqwest::Method;
use serde_json::json;

use super::RemoteCollection;
use crate::environments::wire::{self, WireCollection};
use crate::environments::{Batch, BatchSize, Contents, Staged, Target, chroma_rounding};
use crate::error::{Error, Result};
use crate::model::collection::CollectionDefinition;
use crate::model::configuration::Space;
use crate::model::metadata::MetadataValue;
use crate::model::names::CollectionName;
use crate::model::record::Record;
use crate::progress::Progress;

/// Metadata keys that are Chroma's own: taken, and not given back. (Of a collection, Chroma gives them back.)
const HIDDEN_PREFIX: &str = "chroma:";

impl Target for RemoteCollection {
    fn fit_collection(&self, definition: &mut CollectionDefinition) -> Vec<String> {
        let mut losses = Vec::new();
        let exact = self.remote.is_vectorkeep();
        definition.metadata.retain(|key, value| {
            let held = if exact {
                !key.starts_with(HIDDEN_PREFIX)
            } else {
                !is_list(value)
            };
            if !held || (!exact && chroma_rounding::fit(value)) {
                losses.push(format!("the collection's metadata {key:?}"));
            }
            held
        });
        losses
    }

    fn fit(&self, space: Space, record: &mut Record) -> Vec<&'static str> {
        let mut losses = Vec::new();
        let before = record.metadata.len();
        let metadata = &mut record.metadata;
        metadata.retain(|key, _| !key.starts_with(HIDDEN_PREFIX));
        if metadata.len() < before {
            losses.push("metadata keys that begin with \"chroma:\"");
        }
        if self.remote.is_vectorkeep() {
            return losses;
        }
        let floats = metadata.values_mut().map(chroma_rounding::fit);
        if floats.fold(false, |any, changed| any | changed) {
            losses.push("some metadata floats to the last bit, and -0.0 at all");
        }
        if space == Space::Cosine && !chroma_rounding::keeps(&record.embedding) {
            losses.push("some embeddings to the last bit, in cosine space");
        }
        losses
    }

    fn holds(&self, space: Space, wanted: &Record, found: &Record) -> bool {
        if wanted.hash() == found.hash() {
            return true;
        }
        // What the server does to an embedding is known to the bit; all else has to be equal.
        let rest = |record: &Record| Record {
            embedding: Vec::new(),
            ..record.clone()
        };
        space == Space::Cosine
            && !self.remote.is_vectorkeep()
            && chroma_rounding::is_given_back(&wanted.embedding, &found.embedding)
            && rest(wanted).hash() == rest(found).hash()
    }

    fn stage(
        &self,
        name: &CollectionName,
        definition: &CollectionDefinition,
        begun: Option<&str>,
        progress: &Progress,
    ) -> Result<Staged> {
        let there = self.remote.find(name, progress)?;
        if let (Some(there), Some(begun)) = (&there, begun)
            && there.id == begun
        {
            return Ok(Staged {
                id: there.id.clone(),
                resumed: true,
            });
        }
        if there.is_some() {
            self.remote.delete(name, progress)?;
        }
        self.remote.ensure_database(name, progress)?;
        let (request, _) = wire::creation(&name.name, definition);
        let (url, body) = self.remote.post(name, &[], &request);
        let made: WireCollection = self
            .http()
            .read(&Method::POST, &url, Some(body), progress)?;
        Ok(Staged {
            id: made.id,
            resumed: false,
        })
    }

    fn write(&self, staged: &str, batch: &Batch, progress: &Progress) -> Result<()> {
        let removed: Vec<&str> = batch.removed.iter().map(String::as_str).collect();
        self.remove(staged, &removed, progress)?;
        if batch.fresh {
            let records: Vec<&Record> = batch.records.iter().collect();
            return self.upsert(staged, &records, &BTreeMap::new(), progress);
        }
        self.put_exactly(staged, &batch.records, progress)
    }

    fn complete(
        &self,
        staged: &str,
        definition: &CollectionDefinition,
        progress: &Progress,
    ) -> Result<Vec<String>> {
        let (_, metadata) = wire::creation("", definition);
        if let Some(metadata) = metadata {
            self.remote.put(&self.name, staged, &metadata, progress)?;
        }
        let hnsw = &definition.configuration.hnsw;
        // Absent members stay as they are.
        let update = json!({"embedding_function": definition.configuration.embedding_function, "hnsw": {
            "ef_search": hnsw.ef_search,
            "max_neighbors": hnsw.max_neighbors,
            "num_threads": hnsw.num_threads,
            "resize_factor": hnsw.resize_factor,
            "sync_threshold": hnsw.sync_threshold,
            "batch_size": hnsw.batch_size,
        }});
        let found = self.staged_definition(staged, progress)?;
        if found.configuration != definition.configuration {
            let change = json!({ "new_configuration": update });
            self.remote.put(&self.name, staged, &change, progress)?;
        }
        if let (Some(dimension), None) = (definition.dimension, found.dimension) {
            self.fix_dimension(staged, dimension, progress)?;
        }
        let found = self.staged_definition(staged, progress)?;
        Ok(wire::differences(definition, &found))
    }

    fn staged_contents(
        &self,
        staged: &str,
        size: BatchSize,
        progress: &Progress,
    ) -> Result<Contents> {
        self.read_contents(staged, size, progress)
    }

    fn staged_records(
        &self,
        staged: &str,
        size: BatchSize,
        progress: &Progress,
        visit: &mut dyn FnMut(Vec<Record>) -> Result<()>,
    ) -> Result<()> {
        self.pages(staged, 0, size, progress, &mut |page, _| visit(page))
    }

    fn staged_lookup(
        &self,
        staged: &str,
        ids: &[&str],
        progress: &Progress,
    ) -> Result<Vec<Record>> {
        self.by_ids(staged, ids, progress)
    }

    fn discard(
        &self,
        staging: &CollectionName,
        _: Option<&str>,
        progress: &Progress,
    ) -> Result<()> {
        self.remote.delete(staging, progress)
    }
}

fn is_list(value: &MetadataValue) -> bool {
    !matches!(
        value,
        MetadataValue::Bool(_)
            | MetadataValue::Int(_)
            | MetadataValue::Float(_)
            | MetadataValue::Str(_)
    )
}

impl RemoteCollection {
    /// The collection of an id, whatever its name.
    pub(super) fn by_id(&self, id: &str, progress: &Progress) -> Result<WireCollection> {
        let url = self.remote.url(&self.name, &["by-id", id]);
        self.remote.look(&url, progress)?.ok_or_else(|| {
            Error::not_found(format!("{} has no collection {id}", self.http().shown()))
        })
    }

    /// A write fixes the dimension; where there is no record left to write, one comes and goes.
    fn fix_dimension(&self, id: &str, dimension: u32, progress: &Progress) -> Result<()> {
        let record = Record {
            id: "vectorkeep-dimension".to_owned(),
            embedding: vec![0.0; dimension as usize],
            document: None,
            uri: None,
            metadata: Default::default(),
        };
        self.upsert(id, &[&record], &BTreeMap::new(), progress)?;
        self.remove(id, &[&record.id], progress)
    }

    fn staged_definition(&self, id: &str, progress: &Progress) -> Result<CollectionDefinition> {
        self.by_id(id, progress)?
            .definition()
            .map_err(|error| self.http().unavailable(error.message()))
    }
}
