//! What changed since a sequence, and the consistent snapshot that is built on it.
//!
//! A snapshot copies collections while writes go on. Each collection is copied whole first (the base layer);
//! then what changed meanwhile is copied again, round by round (change layers), from a watermark. The
//! last round happens under the write lock and is small: the moment it is taken is the moment of the
//! snapshot, the same for all collections.
//!
//! A layer applies its tombstones first, by ordinal, then its records, by ordinal. An id that is deleted
//! and inserted again gets a new ordinal, so it can stand twice in a base layer that was read meanwhile;
//! the tombstone of the old ordinal, above the watermark by then, takes the old one away.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::catalog::Namespaces;
use super::collection::{Collection, CollectionInfo};
use super::format::{self, StoredRecord};
use super::pace::Pursuit;
use super::staging::Exclusive;
use super::store::{Scan, Tree, prefix_end};
use super::{Engine, Inner};
use crate::error::{Error, Kind, Result};
use crate::model::collection::Lifecycle;
use crate::progress::Progress;

/// Which collections a snapshot is of.
#[derive(Clone, Debug)]
pub enum SnapshotScope {
    /// Every live collection at the moment of the snapshot.
    All,
    /// These, all of which have to exist at the moment of the snapshot.
    Collections(Vec<Uuid>),
}

/// A deletion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tombstone {
    /// The write that deleted it.
    pub sequence: u64,
    /// The record's ordinal; never used again.
    pub ordinal: u64,
    /// The record's id.
    pub id: String,
}

/// Bounds of catching up with writes that go on. Where a round is not half as long as the one before writers are slowed to half
/// the rate of copying.
#[derive(Clone, Copy, Debug)]
pub struct CatchUp {
    /// Changes that the last round may read while writes wait.
    pub max_last_round: usize,
    /// Rounds before the last one comes whatever it costs.
    pub max_rounds: usize,
}

/// One layer of one collection, to be copied without any lock.
pub struct Layer {
    /// Definition and head when the layer was begun.
    pub info: CollectionInfo,
    collection: Arc<Collection>,
    engine: Engine,
    /// Deletions since the layer before; none in a base.
    pub tombstones: Vec<Tombstone>,
    /// `None`: all records.
    changed: Option<Vec<u64>>,
}

/// One collection at the moment of the snapshot, with its last round.
pub struct FinalPart {
    /// Definition and head at that moment.
    pub info: CollectionInfo,
    /// Deletions of the last round.
    pub tombstones: Vec<Tombstone>,
    /// Records of the last round: ordinal, sequence, canonical bytes; by ordinal.
    pub records: Vec<(u64, u64, Vec<u8>)>,
}

/// The snapshot's end.
pub struct Final {
    /// The moment, as a sequence.
    pub sequence: u64,
    /// The moment, as the clock told it.
    pub at: DateTime<Utc>,
    /// Every tenant and database at that moment.
    pub namespaces: Namespaces,
    /// Every collection of the snapshot, by id. One that was dropped meanwhile is not here.
    pub parts: BTreeMap<Uuid, FinalPart>,
}

/// A snapshot in progress. While it lives, tombstones that it may need are kept.
pub struct Snapshot {
    engine: Engine,
    scope: SnapshotScope,
    token: u64,
    pursuit: Pursuit,
    /// Per collection, the sequence that its layers so far are complete up to.
    watermarks: BTreeMap<Uuid, u64>,
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        let token = self.token;
        self.engine
            .inner
            .pins
            .lock()
            .retain(|(pin, _)| *pin != token);
    }
}

static NEXT_TOKEN: AtomicU64 = AtomicU64::new(1);

impl Engine {
    /// Begins a snapshot: from now on the tombstones it may need are kept.
    ///
    /// # Errors
    /// `Unavailable` when a call into the store hangs.
    pub fn begin_snapshot(&self, scope: SnapshotScope) -> Result<Snapshot> {
        self.begin_snapshot_since(scope, BTreeMap::new())
    }

    /// How many live records of a collection were written after a sequence.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn changed_after(&self, id: Uuid, sequence: u64) -> Result<u64> {
        let collection = self.inner.live_collection(id)?;
        let state = collection.state.read();
        Ok(state.columns.count_changed_after(sequence) as u64)
    }

    /// Begins a snapshot that has some collections as of a sequence already: of these only what changed since
    /// is copied. Those whose deletions since then are not all kept are copied whole.
    ///
    /// # Errors
    /// `Unavailable` when a call into the store hangs.
    pub fn begin_snapshot_since(
        &self,
        scope: SnapshotScope,
        since: BTreeMap<Uuid, u64>,
    ) -> Result<Snapshot> {
        let token = NEXT_TOKEN.fetch_add(1, Ordering::Relaxed);
        // Under the write lock everything up to the sequence is published.
        let writer = self.inner.lock_writer()?;
        let mut watermarks = since;
        watermarks.retain(|id, since| {
            let head = self
                .inner
                .live_or_staged(*id)
                .map(|found| found.info().head);
            *since > 0
                && *since <= writer.sequence
                && head.is_ok_and(|head| head.tombstone_floor <= *since)
        });
        let pin = watermarks.values().copied().min();
        let pin = pin.unwrap_or(writer.sequence);
        self.inner.pins.lock().push((token, pin));
        let collections = match &scope {
            SnapshotScope::All => None,
            SnapshotScope::Collections(ids) => Some(ids.iter().copied().collect()),
        };
        Ok(Snapshot {
            engine: self.clone(),
            scope,
            token,
            pursuit: self.inner.pace.pursuit(collections),
            watermarks,
        })
    }
}

