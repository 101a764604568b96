//! Backing up: one consistent moment of the selected collections, while writes go on.
//!
//! An incremental backup copies what changed since an earlier one, and its manifest lists that one's packs
//! before its own: it restores by itself, and no backup needs another's manifest.
//!
//! The packs are stored as the cut's layers are read; the manifest that commits them comes last, after
//! the store is synced up to the cut's moment: a backup never holds a state that a power cut can take
//! back from the store it was made of.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::engine::{
    BackupMarker, CatchUp, CollectionInfo, CutScope, Engine, FinalPart, Layer, StoredRecord,
    Tombstone,
};
use crate::error::{Error, Kind, Result};
use crate::model::names::CollectionName;
use crate::progress::Progress;
use crate::repository::format::{LayerReference, Manifest, ManifestCollection, REPOSITORY_FORMAT};
use crate::repository::pack::{self, PackRow, PackTombstone};
use crate::repository::{Repository, backup_id};

/// Layers of a collection's state beyond which the next backup writes it whole: where they overlap, a
/// restore holds one pack of each.
const MAX_LAYERS: usize = 64;

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
    /// Bounds of catching up.
    pub catch_up: CatchUp,
}

/// A checked request.
#[derive(Clone, Debug)]
pub struct BackupPlan {
    scope: CutScope,
    request: BackupRequest,
    created_at: DateTime<Utc>,
}

/// Checks a request.
///
/// # Errors
/// `NotFound` for a collection that does not exist, `InsufficientStorage` when the repository has too
/// little room for everything uncompressed.
pub fn plan(
    engine: &Engine,
    repository: &Repository,
    request: BackupRequest,
    now: DateTime<Utc>,
) -> Result<BackupPlan> {
    let (scope, infos) = match &request.collections {
        None => (CutScope::All, engine.all_collections()),
        Some(names) => {
            let infos: Vec<CollectionInfo> = names
                .iter()
                .map(|name| engine.collection_by_name(name))
                .collect::<Result<_>>()?;
            let mut ids = ids_of(&infos);
            ids.sort_unstable();
            ids.dedup();
            (CutScope::Collections(ids), infos)
        }
    };
    if request.kind == BackupKind::Incremental
        && parents(engine, repository, ids_of(&infos))?.is_empty()
    {
        return Err(no_parent());
    }
    let needed: u64 = infos.iter().map(|info| info.head.bytes).sum();
    check_room(repository.room()?.map(|room| room.available_bytes), needed)?;
    Ok(BackupPlan {
        scope,
        request,
        created_at: now,
    })
}

fn ids_of(infos: &[CollectionInfo]) -> Vec<Uuid> {
    infos.iter().map(|info| info.descriptor.id).collect()
}

/// Refuses work that needs more room than there is.
///
/// # Errors
/// `InsufficientStorage` with the numbers.
pub fn check_room(available: Option<u64>, needed: u64) -> Result<()> {
    match available {
        Some(available) if available < needed => Err(Error::new(
            Kind::InsufficientStorage,
            format!("{needed} bytes are needed, {available} are free"),
        )
        .with("needed_bytes", needed)
        .with("available_bytes", available)),
        _ => Ok(()),
    }
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
    let started = std::time::Instant::now();
    let total = engine
        .all_collections()
        .iter()
        .map(|info| info.head.count)
        .sum();
    progress.phase("copy", total);
    let mut packer = Packer {
        repository,
        settings,
        progress,
        layers: BTreeMap::new(),
        new_records: 0,
        tombstones: 0,
        new_bytes: 0,
    };
    let mut parents = match plan.request.kind {
        BackupKind::Full => BTreeMap::new(),
        BackupKind::Auto | BackupKind::Incremental => {
            let ids = match &plan.scope {
                CutScope::All => ids_of(&engine.all_collections()),
                CutScope::Collections(ids) => ids.clone(),
            };
            parents(engine, repository, ids)?
        }
    };
    let since = parents.iter().map(|(id, parent)| (*id, parent.sequence));
    let cut = engine.begin_cut_since(plan.scope, since.collect());
    parents.retain(|id, _| cut.is_incremental(*id));
    if plan.request.kind == BackupKind::Incremental && parents.is_empty() {
        return Err(no_parent());
    }
    for (id, parent) in &parents {
        packer.layers.insert(*id, parent.layers.clone());
    }
    let last = cut.run(settings.catch_up, progress, |id, layer| {
        packer.layer(id, &layer)
    })?;
    progress.phase("sync", 0);
    engine.sync_to(last.sequence)?;
    let mut collections = Vec::new();
    for (id, part) in last.parts {
        collections.push(packer.finish(id, part)?);
    }
    progress.commit()?;
    // A collection that was dropped meanwhile is in no backup, and neither is what it would have started from.
    let used = collections.iter().filter_map(|c| parents.remove(&c.id));
    let parent = used.max_by_key(|parent| parent.created_at);
    let manifest = repository.commit(Manifest {
        format: REPOSITORY_FORMAT,
        repository_id: repository.id(),
        id: backup_id(plan.created_at),
        kind: if parent.is_some() {
            "incremental"
        } else {
            "full"
        }
        .to_owned(),
        parent: parent.map(|parent| parent.backup),
        created_at: plan.created_at,
        duration_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        store_id: engine.store_id(),
        sequence: last.sequence,
        new_records: packer.new_records,
        tombstones: packer.tombstones,
        new_bytes: packer.new_bytes,
        labels: plan.request.labels,
        pinned: plan.request.pinned,
        collections,
    })?;
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
    Ok(manifest)
}

