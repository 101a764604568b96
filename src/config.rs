//! Settings: the built-in baseline (`config.toml` of the repository), then a file, then the environment.
//! Checked once, at the start.

mod environments;
mod health;
mod layers;
mod listen;
mod log;
mod names;
mod places;
mod repository;
mod server;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::{Error, Result};
use layers::Layers;

pub use environments::EnvironmentConfig;
pub use health::HealthConfig;
pub use listen::ListenAddress;
pub use log::{LogConfig, LogFormat};
pub use repository::RepositoryConfig;
pub use server::{AccessConfig, ServerConfig, TlsConfig};

/// The commented baseline.
pub const BASELINE: &str = include_str!("../config.toml");

/// All settings; each is explained in `config.toml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(
    missing_docs,
    reason = "explained in config.toml, which is the baseline"
)]
pub struct Config {
    pub server: ServerConfig,
    pub access: AccessConfig,
    pub tls: TlsConfig,
    pub storage: StorageConfig,
    pub compaction: CompactionConfig,
    pub repository: RepositoryConfig,
    pub drill: DrillConfig,
    pub migration: MigrationConfig,
    #[serde(default)]
    pub environments: BTreeMap<String, EnvironmentConfig>,
    pub jobs: JobsConfig,
    pub query: QueryConfig,
    pub health: HealthConfig,
    pub metrics: MetricsConfig,
    pub log: LogConfig,
}

/// `[storage]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(
    missing_docs,
    reason = "explained in config.toml, which is the baseline"
)]
pub struct StorageConfig {
    pub data_dir: PathBuf,
    pub durability: DurabilityMode,
    pub sync_interval_ms: u64,
    pub cache_bytes: u64,
    pub accept_data_loss: bool,
    pub min_free_bytes: u64,
    pub sync_timeout_ms: u64,
    pub close_timeout_ms: u64,
    pub max_tombstones: u64,
    pub max_delete_step: usize,
    pub max_write_delay_ms: u64,
}

/// `storage.durability`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(
    missing_docs,
    reason = "explained in config.toml, which is the baseline"
)]
pub enum DurabilityMode {
    Always,
    Interval,
}

/// `[compaction]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(
    missing_docs,
    reason = "explained in config.toml, which is the baseline"
)]
pub struct CompactionConfig {
    pub ratio: f64,
    pub min_bytes: u64,
    pub check_interval_ms: u64,
    pub max_last_round: usize,
    pub max_rounds: usize,
}

/// `[drill]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(
    missing_docs,
    reason = "explained in config.toml, which is the baseline"
)]
pub struct DrillConfig {
    pub queries: usize,
    pub results: usize,
}

/// `[migration]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(
    missing_docs,
    reason = "explained in config.toml, which is the baseline"
)]
pub struct MigrationConfig {
    pub batch_records: usize,
    pub max_batch_records: usize,
    pub batch_bytes: usize,
    pub request_timeout_ms: u64,
    pub max_retries: usize,
    pub retry_timeout_ms: u64,
    pub max_requests: usize,
    pub max_answer_bytes: usize,
    pub probe_timeout_ms: u64,
    pub max_differences: usize,
    pub max_checkpoints: usize,
    pub checkpoint_kept_ms: u64,
}

/// `[jobs]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(
    missing_docs,
    reason = "explained in config.toml, which is the baseline"
)]
pub struct JobsConfig {
    pub workers: usize,
    pub backup_workers: usize,
    pub max_queued: usize,
    pub memory_bytes: u64,
    pub kept: usize,
    pub kept_ms: u64,
    pub wait_timeout_ms: u64,
    pub max_event_streams: usize,
    pub event_interval_ms: u64,
}

/// `[query]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(
    missing_docs,
    reason = "explained in config.toml, which is the baseline"
)]
pub struct QueryConfig {
    pub max_filter_depth: usize,
    pub max_filter_nodes: usize,
    pub max_regex_bytes: usize,
    pub max_results: usize,
    pub max_query_vectors: usize,
    pub max_batch_records: usize,
    pub max_ids: usize,
    pub max_answer_bytes: usize,
}

