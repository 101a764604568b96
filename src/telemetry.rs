//! Logging set-up.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;

use crate::config::{LogConfig, LogFormat};
use crate::error::{Error, Result};

/// Starts logging to standard error. A second call is an error.
///
/// # Errors
/// `InvalidArgument` for a bad `log.level`.
pub fn start(config: &LogConfig) -> Result<()> {
    let filter = EnvFilter::try_new(&config.level)
        .map_err(|error| Error::invalid(format!("configuration log.level: {error}")))?;
    let subscriber = fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match config.format {
        LogFormat::Pretty => subscriber.with_target(false).try_init(),
        LogFormat::Json => subscriber.json().flatten_event(true).try_init(),
    }
    .map_err(|error| Error::internal("logging cannot be started").because(error))
}
