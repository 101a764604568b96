//! A migration, as it is answered.

use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::api::names::MigrateEnd;
use crate::app::verbs::MigrationOutcome;
use crate::environments::Loss;

/// The job's result.
pub(in crate::api) fn result(migration: MigrationOutcome) -> Value {
    let outcome = migration.done;
    let per_second = outcome.read.saturating_mul(1_000) / outcome.duration_ms.max(1);
    json!({
        "source": MigrateEnd::from(migration.source),
        "target": MigrateEnd::from(migration.target),
        "action": migration.action,
        "read": outcome.read,
        "inserted": outcome.counts.inserted,
        "updated": outcome.counts.updated,
        "unchanged": outcome.counts.unchanged,
        "skipped": outcome.counts.skipped,
        "deleted": outcome.counts.deleted,
        "failed": 0,
        "bytes": outcome.bytes,
        "duration_ms": outcome.duration_ms,
        "records_per_second": per_second,
        "source_digest": outcome.source_digest,
        "target_digest": outcome.target_digest,
        "verified": outcome.verified,
        "resumed": outcome.resumed,
        "losses": losses(&outcome.losses),
        "differences": outcome.differences,
    })
}

/// Something that the target cannot hold.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::api) struct PlannedLoss {
    what: String,
    /// Records that have it; 0: the collection itself.
    records: u64,
    /// Ids of the first of them.
    examples: Vec<String>,
}

pub(in crate::api) fn losses(found: &[Loss]) -> Vec<PlannedLoss> {
    let shown = |loss: &Loss| PlannedLoss {
        what: loss.what.clone(),
        records: loss.records,
        examples: loss.examples.clone(),
    };
    found.iter().map(shown).collect()
}
