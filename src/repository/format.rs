//! `repository.json` and manifests: versioned JSON, self-contained, each manifest with its own hash.
//!
//! A manifest file is `{"manifest": {…}, "blake3": "<hash of the manifest's bytes as they stand>"}`.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::error::{Error, Result};
use crate::model::collection::CollectionDefinition;
use crate::model::digest::Digest;
use crate::model::names::CollectionName;

/// Version of the repository's format.
pub const REPOSITORY_FORMAT: u32 = 1;
pub(super) const MANIFEST_SUFFIX: &str = ".json";

/// Content of `repository.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepositoryHeader {
    /// Format version of everything in the repository.
    pub format: u32,
    /// Made when the repository was created.
    pub repository_id: Uuid,
}

impl RepositoryHeader {
    pub(super) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("a header has string keys only")
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self> {
        let header: Self = serde_json::from_slice(bytes)
            .map_err(|error| Error::storage("repository.json is damaged").because(error))?;
        if header.format != REPOSITORY_FORMAT {
            return Err(Error::storage(format!(
                "the repository has format version {}; this program reads version {REPOSITORY_FORMAT}",
                header.format
            )));
        }
        Ok(header)
    }
}

/// How deep a verification looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VerificationLevel {
    /// The manifest and its own hash; every pack is there in its size.
    Manifest,
    /// Every stored byte, against the hash that its pack is named by.
    Checksums,
    /// Every record, hashed; count, digest and order as the manifest says.
    #[default]
    Records,
    /// It was restored aside, compared and queried.
    Drill,
}

/// What may be changed of a backup after it was made, kept beside it: manifests never change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Annotations {
    /// In the place of the manifest's.
    pub pinned: Option<bool>,
    /// In the place of the manifest's.
    pub labels: Option<BTreeMap<String, String>>,
}

/// The newest verification of a backup, kept beside it: manifests never change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verification {
    /// How deep it looked.
    pub level: VerificationLevel,
    /// When.
    pub at: DateTime<Utc>,
    /// Whether everything was as the manifest says.
    pub ok: bool,
    /// Records read and hashed.
    pub checked_records: u64,
    /// Stored bytes read.
    pub checked_bytes: u64,
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
    pub(super) fn path(&self) -> String {
        let fan_out = self.hash.get(..2).unwrap_or_default();
        format!("packs/{fan_out}/{}.arrow", self.hash)
    }
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

/// A collection in a backup: everything that makes up its state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ManifestCollection {
    /// Tenant, database, name.
    #[serde(flatten)]
    pub name: CollectionName,
    /// The id it had.
    pub id: Uuid,
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
    pub definition: CollectionDefinition,
    /// BLAKE3 of the definition.
    pub definition_hash: String,
    /// Base first, then changes in order.
    pub layers: Vec<LayerReference>,
}

impl ManifestCollection {
    /// All packs that make up its state.
    pub fn packs(&self) -> impl Iterator<Item = &PackReference> {
        let layers = self.layers.iter();
        layers.flat_map(|layer| layer.packs.iter().chain(&layer.tombstones))
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

/// A backup.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
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
    /// When it was begun.
    pub created_at: DateTime<Utc>,
    /// How long it took.
    pub duration_ms: u64,
    /// The store it was made of.
    pub store_id: Uuid,
    /// The moment, as a sequence of that store; the same for all collections.
    pub sequence: u64,
    /// Records that had to be written.
    pub new_records: u64,
    /// Tombstones that had to be written.
    pub tombstones: u64,
    /// Bytes of packs that had to be written.
    pub new_bytes: u64,
    /// Free labels.
    pub labels: BTreeMap<String, String>,
    /// Kept by retention, whatever its rules.
    pub pinned: bool,
    /// Whether it was to hold everything there was, or chosen collections.
    #[serde(default)]
    pub scope: BackupScope,
    /// The collections, by id.
    pub collections: Vec<ManifestCollection>,
}

impl Manifest {
    /// All packs that it refers to.
    pub fn packs(&self) -> impl Iterator<Item = &PackReference> {
        self.collections.iter().flat_map(ManifestCollection::packs)
    }

    /// Records that it restores.
    pub fn records(&self) -> u64 {
        self.collections
            .iter()
            .map(|collection| collection.records)
            .sum()
    }

    /// Canonical bytes that it restores.
    pub fn raw_bytes(&self) -> u64 {
        self.collections
            .iter()
            .map(|collection| collection.raw_bytes)
            .sum()
    }

    /// Bytes of all packs that it refers to.
    pub fn stored_bytes(&self) -> u64 {
        self.packs().map(|pack| pack.size_bytes).sum()
    }

