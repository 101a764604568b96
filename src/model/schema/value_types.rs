//! The shape of a schema: which indexes a type of value has and with which parameters.
//!
//! The same types are read from requests, stored and echoed: what is absent stays absent. What a
//! schema means and which one is allowed is decided elsewhere in `schema`.

use serde::{Deserialize, Serialize};

use super::IndexKind;
use super::patch::{Patch, member_wise, whole};
use crate::model::configuration::{EmbeddingFunction, HnswConfiguration, HnswUpdate, Space};

/// The indexes of each type of value; a type without an entry follows the schema's defaults.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct ValueTypes {
    #[serde(alias = "#string", skip_serializing_if = "Option::is_none")]
    pub(super) string: Option<StringIndexes>,
    #[serde(alias = "#float_list", skip_serializing_if = "Option::is_none")]
    pub(super) float_list: Option<FloatListIndexes>,
    #[serde(alias = "#sparse_vector", skip_serializing_if = "Option::is_none")]
    pub(super) sparse_vector: Option<SparseVectorIndexes>,
    #[serde(alias = "#int", skip_serializing_if = "Option::is_none")]
    pub(super) int: Option<IntIndexes>,
    #[serde(alias = "#float", skip_serializing_if = "Option::is_none")]
    pub(super) float: Option<FloatIndexes>,
    #[serde(alias = "#bool", skip_serializing_if = "Option::is_none")]
    pub(super) bool: Option<BoolIndexes>,
}

/// The indexes of strings.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct StringIndexes {
    #[serde(alias = "$fts_index", skip_serializing_if = "Option::is_none")]
    pub(super) fts_index: Option<Index<NoParameters>>,
    #[serde(
        alias = "$string_inverted_index",
        skip_serializing_if = "Option::is_none"
    )]
    pub(super) string_inverted_index: Option<Index<NoParameters>>,
}

/// The index of integers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct IntIndexes {
    #[serde(alias = "$int_inverted_index", skip_serializing_if = "Option::is_none")]
    pub(super) int_inverted_index: Option<Index<NoParameters>>,
}

/// The index of floats.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct FloatIndexes {
    #[serde(
        alias = "$float_inverted_index",
        skip_serializing_if = "Option::is_none"
    )]
    pub(super) float_inverted_index: Option<Index<NoParameters>>,
}

/// The index of booleans.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct BoolIndexes {
    #[serde(
        alias = "$bool_inverted_index",
        skip_serializing_if = "Option::is_none"
    )]
    pub(super) bool_inverted_index: Option<Index<NoParameters>>,
}

/// The index of embeddings.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct FloatListIndexes {
    #[serde(alias = "$vector_index", skip_serializing_if = "Option::is_none")]
    pub(super) vector_index: Option<Index<VectorParameters>>,
}

/// The index of sparse vectors: part of the protocol, never enabled on this server.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct SparseVectorIndexes {
    #[serde(
        alias = "$sparse_vector_index",
        skip_serializing_if = "Option::is_none"
    )]
    pub(super) sparse_vector_index: Option<Index<SparseVectorParameters>>,
}

/// One index, on or off, with its parameters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Index<P> {
    pub(super) enabled: bool,
    pub(super) config: P,
}

/// The `config` of an index that has no parameters; any member is refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NoParameters {}

/// The `config` of a vector index.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct VectorParameters {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) space: Option<Space>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) embedding_function: Option<EmbeddingFunction>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) source_key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) hnsw: Option<HnswParameters>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) spann: Option<SpannParameters>,
}

/// Parameters of the vector index, as far as given.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HnswParameters {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ef_construction: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) max_neighbors: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ef_search: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) num_threads: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) batch_size: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) sync_threshold: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) resize_factor: Option<f64>,
}

/// Parameters of an index this server does not build. They are checked for their types, compared with
/// the standard ones, and dropped from the vector index.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SpannParameters {
    #[serde(skip_serializing_if = "Option::is_none")]
    search_nprobe: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    search_rng_factor: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    search_rng_epsilon: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nreplica_count: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    write_rng_factor: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    write_rng_epsilon: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    split_threshold: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    num_samples_kmeans: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    initial_lambda: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reassign_neighbor_count: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    merge_threshold: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    num_centers_to_merge_to: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    write_nprobe: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ef_construction: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ef_search: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_neighbors: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    center_drift_threshold: Option<f64>,
    #[serde(default, skip_serializing_if = "is_default")]
    quantize: Quantization,
}

