//! What an incremental backup starts from.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::{BackupKind, BackupPlan, BackupSettings, ids_of};
use crate::engine::{Engine, Snapshot, SnapshotScope};
use crate::error::{Error, Result};
use crate::repository::format::{LayerReference, Manifest, ManifestCollection};
use crate::repository::{Repository, Restorable};

/// A backup that has begun.
pub(super) struct Begun {
    pub(super) snapshot: Snapshot,
    pub(super) line: u64,
    /// What the collections start from that are copied in part.
    pub(super) parents: BTreeMap<Uuid, Parent>,
    /// See [`Parents::seen`].
    pub(super) seen: BTreeSet<String>,
}

/// Finds out what can be started from, and begins the snapshot there.
pub(super) fn begin(
    engine: &Engine,
    repository: &Repository,
    plan: &BackupPlan,
    settings: BackupSettings,
) -> Result<Begun> {
    let Parents {
        of: mut parents,
        seen,
    } = match plan.request.kind {
        BackupKind::Full => Parents::default(),
        BackupKind::Auto | BackupKind::Incremental => {
            let ids = match &plan.scope {
                SnapshotScope::All => ids_of(&engine.all_collections()),
                SnapshotScope::Collections(ids) => ids.clone(),
            };
            parents(engine, repository, ids, settings.max_layers)?
        }
    };
    let line = repository.line_of(engine.store_id(), engine.sequence())?;
    let since = parents.iter().map(|(id, parent)| (*id, parent.sequence));
    let snapshot = engine.begin_snapshot_since(plan.scope.clone(), since.collect())?;
    parents.retain(|id, _| snapshot.is_incremental(*id));
    if plan.request.kind == BackupKind::Incremental && parents.is_empty() {
        return Err(no_parent());
    }
    Ok(Begun {
        snapshot,
        line,
        parents,
        seen,
    })
}

/// What an incremental backup of one collection starts from.
pub(super) struct Parent {
    pub(super) backup: String,
    pub(super) sequence: u64,
    pub(super) layers: Vec<LayerReference>,
}

/// What backups start from.
#[derive(Default)]
pub(super) struct Parents {
    /// By collection.
    pub(super) of: BTreeMap<Uuid, Parent>,
    /// Hashes of packs and parts that were found there.
    pub(super) seen: BTreeSet<String>,
}

pub(super) fn no_parent() -> Error {
    Error::unprocessable(
        "no earlier backup in this repository can serve as parent; make one with kind \"auto\" or \"full\"",
    )
}

/// The backups that incremental ones of these collections can start from: exactly the state that the
/// store's own marker names, all of its packs there, and not so much of it superseded that writing the
/// collection whole is better.
pub(super) fn parents(
    engine: &Engine,
    repository: &Repository,
    collections: Vec<Uuid>,
    max_layers: usize,
) -> Result<Parents> {
    // Most collections have the same one: each is read and judged once.
    let mut manifests: BTreeMap<String, Option<Manifest>> = BTreeMap::new();
    let mut candidates = Vec::new();
    for id in collections {
        let Some(marker) = engine.backup_marker(repository.id(), id)? else {
            continue;
        };
        if !manifests.contains_key(&marker.backup) {
            let found = sound_backup(engine, repository, &marker.backup)?;
            manifests.insert(marker.backup.clone(), found);
        }
        candidates.push((id, marker));
    }
    let mut by_id: BTreeMap<(&str, Uuid), &ManifestCollection> = BTreeMap::new();
    for (backup, manifest) in &manifests {
        let collections = manifest.iter().flat_map(|manifest| &manifest.collections);
        by_id.extend(collections.map(|found| ((backup.as_str(), found.id), found)));
    }
    let mut extended = Vec::new();
    for (id, marker) in &candidates {
        let Some(Some(manifest)) = manifests.get(&marker.backup) else {
            continue;
        };
        let found = by_id.get(&(marker.backup.as_str(), *id)).copied();
        let worth = found.filter(|found| {
            found.digest == marker.digest
                && manifest.sequence == marker.sequence
                && is_worth_extending(found, max_layers)
        });
        extended.extend(worth.map(|found| (manifest, found)));
    }
    // All at once: what did not change costs no request of its own.
    let packs = || {
        let collections = extended.iter().map(|(_, collection)| *collection);
        collections.flat_map(ManifestCollection::packs)
    };
    let parts = || {
        manifests
            .values()
            .flatten()
            .flat_map(|manifest| &manifest.parts)
    };
    let absent = repository.absent_packs_and_parts(packs(), parts())?;
    let asked = packs().map(|pack| &pack.hash);
    let asked = asked.chain(parts().map(|part| &part.hash));
    let seen = asked.filter(|hash| !absent.contains(*hash)).cloned();
    let whole = extended
        .iter()
        .filter(|(_, collection)| collection.packs().all(|pack| !absent.contains(&pack.hash)));
    let of = whole.map(|(manifest, collection)| {
        let parent = Parent {
            backup: manifest.id.clone(),
            sequence: manifest.sequence,
            layers: collection.layers.clone(),
        };
        (collection.id, parent)
    });
    Ok(Parents {
        of: of.collect(),
        seen: seen.collect(),
    })
}

/// A backup of this store that can be read and is not known to be damaged.
fn sound_backup(engine: &Engine, repository: &Repository, id: &str) -> Result<Option<Manifest>> {
    let manifest = match repository.backup_to_extend(id) {
        Ok(manifest) => manifest,
        Err(error) => {
            tracing::info!(backup = id, %error, "cannot serve as parent");
            return Ok(None);
        }
    };
    let sound = manifest.store_id == engine.store_id()
        && repository.standing(&manifest)?.restorable != Restorable::Damaged;
    Ok(sound.then_some(manifest))
}

/// Whether less than a third of what a restore would read is superseded, in few enough layers.
fn is_worth_extending(collection: &ManifestCollection, max_layers: usize) -> bool {
    let layers = collection.layers.iter();
    let read: u64 = layers
        .flat_map(|layer| &layer.packs)
        .map(|pack| pack.records)
        .sum();
    let superseded = read.saturating_sub(collection.records);
    collection.layers.len() < max_layers && superseded * 3 <= read
}
