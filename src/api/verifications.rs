//! `/backups/{id}/verify`.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::error::Problem;
use super::extract::{OperationBody, OperationPath};
use super::jobs::{Asked, JobResponse, KeyHeader, WaitQuery, run_job};
use super::tags::{BACKUPS, SELECTOR};
use crate::app::App;
use crate::app::verbs;
use crate::app::verbs::verification::VerificationRequest;
use crate::error::{Error, Result};
use crate::model::selector::Selector;
use crate::repository::format::VerificationLevel;

/// How to verify.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = VerifyRequest)]
pub(super) struct VerifyBody {
    /// `manifest`: its hash, and every pack is there. `checksums`: every stored byte. `records`: every
    /// record hashed, count, digest and order compared.
    #[serde(default)]
    #[schema(value_type = AskedLevel, default = "records", example = "records")]
    level: VerificationLevel,
}

/// How deep to look.
#[derive(ToSchema)]
#[serde(rename_all = "snake_case")]
#[expect(dead_code, reason = "it describes the levels that may be asked for")]
enum AskedLevel {
    Manifest,
    Checksums,
    Records,
}

/// Verify a backup
///
/// Without restoring it. The result is `{"backup", "level", "ok", "checked_packs", "checked_records",
/// "checked_bytes", "problems"}`; damage fails the job, with the result filled. The newest result stands in
/// the backup.
#[utoipa::path(post, path = "/backups/{id}/verify", tag = BACKUPS,
    params(("id" = String, Path, description = SELECTOR, example = "latest"), WaitQuery, KeyHeader),
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
    asked: Asked,
    OperationBody(body): OperationBody<VerifyBody>,
) -> Result<Response, Problem> {
    if body.level == VerificationLevel::Drill {
        let refused =
            "level must be \"manifest\", \"checksums\" or \"records\"; for a drill: POST /drills";
        return Err(Error::unprocessable(refused).into());
    }
    let (backup, level) = (Selector::parse(&id)?, body.level);
    let job = asked.job(json!({"backup": backup, "level": level}));
    let request = VerificationRequest { backup, level };
    let plan = move |app: &App| verbs::verification::plan(app, &request);
    run_job(&app, job, StatusCode::OK, plan).await
}
