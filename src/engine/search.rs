//! Reads of records and nearest-neighbour search: filters decide the candidates first, then all of
//! them are compared (exact search). An index for large collections has its place in [`nearest`].

use std::collections::{BTreeSet, BinaryHeap};
use std::sync::atomic::{AtomicUsize, Ordering};

use uuid::Uuid;

use super::collection::{Collection, CollectionState, Projection};
use super::format::StoredRecord;
use super::metadata::Selection;
use super::vectors::Columns;
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
        let collection = inner.live_collection(collection)?;
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
        match (&request.ids, &request.filter) {
            (None, None) => {
                // The columns know where the page starts.
                let start = collection.state.read().columns.ordinal_at(request.offset);
                page.skip = 0;
                if let Some(start) = start {
                    collection.scan_from(&inner.store, start, |_, stored| page.visit(stored))?;
                }
            }
            (ids, filter) => {
                // Selecting stops where the page is full; what is left is one record a place.
                let most = page.skip.saturating_add(page.take);
                let selected = inner.select(&collection, ids.as_deref(), filter.as_ref(), most)?;
                let wanted = selected.get(page.skip..).unwrap_or_default();
                page.skip = 0;
                collection.visit_each(&inner.store, wanted, |_, stored| page.visit(stored))?;
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
        let collection = inner.live_collection(collection)?;
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
            (ids, filter) => {
                let (ids, filter) = (ids.as_deref(), filter.as_ref());
                Some(inner.select(&collection, ids, filter, usize::MAX)?)
            }
        };
        let space = descriptor.definition.configuration.space();
        let (_searching, threads) = inner.begin_search();
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
                        threads,
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
    fn visit(&mut self, stored: &StoredRecord<'_>) -> Result<bool> {
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

    /// Ordinals of the records that are among `ids` and match `filter`, ascending, the first `most` of
    /// them. Records are read only where the filter asks for documents.
    pub(super) fn select(
        &self,
        collection: &Collection,
        ids: Option<&[String]>,
        filter: Option<&Filter>,
        most: usize,
    ) -> Result<Vec<u64>> {
        let Selection { ordinals, exact } = match filter {
            Some(filter) => collection.state.read().metadata.select(filter),
            None => Selection {
                ordinals: None,
                exact: true,
            },
        };
        let candidates = match (ids, ordinals) {
            (Some(ids), None) => Some(self.ordinals_of(collection, ids)?),
            (Some(ids), Some(ordinals)) => {
                let mut named = self.ordinals_of(collection, ids)?;
                named.retain(|ordinal| ordinals.contains(*ordinal));
                Some(named)
            }
            (None, Some(ordinals)) if exact => Some(ordinals.iter().take(most).collect()),
            (None, Some(ordinals)) => Some(ordinals.iter().collect()),
            (None, None) => None,
        };
        let mut selected = Vec::new();
        let mut visit = |ordinal: u64, stored: &StoredRecord<'_>| {
            let matches = match filter {
                Some(filter) => filter.matches(&stored.view.metadata()?, stored.view.document),
                None => true,
            };
            if matches {
                selected.push(ordinal);
            }
            Ok(selected.len() < most)
        };
        match candidates {
            Some(mut candidates) if exact => {
                candidates.truncate(most);
                return Ok(candidates);
            }
            Some(candidates) => collection.visit_each(&self.store, &candidates, &mut visit)?,
            None => collection.scan_from(&self.store, 0, &mut visit)?,
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
struct Found {
    ordinal: u64,
    distance: f64,
}

/// A candidate in the heap, the worst on top: greatest distance, then latest slot.
#[derive(PartialEq)]
struct Candidate {
    distance: f64,
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

/// What every vector is compared with.
struct Comparison<'a> {
    columns: &'a Columns,
    space: Space,
    query: &'a [f32],
    query_norm: f32,
    k: usize,
}

impl Comparison<'_> {
    /// The `k` nearest among these slots, in no order.
    fn nearest_of(&self, slots: impl Iterator<Item = usize>) -> BinaryHeap<Candidate> {
        let mut heap = BinaryHeap::new();
        for slot in slots {
            let Some(distance) = self.distance(slot) else {
                continue;
            };
            let candidate = Candidate { distance, slot };
            if heap.len() < self.k {
                heap.push(candidate);
            } else if let Some(mut worst) = heap.peek_mut()
                && candidate < *worst
            {
                *worst = candidate;
            }
        }
        heap
    }

    fn distance(&self, slot: usize) -> Option<f64> {
        let vector = self.columns.vector(slot)?;
        let norms = self.columns.inverse_norm(slot)? * self.query_norm;
        if norms.is_nan() {
            return Some(kernel::exact_distance(self.space, self.query, vector));
        }
        Some(f64::from(match self.space {
            Space::L2 => kernel::squared_l2(self.query, vector),
            Space::Ip => 1.0 - kernel::dot(self.query, vector),
            Space::Cosine => 1.0 - kernel::dot(self.query, vector) * norms,
        }))
    }

    /// As [`Comparison::nearest_of`], the slots shared out over threads.
    fn nearest_in_parallel(&self, slots: &[usize], threads: usize) -> Vec<Candidate> {
        let share = slots.len().div_ceil(threads).max(1);
        std::thread::scope(|scope| {
            let mut shares = slots.chunks(share);
            let own = shares.next().unwrap_or_default();
            let others: Vec<_> = shares
                .map(|slots| scope.spawn(|| self.nearest_of(slots.iter().copied())))
                .collect();
            let mut found = self.nearest_of(own.iter().copied()).into_vec();
            for other in others {
                match other.join() {
                    Ok(heap) => found.extend(heap),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            found.sort_unstable();
            found.truncate(self.k);
            found
        })
    }
}

/// Components compared per thread below which starting another one costs more than it saves.
const MIN_COMPONENTS_PER_THREAD: usize = 2_000_000;

/// The `k` nearest of the candidates (of all records without), nearest first, by exact comparison on up
/// to `threads` threads. Final distances and their order are computed in f64.
fn nearest(
    state: &CollectionState,
    space: Space,
    query: &[f32],
    k: usize,
    candidates: Option<&[u64]>,
    threads: usize,
) -> Vec<Found> {
    let columns = &state.columns;
    let comparison = Comparison {
        columns,
        space,
        query,
        query_norm: kernel::inverse_norm(query),
        k,
    };
    let count = candidates.map_or(columns.live(), <[u64]>::len);
    let worthwhile = count.saturating_mul(query.len()) / MIN_COMPONENTS_PER_THREAD;
    let found = if threads.min(worthwhile) < 2 {
        match candidates {
            None => comparison.nearest_of(columns.live_slots()),
            Some(ordinals) => comparison.nearest_of(columns.slots_of(ordinals)),
        }
        .into_vec()
    } else {
        let slots: Vec<usize> = match candidates {
            None => columns.live_slots().collect(),
            Some(ordinals) => columns.slots_of(ordinals).collect(),
        };
        comparison.nearest_in_parallel(&slots, threads.min(worthwhile))
    };
    let mut found: Vec<Found> = found
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

/// Counts a running search while it lives.
struct Searching<'a>(&'a AtomicUsize);

impl Drop for Searching<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Inner {
    /// Registers a search; returns its guard and the threads it may use: the cores shared among the
    /// searches that run.
    fn begin_search(&self) -> (Searching<'_>, usize) {
        let running = self.searches.fetch_add(1, Ordering::Relaxed) + 1;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        (Searching(&self.searches), (cores / running).max(1))
    }
}
