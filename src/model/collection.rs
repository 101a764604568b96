//! What a collection is, apart from its records.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::model::configuration::{Configuration, Space};
use crate::model::digest::Digest;
use crate::model::metadata::Metadata;
use crate::model::names::CollectionName;
use crate::model::schema::Schema;

/// Where a collection stands between creation and removal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lifecycle {
    /// Its name points to it.
    Live,
    /// Being filled aside; no name points to it. Swept at start, unless a checkpoint owns it.
    Staging,
    /// No name points to it any more; its records are being removed.
    Dropped,
}

/// A collection's definition: everything but its records.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CollectionDefinition {
    /// User metadata; empty means none.
    pub metadata: Metadata,
    /// Index configuration and embedding function.
    pub configuration: Configuration,
    /// Which values are indexed.
    pub schema: Schema,
    /// Components of every embedding; fixed by the first write.
    pub dimension: Option<u32>,
}

impl CollectionDefinition {
    /// BLAKE3 over the definition's JSON, hexadecimal. Stands beside the records' digest, which says
    /// nothing of metadata, configuration and dimension.
    pub fn hash(&self) -> String {
        let json = serde_json::to_vec(self).expect("a definition has string keys only");
        blake3::hash(&json).to_hex().to_string()
    }
}

/// What a collection holds, now or in a backup.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeldCollection {
    /// Tenant, database, name.
    #[serde(flatten)]
    pub name: CollectionName,
    /// The id that clients know it by.
    pub id: Uuid,
    /// Live records.
    pub records: u64,
    /// Components of every embedding; none before the first.
    pub dimension: Option<u32>,
    /// How distances are measured.
    pub space: Space,
    /// The last write to it.
    pub sequence: u64,
    /// Sum of its records' hashes.
    pub digest: Digest,
}

/// A collection as the catalog knows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CollectionDescriptor {
    /// Of its content: what its records are stored under. Never used again for another collection.
    pub id: Uuid,
    /// The id that clients know it by, where that is another one: content that took another's place keeps the id of
    /// what was there before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_id: Option<Uuid>,
    /// Tenant, database and name.
    #[serde(flatten)]
    pub name: CollectionName,
    /// Metadata, configuration, schema, dimension.
    #[serde(flatten)]
    pub definition: CollectionDefinition,
    /// Where it stands.
    pub lifecycle: Lifecycle,
    /// The collection that the line of forks this one is of began with; `None`: it is no fork.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<Uuid>,
}

impl CollectionDescriptor {
    /// The id that clients know it by.
    pub fn public_id(&self) -> Uuid {
        self.public_id.unwrap_or(self.id)
    }
}
