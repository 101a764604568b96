//! How far work is that goes on after a crash. A checkpoint may own a staged collection: that one is not swept
//! at the start, but loaded, for as long as the checkpoint is there.

use uuid::Uuid;

use super::catalog::{CHECKPOINT, checkpoint_key};
use super::store::{Batch, Store, Tree, Value, named, prefix_end};
use super::{Engine, Staging};
use crate::error::{Error, Result};
use crate::model::collection::Lifecycle;

/// A checkpoint as it is kept.
#[derive(Clone, Debug)]
pub struct StoredCheckpoint {
    /// Its name.
    pub key: String,
    /// The staged collection that it owns.
    pub staged: Option<Uuid>,
    /// What its owner keeps in it.
    pub payload: Vec<u8>,
}

impl Engine {
    /// Keeps a checkpoint, in the place of one of the same key; durable when this returns.
    ///
    /// # Errors
    /// `Unavailable`, `StorageFault`.
    pub fn put_checkpoint(&self, checkpoint: &StoredCheckpoint) -> Result<()> {
        let mut value = checkpoint.staged.unwrap_or_default().as_bytes().to_vec();
        value.extend_from_slice(&checkpoint.payload);
        let mut batch = Batch::default();
        batch.put(Tree::Catalog, checkpoint_key(&checkpoint.key), value);
        let sequence = self.inner.commit(batch)?;
        self.inner.store.wait_synced(sequence)
    }

    /// Forgets a checkpoint.
    ///
    /// # Errors
    /// `Unavailable`, `StorageFault`.
    pub fn remove_checkpoint(&self, key: &str) -> Result<()> {
        let mut batch = Batch::default();
        batch.remove(Tree::Catalog, checkpoint_key(key));
        let sequence = self.inner.commit(batch)?;
        self.inner.store.wait_synced(sequence)
    }

    /// The checkpoint of a key.
    ///
    /// # Errors
    /// `StorageFault`.
    pub fn checkpoint(&self, key: &str) -> Result<Option<StoredCheckpoint>> {
        let found = self.inner.store.get(Tree::Catalog, &checkpoint_key(key))?;
        found.map(|value| decode(key, &value)).transpose()
    }

    /// All checkpoints, by key. Damaged ones are passed over: they were logged at the start.
    ///
    /// # Errors
    /// `StorageFault` when the store itself cannot be read.
    pub fn checkpoints(&self) -> Result<Vec<StoredCheckpoint>> {
        read(&self.inner.store, |_, _| ())
    }

    /// Whether there is such a staged collection, fit for this purpose.
    pub fn is_staged(&self, id: Uuid, staging: Staging) -> bool {
        self.inner.live_or_staged(id).is_ok_and(|found| {
            let lifecycle = found.lifecycle();
            lifecycle == Lifecycle::Staging && (found.in_memory || staging == Staging::ToConsult)
        })
    }
}

fn decode(key: &str, value: &Value) -> Result<StoredCheckpoint> {
    let (staged, payload) = value
        .split_first_chunk::<16>()
        .ok_or_else(|| Error::storage("a checkpoint is too short"))?;
    let staged = Uuid::from_bytes(*staged);
    Ok(StoredCheckpoint {
        key: key.to_owned(),
        staged: (!staged.is_nil()).then_some(staged),
        payload: payload.to_vec(),
    })
}

/// Reads all checkpoints of a store; `damaged` is told of those that cannot be read.
pub(super) fn read(
    store: &Store,
    mut damaged: impl FnMut(&str, &Error),
) -> Result<Vec<StoredCheckpoint>> {
    let prefix = vec![CHECKPOINT];
    let end = prefix_end(&prefix);
    let mut found = Vec::new();
    for entry in store.scan(Tree::Catalog, prefix, end) {
        let (key, value) = named(entry)?;
        let key = String::from_utf8_lossy(key.get(1..).unwrap_or_default()).into_owned();
        match value.and_then(|value| decode(&key, &value)) {
            Ok(checkpoint) => found.push(checkpoint),
            Err(error) => damaged(&key, &error),
        }
    }
    Ok(found)
}
