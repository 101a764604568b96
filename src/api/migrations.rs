//! `/migrate`.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::error::Problem;
use super::extract::{Object, OperationBody};
use super::jobs::{Asked, JobResponse, KeyHeader, WaitQuery, dry_run, run_job};
use super::names::{MigrateEnd, checked};
use super::openapi::words;
use super::outcomes::{PlannedLoss, losses};
use super::restores::PlannedCounts;
use super::tags::MIGRATE;
use crate::app::App;
use crate::app::verbs::migration::MigrationPreview;
use crate::app::verbs::{self, Place};
use crate::error::Result;
use crate::operations::conflict::{self, Action, OnConflict, Winner};
use crate::operations::migrate::{End, MigrateRequest};
use crate::progress::Progress;

fn yes() -> bool {
    true
}

fn resolved(end: MigrateEnd, app: &App) -> Result<End> {
    End::new(
        app.environments(),
        end.environment,
        end.tenant.as_deref(),
        end.database.as_deref(),
        &end.collection,
    )
}

/// `merge_winner`
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = MigrateWinner)]
enum MergeWinner {
    Source,
    Target,
}

impl From<MergeWinner> for Winner {
    fn from(winner: MergeWinner) -> Self {
        match winner {
            MergeWinner::Source => Self::Incoming,
            MergeWinner::Target => Self::Existing,
        }
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
    /// Where the target exists: `fail` (409, nothing changes), `skip`, `rename`, `replace` or `merge`.
    #[serde(default)]
    #[schema(value_type = words::OnConflict, default = "fail", example = "fail")]
    on_conflict: OnConflict,
    /// Whose record stays in a merge where both sides have its id: `source` or `target`.
    #[schema(default = "source")]
    merge_winner: Option<MergeWinner>,
    /// Records that go at a time between environments; `migration.batch_records` without.
    #[schema(minimum = 1, example = 1000)]
    batch_size: Option<usize>,
    /// Read the target back and compare digests. Within this store that is always done.
    #[serde(default = "yes")]
    #[schema(default = true)]
    verify: bool,
    /// Leave out what the target cannot hold, instead of refusing.
    #[serde(default)]
    allow_loss: bool,
    /// Answer with the plan, 200, and do nothing.
    #[serde(default)]
    dry_run: bool,
}

impl MigrateBody {
    fn request(self, app: &App) -> Result<MigrateRequest> {
        let Object(source) = self.source;
        let Object(target) = self.target;
        let mut target = resolved(target, app)?;
        target.name = checked(target.name)?;
        Ok(MigrateRequest {
            source: resolved(source, app)?,
            target,
            on_conflict: self.on_conflict,
            winner: conflict::winner(self.on_conflict, self.merge_winner.map(Winner::from))?,
            batch_size: self.batch_size,
            verify: self.verify,
            allow_loss: self.allow_loss,
        })
    }
}

/// What a migration would do.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = MigratePlan)]
struct MigratePlanResponse {
    source: MigrateEnd,
    target: MigrateEnd,
    /// `created`, `replaced`, `merged`, `renamed` or `skipped`.
    #[schema(value_type = words::Action, example = "created")]
    action: Action,
    /// Records in the source.
    records: u64,
    #[serde(flatten)]
    counts: PlannedCounts,
    /// Disk that it takes here, at most.
    needed_bytes: u64,
    available_bytes: u64,
    /// Whether there is a moment at which the target's name leads nowhere.
    gap: bool,
    /// What the target cannot hold: refused without `allow_loss`.
    losses: Vec<PlannedLoss>,
    notes: Vec<&'static str>,
}

impl From<MigrationPreview> for MigratePlanResponse {
    fn from(preview: MigrationPreview) -> Self {
        let (plan, found) = (preview.plan, preview.found);
        Self {
            source: Place::from(plan.source()).into(),
            target: Place::from(plan.target()).into(),
            action: plan.action(),
            records: found.records,
            counts: found.counts.into(),
            needed_bytes: plan.needed_bytes,
            available_bytes: preview.available_bytes,
            gap: found.gap,
            losses: losses(&found.losses),
            notes: found.notes,
        }
    }
}

/// A job, or the plan of a dry run.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "it describes an answer")]
enum MigrateAnswer {
    Job(JobResponse),
    Plan(MigratePlanResponse),
}

/// Migrate a collection
///
/// Copied aside while writes go on, caught up, compared by digest, then made visible under the target's name.
/// Between environments records go as a stream, and the same request goes on where an earlier one stopped.
#[utoipa::path(post, path = "/migrate", tag = MIGRATE, params(WaitQuery, KeyHeader),
    request_body(content = MigrateBody, examples(
        ("To another name" = (value = json!({"source": {"collection": "articles"}, "target": {"collection": "articles-copy"}}))),
        ("From another environment" = (value = json!({"source": {"environment": "staging", "collection": "articles"}, "target": {"collection": "articles"}, "on_conflict": "rename"}))),
        ("What it would do" = (value = json!({"source": {"collection": "articles"}, "target": {"collection": "articles-copy"}, "dry_run": true}))),
    )),
    responses(
        (status = 200, description = "Migrated (with `wait`), or with `dry_run` the plan", body = MigrateAnswer),
        (status = 202, description = "Queued", body = JobResponse),
        (status = 404, description = "No such collection or environment"),
        (status = 409, description = "The target exists, or the source is being written to; nothing was changed"),
        (status = 422, description = "A bad request, or something that the target cannot hold"),
        (status = 429, description = "Too many jobs are waiting"),
        (status = 502, description = "The other environment cannot be reached, or answers badly; the same request goes on"),
        (status = 507, description = "Not enough room on the disk"),
    ))]
pub(super) async fn migrate_collection(
    State(app): State<App>,
    asked: Asked,
    OperationBody(body): OperationBody<MigrateBody>,
) -> Result<Response, Problem> {
    let (job, is_dry) = (asked.job(json!(body)), body.dry_run);
    let request = body.request(&app)?;
    if is_dry {
        let preview = move |app: &App, progress: &Progress| {
            verbs::migration::preview(app, request, progress).map(MigratePlanResponse::from)
        };
        return dry_run(&app, preview).await;
    }
    let plan = move |app: &App| verbs::migration::plan(app, request);
    run_job(&app, job, StatusCode::OK, plan).await
}
