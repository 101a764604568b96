//! Where backups live: manifests that commit them, and packs of records named by their hash.
//!
//! A backup is visible once its manifest is there; the manifest is put last and create-only. Packs that
//! no manifest refers to are garbage, never damage. All calls block: they are made from jobs, on
//! blocking threads.

mod annotations;
mod backend;
mod credentials;
pub mod format;
mod garbage;
mod lock;
mod manifests;
pub mod pack;
pub mod reader;
mod verdicts;

use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use uuid::Uuid;

use crate::error::{Error, Kind, Result};
use crate::progress::Progress;
use backend::Backend;
use format::{MANIFEST_SUFFIX, ManifestCollection, PackReference, RepositoryHeader};

pub use backend::{BackendOptions, check_url};
pub use garbage::Collected;
use lock::LeftLocks;
pub use lock::{LockMode, LockSettings, RepositoryLock};
pub use verdicts::{BackupsSeen, VerifiedBackup};

const HEADER: &str = "repository.json";
const MANIFESTS: &str = "backups";
const VERIFICATIONS: &str = "verifications";
/// Labels and pins that were changed after the backup was made.
const ANNOTATIONS: &str = "annotations";
const PACKS: &str = "packs";
/// Empty objects named by the hash of a pack that a verification found damaged or missing.
const DAMAGED: &str = "damaged";

/// An open repository. Cheap to clone.
#[derive(Clone)]
pub struct Repository {
    backend: Backend,
    id: Uuid,
    /// Who its locks are taken for.
    holder: Uuid,
    locks: LockSettings,
    /// Held while annotations are read and written again.
    annotating: Arc<Mutex<()>>,
    /// Locks that could not be given back when they should have been.
    left: LeftLocks,
}

/// How to open a repository.
#[derive(Clone, Debug)]
pub struct RepositoryOptions {
    /// Where it is.
    pub backend: BackendOptions,
    /// Bounds on its locks.
    pub locks: LockSettings,
}

impl Repository {
    /// Opens the repository, creating it where there is none. `holder` is who its locks are taken for: those
    /// that an earlier process of the same holder left are removed.
    ///
    /// # Errors
    /// `InvalidArgument` for a URL or credentials that cannot be, `StorageFault` or `RemoteUnavailable` when
    /// it cannot be read or written, has a newer format, or is damaged.
    pub fn open(options: &RepositoryOptions, holder: Uuid, runtime: Handle) -> Result<Self> {
        let backend = Backend::open(&options.backend, true, runtime)?;
        let header = match backend.get(HEADER)? {
            Some(bytes) => RepositoryHeader::decode(&bytes)?,
            None => create_header(&backend)?,
        };
        lock::release_left(&backend, holder)?;
        Ok(Self::of(backend, &header, options, holder))
    }

    /// Whether the settings can be; nothing is asked of another machine.
    ///
    /// # Errors
    /// `InvalidArgument`.
    pub fn check_settings(options: &RepositoryOptions, runtime: Handle) -> Result<()> {
        if options.backend.is_remote() {
            Backend::open(&options.backend, false, runtime)?;
        }
        Ok(())
    }

    /// Opens the repository that is there; nothing is made or changed.
    ///
    /// # Errors
    /// As [`Repository::open`]; `NotFound` when there is none.
    pub fn open_existing(options: &RepositoryOptions, runtime: Handle) -> Result<Self> {
        let missing = |location: &str| {
            Error::not_found(format!(
                "there is no repository in {location}: it has no {HEADER}"
            ))
        };
        let backend =
            Backend::open(&options.backend, false, runtime).map_err(|error| {
                match error.kind() {
                    Kind::NotFound => missing(&options.backend.url),
                    _ => error,
                }
            })?;
        let bytes = backend
            .get(HEADER)?
            .ok_or_else(|| missing(backend.location()))?;
        let header = RepositoryHeader::decode(&bytes)?;
        Ok(Self::of(backend, &header, options, Uuid::new_v4()))
    }

    fn of(
        backend: Backend,
        header: &RepositoryHeader,
        options: &RepositoryOptions,
        holder: Uuid,
    ) -> Self {
        Self {
            backend,
            id: header.repository_id,
            holder,
            locks: options.locks,
            annotating: Arc::default(),
            left: LeftLocks::default(),
        }
    }

    /// Takes the lock, waiting for others as long as the settings say.
    ///
    /// # Errors
    /// `Conflict` when others hold it for longer, `Canceled`, `StorageFault`.
    pub fn lock(&self, mode: LockMode, progress: &Progress) -> Result<RepositoryLock> {
        self.take_lock(mode, self.locks, progress)
    }

    fn take_lock(
        &self,
        mode: LockMode,
        settings: LockSettings,
        progress: &Progress,
    ) -> Result<RepositoryLock> {
        self.left.give_back(&self.backend)?;
        RepositoryLock::take(
            &self.backend,
            &self.left,
            self.holder,
            mode,
            settings,
            progress,
        )
    }

