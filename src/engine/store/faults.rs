//! What happens once something failed: no more writes, and nothing served that may be half of a refused one.
//!
//! *Damage* is a stored value that does not have its checksum; the others are as good as before, and what it is of is
//! stopped where it is met. A *fault* is a call into sled that failed, and stops all writes: a transaction may then stand in
//! the trees in part, and what cannot be read or found says nothing of what is on the disk. That is for a restart to tell.
//!
//! A call that never ends is a fault as well (see `calls`). Its thread is lost, with whatever locks it holds: all
//! others give up waiting for them.

use std::sync::Arc;
use std::sync::atomic::Ordering;
#[cfg(debug_assertions)]
use std::sync::mpsc::Receiver;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;

use super::files::contained;
use super::{Call, Calls, Store, Value, damaged_value};
use crate::disk;
use crate::error::{Error, Kind, Result};

/// How often who waits for a lock looks whether its holder hangs.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

impl Store {
    /// Why the store takes no more writes, if so.
    pub(in crate::engine) fn poison_reason(&self) -> Option<&str> {
        self.poison.get().map(String::as_str)
    }

    /// Whether sled failed.
    pub(in crate::engine) fn is_faulted(&self) -> bool {
        self.faulted.load(Ordering::Acquire)
    }

    /// Stops all writes from now on; the first reason stays.
    pub(in crate::engine) fn poison(&self, reason: &str) {
        if self.poison.set(reason.to_owned()).is_ok() {
            tracing::error!(
                reason,
                "the store takes no more writes until the service is restarted"
            );
        }
    }

    /// Gives up on a call that has not ended for `timeout`, and with it on the store: no more writes, and nobody waits
    /// any longer for what the hanging thread holds.
    pub(in crate::engine) fn give_up_on(&self, call: Call, timeout: Duration) {
        if self.hung.send_replace(true) {
            return;
        }
        self.faulted.store(true, Ordering::Release);
        self.poison(&format!(
            "{call} has not ended within storage.sync_timeout_ms = {}; the disk may hang, or have failed at a write",
            timeout.as_millis()
        ));
        // Who waits for a shared sync looks at the fault under this lock, or is woken.
        drop(self.sync.lock());
        self.synced.notify_all();
    }

    /// Whether a call did not end in time.
    pub(in crate::engine) fn is_hung(&self) -> bool {
        *self.hung.borrow()
    }

    /// Tells when a call does not end in time.
    pub(in crate::engine) fn hung(&self) -> watch::Receiver<bool> {
        self.hung.subscribe()
    }

    /// What is asked of sled at this moment.
    pub(in crate::engine) fn calls(&self) -> &Arc<Calls> {
        &self.calls
    }

