//! Health checks that look at real bytes, and say how much they looked at. The worst status wins, and a
//! check that looked at nothing where there was something to look at has failed.

mod collections;
pub mod deep;
mod embeddings;
pub mod monitor;
mod storage;

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde_json::Value;
use uuid::Uuid;

use crate::config::HealthConfig;
use crate::engine::Engine;
use crate::error::Result;
use crate::repository::Repository;

pub use collections::check_collections;
pub use embeddings::{EmbeddingSelection, Sample, check_embeddings};
pub use storage::{check_storage, clear_probes};

use deep::DeepChecks;
use monitor::Monitor;

/// Outcome of a check, from good to bad.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    /// As it should be.
    #[default]
    Pass,
    /// Needs attention, serves on.
    Warn,
    /// Broken.
    Fail,
}

impl Status {
    /// As it is shown.
    pub fn word(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// One observation.
#[derive(Clone, Debug)]
pub struct Check {
    /// The outcome.
    pub status: Status,
    /// What was observed.
    pub observed_value: Value,
    /// Its unit.
    pub observed_unit: &'static str,
    /// When.
    pub time: DateTime<Utc>,
    /// What to know or do; always given when the status is not `Pass`.
    pub output: Option<String>,
    /// The collection it is of: what was found of one counts for as long as it is there.
    pub collection: Option<Uuid>,
}

/// Checks by name (`storage:disk_free`).
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// All observations.
    pub checks: BTreeMap<String, Vec<Check>>,
}

impl Report {
    /// The worst status; a report of nothing is a failure.
    pub fn status(&self) -> Status {
        self.checks
            .values()
            .flatten()
            .map(|check| check.status)
            .max()
            .unwrap_or(Status::Fail)
    }

    /// The observations that are of no collection, or of one that is there.
    fn of_what_is_there<'a>(
        &'a self,
        is_live: &'a impl Fn(Uuid) -> bool,
    ) -> impl Iterator<Item = &'a Check> {
        let checks = self.checks.values().flatten();
        checks.filter(move |check| check.collection.is_none_or(is_live))
    }

    /// The worst status of what is there.
    fn status_of(&self, is_live: &impl Fn(Uuid) -> bool) -> Status {
        let there = self.of_what_is_there(is_live);
        there.map(|check| check.status).max().unwrap_or_default()
    }

    /// What the first observation of this status says.
    fn first_output(&self, status: Status, is_live: &impl Fn(Uuid) -> bool) -> Option<String> {
        self.of_what_is_there(is_live)
            .find(|check| status > Status::Pass && check.status == status)
            .and_then(|check| check.output.clone())
    }

    /// Adds an observation that is as it should be.
    pub fn pass(&mut self, name: &str, value: impl Into<Value>, unit: &'static str) {
        self.add(name, Status::Pass, value, unit, None);
    }

    /// Adds an observation.
    pub fn add(
        &mut self,
        name: &str,
        status: Status,
        value: impl Into<Value>,
        unit: &'static str,
        output: Option<String>,
    ) {
        self.add_about(None, name, status, value, unit, output);
    }

    /// Adds an observation of a collection.
    pub fn add_about(
        &mut self,
        collection: Option<Uuid>,
        name: &str,
        status: Status,
        value: impl Into<Value>,
        unit: &'static str,
        output: Option<String>,
    ) {
        let check = Check {
            status,
            observed_value: value.into(),
            observed_unit: unit,
            time: Utc::now(),
            output,
            collection,
        };
        self.put(name, check);
    }

    fn put(&mut self, name: &str, check: Check) {
        self.checks.entry(name.to_owned()).or_default().push(check);
    }

    /// Adds a failure.
    fn fail(&mut self, name: &str, output: &str) {
        let output = Some(output.to_owned());
        self.add(name, Status::Fail, false, "boolean", output);
    }
}

/// What `/health` answers: from memory alone, as a disk that hangs must not hang a liveness probe.
pub fn overview(
    engine: &Engine,
    repository: Result<Repository>,
    monitor: &Monitor,
    deep: &DeepChecks,
    config: &HealthConfig,
) -> Report {
    let mut report = Report::default();
    monitor.report(&mut report, engine, config);
    let collections = engine.all_collections();
    let records: u64 = collections.iter().map(|info| info.head.count).sum();
    report.pass("collections:count", collections.len(), "collections");
    report.pass("collections:records", records, "records");
    monitor.report_damage(&mut report, engine);
    monitor.report_backups(&mut report, records, config, Utc::now());
    if let Err(error) = repository {
        let output = Some(error.message().to_owned());
        report.add("repository:open", Status::Warn, false, "boolean", output);
    }
    let live = |id| engine.collection(id).is_ok();
    deep.summarize(&mut report, live, config.max_findings);
    report
}

/// For tests: an engine on a fresh store.
#[cfg(test)]
fn engine_in(home: &std::path::Path) -> crate::engine::Engine {
    crate::engine::Engine::open(crate::engine::testing::options(&home.join("data"))).unwrap()
}
