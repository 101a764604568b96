//! A write under construction: what it does to each id, prepared as far as that goes without the write lock.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use super::{OldVersion, RecordPatch, WriteMode, WriteOutcome};
use crate::engine::catalog::CatalogBatch;
use crate::engine::collection::{Collection, CollectionInfo, check_dimension};
use crate::engine::consistency::Announcement;
use crate::engine::format::{self, Head, StoredRecord};
use crate::engine::store::{Batch, Store, Tree};
use crate::engine::vectors::Quantized;
use crate::engine::{Inner, Writer};
use crate::error::{Error, Result};
use crate::model::collection::CollectionDescriptor;
use crate::model::digest::RecordHash;
use crate::model::record::{Record, RecordView};
use crate::progress::Progress;

/// What a batch does.
pub(super) struct Draft {
    mode: WriteMode,
    /// By their first appearance.
    changes: Vec<Change>,
    /// Of the embeddings that were sent, which all have the same.
    dimension: Option<usize>,
    /// Patches that the one before them of the same id leaves nothing to do.
    repeated: u64,
    /// The collection's last write before anything of it was read.
    since: u64,
}

/// What it does to one id.
struct Change {
    /// Patches that it is made of.
    patches: u64,
    /// Whether a record can be made of the first of them.
    is_complete: bool,
    state: State,
}

enum State {
    /// Nothing was read yet.
    Asked(RecordPatch),
    /// There is nothing to do, as the id is free or taken.
    Leaves(RecordPatch, Option<Seen>),
    Writes(Box<Pending>),
    /// While it is being prepared, and when it is done.
    Taken,
}

/// The record that an id had.
#[derive(Clone, Copy)]
struct Seen {
    ordinal: u64,
    sequence: u64,
}

/// A record as the batch leaves it.
struct Pending {
    old: Option<OldVersion>,
    record: Record,
    sent: Sent,
    canonical: Vec<u8>,
    hash: RecordHash,
    codes: Quantized,
}

/// The parts of a record that were sent, and so are not the old one's.
struct Sent {
    embedding: bool,
    document: bool,
    uri: bool,
    /// Keys of metadata: the record has their values, or has them no more.
    metadata: Vec<String>,
}

/// Whether others may write meanwhile.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lock {
    Free,
    Held,
}

impl Draft {
    /// # Errors
    /// `InvalidArgument` for an embedding of another dimension than the collection's, or the first one's.
    pub(super) fn new(
        mode: WriteMode,
        patches: Vec<RecordPatch>,
        info: &CollectionInfo,
    ) -> Result<Self> {
        let fixed = info.descriptor.definition.dimension;
        let fixed = fixed.map(|dimension| dimension as usize);
        let mut draft = Self {
            mode,
            changes: Vec::with_capacity(patches.len()),
            dimension: None,
            repeated: 0,
            since: 0,
        };
        let mut by_id = HashMap::with_capacity(patches.len());
        for patch in patches {
            if let Some(embedding) = &patch.embedding {
                let first = *draft.dimension.get_or_insert(embedding.len());
                check_dimension(fixed.unwrap_or(first), embedding.len())?;
            }
            match by_id.entry(patch.id.clone()) {
                Entry::Vacant(vacant) => {
                    vacant.insert(draft.changes.len());
                    draft.changes.push(Change {
                        patches: 1,
                        is_complete: patch.embedding.is_some(),
                        state: State::Asked(patch),
                    });
                }
                Entry::Occupied(at) => {
                    let change = draft.changes.get_mut(*at.get());
                    if let Some(Change { patches, state, .. }) = change {
                        *patches += 1;
                        match state {
                            State::Asked(first) if mode != WriteMode::Add => join(first, patch),
                            _ => draft.repeated += 1,
                        }
                    }
                }
            }
        }
        Ok(draft)
    }

    /// Reads what is there and makes the records, while others may write. What was prepared before is forgotten.
    ///
    /// # Errors
    /// `InvalidArgument` for a wrong dimension, and for a new record without an embedding; `StorageFault`; `Canceled`.
    pub(super) fn prepare(
        &mut self,
        store: &Store,
        collection: &Collection,
        progress: &Progress,
    ) -> Result<()> {
        let info = collection.info();
        self.check_dimension(&info)?;
        self.since = info.head.sequence;
        for change in &mut self.changes {
            progress.check()?;
            change.prepare(self.mode, store, collection, Lock::Free)?;
        }
        Ok(())
    }

    /// Under the write lock: prepares again what others have written meanwhile.
    ///
    /// # Errors
    /// As [`Draft::prepare`].
    pub(super) fn prepare_again(&mut self, store: &Store, collection: &Collection) -> Result<()> {
        let info = collection.info();
        self.check_dimension(&info)?;
        let is_changed = info.head.sequence != self.since;
        for change in &mut self.changes {
            if !change.stands(store, collection, is_changed)? {
                change.prepare(self.mode, store, collection, Lock::Held)?;
            }
        }
        Ok(())
    }

