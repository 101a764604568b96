//! The `schema` of a create request: what is allowed in it, and whether it asks for anything.
//!
//! Reconciling it with the configuration is the parent's work.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::patch::Patch;
use super::value_types::{HnswParameters, ValueTypes, VectorParameters};
use super::{DOCUMENT_KEY, EMBEDDING_KEY, IndexKind, Schema};
use crate::error::{Error, Result};
use crate::model::configuration::EmbeddingFunction;

/// The `schema` of a create request. `defaults` and `keys` are required; unknown members are ignored,
/// except inside the `config` of an index, where they are refused.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(expecting = "struct Schema")]
pub struct SchemaRequest {
    defaults: ValueTypes,
    #[serde(alias = "key_overrides")]
    keys: BTreeMap<String, ValueTypes>,
    cmek: Option<IgnoredAny>,
    source_attached_function_id: Option<String>,
}

impl SchemaRequest {
    /// The rules that hold for a schema by itself.
    ///
    /// # Errors
    /// The first rule broken, with Chroma's text.
    pub(super) fn validate(&self) -> Result<()> {
        if self.source_attached_function_id.is_some() {
            return Err(refused(
                "Cannot set source_attached_function_id. This field is reserved for system use.",
            ));
        }
        for types in std::iter::once(&self.defaults).chain(self.keys.values()) {
            validate_embedding_functions(types)?;
        }
        validate_defaults(&self.defaults)?;
        for (key, types) in &self.keys {
            validate_key(key, types)?;
        }
        let enabled: Vec<&String> = self
            .keys
            .iter()
            .filter(|(_, types)| types.sparse_vector_index().is_some_and(|i| i.enabled))
            .map(|(key, _)| key)
            .collect();
        if enabled.len() > 1 {
            return Err(refused(format!(
                "At most one sparse vector index is allowed for the collection: {enabled:?}"
            )));
        }
        Ok(())
    }

    /// The rules that depend on what this server offers, for a schema that is going to be used.
    ///
    /// # Errors
    /// An index parameter out of range, or something a single node does not do.
    pub(super) fn validate_offered(&self) -> Result<()> {
        let embedding = self.keys.get(EMBEDDING_KEY);
        for types in std::iter::once(&self.defaults).chain(embedding) {
            if let Some(hnsw) = types.vector_index().and_then(|i| i.config.hnsw.as_ref()) {
                validate_hnsw(hnsw)?;
            }
        }
        let mut keys = self.keys.values();
        if keys.any(|types| types.sparse_vector_index().is_some_and(|i| i.enabled)) {
            return Err(not_offered(
                "Sparse vector indexing is not enabled in local",
            ));
        }
        // Chroma's single node echoes the key and encrypts nothing. Saying yes to that would mislead.
        if self.cmek.is_some() {
            return Err(not_offered(
                "Customer-managed encryption keys are not enabled in local",
            ));
        }
        Ok(())
    }

    /// Whether the client chose nothing; `laid` is this laid over the standard schema. As in Chroma,
    /// some things that are not seen there are choices beside a configuration: SPANN parameters, and an
    /// index of embeddings that leaves out its source.
    pub(super) fn is_standard(&self, laid: &Schema) -> bool {
        let embedding = self.keys.get(EMBEDDING_KEY);
        let embedding = embedding.and_then(ValueTypes::vector_index);
        let names_source = embedding.is_none_or(|i| i.config.source_key.is_some());
        let mut indexes = self.defaults.vector_index().into_iter().chain(embedding);
        self.cmek.is_none()
            && names_source
            && indexes.all(|i| spann_is_standard(&i.config))
            && laid.is_standard()
    }

    /// The schema that holds when this is laid over `base`. Keys `base` does not have stay as given.
    pub(super) fn over(&self, base: &Schema) -> Schema {
        let mut keys = base.keys.clone();
        for (key, given) in &self.keys {
            let types = match keys.remove(key) {
                Some(base) => given.clone().over(base),
                None => given.clone(),
            };
            keys.insert(key.clone(), types);
        }
        Schema {
            defaults: self.defaults.clone().over(base.defaults.clone()),
            keys,
        }
    }
}

fn spann_is_standard(parameters: &VectorParameters) -> bool {
    match &parameters.spann {
        Some(spann) => parameters.hnsw.is_none() && spann.is_standard(),
        None => true,
    }
}

fn refused(why: impl std::fmt::Display) -> Error {
    Error::invalid(format!("Validation error: schema: {why}"))
}

fn not_offered(what: &str) -> Error {
    Error::invalid(format!(
        "Failed to reconcile schema: Invalid schema input: {what}"
    ))
}

