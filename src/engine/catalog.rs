//! Tenants, databases, collections, and the name → id pointers; their keys and values in the store.
//!
//! The catalog in memory is complete and is what reads use. It is changed only after the transaction
//! that changes the store, under the engine's write lock.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::collection::Collection;
use super::format::Head;
use super::markers::BackupMarker;
use super::store::{Batch, Store, Tree, prefix_end};
use crate::error::{Error, Result};
use crate::model::collection::CollectionDescriptor;
use crate::model::names::CollectionName;

const TENANT: u8 = b't';
const DATABASE: u8 = b'd';
const DESCRIPTOR: u8 = b'c';
const HEAD: u8 = b'h';
const NAME: u8 = b'n';
const MARKER: u8 = b'm';
pub(super) const CHECKPOINT: u8 = b'p';

/// A tenant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tenant {
    /// Its name.
    pub name: String,
    /// A second name for lookups, if one was given.
    pub resource_name: Option<String>,
}

/// A database of a tenant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Database {
    /// Its id; nil for the default one.
    pub id: Uuid,
    /// Its name.
    pub name: String,
    /// The tenant.
    pub tenant: String,
}

/// Everything by name, in memory.
#[derive(Default)]
pub(super) struct Catalog {
    pub(super) tenants: BTreeMap<String, Tenant>,
    pub(super) databases: BTreeMap<(String, String), Database>,
    pub(super) names: BTreeMap<CollectionName, Uuid>,
    pub(super) collections: BTreeMap<Uuid, Arc<Collection>>,
}

impl Catalog {
    /// Databases of a tenant, by name.
    pub(super) fn databases_of<'a>(
        &'a self,
        tenant: &'a str,
    ) -> impl Iterator<Item = &'a Database> + 'a {
        let start = (tenant.to_owned(), String::new());
        self.databases
            .range(start..)
            .take_while(move |((owner, _), _)| owner == tenant)
            .map(|(_, database)| database)
    }

    /// Name and id of the collections of a database.
    pub(super) fn names_in<'a>(
        &'a self,
        tenant: &'a str,
        database: &'a str,
    ) -> impl Iterator<Item = (&'a CollectionName, Uuid)> + 'a {
        let start = CollectionName::new(tenant, database, "");
        self.names
            .range((Bound::Included(start), Bound::Unbounded))
            .take_while(move |(name, _)| name.tenant == tenant && name.database == database)
            .map(|(name, id)| (name, *id))
    }
}

/// Joins parts so that no two lists of parts give the same key.
fn key(kind: u8, parts: &[&str]) -> Vec<u8> {
    let mut key = vec![kind];
    for part in parts {
        let len = u16::try_from(part.len()).expect("names are at most 512 bytes");
        key.extend_from_slice(&len.to_be_bytes());
        key.extend_from_slice(part.as_bytes());
    }
    key
}

fn id_key(kind: u8, id: Uuid) -> Vec<u8> {
    let mut key = vec![kind];
    key.extend_from_slice(id.as_bytes());
    key
}

/// Key of a checkpoint.
pub(super) fn checkpoint_key(name: &str) -> Vec<u8> {
    let mut key = vec![CHECKPOINT];
    key.extend_from_slice(name.as_bytes());
    key
}

/// Key of what a repository holds of a collection.
pub(super) fn marker_key(collection: Uuid, repository: Uuid) -> Vec<u8> {
    let mut key = id_key(MARKER, collection);
    key.extend_from_slice(repository.as_bytes());
    key
}

/// Keys of all markers of a collection begin like this.
pub(super) fn marker_prefix(collection: Uuid) -> Vec<u8> {
    id_key(MARKER, collection)
}

fn name_key(name: &CollectionName) -> Vec<u8> {
    key(NAME, &[&name.tenant, &name.database, &name.name])
}

fn json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("catalog values have string keys only")
}

pub(super) fn from_json<'a, T: Deserialize<'a>>(payload: &'a [u8]) -> Result<T> {
    serde_json::from_slice(payload)
        .map_err(|error| Error::storage("a catalog entry cannot be decoded").because(error))
}

