//! Collections against themselves: every record read and hashed, ids ↔ records ↔ memory, the digest
//! recomputed.

use serde_json::json;
use uuid::Uuid;

use super::{Report, Status};
use crate::config::HealthConfig;
use crate::engine::{CollectionInspection, Engine, InspectionLimits};
use crate::error::{Kind, Result};

/// Checks these collections (all without).
///
/// # Errors
/// `NotFound` for a named collection that is gone, `StorageFault` when the store cannot be read at all.
pub fn check_collections(
    engine: &Engine,
    ids: Option<&[Uuid]>,
    config: &HealthConfig,
) -> Result<Report> {
    let limits = InspectionLimits {
        max_findings: config.max_findings,
    };
    let mut report = Report::default();
    let all: Vec<Uuid>;
    let ids = match ids {
        Some(ids) => ids,
        None => {
            all = engine
                .all_collections()
                .iter()
                .map(|info| info.descriptor.id)
                .collect();
            &all
        }
    };
    report.pass("collections:checked", ids.len(), "collections");
    for id in ids {
        let name = match engine.collection(*id) {
            Ok(info) => info.descriptor.name.to_string(),
            // Dropped since it was listed.
            Err(error) if error.kind() == Kind::NotFound && ids.len() > 1 => continue,
            Err(error) => return Err(error),
        };
        judge(
            &mut report,
            &name,
            &engine.inspect(*id, limits, &crate::progress::Progress::default())?,
        );
    }
    Ok(report)
}

fn judge(report: &mut Report, name: &str, found: &CollectionInspection) {
    let observed = json!({
        "collection": name,
        "count": found.count,
        "recomputed_count": found.recomputed_count,
        "checked_records": found.checked_records,
        "checked_ids": found.checked_ids,
        "checked_bytes": found.checked_bytes,
        "orphans": found.orphans,
        "damaged": found.damaged,
        "memory_differences": found.memory_differences,
        "digest": found.digest,
        "recomputed_digest": found.recomputed_digest,
    });
    if found.is_sound() {
        report.pass("collections:integrity", observed, "collection");
        return;
    }
    let mut output = found.findings.clone();
    if found.count != found.recomputed_count {
        output.push(format!(
            "{} records are counted, {} are there",
            found.count, found.recomputed_count
        ));
    }
    if found.digest != found.recomputed_digest {
        output.push("the recomputed digest is not the stored one".to_owned());
    }
    let output = Some(format!(
        "{name}: {}; restore it from a backup",
        output.join("; ")
    ));
    report.add(
        "collections:integrity",
        Status::Fail,
        observed,
        "collection",
        output,
    );
}
