//! What came out of a job, as it is answered.

mod backup;
mod migration;
mod prune;
mod restore;

use serde::Serialize;
use serde_json::{Value, json};

pub(super) use self::backup::{BackupResponse, CollectionSummary};
pub(super) use self::migration::{PlannedLoss, losses};
pub(super) use self::prune::PrunePlanResponse;
pub(super) use self::restore::{DatabaseReference, tenant_names};
use crate::app::verbs::Outcome;
use crate::operations::compact::CompactionOutcome;
use crate::operations::drill::DrillOutcome;
use crate::operations::verify::VerificationOutcome;
use crate::repository::Standing;
use crate::repository::format::VerificationLevel;

/// A job's result as it is answered. What the first release recorded is answered as it did; so is what cannot be read, since
/// a later program wrote it.
pub(super) fn shown(recorded: Value) -> Value {
    let outcome = match Outcome::of_record(&recorded) {
        Ok(Some(outcome)) => outcome,
        Ok(None) => return recorded,
        Err(unreadable) => {
            let error = crate::error::Error::from(unreadable);
            tracing::warn!(?error, "a job's result is shown as it is stored");
            return recorded;
        }
    };
    match outcome {
        Outcome::Backup(made) => json!(BackupResponse::of(*made, Standing::unknown())),
        Outcome::Compaction(outcome) => json!(CompactionResult::from(outcome)),
        Outcome::Drill(outcome) => json!(DrillResult::from(outcome)),
        Outcome::Migration(migration) => migration::result(*migration),
        Outcome::Prune(outcome) => json!(PrunePlanResponse::from(outcome)),
        Outcome::Restore(outcome) => restore::result(&outcome),
        Outcome::Verification(outcome) => json!(VerificationResult::from(outcome)),
    }
}

#[derive(Serialize)]
struct CompactionResult {
    before_bytes: u64,
    after_bytes: u64,
    live_bytes: u64,
    duration_ms: u64,
}

impl From<CompactionOutcome> for CompactionResult {
    fn from(outcome: CompactionOutcome) -> Self {
        Self {
            before_bytes: outcome.before_bytes,
            after_bytes: outcome.after_bytes,
            live_bytes: outcome.live_bytes,
            duration_ms: outcome.duration_ms,
        }
    }
}

#[derive(Serialize)]
struct DrillResult {
    backup: String,
    ok: bool,
    collections: u64,
    checked_records: u64,
    queries: u64,
    restore_ms: u64,
    first_query_ms: Option<u64>,
    problems: Vec<String>,
}

impl From<DrillOutcome> for DrillResult {
    fn from(outcome: DrillOutcome) -> Self {
        Self {
            backup: outcome.backup,
            ok: outcome.ok,
            collections: outcome.collections,
            checked_records: outcome.checked_records,
            queries: outcome.queries,
            restore_ms: outcome.restore_ms,
            first_query_ms: outcome.first_query_ms,
            problems: outcome.problems,
        }
    }
}

#[derive(Serialize)]
struct VerificationResult {
    backup: String,
    level: VerificationLevel,
    ok: bool,
    checked_packs: u64,
    checked_records: u64,
    checked_bytes: u64,
    problems: Vec<String>,
}

impl From<VerificationOutcome> for VerificationResult {
    fn from(outcome: VerificationOutcome) -> Self {
        Self {
            backup: outcome.backup,
            level: outcome.level,
            ok: outcome.ok,
            checked_packs: outcome.checked_packs,
            checked_records: outcome.checked_records,
            checked_bytes: outcome.checked_bytes,
            problems: outcome.problems,
        }
    }
}
