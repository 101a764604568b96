//! A pruning, as it is answered.

use serde::Serialize;
use utoipa::ToSchema;

use crate::operations::prune::PruneOutcome;

/// What a pruning would do, or did.
#[derive(Serialize, ToSchema)]
#[schema(as = PrunePlan)]
pub(in crate::api) struct PrunePlanResponse {
    /// Newest first.
    kept: Vec<KeptBackup>,
    /// Newest first.
    deleted: Vec<String>,
    freed_bytes: u64,
    /// No longer needed, removed after `repository.grace_ms`.
    pending_bytes: u64,
}

/// A backup that is kept.
#[derive(Serialize, ToSchema)]
struct KeptBackup {
    id: String,
    /// By which rules, and for which period.
    reasons: Vec<String>,
}

impl From<PruneOutcome> for PrunePlanResponse {
    fn from(outcome: PruneOutcome) -> Self {
        let kept = outcome.kept.into_iter().map(|kept| KeptBackup {
            id: kept.id,
            reasons: kept.reasons,
        });
        Self {
            kept: kept.collect(),
            deleted: outcome.deleted,
            freed_bytes: outcome.collected.freed_bytes,
            pending_bytes: outcome.collected.pending_bytes,
        }
    }
}