    fn check_dimension(&self, info: &CollectionInfo) -> Result<()> {
        match (info.descriptor.definition.dimension, self.dimension) {
            (Some(expected), Some(dimension)) => check_dimension(expected as usize, dimension),
            _ => Ok(()),
        }
    }

    /// What is to be written, with the ordinals it gets from here on.
    fn pending(&mut self, outcome: &mut WriteOutcome, next_ordinal: &mut u64) -> Vec<Written> {
        let mut pending = Vec::with_capacity(self.changes.len());
        outcome.untouched = self.repeated;
        for change in &mut self.changes {
            let State::Writes(write) = std::mem::replace(&mut change.state, State::Taken) else {
                // Those that are repeated are counted.
                outcome.untouched += match self.mode {
                    WriteMode::Add => 1,
                    WriteMode::Upsert | WriteMode::Update => change.patches,
                };
                continue;
            };
            let ordinal = match &write.old {
                Some(old) if old.hash == write.hash => {
                    outcome.untouched += 1;
                    continue;
                }
                Some(old) => {
                    outcome.updated += 1;
                    old.ordinal
                }
                None => {
                    outcome.inserted += 1;
                    *next_ordinal += 1;
                    *next_ordinal - 1
                }
            };
            pending.push(Written {
                ordinal,
                pending: write,
            });
        }
        pending
    }

    /// Under the write lock: commits and publishes. Returns the number of the commit that all of it is in.
    pub(super) fn commit(
        mut self,
        inner: &Inner,
        writer: &mut Writer,
        collection: &Collection,
    ) -> Result<(u64, WriteOutcome)> {
        let CollectionInfo { descriptor, head } = collection.info();
        let (sequence, mut head) = (writer.next(), head);
        let mut outcome = WriteOutcome::default();
        let mut written = self.pending(&mut outcome, &mut head.next_ordinal);
        let Some(first) = written.first() else {
            return Ok((inner.store.committed(), outcome));
        };
        let dimension = u32::try_from(first.pending.record.embedding.len())
            .map_err(|_| Error::invalid("an embedding has too many dimensions"))?;
        let mut batch = Batch::default();
        let mut announcement = Announcement::to(collection.watch.load_full());
        for one in &mut written {
            one.put(
                &mut batch,
                &mut announcement,
                collection,
                sequence,
                &mut head,
            );
        }
        head.sequence = sequence;
        batch.put_head(collection.id, &head);
        let changed = changed_descriptor(&descriptor, &written, dimension);
        if let Some(changed) = &changed {
            batch.put_descriptor(changed);
        }
        announcement.begin();
        inner.commit_locked(writer, batch)?;
        announcement.done();
        let mut memory = collection.memory.write();
        for Written { ordinal, pending } in &written {
            let record = &pending.record;
            let (vector, codes) = (&record.embedding, &pending.codes);
            memory.columns.put(*ordinal, sequence, vector, codes);
            if let Some(old) = &pending.old {
                if old.metadata == record.metadata {
                    continue;
                }
                memory.metadata.remove(*ordinal, &old.metadata);
            }
            memory.metadata.insert(*ordinal, &record.metadata);
        }
        drop(memory);
        collection.show(changed.map_or(descriptor, Arc::new), head);
        Ok((sequence, outcome))
    }
}

/// A record that is written, and where.
struct Written {
    ordinal: u64,
    pending: Box<Pending>,
}

impl Written {
    fn put(
        &mut self,
        batch: &mut Batch,
        announcement: &mut Announcement,
        collection: &Collection,
        sequence: u64,
        head: &mut Head,
    ) {
        let Self { ordinal, pending } = self;
        let (id, ordinal) = (collection.id, *ordinal);
        match &pending.old {
            Some(old) => head.subtract(&old.hash, old.bytes),
            None => {
                let key = format::id_key(id, &pending.record.id);
                batch.put(Tree::Ids, key, ordinal.to_le_bytes().to_vec());
            }
        }
        let canonical = std::mem::take(&mut pending.canonical);
        head.add(&pending.hash, canonical.len() as u64);
        let old = pending.old.as_ref().map(|old| old.hash);
        announcement.add(ordinal, old, Some(pending.hash));
        let payload = format::encode_record(sequence, &pending.hash, &canonical);
        batch.put(Tree::Records, format::record_key(id, ordinal), payload);
    }
}

