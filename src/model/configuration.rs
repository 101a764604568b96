//! A collection's configuration: what a client may send, the resolved values, and the
//! `configuration_json` of answers.
//!
//! It resolves the configuration of a request against the legacy `hnsw:` metadata. How that and the
//! schema of the same request become one, and how an update reaches both, is decided in `schema`.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::model::metadata::{Metadata, MetadataValue};

/// Levels of nesting in the parameters of an embedding function. `serde_json` reads 127 levels at most,
/// and what is stored and answered wraps these in several of its own: what one request could bring
/// in, nobody could read again.
const MAX_PARAMETER_DEPTH: usize = 64;

pub use vectorkeep_kernel::Space;

/// Parameters of the vector index, every one with a value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HnswConfiguration {
    /// The distance.
    pub space: Space,
    /// Candidates kept while a record is inserted.
    pub ef_construction: usize,
    /// Candidates kept while a query is answered.
    pub ef_search: usize,
    /// Neighbours per node (`M`).
    pub max_neighbors: usize,
    /// Threads for building; the machine's when the client does not say.
    pub num_threads: usize,
    /// Records per batch given to the index.
    pub batch_size: usize,
    /// Records after which the index is persisted.
    pub sync_threshold: usize,
    /// Growth of the index when it is full.
    pub resize_factor: f64,
}

impl HnswConfiguration {
    /// The values that hold when nothing is given; `num_threads` is the machine's.
    pub fn standard(num_threads: usize) -> Self {
        Self {
            space: Space::L2,
            ef_construction: 100,
            ef_search: 100,
            max_neighbors: 16,
            num_threads,
            batch_size: 100,
            sync_threshold: 1000,
            resize_factor: 1.2,
        }
    }

    /// Reads the `hnsw:` keys of a collection's metadata; other keys are not looked at.
    fn from_legacy_metadata(metadata: &Metadata, num_threads: usize) -> Result<Self> {
        let mut hnsw = Self::standard(num_threads);
        for (key, value) in metadata {
            if let Some(parameter) = key.strip_prefix("hnsw:") {
                hnsw.set_legacy(parameter, value)
                    .ok_or_else(legacy_refused)?;
            }
        }
        let too_small = hnsw.sync_threshold < 2 || hnsw.batch_size < 2;
        if too_small {
            Err(legacy_refused())
        } else {
            Ok(hnsw)
        }
    }

    /// `None` for an unknown parameter or a value of another type.
    fn set_legacy(&mut self, parameter: &str, value: &MetadataValue) -> Option<()> {
        match parameter {
            "space" => self.space = space_of(value)?,
            "construction_ef" => self.ef_construction = count_of(value)?,
            "search_ef" => self.ef_search = count_of(value)?,
            "M" => self.max_neighbors = count_of(value)?,
            "num_threads" => self.num_threads = count_of(value)?,
            "batch_size" => self.batch_size = count_of(value)?,
            "sync_threshold" => self.sync_threshold = count_of(value)?,
            "resize_factor" => self.resize_factor = number_of(value)?,
            _ => return None,
        }
        Some(())
    }
}

fn legacy_refused() -> Error {
    Error::invalid("Failed to parse hnsw parameters from segment metadata")
}

fn space_of(value: &MetadataValue) -> Option<Space> {
    match value {
        MetadataValue::Str(word) => match word.as_str() {
            "l2" => Some(Space::L2),
            "cosine" => Some(Space::Cosine),
            "ip" => Some(Space::Ip),
            _ => None,
        },
        _ => None,
    }
}

fn count_of(value: &MetadataValue) -> Option<usize> {
    match value {
        MetadataValue::Int(count) => usize::try_from(*count).ok(),
        _ => None,
    }
}

fn number_of(value: &MetadataValue) -> Option<f64> {
    match value {
        MetadataValue::Int(number) => Some(*number as f64),
        MetadataValue::Float(number) => Some(*number),
        _ => None,
    }
}

/// The client's embedding function. The server never runs it: it keeps it, so that clients find it
/// again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(
    tag = "type",
    rename_all = "lowercase",
    expecting = "internally tagged enum EmbeddingFunctionConfiguration"
)]
pub enum EmbeddingFunction {
    /// From before embedding functions were recorded.
    Legacy,
    /// One with a name and parameters.
    Known {
        /// Its name in the clients.
        name: String,
        /// Whatever the client stored, kept as it came.
        config: Value,
    },
    /// One the client could not describe.
    Unknown,
}

impl EmbeddingFunction {
    /// Whether it says no more than a client says by itself, so that it is not a choice. The
    /// parameters of the function named `default` do not count.
    pub(crate) fn is_standard(&self) -> bool {
        match self {
            Self::Legacy => false,
            Self::Known { name, .. } => name == "default",
            Self::Unknown => true,
        }
    }

