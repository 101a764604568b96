//! Tenants, databases and collections: create, change, drop. (`listings` finds collections.)

use std::sync::Arc;

use uuid::Uuid;

use super::catalog::{Catalog, CatalogBatch, Database, Tenant};
use super::collection::{Collection, CollectionInfo};
use super::format::Head;
use super::store::Batch;
use super::{Engine, Inner, defaults};
use crate::error::{Error, Result};
use crate::model::collection::{CollectionDefinition, CollectionDescriptor, Lifecycle};
use crate::model::configuration::ConfigurationUpdate;
use crate::model::metadata::Metadata;
use crate::model::names::{CollectionName, check_name, check_tenant_name};
use crate::model::schema;

/// A collection to create.
#[derive(Clone, Debug)]
pub struct NewCollection {
    /// Where.
    pub name: CollectionName,
    /// What.
    pub definition: CollectionDefinition,
}

/// Changes to a collection; absent members leave things as they are.
#[derive(Debug, Default)]
pub struct CollectionUpdate {
    /// A new name within the same database.
    pub name: Option<String>,
    /// Replaces all metadata.
    pub metadata: Option<Metadata>,
    /// Merged into configuration and schema.
    pub configuration: Option<ConfigurationUpdate>,
}

impl Engine {
    /// Creates a tenant.
    ///
    /// # Errors
    /// `InvalidArgument` for a bad name, `NameConflict` when it exists.
    pub fn create_tenant(&self, name: &str) -> Result<()> {
        check_tenant_name(name)?;
        let inner = &self.inner;
        let mut writer = inner.lock_writer()?;
        if inner.catalog.read().tenants.contains_key(name) {
            return Err(Error::name_conflict(format!(
                "Tenant [{name}] already exists"
            )));
        }
        let tenant = Tenant {
            name: name.to_owned(),
            resource_name: None,
        };
        let mut batch = Batch::default();
        batch.put_tenant(&tenant);
        let sequence = inner.commit_locked(&mut writer, batch)?;
        inner
            .catalog
            .write()
            .tenants
            .insert(name.to_owned(), tenant);
        drop(writer);
        inner.acknowledge(sequence)
    }

