//! `/backups`: make, list, get, annotate, delete.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use chrono::Utc;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::{IntoParams, ToSchema};

use super::error::Problem;
use super::extract::{Object, OperationBody, OperationPath, OperationQuery};
use super::jobs::{Asked, JobResponse, KeyHeader, WaitQuery, page_limit, run_job};
use super::names::CollectionReference;
use super::outcomes::BackupResponse;
use super::tags::{BACKUPS, SELECTOR};
use crate::app::{App, verbs};
use crate::error::{Error, Kind, Result};
use crate::model::selector::Selector;
use crate::operations::backup::{self, BackupRequest};
use crate::operations::delete;
use crate::repository::Repository;
use crate::repository::format::{Annotations, Summary};

/// What kind of backup to make.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum BackupKind {
    /// Incremental where an earlier backup can serve as parent, else full.
    #[default]
    Auto,
    /// Everything is written.
    Full,
    /// What changed since an earlier backup; 422 where none can serve as parent.
    Incremental,
}

impl From<BackupKind> for backup::BackupKind {
    fn from(kind: BackupKind) -> Self {
        match kind {
            BackupKind::Auto => Self::Auto,
            BackupKind::Full => Self::Full,
            BackupKind::Incremental => Self::Incremental,
        }
    }
}

/// A backup to make. All members are optional; an empty body backs up everything.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CreateBackupRequest {
    /// These collections; all without.
    #[schema(value_type = Option<Vec<CollectionReference>>)]
    collections: Option<Vec<Object<CollectionReference>>>,
    #[serde(default)]
    kind: BackupKind,
    /// Free labels to find it by.
    #[serde(default)]
    labels: BTreeMap<String, String>,
    /// Retention never removes it.
    #[serde(default)]
    pinned: bool,
}

impl From<CreateBackupRequest> for BackupRequest {
    fn from(request: CreateBackupRequest) -> Self {
        let names = |references: Vec<Object<CollectionReference>>| {
            let references = references.into_iter();
            references
                .map(|Object(reference)| reference.into())
                .collect()
        };
        Self {
            kind: request.kind.into(),
            collections: request.collections.map(names),
            labels: request.labels,
            pinned: request.pinned,
        }
    }
}

/// Make a backup
///
/// Consistent: all collections as of one moment, while writes go on.
#[utoipa::path(post, path = "/backups", tag = BACKUPS, params(WaitQuery, KeyHeader),
    request_body(content = CreateBackupRequest, example = json!({"labels": {"reason": "before the upgrade"}})),
    responses(
        (status = 201, description = "Made; `result` is the backup (with `wait`)", body = JobResponse),
        (status = 202, description = "Queued", body = JobResponse),
        (status = 404, description = "No such collection"),
        (status = 422, description = "A bad request"),
        (status = 429, description = "Too many jobs are waiting"),
        (status = 507, description = "Not enough room in the repository"),
    ))]
pub(super) async fn create_backup(
    State(app): State<App>,
    asked: Asked,
    OperationBody(request): OperationBody<CreateBackupRequest>,
) -> Result<Response, Problem> {
    let job = asked.job(json!(request));
    let request = BackupRequest::from(request);
    let plan = move |app: &App| verbs::backup::plan(app, request);
    run_job(&app, job, StatusCode::CREATED, plan).await
}

/// Which backups to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListBackupsQuery {
    /// Only those that hold a collection of this name.
    collection: Option<String>,
    /// Only those with this label, as `key:value`. Both may have colons of their own.
    label: Option<String>,
    /// At most this many, 1 to 1000; 100 without.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

impl ListBackupsQuery {
    fn check(&self) -> Result<()> {
        match &self.label {
            Some(label) if !label.contains(':') => Err(Error::unprocessable(format!(
                "label: {label:?} has no value: ask for key:value, such as label=reason:upgrade"
            ))),
            _ => Ok(()),
        }
    }

    fn is_labelled(&self, backup: &Summary) -> bool {
        // Whichever colon it is that stands between the two.
        let is_split = |label: &String, key: &String, value: &String| {
            let rest = label
                .strip_prefix(key)
                .and_then(|rest| rest.strip_prefix(':'));
            rest == Some(value)
        };
        let labelled = |label: &String| {
            backup
                .labels
                .iter()
                .any(|(key, value)| is_split(label, key, value))
        };
        self.label.as_ref().is_none_or(labelled)
    }
}

/// A page of backups.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct BackupsResponse {
    /// Newest first.
    backups: Vec<BackupResponse>,
    /// Where the next page begins; null on the last.
    next_cursor: Option<String>,
    /// Backups whose manifest is damaged, and how.
    damaged: BTreeMap<String, String>,
}

/// List backups, newest first
#[utoipa::path(get, path = "/backups", tag = BACKUPS, params(ListBackupsQuery),
    responses((status = 200, body = BackupsResponse), (status = 422, description = "A bad parameter")))]
pub(super) async fn list_backups(
    State(app): State<App>,
    OperationQuery(query): OperationQuery<ListBackupsQuery>,
) -> Result<Json<BackupsResponse>, Problem> {
    query.check()?;
    let response = app
        .asking_repository(move |app| list_page(&app.repository()?, &query))
        .await?;
    Ok(Json(response))
}

