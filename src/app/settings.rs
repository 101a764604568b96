//! What operations are told of the configuration.

use std::time::Duration;

use tokio::runtime::Handle;

use super::{App, temporary};
use crate::background::processors;
use crate::config::{Config, DurabilityMode, JobsConfig, StorageConfig};
use crate::engine::{CatchUp, Durability, EngineOptions, OpenOptions};
use crate::environments::{BatchSize, Environments, RemoteLimits};
use crate::error::Result;
use crate::jobs::JobLimits;
use crate::model::filter;
use crate::operations::backup::BackupSettings;
use crate::operations::drill::DrillSettings;
use crate::operations::import::ImportSettings;
use crate::operations::migrate::MigrateSettings;
use crate::operations::restore::RestoreSettings;

/// How the engine runs.
pub(super) fn engine(storage: &StorageConfig) -> EngineOptions {
    EngineOptions {
        store: OpenOptions {
            data_dir: storage.data_dir.clone(),
            cache_bytes: storage.cache_bytes,
            accept_data_loss: storage.accept_data_loss,
            min_free_bytes: storage.min_free_bytes,
            sync_timeout: Duration::from_millis(storage.sync_timeout_ms),
        },
        durability: match storage.durability {
            DurabilityMode::Always => Durability::Always,
            DurabilityMode::Interval => {
                Durability::Interval(Duration::from_millis(storage.sync_interval_ms))
            }
        },
        max_tombstones: storage.max_tombstones,
        max_delete_step: storage.max_delete_step,
        max_write_delay: Duration::from_millis(storage.max_write_delay_ms),
    }
}

/// Bounds on jobs.
pub(super) fn job_limits(jobs: &JobsConfig) -> JobLimits {
    JobLimits {
        workers: jobs.workers,
        backup_workers: jobs.backup_workers,
        max_queued: jobs.max_queued,
        kept: jobs.kept,
        kept_for: Duration::from_millis(jobs.kept_ms),
    }
}

impl App {
    /// Settings of an import.
    pub fn import_settings(&self) -> ImportSettings {
        let config = &self.inner.config;
        ImportSettings {
            packs: self.backup_settings().packs(),
            max_record_bytes: config.repository.max_import_record_bytes,
            max_bytes: config.repository.max_import_bytes,
            memory_bytes: config.jobs.memory_bytes,
            scratch: temporary::directory(&config.storage.data_dir),
            max_label_bytes: config.repository.max_label_bytes,
            max_collections: config.repository.max_import_collections,
            num_threads: processors(),
        }
    }

    /// Settings of a backup.
    pub fn backup_settings(&self) -> BackupSettings {
        let repository = &self.inner.config.repository;
        BackupSettings {
            compression_level: repository.compression_level,
            pack_bytes: repository.pack_bytes,
            pack_threads: repository.pack_threads,
            max_layers: repository.max_layers,
            max_label_bytes: repository.max_label_bytes,
            catch_up: self.catch_up(),
        }
    }

    /// Settings of a migration.
    pub fn migrate_settings(&self) -> MigrateSettings {
        let config = &self.inner.config.migration;
        MigrateSettings {
            process: self.inner.process,
            running: self.inner.migrations.clone(),
            environments: self.inner.environments.clone(),
            restore: self.restore_settings(),
            batch: BatchSize {
                records: config.batch_records,
                bytes: config.batch_bytes,
            },
            max_batch_records: config.max_batch_records,
            max_differences: config.max_differences,
            max_checkpoints: config.max_checkpoints,
            checkpoint_kept: Duration::from_millis(config.checkpoint_kept_ms),
        }
    }

    /// Settings of a drill.
    pub fn drill_settings(&self) -> DrillSettings {
        let config = &self.inner.config.drill;
        DrillSettings {
            queries: config.queries,
            results: config.results,
        }
    }

    /// Settings of a restore.
    pub fn restore_settings(&self) -> RestoreSettings {
        RestoreSettings {
            catch_up: self.catch_up(),
            scratch: temporary::directory(&self.inner.config.storage.data_dir),
        }
    }

    /// Bounds of a backup's, a migration's and a fork's catching up.
    pub fn catch_up(&self) -> CatchUp {
        let repository = &self.inner.config.repository;
        CatchUp {
            max_last_round: repository.max_last_round,
            max_rounds: repository.max_rounds,
        }
    }

    /// Bounds of a compaction's catching up.
    pub fn compaction_catch_up(&self) -> CatchUp {
        let config = &self.inner.config.compaction;
        CatchUp {
            max_last_round: config.max_last_round,
            max_rounds: config.max_rounds,
        }
    }

    /// Bounds of filters.
    pub fn filter_limits(&self) -> filter::Limits {
        let query = &self.inner.config.query;
        filter::Limits {
            max_depth: query.max_filter_depth,
            max_nodes: query.max_filter_nodes,
            max_regex_bytes: query.max_regex_bytes,
        }
    }
}

/// Clients of the configured environments.
pub(super) fn environments(config: &Config, runtime: &Handle) -> Result<Environments> {
    let migration = &config.migration;
    let limits = RemoteLimits {
        request_timeout: Duration::from_millis(migration.request_timeout_ms),
        max_retries: migration.max_retries,
        retry_timeout: Duration::from_millis(migration.retry_timeout_ms),
        max_requests: migration.max_requests,
        max_request_bytes: migration.batch_bytes,
        max_answer_bytes: migration.max_answer_bytes,
        probe_timeout: Duration::from_millis(migration.probe_timeout_ms),
    };
    let settings = config.environments.iter();
    let settings: Result<_> = settings
        .map(|(name, found)| Ok((name.clone(), found.settings(name)?)))
        .collect();
    Environments::open(settings?, &limits, runtime)
}