    /// Finds a tenant.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn tenant(&self, name: &str) -> Result<Tenant> {
        let catalog = self.inner.catalog.read();
        catalog
            .tenants
            .get(name)
            .cloned()
            .ok_or_else(|| no_tenant(name))
    }

    /// Gives a tenant a second name for lookups.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn set_tenant_resource_name(&self, name: &str, resource_name: String) -> Result<()> {
        let inner = &self.inner;
        let mut writer = inner.lock_writer()?;
        let mut tenant = self.tenant(name)?;
        tenant.resource_name = Some(resource_name);
        let mut batch = Batch::default();
        batch.put_tenant(&tenant);
        let sequence = inner.commit_locked(&mut writer, batch)?;
        inner
            .catalog
            .write()
            .tenants
            .insert(name.to_owned(), tenant);
        drop(writer);
        inner.acknowledge(sequence)
    }

    /// Name of the tenant with this resource name.
    pub fn tenant_by_resource_name(&self, resource_name: &str) -> Option<String> {
        let catalog = self.inner.catalog.read();
        catalog
            .tenants
            .values()
            .find(|tenant| tenant.resource_name.as_deref() == Some(resource_name))
            .map(|tenant| tenant.name.clone())
    }

    /// Creates a database, and its tenant where there is none, in one step.
    ///
    /// # Errors
    /// `InvalidArgument` for a bad name, `NameConflict` when it exists.
    pub fn create_database(&self, tenant: &str, name: &str) -> Result<()> {
        check_name(name)?;
        let inner = &self.inner;
        let mut writer = inner.lock_writer()?;
        let key = (tenant.to_owned(), name.to_owned());
        let is_known = {
            let catalog = inner.catalog.read();
            if catalog.databases.contains_key(&key) {
                return Err(Error::name_conflict(format!(
                    "Database [{name}] already exists"
                )));
            }
            catalog.tenants.contains_key(tenant)
        };
        if !is_known {
            check_tenant_name(tenant)?;
        }
        let new_tenant = (!is_known).then(|| Tenant {
            name: tenant.to_owned(),
            resource_name: None,
        });
        let database = Database {
            id: Uuid::new_v4(),
            name: name.to_owned(),
            tenant: tenant.to_owned(),
        };
        let mut batch = Batch::default();
        batch.put_database(&database);
        if let Some(tenant) = &new_tenant {
            batch.put_tenant(tenant);
        }
        let sequence = inner.commit_locked(&mut writer, batch)?;
        let mut catalog = inner.catalog.write();
        catalog.databases.insert(key, database);
        if let Some(tenant) = new_tenant {
            catalog.tenants.insert(tenant.name.clone(), tenant);
        }
        drop(catalog);
        drop(writer);
        inner.acknowledge(sequence)
    }

    /// Finds a database.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn database(&self, tenant: &str, name: &str) -> Result<Database> {
        let catalog = self.inner.catalog.read();
        catalog
            .databases
            .get(&(tenant.to_owned(), name.to_owned()))
            .cloned()
            .ok_or_else(|| {
                Error::not_found(format!(
                    "Database [{name}] not found. Are you sure it exists?"
                ))
            })
    }

    /// The databases of a tenant, by name.
    ///
    /// # Errors
    /// `NotFound` for the tenant.
    pub fn databases(&self, tenant: &str) -> Result<Vec<Database>> {
        let catalog = self.inner.catalog.read();
        if !catalog.tenants.contains_key(tenant) {
            return Err(no_tenant(tenant));
        }
        Ok(catalog.databases_of(tenant).cloned().collect())
    }

    /// Drops a database with its collections.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn delete_database(&self, tenant: &str, name: &str) -> Result<()> {
        let inner = &self.inner;
        let mut writer = inner.lock_writer()?;
        let key = (tenant.to_owned(), name.to_owned());
        let mut batch = Batch::default();
        let dropped: Vec<_> = {
            let catalog = inner.catalog.read();
            if !catalog.databases.contains_key(&key) {
                return Err(Error::not_found(format!("Database [{name}] not found")));
            }
            let names = catalog.names_in(tenant, name);
            names.map(|(name, id)| (name.clone(), id)).collect()
        };
        for (name, id) in &dropped {
            inner.drop_in_batch(&mut batch, name, *id)?;
        }
        batch.remove_database(tenant, name);
        let sequence = inner.commit_locked(&mut writer, batch)?;
        let forgotten = {
            let mut catalog = inner.catalog.write();
            catalog.databases.remove(&key);
            forget(&mut catalog, &dropped)
        };
        drop(writer);
        inner.discard(forgotten);
        inner.acknowledge(sequence)
    }

    /// Creates a collection. With `get_or_create` an existing one is returned unchanged.
    ///
    /// # Errors
    /// `InvalidArgument` for a bad name or a missing database, `NameConflict` when it exists.
    pub fn create_collection(
        &self,
        new: NewCollection,
        get_or_create: bool,
    ) -> Result<CollectionInfo> {
        check_name(&new.name.name)?;
        let inner = &self.inner;
        let mut writer = inner.lock_writer()?;
        if let Some(existing) = inner.existing(&new.name)? {
            if get_or_create {
                // Its creation may not be synced yet.
                drop(writer);
                inner.acknowledge(inner.store.committed())?;
                return Ok(existing.info());
            }
            return Err(already_exists(&new.name));
        }
        let descriptor = CollectionDescriptor {
            id: Uuid::new_v4(),
            public_id: None,
            name: new.name,
            definition: new.definition,
            lifecycle: Lifecycle::Live,
            root: None,
        };
        // Nothing was deleted from a new collection: its tombstones are complete from the start.
        let head = Head {
            sequence: writer.next(),
            ..Head::default()
        };
        let mut batch = Batch::default();
        batch.put_descriptor(&descriptor);
        batch.put_head(descriptor.id, &head);
        batch.put_name(&descriptor.name, descriptor.id);
        let sequence = inner.commit_locked(&mut writer, batch)?;
        let name = descriptor.name.clone();
        let collection = Arc::new(Collection::new(descriptor, head));
        let info = collection.info();
        {
            let mut catalog = inner.catalog.write();
            catalog.names.insert(name, collection.id);
            catalog.collections.insert(collection.id, collection);
        }
        drop(writer);
        inner.acknowledge(sequence)?;
        Ok(info)
    }

    /// Changes name, metadata or configuration of the collection that clients know by this id.
    ///
    /// # Errors
    /// `NotFound`, `InvalidArgument` for a bad name, `NameConflict` when the new name is taken.
    pub fn update_collection(&self, id: Uuid, update: CollectionUpdate) -> Result<()> {
        if let Some(name) = &update.name {
            check_name(name)?;
        }
        let inner = &self.inner;
        let mut writer = inner.lock_writer()?;
        let collection = inner.addressed(id)?;
        let old = collection.info().descriptor;
        let mut changed = CollectionDescriptor::clone(&old);
        if let Some(name) = update.name {
            changed.name.name = name;
        }
        if let Some(metadata) = update.metadata {
            changed.definition.metadata = metadata;
        }
        if let Some(configuration) = update.configuration {
            let definition = &mut changed.definition;
            schema::update(
                &mut definition.configuration,
                &mut definition.schema,
                configuration,
            )?;
        }
        if changed == *old {
            drop(writer);
            return inner.acknowledge(inner.store.committed());
        }
        let renamed = changed.name != old.name;
        if renamed && inner.catalog.read().names.contains_key(&changed.name) {
            return Err(already_exists(&changed.name));
        }
        let mut batch = Batch::default();
        batch.put_descriptor(&changed);
        if renamed {
            batch.remove_name(&old.name);
            batch.put_name(&changed.name, collection.id);
        }
        let sequence = inner.commit_locked(&mut writer, batch)?;
        if renamed {
            let mut catalog = inner.catalog.write();
            catalog.names.remove(&old.name);
            catalog.names.insert(changed.name.clone(), collection.id);
        }
        collection.describe(changed);
        drop(writer);
        inner.acknowledge(sequence)
    }

    /// Drops a collection by its name.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn delete_collection(&self, name: &CollectionName) -> Result<()> {
        let inner = &self.inner;
        let mut writer = inner.lock_writer()?;
        let id = inner.catalog.read().names.get(name).copied();
        let id = id.ok_or_else(|| no_collection(&name.name))?;
        let mut batch = Batch::default();
        inner.drop_in_batch(&mut batch, name, id)?;
        let sequence = inner.commit_locked(&mut writer, batch)?;
        let forgotten = forget(&mut inner.catalog.write(), &[(name.clone(), id)]);
        drop(writer);
        inner.discard(forgotten);
        inner.acknowledge(sequence)
    }

    /// Back to a new server's state, in one step: default tenant and database, nothing else. Job records
    /// and the sequence stay.
    ///
    /// # Errors
    /// `Unavailable` or `StorageFault`.
    pub fn reset(&self) -> Result<()> {
        let inner = &self.inner;
        let mut writer = inner.lock_writer()?;
        let (tenant, database) = defaults();
        let mut batch = Batch::default();
        let dropped: Vec<_> = {
            let catalog = inner.catalog.read();
            catalog
                .tenants
                .keys()
                .for_each(|name| batch.remove_tenant(name));
            for (tenant, name) in catalog.databases.keys() {
                batch.remove_database(tenant, name);
            }
            catalog
                .names
                .iter()
                .map(|(name, id)| (name.clone(), *id))
                .collect()
        };
        for (name, id) in &dropped {
            inner.drop_in_batch(&mut batch, name, *id)?;
        }
        batch.put_tenant(&tenant);
        batch.put_database(&database);
        let sequence = inner.commit_locked(&mut writer, batch)?;
        let forgotten = {
            let mut catalog = inner.catalog.write();
            catalog.tenants.clear();
            catalog.databases.clear();
            let key = (database.tenant.clone(), database.name.clone());
            catalog.tenants.insert(tenant.name.clone(), tenant);
            catalog.databases.insert(key, database);
            forget(&mut catalog, &dropped)
        };
        drop(writer);
        inner.discard(forgotten);
        inner.acknowledge(sequence)
    }
}

