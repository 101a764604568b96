//! A restore, as it is answered.

use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::api::names::CollectionReference;
use crate::engine::Namespaces;
use crate::operations::restore::RestoreOutcome;

/// The job's result.
pub(in crate::api) fn result(outcome: &RestoreOutcome) -> Value {
    let collections: Vec<Value> = outcome
        .collections
        .iter()
        .map(|restored| {
            json!({
                "name": restored.name.name,
                "to": CollectionReference::from(&restored.to),
                "action": restored.action,
                "records": restored.records,
                "inserted": restored.counts.inserted,
                "updated": restored.counts.updated,
                "unchanged": restored.counts.unchanged,
                "skipped": restored.counts.skipped,
                "deleted": restored.counts.deleted,
                "digest": restored.digest,
                // A digest is only there when it was compared and found equal.
                "verified": restored.digest.is_some(),
                "missing": restored.missing.count,
                "missing_ids": restored.missing.first,
            })
        })
        .collect();
    json!({
        "backup": outcome.backup,
        "created_at": outcome.created_at,
        "collections": collections,
        "tenants": tenant_names(&outcome.namespaces),
        "databases": DatabaseReference::all(&outcome.namespaces),
        "duration_ms": outcome.duration_ms,
    })
}

/// A database that is made.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::api) struct DatabaseReference {
    tenant: String,
    database: String,
}

impl DatabaseReference {
    pub(in crate::api) fn all(namespaces: &Namespaces) -> Vec<Self> {
        let databases = namespaces.databases.iter();
        let reference = |(tenant, database): &(String, String)| Self {
            tenant: tenant.clone(),
            database: database.clone(),
        };
        databases.map(reference).collect()
    }
}

pub(in crate::api) fn tenant_names(namespaces: &Namespaces) -> Vec<String> {
    let tenants = namespaces.tenants.iter();
    tenants.map(|tenant| tenant.name.clone()).collect()
}
