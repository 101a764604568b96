//! Manifests: committed, listed, read.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::format::{self, Manifest, Undecodable};
use super::lock::RepositoryLock;
use super::{ANNOTATIONS, MANIFESTS, Repository, id_of, manifest_path};
use crate::error::{Error, Kind, Result};

impl Repository {
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
    pub(super) fn fence(&self, manifest: &Manifest, lock: &RepositoryLock) -> Result<()> {
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
    pub(super) fn put_manifest(&self, manifest: &Manifest) -> Result<bool> {
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
    pub(super) fn manifest(&self, id: &str) -> Result<Manifest> {
        let missing = || Error::not_found(format!("there is no backup {id:?}"));
        if !format::is_backup_id(id) {
            return Err(missing());
        }
        let bytes = self.backend.get(&manifest_path(id))?.ok_or_else(missing)?;
        self.decode(id, &bytes)
    }

    pub(super) fn decode(&self, id: &str, bytes: &[u8]) -> Result<Manifest> {
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

    /// A backup by its id, or `latest`.
    ///
    /// # Errors
    /// As [`Repository::backup`] and [`Repository::latest`].
    pub fn backup_or_latest(&self, id: &str) -> Result<Manifest> {
        match id {
            "latest" => self.latest(),
            id => self.backup(id),
        }
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
