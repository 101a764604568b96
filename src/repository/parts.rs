//! Manifests whose collections stand in parts, and whether what a backup needs is there.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::format::{Manifest, ManifestCollection, PackReference, Part, PartReference, Summary};
use super::garbage::not_known;
use super::{PACKS, Repository};
use crate::error::{Error, Kind, Result};

/// Objects that are looked up one by one; for more of them everything under `packs/` is listed, a thousand in a request.
const LOOKED_UP: usize = 16;

/// Parts of the manifest that was read last, by hash: the next one has most of them in common.
#[derive(Clone, Default)]
pub(super) struct KnownParts(BTreeMap<String, Bytes>);

impl KnownParts {
    pub(super) fn of(parts: impl IntoIterator<Item = (PartReference, Bytes)>) -> Self {
        let parts = parts.into_iter();
        Self(parts.map(|(part, bytes)| (part.hash, bytes)).collect())
    }

    pub(super) fn has(&self, part: &PartReference) -> bool {
        self.0.contains_key(&part.hash)
    }
}

impl Repository {
    /// A backup with its collections. Parts that are not among the known ones are read; then those of this backup are the
    /// known ones.
    ///
    /// # Errors
    /// `NotFound` when it was deleted meanwhile, `BackupCorrupt`, `StorageFault` or `RemoteUnavailable`.
    pub(super) fn complete(&self, summary: &Summary, known: &mut KnownParts) -> Result<Manifest> {
        if !summary.parts.is_empty() {
            let found = self.with_parts(Manifest::without_collections(summary.clone()), known);
            return match found {
                // Deleted since it was listed, its parts may be gone as well: that is no damage.
                Err(error) if error.kind() == Kind::BackupCorrupt => {
                    self.manifest_itself(&summary.id).and(Err(error))
                }
                found => found,
            };
        }
        let mut manifest = self.manifest(&summary.id)?;
        // With what was changed since.
        manifest.pinned = summary.pinned;
        manifest.labels.clone_from(&summary.labels);
        Ok(manifest)
    }

    /// A listed backup with its collections.
    ///
    /// # Errors
    /// `NotFound` when it was deleted meanwhile, `BackupCorrupt`, `StorageFault` or `RemoteUnavailable`.
    pub fn with_collections(&self, backup: &Summary) -> Result<Manifest> {
        self.complete(backup, &mut KnownParts::default())
    }

