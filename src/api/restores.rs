//! `/restore`.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::backups::{CollectionReference, checked, default_database, default_tenant};
use super::error::Problem;
use super::extract::{Object, OperationBody};
use super::jobs::{Asked, JobResponse, KeyHeader, Planned, WaitQuery, collection_claim, run_job};
use super::openapi::RESTORE;
use crate::app::App;
use crate::error::Result;
use crate::jobs::JobKind;
use crate::model::names::CollectionName;
use crate::operations::conflict::OnConflict;
use crate::operations::restore::{self, RestoreOutcome, RestoreRequest, RestoreSelection};
use crate::progress::Progress;

/// Where a restored collection goes; absent members are as in the backup.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RestoreTarget {
    tenant: Option<String>,
    database: Option<String>,
    #[schema(example = "articles-yesterday")]
    name: Option<String>,
}

/// A collection to restore.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RestoreCollection {
    #[serde(default = "default_tenant")]
    #[schema(default = "default_tenant")]
    tenant: String,
    #[serde(default = "default_database")]
    #[schema(default = "default_database")]
    database: String,
    /// Its name in the backup.
    #[schema(example = "articles")]
    name: String,
    /// Its name here; the same without.
    #[serde(default)]
    #[schema(value_type = RestoreTarget)]
    to: Object<RestoreTarget>,
}

/// What to restore.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = RestoreRequest)]
pub(super) struct RestoreBody {
    /// A backup's id, or `latest`.
    #[schema(example = "latest")]
    backup: String,
    /// These collections; all without.
    #[schema(value_type = Option<Vec<RestoreCollection>>)]
    collections: Option<Vec<Object<RestoreCollection>>>,
    /// Where the target exists: `fail` (409, nothing changes), `rename` or `replace`.
    #[serde(default)]
    #[schema(value_type = String, default = "fail", example = "rename")]
    on_conflict: OnConflict,
}

impl RestoreCollection {
    fn selection(self) -> Result<RestoreSelection> {
        let Object(to) = self.to;
        let to = CollectionName::new(
            to.tenant.unwrap_or_else(|| self.tenant.clone()),
            to.database.unwrap_or_else(|| self.database.clone()),
            to.name.unwrap_or_else(|| self.name.clone()),
        );
        Ok(RestoreSelection {
            name: CollectionName::new(self.tenant, self.database, self.name),
            to: checked(to)?,
        })
    }
}

/// The job's result.
fn result(outcome: &RestoreOutcome) -> Value {
    let collections: Vec<Value> = outcome
        .collections
        .iter()
        .map(|restored| {
            json!({
                "name": restored.name.name,
                "to": CollectionReference::from(&restored.to),
                "action": restored.action,
                "records": restored.records,
                "inserted": restored.records,
                "updated": 0,
                "unchanged": 0,
                "skipped": 0,
                "digest": restored.digest,
                // An outcome is only there when count and digest were found equal.
                "verified": true,
            })
        })
        .collect();
    json!({
        "backup": outcome.backup,
        "created_at": outcome.created_at,
        "collections": collections,
        "duration_ms": outcome.duration_ms,
    })
}

impl From<&CollectionName> for CollectionReference {
    fn from(name: &CollectionName) -> Self {
        Self {
            tenant: name.tenant.clone(),
            database: name.database.clone(),
            name: name.name.clone(),
        }
    }
}

/// Restore a backup
///
/// Built aside under a new id, compared with the backup's count and digest, then made visible in one step
/// for all collections: readers see the old or the new state, a failure or a crash leaves the old.
#[utoipa::path(post, path = "/restore", tag = RESTORE, params(WaitQuery, KeyHeader),
    request_body(content = RestoreBody, example = json!({"backup": "latest", "on_conflict": "rename"})),
    responses(
        (status = 200, description = "Restored (with `wait`)", body = JobResponse),
        (status = 202, description = "Queued", body = JobResponse),
        (status = 404, description = "No such backup, or no such collection in it"),
        (status = 409, description = "The target exists; nothing was changed"),
        (status = 422, description = "A bad request, or a damaged backup; nothing was changed"),
        (status = 429, description = "Too many jobs are waiting"),
        (status = 507, description = "Not enough room on the disk"),
    ))]
pub(super) async fn restore_backup(
    State(app): State<App>,
    asked: Asked,
    OperationBody(body): OperationBody<RestoreBody>,
) -> Result<Response, Problem> {
    let recorded = json!(body);
    let request = RestoreRequest {
        backup: body.backup,
        collections: body
            .collections
            .map(|collections| {
                collections
                    .into_iter()
                    .map(|Object(collection)| collection.selection())
                    .collect()
            })
            .transpose()?,
        on_conflict: body.on_conflict,
    };
    let verb = asked.verb(JobKind::Restore, recorded);
    run_job(&app, verb, StatusCode::OK, move |app| {
        let repository = app.repository()?;
        let plan = restore::plan(app.engine(), &repository, &request)?;
        let claims: Vec<String> = plan.target_names().map(collection_claim).collect();
        let engine = app.engine().clone();
        let work = Box::new(move |progress: &Progress| {
            restore::execute(&engine, &repository, &plan, progress).map(|outcome| result(&outcome))
        });
        Ok(Planned::claiming(work, claims))
    })
    .await
}
