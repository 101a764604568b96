//! A collection's schema: which indexes exist for which metadata keys and with which parameters.
//!
//! It makes one schema and one configuration of all that a create request gives, merges updates into
//! both, adds the keys that writes bring, and answers whether a filter may use a key. It holds no
//! records and builds no index: every flag is a promise about filters, nothing more.

mod patch;
mod request;
#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::expect_used,
    reason = "tests"
)]
mod tests;
mod value_types;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use self::patch::Patch;
pub use self::request::SchemaRequest;
use self::value_types::{
    BoolIndexes, FloatIndexes, FloatListIndexes, HnswParameters, Index, IntIndexes, NoParameters,
    SparseAlgorithm, SparseVectorIndexes, SparseVectorParameters, StringIndexes, ValueTypes,
    VectorParameters,
};
use super::configuration::{
    Configuration, ConfigurationRequest, ConfigurationUpdate, EmbeddingFunction, HnswConfiguration,
    Space,
};
use super::metadata::{Metadata, MetadataValue};
use crate::error::{Error, Result};

/// The key of a schema under which the indexes of documents are.
pub const DOCUMENT_KEY: &str = "#document";

/// The key of a schema under which the index of embeddings is.
pub const EMBEDDING_KEY: &str = "#embedding";

/// Metadata keys that start so are Chroma's own and not discovered.
const SYSTEM_PREFIX: &str = "chroma:";

/// The schema of a collection as it holds. Its serde form is both the stored one and the one of
/// answers; absent members are left out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Schema {
    defaults: ValueTypes,
    keys: BTreeMap<String, ValueTypes>,
}

/// The index that a leaf of a filter needs: by the type of its operand, not of the stored values.
/// `Debug` gives the names of Chroma's errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IndexKind {
    /// The inverted index of booleans.
    Bool,
    /// The inverted index of integers.
    Int,
    /// The inverted index of floats.
    Float,
    /// The inverted index of strings.
    Str,
    /// Full text and regular expressions; only [`DOCUMENT_KEY`] can have it.
    FullText,
}

impl IndexKind {
    /// The index of a stored value. A list uses the one of its elements.
    pub fn of(value: &MetadataValue) -> Self {
        match value {
            MetadataValue::Bool(_) | MetadataValue::BoolList(_) => Self::Bool,
            MetadataValue::Int(_) | MetadataValue::IntList(_) => Self::Int,
            MetadataValue::Float(_) | MetadataValue::FloatList(_) => Self::Float,
            MetadataValue::Str(_) | MetadataValue::StrList(_) => Self::Str,
        }
    }
}

/// Makes the configuration and the schema of a new collection out of all that the request gives.
/// `num_threads` is the machine's number of threads: it is what holds when none is given, and giving it
/// is no choice.
///
/// # Errors
/// Invalid argument, with Chroma's texts: the first of the given values that is not allowed, or both a
/// configuration (legacy metadata included) and a schema that choose something.
pub fn reconcile(
    metadata: &Metadata,
    configuration: Option<ConfigurationRequest>,
    schema: Option<SchemaRequest>,
    num_threads: usize,
) -> Result<(Configuration, Schema)> {
    let configuration = configuration
        .unwrap_or_default()
        .resolve(metadata, num_threads)?;
    let Some(request) = schema else {
        return Ok(of_configuration(configuration));
    };
    request.validate()?;
    let base = Schema::standard(&HnswConfiguration::standard(num_threads), None);
    let schema = request.over(&base);
    let configuration_chooses = !configuration.is_standard(num_threads);
    if configuration_chooses && !request.is_standard(&schema) {
        return Err(Error::invalid(
            "Failed to reconcile schema: Cannot set both collection config and schema \
             simultaneously",
        ));
    }
    request.validate_offered()?;
    if configuration_chooses || schema.is_standard() {
        Ok(of_configuration(configuration))
    } else {
        Ok((schema.configuration(num_threads), schema))
    }
}

fn of_configuration(configuration: Configuration) -> (Configuration, Schema) {
    let schema = Schema::of(&configuration);
    (configuration, schema)
}