    /// Listed backups with their collections, one after the other: what a backup has in common with that before it is read once.
    /// Each with the errors of [`Repository::with_collections`].
    pub fn each_with_collections<'a>(
        &'a self,
        backups: impl Iterator<Item = Summary> + 'a,
    ) -> impl Iterator<Item = (Summary, Result<Manifest>)> + 'a {
        let mut known = KnownParts::default();
        backups.map(move |backup| {
            let manifest = self.complete(&backup, &mut known);
            (backup, manifest)
        })
    }

    /// As [`Repository::complete`] of a manifest that was read; one without parts is complete.
    pub(super) fn with_parts(
        &self,
        manifest: Manifest,
        known: &mut KnownParts,
    ) -> Result<Manifest> {
        if manifest.parts.is_empty() {
            return Ok(manifest);
        }
        let parts = self.parts_of(&manifest, known)?;
        let id = manifest.id.clone();
        manifest
            .with_parts(parts)
            .map_err(|reason| damaged(&id, &reason))
    }

    fn parts_of(&self, backup: &Summary, known: &mut KnownParts) -> Result<Vec<Part>> {
        let parts = self.read_parts(&backup.parts, known).map_err(|error| {
            if error.kind() != Kind::BackupCorrupt {
                return error;
            }
            let members = error.members().iter();
            let packs = members.filter(|(name, _)| *name == "pack");
            packs.fold(
                damaged(&backup.id, error.message()),
                |named, (name, pack)| named.with(name, pack.clone()),
            )
        })?;
        let mut most = self.backend.max_object_bytes();
        let mut decoded = Vec::with_capacity(parts.len());
        for (part, bytes) in &parts {
            let (content, length) = Part::decode(bytes, most).map_err(|reason| {
                damaged(&backup.id, &format!("part {}: {reason}", part.hash))
                    .with("pack", part.hash.clone())
            })?;
            most = most.saturating_sub(length);
            decoded.push(content);
        }
        *known = KnownParts::of(parts);
        Ok(decoded)
    }

    /// The stored bytes of parts, each compared with its hash.
    fn read_parts(
        &self,
        parts: &[PartReference],
        known: &KnownParts,
    ) -> Result<Vec<(PartReference, Bytes)>> {
        let bytes: u128 = parts.iter().map(|part| u128::from(part.size_bytes)).sum();
        let most = self.backend.max_object_bytes();
        if bytes > u128::from(most) {
            return Err(Error::backup_corrupt(format!(
                "its parts have {bytes} bytes, {most} are the most (repository.max_manifest_bytes)"
            )));
        }
        let wanted = parts.iter().filter(|part| !known.has(part));
        let wanted = wanted.map(|part| (part.path(), part.size_bytes)).collect();
        let mut read = self.backend.get_many(wanted).into_iter();
        let mut found = Vec::with_capacity(parts.len());
        for part in parts {
            let bytes = match known.0.get(&part.hash) {
                Some(bytes) => bytes.clone(),
                None => whole("part", &part.hash, read.next().unwrap_or(Ok(None)))?,
            };
            found.push((part.clone(), bytes));
        }
        Ok(found)
    }

    /// The hashes of everything under `packs/` that these backups need.
    ///
    /// # Errors
    /// `BackupCorrupt` when one cannot be read: what it needs is not known.
    pub(super) fn needed_by_all(&self, backups: &[Summary]) -> Result<BTreeSet<String>> {
        let mut needed = BTreeSet::new();
        for backup in backups {
            match self.add_needed(backup, &mut needed) {
                // Deleted since it was listed.
                Err(error) if error.kind() == Kind::NotFound => {}
                Err(error) if error.kind() == Kind::BackupCorrupt => {
                    return Err(not_known(&backup.id, &error));
                }
                added => added?,
            }
        }
        Ok(needed)
    }

    fn add_needed(&self, backup: &Summary, needed: &mut BTreeSet<String>) -> Result<()> {
        if backup.parts.is_empty() {
            let manifest = self.manifest(&backup.id)?;
            needed.extend(manifest.needed().map(str::to_owned));
            return Ok(());
        }
        // What another backup has in common with it is not read again.
        let parts = backup.parts.iter();
        let fresh = Summary {
            parts: parts
                .filter(|part| !needed.contains(&part.hash))
                .cloned()
                .collect(),
            ..backup.clone()
        };
        for part in self.parts_of(&fresh, &mut KnownParts::default())? {
            let packs = part.collections.iter().flat_map(ManifestCollection::packs);
            needed.extend(packs.map(|pack| pack.hash.clone()));
        }
        needed.extend(fresh.parts.into_iter().map(|part| part.hash));
        Ok(())
    }

    /// Which of these objects under `packs/` are not there in their sizes, by path.
    ///
    /// # Errors
    /// `StorageFault` when the repository cannot be asked.
    fn absent(&self, wanted: BTreeMap<String, u64>) -> Result<BTreeSet<String>> {
        let mut absent = wanted;
        if absent.len() <= LOOKED_UP {
            let sizes = self.backend.sizes(absent.keys().cloned().collect())?;
            let mut sizes = sizes.into_iter();
            absent.retain(|_, size| sizes.next().flatten() != Some(*size));
        } else {
            for found in self.backend.list(PACKS)? {
                if absent.get(&found.path) == Some(&found.size) {
                    absent.remove(&found.path);
                }
            }
        }
        Ok(absent.into_keys().collect())
    }

    /// Hashes of these packs that are not there in their sizes.
    ///
    /// # Errors
    /// `StorageFault` when the repository cannot be asked.
    pub fn absent_packs<'a>(
        &self,
        packs: impl IntoIterator<Item = &'a PackReference>,
    ) -> Result<BTreeSet<String>> {
        self.absent_packs_and_parts(packs, [])
    }

    /// As [`Repository::absent_packs`], of parts as well.
    ///
    /// # Errors
    /// `StorageFault` when the repository cannot be asked.
    pub fn absent_packs_and_parts<'a>(
        &self,
        packs: impl IntoIterator<Item = &'a PackReference>,
        parts: impl IntoIterator<Item = &'a PartReference>,
    ) -> Result<BTreeSet<String>> {
        let packs = packs.into_iter();
        let packs = packs.map(|pack| (pack.path(), (&pack.hash, pack.size_bytes)));
        let parts = parts.into_iter();
        let parts = parts.map(|part| (part.path(), (&part.hash, part.size_bytes)));
        let wanted: BTreeMap<String, (&String, u64)> = packs.chain(parts).collect();
        let sizes = wanted.iter().map(|(path, (_, size))| (path.clone(), *size));
        let absent = self.absent(sizes.collect())?;
        let hashes = absent.iter().filter_map(|path| wanted.get(path));
        Ok(hashes.map(|(hash, _)| (*hash).clone()).collect())
    }
}

pub(super) fn damaged(backup: &str, reason: &str) -> Error {
    Error::backup_corrupt(format!("the manifest of {backup} is damaged: {reason}"))
        .with("backup", backup)
}

/// What is named by its hash, if it is there and its bytes have the hash.
///
/// # Errors
/// `BackupCorrupt` with the hash in `pack`; that of reading.
pub(super) fn whole(what: &str, hash: &str, read: Result<Option<Bytes>>) -> Result<Bytes> {
    let bytes = match read {
        Err(error) if error.kind() == Kind::BackupCorrupt => {
            let how = format!("is damaged: {}", error.message());
            return Err(hash_damaged(what, hash, &how));
        }
        found => found?.ok_or_else(|| hash_damaged(what, hash, "is missing"))?,
    };
    if blake3::hash(&bytes).to_hex().as_str() != hash {
        let how = "is damaged: its bytes do not have the hash it is named by";
        return Err(hash_damaged(what, hash, how));
    }
    Ok(bytes)
}

pub(super) fn hash_damaged(what: &str, hash: &str, how: &str) -> Error {
    Error::backup_corrupt(format!("{what} {hash} {how}")).with("pack", hash)
}
