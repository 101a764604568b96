//! Collections.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;
use uuid::Uuid;

use super::super::access::check_role;
use super::super::error::ChromaError;
use super::super::extract::{ChromaBody, ChromaPath, ChromaQuery};
use super::super::openapi::configurations::{
    CollectionConfiguration, CollectionSchema, ConfigurationUpdate as DescribedUpdate,
};
use super::super::openapi::filters::CollectionMetadata;
use super::super::openapi::words::Name;
use super::super::running;
use super::super::tags::CHROMA_COLLECTIONS;
use super::bounds::collection_id;
use super::namespaces::SliceQuery;
use super::wire::visible;
use crate::access::{Caller, Role};
use crate::app::App;
use crate::background::processors;
use crate::engine::{CollectionInfo, CollectionUpdate, NewCollection};
use crate::error::{Error, Result};
use crate::model::collection::CollectionDefinition;
use crate::model::configuration::{ConfigurationRequest, ConfigurationUpdate};
use crate::model::metadata::{Metadata, MetadataInput};
use crate::model::names::{CollectionName, check_name};
use crate::model::schema::{self, Schema, SchemaRequest};
use crate::operations::fork;

/// A collection to create.
#[derive(Debug, Deserialize, ToSchema)]
pub(in crate::api) struct CreateCollectionRequest {
    #[schema(value_type = Name, example = "articles")]
    name: String,
    /// Values: string, integer, float, boolean.
    #[schema(value_type = Option<CollectionMetadata>)]
    metadata: Option<BTreeMap<String, MetadataInput>>,
    /// `{"hnsw": {"space": "l2" | "cosine" | "ip", …}, "embedding_function": …}`
    #[schema(value_type = Option<CollectionConfiguration>)]
    configuration: Option<ConfigurationRequest>,
    #[schema(value_type = Option<CollectionSchema>)]
    schema: Option<SchemaRequest>,
    /// Return an existing one, unchanged.
    get_or_create: Option<bool>,
}

/// Changes to a collection; absent or null members leave things as they are.
#[derive(Debug, Deserialize, ToSchema)]
pub(in crate::api) struct UpdateCollectionRequest {
    #[schema(value_type = Option<Name>, example = "articles-renamed")]
    new_name: Option<String>,
    /// Replaces all metadata.
    #[schema(value_type = Option<CollectionMetadata>)]
    new_metadata: Option<BTreeMap<String, MetadataInput>>,
    #[schema(value_type = Option<DescribedUpdate>)]
    new_configuration: Option<ConfigurationUpdate>,
}

/// A collection.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Collection)]
pub(in crate::api) struct CollectionResponse {
    id: Uuid,
    name: String,
    #[schema(value_type = Object)]
    configuration_json: Value,
    #[schema(value_type = Object)]
    schema: Schema,
    #[schema(value_type = Option<CollectionMetadata>)]
    metadata: Option<Metadata>,
    dimension: Option<u32>,
    tenant: String,
    database: String,
    log_position: u64,
    version: u64,
}

impl From<CollectionInfo> for CollectionResponse {
    fn from(info: CollectionInfo) -> Self {
        let descriptor = &info.descriptor;
        let definition = &descriptor.definition;
        Self {
            id: descriptor.public_id(),
            name: descriptor.name.name.clone(),
            configuration_json: definition.configuration.to_json(),
            schema: definition.schema.clone(),
            metadata: visible(definition.metadata.clone()),
            dimension: definition.dimension,
            tenant: descriptor.name.tenant.clone(),
            database: descriptor.name.database.clone(),
            log_position: 0,
            version: 0,
        }
    }
}

/// Chroma's message for a bad value of a field.
fn field(name: &'static str) -> impl Fn(Error) -> Error {
    move |error| Error::invalid(format!("Validation error: {name}: {}", error.message()))
}

/// Collection metadata as given: at least one key.
fn metadata(
    name: &'static str,
    given: BTreeMap<String, MetadataInput>,
    nulls: bool,
) -> Result<Metadata> {
    if given.is_empty() {
        return Err(field(name)(Error::invalid("Metadata cannot be empty")));
    }
    let mut metadata = Metadata::new();
    for (key, value) in given {
        if key.is_empty() || key.starts_with(['#', '$']) {
            return Err(field(name)(Error::invalid("Invalid metadata key")));
        }
        match value {
            MetadataInput::Value(value) => {
                metadata.insert(key, value);
            }
            MetadataInput::Null if nulls => {}
            MetadataInput::EmptyList => {}
            MetadataInput::Null | MetadataInput::SparseVector => {
                return Err(Error::unprocessable(format!(
                    "Failed to deserialize the JSON body into the target type: {name}.{key}: data did not match \
                     any variant of untagged enum MetadataValue"
                )));
            }
        }
    }
    Ok(metadata)
}

