//! Filling a collection's memory when the store is opened, on three threads: one reads, checks and decodes
//! records, one keeps the vectors, one the metadata.

use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use super::collection::{Collection, CollectionInfo, Memory};
use super::format::{self, StoredRecord};
use super::metadata::MetadataIndex;
use super::store::{Store, Tree, named, prefix_end};
use super::threads::joined;
use super::vectors::{Columns, Quantized};
use crate::error::{Error, Result};
use crate::model::metadata::Metadata;

/// Records that go from thread to thread at a time, and how many such batches may wait: what loading
/// takes beside what it fills.
const BATCH: usize = 256;
const WAITING: usize = 4;

/// Ordinals, sequences and vectors of some records.
#[derive(Default)]
struct Vectors {
    rows: Vec<(u64, u64)>,
    /// All components, record after record.
    components: Vec<f32>,
}

type Metadatas = Vec<(u64, Metadata)>;

impl Collection {
    /// Reads all records into memory, as the store is opened. Damage is noted, not fatal.
    ///
    /// # Errors
    /// `StorageFault` when the store itself cannot be read.
    pub(super) fn load(&self, store: &Store) -> Result<()> {
        let CollectionInfo { descriptor, head } = self.info();
        let dimension = descriptor.definition.dimension.unwrap_or(0) as usize;
        let (vectors, received_vectors) = sync_channel(WAITING);
        let (metadatas, received_metadatas) = sync_channel(WAITING);
        let (damage, columns, metadata) = std::thread::scope(|scope| {
            let reading =
                scope.spawn(move || self.read_records(store, dimension, &vectors, &metadatas));
            let metadata = scope.spawn(move || fill_metadata(received_metadatas));
            let columns = fill_columns(received_vectors, dimension);
            (joined(reading), columns, joined(metadata))
        });
        let loaded = columns.live() as u64;
        *self.memory.write() = Memory { columns, metadata };
        if let Some(damage) = damage {
            self.note_at_start(damage);
        } else if loaded != head.count {
            let counted = head.count;
            self.note_at_start(format!(
                "{loaded} records are stored, {counted} were counted"
            ));
        }
        let prefix = self.id.as_bytes().to_vec();
        for entry in store.scan(Tree::Tombstones, prefix.clone(), prefix_end(&prefix)) {
            self.tombstones.fetch_add(1, Ordering::Relaxed);
            // It is only counted here; a backup that needs it says so.
            if let Err(error) = named(entry) {
                self.note_at_start(error.message().to_owned());
            }
        }
        Ok(())
    }

    /// Hands all records on; returns what was damaged first.
    fn read_records(
        &self,
        store: &Store,
        dimension: usize,
        vectors: &SyncSender<Vectors>,
        metadatas: &SyncSender<Metadatas>,
    ) -> Option<String> {
        let mut damage = None;
        let (mut batch, mut metadata) = (Vectors::default(), Metadatas::new());
        let prefix = self.id.as_bytes().to_vec();
        for entry in store.scan(Tree::Records, prefix.clone(), prefix_end(&prefix)) {
            let outcome = entry.map_err(Error::from).and_then(|(key, value)| {
                let ordinal = format::be_u64(format::after_collection(&key)?)?;
                let record = StoredRecord::decode(&value)?;
                if record.view.dimension() != dimension {
                    return Err(Error::storage(format!(
                        "record {:?} has {} dimensions, its collection {dimension}",
                        record.view.id,
                        record.view.dimension()
                    )));
                }
                metadata.push((ordinal, record.view.metadata()?));
                batch.rows.push((ordinal, record.sequence));
                batch.components.extend(record.view.embedding());
                Ok(())
            });
            if let Err(error) = outcome {
                damage.get_or_insert_with(|| error.message().to_owned());
            }
            if batch.rows.len() >= BATCH {
                // The other ends are gone only where their threads panicked, which is told when they are
                // joined.
                let _ = vectors.send(std::mem::take(&mut batch));
                let _ = metadatas.send(std::mem::take(&mut metadata));
            }
        }
        let _ = vectors.send(batch);
        let _ = metadatas.send(metadata);
        damage
    }
}

fn fill_columns(received: Receiver<Vectors>, dimension: usize) -> Columns {
    let mut columns = Columns::default();
    for batch in received {
        // A collection without dimension has no records.
        let vectors = batch.components.chunks_exact(dimension.max(1));
        for ((ordinal, sequence), vector) in batch.rows.into_iter().zip(vectors) {
            columns.put(ordinal, sequence, vector, &Quantized::of(vector));
        }
    }
    columns
}

fn fill_metadata(received: Receiver<Metadatas>) -> MetadataIndex {
    let mut index = MetadataIndex::default();
    for (ordinal, metadata) in received.into_iter().flatten() {
        index.insert(ordinal, &metadata);
    }
    index
}
