//! Opening a data directory: lock it, mend what a crash may leave, and refuse what is damaged.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::{Condvar, Mutex};
use uuid::Uuid;

use super::files::{damaged, data_file_bytes, set_snapshots_aside, unusable};
use super::map::Files;
use super::recovery;
use super::watermark::Watermark;
use super::{
    Call, Calls, FORMAT_KEY, SEQUENCE_KEY, STORE_ID_KEY, Store, SyncState, Tree, format, watch,
};
use crate::error::{Error, Kind, Result};

const LOCK_FILE: &str = "LOCK";
/// Where a store lies when it is created; compaction moves it to `store-2` and so on.
const FIRST_DIRECTORY: &str = "store";

/// How to open a data directory.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// The data directory; made when missing.
    pub data_dir: PathBuf,
    /// Bytes that sled may keep in its page cache.
    pub cache_bytes: u64,
    /// Go on although the store is behind what was once synced.
    pub accept_data_loss: bool,
    /// Bytes that writes leave free on the disk; 0: no bound.
    pub min_free_bytes: u64,
    /// How long a single call into sled may take before it counts as one that never ends.
    pub sync_timeout: Duration,
}

impl Store {
    /// Opens or creates the store in a data directory.
    ///
    /// # Errors
    /// `Conflict` when another process has it open, `StorageFault` when it is damaged, behind its
    /// watermark, of a newer format, or cannot be read or written.
    pub(in crate::engine) fn open(options: &OpenOptions) -> Result<Self> {
        let data_dir = &options.data_dir;
        fs::create_dir_all(data_dir).map_err(|error| unusable(data_dir, &error))?;
        let lock = lock(data_dir)?;
        let watermark = Watermark::read(data_dir)?;
        if let Some(watermark) = &watermark {
            // Before anything is read: another version's values could not be told from damaged ones.
            check_format(watermark.format)?;
        }
        let name = match &watermark {
            Some(watermark) => watermark.directory.clone(),
            None => only_directory(data_dir)?,
        };
        check_data_file(
            &data_dir.join(&name),
            watermark.as_ref(),
            options.accept_data_loss,
        )?;
        let directory = data_dir.join(&name);
        let aside = match &watermark {
            Some(known) if known.synced_sequence > 0 && data_file_bytes(&directory) > 0 => {
                recovery::prepare(
                    data_dir,
                    &directory,
                    known.log_bytes,
                    options.accept_data_loss,
                )?
            }
            _ => None,
        };
        // Held as well where the store is given up, until what it changed is undone.
        let _held = lock.try_clone();
        let files = match Files::open(data_dir, &name, options.cache_bytes) {
            Ok(files) => files,
            Err(error) => return Err(recovery::undone(error, aside, &directory)),
        };
        let mut store = Self::on(options, lock, files);
        let lost = match store.identify(watermark, options.accept_data_loss) {
            Ok(lost) => lost,
            Err(error) => {
                drop(store);
                return Err(recovery::undone(error, aside, &directory));
            }
        };
        if let Some(aside) = aside.filter(|_| !lost) {
            aside.discard();
        }
        // After a loss nothing that may be of use is removed.
        if !lost {
            store.sweep();
        }
        Ok(store)
    }

    /// Opens or creates the store on a disk in memory; its lock and its watermark are in the data directory.
    #[cfg(test)]
    pub(in crate::engine) fn in_memory(
        options: &OpenOptions,
        disk: &Arc<super::Disk>,
    ) -> Result<Self> {
        fs::create_dir_all(&options.data_dir)
            .map_err(|error| unusable(&options.data_dir, &error))?;
        let lock = lock(&options.data_dir)?;
        let watermark = Watermark::read(&options.data_dir)?;
        let files = Files {
            map: super::memory::open(disk),
            name: FIRST_DIRECTORY.to_owned(),
        };
        let mut store = Self::on(options, lock, files);
        store.identify(watermark, options.accept_data_loss)?;
        Ok(store)
    }

