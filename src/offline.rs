//! What can be done with a repository alone: no service runs, no store is there, nothing is written.

use serde::Deserialize as _;
use serde::de::IntoDeserializer as _;
use serde::de::value::Error as ValueError;
use tokio::runtime::Handle;

use crate::app::repository_options;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::model::selector::Selector;
use crate::operations::verify::{self, VerificationOutcome};
use crate::progress::Progress;
use crate::repository::format::{Summary, VerificationLevel};
use crate::repository::{Repository, Standing};

/// The backups of a repository.
#[derive(Debug)]
pub struct Listing {
    /// Newest first, each with what is known of it.
    pub backups: Vec<(Summary, Standing)>,
    /// Ids whose manifest is damaged, and how.
    pub damaged: Vec<(String, Error)>,
}

/// All backups of a repository. Blocks.
///
/// # Errors
/// `NotFound` when there is no repository, `StorageFault` when it cannot be read.
pub fn list(config: &Config, runtime: Handle) -> Result<Listing> {
    let repository = Repository::open_existing(&repository_options(config), runtime)?;
    let (backups, damaged) = repository.backups()?;
    Ok(Listing {
        backups: repository.judged(backups)?,
        damaged: damaged.into_iter().collect(),
    })
}

/// Verifies a backup: an id, `latest`, or `before:` and a time. Blocks.
///
/// # Errors
/// `NotFound` when there is no repository or no such backup, `StorageFault` when it cannot be read.
pub fn verify(
    config: &Config,
    backup: &str,
    level: VerificationLevel,
    runtime: Handle,
) -> Result<VerificationOutcome> {
    let mut options = repository_options(config);
    // Nothing is written to a data directory that no service runs on.
    options.limits.scratch = std::env::temp_dir();
    let repository = Repository::open_existing(&options, runtime)?;
    // One that is named is verified whatever its manifest is like.
    let id = repository.select(&Selector::parse(backup)?)?;
    verify::check(&repository, &id, level, &Progress::default())
}

/// The level of a name.
///
/// # Errors
/// `InvalidArgument`.
pub fn level(name: &str) -> Result<VerificationLevel> {
    let name = name.into_deserializer();
    VerificationLevel::deserialize(name)
        .map_err(|error: ValueError| Error::invalid(error.to_string()))
}
