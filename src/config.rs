//! Settings: the built-in baseline (`config.toml` of the repository), then a file, then the environment.
//! Checked once, at the start.

mod health;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use figment::Figment;
use figment::providers::{Env, Format as _, Toml};
use serde::Deserialize;

use crate::access::{KeyConfig, KeySources};
use crate::environments::{EnvironmentKind, LOCAL, RemoteSettings, Token, TokenHeader};
use crate::error::{Error, Result};
use crate::model::names::{DEFAULT_DATABASE, DEFAULT_TENANT};
use crate::repository::check_url;

pub use health::HealthConfig;

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

/// `[server]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(
    missing_docs,
    reason = "explained in config.toml, which is the baseline"
)]
pub struct ServerConfig {
    pub listen: SocketAddr,
    pub allow_reset: bool,
    pub max_body_bytes: usize,
    pub max_receiving_bytes: usize,
    pub body_timeout_ms: u64,
    pub write_timeout_ms: u64,
    pub min_body_bytes_per_second: u64,
    pub max_concurrent_requests: usize,
    pub max_threads: usize,
    pub max_connections: usize,
    pub header_timeout_ms: u64,
    pub request_timeout_ms: u64,
    pub drain_delay_ms: u64,
    pub shutdown_grace_ms: u64,
    pub cors_allow_origins: Vec<String>,
}

/// `[access]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(
    missing_docs,
    reason = "explained in config.toml, which is the baseline"
)]
pub struct AccessConfig {
    pub keys_file: Option<PathBuf>,
    #[serde(default)]
    pub keys: Vec<KeyConfig>,
    pub max_keys: usize,
    pub reload_interval_ms: u64,
    pub allow_open: bool,
}

impl AccessConfig {
    /// Where keys come from.
    pub fn key_sources(&self) -> KeySources {
        KeySources {
            keys: self.keys.clone(),
            file: self.keys_file.clone(),
            max_keys: self.max_keys,
        }
    }
}

/// `[tls]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(
    missing_docs,
    reason = "explained in config.toml, which is the baseline"
)]
pub struct TlsConfig {
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
    pub reload_interval_ms: u64,
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

/// `[repository]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(
    missing_docs,
    reason = "explained in config.toml, which is the baseline"
)]
pub struct RepositoryConfig {
    pub url: String,
    pub compression_level: i32,
    pub pack_bytes: u64,
    pub pack_threads: usize,
    pub max_layers: usize,
    pub max_last_round: usize,
    pub max_rounds: usize,
    pub max_label_bytes: usize,
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

/// `[environments.NAME]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(
    missing_docs,
    reason = "explained in config.toml, which is the baseline"
)]
pub struct EnvironmentConfig {
    pub kind: EnvironmentKind,
    pub url: String,
    pub tenant: Option<String>,
    pub database: Option<String>,
    pub token_env: Option<String>,
    pub token_file: Option<PathBuf>,
    #[serde(default)]
    pub token_header: TokenHeader,
    pub ca_file: Option<PathBuf>,
}

impl EnvironmentConfig {
    /// Another instance, without a key.
    pub fn vectorkeep(url: &str) -> Self {
        Self {
            kind: EnvironmentKind::Vectorkeep,
            url: url.to_owned(),
            tenant: None,
            database: None,
            token_env: None,
            token_file: None,
            token_header: TokenHeader::default(),
            ca_file: None,
        }
    }

    /// How the place of this name is reached, with its secret.
    ///
    /// # Errors
    /// `InvalidArgument` that names what is wrong, and never the secret.
    pub fn settings(&self, name: &str) -> Result<RemoteSettings> {
        let bad = |what: String| Error::invalid(format!("environments.{name}: {what}"));
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if name == LOCAL || name.is_empty() || !name.chars().all(plain) {
            return Err(bad(
                "a name is letters, digits, - and _, and \"local\" is this store".to_owned(),
            ));
        }
        if self.kind == EnvironmentKind::Local {
            return Err(bad("kind must be \"vectorkeep\" or \"chroma\"".to_owned()));
        }
        let secret = match (&self.token_env, &self.token_file) {
            (Some(_), Some(_)) => {
                return Err(bad("token_env and token_file exclude each other".to_owned()));
            }
            (Some(variable), None) => Some(
                std::env::var(variable)
                    .map_err(|_| bad(format!("token_env: there is no variable {variable}")))?,
            ),
            (None, Some(file)) => Some(
                std::fs::read_to_string(file)
                    .map_err(|error| bad(format!("token_file {}: {error}", file.display())))?,
            ),
            (None, None) => None,
        };
        let secret = secret.map(|secret| secret.trim().to_owned());
        if secret.as_ref().is_some_and(String::is_empty) {
            return Err(bad("the token is empty".to_owned()));
        }
        let or = |given: &Option<String>, default: &str| {
            given.clone().unwrap_or_else(|| default.to_owned())
        };
        Ok(RemoteSettings {
            kind: self.kind,
            url: self.url.clone(),
            tenant: or(&self.tenant, DEFAULT_TENANT),
            database: or(&self.database, DEFAULT_DATABASE),
            token: secret.map(|secret| Token {
                secret,
                header: self.token_header,
            }),
            ca_file: self.ca_file.clone(),
        })
    }
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

impl Config {
    /// Loads baseline, file and environment.
    ///
    /// # Errors
    /// `InvalidArgument`, one line that names the key, when a key is unknown or a value impossible, or the
    /// file cannot be read.
    pub fn load(file: Option<&Path>) -> Result<Self> {
        let mut figment = Figment::from(Toml::string(BASELINE));
        if let Some(file) = file {
            let text = std::fs::read_to_string(file).map_err(|error| {
                Error::invalid(format!("configuration file {}: {error}", file.display()))
            })?;
            figment = figment.merge(Toml::string(&text));
        }
        let config: Self = figment
            .merge(Env::prefixed("VECTORKEEP__").split("__"))
            .extract()
            .map_err(|error| Error::invalid(one_line(&error)))?;
        config.check()?;
        Ok(config)
    }

