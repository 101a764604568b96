//! What writers tell an inspection of the collection that they write to, so that its sums are those of one moment
//! although it reads while they write.
//!
//! An inspection goes through the records by ordinal. Below its *position* everything is in its sums, and a write
//! there changes them as it changes the head's: less the old hash, plus the new one. Ordinals from the *horizon*
//! on were given out after the inspection began; they are never read, and counted the same way. What is written
//! in the *window*, the page that is being read, is noted: whoever read it cannot know whether before or after
//! the write, and the writer's word decides. Behind the window a write needs no note: it is read later.
//!
//! Writers speak twice, under the write lock: before the commit, as from then on a reader may come by what they
//! write, and after it. A page that is closed in between takes what stood there before the batch; when the batch
//! is done, the page lies below the position. So no page has to be read twice, however much is written.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::model::digest::{Digest, RecordHash};

/// Writes in one window that are noted; beyond it the window shrinks.
const MAX_NOTED: usize = 4_096;

/// What a batch does to one record.
#[derive(Clone, Copy, Debug)]
struct Change {
    ordinal: u64,
    old: Option<RecordHash>,
    new: Option<RecordHash>,
}

/// The sums of an inspection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sums {
    pub(super) count: u64,
    pub(super) digest: Digest,
}

impl Sums {
    fn add(&mut self, hash: Option<&RecordHash>) {
        if let Some(hash) = hash {
            self.digest.add(hash);
            self.count += 1;
        }
    }

    fn subtract(&mut self, hash: Option<&RecordHash>) {
        if let Some(hash) = hash {
            self.digest.subtract(hash);
            self.count = self.count.saturating_sub(1);
        }
    }
}

/// A running inspection, as writers see it. Its lock is never held across I/O.
pub(super) struct Watch {
    horizon: u64,
    tally: Mutex<WatchedCounts>,
}

#[derive(Default)]
struct WatchedCounts {
    sums: Sums,
    position: u64,
    /// The window is what lies from the position up to here.
    window_end: u64,
    /// What the last write left of the records in the window that were written to.
    noted: BTreeMap<u64, Option<RecordHash>>,
    /// The batch that is being committed.
    pending: Vec<Change>,
}

impl Watch {
    /// Of a collection whose next new record gets this ordinal. To be made under the write lock.
    pub(super) fn new(horizon: u64) -> Self {
        Self {
            horizon,
            tally: Mutex::default(),
        }
    }

    /// Where ordinals begin that are not read.
    pub(super) fn horizon(&self) -> u64 {
        self.horizon
    }

    /// Opens the window; to be called before anything of it is read.
    pub(super) fn open(&self, end: u64) {
        let mut tally = self.tally.lock();
        tally.window_end = end.min(self.horizon);
        tally.noted.clear();
    }

    /// Takes what was read of the window into the sums, as far as `end`. Returns how far that was in the end: the
    /// next window begins there.
    pub(super) fn close(&self, read: &BTreeMap<u64, RecordHash>, end: u64) -> u64 {
        let mut tally = self.tally.lock();
        let tally = &mut *tally;
        let window = tally.position..end.min(tally.window_end);
        let mut told = std::mem::take(&mut tally.noted);
        for change in &tally.pending {
            told.insert(change.ordinal, change.old);
        }
        for (_, hash) in told.range(window.clone()) {
            tally.sums.add(hash.as_ref());
        }
        for (ordinal, hash) in read.range(window.clone()) {
            if !told.contains_key(ordinal) {
                tally.sums.add(Some(hash));
            }
        }
        tally.position = window.end;
        tally.window_end = window.end;
        window.end
    }

    /// The sums; under the write lock they are those of this moment.
    pub(super) fn sums(&self) -> Sums {
        self.tally.lock().sums
    }
}

impl WatchedCounts {
    fn done(&mut self, change: &Change, horizon: u64) {
        if change.ordinal < self.position || change.ordinal >= horizon {
            self.sums.subtract(change.old.as_ref());
            self.sums.add(change.new.as_ref());
        } else if change.ordinal < self.window_end {
            self.noted.insert(change.ordinal, change.new);
            if self.noted.len() > MAX_NOTED
                && let Some((last, _)) = self.noted.pop_last()
            {
                self.window_end = last;
            }
        }
    }
}

/// What a writer tells the inspection of its collection, if there is one. Dropped before it is done, the batch was
/// not written.
pub(super) struct Announcement {
    watch: Option<Arc<Watch>>,
    changes: Vec<Change>,
    /// Whether what is pending there is this batch's.
    begun: bool,
}

impl Announcement {
    /// Of a batch, to the inspection of its collection. Inspections begin under the write lock, which the caller holds.
    pub(super) fn to(watch: Option<Arc<Watch>>) -> Self {
        Self {
            watch,
            changes: Vec::new(),
            begun: false,
        }
    }

    /// Adds what the batch does to a record: its hash before and after.
    pub(super) fn add(&mut self, ordinal: u64, old: Option<RecordHash>, new: Option<RecordHash>) {
        if self.watch.is_some() {
            self.changes.push(Change { ordinal, old, new });
        }
    }

