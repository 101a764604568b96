//! Writing records: add, upsert, update, delete.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::super::error::ChromaError;
use super::super::extract::{ChromaBody, ChromaPath};
use super::super::openapi::filters::{MetadataChange, Where, WhereDocument};
use super::super::running;
use super::super::tags::CHROMA_RECORDS;
use super::bounds::{check_ids, collection_id};
use super::filters;
use super::wire::Embeddings;
use crate::app::App;
use crate::engine::{DeleteRequest, RecordPatch, WriteMode};
use crate::error::{Error, Kind, Result};
use crate::model::metadata::{MetadataInput, MetadataValue, is_key};
use crate::progress::Progress;

/// Arrays of numbers, or base64 of little-endian f32.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "it describes what wire.rs reads")]
enum SentEmbeddings {
    Numbers(Vec<Vec<f32>>),
    Base64(Vec<String>),
}

/// As when they are added; null leaves one as it is.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "it describes what wire.rs reads")]
enum ChangedEmbeddings {
    Numbers(Vec<Option<Vec<f32>>>),
    Base64(Vec<Option<String>>),
}

type GivenMetadata = BTreeMap<String, MetadataInput>;

/// Records by column; all columns as long as `ids`.
#[derive(Deserialize, ToSchema)]
pub(in crate::api) struct WriteRecordsRequest<'a> {
    #[schema(example = json!(["a", "b"]))]
    ids: Vec<String>,
    /// Arrays of numbers, or base64 of little-endian f32. Required for add and upsert.
    #[serde(borrow)]
    #[schema(value_type = SentEmbeddings)]
    embeddings: Embeddings<'a>,
    documents: Option<Vec<Option<String>>>,
    /// Values: string, integer, float, boolean, or a list of one of these. Update and upsert merge them
    /// key by key; null removes a key.
    #[schema(value_type = Option<Vec<Option<MetadataChange>>>)]
    metadatas: Option<Vec<Option<GivenMetadata>>>,
    uris: Option<Vec<Option<String>>>,
}

/// As [`WriteRecordsRequest`], with embeddings that may be absent.
#[derive(Deserialize, ToSchema)]
pub(in crate::api) struct UpdateRecordsRequest<'a> {
    #[schema(example = json!(["a", "b"]))]
    ids: Vec<String>,
    #[serde(borrow)]
    #[schema(value_type = Option<ChangedEmbeddings>)]
    embeddings: Option<Embeddings<'a>>,
    documents: Option<Vec<Option<String>>>,
    #[schema(value_type = Option<Vec<Option<MetadataChange>>>)]
    metadatas: Option<Vec<Option<GivenMetadata>>>,
    uris: Option<Vec<Option<String>>>,
}

impl<'a> WriteRecordsRequest<'a> {
    /// With every embedding there.
    fn complete(self) -> Result<UpdateRecordsRequest<'a>> {
        if self.embeddings.has_null() {
            return Err(Error::unprocessable(
                "Failed to deserialize the JSON body into the target type: embeddings: data did not match any \
                 variant of untagged enum EmbeddingsPayload",
            ));
        }
        Ok(UpdateRecordsRequest {
            ids: self.ids,
            embeddings: Some(self.embeddings),
            documents: self.documents,
            metadatas: self.metadatas,
            uris: self.uris,
        })
    }
}

impl UpdateRecordsRequest<'_> {
    /// Checks everything that can be checked without the collection.
    fn patches(self, mode: WriteMode) -> Result<Vec<RecordPatch>> {
        let count = self.ids.len();
        let lengths = [
            self.embeddings.as_ref().map(Embeddings::len),
            self.documents.as_ref().map(Vec::len),
            self.metadatas.as_ref().map(Vec::len),
            self.uris.as_ref().map(Vec::len),
        ];
        if lengths.into_iter().flatten().any(|length| length != count) {
            return Err(Error::invalid(
                "Inconsistent number of IDs, embeddings, documents, URIs and metadatas",
            ));
        }
        if self.ids.iter().any(String::is_empty) {
            return Err(Error::invalid(
                "Empty ID, ID must have at least one character",
            ));
        }
        let embeddings = self.embeddings.map(Embeddings::decode).transpose()?;
        let mut embeddings = embeddings.into_iter().flatten();
        let mut documents = self.documents.into_iter().flatten();
        let mut metadatas = self.metadatas.into_iter().flatten();
        let mut uris = self.uris.into_iter().flatten();
        self.ids
            .into_iter()
            .enumerate()
            .map(|(index, id)| {
                Ok(RecordPatch {
                    id,
                    embedding: embeddings.next().flatten(),
                    document: documents.next().flatten(),
                    uri: uris.next().flatten(),
                    metadata: metadata(index, metadatas.next().flatten(), mode)?,
                })
            })
            .collect()
    }
}

