//! Settings: the built-in baseline (`config.toml` of the repository), then a file, then the environment.
//! Checked once, at the start.

mod environments;
mod health;
mod repository;
mod server;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use figment::Figment;
use figment::providers::{Env, Format as _, Toml};
use serde::Deserialize;

use crate::error::{Error, Result};

pub use environments::EnvironmentConfig;
pub use health::HealthConfig;
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
    pub max_tombstones: u64,
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

/// `[log]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(
    missing_docs,
    reason = "explained in config.toml, which is the baseline"
)]
pub struct LogConfig {
    pub format: LogFormat,
    pub level: String,
}

/// `log.format`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(
    missing_docs,
    reason = "explained in config.toml, which is the baseline"
)]
pub enum LogFormat {
    Pretty,
    Json,
}

/// As many as tokio's semaphores can count.
const MAX_COUNT: usize = tokio::sync::Semaphore::MAX_PERMITS;

impl Config {
    /// Loads baseline, file and environment.
    ///
    /// # Errors
    /// `InvalidArgument`, one line that names the key, when a key is unknown or a value impossible, or the
    /// file cannot be read.
    pub fn load(file: Option<&Path>) -> Result<Self> {
        check_names(std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()))?;
        let mut figment = Figment::from(Toml::string(BASELINE));
        if let Some(file) = file {
            let text = std::fs::read_to_string(file).map_err(|error| {
                Error::invalid(format!("configuration file {}: {error}", file.display()))
            })?;
            figment = figment.merge(Toml::string(&text));
        }
        Self::of(&figment.merge(Env::prefixed("VECTORKEEP__").split("__")))
    }

    /// The built-in baseline alone.
    ///
    /// # Errors
    /// None in a build whose tests pass.
    pub fn baseline() -> Result<Self> {
        Self::of(&Figment::from(Toml::string(BASELINE)))
    }

    fn of(figment: &Figment) -> Result<Self> {
        let config: Self = figment
            .extract()
            .map_err(|error| Error::invalid(one_line(&error)))?;
        config.check()?;
        Ok(config)
    }

    /// Whether the service may be reachable by others as it is configured.
    ///
    /// # Errors
    /// `InvalidArgument` where it listens beyond this machine and anybody could do anything.
    pub fn check_exposure(&self) -> Result<()> {
        let listen = self.server.listen;
        let has_keys = self.access.key_sources().is_configured();
        if listen.ip().is_loopback() || has_keys || self.access.allow_open {
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
        positive(&[
            ("jobs.workers", self.jobs.workers),
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
            ("jobs.workers", self.jobs.workers),
            ("jobs.max_event_streams", self.jobs.max_event_streams),
            ("migration.max_requests", self.migration.max_requests),
        ])?;
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
        self.repository.check(self.jobs.memory_bytes)?;
        if self.storage.cache_bytes < 1_048_576 {
            return Err(Error::invalid(
                "storage.cache_bytes must be at least 1048576",
            ));
        }
        if self.query.max_filter_depth > 256 {
            return Err(Error::invalid("query.max_filter_depth must be at most 256"));
        }
        self.health.check()
    }
}

/// Refuses the first number that is more than anything could be counted out for.
fn countable(settings: &[(&str, usize)]) -> Result<()> {
    match settings.iter().find(|(_, value)| *value > MAX_COUNT) {
        Some((key, _)) => Err(Error::invalid(format!("{key} must be at most {MAX_COUNT}"))),
        None => Ok(()),
    }
}

/// What looks like a setting and is none is not passed over. Other names with this beginning are somebody else's: in
/// a cluster every process finds VECTORKEEP_PORT, VECTORKEEP_SERVICE_HOST and more.
fn check_names(names: impl Iterator<Item = String>) -> Result<()> {
    type Sections = BTreeMap<String, BTreeMap<String, figment::value::Value>>;
    let baseline = Figment::from(Toml::string(BASELINE));
    let baseline: Sections = baseline
        .extract()
        .map_err(|error| Error::invalid(one_line(&error)))?;
    let known = |name: &str| {
        baseline.iter().find_map(|(section, keys)| {
            let key = name.strip_prefix(section)?.strip_prefix('_')?;
            keys.contains_key(key).then(|| format!("{section}__{key}"))
        })
    };
    for name in names {
        let Some(rest) = name.strip_prefix("VECTORKEEP_") else {
            continue;
        };
        if let Some(meant) = known(&rest.to_ascii_lowercase()) {
            return Err(Error::invalid(format!(
                "{name} is no setting: it is VECTORKEEP__{}, with two underscores",
                meant.to_ascii_uppercase()
            )));
        }
    }
    Ok(())
}

/// Refuses the first setting that is 0.
fn positive<N: Default + PartialEq>(settings: &[(&str, N)]) -> Result<()> {
    match settings.iter().find(|(_, value)| *value == N::default()) {
        Some((key, _)) => Err(Error::invalid(format!("{key} must be at least 1"))),
        None => Ok(()),
    }
}

/// figment's error in one line that begins with the key. What was found there is not shown: it may be a secret, or
/// stand beside one.
pub(crate) fn one_line(error: &figment::Error) -> String {
    use figment::error::Kind;
    let key = error.path.join(".");
    let secret = key == "access" || key.starts_with("access.") || key.starts_with("keys");
    let text = match &error.kind {
        Kind::InvalidType(_, expected) if secret => format!("it must be {expected}"),
        Kind::InvalidValue(_, expected) if secret => format!("it must be {expected}"),
        // A parser shows the line; its first and last words say where and what.
        Kind::Message(text) => {
            let mut lines = text.lines().filter(|line| !line.contains('|'));
            let first = lines.next().unwrap_or_default();
            match lines.next_back() {
                Some(last) => format!("{first}: {last}"),
                None => first.to_owned(),
            }
        }
        other => other.to_string().replace('\n', " "),
    };
    if key.is_empty() {
        format!("configuration: {text}")
    } else {
        format!("configuration {key}: {text}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(toml: &str) -> Result<Config> {
        Config::of(&Figment::from(Toml::string(BASELINE)).merge(Toml::string(toml)))
    }

    #[test]
    fn baseline_is_complete_and_allowed() {
        let config = with("").unwrap();
        assert_eq!(config.server.listen.to_string(), "127.0.0.1:8000");
        assert!(!config.server.allow_reset);
    }

    #[test]
    fn a_setting_with_one_underscore_is_refused_and_a_clusters_names_are_not() {
        let check = |name: &str| check_names([name.to_owned()].into_iter());
        let refused = check("VECTORKEEP_SERVER_MAX_BODY_BYTES").unwrap_err();
        assert!(
            refused
                .message()
                .contains("VECTORKEEP__SERVER__MAX_BODY_BYTES"),
            "{refused}"
        );
        for name in [
            "VECTORKEEP_PORT",
            "VECTORKEEP_SERVICE_HOST",
            "VECTORKEEP_PORT_8000_TCP_ADDR",
            "VECTORKEEP_URL",
            "VECTORKEEP__SERVER__LISTEN",
            "PATH",
        ] {
            check(name).unwrap();
        }
    }

    #[test]
    fn wrong_keys_and_values_are_named_in_one_line() {
        for (toml, named) in [
            ("[server]\nlisten_adress = 1", "listen_adress"),
            ("[sever]\nlisten = 1", "sever"),
            ("[server]\nlisten = \"nowhere\"", "server.listen"),
            (
                "[storage]\ndurability = \"sometimes\"",
                "storage.durability",
            ),
            ("[jobs]\nworkers = 0", "jobs.workers"),
            ("[jobs]\nworkers = -1", "jobs.workers"),
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
}
