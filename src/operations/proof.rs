//! A collection of a backup, held against its manifest while it is read: how many records, their digest, and no id twice.

use super::duplicates::Duplicates;
use crate::error::{Error, Result};
use crate::model::digest::Digest;
use crate::repository::Repository;
use crate::repository::format::ManifestCollection;
use crate::repository::pack::PackRecord;
use crate::repository::reader::find_at;

/// Of the memory that a job may take, the part that ids are compared in; packs have the rest.
const PART: u64 = 4;

pub(super) struct Proof<'a> {
    repository: &'a Repository,
    collection: &'a ManifestCollection,
    records: u64,
    digest: Digest,
    ids: Duplicates,
}

impl<'a> Proof<'a> {
    pub(super) fn of(repository: &'a Repository, collection: &'a ManifestCollection) -> Self {
        let limits = repository.limits();
        Self {
            repository,
            collection,
            records: 0,
            digest: Digest::EMPTY,
            ids: Duplicates::new(&limits.scratch, limits.memory_bytes / PART),
        }
    }

    /// Takes a record, in the order in which they are read.
    pub(super) fn add(&mut self, record: &PackRecord) -> Result<()> {
        self.records += 1;
        self.digest.add(&record.hash);
        self.ids.add(&record.record.id, record.ordinal)
    }

    /// Records so far.
    pub(super) fn records(&self) -> u64 {
        self.records
    }

    /// # Errors
    /// `BackupCorrupt` that names the collection, and the record and the pack where an id stands twice.
    pub(super) fn finish(self) -> Result<()> {
        let collection = self.collection;
        if let Some((first, second)) = self.ids.find()? {
            let (id, pack) = find_at(self.repository, collection, second)?;
            return Err(Error::backup_corrupt(format!(
                "pack {pack}: record {id:?} stands at the ordinals {first} and {second} of {}",
                collection.name
            ))
            .with("pack", pack)
            .with("collection", collection.name.to_string()));
        }
        if self.records != collection.records || self.digest != collection.digest {
            return Err(Error::backup_corrupt(format!(
                "{} has {} records with digest {} in the backup, its manifest says {} with {}",
                collection.name, self.records, self.digest, collection.records, collection.digest
            ))
            .with("collection", collection.name.to_string()));
        }
        Ok(())
    }
}
