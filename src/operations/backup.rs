//! Backing up: one consistent moment of the selected collections, while writes go on.
//!
//! An incremental backup copies what changed since an earlier one, and its manifest lists that one's packs
//! before its own: it restores by itself, and no backup needs another's manifest.
//!
//! The packs are stored as the snapshot's rounds are read; the manifest that commits them comes last, after
//! the store is synced up to the snapshot's moment: a backup never holds a state that a power cut can take
//! back from the store it was made of.

mod parents;

use std::collections::BTreeMap;
use std::time::Instant;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use self::parents::{Begun, Parent, begin, no_parent, parents};
use super::namespaces;
use super::packer::{LayerWriter, PackSettings, Packer};
use crate::disk::check_room;
use crate::engine::{
    BackupMarker, CatchUp, CollectionInfo, Engine, Round, Snapshot, SnapshotScope, Tombstone,
};
use crate::error::{Error, Result};
use crate::model::names::CollectionName;
use crate::progress::Progress;
use crate::repository::format::{
    BackupScope, LayerReference, Manifest, ManifestCollection, REPOSITORY_FORMAT, Summary, Totals,
};
use crate::repository::pack::{PackRow, PackTombstone};
use crate::repository::{LockMode, Repository, backup_id};

/// Records that are read before requests that wait for the processor get it.
const YIELD_EVERY: usize = 32;

/// How much to write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BackupKind {
    /// What changed since an earlier backup, where one can serve as parent; else everything.
    #[default]
    Auto,
    /// Everything.
    Full,
    /// What changed since; refused where no earlier backup can serve as parent.
    Incremental,
}

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub struct BackupRequest {
    /// How much to write.
    pub kind: BackupKind,
    /// These collections; `None`: everything.
    pub collections: Option<Vec<CollectionName>>,
    /// Free labels.
    pub labels: BTreeMap<String, String>,
    /// Keep whatever retention says.
    pub pinned: bool,
}

/// Bounds and settings of a backup.
#[derive(Clone, Copy, Debug)]
pub struct BackupSettings {
    /// zstd level of packs.
    pub compression_level: i32,
    /// Bytes of records that a pack aims at.
    pub pack_bytes: u64,
    /// Threads that compress and store packs.
    pub pack_threads: usize,
    /// Layers of a collection's state beyond which it is written whole: where they overlap, a restore holds
    /// one pack of each.
    pub max_layers: usize,
    /// Bytes of keys and values of a backup's labels.
    pub max_label_bytes: usize,
    /// Bounds of catching up.
    pub catch_up: CatchUp,
}

/// A checked request.
#[derive(Clone, Debug)]
pub struct BackupPlan {
    scope: SnapshotScope,
    request: BackupRequest,
    requested_at: DateTime<Utc>,
}

impl BackupSettings {
    /// Settings of its packs.
    pub fn packs(&self) -> PackSettings {
        PackSettings {
            compression_level: self.compression_level,
            pack_bytes: self.pack_bytes,
            threads: self.pack_threads,
        }
    }
}

/// Checks a request.
///
/// # Errors
/// `NotFound` for a collection that does not exist, `Unprocessable` for too many labels,
/// `InsufficientStorage` when the repository has too little room for what is to be written, uncompressed, `StorageFault`
/// when the repository is not there any more or was replaced.
pub fn plan(
    engine: &Engine,
    repository: &Repository,
    request: BackupRequest,
    settings: BackupSettings,
    now: DateTime<Utc>,
) -> Result<BackupPlan> {
    check_labels(&request.labels, settings.max_label_bytes)?;
    repository.probe()?;
    let (scope, infos) = match &request.collections {
        None => (SnapshotScope::All, engine.all_collections()),
        Some(names) => {
            let infos: Vec<CollectionInfo> = names
                .iter()
                .map(|name| engine.collection_by_name(name))
                .collect::<Result<_>>()?;
            let mut ids = ids_of(&infos);
            ids.sort_unstable();
            ids.dedup();
            (SnapshotScope::Collections(ids), infos)
        }
    };
    let parents = || parents(engine, repository, ids_of(&infos), settings.max_layers);
    if request.kind == BackupKind::Incremental && parents()?.of.is_empty() {
        return Err(no_parent());
    }
    let available = repository.available_bytes()?;
    let whole: u64 = infos.iter().map(|info| info.head.bytes).sum();
    if let Err(refusal) = check_room(available, whole) {
        if request.kind == BackupKind::Full {
            return Err(refusal);
        }
        // Only what changed is written where there is a parent.
        check_room(available, changed_bytes(engine, &infos, &parents()?.of)?)?;
    }
    Ok(BackupPlan {
        scope,
        request,
        requested_at: now,
    })
}

