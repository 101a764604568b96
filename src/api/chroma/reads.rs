//! Reading records: count, get, query.

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::super::error::ChromaError;
use super::super::extract::{ChromaBody, ChromaPath, ChromaQuery};
use super::super::openapi::filters::{Metadata as DescribedMetadata, Where, WhereDocument};
use super::super::running;
use super::super::tags::CHROMA_RECORDS;
use super::bounds::{check_ids, collection_id};
use super::columns::{JsonColumns, json_parts};
use super::filters;
use super::wire::{Include, finite, inconsistent_dimensions, projection, visible};
use crate::app::App;
use crate::engine::{CollectionInfo, GetRequest, Neighbour, QueryRequest};
use crate::error::{Error, Kind, Result};
use crate::model::metadata::Metadata;
use crate::model::record::Record;
use crate::progress::Progress;

/// How far behind a read may be; every read here sees every acknowledged write.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::enum_variant_names, reason = "the protocol's words")]
pub(in crate::api) enum ReadLevel {
    /// Everything.
    IndexAndWal,
    /// The same here.
    IndexOnly,
    /// The same here.
    IndexAndBoundedWal,
}

/// How to count.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(in crate::api) struct CountQuery {
    #[param(inline, example = "index_and_wal")]
    #[allow(
        dead_code,
        reason = "checked by being parsed; all levels read the same here"
    )]
    read_level: Option<ReadLevel>,
}

/// Count records
#[utoipa::path(get, path = "/api/v2/tenants/{tenant}/databases/{database}/collections/{collection_id}/count", tag = CHROMA_RECORDS,
    params(("tenant" = String, Path, example = "default_tenant"), ("database" = String, Path, example = "default_database"), ("collection_id" = Uuid, Path), CountQuery),
    responses((status = 200, body = u64, content_type = "application/json"), (status = 404, description = "No such collection")))]
pub(in crate::api) async fn count_records(
    State(app): State<App>,
    ChromaPath((_tenant, _database, id)): ChromaPath<(String, String, String)>,
    ChromaQuery(_level): ChromaQuery<CountQuery>,
) -> Result<Json<u64>, ChromaError> {
    let info = app.engine().addressed(collection_id(&id)?)?;
    Ok(Json(info.head.count))
}

fn default_get_include() -> Vec<Include> {
    vec![Include::Documents, Include::Metadatas]
}

/// Which records to read, and which columns.
#[derive(Deserialize, ToSchema)]
pub(in crate::api) struct GetRecordsRequest {
    ids: Option<Vec<String>>,
    #[schema(value_type = Option<Where>)]
    r#where: Option<Value>,
    #[schema(value_type = Option<WhereDocument>)]
    where_document: Option<Value>,
    limit: Option<u32>,
    offset: Option<u32>,
    /// Documents and metadatas without.
    #[serde(default = "default_get_include")]
    include: Vec<Include>,
}

/// Columns; null where not included.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what is written column by column")]
pub(in crate::api) struct GetRecordsResponse {
    ids: Vec<String>,
    embeddings: Option<Vec<Vec<f32>>>,
    documents: Option<Vec<Option<String>>>,
    uris: Option<Vec<Option<String>>>,
    #[schema(value_type = Option<Vec<Option<DescribedMetadata>>>)]
    metadatas: Option<Vec<Option<Metadata>>>,
    include: Vec<Include>,
}

/// Records taken apart into columns.
#[derive(Default)]
struct Columns {
    ids: Vec<String>,
    embeddings: Vec<Vec<f32>>,
    documents: Vec<Option<String>>,
    uris: Vec<Option<String>>,
    metadatas: Vec<Option<Metadata>>,
}

impl FromIterator<Record> for Columns {
    fn from_iter<I: IntoIterator<Item = Record>>(records: I) -> Self {
        let mut columns = Self::default();
        for record in records {
            columns.ids.push(record.id);
            columns.embeddings.push(record.embedding);
            columns.documents.push(record.document);
            columns.uris.push(record.uri);
            columns.metadatas.push(visible(record.metadata));
        }
        columns
    }
}

/// The encoded answer: made on the blocking thread, where a large one belongs.
fn encode(body: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(body)
        .map_err(|error| Error::internal("an answer cannot be encoded").because(error))
}

