//! Reads of records and nearest-neighbour search: filters decide the candidates first, then [`exact`] search
//! ranks them.

mod exact;

use std::collections::BTreeSet;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use uuid::Uuid;

use self::exact::{Ranked, nearest};
use super::collection::{Collection, Projection, check_dimension};
use super::format::StoredRecord;
use super::metadata::Selection;
use super::{Engine, Inner, metrics};
use crate::background::processors;
use crate::error::{Error, Kind, Result};
use crate::metrics::record_since;
use crate::model::filter::Filter;
use crate::model::record::{Record, RecordView};
use crate::progress::Progress;

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
    /// Looked at between records: who cancels it ends the read.
    pub progress: Progress,
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
    /// Bytes of records that the answer may have; without, any number.
    pub max_bytes: Option<u64>,
    /// Looked at between vectors, and between records where the filter reads documents: who cancels it ends the search.
    pub progress: Progress,
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
    /// Reads the wanted parts of records, in insertion order.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable` for a damaged collection, `StorageFault`, `Canceled`.
    pub fn get(
        &self,
        collection: Uuid,
        request: &GetRequest,
        projection: Projection,
    ) -> Result<Vec<Record>> {
        let mut records = Vec::new();
        self.for_each(collection, request, |view| {
            records.push(projection.apply(view)?);
            Ok(())
        })?;
        Ok(records)
    }

    /// As [`Engine::get`], record by record.
    ///
    /// # Errors
    /// Those of [`Engine::get`] and of `visit`.
    pub fn for_each(
        &self,
        collection: Uuid,
        request: &GetRequest,
        visit: impl FnMut(&RecordView<'_>) -> Result<()>,
    ) -> Result<()> {
        let inner = &self.inner;
        let collection = inner.addressed(collection)?;
        collection.check_readable()?;
        let mut page = ResultPage {
            filter: request.filter.as_ref(),
            take: request.limit.unwrap_or(usize::MAX),
            progress: &request.progress,
            visit,
        };
        if page.take == 0 {
            return Ok(());
        }
        match (&request.ids, &request.filter) {
            (None, None) => {
                // The columns know where the page starts.
                let start = collection.memory.read().columns.ordinal_at(request.offset);
                if let Some(start) = start {
                    collection.scan_from(&inner.store, start, |_, stored| page.visit(stored))?;
                }
            }
            (ids, filter) => {
                // Selecting stops where the page is full; what is left is one record a place.
                let most = request.offset.saturating_add(page.take);
                let wanted = Wanted {
                    ids: ids.as_deref(),
                    filter: filter.as_ref(),
                    most,
                    progress: &request.progress,
                };
                let selected = inner.select(&collection, &wanted)?;
                let wanted = selected.get(request.offset..).unwrap_or_default();
                collection.visit_each(&inner.store, wanted, |_, stored| page.visit(stored))?;
            }
        }
        Ok(())
    }

    /// Finds the nearest records to each query vector, nearest first; ties by insertion order.
    ///
    /// # Errors
    /// `NotFound`, `InvalidArgument` for a wrong dimension, `Unavailable` for a damaged collection,
    /// `StorageFault`.
    pub fn query(&self, collection: Uuid, request: &QueryRequest) -> Result<Vec<Vec<Neighbour>>> {
        self.query_in(&*self.inner.addressed(collection)?, request)
    }

    /// As [`Engine::query`], of a staged collection as well.
    ///
    /// # Errors
    /// As there.
    pub fn query_staged(
        &self,
        collection: Uuid,
        request: &QueryRequest,
    ) -> Result<Vec<Vec<Neighbour>>> {
        self.query_in(&*self.inner.live_or_staged(collection)?, request)
    }

    fn query_in(
        &self,
        collection: &Collection,
        request: &QueryRequest,
    ) -> Result<Vec<Vec<Neighbour>>> {
        let started = Instant::now();
        let inner = &self.inner;
        collection.check_readable()?;
        let descriptor = collection.info().descriptor;
        let nothing = || Ok(vec![Vec::new(); request.embeddings.len()]);
        let Some(dimension) = descriptor.definition.dimension else {
            return nothing();
        };
        for embedding in &request.embeddings {
            check_dimension(dimension as usize, embedding.len())?;
        }
        if request.n_results == 0 {
            return nothing();
        }
        let candidates = match (&request.ids, &request.filter) {
            (None, None) => None,
            (ids, filter) => {
                let wanted = Wanted {
                    ids: ids.as_deref(),
                    filter: filter.as_ref(),
                    most: usize::MAX,
                    progress: &request.progress,
                };
                Some(inner.select(collection, &wanted)?)
            }
        };
        if let (Some(ids), None, Some(found)) = (&request.ids, &request.filter, &candidates)
            && found.len() < ids.len()
        {
            check_known(inner, collection, ids)?;
        }
        let space = descriptor.definition.configuration.space();
        let (_searching, threads) = inner.begin_search();
        let mut bytes = 0;
        let found = request
            .embeddings
            .iter()
            .map(|query| {
                let mut wanted = request.n_results;
                loop {
                    request.progress.check()?;
                    let columns = collection.columns();
                    let compared = candidates.as_ref().map_or(columns.live(), Vec::len);
                    metrics::VECTORS_COMPARED.increment(compared as u64);
                    let candidates = candidates.as_deref();
                    let ranked = nearest(&columns, space, query, wanted, candidates, threads);
                    drop(columns);
                    let before = bytes;
                    let mut found = inner.fetch(collection, &ranked, request, &mut bytes)?;
                    let missing = request.n_results.saturating_sub(found.len());
                    // Gone between ranking and reading: others take their places, where not all were ranked.
                    if missing == 0 || ranked.len() < wanted {
                        found.truncate(request.n_results);
                        return Ok(found);
                    }
                    bytes = before;
                    wanted = wanted.saturating_add(missing.saturating_mul(SPARE));
                }
            })
            .collect::<Result<_>>()?;
        record_since(&metrics::SEARCH_DURATION, started);
        Ok(found)
    }

    /// Searches that run now.
    pub fn running_searches(&self) -> usize {
        self.inner.searches.load(Relaxed)
    }
}

