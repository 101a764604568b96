//! `/backups/prune`.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::error::Problem;
use super::extract::OperationBody;
use super::jobs::{Asked, JobResponse, KeyHeader, WaitQuery, dry_run, run_job};
use super::outcomes::PrunePlanResponse;
use super::tags::BACKUPS;
use crate::app::{App, verbs};
use crate::error::Result;
use crate::operations::prune::Rules;
use crate::progress::Progress;

/// How many backups to keep by each rule. Periods are UTC and count only where they have a backup.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = PruneRequest)]
pub(super) struct PruneBody {
    /// The newest.
    #[schema(example = 3)]
    #[serde(skip_serializing_if = "Option::is_none")]
    keep_last: Option<u32>,
    /// The newest of an hour.
    #[serde(skip_serializing_if = "Option::is_none")]
    keep_hourly: Option<u32>,
    /// The newest of a day.
    #[schema(example = 7)]
    #[serde(skip_serializing_if = "Option::is_none")]
    keep_daily: Option<u32>,
    /// The newest of an ISO week.
    #[schema(example = 4)]
    #[serde(skip_serializing_if = "Option::is_none")]
    keep_weekly: Option<u32>,
    /// The newest of a month.
    #[serde(skip_serializing_if = "Option::is_none")]
    keep_monthly: Option<u32>,
    /// Only say what would happen.
    #[serde(default)]
    #[schema(example = true)]
    dry_run: bool,
}

impl PruneBody {
    fn rules(&self) -> Rules {
        Rules {
            last: self.keep_last.unwrap_or(0),
            hourly: self.keep_hourly.unwrap_or(0),
            daily: self.keep_daily.unwrap_or(0),
            weekly: self.keep_weekly.unwrap_or(0),
            monthly: self.keep_monthly.unwrap_or(0),
        }
    }
}

/// A job, or the plan of a dry run.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[expect(
    dead_code,
    clippy::large_enum_variant,
    reason = "it describes an answer"
)]
enum PruneAnswer {
    Job(JobResponse),
    Plan(PrunePlanResponse),
}

/// Prune backups
///
/// Keeps what any rule keeps, every pinned backup and the newest one that was verified and found sound;
/// the rest goes, and what only it needed. Backups of chosen collections are compared with those of the
/// same collections, backups of everything with each other. The result is `{"kept": [{"id", "reasons"}],
/// "deleted", "freed_bytes", "pending_bytes"}`; with `dry_run` that is the answer, and nothing happens.
#[utoipa::path(post, path = "/backups/prune", tag = BACKUPS, params(WaitQuery, KeyHeader),
    request_body(content = PruneBody, example = json!({"keep_last": 3, "keep_daily": 7, "dry_run": true})),
    responses(
        (status = 200, description = "Pruned (with `wait`), or the plan (with `dry_run`)", body = PruneAnswer),
        (status = 202, description = "Queued", body = JobResponse),
        (status = 409, description = "Another pruning is under way, or the repository is in use for too long"),
        (status = 422, description = "A bad request, no rule, or a damaged manifest; nothing was deleted"),
        (status = 429, description = "Too many jobs are waiting"),
    ))]
pub(super) async fn prune_backups(
    State(app): State<App>,
    asked: Asked,
    OperationBody(body): OperationBody<PruneBody>,
) -> Result<Response, Problem> {
    let rules = body.rules();
    if body.dry_run {
        let preview = move |app: &App, _: &Progress| {
            verbs::prune::preview(app, rules).map(PrunePlanResponse::from)
        };
        return dry_run(&app, preview).await;
    }
    let job = asked.job(json!(body));
    let plan = move |app: &App| verbs::prune::plan(app, rules);
    run_job(&app, job, StatusCode::OK, plan).await
}
