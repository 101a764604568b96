//! What stands in a repository: `repository.json`, manifests, and what is noted beside them. Versioned JSON; what no hash names
//! carries its own.

mod encoding;
mod manifest;

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::error::{Error, Result};
use crate::model::stored::Stored;

pub(super) use encoding::{Part, Undecodable};
pub use manifest::{
    BackupScope, LayerReference, Manifest, ManifestCollection, ManifestTenant, PackReference,
    PartReference, StoredDefinition, Summary, Totals,
};
pub(super) use manifest::{PACK_SUFFIX, PART_SUFFIX};

/// Version of the repository's format.
pub const REPOSITORY_FORMAT: u32 = 1;
/// Version of a manifest whose collections stand in parts.
const PARTED_FORMAT: u32 = 2;
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
            .map_err(|error| Error::repository("repository.json is damaged").because(error))?;
        if header.format != REPOSITORY_FORMAT {
            return Err(Error::repository(format!(
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

impl Stored for Verification {
    const NAME: &'static str = "a verification report";
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
pub(super) mod tests {
    use super::*;
    use crate::model::collection::CollectionDefinition;
    use crate::model::digest::Digest;
    use crate::model::metadata::Metadata;
    use crate::model::names::CollectionName;
    use crate::model::schema;

    pub(crate) fn collection() -> ManifestCollection {
        let metadata = crate::model::metadata::Metadata::new();
        let (configuration, schema) =
            crate::model::schema::reconcile(&metadata, None, None, 1).unwrap();
        let definition = CollectionDefinition {
            metadata,
            configuration,
            schema,
            dimension: Some(2),
        };
        ManifestCollection {
            name: CollectionName::new("default_tenant", "default_database", "words"),
            id: Uuid::nil(),
            public_id: None,
            records: 1,
            raw_bytes: 1,
            sequence: 1,
            next_ordinal: 1,
            digest: Digest::EMPTY,
            definition_hash: definition.hash(),
            definition: definition.into(),
            layers: Vec::new(),
        }
    }

    pub(crate) fn manifest() -> Manifest {
        let summary = Summary {
            format: REPOSITORY_FORMAT,
            repository_id: Uuid::nil(),
            id: "backup_2026-11-23_10-30-00".to_owned(),
            kind: "full".to_owned(),
            parent: None,
            created_at: DateTime::UNIX_EPOCH,
            requested_at: Some(DateTime::UNIX_EPOCH),
            duration_ms: 1,
            store_id: Uuid::nil(),
            sequence: 2,
            line: 0,
            new_records: 3,
            tombstones: 0,
            new_bytes: 4,
            labels: BTreeMap::from([("k".to_owned(), "v".to_owned())]),
            pinned: false,
            scope: BackupScope::All,
            totals: Totals::default(),
            parts: Vec::new(),
        };
        Manifest::new(summary, Vec::new(), Vec::new())
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

    /// A member that joins later must not make what was written before look damaged.
    #[test]
    fn the_hash_of_a_definition_is_of_the_bytes_that_were_stored() {
        let written = r#"{"tenant":"t","database":"d","name":"n","id":"00000000-0000-0000-0000-000000000000","records":0,
            "raw_bytes":0,"sequence":1,"next_ordinal":0,"digest":"DIGEST","definition":DEFINITION,"definition_hash":"HASH",
            "layers":[]}"#;
        let (configuration, schema) = schema::reconcile(&Metadata::new(), None, None, 1).unwrap();
        let definition = CollectionDefinition {
            metadata: Metadata::new(),
            configuration,
            schema,
            dimension: Some(3),
        };
        let today = serde_json::to_string(&definition).unwrap();
        // As a program may have written it that knew another member, or another order.
        let other = today.replacen('{', r#"{ "member": 1, "#, 1);
        for text in [&today, &other] {
            let hash = blake3::hash(text.as_bytes()).to_hex().to_string();
            let written = written
                .replace("DIGEST", &Digest::EMPTY.to_string())
                .replace("DEFINITION", text)
                .replace("HASH", &hash);
            let read: ManifestCollection = serde_json::from_str(&written).unwrap();
            assert_eq!(read.definition.stored_hash(), read.definition_hash);
            assert_eq!(*read.definition, definition);
        }
        assert_eq!(
            StoredDefinition::from(definition.clone()).stored_hash(),
            definition.hash()
        );
    }

    #[test]
    fn newer_formats_are_refused() {
        let mut newer = manifest();
        newer.format = 3;
        let refused = Manifest::decode(&newer.encode());
        assert_eq!(refused, Err(Undecodable::Version(3)));
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
