//! `/health` and the deep checks.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::error::Problem;
use super::extract::{OperationPath, OperationQuery};
use super::names::{default_database, default_tenant};
use super::tags::HEALTH;
use crate::access::Caller;
use crate::app::App;
use crate::health::deep::DeepCheck;
use crate::health::{Check, Report, Sample, Status};
use crate::model::names::CollectionName;

/// The outcome of all checks.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Health)]
pub(super) struct HealthResponse {
    /// The worst of the checks.
    #[schema(value_type = HealthStatus, example = "pass")]
    status: &'static str,
    version: &'static str,
    uptime_ms: u64,
    /// Observations by name, such as `storage:disk_free`.
    checks: BTreeMap<String, Vec<CheckResponse>>,
}

/// How something is.
#[derive(ToSchema)]
#[serde(rename_all = "snake_case")]
#[expect(dead_code, reason = "it describes the words of a status")]
enum HealthStatus {
    Pass,
    Warn,
    Fail,
}

/// Whether requests are taken.
#[derive(ToSchema)]
#[expect(dead_code, reason = "it describes an answer")]
struct ProbeResponse {
    status: HealthStatus,
}

/// One observation.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Check)]
pub(super) struct CheckResponse {
    #[schema(value_type = HealthStatus)]
    status: &'static str,
    #[schema(value_type = Value)]
    observed_value: Value,
    observed_unit: &'static str,
    time: DateTime<Utc>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<String>,
}

impl From<Check> for CheckResponse {
    fn from(check: Check) -> Self {
        Self {
            status: check.status.word(),
            observed_value: check.observed_value,
            observed_unit: check.observed_unit,
            time: check.time,
            output: check.output,
        }
    }
}

fn answer(app: &App, report: Report) -> Response {
    let status = report.status();
    let body = HealthResponse {
        status: status.word(),
        version: env!("CARGO_PKG_VERSION"),
        uptime_ms: u64::try_from(app.uptime().as_millis()).unwrap_or(u64::MAX),
        checks: report
            .checks
            .into_iter()
            .map(|(name, checks)| (name, checks.into_iter().map(CheckResponse::from).collect()))
            .collect(),
    };
    health_json((code(status), Json(body)).into_response())
}

fn code(status: Status) -> StatusCode {
    match status {
        Status::Pass | Status::Warn => StatusCode::OK,
        Status::Fail => StatusCode::SERVICE_UNAVAILABLE,
    }
}

fn health_json(mut response: Response) -> Response {
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/health+json"),
    );
    response
}

/// Health at a glance
///
/// For liveness probes and people: from memory, with the time of each observation. The disk is looked at in the
/// background, the last results of deep checks are shown (a failed one makes the status `fail`). 503 only where
/// a restart could help. Where keys are configured, strangers and keys that are limited to a tenant see the
/// status alone.
#[utoipa::path(get, path = "/health", tag = HEALTH,
    responses(
        (status = 200, description = "pass, warn, or a failure that no restart could mend", body = HealthResponse, content_type = "application/health+json"),
        (status = 503, description = "fail: no writes are taken after a storage fault", body = HealthResponse, content_type = "application/health+json"),
    ))]
pub(super) async fn get_health(
    State(app): State<App>,
    caller: Option<Extension<Caller>>,
) -> Response {
    let report = app.health();
    let sees_all = caller.is_some_and(|Extension(caller)| caller.scope.is_none());
    let mut response = if sees_all {
        answer(&app, report)
    } else {
        let status = report.status();
        let body = Json(serde_json::json!({"status": status.word()}));
        health_json((code(status), body).into_response())
    };
    // A full disk is not mended by a restart.
    if app.engine().fault().is_none() {
        *response.status_mut() = StatusCode::OK;
    }
    response
}

/// Liveness
#[utoipa::path(get, path = "/health/live", tag = HEALTH,
    responses((status = 200, description = "The process answers", body = ProbeResponse, content_type = "application/health+json")))]
pub(super) async fn get_liveness() -> Response {
    health_json(Json(serde_json::json!({"status": "pass"})).into_response())
}

/// Readiness
///
/// 503 while draining and after a storage fault.
#[utoipa::path(get, path = "/health/ready", tag = HEALTH,
    responses(
        (status = 200, description = "Takes requests", body = ProbeResponse, content_type = "application/health+json"),
        (status = 503, description = "Drains, or takes no writes after a storage fault", body = ProbeResponse, content_type = "application/health+json"),
    ))]