/// How SPANN stores vectors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
enum Quantization {
    #[default]
    #[serde(rename = "none")]
    None,
    #[serde(rename = "four_bit_rabit_q_with_u_search")]
    FourBitRabitQ,
}

/// The `config` of a sparse vector index.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SparseVectorParameters {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) embedding_function: Option<EmbeddingFunction>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) source_key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) bm25: Option<bool>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) algorithm: SparseAlgorithm,
}

/// How a sparse vector index is searched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum SparseAlgorithm {
    #[default]
    Wand,
    MaxScore,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl<P> Index<P> {
    pub(super) fn new(enabled: bool, config: P) -> Self {
        Self { enabled, config }
    }
}

impl ValueTypes {
    /// Whether the index that filters of `kind` need is on; `None` if nothing is said about it.
    pub(super) fn enabled(&self, kind: IndexKind) -> Option<bool> {
        let index = match kind {
            IndexKind::Bool => self.bool.as_ref()?.bool_inverted_index.as_ref(),
            IndexKind::Int => self.int.as_ref()?.int_inverted_index.as_ref(),
            IndexKind::Float => self.float.as_ref()?.float_inverted_index.as_ref(),
            IndexKind::Str => self.string.as_ref()?.string_inverted_index.as_ref(),
            IndexKind::FullText => self.string.as_ref()?.fts_index.as_ref(),
        };
        index.map(|index| index.enabled)
    }

    /// Whether [`Self::adopt`] would change it.
    pub(super) fn lacks(&self, kind: IndexKind, defaults: &Self) -> bool {
        match kind {
            IndexKind::Bool => self.bool.is_none() && defaults.bool.is_some(),
            IndexKind::Int => self.int.is_none() && defaults.int.is_some(),
            IndexKind::Float => self.float.is_none() && defaults.float.is_some(),
            IndexKind::Str | IndexKind::FullText => {
                self.string.is_none() && defaults.string.is_some()
            }
        }
    }

    /// Takes the indexes of `kind` from `defaults` unless there are some. True if that changed it.
    pub(super) fn adopt(&mut self, kind: IndexKind, defaults: &Self) -> bool {
        match kind {
            IndexKind::Bool => adopt_member(&mut self.bool, defaults.bool.as_ref()),
            IndexKind::Int => adopt_member(&mut self.int, defaults.int.as_ref()),
            IndexKind::Float => adopt_member(&mut self.float, defaults.float.as_ref()),
            IndexKind::Str | IndexKind::FullText => {
                adopt_member(&mut self.string, defaults.string.as_ref())
            }
        }
    }

    pub(super) fn vector_index(&self) -> Option<&Index<VectorParameters>> {
        self.float_list.as_ref()?.vector_index.as_ref()
    }

    pub(super) fn vector_index_mut(&mut self) -> Option<&mut Index<VectorParameters>> {
        self.float_list.as_mut()?.vector_index.as_mut()
    }

    pub(super) fn sparse_vector_index(&self) -> Option<&Index<SparseVectorParameters>> {
        self.sparse_vector.as_ref()?.sparse_vector_index.as_ref()
    }

    pub(super) fn sparse_vector_index_mut(&mut self) -> Option<&mut Index<SparseVectorParameters>> {
        self.sparse_vector.as_mut()?.sparse_vector_index.as_mut()
    }
}

fn adopt_member<T: Clone>(member: &mut Option<T>, default: Option<&T>) -> bool {
    if member.is_some() || default.is_none() {
        return false;
    }
    *member = default.cloned();
    true
}

impl HnswParameters {
    /// The values of an index of `space`, those not given being the standard ones.
    pub(super) fn resolve(&self, space: Space, num_threads: usize) -> HnswConfiguration {
        let standard = HnswConfiguration::standard(num_threads);
        HnswConfiguration {
            space,
            ef_construction: self.ef_construction.unwrap_or(standard.ef_construction),
            ef_search: self.ef_search.unwrap_or(standard.ef_search),
            max_neighbors: self.max_neighbors.unwrap_or(standard.max_neighbors),
            num_threads: self.num_threads.unwrap_or(standard.num_threads),
            batch_size: self.batch_size.unwrap_or(standard.batch_size),
            sync_threshold: self.sync_threshold.unwrap_or(standard.sync_threshold),
            resize_factor: self.resize_factor.unwrap_or(standard.resize_factor),
        }
    }
}