    /// A store that knows nothing of its map yet.
    fn on(options: &OpenOptions, lock: File, files: Files) -> Self {
        let directory = files.name.clone();
        Self {
            files: ArcSwap::from_pointee(files),
            retired: Mutex::new(Vec::new()),
            captured: Mutex::new(None),
            options: options.clone(),
            id: Uuid::nil(),
            committed: AtomicU64::new(0),
            sync: Mutex::new(SyncState::default()),
            synced: Condvar::new(),
            watermark: Mutex::new(Watermark {
                format: format::STORE_FORMAT,
                store_id: Uuid::nil(),
                directory,
                synced_sequence: 0,
                log_bytes: 0,
            }),
            poison: OnceLock::new(),
            faulted: AtomicBool::new(false),
            calls: Arc::new(Calls::default()),
            hung: watch::Sender::new(false),
            committing: Mutex::new(()),
            _lock: lock,
        }
    }

    /// Finds out whose store this is and how far it goes, and holds that against the watermark; whether a
    /// loss was accepted.
    fn identify(&mut self, watermark: Option<Watermark>, accept_data_loss: bool) -> Result<bool> {
        let stored_id = self.meta(STORE_ID_KEY)?;
        let sequence = self
            .meta(SEQUENCE_KEY)?
            .map_or(Ok(0), |value| format::le_u64(&value))?;
        if let Some(found) = self.meta(FORMAT_KEY)? {
            let version = found.first_chunk().map(|bytes| u32::from_le_bytes(*bytes));
            check_format(version.unwrap_or(0))?;
        }
        let loss = watermark.as_ref().and_then(|watermark| {
            let expected = watermark.store_id.as_bytes().as_slice();
            match stored_id.as_deref() {
                None => Some("the store's file is missing or empty".to_owned()),
                Some(id) if id != expected => {
                    Some("the store's file belongs to another store".to_owned())
                }
                Some(_) if sequence < watermark.synced_sequence => Some(format!(
                    "the store ends at write {sequence}, but {} were once synced",
                    watermark.synced_sequence
                )),
                Some(_) => None,
            }
        });
        let lost = loss.is_some();
        if let Some(loss) = loss {
            if !accept_data_loss {
                return Err(data_loss(self.directory(), &loss));
            }
            tracing::warn!(loss, "data loss accepted by configuration");
        }
        // The sequence never goes down, not even where a loss was accepted.
        let floor = watermark
            .as_ref()
            .map_or(0, |watermark| watermark.synced_sequence);
        let sequence = sequence.max(floor);
        *self.committed.get_mut() = sequence;
        self.sync.get_mut().synced = sequence;
        let known = stored_id.and_then(|id| Uuid::from_slice(&id).ok());
        self.id = known.unwrap_or_else(Uuid::new_v4);
        if known.is_none() {
            self.create_identity(sequence + 1)?;
        }
        let synced_sequence = self.sync.get_mut().synced;
        let current = self.watermark.get_mut();
        current.store_id = self.id;
        current.synced_sequence = synced_sequence;
        let directory = self.options.data_dir.join(&current.directory);
        current.log_bytes = data_file_bytes(&directory);
        self.watermark.lock().write(self.directory())?;
        Ok(lost)
    }

    fn meta(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let value = self
            .get(Tree::Meta, key)
            .map_err(|error| damaged(self.directory(), error.message()))?;
        Ok(value.map(|value| value.to_vec()))
    }

    fn create_identity(&self, sequence: u64) -> Result<()> {
        let mut batch = super::Batch::default();
        batch.put(
            Tree::Meta,
            STORE_ID_KEY.to_vec(),
            self.id.as_bytes().to_vec(),
        );
        batch.put(
            Tree::Meta,
            FORMAT_KEY.to_vec(),
            format::STORE_FORMAT.to_le_bytes().to_vec(),
        );
        self.commit(batch, sequence)?;
        let files = self.files.load_full();
        self.guarded(Call::Sync, || files.map.sync_all(self.directory()))?;
        self.wait_synced(sequence)
    }
}

/// Whether a directory's name is one that this module gives.
pub(super) fn generation(name: &str) -> Option<u64> {
    match name.strip_prefix(FIRST_DIRECTORY)? {
        "" => Some(1),
        number => number.strip_prefix('-')?.parse().ok(),
    }
}