/// What an incremental backup of one collection starts from.
struct Parent {
    backup: String,
    created_at: DateTime<Utc>,
    sequence: u64,
    layers: Vec<LayerReference>,
}

fn no_parent() -> Error {
    Error::unprocessable(
        "no earlier backup in this repository can serve as parent; make one with kind \"auto\" or \"full\"",
    )
}

/// The backups that incremental ones of these collections can start from: exactly the state that the
/// store's own marker names, all of its packs there, and not so much of it superseded that writing the
/// collection whole is better.
fn parents(
    engine: &Engine,
    repository: &Repository,
    collections: Vec<Uuid>,
) -> Result<BTreeMap<Uuid, Parent>> {
    // Most collections have the same one: each is read and judged once.
    let mut manifests: BTreeMap<String, Option<Manifest>> = BTreeMap::new();
    let mut parents = BTreeMap::new();
    for id in collections {
        let Some(marker) = engine.backup_marker(repository.id(), id)? else {
            continue;
        };
        let manifest = match manifests.entry(marker.backup.clone()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => {
                unknown.insert(sound_backup(engine, repository, &marker.backup)?)
            }
        };
        let Some(manifest) = manifest else { continue };
        let same = |found: &&ManifestCollection| found.id == id && found.digest == marker.digest;
        let Some(found) = manifest.collections.iter().find(same) else {
            continue;
        };
        let usable = manifest.sequence == marker.sequence
            && is_worth_extending(found)
            && repository.has_packs(found)?;
        if usable {
            let parent = Parent {
                backup: manifest.id.clone(),
                created_at: manifest.created_at,
                sequence: manifest.sequence,
                layers: found.layers.clone(),
            };
            parents.insert(id, parent);
        }
    }
    Ok(parents)
}

/// A backup of this store that can be read and is not known to be damaged.
fn sound_backup(engine: &Engine, repository: &Repository, id: &str) -> Result<Option<Manifest>> {
    let manifest = match repository.backup(id) {
        Ok(manifest) => manifest,
        Err(error) => {
            tracing::info!(backup = id, %error, "cannot serve as parent");
            return Ok(None);
        }
    };
    let sound =
        manifest.store_id == engine.store_id() && !repository.is_known_damaged(&manifest)?;
    Ok(sound.then_some(manifest))
}

/// Whether less than a third of what a restore would read is superseded, in few enough layers.
fn is_worth_extending(collection: &ManifestCollection) -> bool {
    let layers = collection.layers.iter();
    let read: u64 = layers
        .flat_map(|layer| &layer.packs)
        .map(|pack| pack.records)
        .sum();
    let superseded = read.saturating_sub(collection.records);
    collection.layers.len() < MAX_LAYERS && superseded * 3 <= read
}

/// Turns layers into packs.
struct Packer<'a> {
    repository: &'a Repository,
    settings: BackupSettings,
    progress: &'a Progress,
    layers: BTreeMap<Uuid, Vec<LayerReference>>,
    new_records: u64,
    tombstones: u64,
    new_bytes: u64,
}

