//! A staged collection that is given up unless it is published: an error or a panic on the way leaves
//! nothing behind.

use uuid::Uuid;

use crate::engine::{CollectionInfo, Engine, Exclusive, StagedRecord, Staging};
use crate::error::{Error, Result};
use crate::model::collection::CollectionDefinition;
use crate::model::digest::Digest;
use crate::model::names::CollectionName;

/// Records or bytes per batch, whichever comes first: how long the write lock is held at a time.
const BATCH_RECORDS: usize = 500;
const BATCH_BYTES: usize = 4 * 1024 * 1024;

pub(super) struct Stage<'a> {
    engine: &'a Engine,
    id: Uuid,
    name: CollectionName,
    batch: Vec<StagedRecord>,
    batch_bytes: usize,
    published: bool,
}

impl<'a> Stage<'a> {
    pub(super) fn new(
        engine: &'a Engine,
        name: CollectionName,
        definition: CollectionDefinition,
        staging: Staging,
    ) -> Result<Self> {
        Ok(Self {
            engine,
            id: engine.stage(name.clone(), definition, staging)?,
            name,
            batch: Vec::new(),
            batch_bytes: 0,
            published: false,
        })
    }

    pub(super) fn id(&self) -> Uuid {
        self.id
    }

    /// The name that it is meant for.
    pub(super) fn name(&self) -> &CollectionName {
        &self.name
    }

    pub(super) fn put(&mut self, ordinal: u64, canonical: Vec<u8>) -> Result<()> {
        self.put_in(&mut None, ordinal, canonical)
    }

    pub(super) fn remove(&mut self, ordinals: &[u64]) -> Result<()> {
        self.remove_in(&mut None, ordinals)
    }

    pub(super) fn flush(&mut self) -> Result<()> {
        self.flush_in(&mut None)
    }

    /// As [`Stage::put`], under the write lock where the caller holds it.
    pub(super) fn put_in(
        &mut self,
        exclusive: &mut Option<&mut Exclusive<'_>>,
        ordinal: u64,
        canonical: Vec<u8>,
    ) -> Result<()> {
        self.batch_bytes += canonical.len();
        self.batch.push(StagedRecord { ordinal, canonical });
        if self.batch.len() >= BATCH_RECORDS || self.batch_bytes >= BATCH_BYTES {
            self.flush_in(exclusive)?;
        }
        Ok(())
    }

    /// As [`Stage::remove`], under the write lock where the caller holds it.
    pub(super) fn remove_in(
        &mut self,
        exclusive: &mut Option<&mut Exclusive<'_>>,
        ordinals: &[u64],
    ) -> Result<()> {
        self.flush_in(exclusive)?;
        for batch in ordinals.chunks(BATCH_RECORDS) {
            match exclusive {
                Some(exclusive) => exclusive.unstage_records(self.id, batch)?,
                None => self.engine.unstage_records(self.id, batch)?,
            }
        }
        Ok(())
    }

    /// As [`Stage::flush`], under the write lock where the caller holds it.
    pub(super) fn flush_in(&mut self, exclusive: &mut Option<&mut Exclusive<'_>>) -> Result<()> {
        if !self.batch.is_empty() {
            match exclusive {
                Some(exclusive) => exclusive.stage_records(self.id, &self.batch)?,
                None => self.engine.stage_records(self.id, &self.batch)?,
            }
            self.batch.clear();
            self.batch_bytes = 0;
        }
        Ok(())
    }

    /// Completes the copy, makes it durable, and proves it equal to what it was copied from.
    ///
    /// # Errors
    /// `BackupCorrupt` naming the difference when count or digest are not as expected.
    pub(super) fn finish(
        &mut self,
        definition: &CollectionDefinition,
        next_ordinal: u64,
        expected: Expected,
    ) -> Result<CollectionInfo> {
        self.flush()?;
        let info = self
            .engine
            .finish_staging(self.id, definition, next_ordinal)?;
        if info.head.count != expected.records || info.head.digest != expected.digest {
            return Err(Error::backup_corrupt(format!(
                "the copy of {} differs from its source: {} records with digest {} instead of {} with {}",
                info.descriptor.name,
                info.head.count,
                info.head.digest,
                expected.records,
                expected.digest
            ))
            .with("collection", info.descriptor.name.to_string()));
        }
        Ok(info)
    }

    pub(super) fn published(&mut self) {
        self.published = true;
    }
}

impl Drop for Stage<'_> {
    fn drop(&mut self) {
        if !self.published {
            self.engine.discard_staged(self.id);
        }
    }
}

/// What a copy has to equal.
pub(super) struct Expected {
    pub(super) records: u64,
    pub(super) digest: Digest,
}
