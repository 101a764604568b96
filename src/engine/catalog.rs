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
use super::store::{Batch, Store, Tree, Value, named, prefix_end};
use crate::error::{Error, Result};
use crate::model::collection::{CollectionDefinition, CollectionDescriptor, Lifecycle};
use crate::model::metadata::Metadata;
use crate::model::names::CollectionName;
use crate::model::schema;
use crate::model::stored::{self, Stored};

const TENANT: u8 = b't';
const DATABASE: u8 = b'd';
const DESCRIPTOR: u8 = b'c';
const HEAD: u8 = b'h';
const NAME: u8 = b'n';
pub(super) const MARKER: u8 = b'm';
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

/// Tenants and databases.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespaces {
    /// Tenants, by name.
    pub tenants: Vec<Tenant>,
    /// Tenant and name of databases, in this order.
    pub databases: Vec<(String, String)>,
}

impl Namespaces {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.tenants.is_empty() && self.databases.is_empty()
    }
}

/// Everything by name, in memory.
#[derive(Default)]
pub(super) struct Catalog {
    pub(super) tenants: BTreeMap<String, Tenant>,
    pub(super) databases: BTreeMap<(String, String), Database>,
    pub(super) names: BTreeMap<CollectionName, Uuid>,
    pub(super) collections: BTreeMap<Uuid, Arc<Collection>>,
    /// Ids that clients know collections by, where they are others than those of their content. One whose collection
    /// is gone leads nowhere.
    pub(super) public_ids: BTreeMap<Uuid, Uuid>,
}

impl Catalog {
    /// All tenants and databases.
    pub(super) fn namespaces(&self) -> Namespaces {
        Namespaces {
            tenants: self.tenants.values().cloned().collect(),
            databases: self.databases.keys().cloned().collect(),
        }
    }

    /// Those of some tenants and databases that are not there.
    pub(super) fn missing(&self, of: &Namespaces) -> Namespaces {
        let tenants = of.tenants.iter();
        let databases = of.databases.iter();
        Namespaces {
            tenants: tenants
                .filter(|tenant| !self.tenants.contains_key(&tenant.name))
                .cloned()
                .collect(),
            databases: databases
                .filter(|database| !self.databases.contains_key(*database))
                .cloned()
                .collect(),
        }
    }

    /// The collection that clients know by this id.
    pub(super) fn addressed(&self, public_id: Uuid) -> Option<&Arc<Collection>> {
        let own = self.collections.get(&public_id);
        own.or_else(|| self.collections.get(self.public_ids.get(&public_id)?))
    }

    /// Notes under which id clients know a collection.
    pub(super) fn note_public_id(&mut self, descriptor: &CollectionDescriptor) {
        if let Some(public_id) = descriptor.public_id {
            self.public_ids.insert(public_id, descriptor.id);
        }
    }

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

pub(super) fn id_key(kind: u8, id: Uuid) -> Vec<u8> {
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

fn name_key(name: &CollectionName) -> Vec<u8> {
    key(NAME, &[&name.tenant, &name.database, &name.name])
}

impl Stored for Tenant {
    const NAME: &'static str = "a tenant's catalog entry";
}

impl Stored for Database {
    const NAME: &'static str = "a database's catalog entry";
}

impl Stored for CollectionDescriptor {
    const NAME: &'static str = "a collection's catalog entry";
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
}

impl CatalogBatch for Batch {
    fn put_tenant(&mut self, tenant: &Tenant) {
        self.put(
            Tree::Catalog,
            key(TENANT, &[&tenant.name]),
            stored::encode(tenant),
        );
    }

    fn remove_tenant(&mut self, name: &str) {
        self.remove(Tree::Catalog, key(TENANT, &[name]));
    }

    fn put_database(&mut self, database: &Database) {
        let key = key(DATABASE, &[&database.tenant, &database.name]);
        self.put(Tree::Catalog, key, stored::encode(database));
    }

    fn remove_database(&mut self, tenant: &str, name: &str) {
        self.remove(Tree::Catalog, key(DATABASE, &[tenant, name]));
    }

    fn put_descriptor(&mut self, descriptor: &CollectionDescriptor) {
        let key = id_key(DESCRIPTOR, descriptor.id);
        self.put(Tree::Catalog, key, stored::encode(descriptor));
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
}

/// The catalog as stored, before records are loaded. What is damaged in it stands for itself: of tenants and databases the
/// key says all but a second name and an id.
#[derive(Default)]
pub(super) struct StoredCatalog {
    pub(super) tenants: Vec<Tenant>,
    pub(super) databases: Vec<Database>,
    pub(super) descriptors: Vec<CollectionDescriptor>,
    /// Collections whose descriptor cannot be read, and why.
    undescribed: Vec<(Uuid, String)>,
    /// Keys of names, and where they lead; `None` where that cannot be read.
    names: Vec<(Vec<u8>, Option<Uuid>)>,
}

/// Takes apart what [`key`] joined, without its kind.
fn parts(mut key: &[u8]) -> Option<Vec<String>> {
    let mut parts = Vec::new();
    while let Some((len, rest)) = key.split_first_chunk::<2>() {
        let (part, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*len)))?;
        parts.push(String::from_utf8(part.to_vec()).ok()?);
        key = rest;
    }
    key.is_empty().then_some(parts)
}

/// The name that a key of a name is of.
fn named_by(key: &[u8]) -> Option<CollectionName> {
    let parts = parts(key.get(1..)?)?;
    match parts.as_slice() {
        [tenant, database, name] => Some(CollectionName::new(tenant, database, name)),
        _ => None,
    }
}

fn read<T: Stored>(value: Result<Value>) -> Result<T> {
    value.and_then(|value| Ok(stored::decode(&value)?))
}

impl StoredCatalog {
    /// Reads the whole catalog.
    pub(super) fn read(store: &Store) -> Result<Self> {
        let mut catalog = Self::default();
        for entry in store.scan(Tree::Catalog, vec![0], prefix_end(&[u8::MAX - 1])) {
            let (key, value) = named(entry)?;
            catalog.add(&key, value);
        }
        Ok(catalog)
    }

