//! `/jobs`, and the way every long verb answers.

use std::time::Duration;

use axum::Json;
use axum::extract::{FromRequestParts, State};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use serde::de::{Deserializer, Error as _};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};

use super::error::{Problem, job_problem, status_of};
use super::extract::{OperationPath, OperationQuery};
use super::openapi::words;
use super::outcomes;
use super::running;
use super::tags::JOBS;
use crate::access::Caller;
use crate::app::App;
use crate::app::verbs::{JobRequest, Planned};
use crate::error::{Error, Kind, Result};
use crate::jobs::{JobKind, JobProblem, JobRecord, JobState, RequestKey};
use crate::progress::Progress;

/// A job.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[schema(as = Job)]
pub(super) struct JobResponse {
    id: String,
    /// `backup`, `import`, `verification`, `prune`, `restore`, `migration`, `drill` or `compaction`.
    #[schema(value_type = words::JobKind, example = "backup")]
    kind: JobKind,
    /// `queued`, `running`, `succeeded`, `failed`, `canceled` or `interrupted`.
    #[schema(value_type = words::JobState, example = "succeeded")]
    state: JobState,
    /// What is or was being done.
    phase: String,
    progress: JobProgress,
    /// Whether a cancel would have an effect.
    cancellable: bool,
    /// The name of the key that asked for it; null where the service itself did.
    requested_by: Option<String>,
    /// Whether it was taken up again after a restart.
    resumed: bool,
    created_at: DateTime<Utc>,
    started_at: Option<DateTime<Utc>>,
    finished_at: Option<DateTime<Utc>>,
    /// What was asked for.
    #[schema(value_type = Object)]
    request: Value,
    /// What came out.
    #[schema(value_type = Option<Object>)]
    result: Option<Value>,
    /// Why it did not succeed: the body of an error.
    #[schema(value_type = Option<Object>)]
    problem: Option<Value>,
}

/// How far a job is.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
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
            requested_by: record.requested_by,
            resumed: record.resumed,
            created_at: record.created_at,
            started_at: record.started_at,
            finished_at: record.finished_at,
            request: record.request,
            result: record.result.map(outcomes::shown),
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
    #[serde(default, deserialize_with = "wait")]
    #[param(example = true)]
    pub(super) wait: bool,
}

/// `?wait`, `?wait=1` and `?wait=True` mean `?wait=true`.
///
/// # Errors
/// Where it is neither of these nor the opposite.
pub(super) fn wait<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    let text = String::deserialize(deserializer)?;
    flag(&text).ok_or_else(|| D::Error::custom(format!("wait: {text:?} is neither true nor false")))
}

fn flag(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "" | "1" | "true" => Some(true),
        "0" | "false" => Some(false),
        _ => None,
    }
}

/// Whether a part of a query string asks to wait.
pub(super) fn asks_to_wait(pair: &str) -> bool {
    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
    name == "wait" && flag(value) == Some(true)
}

/// What a caller says beside the body of a long verb.
pub(super) struct Asked {
    wait: bool,
    key: Option<String>,
    path: String,
    caller: Option<String>,
}

/// The caller's name for a request.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "it describes a header; Asked reads it")]
pub(super) struct KeyHeader {
    /// The same key and body answer with the same job, for as long as it is remembered; another body is refused.
    /// 1 to 255 visible ASCII characters.
    #[param(
        rename = "Idempotency-Key",
        min_length = 1,
        max_length = 255,
        pattern = "^[!-~]{1,255}$"
    )]
    idempotency_key: Option<String>,
}

/// Longest `Idempotency-Key`.
const MAX_KEY_BYTES: usize = 255;

impl FromRequestParts<App> for Asked {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let OperationQuery(WaitQuery { wait }) =
            OperationQuery::from_request_parts(parts, app).await?;
        Ok(Self::of(parts, wait)?)
    }
}

impl Asked {
    /// For a route whose query says more than whether to wait.
    ///
    /// # Errors
    /// `Unprocessable` for a key that cannot be.
    pub(super) fn of(parts: &Parts, wait: bool) -> Result<Self> {
        let key = parts.headers.get("idempotency-key").map(|value| {
            value
                .to_str()
                .ok()
                .filter(|key| {
                    (1..=MAX_KEY_BYTES).contains(&key.len())
                        && key.bytes().all(|byte| byte.is_ascii_graphic())
                })
                .map(str::to_owned)
                .ok_or_else(|| {
                    Error::unprocessable(format!(
                        "Idempotency-Key must have 1 to {MAX_KEY_BYTES} visible ASCII characters"
                    ))
                })
        });
        Ok(Self {
            wait,
            key: key.transpose()?,
            path: parts.uri.path().to_owned(),
            caller: parts
                .extensions
                .get::<Caller>()
                .map(|caller| caller.name.to_string()),
        })
    }

