//! Collections built aside: what restore, migrate and drill begin with.
//!
//! A staged collection has an id and no name, so no client reaches it. Its records keep the ordinals
//! they are given. What makes it visible is in `publish.rs`. What a crash leaves staged is swept at the
//! next start.

use std::sync::Arc;

use uuid::Uuid;

use super::catalog::CatalogBatch;
use super::collection::{Collection, CollectionInfo};
use super::consistency::Announcement;
use super::format::{self, Head, StoredRecord};
use super::store::{Batch, Tree};
use super::vectors::Quantized;
use super::{Engine, Inner, WriteLock};
use crate::error::Result;
use crate::model::collection::{CollectionDefinition, CollectionDescriptor, Lifecycle};
use crate::model::digest::RecordHash;
use crate::model::metadata::Metadata;
use crate::model::names::CollectionName;
use crate::model::record::RecordView;

/// A record for a staged collection.
#[derive(Clone, Debug)]
pub struct StagedRecord {
    /// Its place in the order.
    pub ordinal: u64,
    /// Its canonical bytes; the hash is computed from them here.
    pub canonical: Vec<u8>,
}

/// What a staged collection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Staging {
    /// It is to be made visible: its vectors go to memory as well.
    ToPublish,
    /// It is only looked things up in, and given up again.
    ToConsult,
}

/// A record found by its id.
#[derive(Clone, Debug)]
pub struct FoundRecord {
    /// Its place in the order.
    pub ordinal: u64,
    /// The write that made this version.
    pub sequence: u64,
    /// Its hash.
    pub hash: RecordHash,
    /// Its canonical bytes.
    pub canonical: Vec<u8>,
}

/// A staged record, decoded as far as memory needs it.
struct Prepared<'a> {
    record: &'a StagedRecord,
    hash: RecordHash,
    view: RecordView<'a>,
    metadata: Metadata,
    vector: Vec<f32>,
    codes: Quantized,
}

fn prepare(records: &[StagedRecord]) -> Result<Vec<Prepared<'_>>> {
    records
        .iter()
        .map(|record| {
            let view = RecordView::parse(&record.canonical)?;
            let vector: Vec<f32> = view.embedding().collect();
            Ok(Prepared {
                codes: Quantized::of(&vector),
                vector,
                record,
                hash: RecordHash::of(&record.canonical),
                metadata: view.metadata()?,
                view,
            })
        })
        .collect()
}

/// The write lock, held over several steps: nobody else writes between them.
pub struct Exclusive<'a> {
    pub(super) inner: &'a Inner,
    pub(super) writer: WriteLock<'a>,
}

impl Inner {
    pub(super) fn exclusive(&self) -> Result<Exclusive<'_>> {
        Ok(Exclusive {
            inner: self,
            writer: self.lock_writer()?,
        })
    }
}

impl Engine {
    /// Creates an empty staged collection.
    ///
    /// # Errors
    /// `Unavailable`, `StorageFault`.
    pub fn stage(
        &self,
        name: CollectionName,
        definition: CollectionDefinition,
        staging: Staging,
    ) -> Result<Uuid> {
        let descriptor = CollectionDescriptor {
            id: Uuid::new_v4(),
            public_id: None,
            name,
            definition,
            lifecycle: Lifecycle::Staging,
            root: None,
        };
        let id = descriptor.id;
        let inner = &self.inner;
        let mut writer = inner.lock_writer()?;
        let head = Head {
            sequence: writer.next(),
            ..Head::default()
        };
        let mut batch = Batch::default();
        batch.put_descriptor(&descriptor);
        batch.put_head(id, &head);
        inner.commit_locked(&mut writer, batch)?;
        let mut collection = Collection::new(descriptor, head);
        collection.in_memory = staging == Staging::ToPublish;
        let collection = Arc::new(collection);
        inner.catalog.write().collections.insert(id, collection);
        Ok(id)
    }