    fn add(&mut self, key: &[u8], value: Result<Value>) {
        let Some((kind, rest)) = key.split_first() else {
            return;
        };
        match *kind {
            TENANT => match (read(value), parts(rest).as_deref()) {
                (Ok(tenant), _) => self.tenants.push(tenant),
                (Err(error), Some([name])) => {
                    tracing::error!(tenant = name, ?error, "a tenant has lost its resource name");
                    self.tenants.push(Tenant {
                        name: name.clone(),
                        resource_name: None,
                    });
                }
                (Err(error), _) => tracing::error!(?error, "a tenant is passed over"),
            },
            DATABASE => match (read(value), parts(rest).as_deref()) {
                (Ok(database), _) => self.databases.push(database),
                (Err(error), Some([tenant, name])) => {
                    tracing::error!(
                        tenant,
                        database = name,
                        ?error,
                        "a database has lost its id"
                    );
                    self.databases.push(Database {
                        id: Uuid::nil(),
                        name: name.clone(),
                        tenant: tenant.clone(),
                    });
                }
                (Err(error), _) => tracing::error!(?error, "a database is passed over"),
            },
            DESCRIPTOR => match (read(value), Uuid::from_slice(rest)) {
                (Ok(descriptor), _) => self.descriptors.push(descriptor),
                (Err(error), Ok(id)) => self.undescribed.push((id, error.message().to_owned())),
                (Err(error), Err(_)) => tracing::error!(?error, "a collection is passed over"),
            },
            NAME => {
                let id = value.ok().and_then(|value| Uuid::from_slice(&value).ok());
                self.names.push((key.to_vec(), id));
            }
            _ => {}
        }
    }

    /// Whether a stored name points to this collection. Where one leads cannot always be read; there is one live
    /// collection of a name at most.
    pub(super) fn points_to(&self, descriptor: &CollectionDescriptor) -> bool {
        let key = name_key(&descriptor.name);
        self.names
            .binary_search_by(|(name, _)| name.as_slice().cmp(&key))
            .ok()
            .and_then(|at| self.names.get(at))
            .is_some_and(|(_, id)| id.is_none_or(|id| id == descriptor.id))
    }

    /// Collections that have a name and no descriptor that can be read, with what stands in its place and why. Those
    /// without a name are left as they are.
    pub(super) fn undescribed(&self) -> Result<Vec<(CollectionDescriptor, String)>> {
        let mut found = Vec::new();
        for (id, why) in &self.undescribed {
            let name = self.names.iter().find(|(_, to)| *to == Some(*id));
            let Some(name) = name.and_then(|(key, _)| named_by(key)) else {
                tracing::error!(collection.id = %id, why, "a collection without name is passed over");
                continue;
            };
            let (configuration, schema) = schema::reconcile(&Metadata::new(), None, None, 1)?;
            let definition = CollectionDefinition {
                metadata: Metadata::new(),
                configuration,
                schema,
                dimension: None,
            };
            let descriptor = CollectionDescriptor {
                id: *id,
                name,
                definition,
                lifecycle: Lifecycle::Live,
                root: None,
                public_id: None,
            };
            found.push((descriptor, why.clone()));
        }
        Ok(found)
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
        let name = CollectionName::new("ünï", "", "name");
        assert_eq!(named_by(&name_key(&name)), Some(name));
        assert_eq!(named_by(&key(NAME, &["a", "b"])), None);
    }
}