    /// Takes a lock whose holder may be in a call that never ends: once that is known, nobody waits for it.
    ///
    /// # Errors
    /// `Unavailable` when the lock is not to be had because a call hangs.
    pub(in crate::engine) fn lock<'a, T>(&self, mutex: &'a Mutex<T>) -> Result<MutexGuard<'a, T>> {
        loop {
            if let Some(guard) = mutex.try_lock_for(LOOK_AGAIN) {
                return Ok(guard);
            }
            if self.is_hung() {
                return Err(self.stopped());
            }
        }
    }

    /// A call into sled that does not end before `end` is closed; in the place of the shared sync when it is one.
    #[cfg(debug_assertions)]
    pub(in crate::engine) fn hang(&self, call: Call, end: &Receiver<()>) -> Result<()> {
        let in_sync = call == Call::Sync;
        if in_sync {
            self.sync.lock().running = true;
        }
        let ended = self.guarded(call, || {
            // Nothing is ever sent.
            let _closed = end.recv();
            Ok(())
        });
        if in_sync {
            self.sync.lock().running = false;
            self.synced.notify_all();
        }
        ended
    }

    /// A batch that fails just now is known to have failed when its committer lets go.
    fn await_committer(&self) {
        // One that hangs has failed.
        drop(self.lock(&self.committing));
    }

    /// # Errors
    /// `Unavailable` when the store is poisoned.
    pub(super) fn check_writable(&self) -> Result<()> {
        match self.poison_reason() {
            None => Ok(()),
            Some(_) => Err(self.stopped()),
        }
    }

    /// # Errors
    /// `InsufficientStorage` when the disk has less room than is to be left: a full disk would stop the
    /// store altogether, reads included, until it is restarted.
    pub(super) fn check_room(&self) -> Result<()> {
        let least = self.options.min_free_bytes;
        let available = if least == 0 {
            u64::MAX
        } else {
            disk::available_bytes(self.directory())?
        };
        if available >= least {
            return Ok(());
        }
        Err(Error::new(
            Kind::InsufficientStorage,
            format!(
                "{available} bytes are free on the disk of the data directory, and storage.min_free_bytes = {least} \
                 of them are kept free; nothing was written"
            ),
        )
        .with("available_bytes", available)
        .with("min_free_bytes", least))
    }

    /// Runs a call into sled; an error or a panic in there poisons the store.
    pub(super) fn guarded<T>(
        &self,
        call: Call,
        run: impl FnOnce() -> sled::Result<T>,
    ) -> Result<T> {
        let under_way = self.calls.begin(call);
        let outcome = contained(run);
        drop(under_way);
        outcome.map_err(|fault| {
            let first = self.poison_reason().is_none();
            self.faulted.store(true, Ordering::Release);
            self.poison(&format!("{call} failed: {}", fault.text));
            // What fails after the first fault fails because of it.
            let error = if first && !fault.io {
                Error::storage(format!("the data store failed at: {call}"))
            } else {
                self.stopped()
            };
            error.because(fault.text)
        })
    }

    /// The refusal of everything that needs a store that has not failed.
    pub(in crate::engine) fn stopped(&self) -> Error {
        Error::new(
            Kind::Unavailable,
            format!(
                "the store takes no more writes after a storage fault ({}); mend what caused it and restart the \
                 service",
                self.poison_reason().unwrap_or("unknown")
            ),
        )
    }

    /// The error of a value that does not have its checksum. After a fault it may be half of what a refused
    /// batch wrote, which is no damage.
    pub(super) fn damage(&self, tree: u8, key: &[u8]) -> Error {
        self.await_committer();
        let damaged = damaged_value(tree, key);
        if self.is_faulted() {
            return self.stopped().because(damaged);
        }
        damaged
    }

    /// That a key leads to nothing; after a fault nobody knows.
    pub(super) fn absent(&self) -> Result<Option<Value>> {
        if self.is_faulted() {
            return Err(self.stopped());
        }
        Ok(None)
    }

    /// # Errors
    /// `Unavailable` for a record of a batch that was refused because sled failed at it.
    pub(in crate::engine) fn check_committed(&self, sequence: u64) -> Result<()> {
        if sequence <= self.committed() {
            return Ok(());
        }
        self.await_committer();
        if self.is_faulted() {
            return Err(self.stopped());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Batch, CHUNKS, OpenOptions, Tree, format};
    use super::*;

    fn store_with_a_long_value() -> (tempfile::TempDir, Store) {
        let home = tempfile::tempdir().unwrap();
        let options = OpenOptions {
            data_dir: home.path().join("data"),
            cache_bytes: 1 << 20,
            accept_data_loss: false,
            min_free_bytes: 0,
            sync_timeout: Duration::from_secs(60),
        };
        let store = Store::open(&options).unwrap();
        let mut batch = Batch::default();
        batch.put(Tree::Records, b"long".to_vec(), vec![7; 100_000]);
        batch.put(Tree::Records, b"short".to_vec(), vec![7; 100]);
        store.commit(batch, 1).unwrap();
        // As a transaction leaves it that the disk had no room for: the head is there, a chunk is not.
        let chunk = format::chunk_key(Tree::Records as u8, b"long", 1);
        let gone = [(chunk.into(), None)];
        store.files.load().map.fill(CHUNKS, &gone).unwrap();
        (home, store)
    }

    fn kind(store: &Store, key: &[u8]) -> Option<Kind> {
        store
            .get(Tree::Records, key)
            .err()
            .map(|error| error.kind())
    }

    fn scanned(store: &Store) -> Vec<Option<Kind>> {
        store
            .scan(Tree::Records, vec![0], vec![u8::MAX])
            .map(|entry| entry.err().map(|damaged| damaged.error.kind()))
            .collect()
    }

    /// What is half written after a fault was taken for damage, and answered 500 where 503 was due.
    #[test]
    fn half_a_value_is_unavailable_after_a_fault_and_damage_without_one() {
        let (_home, store) = store_with_a_long_value();
        assert_eq!(scanned(&store), [Some(Kind::StorageFault), None]);
        assert_eq!(kind(&store, b"long"), Some(Kind::StorageFault));
        // Damage of one value leaves the others as they were, and stops no writes.
        assert_eq!(kind(&store, b"long"), Some(Kind::StorageFault));
        assert_eq!(kind(&store, b"short"), None);
        assert_eq!(store.poison_reason(), None);
        assert!(store.get(Tree::Records, b"none").unwrap().is_none());

        let (_home, store) = store_with_a_long_value();
        let full = || Err::<(), _>(sled::Error::Io(std::io::ErrorKind::StorageFull.into()));
        let refused = store.guarded(Call::Commit, full).unwrap_err();
        assert_eq!(refused.kind(), Kind::Unavailable);
        assert_eq!(kind(&store, b"long"), Some(Kind::Unavailable));
        assert_eq!(scanned(&store), [Some(Kind::Unavailable), None]);
        assert_eq!(kind(&store, b"short"), None);
        // That something is not found says nothing any more.
        assert_eq!(kind(&store, b"none"), Some(Kind::Unavailable));
        assert!(store.check_committed(1).is_ok());
        assert!(store.check_committed(2).is_err());
    }
}
