//! Making staged collections visible: the pointers name → id are swapped in one transaction, for several at once.

use std::collections::BTreeSet;
use std::sync::Arc;

use uuid::Uuid;

use super::catalog::{CatalogBatch, Database, Namespaces, Tenant};
use super::collection::Collection;
use super::namespaces::already_exists;
use super::staging::Exclusive;
use super::store::Batch;
use super::{Engine, Inner};
use crate::error::Result;
use crate::model::collection::{CollectionDescriptor, Lifecycle};
use crate::model::names::{CollectionName, check_name, check_tenant_name};

/// A staged collection to make visible.
#[derive(Clone, Debug)]
pub struct Publication {
    /// The staged collection.
    pub staged: Uuid,
    /// The name it gets. A missing tenant or database is made.
    pub name: CollectionName,
    /// The collection that the name points to now, to be dropped; `None`: the name must be free.
    pub replaces: Option<Uuid>,
    /// Whether clients go on to know it by the id of what it replaces.
    pub keeps_id: bool,
    /// The collection that the line of forks began with, if this is a fork.
    pub root: Option<Uuid>,
}

/// Collections that were made visible, not yet durable.
#[must_use = "what was replaced is given up by Engine::published"]
pub struct Published {
    sequence: u64,
    replaced: Vec<Arc<Collection>>,
}

impl Engine {
    /// Makes staged collections visible, all in one step, durable when this returns.
    ///
    /// # Errors
    /// `NameConflict` when a name no longer points where the publication says; nothing is changed then.
    pub fn publish(&self, publications: &[Publication]) -> Result<()> {
        self.publish_within(publications, &Namespaces::default())
    }

    /// As [`Engine::publish`]; tenants and databases that are missing are made in the same step.
    ///
    /// # Errors
    /// As there.
    pub fn publish_within(
        &self,
        publications: &[Publication],
        namespaces: &Namespaces,
    ) -> Result<()> {
        let mut exclusive = self.inner.exclusive()?;
        let published = exclusive.publish(publications, namespaces)?;
        drop(exclusive);
        self.published(published)
    }

    /// Those of some tenants and databases that are not there.
    pub fn missing_namespaces(&self, of: &Namespaces) -> Namespaces {
        self.inner.catalog.read().missing(of)
    }

    /// Gives what was replaced up, once the write lock is free, and waits until the swap is durable.
    ///
    /// # Errors
    /// `StorageFault` or `Unavailable` when the sync fails.
    pub fn published(&self, published: Published) -> Result<()> {
        self.inner.discard(published.replaced);
        self.inner.store.wait_synced(published.sequence)
    }
}

impl Exclusive<'_> {
    /// As [`Engine::publish_within`]; what it returns goes to [`Engine::published`].
    ///
    /// # Errors
    /// As there.
    pub fn publish(
        &mut self,
        publications: &[Publication],
        namespaces: &Namespaces,
    ) -> Result<Published> {
        let inner = self.inner;
        for publication in publications {
            check_tenant_name(&publication.name.tenant)?;
            check_name(&publication.name.database)?;
            check_name(&publication.name.name)?;
        }
        for tenant in &namespaces.tenants {
            check_tenant_name(&tenant.name)?;
        }
        for (tenant, database) in &namespaces.databases {
            check_tenant_name(tenant)?;
            check_name(database)?;
        }
        inner.check_names(publications)?;
        let mut batch = Batch::default();
        let (tenants, databases) = inner.missing_namespaces(publications, namespaces);
        tenants.iter().for_each(|tenant| batch.put_tenant(tenant));
        databases
            .iter()
            .for_each(|database| batch.put_database(database));
        let mut descriptors = Vec::new();
        for publication in publications {
            let mut public_id = None;
            if let Some(old) = publication.replaces {
                inner.drop_in_batch(&mut batch, &publication.name, old)?;
                let known = inner.live_or_staged(old)?.info().descriptor.public_id();
                public_id = publication.keeps_id.then_some(known);
            }
            let collection = inner.live_or_staged(publication.staged)?;
            let mut descriptor = CollectionDescriptor::clone(&collection.info().descriptor);
            descriptor.name = publication.name.clone();
            descriptor.lifecycle = Lifecycle::Live;
            descriptor.root = publication.root;
            descriptor.public_id = public_id;
            batch.put_descriptor(&descriptor);
            batch.put_name(&publication.name, publication.staged);
            descriptors.push((collection, descriptor));
        }
        let sequence = inner.commit_locked(&mut self.writer, batch)?;
        // One hold of the catalog's lock: readers see all names swapped or none.
        let mut catalog = inner.catalog.write();
        for tenant in tenants {
            catalog.tenants.insert(tenant.name.clone(), tenant);
        }
        for database in databases {
            let key = (database.tenant.clone(), database.name.clone());
            catalog.databases.insert(key, database);
        }
        for (collection, descriptor) in descriptors {
            catalog.names.insert(descriptor.name.clone(), collection.id);
            catalog.note_public_id(&descriptor);
            collection.describe(descriptor);
        }
        let replaced = publications
            .iter()
            .filter_map(|publication| catalog.collections.remove(&publication.replaces?))
            .collect();
        Ok(Published { sequence, replaced })
    }
}

impl Inner {
    fn check_names(&self, publications: &[Publication]) -> Result<()> {
        let catalog = self.catalog.read();
        let mut names = BTreeSet::new();
        for publication in publications {
            let current = catalog.names.get(&publication.name).copied();
            if current != publication.replaces || !names.insert(&publication.name) {
                return Err(already_exists(&publication.name));
            }
        }
        Ok(())
    }

    fn missing_namespaces(
        &self,
        publications: &[Publication],
        namespaces: &Namespaces,
    ) -> (Vec<Tenant>, Vec<Database>) {
        let catalog = self.catalog.read();
        let mut tenants = catalog.missing(namespaces).tenants;
        let mut databases: Vec<Database> = Vec::new();
        let named = publications
            .iter()
            .map(|publication| (&publication.name.tenant, &publication.name.database));
        let given = namespaces
            .databases
            .iter()
            .map(|(tenant, database)| (tenant, database));
        for (tenant, database) in named.chain(given) {
            let known = tenants.iter().any(|made| made.name == *tenant);
            if !known && !catalog.tenants.contains_key(tenant) {
                tenants.push(Tenant {
                    name: tenant.clone(),
                    resource_name: None,
                });
            }
            let made = databases
                .iter()
                .any(|made| made.tenant == *tenant && made.name == *database);
            if !made
                && !catalog
                    .databases
                    .contains_key(&(tenant.clone(), database.clone()))
            {
                databases.push(Database {
                    id: Uuid::new_v4(),
                    name: database.clone(),
                    tenant: tenant.clone(),
                });
            }
        }
        (tenants, databases)
    }
}