impl Packer<'_> {
    fn layer(&mut self, id: Uuid, layer: &Layer) -> Result<()> {
        let mut writer = LayerWriter::new(self, &layer.info);
        writer.tombstones(&layer.tombstones)?;
        layer.for_each(|ordinal, stored| writer.stored(ordinal, stored))?;
        let reference = writer.finish()?;
        self.add(id, reference);
        Ok(())
    }

    fn finish(&mut self, id: Uuid, part: FinalPart) -> Result<ManifestCollection> {
        let mut writer = LayerWriter::new(self, &part.info);
        writer.tombstones(&part.tombstones)?;
        for (ordinal, sequence, canonical) in part.records {
            writer.row(PackRow {
                ordinal,
                sequence,
                canonical,
            })?;
        }
        let reference = writer.finish()?;
        self.add(id, reference);
        let (descriptor, head) = (part.info.descriptor, part.info.head);
        Ok(ManifestCollection {
            name: descriptor.name.clone(),
            id,
            records: head.count,
            raw_bytes: head.bytes,
            sequence: head.sequence,
            next_ordinal: head.next_ordinal,
            digest: head.digest,
            definition_hash: descriptor.definition.hash(),
            definition: descriptor.definition.clone(),
            layers: self.layers.remove(&id).unwrap_or_default(),
        })
    }

    fn add(&mut self, id: Uuid, reference: LayerReference) {
        let layers = self.layers.entry(id).or_default();
        if !reference.packs.is_empty() || !reference.tombstones.is_empty() {
            layers.push(reference);
        }
    }
}

/// Rows of one layer, cut into packs at fixed ordinal ranges, so that an unchanged range gives the same
/// pack again.
struct LayerWriter<'p, 'a> {
    packer: &'p mut Packer<'a>,
    dimension: u32,
    /// Ordinals per pack, a power of two.
    range: u64,
    rows: Vec<PackRow>,
    bytes: u64,
    reference: LayerReference,
}

impl<'p, 'a> LayerWriter<'p, 'a> {
    fn new(packer: &'p mut Packer<'a>, info: &CollectionInfo) -> Self {
        let average = info
            .head
            .bytes
            .checked_div(info.head.count)
            .unwrap_or(0)
            .max(1);
        let rows = (packer.settings.pack_bytes / average).clamp(1, 1 << 16);
        Self {
            packer,
            dimension: info.descriptor.definition.dimension.unwrap_or(0),
            range: 1 << rows.ilog2(),
            rows: Vec::new(),
            bytes: 0,
            reference: LayerReference::default(),
        }
    }

    fn stored(&mut self, ordinal: u64, stored: &StoredRecord<'_>) -> Result<()> {
        self.row(PackRow {
            ordinal,
            sequence: stored.sequence,
            canonical: stored.canonical.to_vec(),
        })
    }

    fn row(&mut self, row: PackRow) -> Result<()> {
        let another = self
            .rows
            .first()
            .is_some_and(|first| first.ordinal / self.range != row.ordinal / self.range);
        // Records much larger than the average must not gather in memory either.
        if another || self.bytes >= 2 * self.packer.settings.pack_bytes {
            self.flush()?;
        }
        self.bytes += row.canonical.len() as u64;
        self.rows.push(row);
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        let (Some(first), Some(last)) = (self.rows.first(), self.rows.last()) else {
            return Ok(());
        };
        self.packer.progress.check()?;
        // The first write after a layer began may have fixed the dimension since.
        let dimension = match self.dimension {
            0 => row_dimension(first)?,
            dimension => dimension,
        };
        let ordinals = (first.ordinal, last.ordinal);
        let bytes = pack::encode_records(
            &self.rows,
            dimension,
            self.packer.settings.compression_level,
        )?;
        let count = self.rows.len() as u64;
        self.packer.new_records += count;
        self.packer.new_bytes += bytes.len() as u64;
        let pack = self
            .packer
            .repository
            .put_pack(bytes.into(), count, ordinals)?;
        self.packer.progress.advance(count, self.bytes);
        self.reference.packs.push(pack);
        self.rows.clear();
        self.bytes = 0;
        Ok(())
    }

    fn tombstones(&mut self, tombstones: &[Tombstone]) -> Result<()> {
        let rows: Vec<PackTombstone> = tombstones
            .iter()
            .map(|tombstone| PackTombstone {
                ordinal: tombstone.ordinal,
                sequence: tombstone.sequence,
                id: tombstone.id.clone(),
            })
            .collect();
        let ordinals = tombstones.iter().map(|tombstone| tombstone.ordinal);
        let (Some(first), Some(last)) = (ordinals.clone().min(), ordinals.max()) else {
            return Ok(());
        };
        let bytes = pack::encode_tombstones(&rows, self.packer.settings.compression_level)?;
        let count = rows.len() as u64;
        self.packer.tombstones += count;
        self.packer.new_bytes += bytes.len() as u64;
        let pack = self
            .packer
            .repository
            .put_pack(bytes.into(), count, (first, last))?;
        self.reference.tombstones.push(pack);
        Ok(())
    }

    fn finish(mut self) -> Result<LayerReference> {
        self.flush()?;
        Ok(self.reference)
    }
}

fn row_dimension(row: &PackRow) -> Result<u32> {
    let view = crate::model::record::RecordView::parse(&row.canonical)?;
    u32::try_from(view.dimension()).map_err(|_| Error::internal("too many dimensions"))
}
