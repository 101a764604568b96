//! The write path: add, upsert, update. Each call is one batch: all of it or nothing.
//!
//! What can be done without the write lock is done before it is taken: records are read, joined with what is written,
//! hashed and quantized ([`Draft`]). Under it only that is done again whose record was written meanwhile.

mod draft;
#[cfg(test)]
mod tests;

use std::time::Instant;

use uuid::Uuid;

use self::draft::Draft;
use super::format::{Head, StoredRecord};
use super::{Engine, Inner};
use crate::error::Result;
use crate::model::digest::RecordHash;
use crate::model::metadata::{Metadata, MetadataValue};
use crate::progress::Progress;

/// What happens to ids that exist and ids that do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteMode {
    /// New ids are inserted, existing ones left alone.
    Add,
    /// New ids are inserted, existing ones updated.
    Upsert,
    /// Existing ids are updated, others ignored.
    Update,
}

/// One record's part of a write. Absent parts leave an existing record's as they are.
#[derive(Clone, Debug, Default)]
pub struct RecordPatch {
    /// The id.
    pub id: String,
    /// All components; required for a new record.
    pub embedding: Option<Vec<f32>>,
    /// The text.
    pub document: Option<String>,
    /// The uri.
    pub uri: Option<String>,
    /// Merged key by key; `None` removes the key.
    pub metadata: Vec<(String, Option<MetadataValue>)>,
}

/// What a write did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriteOutcome {
    /// New records.
    pub inserted: u64,
    /// Existing records whose content changed.
    pub updated: u64,
    /// Records left as they were.
    pub untouched: u64,
}

/// What a record was before the batch.
pub(super) struct OldVersion {
    pub(super) ordinal: u64,
    /// The write that made it.
    pub(super) sequence: u64,
    pub(super) hash: RecordHash,
    pub(super) bytes: u64,
    pub(super) metadata: Metadata,
}

impl OldVersion {
    pub(super) fn of(ordinal: u64, stored: &StoredRecord<'_>) -> Result<Self> {
        Ok(Self {
            ordinal,
            sequence: stored.sequence,
            hash: stored.hash,
            bytes: stored.canonical.len() as u64,
            metadata: stored.view.metadata()?,
        })
    }
}

impl Head {
    pub(super) fn subtract(&mut self, hash: &RecordHash, bytes: u64) {
        self.digest.subtract(hash);
        self.count = self.count.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    pub(super) fn add(&mut self, hash: &RecordHash, bytes: u64) {
        self.digest.add(hash);
        self.count += 1;
        self.bytes += bytes;
    }
}

impl Engine {
    /// Writes records to a collection; returns when the write is durable as configured.
    ///
    /// # Errors
    /// `NotFound`; `InvalidArgument` for a wrong dimension; `Unavailable`, `StorageFault`. Nothing is
    /// changed then.
    pub fn write(
        &self,
        collection: Uuid,
        mode: WriteMode,
        patches: Vec<RecordPatch>,
    ) -> Result<WriteOutcome> {
        self.write_unless_canceled(collection, mode, patches, &Progress::default())
    }

    /// As [`Engine::write`], up to the moment of the commit.
    ///
    /// # Errors
    /// As there; `Canceled`.
    pub fn write_unless_canceled(
        &self,
        public_id: Uuid,
        mode: WriteMode,
        patches: Vec<RecordPatch>,
        progress: &Progress,
    ) -> Result<WriteOutcome> {
        let inner = &self.inner;
        let collection = inner.addressed(public_id)?;
        collection.check_writable()?;
        inner.wait_for_turn(collection.id, patches.len());
        let mut draft = Draft::new(mode, patches, &collection.info())?;
        let (sequence, outcome) = loop {
            let collection = inner.addressed(public_id)?;
            collection.check_writable()?;
            draft.prepare(&inner.store, &collection, progress)?;
            let mut writer = inner.lock_for_write()?;
            // Other content may have taken its place meanwhile.
            if inner.addressed(public_id)?.id != collection.id {
                continue;
            }
            collection.check_writable()?;
            draft.prepare_again(&inner.store, &collection)?;
            progress.commit()?;
            break draft.commit(inner, &mut writer, &collection)?;
        };
        inner.acknowledge(sequence)?;
        Ok(outcome)
    }
}

impl Inner {
    /// While a copy catches up with writers, they write at its pace. No lock is held meanwhile.
    pub(super) fn wait_for_turn(&self, collection: Uuid, records: usize) {
        let most = self.options.max_write_delay;
        let wait = self.pace.turn(collection, records, Instant::now(), most);
        if !wait.is_zero() {
            std::thread::sleep(wait);
        }
    }
}