    /// With what was changed since.
    #[must_use]
    pub(super) fn annotated(mut self, annotations: Annotations) -> Self {
        self.pinned = annotations.pinned.unwrap_or(self.pinned);
        self.labels = annotations.labels.unwrap_or(self.labels);
        self
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let text = serde_json::to_string(self).expect("a manifest has string keys only");
        let manifest = RawValue::from_string(text).expect("serde_json writes valid JSON");
        let blake3 = blake3::hash(manifest.get().as_bytes()).to_hex().to_string();
        serde_json::to_vec(&Envelope { manifest, blake3 })
            .expect("an envelope has string keys only")
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Undecodable> {
        let damaged = |error: serde_json::Error| Undecodable::Damaged(error.to_string());
        let envelope: Envelope = serde_json::from_slice(bytes).map_err(damaged)?;
        let text = envelope.manifest.get();
        if blake3::hash(text.as_bytes()).to_hex().as_str() != envelope.blake3 {
            let reason = "its bytes do not have the hash that stands in it";
            return Err(Undecodable::Damaged(reason.to_owned()));
        }
        let version: Version = serde_json::from_str(text).map_err(damaged)?;
        if version.format != REPOSITORY_FORMAT {
            return Err(Undecodable::Version(version.format));
        }
        serde_json::from_str(text).map_err(damaged)
    }
}

/// Why a manifest cannot be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Undecodable {
    /// It is not as it was written.
    Damaged(String),
    /// Another program reads this version of the format.
    Version(u32),
}

impl Annotations {
    pub(super) fn encode(&self) -> Vec<u8> {
        let annotations = serde_json::to_string(self).expect("annotations have string keys only");
        let blake3 = blake3::hash(annotations.as_bytes()).to_hex().to_string();
        let annotations = RawValue::from_string(annotations).expect("serde_json writes valid JSON");
        let sealed = SealedAnnotations {
            format: REPOSITORY_FORMAT,
            annotations,
            blake3,
        };
        serde_json::to_vec(&sealed).expect("an envelope has string keys only")
    }

    /// `None` when they are not as they were written, or of another format.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let sealed: SealedAnnotations = serde_json::from_slice(bytes).ok()?;
        let text = sealed.annotations.get();
        let hash = blake3::hash(text.as_bytes()).to_hex();
        let whole = sealed.format == REPOSITORY_FORMAT && hash.as_str() == sealed.blake3;
        serde_json::from_str(text).ok().filter(|_| whole)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SealedAnnotations {
    format: u32,
    annotations: Box<RawValue>,
    blake3: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope {
    manifest: Box<RawValue>,
    blake3: String,
}

#[derive(Deserialize)]
struct Version {
    format: u32,
}

/// Whether a text can be the id of a backup; anything else never reaches a path.
pub fn is_backup_id(id: &str) -> bool {
    id.len() <= 64
        && id.strip_prefix("backup_").is_some_and(|rest| {
            !rest.is_empty()
                && rest
                    .chars()
                    .all(|c| c.is_ascii_digit() || matches!(c, '-' | '_'))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        Manifest {
            format: REPOSITORY_FORMAT,
            repository_id: Uuid::nil(),
            id: "backup_2026-11-23_10-30-00".to_owned(),
            kind: "full".to_owned(),
            parent: None,
            created_at: DateTime::UNIX_EPOCH,
            duration_ms: 1,
            store_id: Uuid::nil(),
            sequence: 2,
            new_records: 3,
            tombstones: 0,
            new_bytes: 4,
            labels: BTreeMap::from([("k".to_owned(), "v".to_owned())]),
            pinned: false,
            scope: BackupScope::All,
            collections: Vec::new(),
        }
    }

    #[test]
    fn every_flipped_byte_of_a_manifest_is_seen_or_changes_nothing() {
        let original = manifest();
        let bytes = original.encode();
        assert_eq!(Manifest::decode(&bytes).as_ref(), Ok(&original));
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert!(Manifest::decode(&damaged).is_err(), "byte {at}");
        }
    }

    #[test]
    fn every_flipped_byte_of_annotations_is_seen() {
        let annotations = Annotations {
            pinned: Some(true),
            labels: Some(BTreeMap::from([("k".to_owned(), "v".to_owned())])),
        };
        let bytes = annotations.encode();
        assert_eq!(Annotations::decode(&bytes).as_ref(), Some(&annotations));
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert_eq!(Annotations::decode(&damaged), None, "byte {at}");
        }
    }

    #[test]
    fn newer_formats_are_refused() {
        let newer = Manifest {
            format: 2,
            ..manifest()
        };
        let refused = Manifest::decode(&newer.encode());
        assert_eq!(refused, Err(Undecodable::Version(2)));
        let header = br#"{"format":2,"repository_id":"00000000-0000-0000-0000-000000000000"}"#;
        assert!(RepositoryHeader::decode(header).is_err());
    }

    #[test]
    fn only_ids_of_backups_reach_a_path() {
        assert!(is_backup_id("backup_2026-11-23_10-30-00-2"));
        for bad in [
            "",
            "backup_",
            "../backup_1",
            "backup_1/../x",
            "latest",
            "backup_1.json",
        ] {
            assert!(!is_backup_id(bad), "{bad}");
        }
    }
}
