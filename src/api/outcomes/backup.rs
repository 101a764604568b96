//! A backup, and what it holds, as they are answered.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::api::names::CollectionReference;
use crate::api::openapi::configurations::Space;
use crate::api::openapi::words;
use crate::app::verbs::BackupOutcome;
use crate::model::collection::HeldCollection;
use crate::model::names::CollectionName;
use crate::repository::format::{Manifest, Verification, VerificationLevel};
use crate::repository::{Restorable, Standing};

/// What a collection holds, now or in a backup.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::api) struct CollectionSummary {
    tenant: String,
    database: String,
    name: String,
    id: Uuid,
    records: u64,
    dimension: Option<u32>,
    /// `l2`, `cosine` or `ip`.
    #[schema(value_type = Space)]
    space: Value,
    /// The last write to it.
    sequence: u64,
    /// Sum of the hashes of its records: equal digests, equal content.
    digest: String,
}

impl From<HeldCollection> for CollectionSummary {
    fn from(held: HeldCollection) -> Self {
        Self {
            tenant: held.name.tenant,
            database: held.name.database,
            name: held.name.name,
            id: held.id,
            records: held.records,
            dimension: held.dimension,
            space: json!(held.space),
            sequence: held.sequence,
            digest: held.digest.to_string(),
        }
    }
}

/// A backup.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Backup)]
pub(in crate::api) struct BackupResponse {
    #[schema(example = "backup_2026-11-23_10-30-00")]
    id: String,
    /// `full` or `incremental`.
    #[schema(value_type = WrittenKind)]
    kind: String,
    parent: Option<String>,
    /// The moment it holds.
    as_of: DateTime<Utc>,
    /// When it was asked for.
    requested_at: DateTime<Utc>,
    /// As `as_of`.
    created_at: DateTime<Utc>,
    duration_ms: u64,
    /// Records that it restores.
    records: u64,
    /// Records that it had to write.
    new_records: u64,
    tombstones: u64,
    /// Bytes of its records, uncompressed.
    raw_bytes: u64,
    /// Bytes that it had to write.
    new_bytes: u64,
    /// Bytes of all packs that it refers to.
    stored_bytes: u64,
    /// `zstd`
    compression: &'static str,
    encrypted: bool,
    labels: BTreeMap<String, String>,
    pinned: bool,
    collections: Vec<CollectionSummary>,
    /// Whether it can be restored, as far as that is known.
    #[schema(value_type = words::Restorable)]
    restorable: Restorable,
    /// How many of its packs are known to be damaged or missing.
    damaged_packs: usize,
    /// The collections that need one of them.
    #[schema(value_type = Vec<CollectionReference>)]
    damaged_collections: Vec<CollectionName>,
    /// The newest verification; null: never verified.
    #[schema(value_type = Option<VerificationResponse>)]
    verification: Option<Verification>,
}

/// What kind of backup it is.
#[derive(ToSchema)]
#[serde(rename_all = "snake_case")]
#[expect(dead_code, reason = "it describes a word of the manifest")]
enum WrittenKind {
    Full,
    Incremental,
}

/// How a backup was verified.
#[derive(ToSchema)]
#[schema(as = Verification)]
#[expect(dead_code, reason = "it describes what is answered as it is stored")]
struct VerificationResponse {
    #[schema(value_type = words::VerificationLevel)]
    level: VerificationLevel,
    at: DateTime<Utc>,
    ok: bool,
    checked_records: u64,
    checked_bytes: u64,
}

impl BackupResponse {
    pub(in crate::api) fn new(manifest: &Manifest, standing: Standing) -> Self {
        Self::of(BackupOutcome::from(manifest), standing)
    }

    pub(in crate::api) fn of(made: BackupOutcome, standing: Standing) -> Self {
        let BackupOutcome {
            summary,
            totals,
            collections,
        } = made;
        Self {
            requested_at: summary.requested_at(),
            id: summary.id,
            kind: summary.kind,
            parent: summary.parent,
            as_of: summary.created_at,
            created_at: summary.created_at,
            duration_ms: summary.duration_ms,
            records: totals.records,
            new_records: summary.new_records,
            tombstones: summary.tombstones,
            raw_bytes: totals.raw_bytes,
            new_bytes: summary.new_bytes,
            stored_bytes: totals.stored_bytes,
            compression: "zstd",
            encrypted: false,
            labels: summary.labels,
            pinned: summary.pinned,
            collections: collections
                .into_iter()
                .map(CollectionSummary::from)
                .collect(),
            restorable: standing.restorable,
            damaged_packs: standing.damaged_packs.len(),
            damaged_collections: standing.damaged_collections,
            verification: standing.verification,
        }
    }
}
