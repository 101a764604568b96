//! Free room on the disk below a path.

use std::path::Path;

use crate::error::{Error, Result};

/// Bytes that an unprivileged writer can still use on the file system of `path`.
///
/// # Errors
/// `StorageFault` when the path cannot be asked.
pub fn available_bytes(path: &Path) -> Result<u64> {
    let stat = rustix::fs::statvfs(path)
        .map_err(|error| Error::storage(format!("{}: {error}", path.display())).because(error))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}
