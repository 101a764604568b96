//! Manifests: committed, listed, read.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use chrono::Utc;

use super::format::{self, Manifest, Summary, Undecodable};
use super::lock::{LockMode, RepositoryLock};
use super::order::sort_newest_first;
use super::parts::{KnownParts, damaged};
use super::{ANNOTATIONS, Line, MANIFESTS, Repository, id_of, manifest_path};
use crate::error::{Error, Kind, Result};
use crate::progress::Progress;

impl Repository {
    /// Commits a backup: checks that its packs exist, then puts its parts and the manifest, create-only. Its id says its second;
    /// where that was given before a suffix is added, and the id used is in the returned manifest. The lock, held since before the
    /// first of its packs was put or found, keeps those from being collected. `seen`: hashes of packs and parts that were found
    /// there, in their sizes, while it was held.
    ///
    /// # Errors
    /// `Conflict` when the lock was lost, `StorageFault`; nothing is visible then.
    pub fn commit(
        &self,
        mut manifest: Manifest,
        lock: &RepositoryLock,
        seen: &BTreeSet<String>,
    ) -> Result<Manifest> {
        let written = manifest.packs().filter(|pack| !seen.contains(&pack.hash));
        if let Some(absent) = self.absent_packs(written)?.first() {
            return Err(Error::repository(format!(
                "pack {absent} is not in the repository as it was written"
            )));
        }
        let marked = self.damaged_packs()?;
        self.put_parts(&mut manifest, seen, &marked)?;
        self.unmark_whole(&manifest, &marked)?;
        let reached = Line {
            line: manifest.line,
            sequence: manifest.sequence,
        };
        self.note_line(manifest.store_id, reached)?;
        let second = std::mem::take(&mut manifest.id);
        let written = manifest.new_bytes;
        loop {
            // One that nobody claimed may stand there, of an earlier version of this program: then the next one.
            manifest.id = self.claim_id(&second)?;
            // It counts itself; another digit may make it longer.
            for _ in 0..3 {
                manifest.new_bytes = written + manifest.encode().len() as u64;
            }
            lock.confirm()?;
            if self.put_manifest(&manifest)? {
                self.fence(&manifest, lock)?;
                return Ok(manifest);
            }
        }
    }

    /// Stores the parts of a manifest that has many collections, those that are not there yet.
    fn put_parts(
        &self,
        manifest: &mut Manifest,
        seen: &BTreeSet<String>,
        marked: &BTreeSet<String>,
    ) -> Result<()> {
        let (parts, unpacked) = manifest.divide()?;
        let most = self.backend.max_object_bytes();
        if unpacked > most {
            return Err(too_long(unpacked, most));
        }
        let recent = self.recent.lock().clone();
        for (part, bytes) in &parts {
            // Read or put by this process before, and there. All others are compared with what may stand in their place.
            let is_there =
                recent.has(part) && seen.contains(&part.hash) && !marked.contains(&part.hash);
            if !is_there {
                manifest.new_bytes += self.put_hashed(&part.path(), &part.hash, bytes)?;
            }
        }
        *self.recent.lock() = KnownParts::of(parts);
        Ok(())
    }

    /// Whoever collects from now on sees the manifest. Was the lock lost before, packs may be gone already, or go just now: they
    /// are looked for with the lock taken again, when no collection that did not see the manifest is under way any more. Where one
    /// is gone, or nobody can say, the manifest is taken back.
    pub(super) fn fence(&self, manifest: &Manifest, lock: &RepositoryLock) -> Result<()> {
        let Err(lost) = lock.confirm() else {
            return Ok(());
        };
        tracing::warn!(backup = manifest.id, error = %lost, "the packs of a backup are looked for again");
        let whole = self
            .lock(LockMode::Shared, &Progress::default())
            .and_then(|_again| {
                let absent = self.absent_packs_and_parts(manifest.packs(), &manifest.parts)?;
                Ok(absent.is_empty())
            });
        match whole {
            Ok(true) => Ok(()),
            Ok(false) => {
                self.backend.delete(&manifest_path(&manifest.id))?;
                Err(lost)
            }
            Err(unknown) => {
                self.backend.delete(&manifest_path(&manifest.id))?;
                Err(unknown)
            }
        }
    }