fn json_bytes(bytes: Vec<u8>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], bytes).into_response()
}

/// Get records
///
/// In insertion order.
#[utoipa::path(post, path = "/api/v2/tenants/{tenant}/databases/{database}/collections/{collection_id}/get", tag = CHROMA_RECORDS,
    params(("tenant" = String, Path, example = "default_tenant"), ("database" = String, Path, example = "default_database"), ("collection_id" = Uuid, Path)),
    request_body(content = GetRecordsRequest, example = json!({"where": {"topic": "x"}, "limit": 10, "include": ["documents", "metadatas"]})),
    responses(
        (status = 200, body = GetRecordsResponse),
        (status = 400, description = "A bad filter"),
        (status = 404, description = "No such collection"),
        (status = 413, description = "Over a bound"),
        (status = 422, description = "A wrong shape"),
    ))]
pub(in crate::api) async fn get_records(
    State(app): State<App>,
    ChromaPath((_tenant, _database, id)): ChromaPath<(String, String, String)>,
    body: ChromaBody,
) -> Result<Response, ChromaError> {
    let progress = running::progress();
    let answer = app.blocking(move |app| get(app, &id, &body, progress));
    Ok(json_parts(answer.await?))
}

/// The answer of a read, by its parts. Blocks.
fn get(app: &App, id: &str, body: &ChromaBody, progress: Progress) -> Result<Vec<Bytes>> {
    let id = collection_id(id)?;
    let request: GetRecordsRequest = body.parse()?;
    let descriptor = app.engine().addressed(id)?.descriptor;
    let filter = filters::parse(
        app,
        &descriptor.definition.schema,
        request.r#where.as_ref(),
        request.where_document.as_ref(),
    )?;
    check_ids(app, request.ids.as_deref())?;
    let max_bytes = app.config().query.max_answer_bytes;
    let mut columns = JsonColumns::new(request.include, max_bytes);
    let request = GetRequest {
        ids: request.ids,
        filter,
        limit: request.limit.map(|limit| limit as usize),
        offset: request.offset.unwrap_or(0) as usize,
        progress,
    };
    app.engine()
        .for_each(id, &request, |record| columns.push(record))?;
    columns.into_parts()
}

fn default_query_include() -> Vec<Include> {
    vec![Include::Documents, Include::Metadatas, Include::Distances]
}

/// Neighbours per query vector where the request does not say.
const DEFAULT_RESULTS: u32 = 10;

/// What to look for.
#[derive(Deserialize, ToSchema)]
pub(in crate::api) struct QueryRecordsRequest {
    query_embeddings: Vec<Vec<f32>>,
    /// 10 without.
    n_results: Option<u32>,
    /// Only these.
    ids: Option<Vec<String>>,
    #[schema(value_type = Option<Where>)]
    r#where: Option<Value>,
    #[schema(value_type = Option<WhereDocument>)]
    where_document: Option<Value>,
    /// Documents, metadatas and distances without.
    #[serde(default = "default_query_include")]
    include: Vec<Include>,
}

/// One inner list per query vector, nearest first; null where not included.
#[derive(Serialize, ToSchema)]
pub(in crate::api) struct QueryRecordsResponse {
    ids: Vec<Vec<String>>,
    embeddings: Option<Vec<Vec<Vec<f32>>>>,
    documents: Option<Vec<Vec<Option<String>>>>,
    uris: Option<Vec<Vec<Option<String>>>>,
    #[schema(value_type = Option<Vec<Vec<Option<DescribedMetadata>>>>)]
    metadatas: Option<Vec<Vec<Option<Metadata>>>>,
    distances: Option<Vec<Vec<f32>>>,
    include: Vec<Include>,
}