fn list_page(repository: &Repository, query: &ListBackupsQuery) -> Result<BackupsResponse> {
    let (backups, damaged) = repository.backups()?;
    let mut damaged: BTreeMap<String, String> = damaged
        .into_iter()
        .map(|(id, error)| (id, error.message().to_owned()))
        .collect();
    let limit = page_limit(query.limit)?;
    let start = match &query.cursor {
        None => 0,
        Some(cursor) => backups
            .iter()
            .position(|backup| backup.id == *cursor)
            .map(|position| position + 1)
            .ok_or_else(|| {
                Error::unprocessable("cursor: there is no such backup any more; begin again")
            })?,
    };
    let labelled = backups.into_iter().skip(start);
    let labelled = labelled.filter(|backup| query.is_labelled(backup));
    let mut page: Vec<Summary> = match &query.collection {
        None => labelled.take(limit + 1).collect(),
        Some(name) => {
            let holding = repository.each_with_collections(labelled);
            let holding = holding.filter(|(_, manifest)| {
                let collections = manifest.iter().flat_map(|manifest| &manifest.collections);
                collections.into_iter().any(|c| c.name.name == *name)
            });
            holding.map(|(backup, _)| backup).take(limit + 1).collect()
        }
    };
    let more = page.len() > limit;
    page.truncate(limit);
    let next_cursor = page.last().filter(|_| more).map(|backup| backup.id.clone());
    let standings = repository.standings(&page)?;
    let mut backups = Vec::with_capacity(page.len());
    // One after the other: of each no more is kept than is answered.
    for (backup, manifest) in repository.each_with_collections(page.into_iter()) {
        match manifest {
            Ok(manifest) => backups.push(BackupResponse::new(&manifest, standings.of(&manifest))),
            // Deleted since it was listed.
            Err(error) if error.kind() == Kind::NotFound => {}
            Err(error) if error.kind() == Kind::BackupCorrupt => {
                damaged.insert(backup.id, error.message().to_owned());
            }
            Err(error) => return Err(error),
        }
    }
    Ok(BackupsResponse {
        backups,
        next_cursor,
        damaged,
    })
}

/// Get a backup
#[utoipa::path(get, path = "/backups/{id}", tag = BACKUPS,
    params(("id" = String, Path, description = SELECTOR, example = "latest")),
    responses(
        (status = 200, body = BackupResponse),
        (status = 404, description = "No such backup"),
        (status = 422, description = "Its manifest is damaged"),
    ))]
pub(super) async fn get_backup(
    State(app): State<App>,
    OperationPath(id): OperationPath,
) -> Result<Json<BackupResponse>, Problem> {
    let response = app
        .asking_repository(move |app| {
            let repository = app.repository()?;
            let manifest = repository.selected(&Selector::parse(&id)?)?;
            let standing = repository.standing(&manifest)?;
            Ok(BackupResponse::new(&manifest, standing))
        })
        .await?;
    Ok(Json(response))
}

/// What to change of a backup; what is not given stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct UpdateBackupRequest {
    /// Whether retention must keep it.
    #[schema(example = true)]
    pinned: Option<bool>,
    /// In the place of all its labels.
    labels: Option<BTreeMap<String, String>>,
}

/// Pin or label a backup
///
/// Kept beside the manifest, which never changes.
#[utoipa::path(patch, path = "/backups/{id}", tag = BACKUPS,
    params(("id" = String, Path, description = SELECTOR)),
    request_body(content = UpdateBackupRequest, example = json!({"pinned": true, "labels": {"reason": "audit"}})),
    responses(
        (status = 200, description = "The backup as it is now", body = BackupResponse),
        (status = 404, description = "No such backup"),
        (status = 422, description = "A bad request, or its manifest is damaged"),
    ))]
pub(super) async fn update_backup(
    State(app): State<App>,
    OperationPath(id): OperationPath,
    OperationBody(request): OperationBody<UpdateBackupRequest>,
) -> Result<Json<BackupResponse>, Problem> {
    let response = app
        .asking_repository(move |app| {
            let repository = app.repository()?;
            if let Some(labels) = &request.labels {
                backup::check_labels(labels, app.config().repository.max_label_bytes)?;
            }
            let change = Annotations {
                pinned: request.pinned,
                labels: request.labels,
            };
            let id = repository.select(&Selector::parse(&id)?)?;
            let manifest = repository.annotate(&id, change)?;
            let standing = repository.standing(&manifest)?;
            Ok(BackupResponse::new(&manifest, standing))
        })
        .await?;
    Ok(Json(response))
}

/// A deleted backup.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DeletedBackupResponse {
    #[schema(example = "backup_2026-11-23_10-30-00")]
    deleted: String,
    /// Bytes of packs that are gone.
    freed_bytes: u64,
    /// Bytes of packs that no backup needs any more, removed after `repository.grace_ms`.
    pending_bytes: u64,
}

/// Delete a backup
///
/// Any one may go: no other depends on it. The bytes count all packs that no backup needs, those of
/// earlier deletions included.
#[utoipa::path(delete, path = "/backups/{id}", tag = BACKUPS,
    params(("id" = String, Path, description = SELECTOR)),
    responses(
        (status = 200, body = DeletedBackupResponse),
        (status = 404, description = "No such backup"),
        (status = 409, description = "It is pinned"),
    ))]
pub(super) async fn delete_backup(
    State(app): State<App>,
    OperationPath(id): OperationPath,
) -> Result<Json<DeletedBackupResponse>, Problem> {
    let deleted = app
        .asking_repository(move |app| {
            let repository = app.repository()?;
            let id = repository.select(&Selector::parse(&id)?)?;
            let deleted = delete::execute(&repository, &id, app.grace(), Utc::now());
            app.backups_changed();
            deleted
        })
        .await?;
    Ok(Json(DeletedBackupResponse {
        deleted: deleted.deleted,
        freed_bytes: deleted.collected.freed_bytes,
        pending_bytes: deleted.collected.pending_bytes,
    }))
}
