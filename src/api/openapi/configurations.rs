//! Schemas of what a client may say of a collection's index: the model reads it, and knows nothing of OpenAPI.

#![expect(dead_code, reason = "these types describe bodies that the model reads")]

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

/// A collection's configuration. Either `hnsw` or `spann`; of the latter only the space is kept.
#[derive(Serialize, ToSchema)]
pub(in crate::api) struct CollectionConfiguration {
    hnsw: Option<HnswConfiguration>,
    spann: Option<SpannConfiguration>,
    embedding_function: Option<EmbeddingFunction>,
}

/// The distance.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::api) enum Space {
    /// Squared Euclidean distance.
    L2,
    /// One minus the cosine of the angle.
    Cosine,
    /// One minus the inner product.
    Ip,
}

/// Parameters of the vector index.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct HnswConfiguration {
    space: Option<Space>,
    ef_construction: Option<u64>,
    ef_search: Option<u64>,
    max_neighbors: Option<u64>,
    num_threads: Option<u64>,
    resize_factor: Option<f64>,
    sync_threshold: Option<u64>,
    batch_size: Option<u64>,
}

/// Parameters of an index that is not built here.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SpannConfiguration {
    search_nprobe: Option<u32>,
    write_nprobe: Option<u32>,
    space: Option<Space>,
    ef_construction: Option<u64>,
    ef_search: Option<u64>,
    max_neighbors: Option<u64>,
    reassign_neighbor_count: Option<u32>,
    split_threshold: Option<u32>,
    merge_threshold: Option<u32>,
}

/// The client's embedding function: kept, so that clients find it again, and never run.
#[derive(Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "lowercase")]
enum EmbeddingFunction {
    Legacy,
    Known { name: String, config: Value },
    Unknown,
}

/// Changes to a configuration; space and `ef_construction` stay.
#[derive(Serialize, ToSchema)]
pub(in crate::api) struct ConfigurationUpdate {
    hnsw: Option<HnswUpdate>,
    spann: Option<SpannUpdate>,
    embedding_function: Option<EmbeddingFunction>,
}

/// Parameters that may change.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct HnswUpdate {
    ef_search: Option<u64>,
    max_neighbors: Option<u64>,
    num_threads: Option<u64>,
    resize_factor: Option<f64>,
    sync_threshold: Option<u64>,
    batch_size: Option<u64>,
}

/// Read for its types.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SpannUpdate {
    search_nprobe: Option<u32>,
    ef_search: Option<u64>,
}

/// What is indexed: by default, and of named metadata keys. (Not described as `CollectionSchema`: generators of clients
/// call the member `schema` of `Collection` that.)
#[derive(Serialize, ToSchema)]
#[schema(as = IndexSchema)]
pub(in crate::api) struct CollectionSchema {
    defaults: ValueTypes,
    keys: BTreeMap<String, ValueTypes>,
}

/// Indexes by the type of the value.
#[derive(Serialize, ToSchema)]
struct ValueTypes {
    #[schema(value_type = Option<Object>)]
    string: Option<Value>,
    #[schema(value_type = Option<Object>)]
    int: Option<Value>,
    #[schema(value_type = Option<Object>)]
    float: Option<Value>,
    #[schema(value_type = Option<Object>)]
    bool: Option<Value>,
    #[schema(value_type = Option<Object>)]
    float_list: Option<Value>,
    #[schema(value_type = Option<Object>)]
    sparse_vector: Option<Value>,
}
