//! Settings of health checks.

use serde::Deserialize;

use super::positive;
use crate::error::{Error, Result};

/// `[health]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(
    missing_docs,
    reason = "explained in config.toml, which is the baseline"
)]
pub struct HealthConfig {
    pub disk_warn_bytes: u64,
    pub disk_fail_bytes: u64,
    pub embedding_sample: usize,
    pub max_findings: usize,
    pub max_duplicate_entries: usize,
    pub write_latency_warn_ms: u64,
    pub deep_timeout_ms: u64,
    pub deep_max_age_ms: u64,
    pub max_deep_checks: usize,
    pub monitor_interval_ms: u64,
    pub scrub_interval_ms: u64,
    pub backup_objective_ms: u64,
}

impl HealthConfig {
    pub(super) fn check(&self) -> Result<()> {
        positive(&[
            ("health.embedding_sample", self.embedding_sample),
            ("health.max_duplicate_entries", self.max_duplicate_entries),
            ("health.max_deep_checks", self.max_deep_checks),
        ])?;
        if self.disk_fail_bytes > self.disk_warn_bytes {
            return Err(Error::invalid(
                "health.disk_fail_bytes must not be above health.disk_warn_bytes",
            ));
        }
        if self.monitor_interval_ms < 10 {
            return Err(Error::invalid(
                "health.monitor_interval_ms must be at least 10 ms",
            ));
        }
        Ok(())
    }
}
