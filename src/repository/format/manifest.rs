//! What a manifest says: of the backup, and of its collections.

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};

use chrono::{DateTime, Utc};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::{Annotations, REPOSITORY_FORMAT};
use crate::model::collection::{CollectionDefinition, HeldCollection};
use crate::model::digest::Digest;
use crate::model::names::CollectionName;

/// What the name of a pack ends with, and that of a part of a manifest; both stand under `packs/`.
pub(in crate::repository) const PACK_SUFFIX: &str = ".arrow";
pub(in crate::repository) const PART_SUFFIX: &str = ".json.zst";

/// A definition as it stands in a manifest. Its hash is of the bytes that stand there: a later version of this program may
/// write the same definition in others.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredDefinition {
    definition: CollectionDefinition,
    hash: String,
}

impl StoredDefinition {
    /// BLAKE3 of the stored bytes, hexadecimal.
    pub fn stored_hash(&self) -> &str {
        &self.hash
    }
}

impl From<CollectionDefinition> for StoredDefinition {
    fn from(definition: CollectionDefinition) -> Self {
        Self {
            hash: definition.hash(),
            definition,
        }
    }
}

impl Deref for StoredDefinition {
    type Target = CollectionDefinition;

    fn deref(&self) -> &CollectionDefinition {
        &self.definition
    }
}

impl Serialize for StoredDefinition {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.definition.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for StoredDefinition {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Box::<RawValue>::deserialize(deserializer)?;
        let definition = serde_json::from_str(text.get()).map_err(D::Error::custom)?;
        let hash = blake3::hash(text.get().as_bytes()).to_hex().to_string();
        Ok(Self { definition, hash })
    }
}

/// A pack as a manifest refers to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackReference {
    /// BLAKE3 of the stored bytes, hexadecimal; the pack's name.
    pub hash: String,
    /// Stored bytes.
    pub size_bytes: u64,
    /// Rows in it.
    pub records: u64,
    /// Lowest ordinal in it.
    pub first_ordinal: u64,
    /// Highest ordinal in it.
    pub last_ordinal: u64,
}

impl PackReference {
    pub(in crate::repository) fn path(&self) -> String {
        hashed_path(&self.hash, PACK_SUFFIX)
    }
}

/// Where what is named by its hash stands.
fn hashed_path(hash: &str, suffix: &str) -> String {
    let fan_out = hash.get(..2).unwrap_or_default();
    format!("packs/{fan_out}/{hash}{suffix}")
}

/// One layer of a collection: tombstones take records of earlier layers away, then records replace or
/// join them, by ordinal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerReference {
    /// Packs of records, in ordinal order.
    pub packs: Vec<PackReference>,
    /// Packs of tombstones.
    pub tombstones: Vec<PackReference>,
}

impl LayerReference {
    /// Packs of records and of tombstones.
    pub fn all_packs(&self) -> impl Iterator<Item = &PackReference> {
        self.packs.iter().chain(&self.tombstones)
    }
}

/// A collection in a backup: everything that makes up its state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ManifestCollection {
    /// Tenant, database, name.
    #[serde(flatten)]
    pub name: CollectionName,
    /// The id of its content.
    pub id: Uuid,
    /// The id that clients knew it by, where that was another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_id: Option<Uuid>,
    /// Live records.
    pub records: u64,
    /// Canonical bytes of these records.
    pub raw_bytes: u64,
    /// The last write to it.
    pub sequence: u64,
    /// The ordinal that its next new record would have got.
    pub next_ordinal: u64,
    /// Sum of its records' hashes.
    pub digest: Digest,
    /// Metadata, configuration, schema, dimension.
    pub definition: StoredDefinition,
    /// BLAKE3 of the definition's bytes as they stand here.
    pub definition_hash: String,
    /// Base first, then changes in order.
    pub layers: Vec<LayerReference>,
}

impl ManifestCollection {
    pub(super) fn totals(&self) -> Totals {
        Totals {
            collections: 1,
            records: self.records,
            raw_bytes: self.raw_bytes,
            stored_bytes: self
                .packs()
                .fold(0, |sum, pack| u64::saturating_add(sum, pack.size_bytes)),
        }
    }

    /// What it holds.
    pub fn held(&self) -> HeldCollection {
        HeldCollection {
            name: self.name.clone(),
            id: self.public_id.unwrap_or(self.id),
            records: self.records,
            dimension: self.definition.dimension,
            space: self.definition.configuration.space(),
            sequence: self.sequence,
            digest: self.digest,
        }
    }

    /// All packs that make up its state.
    pub fn packs(&self) -> impl Iterator<Item = &PackReference> {
        self.layers.iter().flat_map(LayerReference::all_packs)
    }
}

/// What a backup was to hold. Retention compares only backups of the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackupScope {
    /// Everything there was.
    All,
    /// Chosen collections. What a manifest without this member is taken for: it is compared with fewer.
    #[default]
    Selection,
}

/// A tenant in a backup, also one without collections.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestTenant {
    /// Its name.
    pub name: String,
    /// Its second name for lookups, if it had one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_name: Option<String>,
    /// Its databases, by name.
    pub databases: Vec<String>,
}

/// Sums over the collections of a backup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// How many there are.
    pub collections: u64,
    /// Records that it restores.
    pub records: u64,
    /// Canonical bytes that it restores.
    pub raw_bytes: u64,
    /// Bytes of all packs that it refers to.
    pub stored_bytes: u64,
}

