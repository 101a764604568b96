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
mod ids;
mod lines;
mod lock;
mod manifests;
mod order;
pub mod pack;
mod parts;
pub mod reader;
mod reports;
mod select;
mod standing;

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use uuid::Uuid;

use crate::error::{Error, Kind, Result};
use crate::progress::Progress;
use backend::Backend;
use format::{MANIFEST_SUFFIX, PackReference, RepositoryHeader, Summary};
use parts::KnownParts;

pub use backend::{BackendOptions, check_url, directory_of};
pub use garbage::Collected;
pub use lines::Line;
use lock::LeftLocks;
pub use lock::{LockMode, LockSettings, RepositoryLock};
pub use order::is_future;
pub use select::Named;
pub use standing::{BackupsSeen, Restorable, Standing, VerifiedBackup};

const HEADER: &str = "repository.json";
const MANIFESTS: &str = "backups";
const VERIFICATIONS: &str = "verifications";
/// Labels and pins that were changed after the backup was made.
const ANNOTATIONS: &str = "annotations";
const PACKS: &str = "packs";
/// Empty objects named by the hash of a pack that a verification found damaged or missing.
const DAMAGED: &str = "damaged";
/// Objects that are put and removed when a repository is opened.
const PROBES: &str = "probes";

/// An open repository. Cheap to clone.
#[derive(Clone)]
pub struct Repository {
    backend: Backend,
    limits: Arc<ReadLimits>,
    id: Uuid,
    /// Who its locks are taken for.
    holder: Uuid,
    locks: LockSettings,
    /// Held while annotations are read and written again.
    annotating: Arc<Mutex<()>>,
    /// Parts of the manifest that was put last, or extended last.
    recent: Arc<Mutex<KnownParts>>,
    /// Locks that could not be given back when they should have been.
    left: LeftLocks,
}

/// How to open a repository.
#[derive(Clone, Debug)]
pub struct RepositoryOptions {
    /// Where it is.
    pub backend: BackendOptions,
    /// Bounds on reading it.
    pub limits: ReadLimits,
    /// Bounds on its locks.
    pub locks: LockSettings,
    /// Begin a new repository where there is none, although backups went to another one before.
    pub begin_new: bool,
}

/// Bounds on what is read back: whoever wrote it, it is hostile until it is checked.
#[derive(Clone, Debug)]
pub struct ReadLimits {
    /// Bytes that the data of one reader may take in memory, unpacked.
    pub memory_bytes: u64,
    /// Where files go that hold what memory does not; made when it is needed.
    pub scratch: PathBuf,
}

impl Repository {
    /// Bounds on reading it.
    pub fn limits(&self) -> &ReadLimits {
        &self.limits
    }

