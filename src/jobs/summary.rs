//! What a finished job's line in the log says: what was made, how many records, how long it took. The result is the
//! verb's own; only its members' names are known here.

use serde_json::Value;

use super::JobRecord;

/// The parts of the line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Summary {
    /// A backup's id, or the names of collections; empty where nothing has a name.
    pub(super) what: String,
    /// Records that were stored, read or compared, where the verb counts them.
    pub(super) records: Option<u64>,
    /// From when a worker took it.
    pub(super) duration_ms: u64,
}

/// Collections that the line names.
const MAX_NAMED: usize = 5;

impl Summary {
    pub(super) fn of(record: &JobRecord) -> Self {
        let result = record.result.as_ref().unwrap_or(&Value::Null);
        let duration = record.started_at.zip(record.finished_at);
        let duration = duration.map_or(0, |(started, finished)| {
            (finished - started).num_milliseconds()
        });
        Self {
            what: what(result, &record.request),
            records: records(result),
            duration_ms: u64::try_from(duration).unwrap_or(0),
        }
    }
}

/// A collection as a request or a result names it.
fn place(value: &Value) -> Option<String> {
    let text = |name| value.get(name).and_then(Value::as_str);
    let name = text("name").or_else(|| text("collection"))?;
    let path = [
        text("environment"),
        text("tenant"),
        text("database"),
        Some(name),
    ];
    Some(path.into_iter().flatten().collect::<Vec<_>>().join("/"))
}

fn what(result: &Value, request: &Value) -> String {
    // What was made comes before what it was made of.
    if let Some(id) = result.get("id").and_then(Value::as_str) {
        return id.to_owned();
    }
    if let Some(target) = result.get("target").and_then(place) {
        return target;
    }
    let member = |name| result.get(name).or_else(|| request.get(name));
    let backup = member("backup").and_then(Value::as_str);
    let restored = result.get("collections").and_then(Value::as_array);
    let restored: Vec<String> = restored
        .into_iter()
        .flatten()
        .filter_map(|collection| place(collection.get("to")?))
        .collect();
    match (backup, restored.len()) {
        (None, 0) => String::new(),
        (Some(backup), 0) => backup.to_owned(),
        (backup, count) => {
            let named = restored
                .get(..MAX_NAMED.min(count))
                .unwrap_or_default()
                .join(", ");
            let more = count.saturating_sub(MAX_NAMED);
            let more = if more > 0 {
                format!(" and {more} more")
            } else {
                String::new()
            };
            let from = backup.map(|id| format!(" from {id}")).unwrap_or_default();
            format!("{named}{more}{from}")
        }
    }
}

fn records(result: &Value) -> Option<u64> {
    let count = |value: &Value, name| value.get(name).and_then(Value::as_u64);
    if let Some(records) = ["records", "checked_records", "read"]
        .into_iter()
        .find_map(|name| count(result, name))
    {
        return Some(records);
    }
    let collections = result.get("collections")?.as_array()?;
    Some(
        collections
            .iter()
            .filter_map(|collection| count(collection, "records"))
            .sum(),
    )
}

#[cfg(test)]
mod tests {
    use chrono::{TimeDelta, Utc};
    use serde_json::json;

    use super::*;
    use crate::jobs::JobKind;

    #[test]
    fn it_says_what_was_made_how_many_and_how_long() {
        let at = Utc::now();
        let summary = |kind, request: Value, result: Value| {
            let mut record = JobRecord::new(kind, request, at);
            record.started_at = Some(at);
            record.finished_at = Some(at + TimeDelta::milliseconds(1_234));
            record.result = Some(result);
            let Summary {
                what,
                records,
                duration_ms,
            } = Summary::of(&record);
            assert_eq!(duration_ms, 1_234);
            (what, records)
        };
        let backup = "backup_2026-11-23_10-30-00";
        let to = json!({"tenant": "t", "database": "d", "name": "words"});
        for (kind, request, result, expected) in [
            (
                JobKind::Backup,
                json!({}),
                json!({"id": backup, "records": 5}),
                (backup, Some(5)),
            ),
            (
                JobKind::Verification,
                json!({"backup": "latest"}),
                json!({"backup": backup, "checked_records": 7}),
                (backup, Some(7)),
            ),
            (
                JobKind::Restore,
                json!({"backup": "latest"}),
                json!({"backup": backup, "collections": [{"to": to, "records": 2}, {"to": to, "records": 3}]}),
                (
                    "t/d/words, t/d/words from backup_2026-11-23_10-30-00",
                    Some(5),
                ),
            ),
            (
                JobKind::Migration,
                json!({}),
                json!({"source": {"collection": "a"}, "target": {"environment": "local", "tenant": "t", "database": "d", "collection": "b"}, "read": 9}),
                ("local/t/d/b", Some(9)),
            ),
            (
                JobKind::Compaction,
                json!({}),
                json!({"after_bytes": 5}),
                ("", None),
            ),
            (
                JobKind::Verification,
                json!({"backup": backup}),
                Value::Null,
                (backup, None),
            ),
        ] {
            assert_eq!(
                summary(kind, request, result),
                (expected.0.to_owned(), expected.1)
            );
        }
    }
}