/// `[metrics]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(
    missing_docs,
    reason = "explained in config.toml, which is the baseline"
)]
pub struct MetricsConfig {
    pub refresh_interval_ms: u64,
}

/// Below this a disk that is merely busy would count as one that hangs.
const MIN_STORAGE_TIMEOUT_MS: u64 = 1_000;

/// As many as tokio's semaphores can count.
const MAX_COUNT: usize = tokio::sync::Semaphore::MAX_PERMITS;

impl Config {
    /// Loads baseline, file and environment.
    ///
    /// # Errors
    /// `InvalidArgument`, one line that names the key and where it is set, when a key is unknown or a value
    /// impossible, or the file cannot be read.
    pub fn load(file: Option<&Path>) -> Result<Self> {
        let variables = || {
            std::env::vars_os().filter_map(|(name, value)| {
                Some((name.into_string().ok()?, value.into_string().ok()?))
            })
        };
        names::check(variables().map(|(name, _)| name))?;
        let mut layers = Layers::baseline()?;
        if let Some(file) = file {
            let text = std::fs::read_to_string(file).map_err(|error| {
                Error::invalid(format!("configuration file {}: {error}", file.display()))
            })?;
            layers.add_file(file, &text)?;
        }
        layers.add_variables(variables());
        Self::of(layers)
    }

    /// The built-in baseline alone.
    ///
    /// # Errors
    /// None in a build whose tests pass.
    pub fn baseline() -> Result<Self> {
        Self::of(Layers::baseline()?)
    }

    fn of(layers: Layers) -> Result<Self> {
        let config: Self = layers.read()?;
        config.check()?;
        Ok(config)
    }

    /// Checks the directories that are configured as they lie on this machine: each is its own, and neither is
    /// somebody else's.
    ///
    /// # Errors
    /// `InvalidArgument`.
    pub fn check_places(&self) -> Result<()> {
        places::check(&self.storage.data_dir, &self.repository.url)
    }

