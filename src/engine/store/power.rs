//! sled's syncs, made to survive a power cut.
//!
//! After each write to its log sled calls `sync_file_range` and from then on names what it wrote as stable, in the headers
//! of later segments. That call flushes neither the file's size nor a disk's cache: a header may survive a power cut that
//! the segment which it speaks of does not. sled's recovery then takes the log for empty, blanks the segments and
//! truncates the file.
//!
//! A function of that name in this program takes the call in the place of the C library's and does a full data sync.
//! sled needs no change for it. (sled 0.34.7, `src/pagecache/iobuf.rs`.)

use crate::error::{Error, Result};

#[cfg(target_os = "linux")]
mod taken {
    use std::ffi::{c_int, c_uint};
    use std::sync::atomic::{AtomicU64, Ordering};

    /// Calls that came here.
    static CALLS: AtomicU64 = AtomicU64::new(0);

    /// The C library's function of this name, as sled calls it; `fdatasync` of all the file whatever the range.
    #[unsafe(no_mangle)]
    #[expect(
        unsafe_code,
        reason = "it stands in for a function of the C library, and calls one that takes any number as a descriptor"
    )]
    extern "C" fn sync_file_range(
        descriptor: c_int,
        _offset: i64,
        _length: i64,
        _flags: c_uint,
    ) -> c_int {
        CALLS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: `fdatasync` reads no memory of ours; a descriptor that is none is answered with an error.
        unsafe { libc::fdatasync(descriptor) }
    }

    /// Whether a call as sled makes it comes here. It is made with a descriptor that is none, and does nothing.
    pub(super) fn comes_here() -> bool {
        let before = CALLS.load(Ordering::Relaxed);
        #[expect(unsafe_code, reason = "the call that sled makes is one to C")]
        // SAFETY: whichever function answers reads no memory of ours, and refuses the descriptor.
        unsafe {
            libc::sync_file_range(-1, 0, 0, 0);
        }
        CALLS.load(Ordering::Relaxed) > before
    }
}

/// Makes sure that what sled calls stable is on the disk.
///
/// # Errors
/// `Internal` in a program that was linked so that sled reaches the C library's function.
#[cfg(target_os = "linux")]
pub(super) fn check_syncs() -> Result<()> {
    if taken::comes_here() {
        return Ok(());
    }
    Err(Error::internal(
        "this program was linked in a way that a power cut could cost the store: sled's call of sync_file_range does \
         not reach vectorkeep's function of that name",
    ))
}

/// Elsewhere sled syncs whole files by itself.
#[cfg(not(target_os = "linux"))]
pub(super) fn check_syncs() -> Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_sled_calls_to_sync_is_a_full_data_sync() {
        check_syncs().unwrap();
    }
}
