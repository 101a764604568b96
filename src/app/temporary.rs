//! Documents that were received and wait to be imported: files below the data directory, removed when
//! they were read, and at the start.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempPath;

use super::App;
use crate::error::{Error, Result};

/// Where they lie.
pub(super) fn directory(data_dir: &Path) -> PathBuf {
    data_dir.join("imports")
}

/// Removes what an earlier process left.
pub(super) fn clear(data_dir: &Path) {
    let directory = directory(data_dir);
    if directory.exists()
        && let Err(error) = fs::remove_dir_all(&directory)
    {
        tracing::warn!(directory = %directory.display(), %error, "what was left of imports stays");
    }
}

impl App {
    /// An empty file for a document of that many bytes, as far as that is known; removed with this value. Blocks.
    ///
    /// # Errors
    /// `InsufficientStorage`, `StorageFault`.
    pub fn receive_into_file(&self, bytes: u64) -> Result<TempPath> {
        self.check_room_for_upload(bytes)?;
        let directory = directory(self.engine().data_dir());
        let made = fs::create_dir_all(&directory);
        let made = made.and_then(|()| tempfile::NamedTempFile::new_in(&directory));
        let made = made.map_err(|error| {
            Error::file(format!("{} cannot be written", directory.display()), error)
        })?;
        Ok(made.into_temp_path())
    }

    /// Whether so many bytes may still be received: the store keeps its reserve. Blocks.
    ///
    /// # Errors
    /// `InsufficientStorage`.
    pub fn check_room_for_upload(&self, bytes: u64) -> Result<()> {
        self.engine().check_room(bytes)
    }
}