/// Catalog changes of a batch.
pub(super) trait CatalogBatch {
    fn put_tenant(&mut self, tenant: &Tenant);
    fn remove_tenant(&mut self, name: &str);
    fn put_database(&mut self, database: &Database);
    fn remove_database(&mut self, tenant: &str, name: &str);
    fn put_descriptor(&mut self, descriptor: &CollectionDescriptor);
    fn put_head(&mut self, id: Uuid, head: &Head);
    fn put_name(&mut self, name: &CollectionName, id: Uuid);
    fn remove_name(&mut self, name: &CollectionName);
    fn remove_collection(&mut self, id: Uuid);
    fn put_marker(&mut self, collection: Uuid, repository: Uuid, marker: &BackupMarker);
}

impl CatalogBatch for Batch {
    fn put_tenant(&mut self, tenant: &Tenant) {
        self.put(Tree::Catalog, key(TENANT, &[&tenant.name]), json(tenant));
    }

    fn remove_tenant(&mut self, name: &str) {
        self.remove(Tree::Catalog, key(TENANT, &[name]));
    }

    fn put_database(&mut self, database: &Database) {
        let key = key(DATABASE, &[&database.tenant, &database.name]);
        self.put(Tree::Catalog, key, json(database));
    }

    fn remove_database(&mut self, tenant: &str, name: &str) {
        self.remove(Tree::Catalog, key(DATABASE, &[tenant, name]));
    }

    fn put_descriptor(&mut self, descriptor: &CollectionDescriptor) {
        let key = id_key(DESCRIPTOR, descriptor.id);
        self.put(Tree::Catalog, key, json(descriptor));
    }

    fn put_head(&mut self, id: Uuid, head: &Head) {
        self.put(Tree::Catalog, id_key(HEAD, id), head.encode());
    }

    fn put_name(&mut self, name: &CollectionName, id: Uuid) {
        self.put(Tree::Catalog, name_key(name), id.as_bytes().to_vec());
    }

    fn remove_name(&mut self, name: &CollectionName) {
        self.remove(Tree::Catalog, name_key(name));
    }

    fn remove_collection(&mut self, id: Uuid) {
        self.remove(Tree::Catalog, id_key(DESCRIPTOR, id));
        self.remove(Tree::Catalog, id_key(HEAD, id));
    }

    fn put_marker(&mut self, collection: Uuid, repository: Uuid, marker: &BackupMarker) {
        let key = marker_key(collection, repository);
        self.put(Tree::Catalog, key, json(marker));
    }
}

/// The catalog as stored, before records are loaded.
#[derive(Default)]
pub(super) struct StoredCatalog {
    pub(super) tenants: Vec<Tenant>,
    pub(super) databases: Vec<Database>,
    pub(super) descriptors: Vec<CollectionDescriptor>,
    pub(super) names: Vec<(Vec<u8>, Uuid)>,
}

impl StoredCatalog {
    /// Reads the whole catalog.
    pub(super) fn read(store: &Store) -> Result<Self> {
        let mut catalog = Self::default();
        for entry in store.scan(Tree::Catalog, vec![0], prefix_end(&[u8::MAX - 1]), true) {
            let (key, value) = entry?;
            match key.first() {
                Some(&TENANT) => catalog.tenants.push(from_json(&value)?),
                Some(&DATABASE) => catalog.databases.push(from_json(&value)?),
                Some(&DESCRIPTOR) => catalog.descriptors.push(from_json(&value)?),
                Some(&NAME) => {
                    let id = Uuid::from_slice(&value)
                        .map_err(|error| Error::storage("a name points nowhere").because(error))?;
                    catalog.names.push((key.to_vec(), id));
                }
                _ => {}
            }
        }
        Ok(catalog)
    }

    /// Whether a stored name points to this collection.
    pub(super) fn points_to(&self, descriptor: &CollectionDescriptor) -> bool {
        let key = name_key(&descriptor.name);
        self.names
            .binary_search_by(|(name, _)| name.as_slice().cmp(&key))
            .ok()
            .and_then(|at| self.names.get(at))
            .is_some_and(|(_, id)| *id == descriptor.id)
    }
}

/// Reads a collection's head.
pub(super) fn read_head(store: &Store, id: Uuid) -> Result<Head> {
    match store.get(Tree::Catalog, &id_key(HEAD, id))? {
        Some(payload) => Head::decode(&payload),
        None => Err(Error::storage(format!("collection {id} has no head"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_different_names_differ() {
        assert_ne!(key(NAME, &["ab", "c"]), key(NAME, &["a", "bc"]));
        assert_ne!(key(NAME, &["a", ""]), key(NAME, &["a"]));
    }
}