impl Snapshot {
    /// Whether only changes to this collection are copied.
    pub fn is_incremental(&self, id: Uuid) -> bool {
        self.watermarks.contains_key(&id)
    }

    /// The collections of the scope as of now.
    pub fn collections(&self) -> Vec<Uuid> {
        match &self.scope {
            SnapshotScope::All => live(&self.engine.inner),
            SnapshotScope::Collections(ids) => ids.clone(),
        }
    }

    /// The next layer of a collection: its base the first time, then what changed since.
    ///
    /// # Errors
    /// `NotFound` when the collection is gone, `Unavailable` when it is damaged.
    pub fn next_layer(&mut self, id: Uuid) -> Result<Layer> {
        let inner = &self.engine.inner;
        let collection = inner.live_or_staged(id)?;
        collection.check_readable()?;
        let watermark = self.watermarks.get(&id).copied();
        let (upto, changed) = {
            let writer = inner.lock_writer()?;
            let state = collection.state.read();
            let changed = watermark.map(|since| state.columns.changed_after(since));
            (writer.sequence, changed)
        };
        let tombstones = match watermark {
            None => Vec::new(),
            Some(since) => inner.tombstones_after(&collection, since)?,
        };
        self.watermarks.insert(id, upto);
        Ok(Layer {
            info: collection.info(),
            collection,
            engine: self.engine.clone(),
            tombstones,
            changed,
        })
    }

