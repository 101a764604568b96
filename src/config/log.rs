//! `[log]`, and which levels there are.

use serde::Deserialize;
use tracing_subscriber::filter::LevelFilter;

use crate::error::{Error, Result};

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

/// Whether `log.level` says how much is logged. A word that is no level would be taken for the name of a module, and
/// everything else would be silent.
///
/// # Errors
/// `InvalidArgument` that names the levels.
pub(super) fn check_level(level: &str) -> Result<()> {
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