/// Merges `update` into both. Space and `ef_construction` stay. As in Chroma, any number is taken: what
/// builds an index has to bound them.
///
/// # Errors
/// Invalid argument if it names two vector indexes or nests too deeply; nothing is changed then.
pub fn update(
    configuration: &mut Configuration,
    schema: &mut Schema,
    update: ConfigurationUpdate,
) -> Result<()> {
    update.validate()?;
    configuration.apply(&update);
    schema.apply(&update);
    Ok(())
}

impl Schema {
    /// The schema of a collection of this configuration for which nothing else was asked.
    fn standard(hnsw: &HnswConfiguration, function: Option<&EmbeddingFunction>) -> Self {
        let vector_index = |enabled, source: Option<&str>| ValueTypes {
            float_list: Some(FloatListIndexes {
                vector_index: Some(Index::new(
                    enabled,
                    VectorParameters {
                        space: Some(hnsw.space),
                        embedding_function: function.cloned(),
                        source_key: source.map(ToOwned::to_owned),
                        hnsw: Some(HnswParameters::from(hnsw)),
                        spann: None,
                    },
                )),
            }),
            ..ValueTypes::default()
        };
        let defaults = ValueTypes {
            string: Some(string_indexes(false, true)),
            int: Some(IntIndexes {
                int_inverted_index: flag(true),
            }),
            float: Some(FloatIndexes {
                float_inverted_index: flag(true),
            }),
            bool: Some(BoolIndexes {
                bool_inverted_index: flag(true),
            }),
            sparse_vector: Some(SparseVectorIndexes {
                sparse_vector_index: Some(Index::new(
                    false,
                    SparseVectorParameters {
                        embedding_function: Some(EmbeddingFunction::Unknown),
                        bm25: Some(false),
                        ..SparseVectorParameters::default()
                    },
                )),
            }),
            ..vector_index(false, None)
        };
        let document = ValueTypes {
            string: Some(string_indexes(true, false)),
            ..ValueTypes::default()
        };
        let embedding = vector_index(true, Some(DOCUMENT_KEY));
        let keys = [(DOCUMENT_KEY, document), (EMBEDDING_KEY, embedding)];
        Self {
            defaults,
            keys: keys.map(|(key, types)| (key.to_owned(), types)).into(),
        }
    }

    /// The schema of a collection of this configuration for which nothing else was asked.
    pub fn of(configuration: &Configuration) -> Self {
        let function = configuration.embedding_function.as_ref();
        Self::standard(&configuration.hnsw, function)
    }

    /// Whether it says what a schema says by itself. Thread counts do not matter here, nor do the
    /// embedding functions that clients send by themselves.
    fn is_standard(&self) -> bool {
        let mut plain = Self::standard(&HnswConfiguration::standard(0), None);
        let mut this = self.clone();
        plain.forget_what_is_no_choice();
        this.forget_what_is_no_choice();
        this == plain
    }

    fn forget_what_is_no_choice(&mut self) {
        fn forget_standard(function: &mut Option<EmbeddingFunction>) {
            if function
                .as_ref()
                .is_some_and(EmbeddingFunction::is_standard)
            {
                *function = None;
            }
        }
        for types in std::iter::once(&mut self.defaults).chain(self.keys.values_mut()) {
            if let Some(index) = types.vector_index_mut() {
                forget_standard(&mut index.config.embedding_function);
                if let Some(hnsw) = &mut index.config.hnsw {
                    hnsw.num_threads = None;
                }
            }
            if let Some(index) = types.sparse_vector_index_mut() {
                forget_standard(&mut index.config.embedding_function);
                index.config.algorithm = SparseAlgorithm::default();
            }
        }
    }

    /// Whether it has the same indexes with the same parameters, on every key that either names. A key that was only
    /// found in records says nothing that the defaults do not say.
    pub fn chooses_as(&self, other: &Self) -> bool {
        let kinds = [
            IndexKind::Bool,
            IndexKind::Int,
            IndexKind::Float,
            IndexKind::Str,
        ];
        let own = [DOCUMENT_KEY, EMBEDDING_KEY];
        let keys = self.keys.keys().chain(other.keys.keys());
        let same = |key: &String| {
            kinds
                .iter()
                .all(|kind| self.is_filterable(key, *kind) == other.is_filterable(key, *kind))
        };
        self.defaults == other.defaults
            && own
                .iter()
                .all(|key| self.keys.get(*key) == other.keys.get(*key))
            && keys.into_iter().all(same)
    }

