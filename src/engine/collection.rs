//! One collection: its state in memory, and reads of its records.
//!
//! The write path, which takes the store-wide lock, is in `write.rs`; filling the memory when the store is
//! opened is in `load.rs`.

use std::sync::Arc;

use parking_lot::RwLock;
use uuid::Uuid;

use super::format::{self, Head, StoredRecord};
use super::metadata::MetadataIndex;
use super::store::{Store, Tree, Value, prefix_end};
use super::vectors::Columns;
use crate::error::{Error, Kind, Result};
use crate::model::collection::CollectionDescriptor;
use crate::model::record::{Record, RecordView};

/// A collection that the catalog holds. Readers take the state's lock briefly and never across I/O.
pub(super) struct Collection {
    pub(super) id: Uuid,
    /// Whether vectors and metadata are kept in memory; not where records are only looked up.
    pub(super) in_memory: bool,
    pub(super) state: RwLock<CollectionState>,
}

/// What a write publishes after its transaction.
pub(super) struct CollectionState {
    pub(super) descriptor: Arc<CollectionDescriptor>,
    pub(super) head: Head,
    pub(super) columns: Columns,
    pub(super) metadata: MetadataIndex,
    /// Tombstones in the store.
    pub(super) tombstones: u64,
    /// Why reads are refused: a record could not be read when the store was opened.
    pub(super) damage: Option<String>,
}

/// A collection's definition and head at one moment.
#[derive(Clone, Debug)]
pub struct CollectionInfo {
    /// Name, metadata, configuration, schema, dimension.
    pub descriptor: Arc<CollectionDescriptor>,
    /// Count, digest, sequence.
    pub head: Head,
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
            state: RwLock::new(CollectionState {
                descriptor: Arc::new(descriptor),
                head,
                columns: Columns::default(),
                metadata: MetadataIndex::default(),
                tombstones: 0,
                damage: None,
            }),
        }
    }

    /// Definition and head.
    pub(super) fn info(&self) -> CollectionInfo {
        let state = self.state.read();
        CollectionInfo {
            descriptor: Arc::clone(&state.descriptor),
            head: state.head,
        }
    }

    /// # Errors
    /// `Unavailable` when a record of this collection could not be read at start: answers would be
    /// silently incomplete.
    pub(super) fn check_readable(&self) -> Result<()> {
        match &self.state.read().damage {
            None => Ok(()),
            Some(damage) => Err(Error::new(
                Kind::Unavailable,
                format!(
                    "the collection is damaged ({damage}); restore it from a backup with on_conflict \
                     \"replace\" into a healthy data directory"
                ),
            )),
        }
    }

    /// Ordinal of an id, if the record exists.
    pub(super) fn ordinal_of(&self, store: &Store, id: &str) -> Result<Option<u64>> {
        store
            .get(Tree::Ids, &format::id_key(self.id, id))?
            .map(|payload| format::le_u64(&payload))
            .transpose()
    }

    /// The stored payload of a record.
    pub(super) fn payload(&self, store: &Store, ordinal: u64) -> Result<Option<Value>> {
        store.get(Tree::Records, &format::record_key(self.id, ordinal))
    }

    /// Calls `visit` with every stored record from `start`, in ordinal order, until it says stop.
    pub(super) fn scan_from(
        &self,
        store: &Store,
        start: u64,
        mut visit: impl FnMut(u64, &StoredRecord<'_>) -> Result<bool>,
    ) -> Result<()> {
        let end = prefix_end(self.id.as_bytes());
        for entry in store.scan(Tree::Records, format::record_key(self.id, start), end, true) {
            let (key, value) = entry?;
            let ordinal = format::be_u64(format::after_collection(&key)?)?;
            if !visit(ordinal, &StoredRecord::decode(&value)?)? {
                break;
            }
        }
        Ok(())
    }

    /// Calls `visit` with each of these records, in the given order; missing ones are passed over.
    pub(super) fn visit_each(
        &self,
        store: &Store,
        ordinals: &[u64],
        mut visit: impl FnMut(u64, &StoredRecord<'_>) -> Result<bool>,
    ) -> Result<()> {
        for ordinal in ordinals {
            if let Some(payload) = self.payload(store, *ordinal)?
                && !visit(*ordinal, &StoredRecord::decode(&payload)?)?
            {
                break;
            }
        }
        Ok(())
    }
}
