//! Room on the disk below a path.

use std::path::Path;

use crate::error::{Error, Kind, Result};

/// Bytes of a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Room {
    /// Bytes that an unprivileged writer can still use.
    pub(crate) available_bytes: u64,
    /// Bytes that are in use, by whomever.
    pub(crate) used_bytes: u64,
    /// All bytes.
    pub(crate) total_bytes: u64,
}

/// The room on the file system of `path`.
///
/// # Errors
/// `StorageFault` when the path cannot be asked.
pub(crate) fn room(path: &Path) -> Result<Room> {
    let stat = rustix::fs::statvfs(path)
        .map_err(|error| Error::storage(format!("{}: {error}", path.display())).because(error))?;
    let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    Ok(Room {
        available_bytes: bytes(stat.f_bavail),
        used_bytes: bytes(stat.f_blocks.saturating_sub(stat.f_bfree)),
        total_bytes: bytes(stat.f_blocks),
    })
}

/// Bytes that an unprivileged writer can still use on the file system of `path`.
///
/// # Errors
/// `StorageFault` when the path cannot be asked.
pub(crate) fn available_bytes(path: &Path) -> Result<u64> {
    Ok(room(path)?.available_bytes)
}

/// Refuses work that needs more room than there is.
///
/// # Errors
/// `InsufficientStorage` with the numbers.
pub(crate) fn check_room(available: Option<u64>, needed: u64) -> Result<()> {
    match available {
        Some(available) if available < needed => Err(Error::new(
            Kind::InsufficientStorage,
            format!("{needed} bytes are needed, {available} are free"),
        )
        .with("needed_bytes", needed)
        .with("available_bytes", available)),
        _ => Ok(()),
    }
}
