//! One collection: its state in memory, and reads of its records.
//!
//! The write path, which takes the store-wide lock, is in `write.rs`; filling the memory when the store is
//! opened is in `load.rs`.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};

use arc_swap::{ArcSwap, ArcSwapOption};
use parking_lot::Mutex;
use uuid::Uuid;

use super::consistency::Watch;
use super::format::{self, Head, StoredRecord};
use super::metadata::MetadataIndex;
use super::ordered::{OrderedRwLock, Rank};
use super::store::{Store, Tree, Value, prefix_end};
use super::vectors::Columns;
use crate::error::{Error, Kind, Result};
use crate::model::collection::{CollectionDescriptor, HeldCollection, Lifecycle};
use crate::model::record::{Record, RecordView};

/// A collection that the catalog holds. It is changed under the engine's write lock only. Readers take the memory's
/// lock to copy pointers out of it, or to look at one record; never across I/O, a selection or a search.
pub(super) struct Collection {
    pub(super) id: Uuid,
    /// Whether vectors and metadata are kept in memory; not where records are only looked up.
    pub(super) in_memory: bool,
    /// Definition and head of the last write; the memory was changed before.
    info: ArcSwap<CollectionInfo>,
    pub(super) memory: OrderedRwLock<Memory>,
    /// Tombstones in the store.
    pub(super) tombstones: AtomicU64,
    /// Why reads are refused: a record could not be read when the store was opened.
    at_start: OnceLock<String>,
    /// What was met while it was served: no more is written to it. What is read is checked, and true.
    met: OnceLock<String>,
    /// The inspection that runs, which writers tell what they do. It changes under the write lock only.
    pub(super) watch: ArcSwapOption<Watch>,
    /// Held by an inspection while it runs: one at a time.
    pub(super) inspecting: Mutex<()>,
}

/// What is kept of all records.
#[derive(Default)]
pub(super) struct Memory {
    pub(super) columns: Columns,
    pub(super) metadata: MetadataIndex,
}

/// A collection's definition and head at one moment.
#[derive(Clone, Debug)]
pub struct CollectionInfo {
    /// Name, metadata, configuration, schema, dimension.
    pub descriptor: Arc<CollectionDescriptor>,
    /// Count, digest, sequence.
    pub head: Head,
}

impl CollectionInfo {
    /// What it holds.
    pub fn held(&self) -> HeldCollection {
        let (descriptor, head) = (&self.descriptor, &self.head);
        HeldCollection {
            name: descriptor.name.clone(),
            id: descriptor.public_id(),
            records: head.count,
            dimension: descriptor.definition.dimension,
            space: descriptor.definition.configuration.space(),
            sequence: head.sequence,
            digest: head.digest,
        }
    }
}

/// Which parts of a record a read returns; the id always comes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Projection {
    /// Return embeddings.
    pub embedding: bool,
    /// Return documents.
    pub document: bool,
    /// Return uris.
    pub uri: bool,
    /// Return metadata.
    pub metadata: bool,
}

impl Projection {
    /// Copies the wanted parts out of a stored record; the others stay empty.
    pub(super) fn apply(self, view: &RecordView<'_>) -> Result<Record> {
        let text = |wanted: bool, text: Option<&str>| text.filter(|_| wanted).map(str::to_owned);
        Ok(Record {
            id: view.id.to_owned(),
            embedding: if self.embedding {
                view.embedding().collect()
            } else {
                Vec::new()
            },
            document: text(self.document, view.document),
            uri: text(self.uri, view.uri),
            metadata: if self.metadata {
                view.metadata()?
            } else {
                Default::default()
            },
        })
    }
}

impl Collection {
    pub(super) fn new(descriptor: CollectionDescriptor, head: Head) -> Self {
        Self {
            id: descriptor.id,
            in_memory: true,
            info: ArcSwap::from_pointee(CollectionInfo {
                descriptor: Arc::new(descriptor),
                head,
            }),
            memory: OrderedRwLock::new(Rank::Memory, Memory::default()),
            tombstones: AtomicU64::new(0),
            at_start: OnceLock::new(),
            met: OnceLock::new(),
            watch: ArcSwapOption::empty(),
            inspecting: Mutex::new(()),
        }
    }

    /// Definition and head.
    pub(super) fn info(&self) -> CollectionInfo {
        CollectionInfo::clone(&self.info.load())
    }

    /// What becomes of it.
    pub(super) fn lifecycle(&self) -> Lifecycle {
        self.info.load().descriptor.lifecycle
    }

    /// Shows what a write left. Under the write lock, after the memory was changed.
    pub(super) fn show(&self, descriptor: Arc<CollectionDescriptor>, head: Head) {
        self.info
            .store(Arc::new(CollectionInfo { descriptor, head }));
    }

    /// As [`Collection::show`], of another definition.
    pub(super) fn describe(&self, descriptor: CollectionDescriptor) {
        self.show(Arc::new(descriptor), self.info.load().head);
    }

    /// As [`Collection::show`], of another head.
    pub(super) fn show_head(&self, head: Head) {
        self.show(Arc::clone(&self.info.load().descriptor), head);
    }

    /// The columns as of now: pointers are copied, and writers go on.
    pub(super) fn columns(&self) -> Columns {
        self.memory.read().columns.clone()
    }

    /// Why nothing is written to it, if so.
    pub(super) fn damage(&self) -> Option<String> {
        self.at_start.get().or_else(|| self.met.get()).cloned()
    }