/// Refuses labels that are too long altogether.
///
/// # Errors
/// `Unprocessable`, naming the bound.
pub fn check_labels(labels: &BTreeMap<String, String>, max_bytes: usize) -> Result<()> {
    let bytes: usize = labels
        .iter()
        .map(|(key, value)| key.len() + value.len())
        .sum();
    if bytes > max_bytes {
        return Err(Error::unprocessable(format!(
            "labels: {bytes} bytes of keys and values, repository.max_label_bytes allows {max_bytes}"
        )));
    }
    Ok(())
}

/// Bytes of the records that a backup has to write, by the mean size of each collection's.
fn changed_bytes(
    engine: &Engine,
    infos: &[CollectionInfo],
    parents: &BTreeMap<Uuid, Parent>,
) -> Result<u64> {
    let mut bytes = 0;
    for CollectionInfo { descriptor, head } in infos {
        bytes += match parents.get(&descriptor.id) {
            None => head.bytes,
            Some(parent) => {
                let changed = engine.changed_after(descriptor.id, parent.sequence)?;
                changed.saturating_mul(head.bytes.div_ceil(head.count.max(1)))
            }
        };
    }
    Ok(bytes)
}

fn ids_of(infos: &[CollectionInfo]) -> Vec<Uuid> {
    infos.iter().map(|info| info.descriptor.id).collect()
}

/// Makes the backup.
///
/// # Errors
/// `Canceled`; `NotFound` when a selected collection is dropped meanwhile; `StorageFault`. No backup is
/// listed then.
pub fn execute(
    engine: &Engine,
    repository: &Repository,
    plan: BackupPlan,
    settings: BackupSettings,
    progress: &Progress,
) -> Result<Manifest> {
    let started = Instant::now();
    progress.stage("lock");
    let lock = repository.lock(LockMode::Shared, progress)?;
    let mut packer = Packer::new(repository, settings.packs(), progress)?;
    let Begun {
        snapshot,
        line,
        mut parents,
        seen,
    } = begin(engine, repository, &plan, settings)?;
    let known = parents.iter();
    let mut layers: BTreeMap<Uuid, Vec<LayerReference>> = known
        .map(|(id, parent)| (*id, parent.layers.clone()))
        .collect();
    progress.phase("copy", changed_records(engine, &snapshot, &parents));
    let last = snapshot.run(settings.catch_up, progress, |id, round| {
        let written = write_round(&mut packer, round)?;
        if !written.packs.is_empty() || !written.tombstones.is_empty() {
            layers.entry(id).or_default().push(written);
        }
        Ok(())
    })?;
    progress.stage("sync");
    engine.sync_to(last.sequence)?;
    let collections = last.collections.into_iter();
    let collections: Vec<ManifestCollection> = collections
        .map(|(id, info)| described(id, info, layers.remove(&id).unwrap_or_default()))
        .collect();
    progress.commit()?;
    // A collection that was dropped meanwhile is in no backup, and neither is what it would have started from.
    let used = collections.iter().filter_map(|c| parents.remove(&c.id));
    let parent = used.max_by_key(|parent| parent.sequence);
    let (scope, tenants) = match plan.scope {
        SnapshotScope::All => (BackupScope::All, namespaces::described(last.namespaces)),
        SnapshotScope::Collections(_) => (BackupScope::Selection, Vec::new()),
    };
    let summary = Summary {
        format: REPOSITORY_FORMAT,
        repository_id: repository.id(),
        id: backup_id(last.at),
        kind: kind(parent.as_ref()).to_owned(),
        parent: parent.map(|parent| parent.backup),
        created_at: last.at,
        requested_at: Some(plan.requested_at),
        duration_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        store_id: engine.store_id(),
        sequence: last.sequence,
        line,
        new_records: packer.new_records,
        tombstones: packer.tombstones,
        new_bytes: packer.new_bytes,
        labels: plan.request.labels,
        pinned: plan.request.pinned,
        scope,
        totals: Totals::default(),
        parts: Vec::new(),
    };
    let manifest = Manifest::new(summary, tenants, collections);
    let manifest = repository.commit(manifest, &lock, &seen)?;
    mark(engine, repository, &manifest);
    Ok(manifest)
}

