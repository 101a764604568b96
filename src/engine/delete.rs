//! Deleting records, in steps of a bounded size.
//!
//! A step is one batch: all of it or nothing, and the order of steps is that of insertion. What matches more records
//! than a step takes (`storage.max_delete_step`) goes in several: other writers and readers wait for one at most.
//! Who asks is answered after the last; a crash on the way leaves whole steps. The same request deletes the rest then; a
//! limit counts anew.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use uuid::Uuid;

use super::catalog::CatalogBatch;
use super::collection::Collection;
use super::consistency::Announcement;
use super::format::{self, Head};
use super::search::{Wanted, still_matches};
use super::store::{Batch, Tree, named, prefix_end};
use super::write::OldVersion;
use super::{Engine, Inner, Writer};
use crate::error::{Error, Result};
use crate::model::filter::Filter;
use crate::progress::Progress;

/// Which records to delete: those that satisfy every part that is given.
#[derive(Debug, Default)]
pub struct DeleteRequest {
    /// These ids.
    pub ids: Option<Vec<String>>,
    /// Matching this.
    pub filter: Option<Filter>,
    /// At most this many, first inserted first.
    pub limit: Option<usize>,
    /// Looked at up to the first step; what has begun goes on to its end.
    pub progress: Progress,
}

/// A record that is to go, as it was read.
struct Doomed {
    id: String,
    old: OldVersion,
}

/// A step that was taken.
struct Step {
    removed: usize,
    sequence: u64,
}

impl Engine {
    /// Deletes records; returns how many there were.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`, `StorageFault`, `Canceled`. Of more records than `storage.max_delete_step` some steps may
    /// have been taken then, the first inserted first.
    pub fn delete(&self, public_id: Uuid, request: &DeleteRequest) -> Result<u64> {
        let inner = &self.inner;
        let limit = request.limit.unwrap_or(usize::MAX);
        let (mut deleted, mut last) = (0, None);
        'content: loop {
            let collection = inner.addressed(public_id)?;
            collection.check_writable()?;
            let wanted = Wanted {
                ids: request.ids.as_deref(),
                filter: request.filter.as_ref(),
                most: usize::MAX,
                progress: &request.progress,
            };
            let candidates = inner.select(&collection, &wanted)?;
            let mut candidates = candidates.as_slice();
            while deleted < limit && !candidates.is_empty() {
                let most = inner.options.max_delete_step.min(limit - deleted).max(1);
                let (these, rest) = candidates.split_at(most.min(candidates.len()));
                let taken = inner.delete_step(public_id, &collection, these, request);
                let taken = taken.map_err(|error| after_steps(error, deleted))?;
                // Other content may have taken its place meanwhile.
                let Some(step) = taken else {
                    continue 'content;
                };
                deleted += step.removed;
                last = last.max(Some(step.sequence));
                candidates = rest;
            }
            break;
        }
        // That they are gone may be the work of a delete that is not synced yet.
        inner.acknowledge(last.unwrap_or_else(|| inner.store.committed()))?;
        Ok(deleted as u64)
    }
}

/// What failed after some steps were taken says so.
fn after_steps(error: Error, deleted: usize) -> Error {
    if deleted == 0 {
        return error;
    }
    let text = format!(
        "{}; {deleted} records had been deleted before, in steps of storage.max_delete_step",
        error.message()
    );
    Error::new(error.kind(), text)
        .with("deleted", deleted)
        .because(error)
}

impl Inner {
    /// Deletes those of some records that match; `None`: the id leads to another content now.
    fn delete_step(
        &self,
        public_id: Uuid,
        collection: &Arc<Collection>,
        ordinals: &[u64],
        request: &DeleteRequest,
    ) -> Result<Option<Step>> {
        let filter = request.filter.as_ref();
        let doomed = self.doomed(collection, ordinals, filter)?;
        self.wait_for_turn(collection.id, doomed.len());
        let mut writer = self.lock_for_write()?;
        if self.addressed(public_id)?.id != collection.id {
            return Ok(None);
        }
        collection.check_writable()?;
        let doomed = self.still_doomed(collection, doomed, filter)?;
        if doomed.is_empty() {
            return Ok(Some(Step {
                removed: 0,
                sequence: self.store.committed(),
            }));
        }
        request.progress.commit()?;
        let sequence = self.remove(collection, &mut writer, &doomed)?;
        Ok(Some(Step {
            removed: doomed.len(),
            sequence,
        }))
    }

    /// Those of some records that match.
    fn doomed(
        &self,
        collection: &Collection,
        ordinals: &[u64],
        filter: Option<&Filter>,
    ) -> Result<Vec<Doomed>> {
        let mut doomed = Vec::with_capacity(ordinals.len());
        collection.visit_each(&self.store, ordinals, |ordinal, stored| {
            if still_matches(filter, &stored.view)? {
                doomed.push(Doomed {
                    id: stored.view.id.to_owned(),
                    old: OldVersion::of(ordinal, stored)?,
                });
            }
            Ok(true)
        })?;
        Ok(doomed)
    }

    /// Under the write lock: what was written since it was read is read again.
    fn still_doomed(
        &self,
        collection: &Collection,
        read: Vec<Doomed>,
        filter: Option<&Filter>,
    ) -> Result<Vec<Doomed>> {
        let mut doomed = Vec::with_capacity(read.len());
        for one in read {
            let ordinal = one.old.ordinal;
            let written = collection.memory.read().columns.sequence_of(ordinal);
            match written {
                None => {}
                Some(sequence) if sequence == one.old.sequence => doomed.push(one),
                Some(_) => doomed.extend(self.doomed(collection, &[ordinal], filter)?),
            }
        }
        Ok(doomed)
    }