impl From<&HnswConfiguration> for HnswParameters {
    fn from(hnsw: &HnswConfiguration) -> Self {
        Self {
            ef_construction: Some(hnsw.ef_construction),
            max_neighbors: Some(hnsw.max_neighbors),
            ef_search: Some(hnsw.ef_search),
            num_threads: Some(hnsw.num_threads),
            batch_size: Some(hnsw.batch_size),
            sync_threshold: Some(hnsw.sync_threshold),
            resize_factor: Some(hnsw.resize_factor),
        }
    }
}

impl From<&HnswUpdate> for HnswParameters {
    fn from(update: &HnswUpdate) -> Self {
        Self {
            ef_construction: None,
            max_neighbors: update.max_neighbors,
            ef_search: update.ef_search,
            num_threads: update.num_threads,
            batch_size: update.batch_size,
            sync_threshold: update.sync_threshold,
            resize_factor: update.resize_factor,
        }
    }
}

impl SpannParameters {
    /// Whether every given value is the one Chroma would take by itself.
    pub(super) fn is_standard(&self) -> bool {
        // Measured on Chroma 1.5.9: each value alone beside a configuration that is not standard.
        let standard = Self {
            search_nprobe: Some(64),
            search_rng_factor: Some(1.0),
            search_rng_epsilon: Some(10.0),
            nreplica_count: Some(8),
            write_rng_factor: Some(1.0),
            write_rng_epsilon: Some(5.0),
            split_threshold: Some(50),
            num_samples_kmeans: Some(1000),
            initial_lambda: Some(100.0),
            reassign_neighbor_count: Some(64),
            merge_threshold: Some(25),
            num_centers_to_merge_to: Some(8),
            write_nprobe: Some(32),
            ef_construction: Some(200),
            ef_search: Some(200),
            max_neighbors: Some(64),
            center_drift_threshold: Some(0.125),
            quantize: Quantization::None,
        };
        self.clone().over(standard.clone()) == standard
    }
}

whole!(
    NoParameters,
    EmbeddingFunction,
    Space,
    Quantization,
    SparseAlgorithm
);
member_wise!(ValueTypes {
    string,
    float_list,
    sparse_vector,
    int,
    float,
    bool
});
member_wise!(StringIndexes {
    fts_index,
    string_inverted_index
});
member_wise!(IntIndexes { int_inverted_index });
member_wise!(FloatIndexes {
    float_inverted_index
});
member_wise!(BoolIndexes {
    bool_inverted_index
});
member_wise!(FloatListIndexes { vector_index });
member_wise!(SparseVectorIndexes {
    sparse_vector_index
});
member_wise!(HnswParameters {
    ef_construction,
    max_neighbors,
    ef_search,
    num_threads,
    batch_size,
    sync_threshold,
    resize_factor
});
member_wise!(SpannParameters {
    search_nprobe,
    search_rng_factor,
    search_rng_epsilon,
    nreplica_count,
    write_rng_factor,
    write_rng_epsilon,
    split_threshold,
    num_samples_kmeans,
    initial_lambda,
    reassign_neighbor_count,
    merge_threshold,
    num_centers_to_merge_to,
    write_nprobe,
    ef_construction,
    ef_search,
    max_neighbors,
    center_drift_threshold,
    quantize
});
member_wise!(SparseVectorParameters {
    embedding_function,
    source_key,
    bm25,
    algorithm
});

impl<P: Patch> Patch for Index<P> {
    fn over(self, base: Self) -> Self {
        Self::new(self.enabled, self.config.over(base.config))
    }
}

impl Patch for VectorParameters {
    /// What is laid over the standard index is built, and only HNSW is: `spann` ends here.
    fn over(self, base: Self) -> Self {
        Self {
            space: self.space.over(base.space),
            embedding_function: self.embedding_function.over(base.embedding_function),
            source_key: self.source_key.over(base.source_key),
            hnsw: self.hnsw.over(base.hnsw),
            spann: None,
        }
    }
}
