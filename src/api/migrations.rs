//! `/migrate`.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::backups::{checked, default_database, default_tenant};
use super::error::Problem;
use super::extract::{Object, OperationBody};
use super::jobs::{Asked, JobResponse, KeyHeader, Planned, WaitQuery, collection_claim, run_job};
use super::openapi::MIGRATE;
use crate::app::App;
use crate::error::{Error, Result};
use crate::jobs::JobKind;
use crate::model::names::CollectionName;
use crate::operations::conflict::OnConflict;
use crate::operations::migrate::{self, LOCAL, MigrateOutcome, MigrateRequest};
use crate::progress::Progress;

fn local() -> String {
    LOCAL.to_owned()
}

/// One end of a migration.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct MigrateEnd {
    /// `local`: this service.
    #[serde(default = "local")]
    #[schema(default = "local")]
    environment: String,
    #[serde(default = "default_tenant")]
    #[schema(default = "default_tenant")]
    tenant: String,
    #[serde(default = "default_database")]
    #[schema(default = "default_database")]
    database: String,
    #[schema(example = "articles")]
    collection: String,
}

impl MigrateEnd {
    fn name(self) -> Result<CollectionName> {
        if self.environment != LOCAL {
            return Err(Error::not_found(format!(
                "there is no environment {:?}; see GET /environments",
                self.environment
            )));
        }
        Ok(CollectionName::new(
            self.tenant,
            self.database,
            self.collection,
        ))
    }
}

/// What to migrate where.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = MigrateRequest)]
pub(super) struct MigrateBody {
    #[schema(value_type = MigrateEnd)]
    source: Object<MigrateEnd>,
    #[schema(value_type = MigrateEnd)]
    target: Object<MigrateEnd>,
    /// Where the target exists: `fail` (409, nothing changes), `rename` or `replace`.
    #[serde(default)]
    #[schema(value_type = String, default = "fail", example = "fail")]
    on_conflict: OnConflict,
}

/// The job's result.
fn result(outcome: &MigrateOutcome) -> Value {
    let end = |name: &CollectionName| {
        json!({
            "environment": LOCAL,
            "tenant": name.tenant,
            "database": name.database,
            "collection": name.name,
        })
    };
    let per_second = outcome.read.saturating_mul(1_000) / outcome.duration_ms.max(1);
    json!({
        "source": end(&outcome.source),
        "target": end(&outcome.target),
        "action": outcome.action,
        "read": outcome.read,
        "inserted": outcome.inserted,
        "updated": 0,
        "unchanged": 0,
        "skipped": 0,
        "failed": 0,
        "bytes": outcome.bytes,
        "duration_ms": outcome.duration_ms,
        "records_per_second": per_second,
        "source_digest": outcome.source_digest,
        "target_digest": outcome.target_digest,
        "verified": outcome.source_digest == outcome.target_digest,
        "differences": [],
    })
}

/// Migrate a collection
///
/// Copied aside while writes go on, caught up, compared by digest, then made visible in one step.
#[utoipa::path(post, path = "/migrate", tag = MIGRATE, params(WaitQuery, KeyHeader),
    request_body(content = MigrateBody,
        example = json!({"source": {"collection": "articles"}, "target": {"collection": "articles-copy"}})),
    responses(
        (status = 200, description = "Migrated (with `wait`)", body = JobResponse),
        (status = 202, description = "Queued", body = JobResponse),
        (status = 404, description = "No such collection or environment"),
        (status = 409, description = "The target exists; nothing was changed"),
        (status = 422, description = "A bad request"),
        (status = 429, description = "Too many jobs are waiting"),
        (status = 507, description = "Not enough room on the disk"),
    ))]
pub(super) async fn migrate_collection(
    State(app): State<App>,
    asked: Asked,
    OperationBody(body): OperationBody<MigrateBody>,
) -> Result<Response, Problem> {
    let recorded = json!(body);
    let request = MigrateRequest {
        source: body.source.0.name()?,
        target: checked(body.target.0.name()?)?,
        on_conflict: body.on_conflict,
    };
    let verb = asked.verb(JobKind::Migration, recorded);
    run_job(&app, verb, StatusCode::OK, move |app| {
        let plan = migrate::plan(app.engine(), request)?;
        let claim = collection_claim(plan.target());
        let (engine, catch_up) = (app.engine().clone(), app.catch_up());
        let work = Box::new(move |progress: &Progress| {
            migrate::execute(&engine, &plan, catch_up, progress).map(|outcome| result(&outcome))
        });
        Ok(Planned::claiming(work, [claim]))
    })
    .await
}
