//! A backed-up collection's state as one stream in ordinal order.
//!
//! Layers are merged by ordinal: of several records at one ordinal the latest layer's counts, and a
//! tombstone takes away what earlier layers have there. In memory are the tombstoned ordinals and one pack
//! of each layer that overlaps the place of reading.

use std::collections::{HashMap, VecDeque};

use super::Repository;
use super::format::{LayerReference, ManifestCollection, PackReference};
use super::pack::{self, PackRecord};
use crate::error::{Error, Result};

/// The most ordinals that a collection in a backup may have used: as many again are left to be written.
const MAX_NEXT_ORDINAL: u64 = 1 << 62;

/// What a reader has read so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadStatistics {
    /// Packs, tombstone packs included.
    pub packs: u64,
    /// Stored bytes.
    pub bytes: u64,
}

/// Iterates over the records of one collection of a backup.
pub struct CollectionReader<'a> {
    /// Bytes that all packs in memory take, by what they declared.
    held: u64,
    repository: &'a Repository,
    collection: &'a ManifestCollection,
    streams: Vec<LayerStream<'a>>,
    /// Ordinal → last layer that deletes it.
    tombstones: HashMap<u64, usize>,
    statistics: ReadStatistics,
    last: Option<u64>,
    failed: bool,
}

struct LayerStream<'a> {
    packs: std::slice::Iter<'a, PackReference>,
    loaded: VecDeque<PackRecord>,
    /// Bytes that the pack in memory took unpacked.
    held: u64,
}

/// Backups are written so that the packs of all layers take no more than a job may (`repository.max_layers`); a pack may
/// take twice what it aims at.
const LAYERS_SHARE: u64 = 2;

/// Memory that a tombstone takes until all is read.
const TOMBSTONE_BYTES: u64 = 64;

impl<'a> CollectionReader<'a> {
    /// Reads the tombstones; records follow as the iterator is driven.
    ///
    /// # Errors
    /// `BackupCorrupt`, naming pack and collection.
    pub fn open(repository: &'a Repository, collection: &'a ManifestCollection) -> Result<Self> {
        if collection.next_ordinal > MAX_NEXT_ORDINAL {
            let damaged = Error::backup_corrupt(format!(
                "{} would go on at ordinal {}; {MAX_NEXT_ORDINAL} are the most",
                collection.name, collection.next_ordinal
            ));
            return Err(damaged.with("collection", collection.name.to_string()));
        }
        let mut reader = Self {
            held: 0,
            repository,
            collection,
            streams: collection.layers.iter().map(LayerStream::of).collect(),
            tombstones: HashMap::new(),
            statistics: ReadStatistics::default(),
            last: None,
            failed: false,
        };
        for (index, layer) in collection.layers.iter().enumerate() {
            for reference in &layer.tombstones {
                let bytes = reader.load(reference)?;
                let most = repository.limits().memory_bytes;
                let tombstones =
                    pack::decode_tombstones(bytes, most).map_err(|e| reader.name(e, reference))?;
                for tombstone in tombstones {
                    reader.tombstones.insert(tombstone.ordinal, index);
                }
                if (reader.tombstones.len() as u64).saturating_mul(TOMBSTONE_BYTES) > most {
                    return Err(reader.too_much("its deletions"));
                }
            }
        }
        Ok(reader)
    }

    /// What was read so far.
    pub fn statistics(&self) -> ReadStatistics {
        self.statistics
    }

    fn load(&mut self, reference: &PackReference) -> Result<bytes::Bytes> {
        let bytes = self
            .repository
            .pack(reference)
            .map_err(|error| self.name(error, reference))?;
        self.statistics.packs += 1;
        self.statistics.bytes += bytes.len() as u64;
        Ok(bytes)
    }

    fn name(&self, error: Error, reference: &PackReference) -> Error {
        let named = if error.message().contains(&reference.hash) {
            error
        } else {
            let text = format!("pack {}: {}", reference.hash, error.message());
            match error.cause_text() {
                Some(cause) => Error::new(error.kind(), text).because(cause),
                None => Error::new(error.kind(), text),
            }
        };
        named
            .with("pack", reference.hash.clone())
            .with("collection", self.collection.name.to_string())
    }

    /// That it may be whole, and cannot be read with this much memory.
    fn too_much(&self, what: &str) -> Error {
        let most = self.repository.limits().memory_bytes;
        Error::unprocessable(format!(
            "{}: {what} take more memory than a job may (jobs.memory_bytes = {most})",
            self.collection.name
        ))
        .with("collection", self.collection.name.to_string())
    }