fn validate_embedding_functions(types: &ValueTypes) -> Result<()> {
    let dense = types.vector_index();
    let dense = dense.and_then(|index| index.config.embedding_function.as_ref());
    let sparse = types.sparse_vector_index();
    let sparse = sparse.and_then(|index| index.config.embedding_function.as_ref());
    dense
        .into_iter()
        .chain(sparse)
        .try_for_each(EmbeddingFunction::validate)
}

fn validate_defaults(defaults: &ValueTypes) -> Result<()> {
    if let Some(index) = defaults.vector_index() {
        if index.enabled {
            return Err(refused(
                "Vector index cannot be enabled by default. It can only be enabled on #embedding \
                 field.",
            ));
        }
        if index.config.hnsw.is_some() && index.config.spann.is_some() {
            return Err(refused(
                "Both spann and hnsw config cannot be present at the same time.",
            ));
        }
    }
    if defaults.sparse_vector_index().is_some_and(|i| i.enabled) {
        return Err(refused(
            "Sparse vector index cannot be enabled by default. Please enable sparse vector index on \
             specific keys. At most one sparse vector index is allowed for the collection.",
        ));
    }
    if defaults.enabled(IndexKind::FullText) == Some(true) {
        return Err(refused(
            "Full text search / regular expression index cannot be enabled by default. It can only \
             be enabled on #document field.",
        ));
    }
    Ok(())
}

fn validate_key(key: &str, types: &ValueTypes) -> Result<()> {
    if key.starts_with('#') && key != DOCUMENT_KEY && key != EMBEDDING_KEY {
        return Err(refused(format!(
            "key cannot begin with '#'. Keys starting with '#' are reserved for system use: {key}"
        )));
    }
    let has_scalar = types.bool.is_some() || types.int.is_some() || types.float.is_some();
    let has_other = has_scalar || types.sparse_vector.is_some();
    if key == DOCUMENT_KEY && (has_other || types.float_list.is_some()) {
        return Err(refused(format!(
            "Document field cannot have any value types other than string: {key}"
        )));
    }
    if key == EMBEDDING_KEY && (has_other || types.string.is_some()) {
        return Err(refused(format!(
            "Embedding field cannot have any value types other than float_list: {key}"
        )));
    }
    validate_vector_indexes(key, types)?;
    validate_string_indexes(key, types)
}

fn validate_vector_indexes(key: &str, types: &ValueTypes) -> Result<()> {
    if let Some(index) = types.vector_index() {
        if index.enabled && key != EMBEDDING_KEY {
            return Err(refused(format!(
                "Vector index can only be enabled on #embedding field: {key}"
            )));
        }
        let source = index.config.source_key.as_deref();
        if source.is_some_and(|source| source != DOCUMENT_KEY) {
            return Err(refused("Vector index can only source from #document"));
        }
    }
    if let Some(index) = types.sparse_vector_index()
        && let Some(source) = &index.config.source_key
    {
        if index.enabled && index.config.embedding_function.is_none() {
            return Err(refused(
                "If source_key is provided then embedding_function must also be provided since \
                 there is no default embedding function.",
            ));
        }
        if source.starts_with('#') && source != DOCUMENT_KEY {
            return Err(refused(
                "source_key cannot begin with '#'. The only valid key starting with '#' is \
                 Key.DOCUMENT or '#document'.",
            ));
        }
    }
    Ok(())
}

fn validate_string_indexes(key: &str, types: &ValueTypes) -> Result<()> {
    if types.enabled(IndexKind::FullText) == Some(true) && key != DOCUMENT_KEY {
        return Err(refused(format!(
            "Full text search / regular expression index can only be enabled on #document field: \
             {key}"
        )));
    }
    if types.enabled(IndexKind::Str) == Some(true) && key == DOCUMENT_KEY {
        return Err(refused(format!(
            "String inverted index can not be enabled on #document key: {key}"
        )));
    }
    Ok(())
}

fn validate_hnsw(hnsw: &HnswParameters) -> Result<()> {
    let bounded = [
        ("batch_size", hnsw.batch_size),
        ("sync_threshold", hnsw.sync_threshold),
    ];
    let problems: Vec<String> = bounded
        .into_iter()
        .filter_map(|(name, value)| Some((name, value.filter(|value| *value < 2)?)))
        .map(|(name, value)| {
            format!(
                r#"{name}: Validation error: range [{{"value": Number({value}), "min": Number(2)}}]"#
            )
        })
        .collect();
    if problems.is_empty() {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "Failed to reconcile schema: Invalid HNSW configuration: {}",
        problems.join("\n")
    )))
}