/// Ids that a message names.
const MAX_NAMED_IDS: usize = 20;

/// A query among ids alone has to find them all, as Chroma's server has it: one that is not there is more likely a
/// mistake than a wish. (With a filter as well they are passed over.)
///
/// # Errors
/// `NotFound` that names them, in the words that Chroma's clients look for.
fn check_known(inner: &Inner, collection: &Collection, ids: &[String]) -> Result<()> {
    let mut unknown = Vec::new();
    for id in ids {
        if collection.ordinal_of(&inner.store, id)?.is_none() {
            unknown.push(id);
        }
        if unknown.len() > MAX_NAMED_IDS {
            break;
        }
    }
    if unknown.is_empty() {
        return Ok(());
    }
    let named: Vec<String> = unknown
        .iter()
        .take(MAX_NAMED_IDS)
        .map(|id| format!("{id:?}"))
        .collect();
    let more = if unknown.len() > MAX_NAMED_IDS {
        " and more"
    } else {
        ""
    };
    Err(Error::not_found(format!(
        "Error executing plan: Internal error: Error finding id: the collection has no {}{more}",
        named.join(", ")
    )))
}

/// A query whose answer lost records to a deletion looks for so many more for each.
const SPARE: usize = 4;

/// One page of a read.
struct ResultPage<'a, F> {
    filter: Option<&'a Filter>,
    take: usize,
    progress: &'a Progress,
    visit: F,
}

impl<F: FnMut(&RecordView<'_>) -> Result<()>> ResultPage<'_, F> {
    fn visit(&mut self, stored: &StoredRecord<'_>) -> Result<bool> {
        self.progress.check()?;
        if !still_matches(self.filter, &stored.view)? {
            return Ok(true);
        }
        (self.visit)(&stored.view)?;
        self.take -= 1;
        Ok(self.take > 0)
    }
}

/// Whether a selected record matches as it is read: it may have been written in between.
pub(super) fn still_matches(filter: Option<&Filter>, view: &RecordView<'_>) -> Result<bool> {
    match filter {
        Some(filter) => Ok(filter.matches(&view.metadata()?, view.document)),
        None => Ok(true),
    }
}

/// Which records a selection is of: the first so many that are among the ids, if there are any, and match the filter.
pub(super) struct Wanted<'a> {
    pub(super) ids: Option<&'a [String]>,
    pub(super) filter: Option<&'a Filter>,
    pub(super) most: usize,
    pub(super) progress: &'a Progress,
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

    /// Ordinals of the records that are wanted, ascending. Records are read only where the filter asks for documents.
    pub(super) fn select(&self, collection: &Collection, wanted: &Wanted<'_>) -> Result<Vec<u64>> {
        let Wanted {
            ids, filter, most, ..
        } = *wanted;
        let Selection { ordinals, exact } = match filter {
            Some(filter) => {
                let part = collection.memory.read().metadata.part_for(filter);
                part.select(filter)
            }
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
            wanted.progress.check()?;
            if still_matches(filter, &stored.view)? {
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

    /// Reads the found records. One that was deleted since, or does not match any more, is left out.
    fn fetch(
        &self,
        collection: &Collection,
        found: &[Ranked],
        request: &QueryRequest,
        bytes: &mut u64,
    ) -> Result<Vec<Neighbour>> {
        let mut neighbours = Vec::with_capacity(found.len());
        for Ranked { distance, place } in found {
            if let Some(payload) = collection.payload(&self.store, *place)? {
                let stored = StoredRecord::decode(&payload)?;
                if !still_matches(request.filter.as_ref(), &stored.view)? {
                    continue;
                }
                *bytes += payload.len() as u64;
                if let Some(most) = request.max_bytes.filter(|most| *bytes > *most) {
                    return Err(Error::new(
                        Kind::TooLarge,
                        format!(
                            "the answer would have more than {most} bytes of records (query.max_answer_bytes): ask \
                             for fewer vectors or neighbours at a time"
                        ),
                    ));
                }
                neighbours.push(Neighbour {
                    record: request.projection.apply(&stored.view)?,
                    distance: *distance as f32,
                });
            }
        }
        Ok(neighbours)
    }
}

/// Counts a running search while it lives.
struct Searching<'a>(&'a AtomicUsize);

impl Drop for Searching<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Inner {
    /// Registers a search; returns its guard and the threads it may use: the cores shared among the
    /// searches that run.
    fn begin_search(&self) -> (Searching<'_>, usize) {
        let running = self.searches.fetch_add(1, Relaxed) + 1;
        (Searching(&self.searches), (processors() / running).max(1))
    }
}