impl QueryRecordsResponse {
    fn new(found: Vec<Vec<Neighbour>>, include: Vec<Include>) -> Self {
        let has = |column| include.contains(&column);
        let rows = found.len();
        fn column<T>(wanted: bool, rows: usize) -> Option<Vec<T>> {
            wanted.then(|| Vec::with_capacity(rows))
        }
        fn push<T>(column: &mut Option<Vec<T>>, row: T) {
            if let Some(column) = column {
                column.push(row);
            }
        }
        let mut answer = Self {
            ids: Vec::with_capacity(rows),
            embeddings: column(has(Include::Embeddings), rows),
            documents: column(has(Include::Documents), rows),
            uris: column(has(Include::Uris), rows),
            metadatas: column(has(Include::Metadatas), rows),
            distances: column(has(Include::Distances), rows),
            include,
        };
        for neighbours in found {
            let distances = neighbours
                .iter()
                .map(|neighbour| neighbour.distance)
                .collect();
            let columns: Columns = neighbours
                .into_iter()
                .map(|neighbour| neighbour.record)
                .collect();
            answer.ids.push(columns.ids);
            push(&mut answer.embeddings, columns.embeddings);
            push(&mut answer.documents, columns.documents);
            push(&mut answer.uris, columns.uris);
            push(&mut answer.metadatas, columns.metadatas);
            push(&mut answer.distances, distances);
        }
        answer
    }
}

/// Checks what can be checked without the collection, and the bounds.
fn query_vectors(app: &App, given: Vec<Vec<f32>>, results: usize) -> Result<Vec<Vec<f32>>> {
    let bounds = &app.config().query;
    if given.len() > bounds.max_query_vectors {
        return Err(Error::new(
            Kind::TooLarge,
            format!(
                "a query may have {} vectors (query.max_query_vectors)",
                bounds.max_query_vectors
            ),
        ));
    }
    if results > bounds.max_results {
        return Err(Error::new(
            Kind::TooLarge,
            format!(
                "n_results may be {} neighbours per vector (query.max_results)",
                bounds.max_results
            ),
        ));
    }
    if given
        .windows(2)
        .any(|pair| matches!(pair, [a, b] if a.len() != b.len()))
    {
        return Err(inconsistent_dimensions());
    }
    given.into_iter().map(finite).collect()
}

/// Find the nearest records
///
/// Filters decide the candidates first; the comparison is exact.
#[utoipa::path(post, path = "/api/v2/tenants/{tenant}/databases/{database}/collections/{collection_id}/query", tag = CHROMA_RECORDS,
    params(("tenant" = String, Path, example = "default_tenant"), ("database" = String, Path, example = "default_database"), ("collection_id" = Uuid, Path)),
    request_body(content = QueryRecordsRequest, example = json!({"query_embeddings": [[0.1, 0.2, 0.3]], "n_results": 3})),
    responses(
        (status = 200, body = QueryRecordsResponse),
        (status = 400, description = "A bad filter, or another dimension than the collection's"),
        (status = 404, description = "No such collection"),
        (status = 413, description = "Over a bound"),
        (status = 422, description = "A wrong shape"),
    ))]
pub(in crate::api) async fn query_records(
    State(app): State<App>,
    ChromaPath((_tenant, _database, id)): ChromaPath<(String, String, String)>,
    body: ChromaBody,
) -> Result<Response, ChromaError> {
    let progress = running::progress();
    let answer = app.blocking(move |app| query(app, &id, &body, progress));
    Ok(json_bytes(answer.await?))
}

/// The encoded answer of a search. Blocks.
fn query(app: &App, id: &str, body: &ChromaBody, progress: Progress) -> Result<Vec<u8>> {
    let id = collection_id(id)?;
    let request: QueryRecordsRequest = body.parse()?;
    let CollectionInfo { descriptor, head } = app.engine().addressed(id)?;
    // More than there are is all there are, however many are asked for.
    let there = usize::try_from(head.count).unwrap_or(usize::MAX);
    let results = (request.n_results.unwrap_or(DEFAULT_RESULTS) as usize).min(there);
    let embeddings = query_vectors(app, request.query_embeddings, results)?;
    let filter = filters::parse(
        app,
        &descriptor.definition.schema,
        request.r#where.as_ref(),
        request.where_document.as_ref(),
    )?;
    check_ids(app, request.ids.as_deref())?;
    let include = request.include;
    let request = QueryRequest {
        embeddings,
        n_results: results,
        ids: request.ids,
        filter,
        projection: projection(&include),
        max_bytes: Some(app.config().query.max_answer_bytes as u64),
        progress,
    };
    let found = app.engine().query(id, &request)?;
    encode(&QueryRecordsResponse::new(found, include))
}