fn metadata(
    index: usize,
    given: Option<GivenMetadata>,
    mode: WriteMode,
) -> Result<Vec<(String, Option<MetadataValue>)>> {
    let mut entries = Vec::new();
    for (key, value) in given.into_iter().flatten() {
        if !is_key(&key) {
            return Err(Error::invalid(format!(
                "Validation error: metadatas: Invalid metadata at index {index}"
            )));
        }
        let value = match value {
            MetadataInput::Value(value) => Some(value),
            // An empty list has no type to store: it leaves nothing behind.
            MetadataInput::EmptyList => None,
            MetadataInput::Null if mode == WriteMode::Add => {
                return Err(Error::unprocessable(format!(
                    "Failed to deserialize the JSON body into the target type: metadatas[{index}].{key}: data did \
                     not match any variant of untagged enum MetadataValue"
                )));
            }
            MetadataInput::Null => None,
            MetadataInput::SparseVector => {
                return Err(Error::new(
                    Kind::Unimplemented,
                    format!(
                        "Unimplemented: Sparse vector is not supported for local chroma: {key}"
                    ),
                ));
            }
        };
        entries.push((key, value));
    }
    Ok(entries)
}

async fn write(app: App, id: String, mode: WriteMode, body: ChromaBody) -> Result<(), ChromaError> {
    let progress = running::progress();
    app.blocking(move |app| {
        let id = collection_id(&id)?;
        let request = match mode {
            WriteMode::Add | WriteMode::Upsert => {
                body.parse::<WriteRecordsRequest<'_>>()?.complete()?
            }
            WriteMode::Update => body.parse::<UpdateRecordsRequest<'_>>()?,
        };
        let most = app.config().query.max_batch_records;
        if request.ids.len() > most {
            return Err(Error::new(
                Kind::TooLarge,
                format!("a request may write {most} records (query.max_batch_records)"),
            ));
        }
        let patches = request.patches(mode)?;
        app.engine()
            .write_unless_canceled(id, mode, patches, &progress)
    })
    .await?;
    Ok(())
}

/// Add records
///
/// Ids that exist are silently left alone.
#[utoipa::path(post, path = "/api/v2/tenants/{tenant}/databases/{database}/collections/{collection_id}/add", tag = CHROMA_RECORDS,
    params(("tenant" = String, Path, example = "default_tenant"), ("database" = String, Path, example = "default_database"), ("collection_id" = Uuid, Path)),
    request_body(content = WriteRecordsRequest,
        example = json!({"ids": ["a"], "embeddings": [[0.1, 0.2, 0.3]], "documents": ["a text"], "metadatas": [{"topic": "x"}]})),
    responses(
        (status = 201, body = Object),
        (status = 400, description = "A bad value; nothing was changed"),
        (status = 404, description = "No such collection"),
        (status = 413, description = "Over the bound of the body"),
        (status = 422, description = "A wrong shape; nothing was changed"),
    ))]
pub(in crate::api) async fn add_records(
    State(app): State<App>,
    ChromaPath((_tenant, _database, id)): ChromaPath<(String, String, String)>,
    body: ChromaBody,
) -> Result<Response, ChromaError> {
    write(app, id, WriteMode::Add, body).await?;
    Ok((StatusCode::CREATED, Json(json!({}))).into_response())
}

/// Upsert records
#[utoipa::path(post, path = "/api/v2/tenants/{tenant}/databases/{database}/collections/{collection_id}/upsert", tag = CHROMA_RECORDS,
    params(("tenant" = String, Path, example = "default_tenant"), ("database" = String, Path, example = "default_database"), ("collection_id" = Uuid, Path)),
    request_body(content = WriteRecordsRequest,
        example = json!({"ids": ["a"], "embeddings": [[0.1, 0.2, 0.3]], "documents": ["another text"]})),
    responses(
        (status = 200, body = Object),
        (status = 400, description = "A bad value; nothing was changed"),
        (status = 404, description = "No such collection"),
        (status = 413, description = "Over the bound of the body"),
        (status = 422, description = "A wrong shape; nothing was changed"),
    ))]
