//! What changed since a sequence, and the consistent snapshot that is built on it.
//!
//! A snapshot copies collections while writes go on, in rounds. The first round of a collection is all of it
//! (unless it is known up to a sequence already); then what changed meanwhile is copied again, round by round, from a
//! watermark. The last round is read under the write lock and is small: the moment it is read is the moment of the
//! snapshot, the same for all collections. It has the same shape as the others.
//!
//! A round applies its deletions first, by ordinal, then its records, by ordinal. An id that is deleted
//! and inserted again gets a new ordinal, so it can stand twice in a first round that was read meanwhile;
//! the tombstone of the old ordinal, above the watermark by then, takes the old one away.

use std::cell::RefCell;
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
use super::store::{Scan, Tree, Value, prefix_end};
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

/// What a round brings of one collection: deletions first, then records.
pub struct Round {
    /// Definition and head when the round was begun; of the last one, at the moment of the snapshot.
    pub info: CollectionInfo,
    /// Deletions since the round before; none where all records come.
    pub removed: Vec<Tombstone>,
    collection: Arc<Collection>,
    engine: Engine,
    records: Records,
}

/// The records of a round.
enum Records {
    /// All, as they are read.
    All,
    /// Those of these ordinals, as they are read.
    Changed(Vec<u64>),
    /// Ordinals and payloads that were read under the write lock.
    Held(Vec<(u64, Value)>),
}

/// The snapshot's end.
pub struct Final {
    /// The moment, as a sequence.
    pub sequence: u64,
    /// The moment, as the clock told it.
    pub at: DateTime<Utc>,
    /// Every tenant and database at that moment.
    pub namespaces: Namespaces,
    /// Every collection of the snapshot at that moment, by id. One that was dropped before is not here.
    pub collections: BTreeMap<Uuid, CollectionInfo>,
}

impl Final {
    /// Takes out what a collection of the snapshot was at that moment.
    ///
    /// # Errors
    /// `Internal` when it is not there.
    pub fn take(&mut self, id: Uuid) -> Result<CollectionInfo> {
        let found = self.collections.remove(&id);
        found.ok_or_else(|| Error::internal("the snapshot lost its collection"))
    }
}

/// A snapshot in progress. While it lives, tombstones that it may need are kept.
pub struct Snapshot {
    engine: Engine,
    scope: SnapshotScope,
    token: u64,
    pursuit: Pursuit,
    /// Per collection, the sequence that its rounds so far are complete up to.
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
        Ok(collection.columns().count_changed_after(sequence) as u64)
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

    /// The next round of a collection: all of it the first time, then what changed since.
    fn next_round(&mut self, id: Uuid) -> Result<Round> {
        let inner = &self.engine.inner;
        let collection = inner.live_or_staged(id)?;
        collection.check_readable()?;
        let watermark = self.watermarks.get(&id).copied();
        let (upto, columns) = {
            let writer = inner.lock_writer()?;
            (writer.sequence, collection.columns())
        };
        let records = match watermark {
            None => Records::All,
            Some(since) => Records::Changed(columns.changed_after(since)),
        };
        let removed = match watermark {
            None => Vec::new(),
            Some(since) => inner.tombstones_after(&collection, since)?,
        };
        self.watermarks.insert(id, upto);
        Ok(Round {
            info: collection.info(),
            removed,
            collection,
            engine: self.engine.clone(),
            records,
        })
    }

