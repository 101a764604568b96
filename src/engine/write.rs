//! The write path: add, upsert, update, delete. Each call is one batch: all of it or nothing.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Instant;

use uuid::Uuid;

use super::catalog::CatalogBatch;
use super::collection::{Collection, CollectionInfo};
use super::consistency::Announcement;
use super::format::{self, Head, StoredRecord};
use super::store::{Batch, Store, Tree, named, prefix_end};
use super::{Engine, Inner, Writer};
use crate::error::{Error, Result};
use crate::model::collection::CollectionDescriptor;
use crate::model::digest::RecordHash;
use crate::model::filter::Filter;
use crate::model::metadata::{Metadata, MetadataValue};
use crate::model::record::Record;

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

/// Which records to delete: those that satisfy every part that is given.
#[derive(Debug, Default)]
pub struct DeleteRequest {
    /// These ids.
    pub ids: Option<Vec<String>>,
    /// Matching this.
    pub filter: Option<Filter>,
    /// At most this many, first inserted first.
    pub limit: Option<usize>,
}

/// A record as the batch leaves it.
struct Pending {
    ordinal: u64,
    old: Option<OldVersion>,
    record: Record,
}

/// What a record was before the batch.
struct OldVersion {
    hash: RecordHash,
    bytes: u64,
    metadata: Metadata,
}