    /// Puts records into a staged collection, replacing those at the same ordinals. Not yet durable.
    ///
    /// # Errors
    /// `NotFound`, `StorageFault` for bytes that are no record, `Unavailable`.
    pub fn stage_records(&self, staged: Uuid, records: &[StagedRecord]) -> Result<()> {
        let prepared = prepare(records)?;
        self.inner.exclusive()?.put(staged, &prepared)
    }

    /// Removes records from a staged collection by ordinal; those that are not there are passed over.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`, `StorageFault`.
    pub fn unstage_records(&self, staged: Uuid, ordinals: &[u64]) -> Result<()> {
        self.inner.exclusive()?.unstage_records(staged, ordinals)
    }

    /// Completes a staged collection's definition, and the ordinal that the next new record gets where the
    /// copied collection was further. Durable when this returns.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`, `StorageFault`.
    pub fn finish_staging(
        &self,
        staged: Uuid,
        definition: &CollectionDefinition,
        next_ordinal: u64,
    ) -> Result<CollectionInfo> {
        let mut exclusive = self.inner.exclusive()?;
        let info = exclusive.finish_staging(staged, definition, next_ordinal)?;
        let sequence = exclusive.writer.sequence;
        drop(exclusive);
        self.inner.store.wait_synced(sequence)?;
        Ok(info)
    }

    /// A staged collection's definition and head.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn staged(&self, id: Uuid) -> Result<CollectionInfo> {
        Ok(self.inner.live_or_staged(id)?.info())
    }

    /// Keeps the next so many ordinals of a collection free: records that are inserted from now on come after
    /// them. Returns the first.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`, `StorageFault`.
    pub fn reserve_ordinals(&self, collection: Uuid, count: u64) -> Result<u64> {
        let inner = &self.inner;
        let mut writer = inner.lock_writer()?;
        let collection = inner.live_or_staged(collection)?;
        let mut head = collection.info().head;
        let first = head.next_ordinal;
        head.next_ordinal += count;
        let mut batch = Batch::default();
        batch.put_head(collection.id, &head);
        inner.commit_locked(&mut writer, batch)?;
        collection.show_head(head);
        Ok(first)
    }

    /// A record of a live or staged collection, by its id.
    ///
    /// # Errors
    /// `NotFound` for the collection, `StorageFault`.
    pub fn find_record(&self, collection: Uuid, id: &str) -> Result<Option<FoundRecord>> {
        let collection = self.inner.live_or_staged(collection)?;
        let store = &self.inner.store;
        // Between the two reads a writer may delete it.
        let Some(ordinal) = collection.ordinal_of(store, id)? else {
            return Ok(None);
        };
        let Some(payload) = collection.payload(store, ordinal)? else {
            return Ok(None);
        };
        let stored = StoredRecord::decode(&payload)?;
        Ok((stored.view.id == id).then(|| FoundRecord {
            ordinal,
            sequence: stored.sequence,
            hash: stored.hash,
            canonical: stored.canonical.to_vec(),
        }))
    }

    /// The hash of a record of a live or staged collection, by its id. It is looked for at `likely` first: copies
    /// keep their ordinals.
    ///
    /// # Errors
    /// `NotFound` for the collection, `StorageFault`.
    pub fn record_hash(
        &self,
        collection: Uuid,
        id: &str,
        likely: u64,
    ) -> Result<Option<RecordHash>> {
        let collection = self.inner.live_or_staged(collection)?;
        let store = &self.inner.store;
        let at = |ordinal: u64| {
            let Some(payload) = collection.payload(store, ordinal)? else {
                return Ok(None);
            };
            let stored = StoredRecord::decode(&payload)?;
            Ok((stored.view.id == id).then_some(stored.hash))
        };
        if let Some(hash) = at(likely)? {
            return Ok(Some(hash));
        }
        match collection.ordinal_of(store, id)? {
            Some(ordinal) => at(ordinal),
            None => Ok(None),
        }
    }

    /// Visits the records of a live or staged collection from an ordinal on, by ordinal, until `visit` says stop.
    ///
    /// # Errors
    /// `NotFound`, `StorageFault`, those of `visit`.
    pub fn scan(
        &self,
        collection: Uuid,
        from: u64,
        visit: impl FnMut(u64, &StoredRecord<'_>) -> Result<bool>,
    ) -> Result<()> {
        let collection = self.inner.live_or_staged(collection)?;
        collection.scan_from(&self.inner.store, from, visit)
    }

    /// The ordinal of the record at `offset` in insertion order; `None` behind the last one.
    ///
    /// # Errors
    /// `NotFound`; `Unavailable` for a damaged collection.
    pub fn ordinal_at(&self, collection: Uuid, offset: usize) -> Result<Option<u64>> {
        let collection = self.inner.live_collection(collection)?;
        collection.check_readable()?;
        Ok(collection.columns().ordinal_at(offset))
    }

    /// Gives a staged collection up; its records are removed in the background. One that was made visible meanwhile
    /// stays.
    pub fn discard_staged(&self, staged: Uuid) {
        let removed = {
            let mut catalog = self.inner.catalog.write();
            let is_staged =
                |collection: &Arc<Collection>| collection.lifecycle() == Lifecycle::Staging;
            match catalog.collections.get(&staged) {
                Some(collection) if is_staged(collection) => catalog.collections.remove(&staged),
                _ => None,
            }
        };
        self.inner.discard(removed);
    }
}

