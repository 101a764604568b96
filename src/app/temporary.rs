//! Documents that were received and wait to be imported: files below the data directory, removed when
//! they were read, and at the start.

use std::fs;
use std::path::{Path, PathBuf};

use uuid::Uuid;

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

/// A received document, removed with this value.
pub struct ReceivedFile {
    path: PathBuf,
}

impl ReceivedFile {
    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for ReceivedFile {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(file = %self.path.display(), %error, "a received document stays");
        }
    }
}

impl App {
    /// An empty file for a document of that many bytes, as far as that is known. Blocks.
    ///
    /// # Errors
    /// `InsufficientStorage`, `StorageFault`.
    pub fn receive_into_file(&self, bytes: u64) -> Result<ReceivedFile> {
        self.check_room_for_upload(bytes)?;
        let directory = directory(self.engine().data_dir());
        let path = directory.join(format!("{}.part", Uuid::new_v4()));
        let made = fs::create_dir_all(&directory).and_then(|()| fs::File::create_new(&path));
        made.map_err(|error| {
            Error::file(format!("{} cannot be written", directory.display()), error)
        })?;
        Ok(ReceivedFile { path })
    }

    /// Whether so many bytes may still be received: the store keeps its reserve. Blocks.
    ///
    /// # Errors
    /// `InsufficientStorage`.
    pub fn check_room_for_upload(&self, bytes: u64) -> Result<()> {
        self.engine().check_room(bytes)
    }
}
