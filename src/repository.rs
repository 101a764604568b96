//! Where backups live: manifests that commit them, and packs of records named by their hash.
//!
//! A backup is visible once its manifest is there; the manifest is put last and create-only. Packs that
//! no manifest refers to are garbage, never damage. All calls block: they are made from jobs, on
//! blocking threads.

mod backend;
pub mod format;
pub mod pack;
pub mod reader;

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use tokio::runtime::Handle;
use uuid::Uuid;

use crate::error::{Error, Kind, Result};
use backend::Backend;
use format::{
    MANIFEST_SUFFIX, Manifest, ManifestCollection, PackReference, RepositoryHeader, Verification,
};

pub use backend::Room;

const HEADER: &str = "repository.json";
const MANIFESTS: &str = "backups";
const VERIFICATIONS: &str = "verifications";

/// An open repository. Cheap to clone.
#[derive(Clone)]
pub struct Repository {
    backend: Backend,
    id: Uuid,
}

impl Repository {
    /// Opens the repository at a directory path (or `file://` URL), creating it when it is empty.
    ///
    /// # Errors
    /// `InvalidArgument` for a URL of a kind that is not offered, `StorageFault` when it cannot be read or
    /// written, has a newer format, or is damaged.
    pub fn open(url: &str, runtime: Handle) -> Result<Self> {
        let backend = Backend::open(url, runtime)?;
        let header = match backend.get(HEADER)? {
            Some(bytes) => RepositoryHeader::decode(&bytes)?,
            None => create_header(&backend)?,
        };
        Ok(Self {
            backend,
            id: header.repository_id,
        })
    }

    /// Opens the repository that is at a directory path (or `file://` URL).
    ///
    /// # Errors
    /// As [`Repository::open`]; `NotFound` when there is none, and none is made.
    pub fn open_existing(url: &str, runtime: Handle) -> Result<Self> {
        let directory = backend::directory(url)?;
        if !directory.join(HEADER).is_file() {
            return Err(Error::not_found(format!(
                "there is no repository in {}: it has no {HEADER}",
                directory.display()
            )));
        }
        Self::open(url, runtime)
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
        bytes: bytes::Bytes,
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
        let path = reference.path();
        if !self.backend.put_new(&path, bytes.clone())? && self.pack(&reference).is_err() {
            tracing::warn!(pack = reference.hash, "a damaged pack is replaced");
            self.backend.put(&path, bytes)?;
        }
        Ok(reference)
    }

    /// Reads a pack and checks its bytes against its name.
    ///
    /// # Errors
    /// `BackupCorrupt` when it is missing or damaged.
    pub fn pack(&self, reference: &PackReference) -> Result<bytes::Bytes> {
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

    /// Whether the newest verification of a backup, or of one that it started from, found damage.
    ///
    /// # Errors
    /// `StorageFault` when the repository cannot be asked.
    pub fn is_known_damaged(&self, manifest: &Manifest) -> Result<bool> {
        let mut id = Some(manifest.id.clone());
        let mut seen = BTreeSet::new();
        while let Some(current) = id.filter(|id| seen.insert(id.clone())) {
            if self.verification(&current)?.is_some_and(|found| !found.ok) {
                return Ok(true);
            }
            // One that is gone says nothing any more.
            id = self.backup(&current).ok().and_then(|found| found.parent);
        }
        Ok(false)
    }

    /// Keeps the result of a verification, in the place of an earlier one.
    ///
    /// # Errors
    /// `StorageFault`.
    pub fn put_verification(&self, id: &str, verification: &Verification) -> Result<()> {
        let bytes = serde_json::to_vec_pretty(verification)
            .map_err(|error| Error::internal("a verification cannot be encoded").because(error))?;
        self.backend.put(&verification_path(id), bytes.into())
    }

    /// The newest verification of a backup. One that cannot be read counts as none.
    ///
    /// # Errors
    /// `StorageFault` when the repository cannot be asked.
    pub fn verification(&self, id: &str) -> Result<Option<Verification>> {
        let bytes = self.backend.get(&verification_path(id))?;
        Ok(bytes.and_then(|bytes| {
            serde_json::from_slice(&bytes)
                .inspect_err(
                    |error| tracing::warn!(backup = id, %error, "a verification cannot be read"),
                )
                .ok()
        }))
    }

    /// Commits a backup: checks that its packs exist, then puts the manifest, create-only. When the id is
    /// taken a suffix is added; the id used is in the returned manifest.
    ///
    /// # Errors
    /// `StorageFault`; nothing is visible then.
    pub fn commit(&self, mut manifest: Manifest) -> Result<Manifest> {
        for reference in manifest.packs() {
            if !self.has_pack(reference)? {
                return Err(Error::storage(format!(
                    "pack {} is not in the repository as it was written",
                    reference.hash
                )));
            }
        }
        let base = manifest.id.clone();
        for attempt in 2..1_000 {
            if self
                .backend
                .put_new(&manifest_path(&manifest.id), manifest.encode().into())?
            {
                return Ok(manifest);
            }
            manifest.id = format!("{base}-{attempt}");
        }
        Err(Error::internal("no free backup id was found"))
    }

    /// All backups, newest first. One whose manifest cannot be read is reported in the log and listed
    /// under the second member by id.
    ///
    /// # Errors
    /// `StorageFault` when the repository cannot be listed.
    pub fn backups(&self) -> Result<(Vec<Manifest>, BTreeMap<String, Error>)> {
        let mut manifests = Vec::new();
        let mut damaged = BTreeMap::new();
        for name in self.backend.list(MANIFESTS)? {
            let Some(id) = name.strip_suffix(MANIFEST_SUFFIX) else {
                continue;
            };
            match self.backup(id) {
                Ok(manifest) => manifests.push(manifest),
                // Deleted since it was listed.
                Err(error) if error.kind() == Kind::NotFound => {}
                Err(error) => {
                    tracing::warn!(backup = id, %error, "a manifest cannot be read");
                    damaged.insert(id.to_owned(), error);
                }
            }
        }
        manifests.sort_by(|a, b| (b.created_at, &b.id).cmp(&(a.created_at, &a.id)));
        Ok((manifests, damaged))
    }

    /// One backup.
    ///
    /// # Errors
    /// `NotFound`; `BackupCorrupt` when its manifest is damaged.
    pub fn backup(&self, id: &str) -> Result<Manifest> {
        let missing = || Error::not_found(format!("there is no backup {id:?}"));
        if !format::is_backup_id(id) {
            return Err(missing());
        }
        let bytes = self.backend.get(&manifest_path(id))?.ok_or_else(missing)?;
        let manifest = Manifest::decode(&bytes).map_err(|reason| {
            Error::backup_corrupt(format!("the manifest of {id} is damaged: {reason}"))
                .with("backup", id)
        })?;
        if manifest.id != id {
            return Err(Error::backup_corrupt(format!(
                "the manifest of {id} says that it is of {}",
                manifest.id
            )));
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

fn verification_path(id: &str) -> String {
    format!("{VERIFICATIONS}/{id}{MANIFEST_SUFFIX}")
}

fn manifest_path(id: &str) -> String {
    format!("{MANIFESTS}/{id}{MANIFEST_SUFFIX}")
}

/// The id of a backup made at this time.
pub fn backup_id(at: DateTime<Utc>) -> String {
    at.format("backup_%Y-%m-%d_%H-%M-%S").to_string()
}
