//! Where backups live: manifests that commit them, and packs of records named by their hash.
//!
//! A backup is visible once its manifest is there; the manifest is put last and create-only. Packs that
//! no manifest refers to are garbage, never damage. All calls block: they are made from jobs, on
//! blocking threads.

mod backend;
pub mod format;
mod garbage;
mod lock;
pub mod pack;
pub mod reader;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use uuid::Uuid;

use crate::error::{Error, Kind, Result};
use crate::progress::Progress;
use backend::Backend;
use format::{
    Annotations, MANIFEST_SUFFIX, Manifest, ManifestCollection, PackReference, RepositoryHeader,
    Undecodable, Verification, VerificationLevel,
};

pub use backend::{BackendOptions, Room, check_url};
pub use garbage::Collected;
use lock::LeftLocks;
pub use lock::{LockMode, LockSettings, RepositoryLock};

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
    pub fn room(&self) -> Result<Option<Room>> {
        self.backend.room()
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
            Some(_) if self.pack(&reference).is_err() => {
                tracing::warn!(pack = reference.hash, "a damaged pack is replaced");
                self.backend.put(&path, bytes)?;
            }
            Some(_) => {}
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

    /// Whether the newest verification of a backup, or one of another backup that shares packs with it, found
    /// damage that is not known to be gone.
    ///
    /// # Errors
    /// `StorageFault` when the repository cannot be asked.
    pub fn is_known_damaged(&self, manifest: &Manifest) -> Result<bool> {
        if self
            .verification(&manifest.id)?
            .is_some_and(|found| !found.ok)
        {
            return Ok(true);
        }
        let damaged = self.damaged_packs()?;
        Ok(!damaged.is_empty() && manifest.packs().any(|pack| damaged.contains(&pack.hash)))
    }

    /// Whether a verification that read its bytes found it sound, and nothing is known against it since.
    ///
    /// # Errors
    /// `StorageFault` when the repository cannot be asked.
    pub fn is_verified_sound(&self, manifest: &Manifest) -> Result<bool> {
        let found = self.verification(&manifest.id)?;
        let read = found.is_some_and(|found| found.ok && found.level > VerificationLevel::Manifest);
        Ok(read && !self.is_known_damaged(manifest)?)
    }

    fn damaged_packs(&self) -> Result<BTreeSet<String>> {
        let marks = self.backend.list(DAMAGED)?;
        Ok(marks.iter().map(|mark| mark.name().to_owned()).collect())
    }

    /// Notes which of the packs that were looked at are damaged, and that the others are not.
    ///
    /// # Errors
    /// `StorageFault`.
    pub fn mark_damaged<'a>(
        &self,
        looked_at: impl Iterator<Item = &'a PackReference>,
        damaged: &BTreeSet<String>,
    ) -> Result<()> {
        let marked = self.damaged_packs()?;
        for hash in damaged.difference(&marked) {
            self.backend.put(&damaged_path(hash), Bytes::new())?;
        }
        for pack in looked_at.filter(|pack| marked.contains(&pack.hash)) {
            if !damaged.contains(&pack.hash) {
                self.backend.delete(&damaged_path(&pack.hash))?;
            }
        }
        Ok(())
    }

    /// Takes the marks of packs away that were written again since.
    fn unmark_whole(&self, manifest: &Manifest) -> Result<()> {
        let marked = self.damaged_packs()?;
        if marked.is_empty() {
            return Ok(());
        }
        for pack in manifest.packs().filter(|pack| marked.contains(&pack.hash)) {
            if self.pack(pack).is_ok() {
                self.backend.delete(&damaged_path(&pack.hash))?;
            }
        }
        Ok(())
    }

    /// Changes what may be changed of a backup; the backup as it is then.
    ///
    /// # Errors
    /// `NotFound`, `BackupCorrupt` when its manifest is damaged, `StorageFault`.
    pub fn annotate(&self, id: &str, change: Annotations) -> Result<Manifest> {
        let _one_at_a_time = self.annotating.lock();
        let manifest = self.backup(id)?;
        let mut annotations = self.annotations(id)?;
        annotations.pinned = change.pinned.or(annotations.pinned);
        annotations.labels = change.labels.or(annotations.labels);
        let bytes = annotations.encode();
        self.backend.put(&beside(ANNOTATIONS, id), bytes.into())?;
        Ok(manifest.annotated(annotations))
    }

    /// What was changed of a backup since it was made. Damaged, it may have been a pin, and counts as one.
    fn annotations(&self, id: &str) -> Result<Annotations> {
        let Some(bytes) = self.backend.get(&beside(ANNOTATIONS, id))? else {
            return Ok(Annotations::default());
        };
        Ok(Annotations::decode(&bytes).unwrap_or_else(|| {
            tracing::warn!(
                backup = id,
                "its annotations are damaged; it counts as pinned"
            );
            Annotations {
                pinned: Some(true),
                labels: None,
            }
        }))
    }

    /// Removes a backup: its manifest, then what stands beside it. Its packs, whose hashes are returned, stay
    /// until they are collected. (A pin that another process sets in the same moment may come too late.)
    ///
    /// # Errors
    /// `NotFound`; `Conflict` when it is pinned; `Unprocessable` when another program wrote it; `StorageFault`.
    pub fn remove(&self, id: &str) -> Result<BTreeSet<String>> {
        let _one_at_a_time = self.annotating.lock();
        let (pinned, packs) = match self.manifest(id) {
            Ok(manifest) => {
                let manifest = manifest.annotated(self.annotations(id)?);
                let packs = manifest.packs().map(|pack| pack.hash.clone());
                (manifest.pinned, packs.collect())
            }
            // One that nobody can restore may go all the same.
            Err(error) if error.kind() == Kind::BackupCorrupt => {
                let pinned = self.annotations(id)?.pinned == Some(true);
                (pinned, BTreeSet::new())
            }
            Err(error) => return Err(error),
        };
        if pinned {
            return Err(Error::new(
                Kind::Conflict,
                format!("the backup {id} is pinned; take the pin away first"),
            ));
        }
        self.backend.delete(&manifest_path(id))?;
        self.backend.delete(&beside(ANNOTATIONS, id))?;
        self.backend.delete(&beside(VERIFICATIONS, id))?;
        Ok(packs)
    }

    /// Keeps the result of a verification, in the place of an earlier one.
    ///
    /// # Errors
    /// `StorageFault`.
    pub fn put_verification(&self, id: &str, verification: &Verification) -> Result<()> {
        let bytes = serde_json::to_vec_pretty(verification)
            .map_err(|error| Error::internal("a verification cannot be encoded").because(error))?;
        self.backend.put(&beside(VERIFICATIONS, id), bytes.into())
    }

    /// The newest verification of a backup. One that cannot be read counts as none.
    ///
    /// # Errors
    /// `StorageFault` when the repository cannot be asked.
    pub fn verification(&self, id: &str) -> Result<Option<Verification>> {
        let bytes = self.backend.get(&beside(VERIFICATIONS, id))?;
        Ok(bytes.and_then(|bytes| {
            serde_json::from_slice(&bytes)
                .inspect_err(
                    |error| tracing::warn!(backup = id, %error, "a verification cannot be read"),
                )
                .ok()
        }))
    }

    /// Commits a backup: checks that its packs exist, then puts the manifest, create-only. When the id is
    /// taken a suffix is added; the id used is in the returned manifest. The lock, held since before the first
    /// of its packs was put or found, keeps those from being collected.
    ///
    /// # Errors
    /// `Conflict` when the lock was lost, `StorageFault`; nothing is visible then.
    pub fn commit(&self, mut manifest: Manifest, lock: &RepositoryLock) -> Result<Manifest> {
        for reference in manifest.packs() {
            if !self.has_pack(reference)? {
                return Err(Error::storage(format!(
                    "pack {} is not in the repository as it was written",
                    reference.hash
                )));
            }
        }
        self.unmark_whole(&manifest)?;
        lock.confirm()?;
        let base = manifest.id.clone();
        for attempt in 2..1_000 {
            if self.put_manifest(&manifest)? {
                self.fence(&manifest, lock)?;
                return Ok(manifest);
            }
            manifest.id = format!("{base}-{attempt}");
        }
        Err(Error::internal("no free backup id was found"))
    }

    /// Whoever collects from now on sees the manifest. Was the lock lost before, packs may be gone already.
    fn fence(&self, manifest: &Manifest, lock: &RepositoryLock) -> Result<()> {
        let Err(lost) = lock.confirm() else {
            return Ok(());
        };
        for reference in manifest.packs() {
            if !self.has_pack(reference)? {
                self.backend.delete(&manifest_path(&manifest.id))?;
                return Err(lost);
            }
        }
        Ok(())
    }

    /// Puts a manifest, create-only; false when its id is taken. An answer that is lost says nothing of whether
    /// the manifest was stored, and a request that was repeated finds what its first attempt stored: what
    /// is there decides.
    fn put_manifest(&self, manifest: &Manifest) -> Result<bool> {
        let (path, bytes) = (manifest_path(&manifest.id), Bytes::from(manifest.encode()));
        let put = self.backend.put_new(&path, bytes.clone());
        if matches!(put, Ok(true)) {
            return Ok(true);
        }
        match self.backend.get(&path) {
            Ok(Some(found)) => Ok(found == bytes),
            Ok(None) => put,
            Err(unknown) => Err(Error::new(
                unknown.kind(),
                format!(
                    "the repository {} does not say whether {} was stored; look for it when it answers again",
                    self.location(),
                    manifest.id
                ),
            )
            .because(unknown)),
        }
    }

    /// All backups, newest first. One whose manifest cannot be read is reported in the log and listed
    /// under the second member by id.
    ///
    /// # Errors
    /// `StorageFault` when the repository cannot be listed.
    pub fn backups(&self) -> Result<(Vec<Manifest>, BTreeMap<String, Error>)> {
        let mut manifests = Vec::new();
        let mut damaged = BTreeMap::new();
        let annotated = self.backend.list(ANNOTATIONS)?;
        let annotated: BTreeSet<&str> = annotated
            .iter()
            .filter_map(|listed| id_of(listed.name()))
            .collect();
        let mut ids = Vec::new();
        for listed in self.backend.list(MANIFESTS)? {
            match id_of(listed.name()) {
                Some(id) if manifest_path(id) == listed.path && format::is_backup_id(id) => {
                    ids.push(id.to_owned());
                }
                // Moved or renamed by hand: what it needs would be taken for garbage.
                _ => {
                    let path = listed.path;
                    let error = Error::backup_corrupt(format!(
                        "{path} stands where manifests stand, but is none"
                    ));
                    damaged.insert(path, error);
                }
            }
        }
        let paths = ids.iter().map(|id| manifest_path(id)).collect();
        let read = self.backend.get_many(paths)?;
        for (id, bytes) in ids.iter().zip(read) {
            let is_annotated = annotated.contains(id.as_str());
            // Deleted since it was listed.
            let Some(bytes) = bytes else { continue };
            let found = self.decode(id, &bytes).and_then(|manifest| {
                let annotations = is_annotated.then(|| self.annotations(id)).transpose()?;
                Ok(manifest.annotated(annotations.unwrap_or_default()))
            });
            match found {
                Ok(manifest) => manifests.push(manifest),
                Err(error) if matches!(error.kind(), Kind::BackupCorrupt | Kind::Unprocessable) => {
                    tracing::warn!(backup = id, %error, "a manifest cannot be read");
                    damaged.insert(id.clone(), error);
                }
                Err(error) => return Err(error),
            }
        }
        manifests.sort_by(|a, b| (b.created_at, &b.id).cmp(&(a.created_at, &a.id)));
        Ok((manifests, damaged))
    }

    /// One backup.
    ///
    /// # Errors
    /// `NotFound`; `BackupCorrupt` when its manifest is damaged or of another repository.
    pub fn backup(&self, id: &str) -> Result<Manifest> {
        let manifest = self.manifest(id)?;
        Ok(manifest.annotated(self.annotations(id)?))
    }

    /// The manifest as it was committed.
    fn manifest(&self, id: &str) -> Result<Manifest> {
        let missing = || Error::not_found(format!("there is no backup {id:?}"));
        if !format::is_backup_id(id) {
            return Err(missing());
        }
        let bytes = self.backend.get(&manifest_path(id))?.ok_or_else(missing)?;
        self.decode(id, &bytes)
    }

    fn decode(&self, id: &str, bytes: &[u8]) -> Result<Manifest> {
        let manifest = Manifest::decode(bytes).map_err(|reason| match reason {
            Undecodable::Damaged(reason) => {
                Error::backup_corrupt(format!("the manifest of {id} is damaged: {reason}"))
                    .with("backup", id)
            }
            Undecodable::Version(version) => Error::unprocessable(format!(
                "the manifest of {id} has format version {version}; this program reads version {}",
                format::REPOSITORY_FORMAT
            ))
            .with("backup", id),
        })?;
        if manifest.id != id {
            return Err(Error::backup_corrupt(format!(
                "the manifest of {id} says that it is of {}",
                manifest.id
            )));
        }
        if manifest.repository_id != self.id {
            return Err(Error::backup_corrupt(format!(
                "the manifest of {id} belongs to the repository {}, this one is {}",
                manifest.repository_id, self.id
            ))
            .with("backup", id));
        }
        Ok(manifest)
    }

    /// The newest backup.
    ///
    /// # Errors
    /// `NotFound` when there is none; `BackupCorrupt` when the newest one's manifest is damaged: an older
    /// state is not what `latest` asks for.
    pub fn latest(&self) -> Result<Manifest> {
        let (manifests, damaged) = self.backups()?;
        let newest = manifests.into_iter().next();
        let newer = damaged
            .into_iter()
            .next_back()
            .filter(|(id, _)| newest.as_ref().is_none_or(|newest| *id > newest.id));
        match newer {
            Some((_, error)) => Err(error),
            None => newest.ok_or_else(|| Error::not_found("there is no backup yet")),
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
        .ok_or_else(|| Error::storage("repository.json came and went"))?;
    RepositoryHeader::decode(&bytes)
}

/// The path of what stands beside a manifest.
fn beside(directory: &str, id: &str) -> String {
    format!("{directory}/{id}{MANIFEST_SUFFIX}")
}

fn damaged_path(hash: &str) -> String {
    format!("{DAMAGED}/{hash}")
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
