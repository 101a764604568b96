//! Health checks that look at real bytes, and say how much they looked at. The worst status wins, and a
//! check that looked at nothing where there was something to look at has failed.

mod collections;
pub mod deep;
mod embeddings;
mod storage;

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde_json::Value;

use crate::config::HealthConfig;
use crate::engine::Engine;
use crate::error::Result;
use crate::repository::Repository;

pub use collections::check_collections;
pub use embeddings::{EmbeddingSelection, check_embeddings};
pub use storage::check_storage;

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
        self.checks.entry(name.to_owned()).or_default().push(Check {
            status,
            observed_value: value.into(),
            observed_unit: unit,
            time: Utc::now(),
            output,
        });
    }
}

/// What `/health` answers from memory: nothing here waits for a disk that may hang, but for one `statvfs`.
pub fn overview(engine: &Engine, repository: Result<Repository>, config: &HealthConfig) -> Report {
    let mut report = Report::default();
    storage::check_accepting(&mut report, engine, &repository);
    storage::check_disk(&mut report, engine, config);
    let collections = engine.all_collections();
    let records: u64 = collections.iter().map(|info| info.head.count).sum();
    report.pass("collections:count", collections.len(), "collections");
    report.pass("collections:records", records, "records");
    if let Err(error) = repository {
        let output = Some(error.message().to_owned());
        report.add("repository:open", Status::Warn, false, "boolean", output);
    }
    report
}