    /// To be called right before the commit.
    pub(super) fn begin(&mut self) {
        if let Some(watch) = &self.watch {
            watch.tally.lock().pending = std::mem::take(&mut self.changes);
            self.begun = true;
        }
    }

    /// To be called after the commit, under the same hold of the write lock.
    pub(super) fn done(mut self) {
        if let Some(watch) = &self.watch {
            let mut tally = watch.tally.lock();
            for change in std::mem::take(&mut tally.pending) {
                tally.done(&change, watch.horizon);
            }
        }
        self.begun = false;
    }
}

impl Drop for Announcement {
    fn drop(&mut self) {
        // One that was never begun may go when the write lock is another writer's, and with it what is pending.
        if let Some(watch) = self.watch.as_ref().filter(|_| self.begun) {
            watch.tally.lock().pending.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hash(ordinal: u64, version: u64) -> RecordHash {
        RecordHash::of(format!("{ordinal} {version}").as_bytes())
    }

    fn sums_of(records: &BTreeMap<u64, RecordHash>) -> Sums {
        let mut sums = Sums::default();
        records.values().for_each(|hash| sums.add(Some(hash)));
        sums
    }

    /// One step of a writer or of the inspection.
    #[derive(Clone, Debug)]
    enum Step {
        /// Announces a batch that writes (true) or deletes these ordinals.
        Begin(Vec<(u64, bool)>),
        /// The batch becomes visible to readers.
        Commit,
        /// The writer speaks the second time, or the commit failed.
        Done(bool),
        Open(u64),
        /// Reads the next record of the window.
        Read,
        Close,
    }

    fn step() -> impl Strategy<Value = Step> {
        let batch = prop::collection::btree_map(0_u64..40, any::<bool>(), 1..8);
        prop_oneof![
            3 => batch.prop_map(|batch| Step::Begin(batch.into_iter().collect())),
            3 => Just(Step::Commit),
            3 => prop::bool::weighted(0.9).prop_map(Step::Done),
            2 => (1_u64..9).prop_map(Step::Open),
            8 => Just(Step::Read),
            2 => Just(Step::Close),
        ]
    }

    proptest! {
        /// However a writer's and the inspection's steps are mixed, the sums are those of what is stored.
        #[test]
        fn sums_are_those_of_what_is_stored(
            present in prop::collection::btree_set(0_u64..30, 0..30),
            steps in prop::collection::vec(step(), 0..300),
        ) {
            const HORIZON: u64 = 30;
            let mut stored: BTreeMap<u64, RecordHash> = present.iter().map(|at| (*at, hash(*at, 0))).collect();
            let watch = Arc::new(Watch::new(HORIZON));
            let mut batch: Option<(Announcement, BTreeMap<u64, Option<RecordHash>>, bool)> = None;
            let (mut position, mut page) = (0, None::<(u64, u64, BTreeMap<u64, RecordHash>)>);
            let finish = |steps: &mut Vec<Step>| {
                steps.extend([Step::Commit, Step::Done(true)]);
                for _ in 0..=HORIZON {
                    steps.extend([Step::Open(HORIZON), Step::Close, Step::Open(1), Step::Read, Step::Close]);
                }
            };
            let mut steps = steps;
            finish(&mut steps);
            for (version, step) in (1..).zip(steps) {
                match step {
                    Step::Begin(changes) if batch.is_none() => {
                        let mut told = Announcement { watch: Some(Arc::clone(&watch)), changes: Vec::new(), begun: false };
                        let mut after = BTreeMap::new();
                        for (at, write) in changes {
                            let new = write.then(|| hash(at, version));
                            let old = stored.get(&at).copied();
                            if old.is_some() || new.is_some() {
                                told.add(at, old, new);
                                after.insert(at, new);
                            }
                        }
                        told.begin();
                        batch = Some((told, after, false));
                    }
                    Step::Commit => if let Some((_, after, committed)) = &mut batch {
                        for (at, new) in after.iter() {
                            match new {
                                Some(new) => stored.insert(*at, *new),
                                None => stored.remove(at),
                            };
                        }
                        *committed = true;
                    },
                    Step::Done(well) => match batch.take() {
                        Some((told, _, true)) => told.done(),
                        Some((told, _, false)) if !well => drop(told),
                        other => batch = other,
                    },
                    Step::Open(pages) if page.is_none() && position < HORIZON => {
                        watch.open(position + pages);
                        page = Some((position, (position + pages).min(HORIZON), BTreeMap::new()));
                    }
                    Step::Read => if let Some((next, end, read)) = &mut page && next < end {
                        if let Some(hash) = stored.get(next) {
                            read.insert(*next, *hash);
                        }
                        *next += 1;
                    },
                    // What was not read yet is left for the next page.
                    Step::Close => if let Some((next, _, read)) = page.take() {
                        position = watch.close(&read, next);
                    },
                    _ => {}
                }
            }
            prop_assert_eq!(position, HORIZON);
            prop_assert_eq!(watch.sums(), sums_of(&stored));
        }
    }
}
