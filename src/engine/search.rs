//! Reads of records and nearest-neighbour search: filters decide the candidates first, then all of
//! them are compared (exact search). An index for large collections has its place in [`nearest`].

use std::collections::{BTreeSet, BinaryHeap};

use uuid::Uuid;

use super::collection::{Collection, CollectionState, Projection};
use super::format::StoredRecord;
use super::{Engine, Inner, kernel};
use crate::error::{Error, Result};
use crate::model::configuration::Space;
use crate::model::filter::Filter;
use crate::model::record::Record;

/// A read of records in insertion order.
#[derive(Debug, Default)]
pub struct GetRequest {
    /// Only these ids.
    pub ids: Option<Vec<String>>,
    /// Only matching records.
    pub filter: Option<Filter>,
    /// At most this many.
    pub limit: Option<usize>,
    /// After passing over this many.
    pub offset: usize,
    /// The parts to return.
    pub projection: Projection,
}

/// A search for the nearest records to each of several vectors.
#[derive(Debug, Default)]
pub struct QueryRequest {
    /// Query vectors, all of the collection's dimension.
    pub embeddings: Vec<Vec<f32>>,
    /// Neighbours per vector.
    pub n_results: usize,
    /// Only these ids.
    pub ids: Option<Vec<String>>,
    /// Only matching records.
    pub filter: Option<Filter>,
    /// The parts to return.
    pub projection: Projection,
}

/// One record of an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Neighbour {
    /// The record, as projected.
    pub record: Record,
    /// Its distance in the collection's space.
    pub distance: f32,
}

impl Engine {
    /// Reads records, in insertion order.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable` for a damaged collection, `StorageFault`.
    pub fn get(&self, collection: Uuid, request: &GetRequest) -> Result<Vec<Record>> {
        let inner = &self.inner;
        let collection = inner.collection(collection)?;
        collection.check_readable()?;
        let mut page = Page {
            skip: request.offset,
            take: request.limit.unwrap_or(usize::MAX),
            projection: request.projection,
            records: Vec::new(),
        };
        if page.take == 0 {
            return Ok(page.records);
        }
        let filter = request.filter.as_ref();
        let visit = |_: u64, stored: &StoredRecord<'_>| page.visit(filter, stored);
        match (&request.ids, filter) {
            (Some(ids), _) => {
                let ordinals = inner.ordinals_of(&collection, ids)?;
                collection.visit_each(&inner.store, &ordinals, visit)?;
            }
            (None, Some(_)) => collection.scan_from(&inner.store, 0, visit)?,
            (None, None) => {
                // Without a filter the columns know where the page starts.
                let start = collection.state.read().columns.ordinal_at(request.offset);
                page.skip = 0;
                if let Some(start) = start {
                    collection
                        .scan_from(&inner.store, start, |_, stored| page.visit(None, stored))?;
                }
            }
        }
        Ok(page.records)
    }

    /// Finds the nearest records to each query vector, nearest first; ties by insertion order.
    ///
    /// # Errors
    /// `NotFound`, `InvalidArgument` for a wrong dimension, `Unavailable` for a damaged collection,
    /// `StorageFault`.
    pub fn query(&self, collection: Uuid, request: &QueryRequest) -> Result<Vec<Vec<Neighbour>>> {
        let inner = &self.inner;
        let collection = inner.collection(collection)?;
        collection.check_readable()?;
        let descriptor = collection.info().descriptor;
        let nothing = || Ok(vec![Vec::new(); request.embeddings.len()]);
        let Some(dimension) = descriptor.definition.dimension else {
            return nothing();
        };
        for embedding in &request.embeddings {
            if embedding.len() != dimension as usize {
                return Err(Error::invalid(format!(
                    "Collection expecting embedding with dimension of {dimension}, got {}",
                    embedding.len()
                )));
            }
        }
        if request.n_results == 0 {
            return nothing();
        }
        let candidates = match (&request.ids, &request.filter) {
            (None, None) => None,
            (ids, filter) => Some(inner.select(&collection, ids.as_deref(), filter.as_ref())?),
        };
        let space = descriptor.definition.configuration.space();
        request
            .embeddings
            .iter()
            .map(|query| {
                let found = {
                    let state = collection.state.read();
                    nearest(
                        &state,
                        space,
                        query,
                        request.n_results,
                        candidates.as_deref(),
                    )
                };
                inner.fetch(&collection, &found, request.projection)
            })
            .collect()
    }
}

/// Collects one page of a read.
struct Page {
    skip: usize,
    take: usize,
    projection: Projection,
    records: Vec<Record>,
}

