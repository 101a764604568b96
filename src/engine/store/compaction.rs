//! Compaction: the store copied into a fresh directory while it serves, then put in its own place.
//!
//! sled gives no space back, a copy does. Entries are copied tree by tree as they stand, each checked;
//! the keys that writes touch meanwhile are captured and copied again. Then source and copy are compared
//! byte for byte, and under the write lock, with the last keys copied and the copy synced, one small file
//! is replaced that says where the store is. That file is the commit: killed before it, the old files are
//! the store and the copy is swept at the next start; killed after it, the other way round.

use std::collections::BTreeSet;
use std::fs;
use std::ops::Bound;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sled::IVec;

use super::files::{contained, data_file_bytes};
use super::map::Files;
use super::open::{generation, generation_name, store_directories};
use super::watermark::Watermark;
use super::{Call, Store, TREES, Tree, TreeKey, damaged_value, format};
use crate::error::{Error, Kind, Result};
use crate::progress::Progress;

/// Entries and bytes that are read before they are written.
const BATCH_ENTRIES: usize = 1_000;
const BATCH_BYTES: usize = 4 * 1024 * 1024;
/// A key that differs is looked at this often, its writes copied in between, before the copy is wrong.
const COMPARISONS: usize = 100;
const COMPARISON_PAUSE: Duration = Duration::from_millis(1);

/// A compaction under way. Dropped before [`Compaction::publish`], it leaves the store as it was.
pub(in crate::engine) struct Compaction<'a> {
    store: &'a Store,
    source: Arc<Files>,
    /// `None` before it is open and once it is the store.
    target: Option<Arc<Files>>,
    /// Where the copy lies.
    directory: PathBuf,
    /// Whether the copy is the store now, or may be.
    published: bool,
}

impl Drop for Compaction<'_> {
    fn drop(&mut self) {
        *self.store.captured.lock() = None;
        if self.published {
            return;
        }
        self.target = None;
        if self.directory.exists()
            && let Err(error) = fs::remove_dir_all(&self.directory)
        {
            tracing::warn!(directory = %self.directory.display(), %error, "a given-up copy stays until the next start");
        }
    }
}

impl Store {
    /// Begins a compaction: opens the fresh directory and captures writes from now on.
    ///
    /// # Errors
    /// `Conflict` when one runs, `Unavailable` when the store takes no writes, `StorageFault`.
    pub(in crate::engine) fn begin_compaction(&self) -> Result<Compaction<'_>> {
        self.check_writable()?;
        let data_dir = self.directory();
        // A listing that fails must not make the live directory look free.
        let directories = store_directories(data_dir)?;
        {
            let mut captured = self.captured.lock();
            if captured.is_some() {
                return Err(Error::new(Kind::Conflict, "a compaction is running"));
            }
            *captured = Some(BTreeSet::new());
        }
        let source = self.files.load_full();
        let newest = directories
            .iter()
            .chain([&source.name])
            .filter_map(|name| generation(name))
            .max();
        let name = generation_name(newest.unwrap_or(1) + 1);
        let mut compaction = Compaction {
            store: self,
            source,
            target: None,
            directory: data_dir.join(&name),
            published: false,
        };
        let target = Files::open(data_dir, &name, self.options.cache_bytes)
            .map_err(|error| failed(error.message()))?;
        compaction.target = Some(Arc::new(target));
        Ok(compaction)
    }

    /// Removes the files that compactions have replaced and that nobody reads any more.
    pub(in crate::engine) fn remove_retired(&self) {
        let unread: Vec<Files> = {
            let mut retired = self.retired.lock();
            let (unread, read) = std::mem::take(&mut *retired)
                .into_iter()
                .partition::<Vec<_>, _>(|files| Arc::strong_count(files) == 1);
            *retired = read;
            unread.into_iter().filter_map(Arc::into_inner).collect()
        };
        for files in unread {
            let directory = self.directory().join(&files.name);
            drop(files);
            if let Err(error) = fs::remove_dir_all(&directory) {
                tracing::warn!(directory = %directory.display(), %error, "replaced files stay until the next start");
            }
        }
    }
}

