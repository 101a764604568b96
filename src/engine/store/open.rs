//! Opening a data directory: lock it, mend what a crash may leave, and refuse what is damaged.

use std::fs::{self, File, TryLockError};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use uuid::Uuid;

use super::watermark::Watermark;
use super::{
    FORMAT_KEY, SEGMENT_BYTES, SEQUENCE_KEY, STORE_ID_KEY, Store, SyncState, TREES, Tree, format,
};
use crate::error::{Error, Kind, Result};

const LOCK_FILE: &str = "LOCK";
/// Tries, and the pause between them, while sled's own lock is still held by a store just closed.
const LOCK_TRIES: u32 = 500;
const LOCK_PAUSE: Duration = Duration::from_millis(10);
const FIRST_DIRECTORY: &str = "store";
/// sled's name for its log.
const DATA_FILE: &str = "db";

/// How to open a data directory.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// The data directory; made when missing.
    pub data_dir: PathBuf,
    /// Bytes that sled may keep in its page cache.
    pub cache_bytes: u64,
    /// Go on although the store is behind what was once synced.
    pub accept_data_loss: bool,
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
        let directory = data_dir.join(
            watermark
                .as_ref()
                .map_or(FIRST_DIRECTORY, |watermark| watermark.directory.as_str()),
        );
        check_data_file(&directory, watermark.as_ref(), options.accept_data_loss)?;
        remove_half_written_snapshots(&directory)?;
        let db = open_sled(&directory, options.cache_bytes)?;
        let trees = TREES
            .iter()
            .map(|(name, _)| db.open_tree(name))
            .collect::<sled::Result<Vec<_>>>()
            .map_err(|error| damaged(data_dir, &error.to_string()))?;
        let data_file =
            File::open(directory.join(DATA_FILE)).map_err(|error| unusable(&directory, &error))?;
        let mut store = Self {
            db,
            trees,
            data_file,
            directory: data_dir.clone(),
            id: Uuid::nil(),
            committed: AtomicU64::new(0),
            sync: Mutex::new(SyncState::default()),
            synced: Condvar::new(),
            watermark: Mutex::new(Watermark {
                format: format::STORE_FORMAT,
                store_id: Uuid::nil(),
                directory: FIRST_DIRECTORY.to_owned(),
                synced_sequence: 0,
            }),
            poison: OnceLock::new(),
            _lock: lock,
        };
        store.identify(watermark, options.accept_data_loss)?;
        Ok(store)
    }

    /// Finds out whose store this is and how far it goes, and holds that against the watermark.
    fn identify(&mut self, watermark: Option<Watermark>, accept_data_loss: bool) -> Result<()> {
        let stored_id = self.meta(STORE_ID_KEY)?;
        let sequence = self
            .meta(SEQUENCE_KEY)?
            .map_or(Ok(0), |value| format::le_u64(&value))?;
        if let Some(found) = self.meta(FORMAT_KEY)? {
            check_format(&found)?;
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
        if let Some(loss) = loss {
            if !accept_data_loss {
                return Err(data_loss(&self.directory, &loss));
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
        if let Some(watermark) = watermark {
            current.directory = watermark.directory;
        }
        self.watermark.lock().write(&self.directory)
    }

    fn meta(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let value = self
            .get(Tree::Meta, key)
            .map_err(|error| damaged(&self.directory, error.message()))?;
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
        self.wait_synced(sequence)
    }
}

fn check_format(found: &[u8]) -> Result<()> {
    match found.first_chunk().map(|bytes| u32::from_le_bytes(*bytes)) {
        Some(format::STORE_FORMAT) => Ok(()),
        Some(newer) => Err(Error::storage(format!(
            "the store has format version {newer}; this program reads version {}",
            format::STORE_FORMAT
        ))),
        None => Err(Error::storage("the store's format version cannot be read")),
    }
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

fn snapshots(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(unusable(directory, &error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| unusable(directory, &error))?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        if name.is_some_and(|name| name.starts_with("snap.")) {
            found.push(path);
        }
    }
    Ok(found)
}

/// Killed while it writes a snapshot, sled refuses to open for ever after, unless the half is removed.
fn remove_half_written_snapshots(directory: &Path) -> Result<()> {
    for path in snapshots(directory)? {
        if path
            .extension()
            .is_some_and(|extension| extension == "generating")
        {
            tracing::warn!(file = %path.display(), "removing a half-written snapshot");
            fs::remove_file(&path).map_err(|error| unusable(&path, &error))?;
        }
    }
    Ok(())
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
    let file = directory.join(DATA_FILE);
    let length = fs::metadata(&file).map_or(0, |metadata| metadata.len());
    if length > 0 {
        return Ok(());
    }
    if !accept_data_loss {
        return Err(data_loss(
            directory,
            &format!(
                "{} is missing or empty, but {} writes were once synced",
                file.display(),
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

fn set_snapshots_aside(directory: &Path) -> Result<()> {
    for path in snapshots(directory)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let aside = path.with_file_name(format!("aside.{name}"));
        fs::rename(&path, &aside).map_err(|error| unusable(&path, &error))?;
        tracing::warn!(file = %aside.display(), "snapshot set aside");
    }
    Ok(())
}

/// Opens sled; if it reports damage, once more without its snapshots, which it can rebuild from its log.
fn open_sled(directory: &Path, cache_bytes: u64) -> Result<sled::Db> {
    let mut opened = try_open_sled(directory, cache_bytes);
    for _ in 0..LOCK_TRIES {
        if !matches!(opened, Err(OpenFailure::Locked(_))) {
            break;
        }
        std::thread::sleep(LOCK_PAUSE);
        opened = try_open_sled(directory, cache_bytes);
    }
    let first = match opened {
        Ok(db) => return Ok(db),
        Err(OpenFailure::Unusable(error) | OpenFailure::Locked(error)) => {
            return Err(unusable(directory, &error));
        }
        Err(OpenFailure::Damaged(reason)) => reason,
    };
    if snapshots(directory)?.is_empty() {
        return Err(damaged(directory, &first));
    }
    tracing::warn!(
        reason = first,
        "the store does not open; trying again without its snapshots"
    );
    set_snapshots_aside(directory)?;
    try_open_sled(directory, cache_bytes).map_err(|failure| match failure {
        OpenFailure::Unusable(error) | OpenFailure::Locked(error) => unusable(directory, &error),
        OpenFailure::Damaged(second) => damaged(directory, &second),
    })
}

enum OpenFailure {
    /// The machine refuses: trying again without snapshots cannot help.
    Unusable(std::io::Error),
    /// Our own lock is held, so this can only be what is left of a store that this process just closed:
    /// sled's threads let go of its file a little later.
    Locked(std::io::Error),
    Damaged(String),
}

fn try_open_sled(directory: &Path, cache_bytes: u64) -> std::result::Result<sled::Db, OpenFailure> {
    use std::io::ErrorKind;
    let config = sled::Config::new()
        .path(directory)
        .segment_size(SEGMENT_BYTES)
        .cache_capacity(cache_bytes);
    match catch_unwind(AssertUnwindSafe(|| config.open())) {
        Ok(Ok(db)) => Ok(db),
        Ok(Err(sled::Error::Io(error))) if error.to_string().contains("could not acquire lock") => {
            Err(OpenFailure::Locked(error))
        }
        Ok(Err(sled::Error::Io(error)))
            if matches!(
                error.kind(),
                ErrorKind::PermissionDenied
                    | ErrorKind::ReadOnlyFilesystem
                    | ErrorKind::StorageFull
            ) =>
        {
            Err(OpenFailure::Unusable(error))
        }
        Ok(Err(error)) => Err(OpenFailure::Damaged(error.to_string())),
        Err(panic) => Err(OpenFailure::Damaged(panic_text(panic.as_ref()))),
    }
}

/// What a caught panic said.
pub(super) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_else(|| "panic".to_owned())
}

fn damaged(directory: &Path, reason: &str) -> Error {
    Error::storage(format!(
        "the store in {} is damaged and does not open; start with an empty storage.data_dir and restore the \
         newest backup ({reason})",
        directory.display()
    ))
}

fn unusable(path: &Path, error: &std::io::Error) -> Error {
    Error::storage(format!("{} cannot be used: {error}", path.display()))
}
