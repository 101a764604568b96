//! The trees, transactions and syncs, on an ordered map ([`map`]): the only module that names sled, which is that map.
//!
//! One writer at a time calls [`Store::commit`] (the engine's write lock sees to it); any number of
//! threads read and wait for syncs. A sync is shared by all writes that were committed before it began
//! (group commit). After a call into sled has failed the store is poisoned: it takes no more writes, because
//! nobody knows what state the failed one left.

mod batch;
mod calls;
mod compaction;
mod faults;
mod files;
mod map;
#[cfg(test)]
mod memory;
mod open;
mod power;
mod recovery;
mod segments;
mod watermark;

use std::collections::BTreeSet;
use std::fs::File;
use std::ops::{Bound, Deref};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use arc_swap::ArcSwap;
use parking_lot::{Condvar, Mutex};
use sled::IVec;
use tokio::sync::watch;
use uuid::Uuid;

use super::format::{self, INLINE, SPLIT, SplitHead};
use super::metrics;
use crate::error::{Error, Result};
use crate::metrics::record_since;

pub(super) use batch::Batch;
pub(super) use calls::Call;
pub use calls::Calls;
use files::data_file_bytes;
use map::{Entries, Files};
#[cfg(test)]
pub(super) use memory::{Disk, Failure};
pub use open::OpenOptions;
use watermark::Watermark;

/// A named tree; the discriminant stands in every check and chunk key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Tree {
    /// Store id, format version, sequence.
    Meta = 0,
    /// Tenants, databases, collections, names, heads, markers of backups, checkpoints of migrations.
    Catalog = 1,
    /// Collection, ordinal → record.
    Records = 2,
    /// Collection, id → ordinal.
    Ids = 3,
    /// Collection, sequence, ordinal → id.
    Tombstones = 4,
    /// Job records.
    Jobs = 5,
}

/// Names of the trees, by number.
const TREES: [&str; 7] = [
    "meta",
    "catalog",
    "records",
    "ids",
    "tombstones",
    "jobs",
    "chunks",
];
/// Parts of values that are too long for one.
const CHUNKS: u8 = 6;

/// A key and the number of its tree.
type TreeKey = (u8, Vec<u8>);

const SEQUENCE_KEY: &[u8] = b"sequence";
const STORE_ID_KEY: &[u8] = b"store_id";
const FORMAT_KEY: &[u8] = b"format";

/// A payload that was read and checked.
pub(super) struct Value(Repr);

enum Repr {
    /// A framed value: kind in front, check behind.
    Framed(IVec),
    Joined(Vec<u8>),
}

impl Deref for Value {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Repr::Framed(value) => value
                .get(1..value.len().saturating_sub(8))
                .unwrap_or_default(),
            Repr::Joined(bytes) => bytes,
        }
    }
}

/// A key that was read.
pub(super) struct Key(IVec);

impl Deref for Key {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

#[derive(Default)]
struct SyncState {
    synced: u64,
    running: bool,
}

/// An open store.
pub(super) struct Store {
    /// Where the data is now; compaction puts others in their place.
    files: ArcSwap<Files>,
    /// Files that a compaction has replaced; they go when nobody reads them any more.
    retired: Mutex<Vec<Arc<Files>>>,
    /// Keys written since a running compaction last asked; `None` when none runs.
    captured: Mutex<Option<BTreeSet<TreeKey>>>,
    options: OpenOptions,
    id: Uuid,
    /// Sequence of the last committed batch.
    committed: AtomicU64,
    sync: Mutex<SyncState>,
    synced: Condvar,
    watermark: Mutex<Watermark>,
    poison: OnceLock<String>,
    /// Whether sled itself failed: then what it holds may be half of a batch that was refused.
    faulted: AtomicBool,
    /// What is asked of sled at this moment; the watchdog looks at it.
    calls: Arc<Calls>,
    /// Set by the watchdog when a call does not end; wakes those who wait for an answer that a hanging thread owes.
    hung: watch::Sender<bool>,
    /// Held while a batch is committed, until it is known whether sled failed at it.
    committing: Mutex<()>,
    /// Held for as long as the store is open; a second process finds it taken.
    _lock: File,
}

impl Store {
    /// The directory that was opened.
    pub(super) fn directory(&self) -> &Path {
        &self.options.data_dir
    }

    /// The store's identity, made when it was created.
    pub(super) fn id(&self) -> Uuid {
        self.id
    }

    /// Sequence of the last committed batch.
    pub(super) fn committed(&self) -> u64 {
        self.committed.load(Ordering::Acquire)
    }

