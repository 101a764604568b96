//! One sled database in its directory: opening it, mending what a crash left, syncing it.

use std::fs::{self, File};
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sled::transaction::{ConflictableTransactionError, TransactionError, TransactionalTree};
use sled::{IVec, Transactional as _};

use super::batch::Write;
use super::map::{Entries, Files, Map};
use super::{TREES, power};
use crate::error::{Error, Result};

/// sled's name for its log.
pub(super) const DATA_FILE: &str = "db";
/// sled's own settings.
const SETTINGS_FILE: &str = "conf";
/// Tries, and the pause between them, while sled's own lock is still held by a store just closed.
const LOCK_TRIES: u32 = 500;
const LOCK_PAUSE: Duration = Duration::from_millis(10);
pub(super) const SEGMENT_BYTES: usize = 2 * 1024 * 1024;

/// An open database.
struct SledMap {
    db: sled::Db,
    trees: Vec<sled::Tree>,
    /// sled's own data file, for `fdatasync`: sled's flush alone does not survive a power cut.
    data_file: File,
    directory: PathBuf,
}

impl Files {
    /// Opens or creates the database in the directory `name` of `data_dir`.
    pub(super) fn open(data_dir: &Path, name: &str, cache_bytes: u64) -> Result<Self> {
        power::check_syncs()?;
        let directory = data_dir.join(name);
        remove_half_written_snapshots(&directory)?;
        set_damaged_settings_aside(&directory)?;
        let db = open_sled(&directory, cache_bytes)?;
        let trees = TREES
            .iter()
            .map(|name| db.open_tree(name))
            .collect::<sled::Result<Vec<_>>>()
            .map_err(|error| damaged(&directory, &error.to_string()))?;
        let data_file =
            File::open(directory.join(DATA_FILE)).map_err(|error| unusable(&directory, &error))?;
        Ok(Self {
            map: Box::new(SledMap {
                db,
                trees,
                data_file,
                directory,
            }),
            name: name.to_owned(),
        })
    }
}

impl SledMap {
    fn tree(&self, tree: u8) -> &sled::Tree {
        self.trees
            .get(usize::from(tree))
            .expect("every tree is opened with the database")
    }
}

impl Map for SledMap {
    fn get(&self, tree: u8, key: &[u8]) -> sled::Result<Option<IVec>> {
        self.tree(tree).get(key)
    }

    fn range(&self, tree: u8, from: Bound<&[u8]>, to: Bound<&[u8]>) -> Entries {
        Box::new(self.tree(tree).range::<&[u8], _>((from, to)))
    }

    fn commit(&self, writes: &[Write]) -> sled::Result<Vec<u32>> {
        let transaction = |trees: &Vec<TransactionalTree>| {
            writes
                .iter()
                .map(|write| write.apply(trees))
                .collect::<std::result::Result<_, _>>()
                .map_err(ConflictableTransactionError::<sled::Error>::from)
        };
        let committed = self.trees.as_slice().transaction(transaction);
        committed.map_err(|error| match error {
            TransactionError::Abort(error) | TransactionError::Storage(error) => error,
        })
    }

    fn fill(&self, tree: u8, entries: &[(IVec, Option<IVec>)]) -> sled::Result<()> {
        let mut batch = sled::Batch::default();
        for (key, value) in entries {
            match value {
                Some(value) => batch.insert(key, value),
                None => batch.remove(key),
            }
        }
        self.tree(tree).apply_batch(batch)
    }

    /// sled's flush writes its buffers; `fdatasync` makes them survive a power cut.
    fn sync(&self) -> sled::Result<()> {
        self.db.flush()?;
        self.data_file.sync_data().map_err(sled::Error::Io)
    }

    /// With sled's small files and the directory.
    fn sync_all(&self, data_dir: &Path) -> sled::Result<()> {
        self.sync()?;
        for entry in fs::read_dir(&self.directory)? {
            let path = entry?.path();
            if path.is_file() {
                File::open(&path)?.sync_all()?;
            }
        }
        File::open(&self.directory)?.sync_all()?;
        Ok(File::open(data_dir)?.sync_all()?)
    }

    fn size(&self) -> sled::Result<u64> {
        self.db.size_on_disk()
    }
}

/// How a call into sled ended that did not end well.
pub(super) struct Fault {
    /// What it said.
    pub(super) text: String,
    /// Whether the machine refused; if not, the files or sled itself are at fault.
    pub(super) io: bool,
}

/// Runs a call into sled; an error or a panic in there comes back as text.
pub(super) fn contained<T>(
    call: impl FnOnce() -> sled::Result<T>,
) -> std::result::Result<T, Fault> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(Fault {
            text: error.to_string(),
            io: matches!(error, sled::Error::Io(_)),
        }),
        Err(panic) => Err(Fault {
            text: panic_text(panic.as_ref()),
            io: false,
        }),
    }
}

/// Bytes of the data file in a database's directory; 0 when it is missing.
pub(super) fn data_file_bytes(directory: &Path) -> u64 {
    fs::metadata(directory.join(DATA_FILE)).map_or(0, |metadata| metadata.len())
}

pub(super) fn snapshots(directory: &Path) -> Result<Vec<PathBuf>> {
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

/// sled's own settings: 63 bytes with a checksum (CRC-32, little-endian) behind them. Where they are damaged sled refuses
/// a store that is whole; where they are missing it writes them again, and they are the same for every store.
fn set_damaged_settings_aside(directory: &Path) -> Result<()> {
    let path = directory.join(SETTINGS_FILE);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(unusable(&path, &error)),
    };
    let is_sound = bytes
        .split_last_chunk::<4>()
        .is_some_and(|(settings, crc)| {
            !settings.is_empty() && crc32fast::hash(settings) == u32::from_le_bytes(*crc)
        });
    if is_sound {
        return Ok(());
    }
    let aside = path.with_file_name(format!("aside.{SETTINGS_FILE}"));
    fs::rename(&path, &aside).map_err(|error| unusable(&path, &error))?;
    tracing::warn!(file = %aside.display(), "the settings of the embedded store are damaged; set aside, new ones are written");
    Ok(())
}

/// Snapshots that do not fit the log are kept, under another name.
pub(super) fn set_snapshots_aside(directory: &Path) -> Result<()> {
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

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_else(|| "panic".to_owned())
}

pub(super) fn damaged(directory: &Path, reason: &str) -> Error {
    Error::storage(format!(
        "the store in {} is damaged and does not open; start with an empty storage.data_dir and restore the \
         newest backup ({reason})",
        directory.display()
    ))
}

pub(super) fn unusable(path: &Path, error: &std::io::Error) -> Error {
    Error::storage(format!("{} cannot be used: {error}", path.display()))
}