pub(in crate::api) async fn upsert_records(
    State(app): State<App>,
    ChromaPath((_tenant, _database, id)): ChromaPath<(String, String, String)>,
    body: ChromaBody,
) -> Result<Json<Value>, ChromaError> {
    write(app, id, WriteMode::Upsert, body).await?;
    Ok(Json(json!({})))
}

/// Update records
///
/// Ids that do not exist are ignored.
#[utoipa::path(post, path = "/api/v2/tenants/{tenant}/databases/{database}/collections/{collection_id}/update", tag = CHROMA_RECORDS,
    params(("tenant" = String, Path, example = "default_tenant"), ("database" = String, Path, example = "default_database"), ("collection_id" = Uuid, Path)),
    request_body(content = UpdateRecordsRequest, example = json!({"ids": ["a"], "metadatas": [{"topic": "y"}]})),
    responses(
        (status = 200, body = Object),
        (status = 400, description = "A bad value; nothing was changed"),
        (status = 404, description = "No such collection"),
        (status = 413, description = "Over the bound of the body"),
        (status = 422, description = "A wrong shape; nothing was changed"),
    ))]
pub(in crate::api) async fn update_records(
    State(app): State<App>,
    ChromaPath((_tenant, _database, id)): ChromaPath<(String, String, String)>,
    body: ChromaBody,
) -> Result<Json<Value>, ChromaError> {
    write(app, id, WriteMode::Update, body).await?;
    Ok(Json(json!({})))
}

/// Which records to delete.
#[derive(Deserialize, ToSchema)]
pub(in crate::api) struct DeleteRecordsRequest {
    ids: Option<Vec<String>>,
    #[schema(value_type = Option<Where>)]
    r#where: Option<Value>,
    #[schema(value_type = Option<WhereDocument>)]
    where_document: Option<Value>,
    /// At most this many, first inserted first; needs a filter.
    limit: Option<u32>,
}

/// Delete records
#[utoipa::path(post, path = "/api/v2/tenants/{tenant}/databases/{database}/collections/{collection_id}/delete", tag = CHROMA_RECORDS,
    params(("tenant" = String, Path, example = "default_tenant"), ("database" = String, Path, example = "default_database"), ("collection_id" = Uuid, Path)),
    request_body(content = DeleteRecordsRequest, example = json!({"ids": ["a"]})),
    responses(
        (status = 200, body = Object, example = json!({"deleted": 1})),
        (status = 400, description = "A bad filter"),
        (status = 404, description = "No such collection"),
        (status = 413, description = "Over a bound"),
        (status = 422, description = "A wrong shape"),
    ))]
pub(in crate::api) async fn delete_records(
    State(app): State<App>,
    ChromaPath((_tenant, _database, id)): ChromaPath<(String, String, String)>,
    body: ChromaBody,
) -> Result<Json<Value>, ChromaError> {
    let progress = running::progress();
    let deleted = app
        .blocking(move |app| {
            let id = collection_id(&id)?;
            let request: DeleteRecordsRequest = body.parse()?;
            delete(app, id, request, progress)
        })
        .await?;
    Ok(Json(json!({"deleted": deleted})))
}

/// Returns the number as Chroma counts: the ids sent, or with a filter the records deleted.
fn delete(
    app: &App,
    id: uuid::Uuid,
    request: DeleteRecordsRequest,
    progress: Progress,
) -> Result<u64> {
    check_ids(app, request.ids.as_deref())?;
    let schema = app.engine().addressed(id)?.descriptor;
    let filter = filters::parse(
        app,
        &schema.definition.schema,
        request.r#where.as_ref(),
        request.where_document.as_ref(),
    )?;
    if request.limit.is_some() && filter.is_none() {
        return Err(Error::invalid(
            "Validation error: limit, where: limit can only be specified when a where clause is provided",
        ));
    }
    let counted = match (&request.ids, &filter) {
        (None, None) => return Ok(0),
        (Some(ids), None) if ids.is_empty() => {
            return Err(Error::invalid(
                "Validation error: ids, where: Either ids or where must be specified",
            ));
        }
        (Some(ids), None) => Some(ids.len() as u64),
        (_, Some(_)) => None,
    };
    let deleted = app.engine().delete(
        id,
        &DeleteRequest {
            ids: request.ids,
            filter,
            limit: request.limit.map(|limit| limit as usize),
            progress,
        },
    )?;
    Ok(counted.unwrap_or(deleted))
}
