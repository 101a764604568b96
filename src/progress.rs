//! How far long work has come, and the way to stop it. Handed down into operations.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::error::{Error, Kind, Result};

/// Shared between the work and whoever watches it. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    phase: Mutex<&'static str>,
    done: AtomicU64,
    total: AtomicU64,
    bytes: AtomicU64,
    /// One of the three below; it leaves `OPEN` once, so that a cancel is either obeyed or refused.
    fate: AtomicU8,
}

const OPEN: u8 = 0;
const CANCELED: u8 = 1;
const COMMITTED: u8 = 2;

/// A reading of [`Progress`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// What is being done.
    pub phase: &'static str,
    /// Records done in this phase.
    pub done: u64,
    /// Records to do in this phase, as far as known.
    pub total: u64,
    /// Bytes done in this phase.
    pub bytes_done: u64,
}

impl Progress {
    /// Begins a phase with that many records to do.
    pub fn phase(&self, phase: &'static str, total: u64) {
        *self.inner.phase.lock() = phase;
        self.inner.done.store(0, Ordering::Relaxed);
        self.inner.bytes.store(0, Ordering::Relaxed);
        self.inner.total.store(total, Ordering::Relaxed);
    }

    /// Begins a phase that counts nothing of its own: what was counted stays, and was all there was to do.
    pub fn stage(&self, phase: &'static str) {
        *self.inner.phase.lock() = phase;
        let done = self.inner.done.load(Ordering::Relaxed);
        self.inner.total.store(done, Ordering::Relaxed);
    }

    /// Counts work done.
    pub fn advance(&self, records: u64, bytes: u64) {
        self.inner.done.fetch_add(records, Ordering::Relaxed);
        self.inner.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Called between units of work.
    ///
    /// # Errors
    /// `Canceled` once [`Progress::cancel`] was called.
    pub fn check(&self) -> Result<()> {
        if self.inner.fate.load(Ordering::Relaxed) == CANCELED {
            return Err(Error::new(Kind::Canceled, "the job was canceled"));
        }
        Ok(())
    }

    /// The last [`Progress::check`]: from here on the work cannot be canceled.
    ///
    /// # Errors
    /// `Canceled`.
    pub fn commit(&self) -> Result<()> {
        self.decide(COMMITTED);
        self.check()
    }

    /// Asks the work to stop; false when it is too late.
    pub fn cancel(&self) -> bool {
        self.decide(CANCELED) == CANCELED
    }

    /// What was decided: this, unless something was before.
    fn decide(&self, fate: u8) -> u8 {
        let fates = &self.inner.fate;
        match fates.compare_exchange(OPEN, fate, Ordering::SeqCst, Ordering::SeqCst) {
            Ok(_) => fate,
            Err(before) => before,
        }
    }

    /// How far it is. Where more was done than was known of, that was to be done as well: `done` is never above `total`.
    pub fn reading(&self) -> Reading {
        let done = self.inner.done.load(Ordering::Relaxed);
        Reading {
            phase: *self.inner.phase.lock(),
            done,
            total: self.inner.total.load(Ordering::Relaxed).max(done),
            bytes_done: self.inner.bytes.load(Ordering::Relaxed),
        }
    }

    /// Whether a cancel would still have an effect.
    pub fn cancellable(&self) -> bool {
        self.inner.fate.load(Ordering::Relaxed) != COMMITTED
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_is_never_done_than_there_is_to_do() {
        let progress = Progress::default();
        progress.phase("copy", 10);
        progress.advance(25, 0);
        let reading = progress.reading();
        assert_eq!((reading.done, reading.total), (25, 25));
        progress.phase("verify", 3);
        let reading = progress.reading();
        assert_eq!((reading.done, reading.total), (0, 3));
    }

    #[test]
    fn a_cancel_is_obeyed_or_refused_and_never_both() {
        for _ in 0..2_000 {
            let progress = Progress::default();
            let (canceled, committed) = std::thread::scope(|scope| {
                let cancel = scope.spawn(|| progress.cancel());
                let committed = progress.commit().is_ok();
                (cancel.join().unwrap(), committed)
            });
            assert_ne!(canceled, committed);
            assert_eq!(progress.check().is_err(), canceled);
            assert_eq!(progress.cancellable(), canceled);
        }
    }
}