    /// Bytes that sled's files take.
    pub(super) fn size_bytes(&self) -> Result<u64> {
        let files = self.files.load();
        self.guarded(Call::Size, || files.map.size())
    }

    /// Reads and checks one payload. That it is damaged says nothing of others.
    pub(super) fn get(&self, tree: Tree, key: &[u8]) -> Result<Option<Value>> {
        let files = self.files.load();
        let found = self
            .raw(&files, tree as u8, key)?
            .map_or(Ok(None), |value| self.open_value(&files, tree, key, value));
        match found {
            Ok(None) => self.absent(),
            found => found,
        }
    }

    fn raw(&self, files: &Files, tree: u8, key: &[u8]) -> Result<Option<IVec>> {
        self.guarded(Call::Read, || files.map.get(tree, key))
    }

    /// Checks a stored value; `None` when it is split and went away while its chunks were read.
    fn open_value(
        &self,
        files: &Files,
        tree: Tree,
        key: &[u8],
        value: IVec,
    ) -> Result<Option<Value>> {
        let damaged = || self.damage(tree as u8, key);
        let mut value = value;
        loop {
            let head = match format::unseal(tree as u8, key, &value) {
                Some((INLINE, _)) => return Ok(Some(Value(Repr::Framed(value)))),
                Some((SPLIT, head)) => SplitHead::decode(head).ok_or_else(damaged)?,
                _ => return Err(damaged()),
            };
            if let Some(bytes) = self.join_chunks(files, tree, key, &head)? {
                return Ok(Some(Value(Repr::Joined(bytes))));
            }
            // Either damage, or a write came in between: then the head is another one now.
            match self.raw(files, tree as u8, key)? {
                None => return Ok(None),
                Some(current) if current == value => return Err(damaged()),
                Some(current) => value = current,
            }
        }
    }

    fn join_chunks(
        &self,
        files: &Files,
        tree: Tree,
        key: &[u8],
        head: &SplitHead,
    ) -> Result<Option<Vec<u8>>> {
        let mut joined = Vec::new();
        for index in 0..head.chunks {
            let chunk_key = format::chunk_key(tree as u8, key, index);
            let stored = self.raw(files, CHUNKS, &chunk_key)?;
            let chunk = stored.as_deref();
            match chunk.and_then(|value| format::unseal(CHUNKS, &chunk_key, value)) {
                Some((INLINE, payload)) => joined.extend_from_slice(payload),
                _ => return Ok(None),
            }
        }
        Ok((*blake3::hash(&joined).as_bytes() == head.hash).then_some(joined))
    }

    /// All entries with `start <= key < end`, in key order, checked one by one. A damaged entry is an
    /// error item; the scan can go on behind it.
    pub(super) fn scan(&self, tree: Tree, start: Vec<u8>, end: Vec<u8>) -> Scan<'_> {
        let files = self.files.load_full();
        Scan {
            store: self,
            tree,
            iter: files
                .map
                .range(tree as u8, Bound::Included(&start), Bound::Excluded(&end)),
            files,
            visited: 0,
            failed: false,
        }
    }

    /// Commits a batch as one transaction under `sequence`. Only the holder of the write lock may call.
    ///
    /// # Errors
    /// `Unavailable` when poisoned; `InsufficientStorage`; `StorageFault` (and poisoned) when sled fails.
    pub(super) fn commit(&self, batch: Batch, sequence: u64) -> Result<()> {
        self.check_writable()?;
        self.check_room()?;
        let mut batch = batch;
        batch.put(
            Tree::Meta,
            SEQUENCE_KEY.to_vec(),
            sequence.to_le_bytes().to_vec(),
        );
        let writes = batch.into_writes();
        let files = self.files.load();
        let committing = self.lock(&self.committing)?;
        let old_chunks = self.guarded(Call::Commit, || files.map.commit(&writes))?;
        drop(committing);
        // After the transaction: whoever takes the keys then reads what it wrote.
        if let Some(captured) = self.captured.lock().as_mut() {
            for (write, old_chunks) in writes.into_iter().zip(old_chunks) {
                captured.extend(write.keys(old_chunks));
            }
        }
        self.committed.store(sequence, Ordering::Release);
        Ok(())
    }