impl Compaction<'_> {
    /// Copies everything and compares the copy, while writes go on.
    ///
    /// # Errors
    /// `Canceled`; `InsufficientStorage`; `StorageFault` for a damaged value, or a copy that differs or
    /// cannot be written. The store goes on as before.
    pub(in crate::engine) fn copy(&self, progress: &Progress) -> Result<()> {
        self.each_batch(progress, Self::copy_batch)?;
        self.sync()?;
        progress.phase("comparing", progress.reading().done);
        self.each_batch(progress, Self::compare_batch)
    }

    /// Runs over all trees batch by batch, each from the last key of the one before, and catches up in
    /// between: what was captured never grows with the store.
    fn each_batch(
        &self,
        progress: &Progress,
        batch: impl Fn(&Self, u8, Option<&[u8]>, &Progress) -> Result<Option<IVec>>,
    ) -> Result<()> {
        for tree in (0..).take(TREES.len()) {
            let mut after: Option<IVec> = None;
            while let Some(last) = batch(self, tree, after.as_deref(), progress)? {
                after = Some(last);
                progress.check()?;
                self.catch_up()?;
            }
        }
        Ok(())
    }

    /// Copies the keys that were written since this was last called; returns how many.
    ///
    /// # Errors
    /// `StorageFault`.
    pub(in crate::engine) fn catch_up(&self) -> Result<usize> {
        let keys = {
            let mut captured = self.store.captured.lock();
            captured.as_mut().map(std::mem::take).unwrap_or_default()
        };
        for (tree, key) in &keys {
            let entry = (IVec::from(key.as_slice()), self.read(*tree, key)?);
            let target = self.target()?;
            self.writing(|| target.map.fill(*tree, &[entry]))?;
        }
        Ok(keys.len())
    }

    /// Makes what was copied durable.
    ///
    /// # Errors
    /// `StorageFault`.
    pub(in crate::engine) fn sync(&self) -> Result<()> {
        let target = self.target()?;
        self.writing(|| target.map.sync_all(self.store.directory()))
    }

    /// Puts the copy in the store's place. Only the holder of the write lock may call.
    ///
    /// # Errors
    /// `StorageFault`; the store goes on as before, or takes no more writes where nobody knows which
    /// files the next start will find.
    pub(in crate::engine) fn publish(mut self) -> Result<()> {
        while self.catch_up()? > 0 {}
        self.sync()?;
        let store = self.store;
        store.check_writable()?;
        let target = Arc::clone(self.target()?);
        let committed = store.committed();
        let mut watermark = store.lock(&store.watermark)?;
        let _under_way = store.calls.begin(Call::Watermark);
        let moved = Watermark {
            directory: target.name.clone(),
            synced_sequence: committed,
            log_bytes: data_file_bytes(&store.directory().join(&target.name)),
            ..watermark.clone()
        };
        if let Err(error) = moved.write(store.directory()) {
            let stands = Watermark::read(store.directory());
            let unchanged = stands.is_ok_and(|found| {
                found.is_some_and(|found| found.directory == watermark.directory)
            });
            if !unchanged {
                // Both directories stay, and no write goes to only one of them.
                self.published = true;
                store.poison("where the store is could not be recorded");
            }
            return Err(error);
        }
        *watermark = moved;
        drop(watermark);
        self.published = true;
        let replaced = store.files.swap(target);
        store.retired.lock().push(replaced);
        let mut sync = store.sync.lock();
        sync.synced = sync.synced.max(committed);
        store.synced.notify_all();
        Ok(())
    }

    /// Runs a call into the copy. It is not the store: what fails there harms nothing. What hangs there may hold the
    /// write lock.
    fn writing<T>(&self, call: impl FnOnce() -> sled::Result<T>) -> Result<T> {
        let _under_way = self.store.calls.begin(Call::Copy);
        contained(call).map_err(|fault| failed(&fault.text))
    }

    fn target(&self) -> Result<&Arc<Files>> {
        self.target
            .as_ref()
            .ok_or_else(|| Error::internal("the copy is not open"))
    }

    /// A value of the store as it stands, checked.
    fn read(&self, tree: u8, key: &[u8]) -> Result<Option<IVec>> {
        let value = self.store.raw(&self.source, tree, key)?;
        if let Some(value) = &value {
            self.check(tree, key, value)?;
        }
        Ok(value)
    }

    fn check(&self, tree: u8, key: &[u8], value: &[u8]) -> Result<()> {
        if format::unseal(tree, key, value).is_some() {
            return Ok(());
        }
        Err(damaged_value(tree, key))
    }

    /// The next entries behind `after`, as they stand in the store. A new iterator for each batch: one
    /// that is kept may hand out entries as they were when it came by.
    fn batch(&self, tree: u8, after: Option<&[u8]>) -> Result<Vec<(IVec, IVec)>> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut entries = Vec::new();
        let mut bytes = 0;
        self.store.guarded(Call::Scan, || {
            for entry in self.source.map.range(tree, start, Bound::Unbounded) {
                let (key, value) = entry?;
                bytes += key.len() + value.len();
                entries.push((key, value));
                if entries.len() >= BATCH_ENTRIES || bytes >= BATCH_BYTES {
                    break;
                }
            }
            Ok(())
        })?;
        for (key, value) in &entries {
            self.check(tree, key, value)?;
        }
        Ok(entries)
    }

    /// Copies one batch; returns its last key, `None` at the end.
    fn copy_batch(
        &self,
        tree: u8,
        after: Option<&[u8]>,
        progress: &Progress,
    ) -> Result<Option<IVec>> {
        self.store.check_room()?;
        let entries = self.batch(tree, after)?;
        let copied = entries.iter();
        let copied: Vec<_> = copied
            .map(|(key, value)| (key.clone(), Some(value.clone())))
            .collect();
        let target = self.target()?;
        self.writing(|| target.map.fill(tree, &copied))?;
        count(progress, tree, &entries);
        Ok(entries.last().map(|(key, _)| key.clone()))
    }

    /// Compares one batch with the same run of keys in the copy; returns its last key.
    fn compare_batch(
        &self,
        tree: u8,
        after: Option<&[u8]>,
        progress: &Progress,
    ) -> Result<Option<IVec>> {
        let entries = self.batch(tree, after)?;
        let last = entries.last().map(|(key, _)| key.clone());
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        // Behind the last entry of the store nothing may stand in the copy either.
        let end = last.as_deref().map_or(Bound::Unbounded, Bound::Included);
        let target = self.target()?;
        let mut differing = BTreeSet::new();
        self.writing(|| {
            let mut theirs = target.map.range(tree, start, end);
            let mut ours = entries.iter();
            let (mut our, mut their) = (ours.next(), theirs.next().transpose()?);
            while our.is_some() || their.is_some() {
                match (our, &their) {
                    (Some((key, value)), Some((other, copied))) if key == other => {
                        if value != copied {
                            differing.insert(key.clone());
                        }
                        our = ours.next();
                        their = theirs.next().transpose()?;
                    }
                    (Some((key, _)), other)
                        if other.as_ref().is_none_or(|(other, _)| key < other) =>
                    {
                        differing.insert(key.clone());
                        our = ours.next();
                    }
                    (_, Some((key, _))) => {
                        differing.insert(key.clone());
                        their = theirs.next().transpose()?;
                    }
                    (_, None) => our = ours.next(),
                }
            }
            Ok(())
        })?;
        for key in differing {
            self.settle((tree, key.to_vec()))?;
        }
        count(progress, tree, &entries);
        Ok(last)
    }

    /// Whether a write to this key waits to be copied.
    fn is_captured(&self, (tree, key): (u8, &[u8])) -> bool {
        let captured = self.store.captured.lock();
        let key = (tree, key.to_vec());
        captured.as_ref().is_some_and(|keys| keys.contains(&key))
    }

    /// A key whose values differ: either it was written meanwhile, or the copy is wrong.
    fn settle(&self, (tree, key): TreeKey) -> Result<()> {
        for _ in 0..COMPARISONS {
            self.catch_up()?;
            let ours = self.store.raw(&self.source, tree, &key)?;
            let target = self.target()?;
            let theirs = self.writing(|| target.map.get(tree, &key))?;
            if ours == theirs || self.is_captured((tree, &key)) {
                return Ok(());
            }
            // Between its transaction and its capture a write is known to nobody.
            std::thread::sleep(COMPARISON_PAUSE);
        }
        Err(Error::storage(format!(
            "the copy differs from the store at {}; the store goes on as it was",
            key.escape_ascii()
        )))
    }
}

fn failed(fault: &str) -> Error {
    Error::storage("the copy cannot be written; the store goes on as it was")
        .because(fault.to_owned())
}

/// Counts records, which is what progress is told in.
fn count(progress: &Progress, tree: u8, entries: &[(IVec, IVec)]) {
    if tree == Tree::Records as u8 {
        let bytes = entries.iter().map(|(_, value)| value.len() as u64).sum();
        progress.advance(entries.len() as u64, bytes);
    }
}
