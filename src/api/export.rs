//! `/backups/{id}/export`: a download that is produced while it is sent.

use std::io::{self, BufWriter, Write};

use axum::body::Body;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::stream;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use utoipa::{IntoParams, ToSchema};

use super::error::Problem;
use super::extract::{OperationPath, OperationQuery};
use super::names::{default_database, default_tenant};
use super::openapi::filters::Metadata;
use super::outcomes::BackupResponse;
use super::tags::{BACKUPS, SELECTOR};
use crate::app::App;
use crate::error::Result;
use crate::model::names::CollectionName;
use crate::model::selector::Selector;
use crate::operations::export::{self, ExportLayout};

/// Bytes per chunk, and chunks under way: what a slow reader can make the service hold.
const CHUNK_BYTES: usize = 256 * 1024;
const CHUNKS: usize = 4;

/// The form of the document.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum ExportFormat {
    /// One JSON object.
    #[default]
    Json,
    /// A JSON object per line, each with its `type`.
    Jsonl,
}

impl ExportFormat {
    /// How it is written, the end of its file's name, its media type.
    fn written(self) -> (ExportLayout, &'static str, &'static str) {
        match self {
            Self::Json => (ExportLayout::Json, "json", "application/json"),
            Self::Jsonl => (ExportLayout::JsonLines, "jsonl", "application/x-ndjson"),
        }
    }
}

/// What to export.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ExportQuery {
    /// `json` or `jsonl`
    #[serde(default)]
    #[param(value_type = Option<ExportFormat>, inline, example = "json")]
    format: ExportFormat,
    /// Only the collection of this name.
    collection: Option<String>,
    /// Its tenant.
    #[serde(default = "default_tenant")]
    #[param(required = false)]
    tenant: String,
    /// Its database.
    #[serde(default = "default_database")]
    #[param(required = false)]
    database: String,
}

/// An export.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ExportedDocument {
    #[schema(pattern = "^vectorkeep-export$", example = "vectorkeep-export")]
    format: String,
    #[schema(minimum = 1, maximum = 1, example = 1)]
    version: u32,
    /// The backup that was exported; of it an import takes the labels.
    #[schema(value_type = Option<Object>)]
    backup: Option<Value>,
    collections: Vec<ExportedCollection>,
}

/// A collection of an export.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ExportedCollection {
    tenant: Option<String>,
    database: Option<String>,
    #[schema(example = "articles")]
    name: String,
    #[schema(value_type = Option<Object>)]
    metadata: Option<Value>,
    /// As in Chroma's `configuration_json`.
    #[schema(value_type = Option<Object>)]
    configuration: Option<Value>,
    #[schema(value_type = Option<Object>)]
    schema: Option<Value>,
    #[schema(minimum = 1)]
    dimension: Option<u32>,
    records: Vec<ExportedRecord>,
    /// Of the records; an import compares it where it is given.
    digest: Option<String>,
}

/// A record of an export.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ExportedRecord {
    #[schema(min_length = 1)]
    id: String,
    #[schema(min_items = 1)]
    embedding: Vec<f32>,
    document: Option<String>,
    uri: Option<String>,
    #[schema(value_type = Option<Metadata>)]
    metadata: Option<Value>,
}

/// Export a backup as JSON
///
/// One valid JSON object with every record, or with `format=jsonl` an object per line (`"type"`: `export`, then
/// for each collection `collection`, `record`s, `collection_end`, then `end`); floats in the shortest form that reads back as the same bits.
/// Damage that is found on the way breaks the download off, so that no reader takes it for whole.
#[utoipa::path(get, path = "/backups/{id}/export", tag = BACKUPS,
    params(("id" = String, Path, description = SELECTOR, example = "latest"), ExportQuery),
    responses(
        (status = 200, description = "The document", content(
            (ExportedDocument = "application/json"),
            (String = "application/x-ndjson"),
        )),
        (status = 404, description = "No such backup, or no such collection in it"),
        (status = 422, description = "A bad parameter, or a damaged backup"),
    ))]
pub(super) async fn export_backup(
    State(app): State<App>,
    OperationPath(id): OperationPath,
    OperationQuery(query): OperationQuery<ExportQuery>,
) -> Result<Response, Problem> {
    let (layout, extension, media_type) = query.format.written();
    let collection = query
        .collection
        .map(|name| CollectionName::new(query.tenant, query.database, name));
    // Held until the download ends: a slow reader holds a thread as well.
    let permit = app.repository_permit()?;
    let (repository, manifest, standing, collection) = app
        .on_thread(move |app| {
            let repository = app.repository()?;
            let manifest = repository.selected(&Selector::parse(&id)?)?;
            export::select(&manifest, collection.as_ref())?;
            let standing = repository.standing(&manifest)?;
            Ok((repository, manifest, standing, collection))
        })
        .await?;
    let disposition = format!("attachment; filename=\"{}.{extension}\"", manifest.id);
    let body = streamed(move |out| {
        let _permit = permit;
        let backup = json!(BackupResponse::new(&manifest, standing));
        let collections = export::select(&manifest, collection.as_ref())?;
        export::write(&repository, &collections, &backup, layout, out).inspect_err(
            |error| tracing::warn!(backup = manifest.id, %error, "an export was broken off"),
        )
    });
    let media_type = (header::CONTENT_TYPE, media_type.to_owned());
    let disposition = (header::CONTENT_DISPOSITION, disposition);
    Ok(([media_type, disposition], body).into_response())
}

/// What a thread writes, as a body; an error breaks it off.
fn streamed(
    write: impl FnOnce(&mut BufWriter<ChunkWriter>) -> Result<()> + Send + 'static,
) -> Body {
    let (sender, receiver) = mpsc::channel(CHUNKS);
    tokio::task::spawn_blocking(move || {
        let mut out = BufWriter::with_capacity(CHUNK_BYTES, ChunkWriter(sender.clone()));
        let written = write(&mut out).map_err(io::Error::other);
        if let Err(error) = written.and_then(|()| out.flush()) {
            let _ = sender.blocking_send(Err(error));
        }
    });
    Body::from_stream(stream::unfold(receiver, |mut receiver| async {
        receiver.recv().await.map(|chunk| (chunk, receiver))
    }))
}

/// Sends what is written to it; blocks while the reader is behind.
struct ChunkWriter(mpsc::Sender<io::Result<Bytes>>);

impl Write for ChunkWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0
            .blocking_send(Ok(Bytes::copy_from_slice(bytes)))
            .map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "the reader went away"))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
