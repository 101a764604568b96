//! What the store takes on the disk, and the compaction that gives space back.

use std::sync::atomic::Ordering;
use std::time::Instant;

use super::{CatchUp, Engine, metrics};
use crate::disk;
use crate::error::{Error, Kind, Result};
use crate::progress::Progress;

/// What a record takes beside its canonical bytes: two keys, two frames, sequence and hash, its share of
/// inner nodes.
const RECORD_OVERHEAD_BYTES: u64 = 200;
/// A write of a record is one of two keys at least: its own, and that of its id.
const KEYS_PER_RECORD: u64 = 2;
/// What a tombstone takes.
const TOMBSTONE_BYTES: u64 = 100;

/// What the store takes on the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of its files.
    pub file_bytes: u64,
    /// Bytes of what lives in them, estimated from record counts and sizes.
    pub live_bytes: u64,
    /// Live records of all collections.
    pub records: u64,
}

impl Engine {
    /// Refuses work that would not leave `storage.min_free_bytes` free: its writes would be refused midway.
    ///
    /// # Errors
    /// `InsufficientStorage` with the numbers.
    pub fn check_room(&self, needed_bytes: u64) -> Result<()> {
        let reserve = self.inner.options.store.min_free_bytes;
        let available = disk::available_bytes(self.data_dir())?;
        disk::check_room(Some(available), needed_bytes.saturating_add(reserve))
    }

    /// What the store takes on the disk.
    ///
    /// # Errors
    /// `StorageFault` when the files cannot be listed.
    pub fn usage(&self) -> Result<Usage> {
        let mut usage = Usage {
            file_bytes: self.size_bytes()?,
            ..Usage::default()
        };
        for collection in self.inner.catalog.read().collections.values() {
            let head = collection.info().head;
            usage.records += head.count;
            usage.live_bytes += head.bytes
                + head.count * RECORD_OVERHEAD_BYTES
                + collection.tombstones.load(Ordering::Relaxed) * TOMBSTONE_BYTES;
        }
        Ok(usage)
    }

    /// Copies the store into a fresh directory while it serves, compares the copy byte for byte, and
    /// puts it in the store's place. Writes wait for the last round only.
    ///
    /// # Errors
    /// `Conflict` when a compaction runs; `Canceled`; `Unavailable`; `StorageFault` for a damaged value or
    /// a copy that cannot be written. The store goes on as it was.
    pub fn compact(&self, catch_up: CatchUp, progress: &Progress) -> Result<()> {
        let inner = &self.inner;
        let compaction = inner.store.begin_compaction()?;
        let mut before = self.usage()?.records;
        progress.phase("copying", before);
        compaction.copy(progress)?;
        progress.phase("catching up", 0);
        let pursuit = inner.pace.pursuit(None);
        for _ in 0..catch_up.max_rounds {
            // Synced now, there is little left to sync under the lock.
            compaction.sync()?;
            let began = Instant::now();
            let copied = compaction.catch_up()?;
            if copied <= catch_up.max_last_round {
                break;
            }
            let records = copied as u64 / KEYS_PER_RECORD;
            pursuit.hold_back(before, records, records, began.elapsed());
            before = records;
        }
        progress.commit()?;
        let writer = inner.lock_writer()?;
        if inner.closing.load(Ordering::Acquire) {
            return Err(Error::new(
                Kind::Unavailable,
                "the service is shutting down",
            ));
        }
        compaction.publish()?;
        metrics::COMPACTIONS.increment(1);
        drop(writer);
        inner.store.remove_retired();
        Ok(())
    }
}