    /// Takes the exclusive lock if nobody is in the way.
    ///
    /// # Errors
    /// `StorageFault`.
    pub fn try_lock_exclusive(&self) -> Result<Option<RepositoryLock>> {
        let at_once = LockSettings {
            wait: std::time::Duration::ZERO,
            ..self.locks
        };
        let (mode, progress) = (LockMode::Exclusive, Progress::default());
        match self.take_lock(mode, at_once, &progress) {
            Ok(lock) => Ok(Some(lock)),
            Err(error) if error.kind() == Kind::Conflict => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The repository's identity.
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// Where it is, for people. Carries no secret.
    pub fn location(&self) -> &str {
        self.backend.location()
    }

    /// Free room, where the kind of repository can tell.
    ///
    /// # Errors
    /// `StorageFault` when it cannot be asked.
    pub fn available_bytes(&self) -> Result<Option<u64>> {
        self.backend.available_bytes()
    }

    /// Reads the header back: whether the repository can be reached and is still the same.
    ///
    /// # Errors
    /// `StorageFault`.
    pub fn probe(&self) -> Result<()> {
        let bytes = self
            .backend
            .get(HEADER)?
            .ok_or_else(|| Error::storage(format!("the repository {} is gone", self.location())))?;
        if RepositoryHeader::decode(&bytes)?.repository_id != self.id {
            return Err(Error::storage(format!(
                "the repository {} was replaced by another one",
                self.location()
            )));
        }
        Ok(())
    }

    /// Stores a pack under the hash of its bytes; one that is there already is not stored twice, unless it
    /// was damaged: then it is whole again, for every backup that refers to it.
    ///
    /// # Errors
    /// `StorageFault`.
    pub fn put_pack(
        &self,
        bytes: Bytes,
        records: u64,
        ordinals: (u64, u64),
    ) -> Result<PackReference> {
        let reference = PackReference {
            hash: blake3::hash(&bytes).to_hex().to_string(),
            size_bytes: bytes.len() as u64,
            records,
            first_ordinal: ordinals.0,
            last_ordinal: ordinals.1,
        };
        // Named by its content, it may be put twice: so a request whose answer was lost may be repeated.
        let path = reference.path();
        match self.backend.size(&path)? {
            None => self.backend.put(&path, bytes)?,
            Some(_) => match self.pack(&reference) {
                Err(error) if error.kind() == Kind::BackupCorrupt => {
                    tracing::warn!(pack = reference.hash, "a damaged pack is replaced");
                    self.backend.put(&path, bytes)?;
                }
                found => found.map(|_| ())?,
            },
        }
        Ok(reference)
    }

    /// Reads a pack and checks its bytes against its name.
    ///
    /// # Errors
    /// `BackupCorrupt` when it is missing or damaged.
    pub fn pack(&self, reference: &PackReference) -> Result<Bytes> {
        let path = reference.path();
        let damaged = |what: &str| {
            Error::backup_corrupt(format!("pack {} {what}", reference.hash))
                .with("pack", reference.hash.clone())
        };
        let bytes = self
            .backend
            .get(&path)?
            .ok_or_else(|| damaged("is missing"))?;
        if blake3::hash(&bytes).to_hex().as_str() != reference.hash {
            return Err(damaged(
                "is damaged: its bytes do not have the hash it is named by",
            ));
        }
        Ok(bytes)
    }

    /// Whether all packs of a backed-up collection are there, in their sizes.
    ///
    /// # Errors
    /// `StorageFault` when the repository cannot be asked.
    pub fn has_packs(&self, collection: &ManifestCollection) -> Result<bool> {
        for reference in collection.packs() {
            if !self.has_pack(reference)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether a pack is there, in its size.
    ///
    /// # Errors
    /// `StorageFault` when the repository cannot be asked.
    pub fn has_pack(&self, reference: &PackReference) -> Result<bool> {
        let size = self.backend.size(&reference.path())?;
        Ok(size == Some(reference.size_bytes))
    }

    /// Stored bytes of a backup's manifest.
    ///
    /// # Errors
    /// `StorageFault` when the repository cannot be asked.
    pub fn manifest_bytes(&self, id: &str) -> Result<u64> {
        Ok(self.backend.size(&manifest_path(id))?.unwrap_or(0))
    }
}

fn create_header(backend: &Backend) -> Result<RepositoryHeader> {
    let header = RepositoryHeader {
        format: format::REPOSITORY_FORMAT,
        repository_id: Uuid::new_v4(),
    };
    if backend.put_new(HEADER, header.encode().into())? {
        return Ok(header);
    }
    let bytes = backend
        .get(HEADER)?
        .ok_or_else(|| Error::storage("repository.json came and went"))?;
    RepositoryHeader::decode(&bytes)
}

/// The path of what stands beside a manifest.
fn beside(directory: &str, id: &str) -> String {
    format!("{directory}/{id}{MANIFEST_SUFFIX}")
}

/// The backup that an object in a directory of one per backup is of.
fn id_of(name: &str) -> Option<&str> {
    name.strip_suffix(MANIFEST_SUFFIX)
}

fn manifest_path(id: &str) -> String {
    format!("{MANIFESTS}/{id}{MANIFEST_SUFFIX}")
}

/// The id of a backup made at this time.
pub fn backup_id(at: DateTime<Utc>) -> String {
    at.format("backup_%Y-%m-%d_%H-%M-%S").to_string()
}
