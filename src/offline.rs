//! What can be done with a repository alone: no service runs, no store is there, nothing is written.

use std::fmt::Write as _;

use serde::Deserialize as _;
use serde::de::IntoDeserializer as _;
use serde::de::value::Error as ValueError;
use tokio::runtime::Handle;

use crate::app::repository_options;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::operations::verify::{self, VerificationOutcome};
use crate::progress::Progress;
use crate::repository::Repository;
use crate::repository::format::VerificationLevel;

/// A line for each backup, newest first: id, kind, records, stored bytes, newest verification. Damaged
/// manifests come last, each with what is wrong. Blocks.
///
/// # Errors
/// `NotFound` when there is no repository, `StorageFault` when it cannot be read.
pub fn list(config: &Config, runtime: Handle) -> Result<String> {
    let repository = Repository::open_existing(&repository_options(config), runtime)?;
    let (manifests, damaged) = repository.backups()?;
    let mut lines = String::new();
    for manifest in manifests {
        let verified = match repository.verification(&manifest.id)? {
            None => "never verified".to_owned(),
            Some(verification) => format!(
                "{} at {} ({:?})",
                if verification.ok { "sound" } else { "DAMAGED" },
                verification.at.format("%Y-%m-%d %H:%M:%S"),
                verification.level
            ),
        };
        let _ = writeln!(
            lines,
            "{}  {:11}  {:>10} records  {:>13} bytes  {verified}",
            manifest.id,
            manifest.kind,
            manifest.records(),
            manifest.stored_bytes()
        );
    }
    for (id, error) in damaged {
        let _ = writeln!(lines, "{id}  DAMAGED: {error}");
    }
    Ok(lines)
}

/// Verifies a backup (`latest`: the newest); its id and what was found. Blocks.
///
/// # Errors
/// `NotFound` when there is no repository or no such backup, `StorageFault` when it cannot be read.
pub fn verify(
    config: &Config,
    backup: &str,
    level: VerificationLevel,
    runtime: Handle,
) -> Result<(String, VerificationOutcome)> {
    let repository = Repository::open_existing(&repository_options(config), runtime)?;
    // One that is named is verified whatever its manifest is like.
    let id = match backup {
        "latest" => repository.latest()?.id,
        id => id.to_owned(),
    };
    let outcome = verify::check(&repository, &id, level, &Progress::default())?;
    Ok((id, outcome))
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