impl Totals {
    /// `None` where a sum is no number of 64 bits: nothing like it can be.
    pub(super) fn add(&mut self, collection: &Self) -> Option<()> {
        self.collections = self.collections.checked_add(collection.collections)?;
        self.records = self.records.checked_add(collection.records)?;
        self.raw_bytes = self.raw_bytes.checked_add(collection.raw_bytes)?;
        self.stored_bytes = self.stored_bytes.checked_add(collection.stored_bytes)?;
        Some(())
    }
}

/// A part of a manifest that stands by itself, named by its hash as packs are: backups in which its collections are the same
/// have it in common.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartReference {
    /// BLAKE3 of the stored bytes, hexadecimal; the part's name.
    pub hash: String,
    /// Stored bytes.
    pub size_bytes: u64,
}

impl PartReference {
    pub(in crate::repository) fn path(&self) -> String {
        hashed_path(&self.hash, PART_SUFFIX)
    }
}

/// A backup without its collections: all that a listing needs to read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Version of this format.
    pub format: u32,
    /// The repository it belongs to.
    pub repository_id: Uuid,
    /// `backup_YYYY-MM-DD_HH-MM-SS`, perhaps with a suffix.
    pub id: String,
    /// `full` or `incremental`.
    pub kind: String,
    /// The backup that an incremental one started from; it is not needed for a restore.
    pub parent: Option<String>,
    /// The moment it holds; in manifests without `requested_at`, when it was asked for.
    pub created_at: DateTime<Utc>,
    /// When it was asked for. Manifests of earlier versions do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requested_at: Option<DateTime<Utc>>,
    /// How long it took.
    pub duration_ms: u64,
    /// The store it was made of.
    pub store_id: Uuid,
    /// The moment, as a sequence of that store; the same for all collections.
    pub sequence: u64,
    /// How often the store had been set back, and was found behind its own backups.
    #[serde(default)]
    pub line: u64,
    /// Records that had to be written.
    pub new_records: u64,
    /// Tombstones that had to be written.
    pub tombstones: u64,
    /// Bytes that had to be written: packs, parts, the manifest. Manifests of earlier versions count packs only.
    pub new_bytes: u64,
    /// Free labels.
    pub labels: BTreeMap<String, String>,
    /// Kept by retention, whatever its rules.
    pub pinned: bool,
    /// Whether it was to hold everything there was, or chosen collections.
    #[serde(default)]
    pub scope: BackupScope,
    /// Sums over its collections.
    #[serde(skip)]
    pub totals: Totals,
    /// Where its collections stand, if not in the manifest itself.
    #[serde(skip)]
    pub parts: Vec<PartReference>,
}

impl Summary {
    /// When it was asked for, as far as it says.
    pub fn requested_at(&self) -> DateTime<Utc> {
        self.requested_at.unwrap_or(self.created_at)
    }

    /// Whether it holds no record: nothing that could be verified, or that is worth a place.
    pub fn is_empty(&self) -> bool {
        self.totals.records == 0
    }

    /// With what was changed since.
    #[must_use]
    pub(in crate::repository) fn annotated(mut self, annotations: Annotations) -> Self {
        self.pinned = annotations.pinned.unwrap_or(self.pinned);
        self.labels = annotations.labels.unwrap_or(self.labels);
        self
    }
}

/// A backup.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    pub(super) summary: Summary,
    /// Every tenant with its databases, by name, where everything was backed up; manifests of earlier versions have none.
    pub tenants: Vec<ManifestTenant>,
    /// The collections; those of a store by id.
    pub collections: Vec<ManifestCollection>,
}

impl Deref for Manifest {
    type Target = Summary;

    fn deref(&self) -> &Summary {
        &self.summary
    }
}

impl DerefMut for Manifest {
    fn deref_mut(&mut self) -> &mut Summary {
        &mut self.summary
    }
}

impl Manifest {
    /// A backup that is not stored yet. Format, sums and parts of the summary are replaced.
    pub fn new(
        summary: Summary,
        tenants: Vec<ManifestTenant>,
        collections: Vec<ManifestCollection>,
    ) -> Self {
        let mut totals = Totals::default();
        for collection in &collections {
            let _ = totals.add(&collection.totals());
        }
        Self {
            summary: Summary {
                format: REPOSITORY_FORMAT,
                totals,
                parts: Vec::new(),
                ..summary
            },
            tenants,
            collections,
        }
    }

    /// One whose collections and tenants stand elsewhere.
    pub(in crate::repository) fn without_collections(summary: Summary) -> Self {
        Self {
            summary,
            tenants: Vec::new(),
            collections: Vec::new(),
        }
    }

    /// Without the collections.
    pub fn into_summary(self) -> Summary {
        self.summary
    }

    /// With what was changed since.
    #[must_use]
    pub(in crate::repository) fn annotated(self, annotations: Annotations) -> Self {
        Self {
            summary: self.summary.annotated(annotations),
            ..self
        }
    }

    /// All packs that it refers to.
    pub fn packs(&self) -> impl Iterator<Item = &PackReference> {
        self.collections.iter().flat_map(ManifestCollection::packs)
    }

    /// The hashes of everything under `packs/` that it needs.
    pub fn needed(&self) -> impl Iterator<Item = &str> {
        let parts = self.parts.iter().map(|part| part.hash.as_str());
        parts.chain(self.packs().map(|pack| pack.hash.as_str()))
    }
}