impl Page {
    fn visit(&mut self, filter: Option<&Filter>, stored: &StoredRecord<'_>) -> Result<bool> {
        if let Some(filter) = filter
            && !filter.matches(&stored.view.metadata()?, stored.view.document)
        {
            return Ok(true);
        }
        if self.skip > 0 {
            self.skip -= 1;
            return Ok(true);
        }
        self.records.push(self.projection.apply(&stored.view)?);
        Ok(self.records.len() < self.take)
    }
}

impl Inner {
    /// Ordinals of those ids that exist, ascending.
    fn ordinals_of(&self, collection: &Collection, ids: &[String]) -> Result<Vec<u64>> {
        let mut found = BTreeSet::new();
        for id in ids {
            found.extend(collection.ordinal_of(&self.store, id)?);
        }
        Ok(found.into_iter().collect())
    }

    /// Ordinals of the records that are among `ids` and match `filter`, ascending.
    pub(super) fn select(
        &self,
        collection: &Collection,
        ids: Option<&[String]>,
        filter: Option<&Filter>,
    ) -> Result<Vec<u64>> {
        let mut selected = Vec::new();
        let visit = |ordinal: u64, stored: &StoredRecord<'_>| {
            let matches = match filter {
                Some(filter) => filter.matches(&stored.view.metadata()?, stored.view.document),
                None => true,
            };
            if matches {
                selected.push(ordinal);
            }
            Ok(true)
        };
        match ids {
            Some(ids) => {
                let ordinals = self.ordinals_of(collection, ids)?;
                if filter.is_none() {
                    return Ok(ordinals);
                }
                collection.visit_each(&self.store, &ordinals, visit)?;
            }
            None => collection.scan_from(&self.store, 0, visit)?,
        }
        Ok(selected)
    }

    /// Reads the found records. One that was deleted since is left out.
    fn fetch(
        &self,
        collection: &Collection,
        found: &[Found],
        projection: Projection,
    ) -> Result<Vec<Neighbour>> {
        let mut neighbours = Vec::with_capacity(found.len());
        for Found { ordinal, distance } in found {
            if let Some(payload) = collection.payload(&self.store, *ordinal)? {
                let stored = StoredRecord::decode(&payload)?;
                neighbours.push(Neighbour {
                    record: projection.apply(&stored.view)?,
                    distance: *distance as f32,
                });
            }
        }
        Ok(neighbours)
    }
}

/// A record that was found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Found {
    pub(super) ordinal: u64,
    pub(super) distance: f64,
}

/// A candidate in the heap, the worst on top: greatest distance, then latest slot.
#[derive(PartialEq)]
struct Candidate {
    distance: f32,
    slot: usize,
}

impl Eq for Candidate {}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.distance
            .total_cmp(&other.distance)
            .then(self.slot.cmp(&other.slot))
    }
}

/// The `k` nearest of the candidates (of all records without), nearest first, by exact comparison.
/// Final distances and their order are computed in f64.
pub(super) fn nearest(
    state: &CollectionState,
    space: Space,
    query: &[f32],
    k: usize,
    candidates: Option<&[u64]>,
) -> Vec<Found> {
    let columns = &state.columns;
    let query_norm = kernel::inverse_norm(query);
    let mut heap = BinaryHeap::new();
    let mut offer = |slot: usize| {
        let (Some(vector), Some(norm)) = (columns.vector(slot), columns.inverse_norm(slot)) else {
            return;
        };
        let distance = match space {
            Space::L2 => kernel::squared_l2(query, vector),
            Space::Ip => 1.0 - kernel::dot(query, vector),
            Space::Cosine => 1.0 - kernel::dot(query, vector) * query_norm * norm,
        };
        let candidate = Candidate { distance, slot };
        if heap.len() < k {
            heap.push(candidate);
        } else if let Some(mut worst) = heap.peek_mut()
            && candidate < *worst
        {
            *worst = candidate;
        }
    };
    match candidates {
        None => columns.live_slots().for_each(&mut offer),
        Some(ordinals) => ordinals
            .iter()
            .filter_map(|ordinal| columns.slot(*ordinal))
            .for_each(&mut offer),
    }
    let mut found: Vec<Found> = heap
        .into_iter()
        .filter_map(|candidate| {
            Some(Found {
                ordinal: columns.ordinal(candidate.slot)?,
                distance: kernel::exact_distance(space, query, columns.vector(candidate.slot)?),
            })
        })
        .collect();
    found.sort_by(|a, b| {
        a.distance
            .total_cmp(&b.distance)
            .then(a.ordinal.cmp(&b.ordinal))
    });
    found
}
