//! Settings of what listens: the server, who is let in, and TLS.

use std::path::PathBuf;

use serde::Deserialize;

use super::listen::ListenAddress;
use super::{countable, positive};
use crate::access::{KeyConfig, KeySources};
use crate::error::{Error, Result};

/// The process has somewhat more threads for calls that block; jobs and the repository need some as well.
const MAX_THREADS: usize = 512;

/// `[server]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(
    missing_docs,
    reason = "explained in config.toml, which is the baseline"
)]
pub struct ServerConfig {
    pub listen: ListenAddress,
    pub base_path: String,
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

impl ServerConfig {
    pub(super) fn check(&self) -> Result<()> {
        positive(&[
            ("server.max_body_bytes", self.max_body_bytes),
            ("server.max_receiving_bytes", self.max_receiving_bytes),
            ("server.max_connections", self.max_connections),
            ("server.max_threads", self.max_threads),
            (
                "server.max_concurrent_requests",
                self.max_concurrent_requests,
            ),
        ])?;
        positive(&[
            ("server.header_timeout_ms", self.header_timeout_ms),
            ("server.body_timeout_ms", self.body_timeout_ms),
            ("server.write_timeout_ms", self.write_timeout_ms),
            ("server.request_timeout_ms", self.request_timeout_ms),
            (
                "server.min_body_bytes_per_second",
                self.min_body_bytes_per_second,
            ),
        ])?;
        countable(&[
            (
                "server.max_concurrent_requests",
                self.max_concurrent_requests,
            ),
            ("server.max_receiving_bytes", self.max_receiving_bytes),
            ("server.max_connections", self.max_connections),
        ])?;
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._~/".contains(c);
        let is_path = self.base_path.starts_with('/')
            && !self.base_path.ends_with('/')
            && !self.base_path.contains("//")
            && self.base_path.chars().all(plain);
        if !(self.base_path.is_empty() || is_path) {
            return Err(Error::invalid(
                "server.base_path must be empty or a path such as \"/vectors\", without a slash at its end",
            ));
        }
        if self.max_threads > MAX_THREADS {
            return Err(Error::invalid(format!(
                "server.max_threads must be at most {MAX_THREADS} threads"
            )));
        }
        if self.max_receiving_bytes < self.max_body_bytes {
            return Err(Error::invalid(
                "server.max_receiving_bytes must not be below server.max_body_bytes",
            ));
        }
        Ok(())
    }
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

    pub(super) fn check(&self) -> Result<()> {
        positive(&[("access.max_keys", self.max_keys)])?;
        positive(&[("access.reload_interval_ms", self.reload_interval_ms)])
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

impl TlsConfig {
    pub(super) fn check(&self) -> Result<()> {
        positive(&[("tls.reload_interval_ms", self.reload_interval_ms)])?;
        if self.cert_file.is_some() != self.key_file.is_some() {
            return Err(Error::invalid("tls.cert_file and tls.key_file go together"));
        }
        Ok(())
    }
}