    /// A job with this body, or what stands for it. Its record shows long members by their size and hash.
    pub(super) fn job(self, mut shown: Value) -> AskedJob {
        shorten(&mut shown);
        let key = self.key.map(|key| {
            let mut hasher = blake3::Hasher::new();
            hasher.update(self.path.as_bytes());
            hasher.update(&[0]);
            hasher.update(shown.to_string().as_bytes());
            let fingerprint = hasher.finalize().to_hex().to_string();
            RequestKey { key, fingerprint }
        });
        AskedJob {
            request: JobRequest {
                shown,
                key,
                requested_by: self.caller,
            },
            wait: self.wait,
        }
    }
}

/// Longest member of a request, as JSON, that a job's record holds: it is kept for weeks, in memory as well.
const MAX_SHOWN_BYTES: usize = 16_384;

/// Puts size and hash in the place of members that are too long. Equal requests stay equal.
fn shorten(request: &mut Value) {
    let members = request.as_object_mut().into_iter().flatten();
    for (_, member) in members {
        let text = member.to_string();
        if text.len() > MAX_SHOWN_BYTES {
            *member = json!({
                "count": member.as_array().map(Vec::len),
                "bytes": text.len(),
                "blake3": blake3::hash(text.as_bytes()).to_hex().to_string(),
            });
        }
    }
}

/// A job that was asked for.
pub(super) struct AskedJob {
    request: JobRequest,
    wait: bool,
}

/// Submits a job and answers as every long verb does: 202 with the job, or with `wait` its end, where success has the given
/// status and a failure the status of its problem.
pub(super) async fn run_job(
    app: &App,
    asked: AskedJob,
    success: StatusCode,
    plan: impl FnOnce(&App) -> Result<Planned> + Send + 'static,
) -> Result<Response, Problem> {
    let AskedJob { request, wait } = asked;
    let submit = move |app: &App| app.submit(request, plan);
    let job = app.asking_repository(submit).await?;
    let timeout = Duration::from_millis(app.config().jobs.wait_timeout_ms);
    let job = if wait {
        let job = app.jobs().wait(&job.id, timeout).await?;
        whole(app, job).await?
    } else {
        job
    };
    let location = format!("/jobs/{}", job.id);
    // A known job may be over long since; without `wait` it is only shown.
    let (status, mut response) = match &job.problem {
        Some(problem) if wait && job.state.is_final() => {
            (status_of(problem.kind), job_failure(job.clone(), problem))
        }
        _ => {
            let status = match job.state {
                JobState::Succeeded if wait => success,
                _ => StatusCode::ACCEPTED,
            };
            let body = Json(JobResponse::from(job));
            (status, (status, body).into_response())
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

/// The answer of a dry run: what `plan` finds. It is told to stop when nobody waits for it any more.
pub(super) async fn dry_run<T: Serialize + Send + 'static>(
    app: &App,
    plan: impl FnOnce(&App, &Progress) -> Result<T> + Send + 'static,
) -> Result<Response, Problem> {
    let progress = running::progress();
    let plan = app.asking_repository(move |app| plan(app, &progress));
    Ok(Json(plan.await?).into_response())
}

/// The answer of a job that failed while it was waited for: its problem, with the job beside it.
fn job_failure(job: JobRecord, problem: &JobProblem) -> Response {
    let mut body = job_problem(problem);
    if let Some(members) = body.as_object_mut() {
        members.insert("job".to_owned(), json!(JobResponse::from(job)));
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
    #[param(value_type = Option<words::JobState>)]
    state: Option<JobState>,
    /// Only of this kind.
    #[param(value_type = Option<words::JobKind>)]
    kind: Option<JobKind>,
    /// At most this many, 1 to 1000; 100 without.
    #[param(minimum = 1, maximum = 1000)]
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
    if jobs.iter().any(|job| job.result_is_stored) {
        let whole = |app: &App| {
            let jobs = jobs.into_iter().map(|job| app.jobs().whole(job));
            // One that was forgotten meanwhile is left out.
            jobs.filter(|job| !matches!(job, Err(error) if error.kind() == Kind::NotFound))
                .collect::<Result<Vec<_>>>()
        };
        jobs = app.on_thread(whole).await?;
    }
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
    let job = app.jobs().get(&id)?;
    Ok(Json(whole(&app, job).await?.into()))
}

/// A job with its result, for which the store may have to be asked.
pub(super) async fn whole(app: &App, job: JobRecord) -> Result<JobRecord> {
    if job.result_is_stored {
        return app.on_thread(move |app| app.jobs().whole(job)).await;
    }
    Ok(job)
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
    let job = app
        .blocking(move |app| app.jobs().whole(app.jobs().cancel(&id)?))
        .await?;
    Ok(Json(job.into()))
}
