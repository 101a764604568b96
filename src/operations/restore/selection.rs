//! Which records of a backup are wanted, and reading them: a thread reads and decodes packs ahead of
//! whoever takes the records.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};

use crate::error::{Error, Result};
use crate::model::digest::RecordHash;
use crate::model::filter::Filter;
use crate::operations::proof::Proof;
use crate::progress::Progress;
use crate::repository::Repository;
use crate::repository::format::ManifestCollection;
use crate::repository::reader::CollectionReader;

/// Records that go from thread to thread at a time, and how many such batches may wait.
const BATCH: usize = 256;
const WAITING: usize = 4;

/// Those that satisfy every part that is given.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// These ids.
    pub ids: Option<Arc<BTreeSet<String>>>,
    /// Matching this.
    pub filter: Option<Arc<Filter>>,
}

impl Selection {
    /// Whether all records are wanted.
    pub fn is_all(&self) -> bool {
        self.ids.is_none() && self.filter.is_none()
    }

    /// Bytes of a collection that are wanted, as far as that is known before it is read.
    pub(super) fn share_of(&self, source: &ManifestCollection) -> u64 {
        match &self.ids {
            Some(ids) if source.records > 0 => {
                let wanted = (ids.len() as u64).min(source.records);
                source.raw_bytes / source.records * wanted
            }
            _ => source.raw_bytes,
        }
    }
}

/// A record that is wanted.
pub(super) struct Selected {
    /// Its place in the order.
    pub(super) ordinal: u64,
    /// Its id.
    pub(super) id: String,
    /// Its hash, which it was checked against.
    pub(super) hash: RecordHash,
    /// Its canonical bytes.
    pub(super) canonical: Vec<u8>,
}

/// Hands the wanted records on, in order; all are read and held against the manifest. Returns the wanted ids
/// that are not there.
///
/// # Errors
/// `BackupCorrupt` naming pack and collection, `Canceled`, those of `take`.
pub(super) fn read(
    repository: &Repository,
    source: &ManifestCollection,
    selection: &Selection,
    progress: &Progress,
    mut take: impl FnMut(Selected) -> Result<()>,
) -> Result<Vec<String>> {
    let (batches, received) = sync_channel(WAITING);
    std::thread::scope(|scope| {
        let reading = std::thread::Builder::new()
            .name("restore-read".to_owned())
            .spawn_scoped(scope, move || {
                read_ahead(repository, source, selection, progress, &batches)
            })
            .map_err(|error| Error::internal("a thread cannot start").because(error))?;
        let mut taken = Ok(());
        for selected in received.into_iter().flatten() {
            taken = take(selected);
            if taken.is_err() {
                break;
            }
        }
        // What could not be taken is why reading stopped.
        let read = reading
            .join()
            .map_err(|_| Error::internal("the reading thread panicked"))?;
        taken?;
        read
    })
}

/// Reads all records and sends the wanted ones until nobody takes them.
fn read_ahead(
    repository: &Repository,
    source: &ManifestCollection,
    selection: &Selection,
    progress: &Progress,
    batches: &SyncSender<Vec<Selected>>,
) -> Result<Vec<String>> {
    let mut proof = Proof::of(repository, source);
    let mut found = BTreeSet::new();
    let mut batch = Vec::with_capacity(BATCH);
    for record in CollectionReader::open(repository, source)? {
        progress.check()?;
        let record = record?;
        proof.add(&record)?;
        let canonical = record.record.canonical();
        progress.advance(1, canonical.len() as u64);
        let named = match &selection.ids {
            Some(ids) => ids.contains(&record.record.id) && found.insert(record.record.id.clone()),
            None => true,
        };
        let document = record.record.document.as_deref();
        let matches = |filter: &Arc<Filter>| filter.matches(&record.record.metadata, document);
        if !named || !selection.filter.as_ref().is_none_or(matches) {
            continue;
        }
        batch.push(Selected {
            ordinal: record.ordinal,
            id: record.record.id,
            hash: record.hash,
            canonical,
        });
        if batch.len() == BATCH && batches.send(std::mem::take(&mut batch)).is_err() {
            return Ok(Vec::new());
        }
    }
    let _ = batches.send(batch);
    proof.finish()?;
    let wanted = selection.ids.iter().flat_map(|ids| ids.iter());
    Ok(wanted.filter(|id| !found.contains(*id)).cloned().collect())
}