impl Exclusive<'_> {
    /// As [`Engine::stage_records`].
    ///
    /// # Errors
    /// As there.
    pub fn stage_records(&mut self, staged: Uuid, records: &[StagedRecord]) -> Result<()> {
        self.put(staged, &prepare(records)?)
    }

    fn put(&mut self, staged: Uuid, records: &[Prepared<'_>]) -> Result<()> {
        let inner = self.inner;
        let collection = inner.live_or_staged(staged)?;
        let sequence = self.writer.next();
        let mut head = collection.info().head;
        let mut batch = Batch::default();
        let mut replaced = Vec::new();
        let mut announcement = Announcement::to(collection.watch.load_full());
        for Prepared {
            record, hash, view, ..
        } in records
        {
            let mut before = None;
            // What is beyond the last ordinal was never there.
            if record.ordinal < head.next_ordinal
                && let Some(payload) = collection.payload(&inner.store, record.ordinal)?
            {
                let old = StoredRecord::decode(&payload)?;
                head.subtract(&old.hash, old.canonical.len() as u64);
                replaced.push((record.ordinal, old.view.metadata()?));
                before = Some(old.hash);
            }
            announcement.add(record.ordinal, before, Some(*hash));
            head.add(hash, record.canonical.len() as u64);
            head.next_ordinal = head.next_ordinal.max(record.ordinal + 1);
            let payload = format::encode_record(sequence, hash, &record.canonical);
            batch.put(
                Tree::Records,
                format::record_key(staged, record.ordinal),
                payload,
            );
            batch.put(
                Tree::Ids,
                format::id_key(staged, view.id),
                record.ordinal.to_le_bytes().to_vec(),
            );
        }
        head.sequence = sequence;
        batch.put_head(staged, &head);
        // The first record fixes the dimension, as everywhere.
        let mut descriptor = collection.info().descriptor;
        if let Some(first) = records.first()
            && descriptor.definition.dimension.is_none()
        {
            let mut fixed = CollectionDescriptor::clone(&descriptor);
            fixed.definition.dimension = u32::try_from(first.view.dimension()).ok();
            batch.put_descriptor(&fixed);
            descriptor = Arc::new(fixed);
        }
        announcement.begin();
        inner.commit_locked(&mut self.writer, batch)?;
        announcement.done();
        if collection.in_memory {
            let mut memory = collection.memory.write();
            for (ordinal, metadata) in &replaced {
                memory.metadata.remove(*ordinal, metadata);
            }
            for prepared in records {
                let ordinal = prepared.record.ordinal;
                let (vector, codes) = (&prepared.vector, &prepared.codes);
                memory.columns.put(ordinal, sequence, vector, codes);
                memory.metadata.insert(ordinal, &prepared.metadata);
            }
        }
        collection.show(descriptor, head);
        Ok(())
    }

    /// As [`Engine::unstage_records`].
    ///
    /// # Errors
    /// As there.
    pub fn unstage_records(&mut self, staged: Uuid, ordinals: &[u64]) -> Result<()> {
        let inner = self.inner;
        let collection = inner.live_or_staged(staged)?;
        let mut head = collection.info().head;
        let mut batch = Batch::default();
        let mut removed = Vec::new();
        let mut announcement = Announcement::to(collection.watch.load_full());
        for ordinal in ordinals {
            let Some(payload) = collection.payload(&inner.store, *ordinal)? else {
                continue;
            };
            let old = StoredRecord::decode(&payload)?;
            head.subtract(&old.hash, old.canonical.len() as u64);
            removed.push((*ordinal, old.view.metadata()?));
            announcement.add(*ordinal, Some(old.hash), None);
            batch.remove(Tree::Records, format::record_key(staged, *ordinal));
            // The id may have moved to a newer ordinal meanwhile.
            if collection.ordinal_of(&inner.store, old.view.id)? == Some(*ordinal) {
                batch.remove(Tree::Ids, format::id_key(staged, old.view.id));
            }
        }
        if batch.len() == 0 {
            return Ok(());
        }
        head.sequence = self.writer.next();
        batch.put_head(staged, &head);
        announcement.begin();
        inner.commit_locked(&mut self.writer, batch)?;
        announcement.done();
        if collection.in_memory {
            let mut memory = collection.memory.write();
            for (ordinal, metadata) in &removed {
                memory.columns.remove(*ordinal);
                memory.metadata.remove(*ordinal, metadata);
            }
        }
        collection.show_head(head);
        Ok(())
    }

    /// As [`Engine::finish_staging`], but for the sync.
    ///
    /// # Errors
    /// As there.
    pub fn finish_staging(
        &mut self,
        staged: Uuid,
        definition: &CollectionDefinition,
        next_ordinal: u64,
    ) -> Result<CollectionInfo> {
        let collection = self.inner.live_or_staged(staged)?;
        let info = collection.info();
        let mut head = info.head;
        head.next_ordinal = head.next_ordinal.max(next_ordinal);
        let mut descriptor = CollectionDescriptor::clone(&info.descriptor);
        descriptor.definition = definition.clone();
        // That of its records, where the definition is from before the first.
        let dimension = info.descriptor.definition.dimension;
        descriptor.definition.dimension = definition.dimension.or(dimension);
        let mut batch = Batch::default();
        batch.put_head(staged, &head);
        batch.put_descriptor(&descriptor);
        self.inner.commit_locked(&mut self.writer, batch)?;
        collection.show(Arc::new(descriptor), head);
        Ok(collection.info())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::testing::{Opened, definition};
    use crate::model::record::Record;

    #[test]
    fn the_dimension_of_staged_records_stays_whatever_the_definition_says() {
        let opened = Opened::new();
        let engine = &opened.engine;
        let name = CollectionName::new("default_tenant", "default_database", "staged");
        let staged = engine
            .stage(name, definition(), Staging::ToPublish)
            .unwrap();
        let canonical = Record {
            id: "a".to_owned(),
            embedding: vec![1.0, 2.0],
            ..Record::default()
        }
        .canonical();
        let record = StagedRecord {
            ordinal: 0,
            canonical,
        };
        engine.stage_records(staged, &[record]).unwrap();
        // From before the first record.
        let info = engine.finish_staging(staged, &definition(), 0).unwrap();
        assert_eq!(info.descriptor.definition.dimension, Some(2));
    }
}