    /// What no write would have let in is let in by no restore either: it would damage the store that it comes to.
    ///
    /// # Errors
    /// `BackupCorrupt` naming the record, the pack and the collection.
    fn check(&self, record: &PackRecord, reference: &PackReference) -> Result<()> {
        let PackRecord {
            ordinal, record, ..
        } = record;
        let dimension = self.collection.definition.dimension;
        let found = u32::try_from(record.embedding.len()).ok();
        let wrong = if record.id.is_empty() {
            "has an empty id".to_owned()
        } else if found.is_none() || found != dimension {
            let expected = dimension.map_or("none".to_owned(), |dimension| dimension.to_string());
            format!(
                "has {} dimensions, its collection {expected}",
                record.embedding.len()
            )
        } else if !record
            .embedding
            .iter()
            .all(|component| component.is_finite())
        {
            "has an embedding that is not finite".to_owned()
        } else if !(reference.first_ordinal..=reference.last_ordinal).contains(ordinal) {
            format!("has the ordinal {ordinal}, which its pack does not hold by the manifest")
        } else if *ordinal >= self.collection.next_ordinal {
            format!(
                "has the ordinal {ordinal}, and its collection only those below {}",
                self.collection.next_ordinal
            )
        } else {
            return Ok(());
        };
        let damaged = Error::backup_corrupt(format!(
            "pack {}: record {:?} {wrong}",
            reference.hash, record.id
        ));
        Err(self.name(damaged, reference))
    }

    /// Makes sure that a stream holds its next record, if there is one.
    fn fill(&mut self, index: usize) -> Result<()> {
        loop {
            let Some(stream) = self.streams.get_mut(index) else {
                return Ok(());
            };
            if !stream.loaded.is_empty() {
                return Ok(());
            }
            self.held = self.held.saturating_sub(std::mem::take(&mut stream.held));
            let Some(reference) = stream.packs.next() else {
                return Ok(());
            };
            let bytes = self.load(reference)?;
            let most = self.repository.limits().memory_bytes;
            let unpacked = pack::unpacked_bytes(&bytes).map_err(|e| self.name(e, reference))?;
            if self.held.saturating_add(unpacked) > most.saturating_mul(LAYERS_SHARE) {
                return Err(self.too_much("its layers"));
            }
            let records =
                pack::decode_records(bytes, most).map_err(|error| self.name(error, reference))?;
            for record in &records {
                self.check(record, reference)?;
            }
            if records.len() as u64 != reference.records {
                let found = Error::backup_corrupt(format!(
                    "pack {} has {} records, its manifest says {}",
                    reference.hash,
                    records.len(),
                    reference.records
                ));
                return Err(self.name(found, reference));
            }
            if let Some(stream) = self.streams.get_mut(index) {
                stream.loaded = records.into();
                stream.held = unpacked;
                self.held += unpacked;
            }
        }
    }

    /// The layer whose next pack may hold the next record. Packs of later ordinals wait: layers mostly
    /// follow one another, so few packs are in memory at a time.
    fn next_to_load(&self) -> Option<usize> {
        let loaded = self
            .streams
            .iter()
            .filter_map(|stream| stream.loaded.front());
        let front = loaded.map(|record| record.ordinal).min();
        let waiting = self
            .streams
            .iter()
            .enumerate()
            .filter_map(|(index, stream)| {
                let next = stream.packs.as_slice().first()?;
                stream
                    .loaded
                    .is_empty()
                    .then_some((next.first_ordinal, index))
            });
        let (first, index) = waiting.min()?;
        front.is_none_or(|front| first <= front).then_some(index)
    }

    fn next_record(&mut self) -> Result<Option<PackRecord>> {
        loop {
            let front =
                |stream: &LayerStream<'_>| stream.loaded.front().map(|record| record.ordinal);
            while let Some(index) = self.next_to_load() {
                self.fill(index)?;
            }
            let Some(ordinal) = self.streams.iter().filter_map(front).min() else {
                return Ok(None);
            };
            let mut latest = None;
            for (index, stream) in self.streams.iter_mut().enumerate() {
                if front(stream) == Some(ordinal) {
                    latest = stream.loaded.pop_front().map(|record| (index, record));
                }
            }
            if self.last.is_some_and(|last| last >= ordinal) {
                return Err(Error::backup_corrupt(format!(
                    "the packs of {} are out of order at ordinal {ordinal}",
                    self.collection.name
                )));
            }
            self.last = Some(ordinal);
            if let Some((layer, record)) = latest
                && self
                    .tombstones
                    .get(&ordinal)
                    .is_none_or(|deleted_in| *deleted_in <= layer)
            {
                return Ok(Some(record));
            }
        }
    }
}

/// Id and pack of the record at an ordinal, in the last layer that has it.
///
/// # Errors
/// `BackupCorrupt` when a pack cannot be read, or none has it.
pub fn find_at(
    repository: &Repository,
    collection: &ManifestCollection,
    ordinal: u64,
) -> Result<(String, String)> {
    let layers = collection.layers.iter().rev();
    let packs = layers.flat_map(|layer| &layer.packs);
    for reference in packs.filter(|p| (p.first_ordinal..=p.last_ordinal).contains(&ordinal)) {
        let bytes = repository.pack(reference)?;
        let records = pack::decode_records(bytes, repository.limits().memory_bytes)?;
        if let Some(found) = records.into_iter().find(|found| found.ordinal == ordinal) {
            return Ok((found.record.id, reference.hash.clone()));
        }
    }
    let missing = format!("{} has no record at {ordinal}", collection.name);
    Err(Error::backup_corrupt(missing))
}

impl<'a> LayerStream<'a> {
    fn of(layer: &'a LayerReference) -> Self {
        Self {
            packs: layer.packs.iter(),
            loaded: VecDeque::new(),
            held: 0,
        }
    }
}

impl Iterator for CollectionReader<'_> {
    type Item = Result<PackRecord>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let next = self.next_record();
        self.failed = next.is_err();
        next.transpose()
    }
}
