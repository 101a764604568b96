//! The background thread: removes the records of dropped collections in small batches and files that
//! a compaction has replaced, brings the watermark file up, and syncs where durability is by interval.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::catalog::CatalogBatch;
use super::collection::Collection;
use super::store::{Batch, Tree, named, prefix_end};
use super::{Durability, Garbage, Inner, markers};
use crate::error::{Error, Kind, Result};

/// Entries removed under one hold of the write lock.
const PURGE_BATCH: usize = 500;
const TICK: Duration = Duration::from_secs(1);

/// Starts the thread; it holds the engine weakly and ends when the engine closes or goes away.
pub(super) fn start(inner: &Arc<Inner>) -> Result<()> {
    let weak = Arc::downgrade(inner);
    let thread = std::thread::Builder::new()
        .name("engine-maintenance".to_owned())
        .spawn(move || {
            let mut due = Instant::now();
            while let Some(inner) = weak.upgrade() {
                if !inner.tick(&mut due) {
                    break;
                }
            }
        })
        .map_err(|error| Error::internal("the maintenance thread cannot start").because(error))?;
    *inner.maintenance.lock() = Some(thread);
    Ok(())
}

impl Garbage {
    /// Whether nobody but the list holds the collection. The catalog does not any more, so nobody new can.
    fn is_unread(&self) -> bool {
        self.collection
            .as_ref()
            .is_none_or(|collection| Arc::strong_count(collection) == 1)
    }
}

impl Inner {
    /// One round of work, then a wait for the next unless there is more to remove. What keeps writes durable
    /// happens when it is due, however much there is to remove. False when the engine closes.
    fn tick(&self, due: &mut Instant) -> bool {
        let mut postponed = false;
        if let Some(id) = self.next_garbage() {
            let purged = self.purge_some(id);
            if let Err(error) = &purged {
                postponed = error.kind() == Kind::InsufficientStorage;
                tracing::warn!(collection.id = %id, %error, "removing a dropped collection failed; it is tried again, at the next start at the latest");
            }
            if postponed || matches!(purged, Ok(false)) {
                let collection = None;
                self.garbage.lock().push(Garbage { id, collection });
            }
        }
        let interval = match self.options.durability {
            Durability::Always => TICK,
            Durability::Interval(interval) => interval.min(TICK),
        };
        if Instant::now() >= *due {
            if let Err(error) = self.keep_durable() {
                tracing::error!(%error, "background sync failed");
            }
            self.store.remove_retired();
            *due = Instant::now() + interval;
        }
        let mut garbage = self.garbage.lock();
        let idle = postponed || !garbage.iter().any(Garbage::is_unread);
        if idle && !self.closing.load(Ordering::Acquire) {
            self.bell.wait_until(&mut garbage, *due);
        }
        !self.closing.load(Ordering::Acquire)
    }

    fn keep_durable(&self) -> Result<()> {
        if self.store.is_faulted() {
            return Ok(());
        }
        if self.options.durability != Durability::Always {
            self.store.wait_synced(self.store.committed())?;
        }
        self.store.write_watermark()
    }

    /// Leaves collections' records to the background thread.
    pub(super) fn discard(&self, dropped: impl IntoIterator<Item = Arc<Collection>>) {
        let dropped = dropped.into_iter().map(|collection| Garbage {
            id: collection.id,
            collection: Some(collection),
        });
        self.garbage.lock().extend(dropped);
        self.bell.notify_all();
    }

    /// A dropped collection that nobody reads any more.
    fn next_garbage(&self) -> Option<Uuid> {
        let mut garbage = self.garbage.lock();
        let at = garbage.iter().position(Garbage::is_unread)?;
        Some(garbage.swap_remove(at).id)
    }

    /// Removes a batch of what is stored under a collection id, its descriptor last, so that an interrupted
    /// purge is found again at the next start. True when nothing is left.
    fn purge_some(&self, id: Uuid) -> Result<bool> {
        for tree in [Tree::Records, Tree::Ids, Tree::Tombstones] {
            let mut batch = Batch::default();
            let end = prefix_end(id.as_bytes());
            for entry in self
                .store
                .scan(tree, id.as_bytes().to_vec(), end)
                .take(PURGE_BATCH)
            {
                // What is damaged goes as well: only its key is needed.
                batch.remove(tree, named(entry)?.0.to_vec());
            }
            if batch.len() > 0 {
                return self.commit(batch).map(|_| false);
            }
        }
        let mut batch = Batch::default();
        let markers = markers::marker_prefix(id);
        let end = prefix_end(&markers);
        for entry in self.store.scan(Tree::Catalog, markers, end) {
            batch.remove(Tree::Catalog, named(entry)?.0.to_vec());
        }
        batch.remove_collection(id);
        self.commit(batch).map(|_| true)
    }
}
