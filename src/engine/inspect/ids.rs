//! From the ids to the records: each entry leads to a record that has its id.

use super::{Inspector, PAGE};
use crate::engine::format::{self, StoredRecord};
use crate::engine::store::{Tree, prefix_end};
use crate::error::{Kind, Result};

/// What an id entry looks like.
enum Entry {
    Sound,
    Gone,
    Orphan,
    Damaged,
}

impl Inspector<'_> {
    /// Follows every id entry to its record.
    pub(super) fn ids(&mut self) -> Result<()> {
        let end = prefix_end(self.collection.id.as_bytes());
        let mut start = self.collection.id.as_bytes().to_vec();
        loop {
            self.check()?;
            let mut last = None;
            let mut suspects = Vec::new();
            let store = &self.inner.store;
            for entry in store.scan(Tree::Ids, start.clone(), end.clone()).take(PAGE) {
                let (key, sound) = match entry {
                    Ok((key, target)) => {
                        let look = self.entry(&key, &target)?;
                        (key, matches!(look, Entry::Sound))
                    }
                    Err(damaged) => (damaged.key.ok_or(damaged.error)?, false),
                };
                self.found.checked_ids += 1;
                if !sound {
                    suspects.push(key.to_vec());
                }
                last = Some(key.to_vec());
            }
            for key in suspects {
                self.id_again(&key)?;
            }
            let Some(mut next) = last else { return Ok(()) };
            // The smallest key behind the last one.
            next.push(0);
            start = next;
        }
    }

    /// Where an id entry leads to.
    fn entry(&self, key: &[u8], target: &[u8]) -> Result<Entry> {
        let Ok(ordinal) = format::le_u64(target) else {
            return Ok(Entry::Damaged);
        };
        let record_key = format::record_key(self.collection.id, ordinal);
        let stored = match self.inner.store.get(Tree::Records, &record_key) {
            Ok(stored) => stored,
            // The pass over the records has found that.
            Err(error) if error.kind() == Kind::StorageFault => return Ok(Entry::Sound),
            Err(error) => return Err(error),
        };
        let Some(stored) = stored else {
            return Ok(Entry::Orphan);
        };
        Ok(match StoredRecord::decode(&stored) {
            Ok(stored) if format::id_key(self.collection.id, stored.view.id) != key => {
                Entry::Orphan
            }
            _ => Entry::Sound,
        })
    }

    /// Looks at a suspect id entry while nobody writes.
    fn id_again(&mut self, key: &[u8]) -> Result<()> {
        let writer = self.inner.lock_writer()?;
        let entry = match self.inner.store.get(Tree::Ids, key) {
            Ok(Some(target)) => self.entry(key, &target)?,
            Ok(None) => Entry::Gone,
            Err(error) if error.kind() == Kind::StorageFault => Entry::Damaged,
            Err(error) => return Err(error),
        };
        drop(writer);
        let (limits, id) = (self.limits, format::printable_id(key));
        match entry {
            Entry::Sound => {}
            Entry::Gone => self.found.checked_ids -= 1,
            Entry::Orphan => {
                self.found.orphans += 1;
                self.found
                    .note(limits, || format!("id {id} points to no record of its own"));
            }
            Entry::Damaged => {
                self.found.damaged += 1;
                self.found
                    .note(limits, || format!("the id entry of {id} is damaged"));
            }
        }
        Ok(())
    }

    /// The id behind an ordinal, found through the ids; the ordinal where none points to it.
    pub(super) fn id_of(&self, ordinal: u64) -> String {
        let prefix = self.collection.id.as_bytes().to_vec();
        self.inner
            .store
            .scan(Tree::Ids, prefix.clone(), prefix_end(&prefix))
            .filter_map(std::result::Result::ok)
            .find(|(_, value)| format::le_u64(value).ok() == Some(ordinal))
            .map(|(key, _)| format::printable_id(&key))
            .unwrap_or_else(|| format!("at ordinal {ordinal}"))
    }
}