    /// Under the write lock: one batch that removes these.
    fn remove(
        &self,
        collection: &Collection,
        writer: &mut Writer,
        doomed: &[Doomed],
    ) -> Result<u64> {
        let sequence = writer.next();
        let mut head = collection.info().head;
        let mut batch = Batch::default();
        let mut announcement = Announcement::to(collection.watch.load_full());
        for Doomed { id, old } in doomed {
            head.subtract(&old.hash, old.bytes);
            announcement.add(old.ordinal, Some(old.hash), None);
            batch.remove(
                Tree::Records,
                format::record_key(collection.id, old.ordinal),
            );
            batch.remove(Tree::Ids, format::id_key(collection.id, id));
            let key = format::tombstone_key(collection.id, sequence, old.ordinal);
            batch.put(Tree::Tombstones, key, id.as_bytes().to_vec());
        }
        head.sequence = sequence;
        let released = self.release_tombstones(collection, &mut batch, &mut head, doomed.len())?;
        batch.put_head(collection.id, &head);
        announcement.begin();
        self.commit_locked(writer, batch)?;
        announcement.done();
        let mut memory = collection.memory.write();
        for Doomed { old, .. } in doomed {
            memory.columns.remove(old.ordinal);
            memory.metadata.remove(old.ordinal, &old.metadata);
        }
        drop(memory);
        let arrived = doomed.len() as u64;
        collection.tombstones.fetch_add(arrived, Ordering::Relaxed);
        collection.tombstones.fetch_sub(released, Ordering::Relaxed);
        collection.show_head(head);
        Ok(sequence)
    }

    /// Puts the removal of the oldest tombstones into the batch when there are more than the bound and
    /// no running snapshot needs them. Returns how many go.
    fn release_tombstones(
        &self,
        collection: &Collection,
        batch: &mut Batch,
        head: &mut Head,
        arriving: usize,
    ) -> Result<u64> {
        let held = collection.tombstones.load(Ordering::Relaxed) + arriving as u64;
        let excess = held.saturating_sub(self.options.max_tombstones);
        if excess == 0 {
            return Ok(0);
        }
        let pinned = self.pins.lock().iter().map(|(_, sequence)| *sequence).min();
        let prefix = collection.id.as_bytes().to_vec();
        let mut released = 0;
        // A little more than what arrives, so that an excess shrinks and no batch grows without bound.
        let most = excess.min(2 * arriving as u64) as usize;
        let end = prefix_end(&prefix);
        for entry in self.store.scan(Tree::Tombstones, prefix, end).take(most) {
            // A damaged one may go: its key says all that is needed.
            let (key, _) = named(entry)?;
            let sequence = format::be_u64(format::after_collection(&key)?)?;
            if pinned.is_some_and(|pinned| sequence > pinned) {
                break;
            }
            head.tombstone_floor = head.tombstone_floor.max(sequence);
            batch.remove(Tree::Tombstones, key.to_vec());
            released += 1;
        }
        Ok(released)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::engine::WriteMode;
    use crate::engine::testing::{Opened, filter, patch};

    #[test]
    fn a_deletion_goes_in_steps_and_takes_what_still_matches() {
        let opened = Opened::new();
        let patches = (0..40).map(|at| patch(&format!("r{at}"), at as f32, None, &[("n", at % 2)]));
        opened.write(WriteMode::Add, patches.collect());
        let ids = || -> Vec<String> { opened.records().into_iter().map(|r| r.id).collect() };
        let before = opened.engine.sequence();
        let limited = DeleteRequest {
            filter: filter(&json!({"n": 1})),
            limit: Some(12),
            ..DeleteRequest::default()
        };
        assert_eq!(opened.engine.delete(opened.id, &limited).unwrap(), 12);
        assert_eq!(opened.engine.sequence(), before + 2, "10 and 2");
        // The first inserted went first: r1, r3, … r23.
        let left = (0..40).filter(|at| at % 2 == 0 || *at > 23);
        assert_eq!(ids(), left.map(|at| format!("r{at}")).collect::<Vec<_>>());
        let all = DeleteRequest {
            filter: filter(&json!({"n": 1})),
            ..DeleteRequest::default()
        };
        assert_eq!(opened.engine.delete(opened.id, &all).unwrap(), 8);
        assert_eq!(opened.engine.delete(opened.id, &all).unwrap(), 0);
        assert_eq!(opened.engine.sequence(), before + 3);
        opened.check();
    }

    #[test]
    fn a_record_that_matches_no_more_when_it_is_to_go_stays() {
        let opened = Opened::new();
        let patches = ["a", "b", "c"].map(|id| patch(id, 1.0, None, &[("n", 1)]));
        opened.write(WriteMode::Add, patches.into());
        let inner = &opened.engine.inner;
        let collection = inner.addressed(opened.id).unwrap();
        let filter = filter(&json!({"n": 1}));
        let read = inner
            .doomed(&collection, &[0, 1, 2], filter.as_ref())
            .unwrap();
        assert_eq!(read.len(), 3);
        let changed = vec![
            patch("a", 2.0, None, &[("n", 2)]),
            patch("b", 2.0, None, &[]),
        ];
        opened.write(WriteMode::Update, changed);
        assert_eq!(opened.delete(&["c"]), 1);
        let mut writer = inner.lock_writer().unwrap();
        // b was written and matches still; c went by itself.
        let doomed = inner
            .still_doomed(&collection, read, filter.as_ref())
            .unwrap();
        let ids: Vec<&str> = doomed.iter().map(|doomed| doomed.id.as_str()).collect();
        assert_eq!(ids, ["b"]);
        inner.remove(&collection, &mut writer, &doomed).unwrap();
        drop(writer);
        let left: Vec<String> = opened.records().into_iter().map(|r| r.id).collect();
        assert_eq!(left, ["a"]);
        opened.check();
    }
}