impl OldVersion {
    fn of(stored: &StoredRecord<'_>) -> Result<Self> {
        Ok(Self {
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
        let inner = &self.inner;
        inner.wait_for_turn(inner.addressed(collection)?.id, patches.len());
        let mut writer = inner.lock_for_write()?;
        let collection = inner.addressed(collection)?;
        collection.check_writable()?;
        let info = collection.info();
        check_dimensions(&info.descriptor, &patches)?;
        let mut draft = Draft::new(&inner.store, &collection, &info);
        for patch in patches {
            draft.apply(mode, patch)?;
        }
        let (sequence, outcome) = draft.commit(inner, &mut writer, &info)?;
        drop(writer);
        inner.acknowledge(sequence)?;
        Ok(outcome)
    }

    /// Deletes records; returns how many there were.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`, `StorageFault`. Nothing is changed then.
    pub fn delete(&self, collection: Uuid, request: &DeleteRequest) -> Result<u64> {
        let inner = &self.inner;
        // Selecting may read the whole collection, so it happens before the lock; what is deleted is
        // decided again under it.
        let (collection, candidates, mut writer) = loop {
            let found = inner.addressed(collection)?;
            found.check_writable()?;
            let (ids, filter) = (request.ids.as_deref(), request.filter.as_ref());
            let candidates = inner.select(&found, ids, filter, usize::MAX)?;
            inner.wait_for_turn(found.id, candidates.len());
            let writer = inner.lock_for_write()?;
            // Other content may have taken its place meanwhile.
            if inner.addressed(collection)?.id == found.id {
                break (found, candidates, writer);
            }
        };
        let sequence = writer.next();
        let mut head = collection.info().head;
        let mut batch = Batch::default();
        let mut removed = Vec::new();
        let mut announcement = Announcement::to(collection.watch.load_full());
        let limit = request.limit.unwrap_or(usize::MAX);
        collection.visit_each(&inner.store, &candidates, |ordinal, stored| {
            if removed.len() >= limit {
                return Ok(false);
            }
            if let Some(filter) = &request.filter
                && !filter.matches(&stored.view.metadata()?, stored.view.document)
            {
                return Ok(true);
            }
            let old = OldVersion::of(stored)?;
            head.subtract(&old.hash, old.bytes);
            announcement.add(ordinal, Some(old.hash), None);
            let id = stored.view.id;
            batch.remove(Tree::Records, format::record_key(collection.id, ordinal));
            batch.remove(Tree::Ids, format::id_key(collection.id, id));
            let key = format::tombstone_key(collection.id, sequence, ordinal);
            batch.put(Tree::Tombstones, key, id.as_bytes().to_vec());
            removed.push((ordinal, old.metadata));
            Ok(true)
        })?;
        if removed.is_empty() {
            // That they are gone may be the work of a delete that is not synced yet.
            drop(writer);
            inner.acknowledge(inner.store.committed())?;
            return Ok(0);
        }
        head.sequence = sequence;
        let released =
            inner.release_tombstones(&collection, &mut batch, &mut head, removed.len())?;
        batch.put_head(collection.id, &head);
        announcement.begin();
        let sequence = inner.commit_locked(&mut writer, batch)?;
        announcement.done();
        {
            let mut state = collection.state.write();
            for (ordinal, metadata) in &removed {
                state.columns.remove(*ordinal);
                state.metadata.remove(*ordinal, metadata);
            }
            state.tombstones = state.tombstones + removed.len() as u64 - released;
            state.head = head;
        }
        drop(writer);
        inner.acknowledge(sequence)?;
        Ok(removed.len() as u64)
    }
}

impl Inner {
    /// While a copy catches up with writers, they write at its pace. No lock is held meanwhile.
    fn wait_for_turn(&self, collection: Uuid, records: usize) {
        let most = self.options.max_write_delay;
        let wait = self.pace.turn(collection, records, Instant::now(), most);
        if !wait.is_zero() {
            std::thread::sleep(wait);
        }
    }

    /// Puts the removal of the oldest tombstones into the batch when there are more than the bound and
    /// no running snapshot needs them. Returns how many go.
    fn release_tombstones(
        &self,
        collection: &Collection,
        batch: &mut Batch,
        head: &mut Head,
        arriving: usize,
    ) -> Result<u64> {
        let held = collection.state.read().tombstones + arriving as u64;
        let excess = held.saturating_sub(self.options.max_tombstones);
        if excess == 0 {
            return Ok(0);
        }
        let pinned = self.pins.lock().iter().map(|(_, sequence)| *sequence).min();
        let prefix = collection.id.as_bytes().to_vec();
        let mut released = 0;
        // A little more than what arrives, so that an excess shrinks and no batch grows without bound.
        let most = excess.min(2 * arriving as u64) as usize;
        let end = prefix_end(&prefix);
        for entry in self.store.scan(Tree::Tombstones, prefix, end).take(most) {
            // A damaged one may go: its key says all that is needed.
            let (key, _) = named(entry)?;
            let sequence = format::be_u64(format::after_collection(&key)?)?;
            if pinned.is_some_and(|pinned| sequence > pinned) {
                break;
            }
            head.tombstone_floor = head.tombstone_floor.max(sequence);
            batch.remove(Tree::Tombstones, key.to_vec());
            released += 1;
        }
        Ok(released)
    }
}

fn check_dimensions(descriptor: &CollectionDescriptor, patches: &[RecordPatch]) -> Result<()> {
    let mut expected = descriptor
        .definition
        .dimension
        .map(|dimension| dimension as usize);
    for embedding in patches.iter().filter_map(|patch| patch.embedding.as_ref()) {
        match expected {
            None => expected = Some(embedding.len()),
            Some(expected) if expected != embedding.len() => {
                return Err(Error::invalid(format!(
                    "Collection expecting embedding with dimension of {expected}, got {}",
                    embedding.len()
                )));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// A write under construction: the records it touches, merged in order.
struct Draft<'a> {
    store: &'a Store,
    collection: &'a Arc<Collection>,
    next_ordinal: u64,
    pending: Vec<Pending>,
    by_id: HashMap<String, usize>,
    untouched: u64,
}

impl<'a> Draft<'a> {
    fn new(store: &'a Store, collection: &'a Arc<Collection>, info: &CollectionInfo) -> Self {
        Self {
            store,
            collection,
            next_ordinal: info.head.next_ordinal,
            pending: Vec::new(),
            by_id: HashMap::new(),
            untouched: 0,
        }
    }

    fn apply(&mut self, mode: WriteMode, patch: RecordPatch) -> Result<()> {
        match self.by_id.entry(patch.id.clone()) {
            Entry::Occupied(_) if mode == WriteMode::Add => self.untouched += 1,
            Entry::Occupied(at) => {
                if let Some(pending) = self.pending.get_mut(*at.get()) {
                    merge(&mut pending.record, patch);
                }
            }
            Entry::Vacant(vacant) => {
                let existing = self.collection.ordinal_of(self.store, &patch.id)?;
                let pending = match (existing, mode) {
                    (Some(_), WriteMode::Add) | (None, WriteMode::Update) => {
                        self.untouched += 1;
                        return Ok(());
                    }
                    (Some(ordinal), _) => load(self.store, self.collection, ordinal, patch)?,
                    (None, _) => {
                        let ordinal = self.next_ordinal;
                        self.next_ordinal += 1;
                        create(ordinal, patch)?
                    }
                };
                vacant.insert(self.pending.len());
                self.pending.push(pending);
            }
        }
        Ok(())
    }

    /// Commits and publishes: the number of the commit that all of it is in.
    fn commit(
        mut self,
        inner: &Inner,
        writer: &mut Writer,
        info: &CollectionInfo,
    ) -> Result<(u64, WriteOutcome)> {
        let id = self.collection.id;
        let sequence = writer.next();
        let mut outcome = WriteOutcome {
            untouched: self.untouched,
            ..WriteOutcome::default()
        };
        let mut head = info.head;
        let mut batch = Batch::default();
        let mut announcement = Announcement::to(self.collection.watch.load_full());
        self.pending.retain(|pending| {
            let canonical = pending.record.canonical();
            let hash = RecordHash::of(&canonical);
            match &pending.old {
                Some(old) if old.hash == hash => {
                    outcome.untouched += 1;
                    return false;
                }
                Some(old) => {
                    head.subtract(&old.hash, old.bytes);
                    outcome.updated += 1;
                }
                None => {
                    let key = format::id_key(id, &pending.record.id);
                    batch.put(Tree::Ids, key, pending.ordinal.to_le_bytes().to_vec());
                    outcome.inserted += 1;
                }
            }
            head.add(&hash, canonical.len() as u64);
            let old = pending.old.as_ref().map(|old| old.hash);
            announcement.add(pending.ordinal, old, Some(hash));
            let payload = format::encode_record(sequence, &hash, &canonical);
            batch.put(
                Tree::Records,
                format::record_key(id, pending.ordinal),
                payload,
            );
            true
        });
        let Some(first) = self.pending.first() else {
            return Ok((inner.store.committed(), outcome));
        };
        let dimension = u32::try_from(first.record.embedding.len())
            .map_err(|_| Error::invalid("an embedding has too many dimensions"))?;
        head.next_ordinal = self.next_ordinal;
        head.sequence = sequence;
        batch.put_head(id, &head);
        let descriptor = self.changed_descriptor(&info.descriptor, dimension);
        if let Some(descriptor) = &descriptor {
            batch.put_descriptor(descriptor);
        }
        announcement.begin();
        inner.commit_locked(writer, batch)?;
        announcement.done();
        let mut state = self.collection.state.write();
        for pending in &self.pending {
            let record = &pending.record;
            state
                .columns
                .put(pending.ordinal, sequence, &record.embedding);
            if let Some(old) = &pending.old {
                if old.metadata == record.metadata {
                    continue;
                }
                state.metadata.remove(pending.ordinal, &old.metadata);
            }
            state.metadata.insert(pending.ordinal, &record.metadata);
        }
        state.head = head;
        if let Some(descriptor) = descriptor {
            state.descriptor = Arc::new(descriptor);
        }
        Ok((sequence, outcome))
    }

    /// The descriptor, if this write fixes the dimension or brings new metadata keys.
    fn changed_descriptor(
        &self,
        current: &Arc<CollectionDescriptor>,
        dimension: u32,
    ) -> Option<CollectionDescriptor> {
        let entries = || {
            self.pending.iter().flat_map(|pending| {
                let metadata = pending.record.metadata.iter();
                metadata.map(|(key, value)| (key.as_str(), value))
            })
        };
        let definition = &current.definition;
        if definition.dimension.is_some() && definition.schema.knows(entries()) {
            return None;
        }
        let mut changed = CollectionDescriptor::clone(current);
        changed.definition.schema.discover(entries());
        changed.definition.dimension.get_or_insert(dimension);
        Some(changed)
    }
}

fn load(
    store: &Store,
    collection: &Collection,
    ordinal: u64,
    patch: RecordPatch,
) -> Result<Pending> {
    let payload = collection.payload(store, ordinal)?.ok_or_else(|| {
        let damage = format!("id {:?} points to a record that is not there", patch.id);
        collection.note_damage(&damage);
        Error::storage(damage)
    })?;
    let stored = StoredRecord::decode(&payload)?;
    let mut record = stored.view.to_record()?;
    merge(&mut record, patch);
    Ok(Pending {
        ordinal,
        old: Some(OldVersion::of(&stored)?),
        record,
    })
}

fn create(ordinal: u64, patch: RecordPatch) -> Result<Pending> {
    let RecordPatch {
        id,
        embedding,
        document,
        uri,
        metadata,
    } = patch;
    let embedding = embedding
        .ok_or_else(|| Error::invalid(format!("a new record needs an embedding: {id:?}")))?;
    let metadata = metadata
        .into_iter()
        .filter_map(|(key, value)| Some((key, value?)))
        .collect();
    Ok(Pending {
        ordinal,
        old: None,
        record: Record {
            id,
            embedding,
            document,
            uri,
            metadata,
        },
    })
}

fn merge(record: &mut Record, patch: RecordPatch) {
    if let Some(embedding) = patch.embedding {
        record.embedding = embedding;
    }
    if patch.document.is_some() {
        record.document = patch.document;
    }
    if patch.uri.is_some() {
        record.uri = patch.uri;
    }
    for (key, value) in patch.metadata {
        match value {
            Some(value) => record.metadata.insert(key, value),
            None => record.metadata.remove(&key),
        };
    }
}