    /// Puts a manifest, create-only; false when its id is taken. An answer that is lost says nothing of whether
    /// the manifest was stored, and a request that was repeated finds what its first attempt stored: what
    /// is there decides.
    pub(super) fn put_manifest(&self, manifest: &Manifest) -> Result<bool> {
        let (path, bytes) = (manifest_path(&manifest.id), Bytes::from(manifest.encode()));
        let most = self.backend.max_object_bytes();
        if bytes.len() as u64 > most {
            return Err(too_long(bytes.len() as u64, most));
        }
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

    /// All backups, newest first (see `order`), without their collections. One whose manifest cannot be read is reported in the log and listed
    /// under the second member by id.
    ///
    /// # Errors
    /// `StorageFault` when the repository cannot be listed.
    pub fn backups(&self) -> Result<(Vec<Summary>, BTreeMap<String, Error>)> {
        let mut backups = Vec::new();
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
        // Nothing where backups were: it was emptied, renamed, or is no longer mounted.
        if ids.is_empty() && damaged.is_empty() {
            self.probe()?;
        }
        let most = self.backend.max_object_bytes();
        let paths = ids.iter().map(|id| (manifest_path(id), most)).collect();
        let mut read = Vec::with_capacity(ids.len());
        let mut ids = ids.into_iter();
        self.backend.get_each(paths, |bytes| {
            let Some(id) = ids.next() else { return };
            let found = match bytes {
                // Deleted since it was listed.
                Ok(None) => return,
                Ok(Some(bytes)) => Summary::decode(&bytes)
                    .map_err(|reason| undecodable(&id, reason))
                    .and_then(|backup| self.check(&id, &backup).map(|()| backup)),
                Err(error) => Err(unreadable(&id, error)),
            };
            read.push((id, found));
        });
        for (id, found) in read {
            let found = found.and_then(|backup| {
                let is_annotated = annotated.contains(id.as_str());
                let annotations = is_annotated.then(|| self.annotations(&id)).transpose()?;
                Ok(backup.annotated(annotations.unwrap_or_default()))
            });
            match found {
                Ok(backup) => backups.push(backup),
                Err(error) if matches!(error.kind(), Kind::BackupCorrupt | Kind::Unprocessable) => {
                    tracing::warn!(backup = id, %error, "a manifest cannot be read");
                    damaged.insert(id, error);
                }
                Err(error) => return Err(error),
            }
        }
        sort_newest_first(&mut backups, Utc::now());
        Ok((backups, damaged))
    }

    /// One backup.
    ///
    /// # Errors
    /// `NotFound`; `BackupCorrupt` when its manifest is damaged or of another repository.
    pub fn backup(&self, id: &str) -> Result<Manifest> {
        let manifest = self.manifest(id)?;
        Ok(manifest.annotated(self.annotations(id)?))
    }

    /// As [`Repository::backup`], for whoever is going to make another one from it: parts that were read or put by this process
    /// before are not read again.
    ///
    /// # Errors
    /// As [`Repository::backup`].
    pub fn backup_to_extend(&self, id: &str) -> Result<Manifest> {
        let mut known = self.recent.lock().clone();
        let manifest = self.with_parts(self.manifest_itself(id)?, &mut known)?;
        *self.recent.lock() = known;
        Ok(manifest)
    }

    /// The manifest as it was committed.
    pub(super) fn manifest(&self, id: &str) -> Result<Manifest> {
        self.with_parts(self.manifest_itself(id)?, &mut KnownParts::default())
    }

    pub(super) fn manifest_itself(&self, id: &str) -> Result<Manifest> {
        let missing = || Error::not_found(format!("there is no backup {id:?}"));
        if !format::is_backup_id(id) {
            return Err(missing());
        }
        let found = self.backend.get(&manifest_path(id));
        let bytes = found
            .map_err(|error| unreadable(id, error))?
            .ok_or_else(missing)?;
        let manifest = Manifest::decode(&bytes).map_err(|reason| undecodable(id, reason))?;
        self.check(id, &manifest)?;
        Ok(manifest)
    }

    /// Whether what was read is the manifest of this backup, in this repository.
    fn check(&self, id: &str, found: &Summary) -> Result<()> {
        if found.id != id {
            return Err(Error::backup_corrupt(format!(
                "the manifest of {id} says that it is of {}",
                found.id
            )));
        }
        if found.repository_id != self.id {
            return Err(Error::backup_corrupt(format!(
                "the manifest of {id} belongs to the repository {}, this one is {}",
                found.repository_id, self.id
            ))
            .with("backup", id));
        }
        Ok(())
    }
}

fn undecodable(id: &str, reason: Undecodable) -> Error {
    match reason {
        Undecodable::Damaged(reason) => damaged(id, &reason),
        Undecodable::Version(version) => Error::unprocessable(format!(
            "the manifest of {id} has format version {version}, which this program does not read"
        ))
        .with("backup", id),
    }
}

fn too_long(bytes: u64, most: u64) -> Error {
    Error::unprocessable(format!(
        "the manifest has {bytes} bytes, and none longer than {most} is read (repository.max_manifest_bytes); back fewer \
         collections up at a time"
    ))
}

/// Where the object itself is damaged, the backup is named.
fn unreadable(id: &str, error: Error) -> Error {
    if error.kind() != Kind::BackupCorrupt {
        return error;
    }
    let text = format!("the manifest of {id} is damaged: {}", error.message());
    Error::backup_corrupt(text).with("backup", id)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use uuid::Uuid;

    use super::super::format::{LayerReference, PackReference};
    use super::super::{BackendOptions, LockSettings, ReadLimits, RepositoryOptions};
    use super::*;

    fn in_memory(runtime: &tokio::runtime::Runtime) -> Repository {
        let options = RepositoryOptions {
            backend: BackendOptions {
                url: "memory://".to_owned(),
                credentials_file: None,
                request_timeout: Duration::from_secs(1),
                max_retries: 0,
                retry_timeout: Duration::from_secs(1),
                max_object_bytes: 1 << 20,
                max_calls: 1,
            },
            limits: ReadLimits {
                memory_bytes: 1 << 20,
                scratch: std::env::temp_dir(),
            },
            begin_new: false,
            locks: LockSettings {
                stale: Duration::from_secs(60),
                wait: Duration::from_secs(1),
            },
        };
        Repository::open(&options, Uuid::new_v4(), None, runtime.handle().clone()).unwrap()
    }

    fn with_pack(repository: &Repository, pack: &PackReference) -> Manifest {
        let mut manifest = super::super::format::tests::manifest();
        manifest.repository_id = repository.id();
        let mut collection = super::super::format::tests::collection();
        collection.layers = vec![LayerReference {
            packs: vec![pack.clone()],
            tombstones: Vec::new(),
        }];
        manifest.collections = vec![collection];
        manifest
    }

    /// As by a collection that took the lock for left behind.
    fn lose_locks(repository: &Repository) {
        for lock in repository.backend.list("locks").unwrap() {
            repository.backend.delete(&lock.path).unwrap();
        }
    }

    /// A manifest that was put, the pack that it needs, and its lock, which was lost before.
    fn put_and_lost(repository: &Repository) -> (Manifest, PackReference, RepositoryLock) {
        let pack = repository
            .put_pack(Bytes::from_static(b"rows"), 1, (0, 0))
            .unwrap();
        let manifest = with_pack(repository, &pack);
        let lock = repository
            .lock(LockMode::Shared, &Progress::default())
            .unwrap();
        assert!(repository.put_manifest(&manifest).unwrap());
        lose_locks(repository);
        (manifest, pack, lock)
    }

    #[test]
    fn a_backup_whose_lock_was_lost_stands_only_while_its_packs_do() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let repository = in_memory(&runtime);
        let (manifest, pack, lock) = put_and_lost(&repository);
        repository.fence(&manifest, &lock).unwrap();
        assert!(repository.manifest(&manifest.id).is_ok());

        repository.backend.delete(&pack.path()).unwrap();
        let lost = repository.fence(&manifest, &lock).unwrap_err();
        assert_eq!(lost.kind(), Kind::Conflict);
        let gone = repository.manifest(&manifest.id).unwrap_err();
        assert_eq!(gone.kind(), Kind::NotFound);
    }

    /// While another collects nobody knows what will be there.
    #[test]
    fn a_backup_whose_lock_was_lost_to_a_collection_that_goes_on_is_taken_back() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let repository = in_memory(&runtime);
        let (manifest, _, lock) = put_and_lost(&repository);
        let collecting = repository
            .lock(LockMode::Exclusive, &Progress::default())
            .unwrap();
        assert!(repository.fence(&manifest, &lock).is_err());
        let gone = repository.manifest(&manifest.id).unwrap_err();
        assert_eq!(gone.kind(), Kind::NotFound);
        drop(collecting);
    }
}