    /// The built-in baseline alone.
    ///
    /// # Errors
    /// None in a build whose tests pass.
    pub fn baseline() -> Result<Self> {
        Figment::from(Toml::string(BASELINE))
            .extract()
            .map_err(|error| Error::invalid(one_line(&error)))
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
        let positive = [
            ("server.max_body_bytes", self.server.max_body_bytes),
            (
                "server.max_receiving_bytes",
                self.server.max_receiving_bytes,
            ),
            ("server.max_connections", self.server.max_connections),
            ("server.max_threads", self.server.max_threads),
            ("access.max_keys", self.access.max_keys),
            (
                "server.max_concurrent_requests",
                self.server.max_concurrent_requests,
            ),
            ("jobs.workers", self.jobs.workers),
            ("jobs.max_queued", self.jobs.max_queued),
            ("jobs.kept", self.jobs.kept),
            ("jobs.max_event_streams", self.jobs.max_event_streams),
            ("drill.queries", self.drill.queries),
            ("migration.batch_records", self.migration.batch_records),
            ("migration.batch_bytes", self.migration.batch_bytes),
            ("migration.max_requests", self.migration.max_requests),
            ("migration.max_checkpoints", self.migration.max_checkpoints),
            ("migration.max_differences", self.migration.max_differences),
            ("drill.results", self.drill.results),
            ("repository.pack_threads", self.repository.pack_threads),
            ("repository.max_layers", self.repository.max_layers),
            ("repository.max_uploads", self.repository.max_uploads),
            ("repository.max_requests", self.repository.max_requests),
            ("query.max_filter_depth", self.query.max_filter_depth),
            ("query.max_filter_nodes", self.query.max_filter_nodes),
            ("query.max_regex_bytes", self.query.max_regex_bytes),
            ("query.max_results", self.query.max_results),
            ("query.max_query_vectors", self.query.max_query_vectors),
            ("query.max_batch_records", self.query.max_batch_records),
            ("query.max_ids", self.query.max_ids),
            ("query.max_answer_bytes", self.query.max_answer_bytes),
        ];
        if let Some((key, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(Error::invalid(format!("{key} must be at least 1")));
        }
        self.check_server()?;
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
        self.check_repository()?;
        if self.storage.cache_bytes < 1_048_576 {
            return Err(Error::invalid(
                "storage.cache_bytes must be at least 1048576",
            ));
        }
        if self.query.max_filter_depth > 256 {
            return Err(Error::invalid("query.max_filter_depth must be at most 256"));
        }
        self.health.check()?;
        Ok(())
    }

    fn check_server(&self) -> Result<()> {
        let times = [
            ("server.header_timeout_ms", self.server.header_timeout_ms),
            ("server.body_timeout_ms", self.server.body_timeout_ms),
            ("server.write_timeout_ms", self.server.write_timeout_ms),
            (
                "server.min_body_bytes_per_second",
                self.server.min_body_bytes_per_second,
            ),
            ("access.reload_interval_ms", self.access.reload_interval_ms),
            ("tls.reload_interval_ms", self.tls.reload_interval_ms),
        ];
        if let Some((key, _)) = times.iter().find(|(_, value)| *value == 0) {
            return Err(Error::invalid(format!("{key} must be at least 1")));
        }
        if self.server.max_receiving_bytes < self.server.max_body_bytes {
            return Err(Error::invalid(
                "server.max_receiving_bytes must not be below server.max_body_bytes",
            ));
        }
        if self.tls.cert_file.is_some() != self.tls.key_file.is_some() {
            return Err(Error::invalid("tls.cert_file and tls.key_file go together"));
        }
        Ok(())
    }

    fn check_repository(&self) -> Result<()> {
        check_url(&self.repository.url)?;
        if !(1..=22).contains(&self.repository.compression_level) {
            return Err(Error::invalid(
                "repository.compression_level must be 1 to 22",
            ));
        }
        if !(65_536..=268_435_456).contains(&self.repository.pack_bytes) {
            return Err(Error::invalid(
                "repository.pack_bytes must be 65536 to 268435456",
            ));
        }
        // Rows and what they become, on each thread and where they are gathered.
        let written = self
            .repository
            .pack_threads
            .saturating_mul(4)
            .saturating_add(2);
        let packs = u64::try_from(written.max(self.repository.max_layers)).unwrap_or(u64::MAX);
        if packs.saturating_mul(self.repository.pack_bytes) > self.jobs.memory_bytes {
            return Err(Error::invalid(
                "repository.pack_bytes times repository.max_layers, or times 4 for each of repository.pack_threads, \
                 must not be above jobs.memory_bytes",
            ));
        }
        if self.repository.lock_stale_ms < 1_000 {
            return Err(Error::invalid(
                "repository.lock_stale_ms must be at least 1000",
            ));
        }
        Ok(())
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
        let config: Config = Figment::from(Toml::string(BASELINE))
            .merge(Toml::string(toml))
            .extract()
            .map_err(|error| Error::invalid(one_line(&error)))?;
        config.check()?;
        Ok(config)
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
            ("[server]\nlisten = \"nowhere\"", "server.listen"),
            (
                "[storage]\ndurability = \"sometimes\"",
                "storage.durability",
            ),
            ("[jobs]\nworkers = 0", "jobs.workers"),
            ("[jobs]\nworkers = -1", "jobs.workers"),
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