    /// The distance between embeddings that this schema implies.
    pub fn space(&self) -> Space {
        self.configuration(1).space()
    }

    /// The configuration that this schema implies. It is that of the embeddings; the defaults, which
    /// may say something else, are about vectors nobody stores.
    pub fn configuration(&self, num_threads: usize) -> Configuration {
        let embedding = self.keys.get(EMBEDDING_KEY);
        let index = embedding.and_then(ValueTypes::vector_index);
        let parameters = index.map(|i| i.config.clone()).unwrap_or_default();
        let hnsw = parameters.hnsw.unwrap_or_default();
        Configuration {
            hnsw: hnsw.resolve(parameters.space.unwrap_or_default(), num_threads),
            embedding_function: parameters.embedding_function,
        }
    }

    /// Whether [`Self::discover`] would add nothing. Costs a look-up per key and does not allocate.
    pub fn knows<'a>(
        &self,
        mut metadata: impl Iterator<Item = (&'a str, &'a MetadataValue)>,
    ) -> bool {
        metadata.all(|(key, value)| {
            key.starts_with(SYSTEM_PREFIX)
                || self
                    .keys
                    .get(key)
                    .is_some_and(|types| !types.lacks(IndexKind::of(value), &self.defaults))
        })
    }

    /// Adds the keys and types of `metadata` that are new, with the flags of the defaults. What is
    /// there stays as it is, and nothing is ever removed. True if something was added.
    pub fn discover<'a>(
        &mut self,
        metadata: impl Iterator<Item = (&'a str, &'a MetadataValue)>,
    ) -> bool {
        let mut changed = false;
        for (key, value) in metadata {
            if key.starts_with(SYSTEM_PREFIX) {
                continue;
            }
            let kind = IndexKind::of(value);
            if let Some(types) = self.keys.get_mut(key) {
                changed |= types.adopt(kind, &self.defaults);
            } else {
                let mut types = ValueTypes::default();
                types.adopt(kind, &self.defaults);
                self.keys.insert(key.to_owned(), types);
                changed = true;
            }
        }
        changed
    }

    /// Whether a filter may compare `key` with an operand of this kind: the flag of the key's entry,
    /// else that of the defaults. An entry that names the type and no index (Chroma answers 500 for
    /// it) counts as none.
    pub fn is_filterable(&self, key: &str, operand: IndexKind) -> bool {
        let entry = self.keys.get(key).and_then(|types| types.enabled(operand));
        entry
            .or_else(|| self.defaults.enabled(operand))
            .unwrap_or(true)
    }

    /// [`Schema::is_filterable`] for a leaf of a filter.
    ///
    /// # Errors
    /// Invalid argument, with Chroma's texts, if it is not.
    pub fn ensure_filterable(&self, key: &str, operand: IndexKind) -> Result<()> {
        if self.is_filterable(key, operand) {
            return Ok(());
        }
        Err(Error::invalid(match operand {
            IndexKind::FullText => {
                "Cannot filter using full-text search because FTS indexing is disabled".to_owned()
            }
            kind => format!(
                "Cannot filter using metadata key '{key}' with type '{kind:?}' because indexing is \
                 disabled"
            ),
        }))
    }

    /// Merges the members that `update` gives, into the embeddings' index and the defaults alike.
    fn apply(&mut self, update: &ConfigurationUpdate) {
        let embedding = self.keys.get_mut(EMBEDDING_KEY);
        for types in std::iter::once(&mut self.defaults).chain(embedding) {
            let Some(index) = types.vector_index_mut() else {
                continue;
            };
            if let Some(hnsw) = &update.hnsw {
                let given = Some(HnswParameters::from(hnsw));
                index.config.hnsw = given.over(index.config.hnsw.take());
            }
            if let Some(function) = &update.embedding_function {
                index.config.embedding_function = Some(function.clone());
            }
        }
    }
}

fn flag(enabled: bool) -> Option<Index<NoParameters>> {
    Some(Index::new(enabled, NoParameters {}))
}

fn string_indexes(full_text: bool, inverted: bool) -> StringIndexes {
    StringIndexes {
        fts_index: flag(full_text),
        string_inverted_index: flag(inverted),
    }
}