    /// Opens the repository, creating it where there is none. `holder` is who its locks are taken for: those
    /// that an earlier process of the same holder left are removed. `known`: the repository that the holder's newest
    /// backup went to; where it has one, a new one is begun only if `begin_new` says so.
    ///
    /// # Errors
    /// `InvalidArgument` for a URL or credentials that cannot be, `RepositoryUnusable` or `RemoteUnavailable` when
    /// it cannot be read or written, has a newer format, is damaged, is gone, or takes an object in the place of one that
    /// must not be replaced.
    pub fn open(
        options: &RepositoryOptions,
        holder: Uuid,
        known: Option<Uuid>,
        runtime: Handle,
    ) -> Result<Self> {
        let known = known.filter(|_| !options.begin_new && !options.backend.is_memory());
        let backend = match Backend::open(&options.backend, known.is_none(), runtime) {
            Err(error) if error.kind() == Kind::NotFound => {
                return Err(gone(&options.backend.url, known));
            }
            opened => opened?,
        };
        let header = match (backend.get(HEADER)?, known) {
            (Some(bytes), _) => RepositoryHeader::decode(&bytes)?,
            (None, known) => {
                refuse_beside_backups(&backend)?;
                if known.is_some() {
                    return Err(gone(backend.location(), known));
                }
                create_header(&backend)?
            }
        };
        check_create_only(&backend)?;
        lock::release_left(&backend, holder)?;
        backend.keep_reserve();
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
            limits: Arc::new(options.limits.clone()),
            id: header.repository_id,
            holder,
            locks: options.locks,
            annotating: Arc::default(),
            recent: Arc::default(),
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

    /// Takes the shared lock for reading: nothing is collected meanwhile. A repository that can only be read has no lock to take,
    /// and is read all the same.
    ///
    /// # Errors
    /// `Conflict` when others collect for longer than is waited, `Canceled`.
    pub fn lock_to_read(&self, progress: &Progress) -> Result<Option<RepositoryLock>> {
        match self.lock(LockMode::Shared, progress) {
            Ok(lock) => Ok(Some(lock)),
            Err(error) if matches!(error.kind(), Kind::Conflict | Kind::Canceled) => Err(error),
            Err(error) => {
                tracing::warn!(?error, "the repository is read without a lock");
                Ok(None)
            }
        }
    }

    fn take_lock(
        &self,
        mode: LockMode,
        settings: LockSettings,
        progress: &Progress,
    ) -> Result<RepositoryLock> {
        // A lock would make its directories anew.
        self.probe()?;
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
    /// `RepositoryUnusable`, `RemoteUnavailable`.
    pub fn probe(&self) -> Result<()> {
        let bytes = self
            .backend
            .get(HEADER)?
            .ok_or_else(|| gone(self.location(), Some(self.id)))?;
        if RepositoryHeader::decode(&bytes)?.repository_id != self.id {
            return Err(Error::repository(format!(
                "the repository {} was replaced by another one: put the one with the id {} back, or restart to use \
                 this one",
                self.location(),
                self.id
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
        self.put_hashed(&reference.path(), &reference.hash, &bytes)?;
        Ok(reference)
    }

    /// Stores what is named by its hash, as [`Repository::put_pack`]; how many bytes had to be written.
    fn put_hashed(&self, path: &str, hash: &str, bytes: &Bytes) -> Result<u64> {
        // Named by its content, it may be put twice: so a request whose answer was lost may be repeated.
        let size = bytes.len() as u64;
        let found = match self.backend.size(path)? {
            None => false,
            Some(_) => match parts::whole("pack", hash, self.backend.get_at_most(path, size)) {
                Err(error) if error.kind() == Kind::BackupCorrupt => {
                    tracing::warn!(pack = hash, "a damaged pack is replaced");
                    false
                }
                found => found.map(|_| true)?,
            },
        };
        if found {
            return Ok(0);
        }
        self.backend.put(path, bytes.clone())?;
        Ok(size)
    }

    /// Reads a pack and checks its bytes against its name.
    ///
    /// # Errors
    /// `BackupCorrupt` when it is missing or damaged.
    pub fn pack(&self, reference: &PackReference) -> Result<Bytes> {
        if reference.size_bytes > self.limits.memory_bytes {
            return Err(parts::hash_damaged(
                "pack",
                &reference.hash,
                "is larger than jobs.memory_bytes",
            ));
        }
        let found = self
            .backend
            .get_at_most(&reference.path(), reference.size_bytes);
        parts::whole("pack", &reference.hash, found)
    }

    /// Stored bytes of a backup's manifest.
    ///
    /// # Errors
    /// `StorageFault` when the repository cannot be asked.
    pub fn manifest_bytes(&self, id: &str) -> Result<u64> {
        Ok(self.backend.size(&manifest_path(id))?.unwrap_or(0))
    }
}

/// A repository that was there is not there any more.
fn gone(location: &str, id: Option<Uuid>) -> Error {
    let id = id
        .map(|id| format!(" with the id {id}"))
        .unwrap_or_default();
    Error::repository(format!(
        "the repository{id} is gone: {location} holds no {HEADER}. Mount or put back what was there, or correct \
         repository.url; to begin a new one, restart with repository.begin_new = true"
    ))
}

/// Nothing new is begun where backups are: with another identity they would all be strangers, and packs that they need
/// would be nobody's.
///
/// # Errors
/// `StorageFault` that says what to put back.
fn refuse_beside_backups(backend: &Backend) -> Result<()> {
    let manifests = backend.list(MANIFESTS)?;
    let Some(first) = manifests.first() else {
        return Ok(());
    };
    let read = backend.get(&first.path)?;
    let header = read
        .and_then(|bytes| Summary::decode(&bytes).ok())
        .map(|manifest| RepositoryHeader {
            format: format::REPOSITORY_FORMAT,
            repository_id: manifest.repository_id,
        });
    let cure = header.map_or_else(
        || "restore that file from a copy of the repository".to_owned(),
        |header| {
            let text = String::from_utf8_lossy(&header.encode()).replace('\n', " ");
            format!("it held {text}")
        },
    );
    Err(Error::repository(format!(
        "{} holds {} backups, and its {HEADER} is missing: put it back ({cure}); nothing new is begun beside them",
        backend.location(),
        manifests.len()
    )))
}

/// Manifests and ids are put create-only; an object store that ignores that would lose backups without a word. Found out by
/// doing it. One that takes nothing at all at the moment may still be read.
///
/// # Errors
/// `StorageFault` when a second object took the place of the first.
fn check_create_only(backend: &Backend) -> Result<()> {
    let path = format!("{PROBES}/{}", Uuid::new_v4());
    let first = backend.put_new(&path, Bytes::from_static(b"1"));
    let second = first.and_then(|_| backend.put_new(&path, Bytes::from_static(b"2")));
    if let Err(error) = backend.delete(&path) {
        tracing::warn!(probe = path, ?error, "a probe's object stays");
    }
    match second {
        Ok(false) => Ok(()),
        Ok(true) => Err(Error::repository(format!(
            "{} replaces objects that are to be put only where there is none (If-None-Match: *): backups would overwrite \
             each other; use an object store that supports conditional puts",
            backend.location()
        ))),
        Err(error) => {
            tracing::warn!(
                ?error,
                "whether the repository takes create-only puts is not known"
            );
            Ok(())
        }
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
        .ok_or_else(|| Error::repository("repository.json came and went"))?;
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
