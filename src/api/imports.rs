//! `/backups/import`: an upload that goes to a file while it arrives.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{FromRequestParts as _, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use serde::Deserialize;
use serde_json::json;
use tempfile::TempPath;
use tokio::fs::File;
use tokio::io::AsyncWriteExt as _;
use utoipa::IntoParams;

use super::bodies::BodyDeadline;
use super::error::Problem;
use super::export::{ExportFormat, ExportedDocument};
use super::extract::OperationQuery;
use super::jobs::{Asked, JobResponse, KeyHeader, run_job};
use super::tags::BACKUPS;
use crate::app::App;
use crate::app::verbs::{self, import::ImportRequest};
use crate::error::{Error, Kind, Result};
use crate::operations::import::DocumentFormat;

/// Received bytes after which the room on the disk is looked at again.
const ROOM_STEP: u64 = 16 * 1024 * 1024;

/// How the document is written.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ImportQuery {
    /// `json` or `jsonl`; without, what the document looks like.
    #[param(value_type = Option<ExportFormat>, inline, example = "json")]
    format: Option<ExportFormat>,
    /// Answer when the job ends (at most `jobs.wait_timeout_ms`) instead of at once.
    #[serde(default, deserialize_with = "super::jobs::wait")]
    #[param(example = true)]
    wait: bool,
}

impl From<ExportFormat> for DocumentFormat {
    fn from(format: ExportFormat) -> Self {
        match format {
            ExportFormat::Json => Self::Json,
            ExportFormat::Jsonl => Self::JsonLines,
        }
    }
}

/// A document that has arrived whole.
struct Received {
    file_received: TempPath,
    bytes: u64,
    hash: String,
}

/// Takes a document in.
async fn receive(headers: &HeaderMap, body: Body, app: &App) -> Result<Received> {
    check_media_type(headers)?;
    check_encoding(headers)?;
    let announced = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    let limit = app.config().repository.max_import_bytes;
    let too_large = || {
        Error::new(
            Kind::TooLarge,
            format!("the document has more than {limit} bytes (repository.max_import_bytes)"),
        )
    };
    if announced.is_some_and(|announced| announced > limit) {
        return Err(too_large());
    }
    let file_received = app
        .blocking(move |app| app.receive_into_file(announced.unwrap_or(0)))
        .await?;
    let unwritable = |error| Error::file("the document cannot be kept", error);
    let mut file = File::create(&file_received).await.map_err(unwritable)?;
    let mut hasher = blake3::Hasher::new();
    let (mut bytes, mut looked) = (0_u64, 0_u64);
    let deadline = BodyDeadline::new(&app.config().server);
    let mut body = body.into_data_stream();
    while let Some(chunk) = deadline.next(&mut body, bytes).await? {
        bytes += chunk.len() as u64;
        if bytes > limit {
            return Err(too_large());
        }
        if bytes - looked >= ROOM_STEP {
            looked = bytes;
            app.blocking(|app| app.check_room_for_upload(ROOM_STEP))
                .await?;
        }
        hasher.update(&chunk);
        file.write_all(&chunk).await.map_err(unwritable)?;
    }
    file.flush().await.map_err(unwritable)?;
    if bytes == 0 {
        return Err(Error::invalid("the document is empty"));
    }
    Ok(Received {
        file_received,
        bytes,
        hash: hasher.finalize().to_hex().to_string(),
    })
}

/// What the document is packed by, it says itself by how it begins; the header only has to name something that is
/// unpacked here.
fn check_encoding(headers: &HeaderMap) -> Result<()> {
    const KNOWN: [&str; 5] = ["identity", "gzip", "x-gzip", "deflate", "zstd"];
    for value in headers.get_all(header::CONTENT_ENCODING) {
        let text = value.to_str().unwrap_or_default().to_ascii_lowercase();
        if let Some(unknown) = text
            .split(',')
            .map(str::trim)
            .find(|coding| !KNOWN.contains(coding))
        {
            return Err(Error::new(
                Kind::UnsupportedMediaType,
                format!(
                    "Content-Encoding: {unknown:?} is not unpacked here: gzip, deflate or zstd"
                ),
            ));
        }
    }
    Ok(())
}

/// JSON, or lines of it.
fn check_media_type(headers: &HeaderMap) -> Result<()> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else {
        return Ok(());
    };
    let text = value.to_str().unwrap_or_default().to_ascii_lowercase();
    let essence = text.split(';').next().unwrap_or_default().trim();
    match essence {
        "application/json"
        | "application/x-ndjson"
        | "application/jsonl"
        | "application/x-jsonlines"
        // What is packed says so by how it begins.
        | "application/gzip"
        | "application/zstd" => Ok(()),
        _ => Err(Error::new(
            Kind::UnsupportedMediaType,
            "Expected request with `Content-Type: application/json` or `application/x-ndjson`",
        )),
    }
}

/// Import an export as a backup
///
/// The document of `GET /backups/{id}/export`, in either form. It is taken in as a stream, checked record by
/// record, and refused with the position of the first thing that is wrong: an id that stands twice, a wrong
/// dimension, a number that is not finite, a digest that the records do not have. It may be packed by gzip, deflate
/// (zlib) or zstd, and begin with a byte order mark.
#[utoipa::path(post, path = "/backups/import", tag = BACKUPS, params(ImportQuery, KeyHeader),
    request_body(description = "An export, as JSON or JSON Lines", content(
        (ExportedDocument = "application/json", example = json!({"format": "vectorkeep-export", "version": 1, "collections": [{"name": "articles", "records":
            [{"id": "a", "embedding": [0.1, 0.2, 0.3], "document": "a text", "uri": null, "metadata": {"topic": "x"}}]}]})),
        (String = "application/x-ndjson"),
    )),
    responses(
        (status = 201, description = "Imported; `result` is the backup (with `wait`)", body = JobResponse),
        (status = 202, description = "Received and queued", body = JobResponse),
        (status = 413, description = "Over `repository.max_import_bytes`"),
        (status = 422, description = "Not such a document (with `wait`; else the job fails)"),
        (status = 429, description = "Too many jobs are waiting"),
        (status = 507, description = "Not enough room on the disk"),
    ))]
pub(super) async fn import_backup(
    State(app): State<App>,
    request: Request,
) -> Result<Response, Problem> {
    let (mut parts, body) = request.into_parts();
    // What is wrong with the query is said before the document is sent.
    let OperationQuery(query) =
        OperationQuery::<ImportQuery>::from_request_parts(&mut parts, &app).await?;
    let asked = Asked::of(&parts, query.wait)?;
    let place = Arc::clone(app.uploads()).try_acquire_owned();
    let too_many = "too many documents are being received (repository.max_uploads)";
    let place = place.map_err(|_| Error::new(Kind::Overloaded, too_many))?;
    let received = receive(&parts.headers, body, &app).await?;
    drop(place);
    let job = asked.job(json!({
        "format": query.format,
        "bytes": received.bytes,
        "blake3": received.hash,
    }));
    let request = ImportRequest {
        document: received.file_received,
        bytes: received.bytes,
        format: query.format.map(DocumentFormat::from),
    };
    let plan = move |app: &App| verbs::import::plan(app, request);
    run_job(&app, job, StatusCode::CREATED, plan).await
}
