//! Checking a collection against itself: every record read and hashed, ids ↔ records ↔ memory.
//!
//! The check reads what is stored now while writes go on, so a finding is looked at again under the
//! write lock before it counts.

use std::collections::BTreeSet;

use uuid::Uuid;

use super::collection::Collection;
use super::format::{self, StoredRecord};
use super::store::{Tree, prefix_end};
use super::{Engine, Inner};
use crate::error::{Error, Result};
use crate::model::digest::{Digest, RecordHash};

/// Bounds of one inspection.
#[derive(Clone, Copy, Debug)]
pub struct InspectionLimits {
    /// Findings that are named; beyond it they are only counted.
    pub max_findings: usize,
}

/// What an inspection found.
#[derive(Clone, Debug, Default)]
pub struct CollectionInspection {
    /// Records that were read and hashed.
    pub checked_records: u64,
    /// Bytes that were read.
    pub checked_bytes: u64,
    /// Id entries that were followed.
    pub checked_ids: u64,
    /// The count that the collection keeps.
    pub count: u64,
    /// The digest recomputed from the records.
    pub recomputed_digest: Digest,
    /// The digest that the collection keeps.
    pub digest: Digest,
    /// Ids that point to no record, records that no id points to.
    pub orphans: u64,
    /// Entries whose checksum or hash is wrong.
    pub damaged: u64,
    /// Records whose vector in memory differs from the stored one, or is missing.
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
            && self.count == self.checked_records
            && self.digest == self.recomputed_digest
    }

    fn note(&mut self, limits: InspectionLimits, finding: impl FnOnce() -> String) {
        if self.findings.len() < limits.max_findings {
            self.findings.push(finding());
        }
    }
}

/// One stored record, checked.
enum Checked {
    Sound {
        hash: RecordHash,
        bytes: u64,
        orphan: Option<String>,
        differs: Option<String>,
    },
    Gone,
}

impl Engine {
    /// Reads and checks everything stored for a collection.
    ///
    /// # Errors
    /// `NotFound`; `StorageFault` when the store itself cannot be read. Damage is a finding, no error.
    pub fn inspect(&self, id: Uuid, limits: InspectionLimits) -> Result<CollectionInspection> {
        let inner = &self.inner;
        let collection = inner.collection(id)?;
        let before = collection.info().head;
        let inspection = inner.inspect_once(&collection, limits)?;
        if collection.info().head == before {
            return Ok(inspection);
        }
        // Written to meanwhile: judge at rest, under the write lock.
        let _writer = inner.writer.lock();
        inner.inspect_once(&collection, limits)
    }
}

impl Inner {
    fn inspect_once(
        &self,
        collection: &Collection,
        limits: InspectionLimits,
    ) -> Result<CollectionInspection> {
        let head = collection.info().head;
        let mut inspection = CollectionInspection {
            count: head.count,
            digest: head.digest,
            ..CollectionInspection::default()
        };
        self.inspect_records(collection, limits, &mut inspection)?;
        self.inspect_ids(collection, limits, &mut inspection)?;
        Ok(inspection)
    }

    fn inspect_records(
        &self,
        collection: &Collection,
        limits: InspectionLimits,
        inspection: &mut CollectionInspection,
    ) -> Result<()> {
        let prefix = collection.id.as_bytes().to_vec();
        let mut seen = BTreeSet::new();
        for entry in self
            .store
            .scan(Tree::Records, prefix.clone(), prefix_end(&prefix), false)
        {
            let (key, value) = match entry {
                Ok(entry) => entry,
                Err(damaged) => {
                    let Some(key) = damaged.key else {
                        return Err(damaged.error);
                    };
                    let ordinal = format::be_u64(format::after_collection(&key)?)?;
                    seen.insert(ordinal);
                    inspection.damaged += 1;
                    let id = self.id_of(collection, ordinal);
                    inspection.note(limits, || format!("record {id} is damaged"));
                    continue;
                }
            };
            let ordinal = format::be_u64(format::after_collection(&key)?)?;
            seen.insert(ordinal);
            match self.check_record(collection, ordinal, &value) {
                Ok(Checked::Sound {
                    hash,
                    bytes,
                    orphan,
                    differs,
                }) => {
                    inspection.checked_records += 1;
                    inspection.checked_bytes += bytes;
                    inspection.recomputed_digest.add(&hash);
                    if let Some(orphan) = orphan {
                        inspection.orphans += 1;
                        inspection.note(limits, || orphan);
                    }
                    if let Some(difference) = differs {
                        inspection.memory_differences += 1;
                        inspection.note(limits, || difference);
                    }
                }
                Ok(Checked::Gone) => {}
                Err(error) => {
                    inspection.damaged += 1;
                    let id = self.id_of(collection, ordinal);
                    inspection.note(limits, || format!("record {id}: {}", error.message()));
                }
            }
        }
        let in_memory = collection.state.read().columns.changed_after(0);
        for ordinal in in_memory
            .into_iter()
            .filter(|ordinal| !seen.contains(ordinal))
        {
            inspection.memory_differences += 1;
            let id = self.id_of(collection, ordinal);
            inspection.note(limits, || {
                format!("record {id} is in memory but not stored")
            });
        }
        Ok(())
    }

