//! Logging set-up.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt;

use crate::config::{LogConfig, LogFormat};
use crate::error::{Error, Result};

/// Where lines are logged that say who changed what; they are, whatever `log.level` says.
pub const AUDIT: &str = "vectorkeep::audit";

/// Starts logging to standard error. A second call is an error.
///
/// # Errors
/// `InvalidArgument` for a bad `log.level`.
pub fn start(config: &LogConfig) -> Result<()> {
    let bad = |error: String| Error::invalid(format!("configuration log.level: {error}"));
    let always = format!("{AUDIT}=info")
        .parse()
        .map_err(|error: ParseError| bad(error.to_string()))?;
    let filter = EnvFilter::try_new(&config.level)
        .map_err(|error| bad(error.to_string()))?
        .add_directive(always);
    let subscriber = fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match config.format {
        LogFormat::Pretty => subscriber.with_target(false).try_init(),
        LogFormat::Json => subscriber.json().flatten_event(true).try_init(),
    }
    .map_err(|error| Error::internal("logging cannot be started").because(error))
}