    /// Takes the last round under the write lock, unless more than `max_changes` records and deletions have to
    /// be read there, and goes on to `last` before it lets go of it. Else what there is to do first.
    fn try_finish<T>(
        &mut self,
        max_changes: usize,
        last: &mut Option<impl FnOnce(Final, &mut Exclusive<'_>) -> Result<T>>,
    ) -> Result<Result<T, Behind>> {
        let inner = &self.engine.inner;
        let mut exclusive = inner.exclusive()?;
        let ids = self.collections();
        let mut pending = 0;
        let mut behind = Vec::new();
        for id in &ids {
            let collection = inner.live_or_staged(*id).map_err(|_| vanished(*id))?;
            let since = self.watermarks.get(id).copied();
            let since_then = since.unwrap_or(0);
            let written = {
                let state = collection.state.read();
                state.columns.count_changed_after(since_then)
            };
            // Deletions are read there as well; more than the bound need not be counted.
            let most = max_changes.saturating_sub(pending + written);
            let deleted = if max_changes == usize::MAX {
                0
            } else {
                inner.count_tombstones_after(&collection, since_then, most + 1)?
            };
            let changes = written + deleted;
            pending += changes;
            if changes > 0 || since.is_none() {
                behind.push(*id);
            }
        }
        if pending > max_changes {
            return Ok(Err(Behind {
                collections: behind,
                changes: pending as u64,
            }));
        }
        let mut parts = BTreeMap::new();
        for id in ids {
            let collection = inner.live_or_staged(id)?;
            collection.check_readable()?;
            let since = self.watermarks.get(&id).copied();
            parts.insert(id, inner.last_round(&collection, since.unwrap_or(0))?);
        }
        let sequence = exclusive.writer.sequence;
        let last = last
            .take()
            .ok_or_else(|| Error::internal("a snapshot ended twice"))?;
        let done = Final {
            sequence,
            at: Utc::now(),
            namespaces: inner.catalog.read().namespaces(),
            parts,
        };
        last(done, &mut exclusive).map(Ok)
    }

    /// Runs layers over all collections until the snapshot can be finished. `copy` gets each layer.
    ///
    /// # Errors
    /// Those of `copy`, of reading, and `Canceled`.
    pub fn run(
        self,
        catch_up: CatchUp,
        progress: &Progress,
        copy: impl FnMut(Uuid, Layer) -> Result<()>,
    ) -> Result<Final> {
        self.run_to(catch_up, progress, copy, |last, _| Ok(last))
    }

    /// As [`Snapshot::run`]; then, while nobody else can write, `last` does what has to be done at the moment of the
    /// snapshot.
    ///
    /// # Errors
    /// Those of `copy`, of `last`, of reading, and `Canceled`.
    pub fn run_to<T>(
        mut self,
        catch_up: CatchUp,
        progress: &Progress,
        mut copy: impl FnMut(Uuid, Layer) -> Result<()>,
        last: impl FnOnce(Final, &mut Exclusive<'_>) -> Result<T>,
    ) -> Result<T> {
        let mut due = Behind {
            collections: self.collections(),
            changes: u64::MAX,
        };
        let mut last = Some(last);
        for round in 0.. {
            let (began, mut copied) = (Instant::now(), 0);
            for id in due.collections {
                progress.check()?;
                match self.next_layer(id) {
                    Ok(layer) => {
                        copied += layer.changes();
                        copy(id, layer)?;
                    }
                    // A snapshot of everything is of what exists at its moment.
                    Err(error)
                        if error.kind() == Kind::NotFound
                            && matches!(self.scope, SnapshotScope::All) => {}
                    Err(error) => return Err(error),
                }
            }
            // Where writers outrun the rounds, the last one takes what is left, whatever it costs.
            let bound = if round >= catch_up.max_rounds {
                usize::MAX
            } else {
                catch_up.max_last_round
            };
            match self.try_finish(bound, &mut last)? {
                Ok(done) => return Ok(done),
                Err(behind) => {
                    let before = copied.min(due.changes);
                    self.pursuit
                        .hold_back(before, behind.changes, copied, began.elapsed());
                    due = behind;
                }
            }
        }
        Err(Error::internal("a snapshot did not end"))
    }
}

/// What a snapshot has to copy before it can end.
struct Behind {
    collections: Vec<Uuid>,
    /// Records and deletions.
    changes: u64,
}

impl Layer {
    /// Records and deletions in it, about: writes go on.
    fn changes(&self) -> u64 {
        let records = self.changed.as_ref().map(|changed| changed.len() as u64);
        records.unwrap_or(self.info.head.count) + self.tombstones.len() as u64
    }

    /// Whether this is the whole collection rather than changes to it.
    pub fn is_base(&self) -> bool {
        self.changed.is_none()
    }

    /// Visits the layer's records by ordinal. A record may be newer than the layer; it then comes again
    /// in the next one. One that is gone is passed over; its tombstone comes in the next one.
    ///
    /// # Errors
    /// Those of `visit`; `StorageFault` for a damaged record.
    pub fn for_each(
        &self,
        mut visit: impl FnMut(u64, &StoredRecord<'_>) -> Result<()>,
    ) -> Result<()> {
        let store = &self.engine.inner.store;
        let visit = |ordinal: u64, stored: &StoredRecord<'_>| visit(ordinal, stored).map(|()| true);
        match &self.changed {
            None => self.collection.scan_from(store, 0, visit),
            Some(ordinals) => self.collection.visit_each(store, ordinals, visit),
        }
    }
}

impl Inner {
    fn last_round(&self, collection: &Collection, since: u64) -> Result<FinalPart> {
        let (info, changed) = {
            let state = collection.state.read();
            let changed = state.columns.changed_after(since);
            drop(state);
            (collection.info(), changed)
        };
        let mut records = Vec::with_capacity(changed.len());
        collection.visit_each(&self.store, &changed, |ordinal, stored| {
            records.push((ordinal, stored.sequence, stored.canonical.to_vec()));
            Ok(true)
        })?;
        Ok(FinalPart {
            info,
            tombstones: self.tombstones_after(collection, since)?,
            records,
        })
    }

    /// How many deletions there are after a sequence, counted up to a bound.
    fn count_tombstones_after(
        &self,
        collection: &Collection,
        since: u64,
        most: usize,
    ) -> Result<usize> {
        self.tombstone_entries_after(collection, since)
            .take(most)
            .try_fold(0, |count, entry| entry.map(|_| count + 1))
            .map_err(Error::from)
    }

    fn tombstone_entries_after(&self, collection: &Collection, since: u64) -> Scan<'_> {
        let start = format::tombstone_key(collection.id, since.saturating_add(1), 0);
        let end = prefix_end(collection.id.as_bytes());
        self.store.scan(Tree::Tombstones, start, end)
    }

    /// Deletions after a sequence, in sequence order.
    fn tombstones_after(&self, collection: &Collection, since: u64) -> Result<Vec<Tombstone>> {
        let floor = collection.info().head.tombstone_floor;
        if since != 0 && floor > since {
            return Err(Error::internal(format!(
                "deletions after the sequence {since} are needed, but only those after {floor} are kept"
            )));
        }
        self.tombstone_entries_after(collection, since)
            .map(|entry| {
                let (key, value) = entry?;
                let rest = format::after_collection(&key)?;
                let id = std::str::from_utf8(&value).map_err(|error| {
                    Error::storage("a tombstone cannot be decoded").because(error)
                })?;
                Ok(Tombstone {
                    sequence: format::be_u64(rest)?,
                    ordinal: format::be_u64(rest.get(8..).unwrap_or_default())?,
                    id: id.to_owned(),
                })
            })
            .collect()
    }
}

fn live(inner: &Inner) -> Vec<Uuid> {
    let catalog = inner.catalog.read();
    let ids: BTreeSet<Uuid> = catalog
        .collections
        .values()
        .filter(|collection| collection.state.read().descriptor.lifecycle == Lifecycle::Live)
        .map(|collection| collection.id)
        .collect();
    ids.into_iter().collect()
}

fn vanished(id: Uuid) -> Error {
    Error::not_found(format!(
        "collection {id} was dropped while it was being copied"
    ))
}
