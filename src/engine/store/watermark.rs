//! The small file beside the store that says how far it was once synced.
//!
//! sled opens a missing file as an empty database and rolls a truncated one back without a word; this
//! file is what such a loss is noticed by. It is written after a sync, at most about once a second, so a
//! rollback of the last second can pass unnoticed.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::Path;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::{Error, Result};

const FILE: &str = "vectorkeep.json";
const TEMPORARY: &str = "vectorkeep.json.new";

/// Content of the file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Watermark {
    /// Version of the store's format.
    pub(super) format: u32,
    /// The store this belongs to.
    pub(super) store_id: Uuid,
    /// Where the store lies, below the data directory.
    pub(super) directory: String,
    /// Everything up to here was synced.
    pub(super) synced_sequence: u64,
    /// Bytes that the data file had then; 0: written by a version that did not note it.
    #[serde(default)]
    pub(super) log_bytes: u64,
}

impl Watermark {
    /// Reads the file; `None` when there is none.
    pub(super) fn read(data_dir: &Path) -> Result<Option<Self>> {
        let path = data_dir.join(FILE);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(
                    Error::storage(format!("{} cannot be read: {error}", path.display()))
                        .because(error),
                );
            }
        };
        serde_json::from_slice(&text).map(Some).map_err(|error| {
            Error::storage(format!(
                "{} is damaged ({error}); restore the data directory from a backup, or set \
                 storage.accept_data_loss = true and remove this file to go on with whatever the store holds",
                path.display()
            ))
        })
    }

    /// Replaces the file, synced, in one step.
    pub(super) fn write(&self, data_dir: &Path) -> Result<()> {
        let replace = || -> std::io::Result<()> {
            let temporary = data_dir.join(TEMPORARY);
            let mut file = File::create(&temporary)?;
            file.write_all(&serde_json::to_vec_pretty(self)?)?;
            file.sync_all()?;
            fs::rename(&temporary, data_dir.join(FILE))?;
            File::open(data_dir)?.sync_all()
        };
        replace().map_err(|error| {
            Error::storage(format!("{FILE} cannot be written: {error}")).because(error)
        })
    }
}
