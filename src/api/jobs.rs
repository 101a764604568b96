//! `/jobs`, and the way every long verb answers.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::error::{Problem, job_problem, status_of};
use super::extract::{OperationPath, OperationQuery};
use super::openapi::JOBS;
use crate::app::App;
use crate::error::{Error, Result};
use crate::jobs::{JobKind, JobProblem, JobRecord, JobState, Work};

/// A job.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Job)]
pub(super) struct JobResponse {
    id: String,
    /// `backup`, `restore`, `migration`, `compaction` or `verification`.
    #[schema(value_type = String, example = "backup")]
    kind: JobKind,
    /// `queued`, `running`, `succeeded`, `failed`, `canceled` or `interrupted`.
    #[schema(value_type = String, example = "succeeded")]
    state: JobState,
    /// What is or was being done.
    phase: String,
    progress: JobProgress,
    /// Whether a cancel would have an effect.
    cancellable: bool,
    created_at: DateTime<Utc>,
    started_at: Option<DateTime<Utc>>,
    finished_at: Option<DateTime<Utc>>,
    /// What was asked for.
    #[schema(value_type = Object)]
    request: Value,
    /// What came out.
    #[schema(value_type = Option<Object>)]
    result: Option<Value>,
    /// Why it did not succeed.
    #[schema(value_type = Option<Object>)]
    problem: Option<Value>,
}

/// How far a job is.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct JobProgress {
    done: u64,
    total: u64,
    /// `records`
    unit: &'static str,
    bytes_done: u64,
}

impl From<JobRecord> for JobResponse {
    fn from(record: JobRecord) -> Self {
        Self {
            id: record.id,
            kind: record.kind,
            state: record.state,
            phase: record.reading.phase,
            progress: JobProgress {
                done: record.reading.done,
                total: record.reading.total,
                unit: "records",
                bytes_done: record.reading.bytes_done,
            },
            cancellable: record.cancellable,
            created_at: record.created_at,
            started_at: record.started_at,
            finished_at: record.finished_at,
            request: record.request,
            result: record.result,
            problem: record.problem.as_ref().map(job_problem),
        }
    }
}

/// Whether to wait for the end.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct WaitQuery {
    /// Answer when the job ends (at most `jobs.wait_timeout_ms`) instead of at once.
    #[serde(default)]
    #[param(example = true)]
    wait: bool,
}

/// Queues the work and answers as every long verb does: 202 with the job, or with `wait` its end, where
/// success has the given status and a failure the status of its problem.
pub(super) async fn run_job(
    app: &App,
    kind: JobKind,
    request: Value,
    wait: &WaitQuery,
    success: StatusCode,
    work: Work,
) -> Result<Response, Problem> {
    let job = app
        .blocking(move |app| app.jobs().submit(kind, request, work))
        .await?;
    let timeout = Duration::from_millis(app.config().jobs.wait_timeout_ms);
    let job = if wait.wait {
        app.jobs().wait(&job.id, timeout).await?
    } else {
        job
    };
    let location = format!("/jobs/{}", job.id);
    let (status, mut response) = match (job.state.is_final(), &job.problem) {
        (true, Some(problem)) => (status_of(problem.kind), job_failure(job.clone(), problem)),
        (is_final, _) => {
            let status = if is_final {
                success
            } else {
                StatusCode::ACCEPTED
            };
            (
                status,
                (status, Json(JobResponse::from(job))).into_response(),
            )
        }
    };
    let headers = response.headers_mut();
    if let Ok(location) = HeaderValue::from_str(&location) {
        headers.insert(header::LOCATION, location);
    }
    if status == StatusCode::ACCEPTED {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    Ok(response)
}

/// The answer of a job that failed while it was waited for: its problem, with the job beside it.
fn job_failure(job: JobRecord, problem: &JobProblem) -> Response {
    let mut body = job_problem(problem);
    if let Some(members) = body.as_object_mut() {
        members.insert("job".to_owned(), serde_json::json!(JobResponse::from(job)));
    }
    let content_type = [(header::CONTENT_TYPE, "application/problem+json")];
    (status_of(problem.kind), content_type, Json(body)).into_response()
}

/// Which jobs to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListJobsQuery {
    /// Only in this state.
    #[param(value_type = Option<String>)]
    state: Option<JobState>,
    /// Only of this kind.
    #[param(value_type = Option<String>)]
    kind: Option<JobKind>,
    /// At most this many, 1 to 1000; 100 without.
    limit: Option<usize>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// A page of jobs.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct JobsResponse {
    /// Newest first.
    jobs: Vec<JobResponse>,
    /// Where the next page begins; null on the last.
    next_cursor: Option<String>,
}

const MAX_PAGE: usize = 1_000;
const DEFAULT_PAGE: usize = 100;

/// The size of a page.
///
/// # Errors
/// `Unprocessable` unless it is 1 to 1000.
pub(super) fn page_limit(asked: Option<usize>) -> Result<usize> {
    match asked.unwrap_or(DEFAULT_PAGE) {
        limit @ 1..=MAX_PAGE => Ok(limit),
        _ => Err(Error::unprocessable(format!(
            "limit must be 1 to {MAX_PAGE}"
        ))),
    }
}

/// List jobs, newest first
#[utoipa::path(get, path = "/jobs", tag = JOBS, params(ListJobsQuery),
    responses((status = 200, body = JobsResponse), (status = 422, description = "A bad parameter")))]
pub(super) async fn list_jobs(
    State(app): State<App>,
    OperationQuery(query): OperationQuery<ListJobsQuery>,
) -> Result<Json<JobsResponse>, Problem> {
    let limit = page_limit(query.limit)?;
    let mut jobs = app
        .jobs()
        .list(query.state, query.kind, query.cursor.as_deref(), limit + 1);
    let more = jobs.len() > limit;
    jobs.truncate(limit);
    Ok(Json(JobsResponse {
        next_cursor: jobs.last().filter(|_| more).map(|job| job.id.clone()),
        jobs: jobs.into_iter().map(JobResponse::from).collect(),
    }))
}

/// Get a job
#[utoipa::path(get, path = "/jobs/{id}", tag = JOBS, params(("id" = String, Path)),
    responses((status = 200, body = JobResponse), (status = 404, description = "No such job")))]
pub(super) async fn get_job(
    State(app): State<App>,
    OperationPath(id): OperationPath,
) -> Result<Json<JobResponse>, Problem> {
    Ok(Json(app.jobs().get(&id)?.into()))
}

/// Cancel a job
#[utoipa::path(post, path = "/jobs/{id}/cancel", tag = JOBS, params(("id" = String, Path)),
    responses(
        (status = 200, body = JobResponse),
        (status = 404, description = "No such job"),
        (status = 409, description = "It is over, or past the point of no return"),
    ))]
pub(super) async fn cancel_job(
    State(app): State<App>,
    OperationPath(id): OperationPath,
) -> Result<Json<JobResponse>, Problem> {
    let job = app.blocking(move |app| app.jobs().cancel(&id)).await?;
    Ok(Json(job.into()))
}