/// The descriptor, if this write fixes the dimension or brings new metadata keys.
fn changed_descriptor(
    current: &Arc<CollectionDescriptor>,
    written: &[Written],
    dimension: u32,
) -> Option<CollectionDescriptor> {
    let entries = || {
        written.iter().flat_map(|written| {
            let metadata = written.pending.record.metadata.iter();
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

/// Makes one patch of two of the same id.
fn join(first: &mut RecordPatch, next: RecordPatch) {
    first.embedding = next.embedding.or(first.embedding.take());
    first.document = next.document.or(first.document.take());
    first.uri = next.uri.or(first.uri.take());
    first.metadata.extend(next.metadata);
}

impl Change {
    fn prepare(
        &mut self,
        mode: WriteMode,
        store: &Store,
        collection: &Collection,
        lock: Lock,
    ) -> Result<()> {
        let patch = match std::mem::replace(&mut self.state, State::Taken) {
            State::Asked(patch) | State::Leaves(patch, _) => patch,
            State::Writes(pending) => pending.into_patch(),
            State::Taken => return Err(Error::internal("a write was prepared after its end")),
        };
        let Some(ordinal) = collection.ordinal_of(store, &patch.id)? else {
            self.state = match mode {
                WriteMode::Update => State::Leaves(patch, None),
                WriteMode::Add | WriteMode::Upsert if self.is_complete => {
                    State::Writes(Pending::new(patch, None))
                }
                WriteMode::Add | WriteMode::Upsert => {
                    let id = patch.id;
                    return Err(Error::invalid(format!(
                        "a new record needs an embedding: {id:?}"
                    )));
                }
            };
            return Ok(());
        };
        // Between the two reads somebody may have deleted it: that is seen under the lock.
        let Some(payload) = collection.payload(store, ordinal)? else {
            if lock == Lock::Held {
                let damage = format!("id {:?} points to a record that is not there", patch.id);
                collection.note_damage(&damage);
                return Err(Error::storage(damage));
            }
            self.state = State::Asked(patch);
            return Ok(());
        };
        let stored = StoredRecord::decode(&payload)?;
        self.state = if mode == WriteMode::Add {
            let sequence = stored.sequence;
            State::Leaves(patch, Some(Seen { ordinal, sequence }))
        } else {
            let old = OldVersion::of(ordinal, &stored)?;
            State::Writes(Pending::new(patch, Some((old, &stored.view))))
        };
        Ok(())
    }

    /// Under the write lock: whether what was prepared is still right. `is_changed`: whether there were writes meanwhile.
    fn stands(&self, store: &Store, collection: &Collection, is_changed: bool) -> Result<bool> {
        let (id, seen) = match &self.state {
            State::Asked(_) | State::Taken => return Ok(false),
            State::Leaves(patch, seen) => (&patch.id, *seen),
            State::Writes(pending) => (&pending.record.id, pending.seen()),
        };
        match seen {
            _ if !is_changed => Ok(true),
            Some(Seen { ordinal, sequence }) => {
                let memory = collection.memory.read();
                Ok(memory.columns.sequence_of(ordinal) == Some(sequence))
            }
            None => Ok(collection.ordinal_of(store, id)?.is_none()),
        }
    }
}

impl Pending {
    fn new(patch: RecordPatch, before: Option<(OldVersion, &RecordView<'_>)>) -> Box<Self> {
        let RecordPatch {
            id,
            embedding,
            document,
            uri,
            metadata,
        } = patch;
        let mut sent = Sent {
            embedding: embedding.is_some(),
            document: document.is_some(),
            uri: uri.is_some(),
            metadata: Vec::with_capacity(metadata.len()),
        };
        let view = before.as_ref().map(|(_, view)| *view);
        let text = |of: fn(&RecordView<'_>) -> Option<String>| view.and_then(of);
        let old = before.map(|(old, _)| old);
        let mut record = Record {
            id,
            embedding: embedding
                .or_else(|| view.map(|view| view.embedding().collect()))
                .unwrap_or_default(),
            document: document.or_else(|| text(|view| view.document.map(str::to_owned))),
            uri: uri.or_else(|| text(|view| view.uri.map(str::to_owned))),
            metadata: old
                .as_ref()
                .map_or_else(Default::default, |old| old.metadata.clone()),
        };
        for (key, value) in metadata {
            sent.metadata.push(key.clone());
            match value {
                Some(value) => record.metadata.insert(key, value),
                None => record.metadata.remove(&key),
            };
        }
        let canonical = record.canonical();
        Box::new(Self {
            hash: RecordHash::of(&canonical),
            codes: Quantized::of(&record.embedding),
            canonical,
            old,
            record,
            sent,
        })
    }

    fn seen(&self) -> Option<Seen> {
        self.old.as_ref().map(|old| Seen {
            ordinal: old.ordinal,
            sequence: old.sequence,
        })
    }

    /// What was sent, to prepare it again.
    fn into_patch(self) -> RecordPatch {
        let Self { record, sent, .. } = self;
        let keys = sent.metadata.into_iter();
        let metadata = keys
            .map(|key| {
                let value = record.metadata.get(&key).cloned();
                (key, value)
            })
            .collect();
        RecordPatch {
            id: record.id,
            embedding: Some(record.embedding).filter(|_| sent.embedding),
            document: record.document.filter(|_| sent.document),
            uri: record.uri.filter(|_| sent.uri),
            metadata,
        }
    }
}