    /// # Errors
    /// Parameters nested more deeply than can be stored.
    pub(crate) fn validate(&self) -> Result<()> {
        match self {
            Self::Known { config, .. } if depth(config) > MAX_PARAMETER_DEPTH => {
                Err(Error::invalid(format!(
                    "The config of an embedding function may nest at most {MAX_PARAMETER_DEPTH} levels"
                )))
            }
            _ => Ok(()),
        }
    }
}

/// Levels of objects and arrays. It recurses as deeply, which parsing has bounded.
fn depth(value: &Value) -> usize {
    match value {
        Value::Array(elements) => 1 + elements.iter().map(depth).max().unwrap_or(0),
        Value::Object(members) => 1 + members.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// A collection's configuration as it holds. Its serde form is the stored one and complete; answers
/// show [`Configuration::to_json`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Configuration {
    /// The vector index.
    pub hnsw: HnswConfiguration,
    /// The embedding function, if the client named one.
    pub embedding_function: Option<EmbeddingFunction>,
}

impl Configuration {
    /// The `configuration_json` of answers. `num_threads` and `batch_size` are not part of it.
    pub fn to_json(&self) -> Value {
        json!({
            "hnsw": {
                "space": self.hnsw.space,
                "ef_construction": self.hnsw.ef_construction,
                "ef_search": self.hnsw.ef_search,
                "max_neighbors": self.hnsw.max_neighbors,
                "resize_factor": self.hnsw.resize_factor,
                "sync_threshold": self.hnsw.sync_threshold,
            },
            "spann": null,
            "embedding_function": self.embedding_function,
        })
    }

    /// As in answers, complete: what [`ConfigurationRequest::exported`] reads.
    pub fn to_export_json(&self) -> Value {
        let mut json = self.to_json();
        if let Some(hnsw) = json.get_mut("hnsw").and_then(Value::as_object_mut) {
            hnsw.insert("num_threads".to_owned(), json!(self.hnsw.num_threads));
            hnsw.insert("batch_size".to_owned(), json!(self.hnsw.batch_size));
        }
        json
    }

    /// The distance.
    pub fn space(&self) -> Space {
        self.hnsw.space
    }

    /// Whether the client chose nothing. Threads count: another number than the machine's is a choice.
    pub(crate) fn is_standard(&self, num_threads: usize) -> bool {
        let function = self.embedding_function.as_ref();
        function.is_none_or(EmbeddingFunction::is_standard)
            && self.hnsw == HnswConfiguration::standard(num_threads)
    }

    /// Merges the members that `update` gives.
    pub(crate) fn apply(&mut self, update: &ConfigurationUpdate) {
        if let Some(hnsw) = &update.hnsw {
            hnsw.apply_to(&mut self.hnsw);
        }
        if let Some(function) = &update.embedding_function {
            self.embedding_function = Some(function.clone());
        }
    }
}

/// The `configuration` of a create request. Unknown members are ignored here and refused inside
/// `hnsw` and `spann`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(expecting = "struct CollectionConfiguration")]
pub struct ConfigurationRequest {
    hnsw: Option<HnswRequest>,
    spann: Option<SpannRequest>,
    embedding_function: Option<EmbeddingFunction>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, expecting = "struct HnswConfiguration")]
struct HnswRequest {
    space: Option<Space>,
    ef_construction: Option<usize>,
    ef_search: Option<usize>,
    max_neighbors: Option<usize>,
    num_threads: Option<usize>,
    resize_factor: Option<f64>,
    sync_threshold: Option<usize>,
    batch_size: Option<usize>,
}

/// Read for its types and its `space`: a server without SPANN builds its usual index instead.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, expecting = "struct SpannConfiguration")]
struct SpannRequest {
    search_nprobe: Option<u32>,
    write_nprobe: Option<u32>,
    space: Option<Space>,
    ef_construction: Option<usize>,
    ef_search: Option<usize>,
    max_neighbors: Option<usize>,
    reassign_neighbor_count: Option<u32>,
    split_threshold: Option<u32>,
    merge_threshold: Option<u32>,
}