    /// Whether the service may be reachable by others as it is configured; `addresses` are those that
    /// `server.listen` stands for.
    ///
    /// # Errors
    /// `InvalidArgument` where it listens beyond this machine and anybody could do anything.
    pub fn check_exposure(&self, addresses: &[SocketAddr]) -> Result<()> {
        let listen = &self.server.listen;
        let has_keys = self.access.key_sources().is_configured();
        let is_own = addresses.iter().all(|address| address.ip().is_loopback());
        if is_own || has_keys || self.access.allow_open {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "server.listen {listen} can be reached by others, and no keys are configured: set access.keys_file \
             (`vectorkeep key` makes keys), or say that anybody may do anything: access.allow_open = true"
        )))
    }

    fn check(&self) -> Result<()> {
        self.server.check()?;
        self.access.check()?;
        self.tls.check()?;
        self.check_counts()?;
        self.check_bounds()?;
        self.repository.check(self.jobs.memory_bytes)?;
        log::check_level(&self.log.level)?;
        self.health.check()
    }

    fn check_counts(&self) -> Result<()> {
        positive(&[
            ("storage.max_delete_step", self.storage.max_delete_step),
            ("jobs.workers", self.jobs.workers),
            ("jobs.backup_workers", self.jobs.backup_workers),
            ("jobs.max_queued", self.jobs.max_queued),
            ("jobs.kept", self.jobs.kept),
            ("jobs.max_event_streams", self.jobs.max_event_streams),
            ("drill.queries", self.drill.queries),
            ("drill.results", self.drill.results),
            ("migration.batch_records", self.migration.batch_records),
            ("migration.batch_bytes", self.migration.batch_bytes),
            ("migration.max_requests", self.migration.max_requests),
            ("migration.max_checkpoints", self.migration.max_checkpoints),
            ("migration.max_differences", self.migration.max_differences),
            ("query.max_filter_depth", self.query.max_filter_depth),
            ("query.max_filter_nodes", self.query.max_filter_nodes),
            ("query.max_regex_bytes", self.query.max_regex_bytes),
            ("query.max_results", self.query.max_results),
            ("query.max_query_vectors", self.query.max_query_vectors),
            ("query.max_batch_records", self.query.max_batch_records),
            ("query.max_ids", self.query.max_ids),
            ("query.max_answer_bytes", self.query.max_answer_bytes),
            (
                "migration.max_answer_bytes",
                self.migration.max_answer_bytes,
            ),
        ])?;
        positive(&[
            (
                "migration.request_timeout_ms",
                self.migration.request_timeout_ms,
            ),
            ("storage.sync_interval_ms", self.storage.sync_interval_ms),
        ])?;
        countable(&[
            ("storage.max_delete_step", self.storage.max_delete_step),
            ("jobs.workers", self.jobs.workers),
            ("jobs.backup_workers", self.jobs.backup_workers),
            ("jobs.max_event_streams", self.jobs.max_event_streams),
            ("migration.max_requests", self.migration.max_requests),
        ])
    }

    fn check_bounds(&self) -> Result<()> {
        if !(self.compaction.ratio == 0.0 || self.compaction.ratio >= 1.0) {
            return Err(Error::invalid("compaction.ratio must be 0 or at least 1"));
        }
        if self.migration.batch_records > self.migration.max_batch_records {
            return Err(Error::invalid(
                "migration.batch_records must not be above migration.max_batch_records",
            ));
        }
        if self.migration.max_checkpoints < self.jobs.workers {
            return Err(Error::invalid(
                "migration.max_checkpoints must not be below jobs.workers",
            ));
        }
        if self.storage.cache_bytes < 1_048_576 {
            return Err(Error::invalid(
                "storage.cache_bytes must be at least 1048576 bytes",
            ));
        }
        for (key, value) in [
            ("storage.sync_timeout_ms", self.storage.sync_timeout_ms),
            ("storage.close_timeout_ms", self.storage.close_timeout_ms),
        ] {
            if value < MIN_STORAGE_TIMEOUT_MS {
                return Err(Error::invalid(format!(
                    "{key} must be at least {MIN_STORAGE_TIMEOUT_MS} ms"
                )));
            }
        }
        if self.query.max_filter_depth > 256 {
            return Err(Error::invalid(
                "query.max_filter_depth must be at most 256 levels",
            ));
        }
        if self.health.disk_warn_bytes < self.storage.min_free_bytes {
            return Err(Error::invalid(format!(
                "health.disk_warn_bytes ({} bytes) must not be below storage.min_free_bytes ({} bytes): writes would be \
                 refused before anybody is warned",
                self.health.disk_warn_bytes, self.storage.min_free_bytes
            )));
        }
        Ok(())
    }
}

/// Refuses the first number that is more than anything could be counted out for.
fn countable(settings: &[(&str, usize)]) -> Result<()> {
    match settings.iter().find(|(_, value)| *value > MAX_COUNT) {
        Some((key, _)) => Err(Error::invalid(format!("{key} must be at most {MAX_COUNT}"))),
        None => Ok(()),
    }
}