/// Records that are to be copied.
fn changed_records(engine: &Engine, snapshot: &Snapshot, parents: &BTreeMap<Uuid, Parent>) -> u64 {
    let collections = snapshot.collections().into_iter();
    let changed = collections.map(|id| {
        let since = parents.get(&id).map_or(0, |parent| parent.sequence);
        // One that was dropped since has nothing to be copied.
        engine.changed_after(id, since).unwrap_or(0)
    });
    changed.sum()
}

fn kind(parent: Option<&Parent>) -> &'static str {
    match parent {
        Some(_) => "incremental",
        None => "full",
    }
}

/// Notes in the store what the next backup can start from.
fn mark(engine: &Engine, repository: &Repository, manifest: &Manifest) {
    let marker = |collection: &ManifestCollection| BackupMarker {
        backup: manifest.id.clone(),
        sequence: manifest.sequence,
        digest: collection.digest,
    };
    let markers = manifest
        .collections
        .iter()
        .map(|collection| (collection.id, marker(collection)));
    if let Err(error) = engine.put_backup_markers(repository.id(), markers) {
        // The backup is there and whole; only the next one cannot start from it.
        tracing::warn!(backup = manifest.id, %error, "the next backup will be a full one");
    }
}

fn write_round(packer: &mut Packer<'_>, round: &Round) -> Result<LayerReference> {
    let mut writer = layer_writer(packer, &round.info);
    writer.tombstones(&pack_tombstones(&round.removed))?;
    let mut read = 0_usize;
    round.for_each(|ordinal, stored| {
        read += 1;
        if read.is_multiple_of(YIELD_EVERY) {
            std::thread::yield_now();
        }
        writer.row(PackRow {
            ordinal,
            sequence: stored.sequence,
            canonical: stored.canonical.to_vec(),
        })
    })?;
    writer.finish()
}

fn layer_writer<'p, 'a>(packer: &'p mut Packer<'a>, info: &CollectionInfo) -> LayerWriter<'p, 'a> {
    let average = info.head.bytes.checked_div(info.head.count).unwrap_or(0);
    let dimension = info.descriptor.definition.dimension;
    LayerWriter::new(packer, dimension, average)
}

fn pack_tombstones(tombstones: &[Tombstone]) -> Vec<PackTombstone> {
    let row = |tombstone: &Tombstone| PackTombstone {
        ordinal: tombstone.ordinal,
        sequence: tombstone.sequence,
        id: tombstone.id.clone(),
    };
    tombstones.iter().map(row).collect()
}

fn described(id: Uuid, info: CollectionInfo, layers: Vec<LayerReference>) -> ManifestCollection {
    let (descriptor, head) = (info.descriptor, info.head);
    ManifestCollection {
        name: descriptor.name.clone(),
        id,
        public_id: descriptor.public_id,
        records: head.count,
        raw_bytes: head.bytes,
        sequence: head.sequence,
        next_ordinal: head.next_ordinal,
        digest: head.digest,
        definition_hash: descriptor.definition.hash(),
        definition: descriptor.definition.clone().into(),
        layers,
    }
}