    /// Reads the last round under the write lock, unless more than `max_changes` records and deletions have to
    /// be read there, and goes on to `last` before it lets go of it. Else what there is to do first.
    fn try_finish<T>(
        &mut self,
        max_changes: usize,
        last: &mut Option<impl FnOnce(Final, Rounds, &mut Exclusive<'_>) -> Result<T>>,
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
            let written = collection.columns().count_changed_after(since_then);
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
        let mut rounds = Rounds::with_capacity(ids.len());
        for id in ids {
            let collection = inner.live_or_staged(id)?;
            collection.check_readable()?;
            let since = self.watermarks.get(&id).copied().unwrap_or(0);
            rounds.push((id, self.engine.last_round(collection, since)?));
        }
        let last = last
            .take()
            .ok_or_else(|| Error::internal("a snapshot ended twice"))?;
        let done = Final {
            sequence: exclusive.writer.sequence,
            at: Utc::now(),
            namespaces: inner.catalog.read().namespaces(),
            collections: rounds
                .iter()
                .map(|(id, round)| (*id, round.info.clone()))
                .collect(),
        };
        last(done, rounds, &mut exclusive).map(Ok)
    }

    /// Hands round after round of all collections to `copy` until the snapshot is there; the last ones too, when writers
    /// go on already.
    ///
    /// # Errors
    /// Those of `copy`, of reading, and `Canceled`.
    pub fn run(
        self,
        catch_up: CatchUp,
        progress: &Progress,
        mut copy: impl FnMut(Uuid, &Round) -> Result<()>,
    ) -> Result<Final> {
        let held = |done, rounds: Rounds, _: &mut Exclusive<'_>| Ok((done, rounds));
        let (done, rounds) = self.run_rounds(catch_up, progress, &mut copy, held)?;
        for (id, round) in &rounds {
            copy(*id, round)?;
        }
        Ok(done)
    }

    /// As [`Snapshot::run`]; but `copy` gets the last rounds while nobody else can write, and then `last` does what has to
    /// be done at the moment of the snapshot.
    ///
    /// # Errors
    /// Those of `copy`, of `last`, of reading, and `Canceled`.
    pub fn run_to<T>(
        self,
        catch_up: CatchUp,
        progress: &Progress,
        copy: impl FnMut(Uuid, &Round, Option<&mut Exclusive<'_>>) -> Result<()>,
        last: impl FnOnce(Final, &mut Exclusive<'_>) -> Result<T>,
    ) -> Result<T> {
        let copy = RefCell::new(copy);
        self.run_rounds(
            catch_up,
            progress,
            |id, round| copy.borrow_mut()(id, round, None),
            |done, rounds, exclusive| {
                for (id, round) in &rounds {
                    copy.borrow_mut()(*id, round, Some(exclusive))?;
                }
                last(done, exclusive)
            },
        )
    }

    fn run_rounds<T>(
        mut self,
        catch_up: CatchUp,
        progress: &Progress,
        mut copy: impl FnMut(Uuid, &Round) -> Result<()>,
        last: impl FnOnce(Final, Rounds, &mut Exclusive<'_>) -> Result<T>,
    ) -> Result<T> {
        let mut due = Behind {
            collections: self.collections(),
            changes: u64::MAX,
        };
        let mut last = Some(last);
        for number in 0.. {
            let (began, mut copied) = (Instant::now(), 0);
            for id in due.collections {
                progress.check()?;
                match self.next_round(id) {
                    Ok(round) => {
                        copied += round.changes();
                        copy(id, &round)?;
                    }
                    // A snapshot of everything is of what exists at its moment.
                    Err(error)
                        if error.kind() == Kind::NotFound
                            && matches!(self.scope, SnapshotScope::All) => {}
                    Err(error) => return Err(error),
                }
            }
            // Where writers outrun the rounds, the last one takes what is left, whatever it costs.
            let bound = if number >= catch_up.max_rounds {
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

/// The last rounds, by collection.
type Rounds = Vec<(Uuid, Round)>;

/// What a snapshot has to copy before it can end.
struct Behind {
    collections: Vec<Uuid>,
    /// Records and deletions.
    changes: u64,
}

impl Round {
    /// Records and deletions in it, about: writes go on.
    fn changes(&self) -> u64 {
        let records = match &self.records {
            Records::All => self.info.head.count,
            Records::Changed(ordinals) => ordinals.len() as u64,
            Records::Held(records) => records.len() as u64,
        };
        records + self.removed.len() as u64
    }

    /// Whether this is the whole collection rather than changes to it.
    pub fn is_whole(&self) -> bool {
        matches!(self.records, Records::All)
    }

    /// Visits the round's records by ordinal. A record may be newer than the round; it then comes again
    /// in the next one. One that is gone is passed over; its tombstone comes in the next one.
    ///
    /// # Errors
    /// Those of `visit`; `StorageFault` for a damaged record.
    pub fn for_each(
        &self,
        mut visit: impl FnMut(u64, &StoredRecord<'_>) -> Result<()>,
    ) -> Result<()> {
        let store = &self.engine.inner.store;
        let mut visit =
            |ordinal: u64, stored: &StoredRecord<'_>| visit(ordinal, stored).map(|()| true);
        match &self.records {
            Records::All => self.collection.scan_from(store, 0, visit),
            Records::Changed(ordinals) => self.collection.visit_each(store, ordinals, visit),
            Records::Held(records) => records.iter().try_for_each(|(ordinal, payload)| {
                visit(*ordinal, &StoredRecord::decode(payload)?).map(|_| ())
            }),
        }
    }
}

impl Engine {
    /// Under the write lock: what was written after a sequence, read.
    fn last_round(&self, collection: Arc<Collection>, since: u64) -> Result<Round> {
        let store = &self.inner.store;
        let changed = collection.columns().changed_after(since);
        let mut records = Vec::with_capacity(changed.len());
        for ordinal in changed {
            let payload = collection.payload(store, ordinal)?;
            records.extend(payload.map(|payload| (ordinal, payload)));
        }
        Ok(Round {
            info: collection.info(),
            removed: self.inner.tombstones_after(&collection, since)?,
            collection,
            engine: self.clone(),
            records: Records::Held(records),
        })
    }
}

impl Inner {
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
        .filter(|collection| collection.lifecycle() == Lifecycle::Live)
        .map(|collection| collection.id)
        .collect();
    ids.into_iter().collect()
}

fn vanished(id: Uuid) -> Error {
    Error::not_found(format!(
        "collection {id} was dropped while it was being copied"
    ))
}
