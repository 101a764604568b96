//! The last results of deep checks, as the overview shows them.

use serde_json::json;
use uuid::Uuid;

use super::{DeepCheck, DeepChecks, Finished};
use crate::health::{Check, Report, Status};

impl DeepChecks {
    /// Adds the last results to the overview: the newest of each kind, and those of parts that are not as they
    /// should be and that no newer one includes. What was found of collections that are gone does not count.
    pub(in crate::health) fn summarize(
        &self,
        report: &mut Report,
        is_live: impl Fn(Uuid) -> bool,
        most: usize,
    ) {
        let finished: Vec<(DeepCheck, Finished)> = {
            let state = self.inner.state.lock();
            let last = state.entries.iter();
            last.filter_map(|(check, entry)| Some((*check, entry.last.clone()?)))
                .collect()
        };
        let newest = |check: DeepCheck| {
            let kind = check.observation();
            let same = finished.iter().filter(|(other, _)| {
                other.observation() == kind && other.collection().is_none_or(&is_live)
            });
            same.map(|(_, other)| other.at).max()
        };
        let mut shown: Vec<(DeepCheck, &Finished, Status)> = finished
            .iter()
            .filter(|(check, _)| check.collection().is_none_or(&is_live))
            .map(|(check, last)| (*check, last, last.report.status_of(&is_live)))
            .filter(|(check, last, status)| {
                let superseded = finished
                    .iter()
                    .any(|(other, newer)| newer.at > last.at && other.covers(*check));
                let whole = check.collection().is_none();
                !superseded && (whole || *status > Status::Pass || newest(*check) == Some(last.at))
            })
            .collect();
        shown.sort_by_key(|(_, last, status)| (std::cmp::Reverse(*status), last.at));
        for (check, last, status) in shown.into_iter().take(most.max(3)) {
            let observed = json!({
                "check": check.to_string(),
                "collection_id": check.collection(),
                "status": status.word(),
                "age_ms": u64::try_from(last.at.elapsed().as_millis()).unwrap_or(u64::MAX),
            });
            report.put(
                check.observation(),
                Check {
                    status,
                    observed_value: observed,
                    observed_unit: "check",
                    time: last.time,
                    output: last.report.first_output(status, &is_live),
                    collection: None,
                },
            );
        }
    }
}