impl Inner {
    /// The collection of that name; an error when there is no such database to put one into.
    fn existing(&self, name: &CollectionName) -> Result<Option<Arc<Collection>>> {
        let catalog = self.catalog.read();
        let key = (name.tenant.clone(), name.database.clone());
        if !catalog.databases.contains_key(&key) {
            return Err(Error::invalid(format!(
                "Database [{}] does not exist",
                name.database
            )));
        }
        let id = catalog.names.get(name);
        Ok(id.and_then(|id| catalog.collections.get(id)).cloned())
    }

    /// Takes the name away and marks the collection, so that a start finds what is left of it.
    pub(super) fn drop_in_batch(
        &self,
        batch: &mut Batch,
        name: &CollectionName,
        id: Uuid,
    ) -> Result<()> {
        let mut descriptor =
            CollectionDescriptor::clone(&self.live_or_staged(id)?.info().descriptor);
        descriptor.lifecycle = Lifecycle::Dropped;
        batch.put_descriptor(&descriptor);
        batch.remove_name(name);
        Ok(())
    }
}

fn forget(catalog: &mut Catalog, dropped: &[(CollectionName, Uuid)]) -> Vec<Arc<Collection>> {
    dropped
        .iter()
        .filter_map(|(name, id)| {
            catalog.names.remove(name);
            catalog.public_ids.retain(|_, content| content != id);
            catalog.collections.remove(id)
        })
        .collect()
}

fn no_tenant(name: &str) -> Error {
    Error::not_found(format!("Tenant [{name}] not found"))
}

pub(super) fn no_collection(name: &str) -> Error {
    Error::not_found(format!("Collection [{name}] does not exist"))
}

/// The conflict that a taken name is, in the words of Chroma's server.
pub fn already_exists(name: &CollectionName) -> Error {
    Error::name_conflict(format!("Collection [{}] already exists", name.name))
        .with("collection", name.to_string())
}