pub(super) async fn get_readiness(State(app): State<App>) -> Response {
    let ready = !app.is_draining() && app.engine().fault().is_none();
    let (code, status) = if ready {
        (StatusCode::OK, "pass")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "fail")
    };
    health_json((code, Json(serde_json::json!({"status": status}))).into_response())
}

async fn deep_check(app: &App, check: DeepCheck) -> Result<Response, Problem> {
    let report = app.deep_check(check).await?;
    Ok(answer(app, report))
}

/// Check the disk
///
/// The data directory and its permissions; a file really written, synced, read back and removed, and how long
/// that took; free room against two floors; the repository reachable, with its room where it is a directory.
#[utoipa::path(get, path = "/health/storage", tag = HEALTH,
    responses(
        (status = 200, description = "pass or warn", body = HealthResponse, content_type = "application/health+json"),
        (status = 503, description = "fail", body = HealthResponse, content_type = "application/health+json"),
    ))]
pub(super) async fn check_storage(State(app): State<App>) -> Result<Response, Problem> {
    deep_check(&app, DeepCheck::Storage).await
}

/// Check all collections
///
/// Every record read and hashed, ids, records and memory compared in both directions, digests recomputed as of one
/// moment while writes go on. Who asks while it runs shares the run; past `health.deep_timeout_ms` the answer is
/// `warn` with output `running`, how far it is, and the last result.
#[utoipa::path(get, path = "/health/collections", tag = HEALTH,
    responses(
        (status = 200, description = "pass or warn", body = HealthResponse, content_type = "application/health+json"),
        (status = 503, description = "fail; damage is named by id", body = HealthResponse, content_type = "application/health+json"),
    ))]
pub(super) async fn check_collections(State(app): State<App>) -> Result<Response, Problem> {
    deep_check(&app, DeepCheck::Collections(None)).await
}

/// Where a named collection is.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct NamespaceQuery {
    #[serde(default = "default_tenant")]
    #[param(required = false)]
    tenant: String,
    #[serde(default = "default_database")]
    #[param(required = false)]
    database: String,
}

/// Check one collection
#[utoipa::path(get, path = "/health/collections/{name}", tag = HEALTH,
    params(("name" = String, Path, example = "articles"), NamespaceQuery),
    responses(
        (status = 200, description = "pass or warn", body = HealthResponse, content_type = "application/health+json"),
        (status = 404, description = "No such collection"),
        (status = 503, description = "fail; damage is named by id", body = HealthResponse, content_type = "application/health+json"),
    ))]
pub(super) async fn check_collection(
    State(app): State<App>,
    OperationPath(name): OperationPath,
    OperationQuery(namespace): OperationQuery<NamespaceQuery>,
) -> Result<Response, Problem> {
    let name = CollectionName::new(namespace.tenant, namespace.database, name);
    let id = app.engine().collection_by_name(&name)?.descriptor.id;
    deep_check(&app, DeepCheck::Collections(Some(id))).await
}

/// What to sample.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct EmbeddingsQuery {
    /// Only the collection of this name.
    collection: Option<String>,
    /// Records per collection, or `all`; `health.embedding_sample` without.
    #[param(pattern = "^(all|[1-9][0-9]*)$", example = "all")]
    sample: Option<String>,
    #[serde(default = "default_tenant")]
    #[param(required = false)]
    tenant: String,
    #[serde(default = "default_database")]
    #[param(required = false)]
    database: String,
}

/// Check embeddings
///
/// Dimension, finite, zero norm, duplicates, spread of norms; a sample found again by the search. `sample=all`
/// looks at every record, page by page.
#[utoipa::path(get, path = "/health/embeddings", tag = HEALTH, params(EmbeddingsQuery),
    responses(
        (status = 200, description = "pass or warn", body = HealthResponse, content_type = "application/health+json"),
        (status = 404, description = "No such collection"),
        (status = 422, description = "A bad parameter"),
        (status = 503, description = "fail", body = HealthResponse, content_type = "application/health+json"),
    ))]
pub(super) async fn check_embeddings(
    State(app): State<App>,
    OperationQuery(query): OperationQuery<EmbeddingsQuery>,
) -> Result<Response, Problem> {
    let sample = match query.sample {
        Some(sample) => sample.parse()?,
        None => Sample::Records(app.config().health.embedding_sample),
    };
    let collection = query
        .collection
        .map(|name| CollectionName::new(query.tenant, query.database, name))
        .map(|name| app.engine().collection_by_name(&name))
        .transpose()?
        .map(|info| info.descriptor.id);
    deep_check(&app, DeepCheck::Embeddings(collection, sample)).await
}
