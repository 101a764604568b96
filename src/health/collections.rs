//! Collections against themselves: every record read and hashed, ids ↔ records ↔ memory, the digest
//! recomputed.

use serde_json::json;
use uuid::Uuid;

use super::{Report, Status};
use crate::config::HealthConfig;
use crate::engine::{CollectionInspection, Engine, InspectionLimits};
use crate::error::{Kind, Result};
use crate::progress::Progress;

/// Checks one collection, or all.
///
/// # Errors
/// `NotFound` for a named collection that is gone, `Canceled`, `StorageFault` or `Unavailable` when the store
/// cannot be read at all.
pub fn check_collections(
    engine: &Engine,
    collection: Option<Uuid>,
    config: &HealthConfig,
    progress: &Progress,
) -> Result<Report> {
    let limits = InspectionLimits {
        max_findings: config.max_findings,
    };
    let mut report = Report::default();
    let collections = match collection {
        Some(id) => vec![engine.collection(id)?],
        None => engine.all_collections(),
    };
    progress.phase(
        "check",
        collections.iter().map(|info| info.head.count).sum(),
    );
    let mut checked = 0;
    for info in collections {
        let id = info.descriptor.id;
        match engine.inspect(id, limits, progress) {
            Ok(found) => judge(&mut report, id, &info.descriptor.name.to_string(), &found),
            // Dropped since it was listed.
            Err(error) if error.kind() == Kind::NotFound && collection.is_none() => continue,
            Err(error) => return Err(error),
        }
        checked += 1;
    }
    report.pass("collections:checked", checked, "collections");
    Ok(report)
}

fn judge(report: &mut Report, id: Uuid, name: &str, found: &CollectionInspection) {
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
        let (check, status) = ("collections:integrity", Status::Pass);
        report.add_about(Some(id), check, status, observed, "collection", None);
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
    report.add_about(
        Some(id),
        "collections:integrity",
        Status::Fail,
        observed,
        "collection",
        output,
    );
}
