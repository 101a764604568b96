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
}

impl<'a> CollectionReader<'a> {
    /// Reads the tombstones; records follow as the iterator is driven.
    ///
    /// # Errors
    /// `BackupCorrupt`, naming pack and collection.
    pub fn open(repository: &'a Repository, collection: &'a ManifestCollection) -> Result<Self> {
        let mut reader = Self {
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
                let tombstones =
                    pack::decode_tombstones(bytes).map_err(|e| reader.name(e, reference))?;
                for tombstone in tombstones {
                    reader.tombstones.insert(tombstone.ordinal, index);
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
        error
            .with("pack", reference.hash.clone())
            .with("collection", self.collection.name.to_string())
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
            let Some(reference) = stream.packs.next() else {
                return Ok(());
            };
            let bytes = self.load(reference)?;
            let records =
                pack::decode_records(bytes).map_err(|error| self.name(error, reference))?;
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

impl<'a> LayerStream<'a> {
    fn of(layer: &'a LayerReference) -> Self {
        Self {
            packs: layer.packs.iter(),
            loaded: VecDeque::new(),
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