    fn check_record(
        &self,
        collection: &Collection,
        ordinal: u64,
        payload: &[u8],
    ) -> Result<Checked> {
        let stored = StoredRecord::decode(payload)?;
        if RecordHash::of(stored.canonical) != stored.hash {
            return Err(Error::storage("its content does not have the stored hash"));
        }
        let metadata = stored.view.metadata()?;
        let id = stored.view.id;
        let orphan = match self
            .store
            .get(Tree::Ids, &format::id_key(collection.id, id))
        {
            Ok(Some(target)) if format::le_u64(&target)? == ordinal => None,
            Ok(_) => Some(format!(
                "record {id:?} is an orphan: no id entry points to it"
            )),
            Err(_) => Some(format!("the id entry of record {id:?} is damaged")),
        };
        let state = collection.state.read();
        let differs = match state.columns.slot(ordinal) {
            None => Some(format!("record {id:?} is stored but not in memory")),
            Some(slot) => {
                let same = state.columns.vector(slot).is_some_and(|vector| {
                    vector.len() == stored.view.dimension()
                        && vector
                            .iter()
                            .zip(stored.view.embedding())
                            .all(|(memory, disk)| memory.to_bits() == disk.to_bits())
                });
                if !same {
                    Some(format!(
                        "the vector of record {id:?} in memory differs from the stored one"
                    ))
                } else if !state.metadata.agrees(ordinal, &metadata) {
                    Some(format!(
                        "the metadata of record {id:?} in memory differs from the stored one"
                    ))
                } else {
                    None
                }
            }
        };
        drop(state);
        if orphan.is_some()
            && self
                .store
                .get(Tree::Records, &format::record_key(collection.id, ordinal))?
                .is_none()
        {
            return Ok(Checked::Gone);
        }
        Ok(Checked::Sound {
            hash: stored.hash,
            bytes: payload.len() as u64,
            orphan,
            differs,
        })
    }

    fn inspect_ids(
        &self,
        collection: &Collection,
        limits: InspectionLimits,
        inspection: &mut CollectionInspection,
    ) -> Result<()> {
        let prefix = collection.id.as_bytes().to_vec();
        for entry in self
            .store
            .scan(Tree::Ids, prefix.clone(), prefix_end(&prefix), false)
        {
            let (key, value) = match entry {
                Ok(entry) => entry,
                Err(damaged) => {
                    let Some(key) = damaged.key else {
                        return Err(damaged.error);
                    };
                    inspection.damaged += 1;
                    let id = format::printable_id(&key);
                    inspection.note(limits, || format!("the id entry of {id} is damaged"));
                    continue;
                }
            };
            inspection.checked_ids += 1;
            let id = format::printable_id(&key);
            let ordinal = format::le_u64(&value)?;
            // A damaged record is found by the pass over the records; here only its absence counts.
            if collection.state.read().columns.slot(ordinal).is_none() {
                inspection.orphans += 1;
                inspection.note(limits, || format!("id {id} points to no record"));
            }
        }
        Ok(())
    }

    /// The id behind an ordinal, found through the ids; the ordinal where none points to it.
    fn id_of(&self, collection: &Collection, ordinal: u64) -> String {
        let prefix = collection.id.as_bytes().to_vec();
        self.store
            .scan(Tree::Ids, prefix.clone(), prefix_end(&prefix), false)
            .filter_map(std::result::Result::ok)
            .find(|(_, value)| format::le_u64(value).ok() == Some(ordinal))
            .map(|(key, _)| format::printable_id(&key))
            .unwrap_or_else(|| format!("at ordinal {ordinal}"))
    }
}
