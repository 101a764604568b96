//! `/drills`.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::error::Problem;
use super::extract::OperationBody;
use super::jobs::{Asked, JobResponse, KeyHeader, WaitQuery, run_job};
use super::tags::RESTORE;
use crate::app::{App, verbs};
use crate::error::Result;
use crate::model::selector::Selector;

/// Which backup to rehearse with.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = DrillRequest)]
pub(super) struct DrillBody {
    /// A backup's id, `latest`, or `before:` and an RFC 3339 time.
    #[serde(default)]
    #[schema(value_type = String, default = "latest", example = "latest")]
    backup: Selector,
}

/// Rehearse a restore
///
/// Every collection of the backup is restored aside, compared by digest, count and definition, asked for nearest
/// neighbours that are compared with brute force, and dropped. The result is `{"backup", "ok", "collections",
/// "checked_records", "queries", "restore_ms", "first_query_ms", "problems"}`; it stands in the backup as its
/// verification of level `drill`. Nothing checked is never ok.
#[utoipa::path(post, path = "/drills", tag = RESTORE, params(WaitQuery, KeyHeader),
    request_body(content = DrillBody, example = json!({"backup": "latest"})),
    responses(
        (status = 200, description = "It went well (with `wait`)", body = JobResponse),
        (status = 202, description = "Queued", body = JobResponse),
        (status = 404, description = "No such backup"),
        (status = 422, description = "It did not go well (with `wait`), a damaged manifest, or a bad request"),
        (status = 429, description = "Too many jobs are waiting"),
        (status = 507, description = "Not enough room on the disk"),
    ))]
pub(super) async fn create_drill(
    State(app): State<App>,
    asked: Asked,
    OperationBody(body): OperationBody<DrillBody>,
) -> Result<Response, Problem> {
    let job = asked.job(json!(body));
    let plan = move |app: &App| verbs::drill::plan(app, &body.backup);
    run_job(&app, job, StatusCode::OK, plan).await
}
