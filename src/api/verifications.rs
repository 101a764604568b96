//! `/backups/{id}/verify`.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use chrono::Utc;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::error::Problem;
use super::extract::{OperationBody, OperationPath, OperationQuery};
use super::jobs::{JobResponse, WaitQuery, run_job};
use super::openapi::BACKUPS;
use crate::app::App;
use crate::error::{Kind, Result};
use crate::jobs::JobKind;
use crate::operations::verify;
use crate::progress::Progress;
use crate::repository::format::VerificationLevel;

/// How to verify.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = VerifyRequest)]
pub(super) struct VerifyBody {
    /// `manifest`: its hash, and every pack is there. `checksums`: every stored byte. `records`: every
    /// record hashed, count, digest and order compared.
    #[serde(default)]
    #[schema(value_type = String, default = "records", example = "records")]
    level: VerificationLevel,
}

/// Verify a backup
///
/// Without restoring it. The result is `{"level", "ok", "checked_packs", "checked_records",
/// "checked_bytes", "problems"}`; damage fails the job, with the result filled. The newest result stands in
/// the backup.
#[utoipa::path(post, path = "/backups/{id}/verify", tag = BACKUPS,
    params(("id" = String, Path, example = "backup_2026-11-23_10-30-00"), WaitQuery),
    request_body(content = VerifyBody, example = json!({"level": "records"})),
    responses(
        (status = 200, description = "Sound (with `wait`)", body = JobResponse),
        (status = 202, description = "Queued", body = JobResponse),
        (status = 404, description = "No such backup"),
        (status = 422, description = "Damaged (with `wait`), or a bad request"),
        (status = 429, description = "Too many jobs are waiting"),
    ))]
pub(super) async fn verify_backup(
    State(app): State<App>,
    OperationPath(id): OperationPath,
    OperationQuery(wait): OperationQuery<WaitQuery>,
    OperationBody(body): OperationBody<VerifyBody>,
) -> Result<Response, Problem> {
    let asked = id.clone();
    let repository = app
        .blocking(move |app| {
            let repository = app.repository()?;
            match repository.backup(&asked) {
                // A damaged manifest is what a verification is to find.
                Err(error) if error.kind() != Kind::BackupCorrupt => Err(error),
                _ => Ok(repository),
            }
        })
        .await?;
    let request = json!({"backup": id, "level": body.level});
    let work = Box::new(move |progress: &Progress| {
        let outcome = verify::execute(&repository, &id, body.level, Utc::now(), progress)?;
        if outcome.ok {
            Ok(json!(outcome))
        } else {
            Err(verify::failure(&id, &outcome))
        }
    });
    run_job(
        &app,
        JobKind::Verification,
        request,
        &wait,
        StatusCode::OK,
        work,
    )
    .await
}