/// Create a collection
///
/// With `get_or_create` one that exists is returned as it is; a key of the role `reader` may ask for that.
#[utoipa::path(post, path = "/api/v2/tenants/{tenant}/databases/{database}/collections", tag = CHROMA_COLLECTIONS,
    params(("tenant" = String, Path, example = "default_tenant"), ("database" = String, Path, example = "default_database")),
    request_body(content = CreateCollectionRequest,
        example = json!({"name": "articles", "configuration": {"hnsw": {"space": "cosine"}}, "get_or_create": true})),
    responses(
        (status = 200, body = CollectionResponse),
        (status = 400, description = "A bad value, or no such database"),
        (status = 409, description = "It exists"),
        (status = 422, description = "A wrong shape"),
    ))]
pub(in crate::api) async fn create_collection(
    State(app): State<App>,
    ChromaPath((tenant, database)): ChromaPath<(String, String)>,
    caller: Option<Extension<Caller>>,
    body: ChromaBody,
) -> Result<Json<CollectionResponse>, ChromaError> {
    let info = app
        .blocking(move |app| {
            let asked = to_create(&body, tenant, database);
            let refusal =
                caller.and_then(|Extension(caller)| check_role(&caller, Role::Writer).err());
            match (refusal, asked) {
                (None, asked) => {
                    let (new, get_or_create) = asked?;
                    app.engine().create_collection(new, get_or_create)
                }
                (Some(refusal), Ok((new, true))) => {
                    let existing = app.engine().collection_by_name(&new.name);
                    existing.map_err(|_| refusal)
                }
                (Some(refusal), _) => Err(refusal),
            }
        })
        .await?;
    Ok(Json(info.into()))
}

/// The collection that a body describes, and whether one that exists is as good.
fn to_create(body: &ChromaBody, tenant: String, database: String) -> Result<(NewCollection, bool)> {
    let request: CreateCollectionRequest = body.parse()?;
    check_name(&request.name).map_err(field("name"))?;
    let metadata = request.metadata.map_or_else(
        || Ok(Metadata::new()),
        |given| metadata("metadata", given, false),
    )?;
    let (configuration, schema) = schema::reconcile(
        &metadata,
        request.configuration,
        request.schema,
        processors(),
    )?;
    let new = NewCollection {
        name: CollectionName::new(tenant, database, request.name),
        definition: CollectionDefinition {
            metadata,
            configuration,
            schema,
            dimension: None,
        },
    };
    Ok((new, request.get_or_create.unwrap_or(false)))
}

/// List collections
#[utoipa::path(get, path = "/api/v2/tenants/{tenant}/databases/{database}/collections", tag = CHROMA_COLLECTIONS,
    params(("tenant" = String, Path, example = "default_tenant"), ("database" = String, Path, example = "default_database"), SliceQuery),
    responses((status = 200, description = "By id", body = Vec<CollectionResponse>)))]
pub(in crate::api) async fn list_collections(
    State(app): State<App>,
    ChromaPath((tenant, database)): ChromaPath<(String, String)>,
    ChromaQuery(slice): ChromaQuery<SliceQuery>,
) -> Json<Vec<CollectionResponse>> {
    let collections = app.engine().collections(&tenant, &database);
    Json(
        slice
            .of(collections)
            .map(CollectionResponse::from)
            .collect(),
    )
}

/// Count collections
#[utoipa::path(get, path = "/api/v2/tenants/{tenant}/databases/{database}/collections_count", tag = CHROMA_COLLECTIONS,
    params(("tenant" = String, Path, example = "default_tenant"), ("database" = String, Path, example = "default_database")),
    responses((status = 200, body = u64, content_type = "application/json")))]
pub(in crate::api) async fn count_collections(
    State(app): State<App>,
    ChromaPath((tenant, database)): ChromaPath<(String, String)>,
) -> Json<usize> {
    Json(app.engine().collections(&tenant, &database).len())
}

/// Get a collection by its name
#[utoipa::path(get, path = "/api/v2/tenants/{tenant}/databases/{database}/collections/{collection_id}", tag = CHROMA_COLLECTIONS,
    params(("tenant" = String, Path, example = "default_tenant"), ("database" = String, Path, example = "default_database"),
        ("collection_id" = String, Path, description = "Its NAME", example = "articles")),
    responses((status = 200, body = CollectionResponse), (status = 404, description = "No such collection")))]
