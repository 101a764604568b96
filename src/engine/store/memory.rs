//! A map in memory on a disk that fails, tears and forgets when a test says so.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use sled::IVec;

use super::batch::Write;
use super::map::{Entries, Map};
use super::{CHUNKS, format};

type Trees = BTreeMap<(u8, Vec<u8>), Vec<u8>>;

/// Which call fails, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine) enum Failure {
    /// This commit, and nothing of it is there.
    Commit(u64),
    /// This commit, and the first half of it stands in the trees: what is read after that may be half a batch.
    Torn(u64),
    /// This sync; nobody knows what it wrote.
    Sync(u64),
}

/// The disk: it outlives the store that is open on it.
#[derive(Default)]
pub(in crate::engine) struct Disk(Mutex<State>);

#[derive(Default)]
struct State {
    visible: Trees,
    durable: Trees,
    /// States since the last sync, each with one more batch, whole.
    unsynced: Vec<Trees>,
    commits: u64,
    syncs: u64,
    failure: Option<Failure>,
}

impl Disk {
    /// From now on this call fails, and every one after it.
    pub(in crate::engine) fn fail(&self, failure: Failure) {
        let mut state = self.0.lock();
        (state.commits, state.syncs) = (0, 0);
        state.failure = Some(failure);
    }

    /// A power cut that leaves what was synced, and this many of the batches after that. Returns how many there were.
    pub(in crate::engine) fn cut(&self, kept: usize) -> usize {
        let mut state = self.0.lock();
        let unsynced = std::mem::take(&mut state.unsynced);
        if let Some(last) = kept.min(unsynced.len()).checked_sub(1)
            && let Some(trees) = unsynced.get(last)
        {
            state.durable = trees.clone();
        }
        state.visible = state.durable.clone();
        state.failure = None;
        unsynced.len()
    }
}

fn failed() -> sled::Error {
    sled::Error::Io(ErrorKind::Other.into())
}

/// Puts or removes; returns in how many chunks the value before lay.
fn apply(trees: &mut Trees, write: &Write) -> u32 {
    let key = (write.tree, write.key.clone());
    let old = match &write.value {
        Some(value) => trees.insert(key, value.clone()),
        None => trees.remove(&key),
    };
    let old_chunks = old.as_deref().map_or(0, format::SplitHead::chunks_behind);
    for (key, value) in write.chunk_changes(old_chunks) {
        match value {
            Some(value) => trees.insert((CHUNKS, key), value.to_vec()),
            None => trees.remove(&(CHUNKS, key)),
        };
    }
    old_chunks
}

struct MemoryMap(Arc<Disk>);

pub(super) fn open(disk: &Arc<Disk>) -> Box<dyn Map> {
    Box::new(MemoryMap(Arc::clone(disk)))
}

impl Map for MemoryMap {
    fn get(&self, tree: u8, key: &[u8]) -> sled::Result<Option<IVec>> {
        let state = self.0.0.lock();
        let found = state.visible.get(&(tree, key.to_vec()));
        Ok(found.map(|value| IVec::from(value.as_slice())))
    }

    fn range(&self, tree: u8, from: Bound<&[u8]>, to: Bound<&[u8]>) -> Entries {
        let end = match to {
            Bound::Unbounded => Bound::Excluded((tree + 1, Vec::new())),
            to => to.map(|key| (tree, key.to_vec())),
        };
        let start = match from {
            Bound::Unbounded => Bound::Included((tree, Vec::new())),
            from => from.map(|key| (tree, key.to_vec())),
        };
        let state = self.0.0.lock();
        let entries = state.visible.range((start, end));
        let entries: Vec<_> = entries
            .map(|((_, key), value)| Ok((key.as_slice().into(), value.as_slice().into())))
            .collect();
        Box::new(entries.into_iter())
    }

    fn commit(&self, writes: &[Write]) -> sled::Result<Vec<u32>> {
        let mut state = self.0.0.lock();
        let state = &mut *state;
        state.commits += 1;
        match state.failure {
            Some(Failure::Commit(at)) if state.commits >= at => return Err(failed()),
            Some(Failure::Torn(at)) if state.commits >= at => {
                for write in writes.iter().take(writes.len().div_ceil(2)) {
                    apply(&mut state.visible, write);
                }
                return Err(failed());
            }
            _ => {}
        }
        let writes = writes.iter();
        let chunks = writes.map(|write| apply(&mut state.visible, write));
        let chunks = chunks.collect();
        state.unsynced.push(state.visible.clone());
        Ok(chunks)
    }

    fn fill(&self, tree: u8, entries: &[(IVec, Option<IVec>)]) -> sled::Result<()> {
        let mut state = self.0.0.lock();
        for (key, value) in entries {
            let key = (tree, key.to_vec());
            match value {
                Some(value) => state.visible.insert(key, value.to_vec()),
                None => state.visible.remove(&key),
            };
        }
        Ok(())
    }

    fn sync(&self) -> sled::Result<()> {
        let mut state = self.0.0.lock();
        state.syncs += 1;
        if matches!(state.failure, Some(Failure::Sync(at)) if state.syncs >= at) {
            return Err(failed());
        }
        state.unsynced.clear();
        state.durable = state.visible.clone();
        Ok(())
    }

    fn sync_all(&self, _: &Path) -> sled::Result<()> {
        self.sync()
    }

    fn size(&self) -> sled::Result<u64> {
        let state = self.0.0.lock();
        Ok(state.visible.values().map(|value| value.len() as u64).sum())
    }
}
