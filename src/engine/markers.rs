//! Which backup holds which state of a collection: what an incremental backup may start from.
//!
//! A marker is written after a backup was committed. It lies in the store itself, so a data directory
//! that was rolled back, copied or exchanged has the markers of what it holds, and no others.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Engine;
use super::catalog::{MARKER, id_key};
use super::store::{Batch, Store, Tree, prefix_end};
use crate::error::{Error, Result};
use crate::model::digest::Digest;
use crate::model::stored::{self, Stored};

/// A backup that holds a collection as it was at a sequence of this store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupMarker {
    /// The backup.
    pub backup: String,
    /// Its moment.
    pub sequence: u64,
    /// The collection's digest then.
    pub digest: Digest,
}

impl Stored for BackupMarker {
    const NAME: &'static str = "a marker of a backup";
}

/// Key of what a repository holds of a collection.
fn marker_key(collection: Uuid, repository: Uuid) -> Vec<u8> {
    let mut key = id_key(MARKER, collection);
    key.extend_from_slice(repository.as_bytes());
    key
}

/// Keys of all markers of a collection begin like this.
pub(super) fn marker_prefix(collection: Uuid) -> Vec<u8> {
    id_key(MARKER, collection)
}

/// All markers of all collections, each with the repository that it is of.
fn all_markers(store: &Store) -> impl Iterator<Item = Result<(Uuid, BackupMarker)>> {
    let prefix = vec![MARKER];
    let end = prefix_end(&prefix);
    store.scan(Tree::Catalog, prefix, end).map(|entry| {
        let (key, value) = entry?;
        let repository = key.get(17..).and_then(|id| Uuid::from_slice(id).ok());
        let repository = repository.ok_or_else(|| {
            Error::storage("a backup's marker does not say which repository it is of")
        })?;
        Ok((repository, stored::decode(&value)?))
    })
}

impl Engine {
    /// Notes what a backup in a repository holds; durable when this returns.
    ///
    /// # Errors
    /// `Unavailable`, `InsufficientStorage`, `StorageFault`.
    pub fn put_backup_markers(
        &self,
        repository: Uuid,
        markers: impl IntoIterator<Item = (Uuid, BackupMarker)>,
    ) -> Result<()> {
        let inner = &self.inner;
        let mut writer = inner.lock_writer()?;
        let mut batch = Batch::default();
        for (collection, marker) in markers {
            // One that was dropped meanwhile is being purged; nothing may be left of it.
            if inner.live_or_staged(collection).is_ok() {
                let key = marker_key(collection, repository);
                batch.put(Tree::Catalog, key, stored::encode(&marker));
            }
        }
        if batch.len() == 0 {
            return Ok(());
        }
        let sequence = inner.commit_locked(&mut writer, batch)?;
        drop(writer);
        inner.store.wait_synced(sequence)
    }

    /// The newest backup of a collection in a repository that this store knows to hold its state. A marker that cannot be
    /// read counts as none.
    ///
    /// # Errors
    /// `StorageFault`.
    pub fn backup_marker(
        &self,
        repository: Uuid,
        collection: Uuid,
    ) -> Result<Option<BackupMarker>> {
        let key = marker_key(collection, repository);
        let store = &self.inner.store;
        let found = store.get(Tree::Catalog, &key);
        let read = found.and_then(|found| {
            let decoded = found.map(|payload| stored::decode(&payload));
            Ok(decoded.transpose()?)
        });
        match read {
            // Without it the next backup is a full one.
            Err(error) if !store.is_faulted() => {
                tracing::warn!(collection.id = %collection, ?error, "a marker of a backup cannot be read");
                Ok(None)
            }
            read => read,
        }
    }

    /// The repository that the newest backup of any collection of this store went to, as far as the store knows.
    ///
    /// # Errors
    /// `StorageFault`.
    pub fn last_repository(&self) -> Result<Option<Uuid>> {
        let mut newest: Option<(u64, Uuid)> = None;
        for entry in all_markers(&self.inner.store) {
            let (repository, marker) = match entry {
                Err(error) if !self.inner.store.is_faulted() => {
                    tracing::warn!(?error, "a marker of a backup cannot be read");
                    continue;
                }
                entry => entry?,
            };
            if newest.is_none_or(|(sequence, _)| marker.sequence > sequence) {
                newest = Some((marker.sequence, repository));
            }
        }
        Ok(newest.map(|(_, repository)| repository))
    }
}