    /// Notes what is wrong with what was found when the store was opened, unless something is noted.
    pub(super) fn note_at_start(&self, damage: String) {
        let _ = self.at_start.set(damage);
    }

    /// Notes damage that was met while it was served.
    pub(super) fn note_damage(&self, damage: &str) {
        if self.met.set(damage.to_owned()).is_ok() {
            tracing::error!(
                collection.id = %self.id,
                damage,
                "a collection is damaged; nothing is written to it any more, the others are served"
            );
        }
    }

    /// Notes what is damage of this collection, and no fault of the whole store.
    fn noted<T>(&self, store: &Store, read: Result<T>) -> Result<T> {
        read.inspect_err(|error| {
            if error.kind() == Kind::StorageFault && !store.is_faulted() {
                self.note_damage(error.message());
            }
        })
    }

    /// # Errors
    /// `Unavailable` when a record of this collection could not be read at start: answers would be
    /// silently incomplete.
    pub(super) fn check_readable(&self) -> Result<()> {
        match self.at_start.get() {
            None => Ok(()),
            Some(damage) => Err(refused(damage)),
        }
    }

    /// # Errors
    /// `Unavailable` when damage of it is known: nothing is written on top of that.
    pub(super) fn check_writable(&self) -> Result<()> {
        match self.damage() {
            None => Ok(()),
            Some(damage) => Err(refused(&damage)),
        }
    }

    /// Ordinal of an id, if the record exists.
    pub(super) fn ordinal_of(&self, store: &Store, id: &str) -> Result<Option<u64>> {
        let found = store.get(Tree::Ids, &format::id_key(self.id, id));
        self.noted(store, found)?
            .map(|payload| format::le_u64(&payload))
            .transpose()
    }

    /// The stored payload of a record.
    pub(super) fn payload(&self, store: &Store, ordinal: u64) -> Result<Option<Value>> {
        let found = store.get(Tree::Records, &format::record_key(self.id, ordinal));
        let payload = self.noted(store, found)?;
        if let Some(payload) = &payload {
            store.check_committed(format::record_sequence(payload)?)?;
        }
        Ok(payload)
    }

    /// Calls `visit` with every stored record from `start`, in ordinal order, until it says stop.
    pub(super) fn scan_from(
        &self,
        store: &Store,
        start: u64,
        mut visit: impl FnMut(u64, &StoredRecord<'_>) -> Result<bool>,
    ) -> Result<()> {
        let end = prefix_end(self.id.as_bytes());
        let mut whole = AfterFault::of(self, store, start);
        let mut stopped = false;
        for entry in store.scan(Tree::Records, format::record_key(self.id, start), end) {
            let (key, value) = self.noted(store, entry.map_err(Error::from))?;
            let ordinal = format::be_u64(format::after_collection(&key)?)?;
            let stored = StoredRecord::decode(&value)?;
            whole.check(store, ordinal, &stored)?;
            if !visit(ordinal, &stored)? {
                stopped = true;
                break;
            }
        }
        whole.end(store, stopped)
    }

    /// Calls `visit` with each of these records, in the given order; missing ones are passed over.
    pub(super) fn visit_each(
        &self,
        store: &Store,
        ordinals: &[u64],
        mut visit: impl FnMut(u64, &StoredRecord<'_>) -> Result<bool>,
    ) -> Result<()> {
        for ordinal in ordinals {
            if let Some(payload) = self.payload(store, *ordinal)? {
                let stored = StoredRecord::decode(&payload)?;
                if !visit(*ordinal, &stored)? {
                    break;
                }
            }
        }
        Ok(())
    }
}

/// # Errors
/// `InvalidArgument`, in the words of Chroma's server.
pub(super) fn check_dimension(expected: usize, dimension: usize) -> Result<()> {
    if expected == dimension {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "Collection expecting embedding with dimension of {expected}, got {dimension}"
    )))
}

fn refused(damage: &str) -> Error {
    Error::new(
        Kind::Unavailable,
        format!(
            "the collection is damaged ({damage}): restore it from a backup with on_conflict \"replace\", or drop it. \
             Other collections are not affected"
        ),
    )
}

/// What a scan is held against once sled has failed: half a refused batch may stand in the trees, and what was
/// there may be missing. Memory has what was committed.
struct AfterFault {
    /// The records that are to come; `None` where sled had not failed yet, or memory holds none.
    expected: Option<std::vec::IntoIter<u64>>,
    faulted: bool,
}

impl AfterFault {
    fn of(collection: &Collection, store: &Store, start: u64) -> Self {
        let faulted = store.is_faulted();
        let expected = (faulted && collection.in_memory).then(|| {
            let mut ordinals = collection.columns().changed_after(0);
            ordinals.retain(|ordinal| *ordinal >= start);
            ordinals.into_iter()
        });
        Self { expected, faulted }
    }

    fn check(&mut self, store: &Store, ordinal: u64, stored: &StoredRecord<'_>) -> Result<()> {
        store.check_committed(stored.sequence)?;
        if let Some(expected) = &mut self.expected
            && expected.next() != Some(ordinal)
        {
            return Err(store.stopped());
        }
        Ok(())
    }

    /// `early`: the visitor wanted no more.
    fn end(mut self, store: &Store, early: bool) -> Result<()> {
        let missing = self
            .expected
            .as_mut()
            .is_some_and(|rest| rest.next().is_some());
        // Where sled failed meanwhile, nobody knows what the scan came by.
        if (missing && !early) || store.is_faulted() != self.faulted {
            return Err(store.stopped());
        }
        Ok(())
    }
}
