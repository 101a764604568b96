//! Logging set-up.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{LevelFilter, ParseError};
use tracing_subscriber::fmt;

use crate::config::{LogConfig, LogFormat};
use crate::error::{Error, Result};

/// Where lines are logged that say who changed what; they are, whatever `log.level` says.
pub const AUDIT: &str = "vectorkeep::audit";

/// Whether `log.level` says how much is logged. A word that is no level would be taken for the name of a module, and
/// everything else would be silent.
///
/// # Errors
/// `InvalidArgument` that names the levels.
pub fn check_level(level: &str) -> Result<()> {
    let is_level = |word: &str| !word.is_empty() && word.parse::<LevelFilter>().is_ok();
    // A comma may also stand within [span{a=1,b=2}].
    let mut depth = 0_i32;
    let mut parts = level.split(|c: char| {
        depth += match c {
            '[' | '{' => 1,
            ']' | '}' => -1,
            _ => 0,
        };
        c == ',' && depth == 0
    });
    match parts.find(|part| !is_level(part.rsplit('=').next().unwrap_or_default().trim())) {
        None => Ok(()),
        Some(part) => Err(Error::invalid(format!(
            "configuration log.level: {part:?} is no level: off, error, warn, info, debug or trace, or a filter such as \
             \"info,vectorkeep::engine=debug\""
        ))),
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_that_is_no_level_is_refused_and_the_levels_are_named() {
        for level in [
            "info",
            "WARN",
            "off",
            "info,vectorkeep::engine=debug",
            "error, vectorkeep=trace",
            "warn,[request{id=1,path=2}]=debug",
        ] {
            check_level(level).unwrap();
        }
        for level in [
            "verbose",
            "infos",
            "",
            "info,",
            "info,loud",
            "vectorkeep=loud",
            "a=b=c=",
        ] {
            let error = check_level(level).unwrap_err();
            assert!(
                error
                    .message()
                    .contains("error, warn, info, debug or trace"),
                "{level}: {error}"
            );
        }
    }
}