impl ConfigurationRequest {
    /// The configuration that this and the legacy `hnsw:` keys of the collection's metadata ask for.
    /// The legacy keys count as a set, and only when all given values are the standard ones.
    ///
    /// # Errors
    /// Both `hnsw` and `spann` given, parameters nested too deeply, or legacy keys that cannot be read.
    pub(crate) fn resolve(self, metadata: &Metadata, num_threads: usize) -> Result<Configuration> {
        if let Some(function) = &self.embedding_function {
            function.validate()?;
        }
        let hnsw = match (self.hnsw, self.spann) {
            (Some(_), Some(_)) => return Err(multiple_indexes()),
            // A `spann` member hides the legacy keys altogether, even unreadable ones.
            (None, Some(spann)) => HnswConfiguration {
                space: spann.space.unwrap_or_default(),
                ..HnswConfiguration::standard(num_threads)
            },
            (given, None) => {
                let legacy = HnswConfiguration::from_legacy_metadata(metadata, num_threads)?;
                let standard = HnswConfiguration::standard(num_threads);
                match given.map(|given| given.over(&standard)) {
                    Some(hnsw) if hnsw != standard => hnsw,
                    _ => legacy,
                }
            }
        };
        Ok(Configuration {
            hnsw,
            embedding_function: self.embedding_function,
        })
    }
}

impl ConfigurationRequest {
    /// The configuration of an exported collection: where all parameters are given they hold, whatever legacy
    /// keys stand in its metadata.
    ///
    /// # Errors
    /// As when a collection is created with it.
    pub fn exported(self, metadata: &Metadata, num_threads: usize) -> Result<Configuration> {
        let standard = HnswConfiguration::standard(num_threads);
        match (&self.hnsw, &self.spann) {
            (Some(hnsw), None) if hnsw.is_complete() => {
                if let Some(function) = &self.embedding_function {
                    function.validate()?;
                }
                Ok(Configuration {
                    hnsw: hnsw.over(&standard),
                    embedding_function: self.embedding_function,
                })
            }
            _ => self.resolve(metadata, num_threads),
        }
    }
}

fn multiple_indexes() -> Error {
    Error::invalid("Multiple vector index configurations provided")
}

impl HnswRequest {
    fn is_complete(&self) -> bool {
        let counts = [
            self.ef_construction,
            self.ef_search,
            self.max_neighbors,
            self.num_threads,
            self.sync_threshold,
            self.batch_size,
        ];
        self.space.is_some() && self.resize_factor.is_some() && counts.iter().all(Option::is_some)
    }

    fn over(&self, base: &HnswConfiguration) -> HnswConfiguration {
        HnswConfiguration {
            space: self.space.unwrap_or(base.space),
            ef_construction: self.ef_construction.unwrap_or(base.ef_construction),
            ef_search: self.ef_search.unwrap_or(base.ef_search),
            max_neighbors: self.max_neighbors.unwrap_or(base.max_neighbors),
            num_threads: self.num_threads.unwrap_or(base.num_threads),
            batch_size: self.batch_size.unwrap_or(base.batch_size),
            sync_threshold: self.sync_threshold.unwrap_or(base.sync_threshold),
            resize_factor: self.resize_factor.unwrap_or(base.resize_factor),
        }
    }
}

/// The `new_configuration` of a collection update. Space and `ef_construction` are fixed at creation
/// and refused here as unknown members.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(expecting = "struct UpdateCollectionConfiguration")]
pub struct ConfigurationUpdate {
    pub(crate) hnsw: Option<HnswUpdate>,
    spann: Option<SpannUpdate>,
    pub(crate) embedding_function: Option<EmbeddingFunction>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, expecting = "struct UpdateHnswConfiguration")]
pub(crate) struct HnswUpdate {
    pub(crate) ef_search: Option<usize>,
    pub(crate) max_neighbors: Option<usize>,
    pub(crate) num_threads: Option<usize>,
    pub(crate) resize_factor: Option<f64>,
    pub(crate) sync_threshold: Option<usize>,
    pub(crate) batch_size: Option<usize>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, expecting = "struct UpdateSpannConfiguration")]
struct SpannUpdate {
    search_nprobe: Option<u32>,
    ef_search: Option<usize>,
}

impl ConfigurationUpdate {
    /// # Errors
    /// Both `hnsw` and `spann` given, or parameters nested too deeply.
    pub(crate) fn validate(&self) -> Result<()> {
        if self.hnsw.is_some() && self.spann.is_some() {
            return Err(multiple_indexes());
        }
        self.embedding_function
            .as_ref()
            .map_or(Ok(()), EmbeddingFunction::validate)
    }
}

impl HnswUpdate {
    fn apply_to(&self, hnsw: &mut HnswConfiguration) {
        hnsw.ef_search = self.ef_search.unwrap_or(hnsw.ef_search);
        hnsw.max_neighbors = self.max_neighbors.unwrap_or(hnsw.max_neighbors);
        hnsw.num_threads = self.num_threads.unwrap_or(hnsw.num_threads);
        hnsw.resize_factor = self.resize_factor.unwrap_or(hnsw.resize_factor);
        hnsw.sync_threshold = self.sync_threshold.unwrap_or(hnsw.sync_threshold);
        hnsw.batch_size = self.batch_size.unwrap_or(hnsw.batch_size);
    }
}