/// The name of a directory of that generation, from 2.
pub(super) fn generation_name(generation: u64) -> String {
    format!("{FIRST_DIRECTORY}-{generation}")
}

/// Names of the store directories there are.
pub(super) fn store_directories(data_dir: &Path) -> Result<Vec<String>> {
    let unusable = |error| unusable(data_dir, &error);
    let mut found = Vec::new();
    for entry in fs::read_dir(data_dir).map_err(unusable)? {
        let name = entry.map_err(unusable)?.file_name();
        if let Some(name) = name.to_str().filter(|name| generation(name).is_some()) {
            found.push(name.to_owned());
        }
    }
    Ok(found)
}

/// Where the store lies when no file says so: nowhere yet, or in the only directory there is.
fn only_directory(data_dir: &Path) -> Result<String> {
    let mut found = store_directories(data_dir)?;
    match (found.pop(), found.is_empty()) {
        (None, _) => Ok(FIRST_DIRECTORY.to_owned()),
        (Some(only), true) => Ok(only),
        (Some(_), false) => Err(Error::storage(format!(
            "{}: there is more than one store directory and vectorkeep.json, which says which one is the store, \
             is missing; put it back, or restore a backup into an empty storage.data_dir",
            data_dir.display()
        ))),
    }
}

impl Store {
    /// Removes what a compaction left: its copy when it did not come to its end, else what it replaced.
    fn sweep(&self) {
        let current = self.files.load();
        let left = store_directories(self.directory()).unwrap_or_default();
        for name in left.iter().filter(|name| **name != current.name) {
            let path = self.directory().join(name);
            match fs::remove_dir_all(&path) {
                Ok(()) => {
                    tracing::info!(directory = %path.display(), "removed what a compaction left")
                }
                Err(error) => {
                    tracing::warn!(directory = %path.display(), %error, "what a compaction left stays");
                }
            }
        }
    }
}

fn check_format(found: u32) -> Result<()> {
    if found == format::STORE_FORMAT {
        return Ok(());
    }
    Err(Error::storage(format!(
        "the store has format version {found}; this program reads version {}. Start it with the program that wrote \
         it, or restore a backup into an empty storage.data_dir",
        format::STORE_FORMAT
    )))
}

fn lock(data_dir: &Path) -> Result<File> {
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(data_dir.join(LOCK_FILE))
        .map_err(|error| unusable(data_dir, &error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::new(
            Kind::Conflict,
            format!(
                "the data directory {} is in use by another process",
                data_dir.display()
            ),
        )),
        Err(TryLockError::Error(error)) => Err(unusable(data_dir, &error)),
    }
}

/// A data file that was once there and is gone would be opened as an empty one; nothing is touched then,
/// so that the file can be put back.
fn check_data_file(
    directory: &Path,
    watermark: Option<&Watermark>,
    accept_data_loss: bool,
) -> Result<()> {
    let Some(watermark) = watermark.filter(|watermark| watermark.synced_sequence > 0) else {
        return Ok(());
    };
    if data_file_bytes(directory) > 0 {
        return Ok(());
    }
    // Where data lies elsewhere, no setting may pass over it: the file points to the wrong place.
    let data_dir = directory.parent().unwrap_or(directory);
    for name in store_directories(data_dir).unwrap_or_default() {
        if data_file_bytes(&data_dir.join(&name)) > 0 {
            return Err(Error::storage(format!(
                "{}: the data file of {} is missing or empty, but there is one in {name}; if that is the store, \
                 write {name:?} as \"directory\" into vectorkeep.json, else move it away",
                data_dir.display(),
                watermark.directory
            )));
        }
    }
    if !accept_data_loss {
        return Err(data_loss(
            directory,
            &format!(
                "the data file in {} is missing or empty, but {} writes were once synced",
                directory.display(),
                watermark.synced_sequence
            ),
        ));
    }
    // Snapshots of what is lost would not fit the new file.
    set_snapshots_aside(directory)
}

fn data_loss(directory: &Path, loss: &str) -> Error {
    Error::storage(format!(
        "{}: {loss}; acknowledged writes are missing. Bring the data directory back or restore a backup into an \
         empty one; to go on with what is left, set storage.accept_data_loss = true",
        directory.display()
    ))
}
