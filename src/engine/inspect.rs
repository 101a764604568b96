//! Checking a collection against itself: every record read and hashed, ids ↔ records ↔ memory.
//!
//! The check reads while writes go on. Its sums are right all the same, because writers tell it what they do (see
//! [`super::consistency`]); and what looks wrong may be half of a write, so it is looked at again under the write lock, one
//! record at a time, before it counts. Nothing is held in memory but one page.

mod ids;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::collection::Collection;
use super::consistency::Watch;
use super::format::{self, StoredRecord};
use super::ordered::{Guard, Held, Rank};
use super::store::Tree;
use super::{Engine, Inner};
use crate::error::{Kind, Result};
use crate::model::digest::{Digest, RecordHash};
use crate::progress::Progress;

/// Slots of memory that a page of records spans.
const PAGE: usize = 256;
/// Records that a page holds at most, where more are stored than memory knows of.
const MAX_PAGE: usize = 1_024;
/// How often who waits for another inspection of the same collection looks whether it is to stop.
const TURN: Duration = Duration::from_millis(50);

/// Bounds of one inspection.
#[derive(Clone, Copy, Debug)]
pub struct InspectionLimits {
    /// Findings that are named; beyond it they are only counted.
    pub max_findings: usize,
}

/// What an inspection found.
#[derive(Clone, Debug, Default)]
pub struct CollectionInspection {
    /// Records that were read and hashed. One that is written meanwhile may be counted by its writer instead.
    pub checked_records: u64,
    /// Bytes that were read.
    pub checked_bytes: u64,
    /// Id entries that were followed.
    pub checked_ids: u64,
    /// The count that the collection keeps.
    pub count: u64,
    /// The count recomputed from the records.
    pub recomputed_count: u64,
    /// The digest that the collection keeps.
    pub digest: Digest,
    /// The digest recomputed from the records.
    pub recomputed_digest: Digest,
    /// Ids that point to no record, records that no id points to.
    pub orphans: u64,
    /// Entries whose checksum or hash is wrong.
    pub damaged: u64,
    /// Records whose vector or metadata in memory differs from the stored one, or is missing.
    pub memory_differences: u64,
    /// The first findings, each naming the record.
    pub findings: Vec<String>,
}

impl CollectionInspection {
    /// Whether nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.orphans == 0
            && self.damaged == 0
            && self.memory_differences == 0
            && self.count == self.recomputed_count
            && self.digest == self.recomputed_digest
    }

    fn note(&mut self, limits: InspectionLimits, finding: impl FnOnce() -> String) {
        if self.findings.len() < limits.max_findings {
            self.findings.push(finding());
        }
    }
}

/// What one record looks like.
#[derive(Default)]
struct Look {
    /// `None`: it is gone, or damaged.
    hash: Option<RecordHash>,
    bytes: u64,
    damage: Option<String>,
    orphan: Option<String>,
    difference: Option<String>,
    /// In memory, but not stored.
    missing: bool,
}

impl Look {
    fn damaged(what: String) -> Self {
        Self {
            damage: Some(what),
            ..Self::default()
        }
    }

    fn is_clean(&self) -> bool {
        self.damage.is_none() && self.orphan.is_none() && self.difference.is_none() && !self.missing
    }
}

/// One page of records, as read while writes go on.
struct InspectedRange {
    hashes: BTreeMap<u64, RecordHash>,
    bytes: BTreeMap<u64, u64>,
    suspects: BTreeSet<u64>,
    /// What was looked at of the window.
    end: u64,
}

/// An inspection under way.
struct Inspector<'a> {
    inner: &'a Inner,
    collection: &'a Collection,
    limits: InspectionLimits,
    progress: &'a Progress,
    found: CollectionInspection,
}

/// Takes the watch from its collection.
struct Watching<'a> {
    inner: &'a Inner,
    collection: &'a Collection,
    watch: Arc<Watch>,
}

impl<'a> Watching<'a> {
    fn begin(inner: &'a Inner, collection: &'a Collection) -> Result<Self> {
        // No batch is under way then: each is either in what will be read, or announced.
        let _writer = inner.lock_writer()?;
        let watch = Arc::new(Watch::new(collection.info().head.next_ordinal));
        collection.watch.store(Some(Arc::clone(&watch)));
        Ok(Self {
            inner,
            collection,
            watch,
        })
    }
}

impl Drop for Watching<'_> {
    fn drop(&mut self) {
        // Where it is not to be had, nobody writes any more.
        let _writer = self.inner.lock_writer();
        self.collection.watch.store(None);
    }
}