/// Refuses the first setting that is 0.
fn positive<N: Default + PartialEq>(settings: &[(&str, N)]) -> Result<()> {
    match settings.iter().find(|(_, value)| *value == N::default()) {
        Some((key, _)) => Err(Error::invalid(format!("{key} must be at least 1"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(toml: &str) -> Result<Config> {
        let mut layers = Layers::baseline()?;
        layers.add_file(Path::new("settings.toml"), toml)?;
        Config::of(layers)
    }

    #[test]
    fn baseline_is_complete_and_allowed() {
        let config = with("").unwrap();
        assert_eq!(config.server.listen.to_string(), "127.0.0.1:8000");
        assert!(!config.server.allow_reset);
    }

    #[test]
    fn wrong_keys_and_values_are_named_in_one_line() {
        for (toml, named) in [
            ("[server]\nlisten_adress = 1", "listen_adress"),
            ("[sever]\nlisten = 1", "sever"),
            ("[server]\nbase_path = \"vectors/\"", "server.base_path"),
            ("[log]\nlevel = \"verbose\"", "log.level"),
            (
                "[health]\ndisk_warn_bytes = \"50MB\"\ndisk_fail_bytes = 1",
                "storage.min_free_bytes",
            ),
            ("[server]\nlisten = \"nowhere\"", "server.listen"),
            (
                "[storage]\ndurability = \"sometimes\"",
                "storage.durability",
            ),
            ("[jobs]\nworkers = 0", "jobs.workers"),
            ("[storage]\nsync_timeout_ms = 10", "storage.sync_timeout_ms"),
            (
                "[storage]\nclose_timeout_ms = 0",
                "storage.close_timeout_ms",
            ),
            ("[jobs]\nworkers = -1", "jobs.workers"),
            ("[jobs]\nbackup_workers = 0", "jobs.backup_workers"),
            (
                "[server]\nmax_concurrent_requests = 9000000000000000000",
                "server.max_concurrent_requests",
            ),
            (
                "[server]\nrequest_timeout_ms = 0",
                "server.request_timeout_ms",
            ),
            ("[health]\nmax_deep_checks = 0", "health.max_deep_checks"),
            (
                "[health]\nmonitor_interval_ms = 0",
                "health.monitor_interval_ms",
            ),
            (
                "[repository]\ncompression_level = 40",
                "repository.compression_level",
            ),
        ] {
            let error = with(toml).unwrap_err();
            assert!(error.message().contains(named), "{error}");
            assert!(!error.message().contains('\n'), "{error}");
        }
    }

    #[test]
    fn every_time_and_every_size_takes_a_unit() {
        let baseline = crate::settings::parse(BASELINE).unwrap();
        let mut seen = 0;
        for (section, keys) in baseline.as_object().unwrap() {
            for (key, value) in keys.as_object().into_iter().flatten() {
                let number = value.as_u64();
                let unit = match () {
                    () if key.ends_with("_ms") => "ms",
                    () if key.ends_with("_bytes") => "B",
                    () => continue,
                };
                let text = format!("{}{unit}", number.unwrap());
                with(&format!("[{section}]\n{key} = \"{text}\"")).unwrap();
                let error = with(&format!("[{section}]\n{key} = \"5 apples\"")).unwrap_err();
                assert!(
                    error.message().contains(&format!("{section}.{key}")),
                    "{error}"
                );
                seen += 1;
            }
        }
        assert!(seen > 40, "{seen} times and sizes");
        let config = with("[jobs]\nkept_ms = \"24h\"\nmemory_bytes = \"1GiB\"").unwrap();
        assert_eq!(
            (config.jobs.kept_ms, config.jobs.memory_bytes),
            (86_400_000, 1 << 30)
        );
    }

    #[test]
    fn a_message_says_where_a_wrong_value_stands() {
        let mut layers = Layers::baseline().unwrap();
        layers
            .add_file(
                Path::new("/etc/vectorkeep.toml"),
                "[jobs]\nworkers = -1\nkept = 5",
            )
            .unwrap();
        let error = Config::of(layers).unwrap_err();
        assert_eq!(
            error.message(),
            "configuration jobs.workers (/etc/vectorkeep.toml): it must be usize, not integer `-1`"
        );
        let mut layers = Layers::baseline().unwrap();
        layers
            .add_file(Path::new("/etc/vectorkeep.toml"), "[jobs]\nkept = 5")
            .unwrap();
        layers
            .add_variables([("VECTORKEEP__JOBS__KEPT".to_owned(), "many".to_owned())].into_iter());
        let error = Config::of(layers).unwrap_err();
        assert!(
            error
                .message()
                .contains("jobs.kept (VECTORKEEP__JOBS__KEPT)"),
            "{error}"
        );
        let error = with("[server]\nlisten_adress = 1").unwrap_err();
        assert!(!error.message().contains("``"), "{error}");
    }
}