pub(in crate::api) async fn get_collection(
    State(app): State<App>,
    ChromaPath((tenant, database, name)): ChromaPath<(String, String, String)>,
) -> Result<Json<CollectionResponse>, ChromaError> {
    let name = CollectionName::new(tenant, database, name);
    Ok(Json(app.engine().collection_by_name(&name)?.into()))
}

/// Get a collection by its id
#[utoipa::path(get, path = "/api/v2/tenants/{tenant}/databases/{database}/collections/by-id/{collection_id}", tag = CHROMA_COLLECTIONS,
    params(("tenant" = String, Path, example = "default_tenant"), ("database" = String, Path, example = "default_database"),
        ("collection_id" = Uuid, Path)),
    responses((status = 200, body = CollectionResponse), (status = 404, description = "No such collection")))]
pub(in crate::api) async fn get_collection_by_id(
    State(app): State<App>,
    ChromaPath((_tenant, _database, id)): ChromaPath<(String, String, String)>,
) -> Result<Json<CollectionResponse>, ChromaError> {
    let id = Uuid::parse_str(&id).map_err(|_| {
        Error::invalid(
            "Validation error: collection_id: Invalid collection ID format, expected UUID",
        )
    })?;
    let info = app
        .engine()
        .addressed(id)
        .map_err(|_| Error::not_found(format!("Collection [{id}] does not exist")))?;
    Ok(Json(info.into()))
}

/// Get a collection by tenant (or its resource name), database and name in one
#[utoipa::path(get, path = "/api/v2/collections/{crn}", tag = CHROMA_COLLECTIONS,
    params(("crn" = String, Path, example = "default_tenant:default_database:articles")),
    responses(
        (status = 200, body = CollectionResponse),
        (status = 400, description = "Not three parts"),
        (status = 404, description = "No such collection"),
    ))]
pub(in crate::api) async fn get_collection_by_crn(
    State(app): State<App>,
    ChromaPath(crn): ChromaPath<String>,
) -> Result<Json<CollectionResponse>, ChromaError> {
    let parts: Vec<&str> = crn.split(':').collect();
    let &[tenant, database, name] = parts.as_slice() else {
        return Err(ChromaError(bad_crn()));
    };
    if tenant.is_empty() || database.is_empty() || name.is_empty() {
        return Err(ChromaError(bad_crn()));
    }
    let tenant = app
        .engine()
        .tenant_by_resource_name(tenant)
        .unwrap_or_else(|| tenant.to_owned());
    let name = CollectionName::new(tenant, database, name);
    Ok(Json(app.engine().collection_by_name(&name)?.into()))
}

/// A fork to make.
#[derive(Debug, Deserialize, ToSchema)]
pub(in crate::api) struct ForkCollectionRequest {
    /// The fork's name, in the same database.
    #[schema(value_type = Name, example = "articles-fork")]
    new_name: String,
}

/// Fork a collection
///
/// A full copy as of one moment, proved equal by digest. Chroma's own single node does not offer this.
#[utoipa::path(post, path = "/api/v2/tenants/{tenant}/databases/{database}/collections/{collection_id}/fork", tag = CHROMA_COLLECTIONS,
    params(("tenant" = String, Path, example = "default_tenant"), ("database" = String, Path, example = "default_database"),
        ("collection_id" = Uuid, Path)),
    request_body(content = ForkCollectionRequest, example = json!({"new_name": "articles-fork"})),
    responses(
        (status = 200, description = "The fork", body = CollectionResponse),
        (status = 400, description = "A bad value"),
        (status = 404, description = "No such collection"),
        (status = 409, description = "The name is taken"),
        (status = 422, description = "A wrong shape"),
        (status = 507, description = "Not enough room on the disk"),
    ))]
pub(in crate::api) async fn fork_collection(
    State(app): State<App>,
    ChromaPath((_tenant, _database, id)): ChromaPath<(String, String, String)>,
    body: ChromaBody,
) -> Result<Json<CollectionResponse>, ChromaError> {
    let progress = running::progress();
    let info = app
        .blocking(move |app| {
            let id = collection_id(&id)?;
            let request: ForkCollectionRequest = body.parse()?;
            check_name(&request.new_name).map_err(field("new_name"))?;
            let settings = app.restore_settings();
            fork::fork(app.engine(), id, request.new_name, &settings, &progress)
        })
        .await?;
    Ok(Json(info.into()))
}

/// How many forks there are.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::api) struct ForkCountResponse {
    count: u64,
}