impl Engine {
    /// Reads and checks everything stored for a collection; counts the records in `progress`. Waits for another
    /// inspection of the same collection.
    ///
    /// # Errors
    /// `NotFound`, also for a collection that is dropped meanwhile; `Canceled`; `StorageFault` or `Unavailable`
    /// when the store itself cannot be read. Damage is a finding, no error.
    pub fn inspect(
        &self,
        id: Uuid,
        limits: InspectionLimits,
        progress: &Progress,
    ) -> Result<CollectionInspection> {
        let inner = &*self.inner;
        let collection = inner.live_collection(id)?;
        let _turn = loop {
            progress.check()?;
            if let Some(turn) = collection.inspecting.try_lock_for(TURN) {
                break Guard::new(turn, Held::new(Rank::Inspection));
            }
        };
        let mut inspector = Inspector {
            inner,
            collection: &collection,
            limits,
            progress,
            found: CollectionInspection::default(),
        };
        inspector.records()?;
        inspector.ids()?;
        Ok(inspector.found)
    }
}

impl Inspector<'_> {
    /// Whether to go on.
    fn check(&self) -> Result<()> {
        self.progress.check()?;
        self.inner.live_collection(self.collection.id)?;
        if self.inner.store.is_faulted() {
            return Err(self.inner.store.stopped());
        }
        Ok(())
    }

    fn records(&mut self) -> Result<()> {
        let watching = Watching::begin(self.inner, self.collection)?;
        let watch = &watching.watch;
        let mut position = 0;
        while position < watch.horizon() {
            self.check()?;
            let end = self
                .collection
                .memory
                .read()
                .columns
                .page_end(position, PAGE);
            let end = end.unwrap_or(u64::MAX).min(watch.horizon());
            watch.open(end);
            let mut page = self.read_page(position, end)?;
            let looks = self.look_again(&mut page)?;
            position = watch.close(&page.hashes, page.end);
            self.count_page(&page, looks, position);
        }
        // Nobody writes: the sums and the head are of the same moment.
        let writer = self.inner.lock_writer()?;
        self.check()?;
        let (head, sums) = (self.collection.info().head, watch.sums());
        drop(writer);
        (self.found.count, self.found.digest) = (head.count, head.digest);
        (self.found.recomputed_count, self.found.recomputed_digest) = (sums.count, sums.digest);
        Ok(())
    }

    /// Reads the records of a window. Suspect is what looks wrong, and what memory has and the store has not.
    fn read_page(&self, start: u64, end: u64) -> Result<InspectedRange> {
        let id = self.collection.id;
        let mut page = InspectedRange {
            hashes: BTreeMap::new(),
            bytes: BTreeMap::new(),
            suspects: BTreeSet::new(),
            end,
        };
        let (from, to) = (format::record_key(id, start), format::record_key(id, end));
        for (read, entry) in (1..).zip(self.inner.store.scan(Tree::Records, from, to)) {
            let (key, look) = match entry {
                Ok((key, value)) => {
                    let ordinal = format::be_u64(format::after_collection(&key)?)?;
                    (key, self.look_at(ordinal, &value)?)
                }
                Err(damaged) => {
                    let key = damaged.key.ok_or(damaged.error)?;
                    (key, Look::damaged(String::new()))
                }
            };
            let ordinal = format::be_u64(format::after_collection(&key)?)?;
            match look.hash.filter(|_| look.is_clean()) {
                Some(hash) => {
                    page.hashes.insert(ordinal, hash);
                    page.bytes.insert(ordinal, look.bytes);
                }
                None => {
                    page.suspects.insert(ordinal);
                }
            }
            if read >= MAX_PAGE {
                page.end = ordinal + 1;
                break;
            }
        }
        let in_memory = {
            let columns = &self.collection.memory.read().columns;
            columns.live_between(start, page.end)
        };
        let unread = in_memory.into_iter();
        page.suspects
            .extend(unread.filter(|ordinal| !page.hashes.contains_key(ordinal)));
        Ok(page)
    }

    /// Looks at the suspects while nobody writes.
    fn look_again(&self, page: &mut InspectedRange) -> Result<Vec<(u64, Look)>> {
        let mut looks = Vec::new();
        for ordinal in std::mem::take(&mut page.suspects) {
            let writer = self.inner.lock_writer()?;
            let look = self.look(ordinal)?;
            drop(writer);
            if let Some(hash) = look.hash {
                page.hashes.insert(ordinal, hash);
                page.bytes.insert(ordinal, look.bytes);
            }
            if !look.is_clean() {
                looks.push((ordinal, look));
            }
        }
        Ok(looks)
    }

    /// Counts what was found up to where the page was closed; the rest comes again.
    fn count_page(&mut self, page: &InspectedRange, looks: Vec<(u64, Look)>, closed: u64) {
        let bytes: Vec<u64> = page
            .bytes
            .range(..closed)
            .map(|(_, bytes)| *bytes)
            .collect();
        let (records, bytes) = (bytes.len() as u64, bytes.iter().sum());
        self.found.checked_records += records;
        self.found.checked_bytes += bytes;
        self.progress.advance(records, bytes);
        for (ordinal, look) in looks.into_iter().filter(|(at, _)| *at < closed) {
            let limits = self.limits;
            // Only here, without the lock: finding an id means reading all of them.
            let named = self.found.findings.len() < limits.max_findings;
            let id = (named && look.hash.is_none()).then(|| self.id_of(ordinal));
            let id = id.unwrap_or_default();
            if let Some(damage) = look.damage {
                self.found.damaged += 1;
                self.found.note(limits, || format!("record {id} {damage}"));
            }
            if look.missing {
                self.found.memory_differences += 1;
                self.found.note(limits, || {
                    format!("record {id} is in memory but not stored")
                });
            }
            if let Some(orphan) = look.orphan {
                self.found.orphans += 1;
                self.found.note(limits, || orphan);
            }
            if let Some(difference) = look.difference {
                self.found.memory_differences += 1;
                self.found.note(limits, || difference);
            }
        }
    }

    /// Reads and checks one record.
    fn look(&self, ordinal: u64) -> Result<Look> {
        let key = format::record_key(self.collection.id, ordinal);
        match self.inner.store.get(Tree::Records, &key) {
            Ok(Some(payload)) => self.look_at(ordinal, &payload),
            Ok(None) => Ok(Look {
                missing: self.in_memory(ordinal),
                ..Look::default()
            }),
            Err(error) if error.kind() == Kind::StorageFault => {
                Ok(Look::damaged("is damaged".to_owned()))
            }
            Err(error) => Err(error),
        }
    }

    fn in_memory(&self, ordinal: u64) -> bool {
        let memory = self.collection.memory.read();
        memory.columns.slot(ordinal).is_some()
    }

    /// Checks one record that was read: its content, its id entry, its copy in memory.
    fn look_at(&self, ordinal: u64, payload: &[u8]) -> Result<Look> {
        let decoded = StoredRecord::decode(payload)
            .and_then(|stored| stored.view.metadata().map(|metadata| (stored, metadata)));
        let (stored, metadata) = match decoded {
            Ok(decoded) => decoded,
            Err(error) => return Ok(Look::damaged(format!("is damaged: {}", error.message()))),
        };
        if RecordHash::of(stored.canonical) != stored.hash {
            return Ok(Look::damaged(
                "is damaged: its content does not have the stored hash".to_owned(),
            ));
        }
        let id = stored.view.id;
        let mut look = Look {
            hash: Some(stored.hash),
            bytes: payload.len() as u64,
            ..Look::default()
        };
        let key = format::id_key(self.collection.id, id);
        match self.inner.store.get(Tree::Ids, &key) {
            Ok(Some(target)) if format::le_u64(&target).ok() == Some(ordinal) => {}
            Ok(_) => {
                look.orphan = Some(format!(
                    "record {id:?} is an orphan: no id entry points to it"
                ));
            }
            Err(error) if error.kind() == Kind::StorageFault => {
                look.orphan = Some(format!("the id entry of record {id:?} is damaged"));
            }
            Err(error) => return Err(error),
        }
        let memory = self.collection.memory.read();
        look.difference = match memory.columns.slot(ordinal) {
            None => Some(format!("record {id:?} is stored but not in memory")),
            Some(slot) => {
                let same = memory.columns.vector(slot).is_some_and(|vector| {
                    vector.len() == stored.view.dimension()
                        && vector
                            .iter()
                            .zip(stored.view.embedding())
                            .all(|(memory, disk)| memory.to_bits() == disk.to_bits())
                });
                let differing = match (same, memory.metadata.agrees(ordinal, &metadata)) {
                    (true, true) => None,
                    (false, _) => Some("vector"),
                    (true, false) => Some("metadata"),
                };
                differing.map(|what| {
                    format!("the {what} of record {id:?} in memory differs from the stored one")
                })
            }
        };
        Ok(look)
    }
}
