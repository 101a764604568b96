//! Settings of the backup repository.

use std::path::PathBuf;

use serde::Deserialize;

use super::{countable, positive};
use crate::error::{Error, Result};
use crate::repository::check_url;

/// `[repository]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(
    missing_docs,
    reason = "explained in config.toml, which is the baseline"
)]
pub struct RepositoryConfig {
    pub url: String,
    pub begin_new: bool,
    pub compression_level: i32,
    pub pack_bytes: u64,
    pub pack_threads: usize,
    pub max_layers: usize,
    pub max_last_round: usize,
    pub max_rounds: usize,
    pub max_label_bytes: usize,
    pub max_manifest_bytes: u64,
    pub grace_ms: u64,
    pub sweep_interval_ms: u64,
    pub lock_wait_ms: u64,
    pub lock_stale_ms: u64,
    pub max_uploads: usize,
    pub max_import_bytes: u64,
    pub max_import_collections: usize,
    pub max_import_record_bytes: u64,
    pub credentials_file: Option<PathBuf>,
    pub request_timeout_ms: u64,
    pub max_retries: usize,
    pub max_requests: usize,
    pub retry_timeout_ms: u64,
}

impl RepositoryConfig {
    /// `jobs.memory_bytes` is what one job may take.
    pub(super) fn check(&self, job_memory_bytes: u64) -> Result<()> {
        positive(&[
            ("repository.pack_threads", self.pack_threads),
            ("repository.max_layers", self.max_layers),
            ("repository.max_uploads", self.max_uploads),
            ("repository.max_requests", self.max_requests),
        ])?;
        positive(&[("repository.request_timeout_ms", self.request_timeout_ms)])?;
        countable(&[
            ("repository.max_uploads", self.max_uploads),
            ("repository.max_requests", self.max_requests),
        ])?;
        check_url(&self.url)?;
        if !(1..=22).contains(&self.compression_level) {
            return Err(Error::invalid(
                "repository.compression_level must be 1 to 22",
            ));
        }
        if !(65_536..=268_435_456).contains(&self.pack_bytes) {
            return Err(Error::invalid(
                "repository.pack_bytes must be 65536 to 268435456 bytes",
            ));
        }
        // Rows and what they become, on each thread and where they are gathered.
        let written = self.pack_threads.saturating_mul(4).saturating_add(2);
        let packs = u64::try_from(written.max(self.max_layers)).unwrap_or(u64::MAX);
        if packs.saturating_mul(self.pack_bytes) > job_memory_bytes {
            return Err(Error::invalid(
                "repository.pack_bytes times repository.max_layers, or times 4 for each of repository.pack_threads and \
                 2 more, must not be above jobs.memory_bytes",
            ));
        }
        if self.max_manifest_bytes < 65_536 {
            return Err(Error::invalid(
                "repository.max_manifest_bytes must be at least 65536 bytes",
            ));
        }
        if self.lock_stale_ms < 1_000 {
            return Err(Error::invalid(
                "repository.lock_stale_ms must be at least 1000 ms",
            ));
        }
        Ok(())
    }
}