    /// Returns when everything up to `sequence` is on the disk, sharing the sync with other waiters.
    ///
    /// # Errors
    /// `StorageFault` or `Unavailable` when the sync failed; the store is poisoned then.
    pub(super) fn wait_synced(&self, sequence: u64) -> Result<()> {
        let mut state = self.sync.lock();
        while state.synced < sequence {
            // Damage of one value is no reason to leave others unsynced.
            if self.is_faulted() {
                return Err(self.stopped());
            }
            if state.running {
                self.synced.wait(&mut state);
                continue;
            }
            state.running = true;
            let target = self.committed();
            drop(state);
            let outcome = self.sync_files();
            state = self.sync.lock();
            state.running = false;
            if outcome.is_ok() {
                metrics::SYNC_COMMITS.record(target.saturating_sub(state.synced) as f64);
                state.synced = state.synced.max(target);
            }
            self.synced.notify_all();
            outcome?;
        }
        Ok(())
    }

    fn sync_files(&self) -> Result<()> {
        let files = self.files.load_full();
        let started = Instant::now();
        self.guarded(Call::Sync, || files.map.sync())?;
        record_since(&metrics::SYNC_DURATION, started);
        Ok(())
    }

    /// Brings the watermark file up to what is synced. Called about once a second and at shutdown.
    pub(super) fn write_watermark(&self) -> Result<()> {
        let synced = self.sync.lock().synced;
        let mut watermark = self.lock(&self.watermark)?;
        if watermark.synced_sequence >= synced {
            return Ok(());
        }
        // Remembered only when it is written: else a failed write would never be made up for.
        let moved = Watermark {
            synced_sequence: synced,
            log_bytes: data_file_bytes(&self.directory().join(&watermark.directory)),
            ..watermark.clone()
        };
        {
            let _under_way = self.calls.begin(Call::Watermark);
            moved.write(self.directory())?;
        }
        *watermark = moved;
        Ok(())
    }

    /// Syncs everything and brings the watermark up.
    pub(super) fn close(&self) -> Result<()> {
        self.wait_synced(self.committed())?;
        self.write_watermark()
    }
}

/// An iterator over checked entries; see [`Store::scan`].
pub(super) struct Scan<'a> {
    store: &'a Store,
    /// Kept until the scan is over, also where a compaction has replaced them meanwhile.
    files: Arc<Files>,
    tree: Tree,
    iter: Entries,
    visited: usize,
    /// sled gives the same error again and again.
    failed: bool,
}

/// Every so many entries a scan reads one by its key as well. sled makes room in its cache only when a
/// page's share of it (1 of 256) was asked for 64 times, and a scan asks once a page: without this, all
/// pages of a store of 100,000 records would stay in memory, three times the cache's size.
const TOUCH_EVERY: usize = 4;

impl Iterator for Scan<'_> {
    type Item = Result<(Key, Value), DamagedEntry>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        loop {
            let entry = self
                .store
                .guarded(Call::Scan, || self.iter.next().transpose())
                .transpose()?;
            let (key, value) = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    self.failed = true;
                    return Some(Err(DamagedEntry { key: None, error }));
                }
            };
            self.visited += 1;
            if self.visited.is_multiple_of(TOUCH_EVERY)
                && let Err(error) = self.store.raw(&self.files, self.tree as u8, &key)
            {
                self.failed = true;
                return Some(Err(DamagedEntry { key: None, error }));
            }
            let opened = self.store.open_value(&self.files, self.tree, &key, value);
            match opened {
                Ok(Some(value)) => return Some(Ok((Key(key), value))),
                Ok(None) => {}
                Err(error) => {
                    let key = Some(Key(key));
                    return Some(Err(DamagedEntry { key, error }));
                }
            }
        }
    }
}

/// An entry that a scan could not read. Without a key sled itself failed, and the scan ends.
pub(super) struct DamagedEntry {
    pub(super) key: Option<Key>,
    pub(super) error: Error,
}

/// The key of an entry, and its value or that it is damaged.
///
/// # Errors
/// That of sled, which failed.
pub(super) fn named(
    entry: std::result::Result<(Key, Value), DamagedEntry>,
) -> Result<(Key, Result<Value>)> {
    match entry {
        Ok((key, value)) => Ok((key, Ok(value))),
        Err(DamagedEntry { key, error }) => match key {
            Some(key) => Ok((key, Err(error))),
            None => Err(error),
        },
    }
}

impl From<DamagedEntry> for Error {
    fn from(damaged: DamagedEntry) -> Self {
        damaged.error
    }
}

fn damaged_value(tree: u8, key: &[u8]) -> Error {
    let name = TREES.get(usize::from(tree)).unwrap_or(&"unknown");
    Error::storage(format!(
        "a stored value is damaged (tree {name}, key {})",
        key.escape_ascii()
    ))
}

/// The smallest key above every key that starts with `prefix`.
pub(super) fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    // Only a prefix of 0xff bytes comes here, and no tree has such keys.
    vec![u8::MAX; prefix.len() + 64]
}