/// Count forks
///
/// Live forks of the line that this collection is of: of itself where it is the first, its siblings and
/// itself where it is a fork.
#[utoipa::path(get, path = "/api/v2/tenants/{tenant}/databases/{database}/collections/{collection_id}/fork_count", tag = CHROMA_COLLECTIONS,
    params(("tenant" = String, Path, example = "default_tenant"), ("database" = String, Path, example = "default_database"),
        ("collection_id" = Uuid, Path)),
    responses((status = 200, body = ForkCountResponse), (status = 404, description = "No such collection")))]
pub(in crate::api) async fn count_forks(
    State(app): State<App>,
    ChromaPath((_tenant, _database, id)): ChromaPath<(String, String, String)>,
) -> Result<Json<ForkCountResponse>, ChromaError> {
    let count = app.engine().fork_count(collection_id(&id)?)?;
    Ok(Json(ForkCountResponse { count }))
}

/// How far indexing is.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::api) struct IndexingStatusResponse {
    /// Live records: each is searchable when its write is answered.
    num_indexed_ops: u64,
    /// Always 0.
    num_unindexed_ops: u64,
    total_ops: u64,
    /// Always 1.
    op_indexing_progress: f32,
}

/// Get the indexing status
///
/// Nothing is indexed later: what was acknowledged is found.
#[utoipa::path(get, path = "/api/v2/tenants/{tenant}/databases/{database}/collections/{collection_id}/indexing_status", tag = CHROMA_COLLECTIONS,
    params(("tenant" = String, Path, example = "default_tenant"), ("database" = String, Path, example = "default_database"),
        ("collection_id" = Uuid, Path)),
    responses((status = 200, body = IndexingStatusResponse), (status = 404, description = "No such collection")))]
pub(in crate::api) async fn get_indexing_status(
    State(app): State<App>,
    ChromaPath((_tenant, _database, id)): ChromaPath<(String, String, String)>,
) -> Result<Json<IndexingStatusResponse>, ChromaError> {
    let records = app.engine().addressed(collection_id(&id)?)?.head.count;
    Ok(Json(IndexingStatusResponse {
        num_indexed_ops: records,
        num_unindexed_ops: 0,
        total_ops: records,
        op_indexing_progress: 1.0,
    }))
}

fn bad_crn() -> Error {
    Error::invalid(
        "Validation error: crn: CRN must be in the format \
         <tenant_resource_name>:<database_name>:<collection_name> with non-empty parts",
    )
}

/// Change a collection
#[utoipa::path(put, path = "/api/v2/tenants/{tenant}/databases/{database}/collections/{collection_id}", tag = CHROMA_COLLECTIONS,
    params(("tenant" = String, Path, example = "default_tenant"), ("database" = String, Path, example = "default_database"),
        ("collection_id" = Uuid, Path)),
    request_body(content = UpdateCollectionRequest, example = json!({"new_metadata": {"owner": "search team"}})),
    responses(
        (status = 200, body = Object),
        (status = 400, description = "A bad value"),
        (status = 404, description = "No such collection"),
        (status = 409, description = "The new name is taken"),
    ))]
pub(in crate::api) async fn update_collection(
    State(app): State<App>,
    ChromaPath((_tenant, _database, id)): ChromaPath<(String, String, String)>,
    body: ChromaBody,
) -> Result<Json<Value>, ChromaError> {
    app.blocking(move |app| {
        let id = collection_id(&id)?;
        let request: UpdateCollectionRequest = body.parse()?;
        if let Some(name) = &request.new_name {
            check_name(name).map_err(field("new_name"))?;
        }
        let metadata = request
            .new_metadata
            .map(|given| metadata("new_metadata", given, true))
            .transpose()?;
        let update = CollectionUpdate {
            name: request.new_name,
            metadata,
            configuration: request.new_configuration,
        };
        app.engine().update_collection(id, update)
    })
    .await?;
    Ok(Json(json!({})))
}

/// Delete a collection by its name
#[utoipa::path(delete, path = "/api/v2/tenants/{tenant}/databases/{database}/collections/{collection_id}", tag = CHROMA_COLLECTIONS,
    params(("tenant" = String, Path, example = "default_tenant"), ("database" = String, Path, example = "default_database"),
        ("collection_id" = String, Path, description = "Its NAME")),
    responses((status = 200, body = Object), (status = 404, description = "No such collection")))]
pub(in crate::api) async fn delete_collection(
    State(app): State<App>,
    ChromaPath((tenant, database, name)): ChromaPath<(String, String, String)>,
) -> Result<Json<Value>, ChromaError> {
    let name = CollectionName::new(tenant, database, name);
    app.blocking(move |app| app.engine().delete_collection(&name))
        .await?;
    Ok(Json(json!({})))
}
