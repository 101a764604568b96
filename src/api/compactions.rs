//! `/compactions`.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::error::Problem;
use super::extract::OperationBody;
use super::jobs::{Asked, JobResponse, KeyHeader, WaitQuery, run_job};
use super::tags::COMPACTIONS;
use crate::app::{App, verbs};
use crate::error::Result;

/// Nothing to choose.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = CompactionRequest)]
pub(super) struct CompactionBody {}

/// Compact the store
///
/// Copies it into a fresh directory while it serves, compares the copy byte for byte, and puts it in the
/// store's place. The result is `{"before_bytes", "after_bytes", "live_bytes", "duration_ms"}`.
#[utoipa::path(post, path = "/compactions", tag = COMPACTIONS, params(WaitQuery, KeyHeader),
    request_body(content = CompactionBody, example = json!({})),
    responses(
        (status = 200, description = "Compacted (with `wait`)", body = JobResponse),
        (status = 202, description = "Queued", body = JobResponse),
        (status = 409, description = "A compaction runs"),
        (status = 422, description = "A bad request"),
        (status = 429, description = "Too many jobs are waiting"),
        (status = 507, description = "Not enough room on the disk"),
    ))]
pub(super) async fn create_compaction(
    State(app): State<App>,
    asked: Asked,
    OperationBody(body): OperationBody<CompactionBody>,
) -> Result<Response, Problem> {
    let job = asked.job(json!(body));
    run_job(&app, job, StatusCode::OK, verbs::compaction::plan).await
}
