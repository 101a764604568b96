//! `/restore`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::chroma::check_ids;
use super::error::Problem;
use super::extract::{Object, OperationBody};
use super::jobs::{Asked, JobResponse, KeyHeader, WaitQuery, dry_run, run_job};
use super::names::{CollectionReference, checked, default_database, default_tenant};
use super::openapi::filters::Where;
use super::openapi::words;
use super::outcomes::{DatabaseReference, tenant_names};
use super::tags::RESTORE;
use crate::app::App;
use crate::app::verbs::{self, restore::RestorePreview};
use crate::error::{Error, Result};
use crate::model::filter::Filter;
use crate::model::names::CollectionName;
use crate::model::selector::Selector;
use crate::operations::conflict::{self, Action, OnConflict, RecordCounts, Winner};
use crate::operations::restore::{RestoreRequest, RestoreSelection, Selection};
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
    /// A backup's id, `latest`, or `before:` and an RFC 3339 time.
    #[schema(value_type = String, example = "latest")]
    backup: Selector,
    /// These collections; all without.
    #[schema(value_type = Option<Vec<RestoreCollection>>)]
    collections: Option<Vec<Object<RestoreCollection>>>,
    /// Where the target exists: `fail` (409, nothing changes), `skip`, `rename`, `replace` or `merge`.
    #[serde(default)]
    #[schema(value_type = words::OnConflict, default = "fail", example = "rename")]
    on_conflict: OnConflict,
    /// Whose record stays in a merge where both sides have its id: `backup` or `live`.
    #[schema(default = "backup")]
    merge_winner: Option<MergeWinner>,
    /// With `replace`: clients that hold the collection's id go on with what takes its place. (A `merge` always keeps it.)
    #[serde(default)]
    keep_id: bool,
    /// Only these records.
    ids: Option<Vec<String>>,
    /// Only records that match, as in Chroma's `get`.
    #[schema(value_type = Option<Where>)]
    r#where: Option<Value>,
    /// Answer with the plan, 200, and do nothing.
    #[serde(default)]
    dry_run: bool,
}

/// `merge_winner`
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = RestoreWinner)]
enum MergeWinner {
    Backup,
    Live,
}

impl From<MergeWinner> for Winner {
    fn from(winner: MergeWinner) -> Self {
        match winner {
            MergeWinner::Backup => Self::Incoming,
            MergeWinner::Live => Self::Existing,
        }
    }
}

impl RestoreBody {
    fn request(self, app: &App) -> Result<RestoreRequest> {
        let filter = match &self.r#where {
            None => None,
            Some(filter) => Filter::parse_where(filter, &app.filter_limits())?,
        };
        let collections = self.collections.map(|collections| {
            collections
                .into_iter()
                .map(|Object(collection)| collection.selection())
                .collect()
        });
        check_ids(app, self.ids.as_deref())?;
        if self.keep_id && !matches!(self.on_conflict, OnConflict::Replace | OnConflict::Merge) {
            return Err(Error::unprocessable(
                "keep_id is only for on_conflict \"replace\" (a merge keeps the id by itself)",
            ));
        }
        Ok(RestoreRequest {
            backup: self.backup,
            collections: collections.transpose()?,
            on_conflict: self.on_conflict,
            winner: conflict::winner(self.on_conflict, self.merge_winner.map(Winner::from))?,
            keep_id: self.keep_id,
            records: Selection {
                ids: self.ids.map(|ids| Arc::new(ids.into_iter().collect())),
                filter: filter.map(Arc::new),
            },
        })
    }
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

/// What a restore would do to one collection.
#[derive(Debug, Serialize, ToSchema)]
struct PlannedCollection {
    name: String,
    to: CollectionReference,
    /// `created`, `replaced`, `merged`, `renamed` or `skipped`.
    #[schema(value_type = words::Action, example = "created")]
    action: Action,
    #[serde(flatten)]
    counts: PlannedCounts,
    /// `ids` that are not in the backup.
    missing: u64,
    /// The first 20 of them.
    missing_ids: Vec<String>,
}

/// Records, compared by id with those of the target.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PlannedCounts {
    insert: u64,
    update: u64,
    unchanged: u64,
    delete: u64,
    /// Left alone, because the target's stays.
    skip: u64,
}

impl From<RecordCounts> for PlannedCounts {
    fn from(counts: RecordCounts) -> Self {
        Self {
            insert: counts.inserted,
            update: counts.updated,
            unchanged: counts.unchanged,
            delete: counts.deleted,
            skip: counts.skipped,
        }
    }
}

/// What a restore would do.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = RestorePlan)]
pub(super) struct RestorePlanResponse {
    backup: String,
    collections: Vec<PlannedCollection>,
    /// Tenants that it would make, where everything is restored.
    tenants: Vec<String>,
    /// Databases that it would make, where everything is restored.
    databases: Vec<DatabaseReference>,
    /// Disk that it takes, at most.
    needed_bytes: u64,
    available_bytes: u64,
}

impl From<RestorePreview> for RestorePlanResponse {
    fn from(preview: RestorePreview) -> Self {
        let found = preview.found;
        let collections = found.collections.into_iter();
        Self {
            backup: found.backup,
            collections: collections
                .map(|planned| PlannedCollection {
                    name: planned.name.name,
                    to: CollectionReference::from(&planned.target.name),
                    action: planned.target.action,
                    counts: planned.counts.into(),
                    missing: planned.missing.count,
                    missing_ids: planned.missing.first,
                })
                .collect(),
            tenants: tenant_names(&found.namespaces),
            databases: DatabaseReference::all(&found.namespaces),
            needed_bytes: preview.needed_bytes,
            available_bytes: preview.available_bytes,
        }
    }
}

/// Restore a backup
///
/// Built aside, compared with the backup's count and digest, then made visible in one step for all collections:
/// readers see the old or the new state, a failure or a crash leaves the old. A merge keeps the collection's id, and so
/// does `replace` with `keep_id`; else the restored collection has a new one.
#[utoipa::path(post, path = "/restore", tag = RESTORE, params(WaitQuery, KeyHeader),
    request_body(content = RestoreBody, examples(
        ("Everything, beside what is there" = (value = json!({"backup": "latest", "on_conflict": "rename"}))),
        ("What it would do" = (value = json!({"backup": "latest", "on_conflict": "replace", "dry_run": true}))),
        ("Bring single records back" = (value = json!({"backup": "latest", "collections": [{"name": "articles"}], "on_conflict": "merge", "ids": ["a"]}))),
    )),
    responses(
        (status = 200, description = "Restored (with `wait`), or with `dry_run` the plan", body = RestoreAnswer),
        (status = 202, description = "Queued", body = JobResponse),
        (status = 400, description = "A bad filter"),
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
    let (job, is_dry) = (asked.job(json!(body)), body.dry_run);
    let request = body.request(&app)?;
    if is_dry {
        let preview = move |app: &App, progress: &Progress| {
            verbs::restore::preview(app, &request, progress).map(RestorePlanResponse::from)
        };
        return dry_run(&app, preview).await;
    }
    let plan = move |app: &App| verbs::restore::plan(app, &request);
    run_job(&app, job, StatusCode::OK, plan).await
}

/// A job, or the plan of a dry run.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[expect(
    dead_code,
    clippy::large_enum_variant,
    reason = "it describes an answer"
)]
enum RestoreAnswer {
    Job(JobResponse),
    Plan(RestorePlanResponse),
}
