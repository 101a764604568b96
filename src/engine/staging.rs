//! Collections built aside and made visible in one step: what restore and migrate end with.
//!
//! A staged collection has an id and no name, so no client reaches it. Its records keep the ordinals
//! they are given. Publishing flips name → id pointers in one transaction, for several at once. What a
//! crash leaves staged is swept at the next start.

use std::collections::BTreeSet;
use std::sync::Arc;

use uuid::Uuid;

use super::catalog::{CatalogBatch, Database, Tenant};
use super::collection::{Collection, CollectionInfo};
use super::format::{self, Head, StoredRecord};
use super::namespaces::already_exists;
use super::store::{Batch, Tree};
use super::{Engine, Inner};
use crate::error::Result;
use crate::model::collection::{CollectionDefinition, CollectionDescriptor, Lifecycle};
use crate::model::digest::RecordHash;
use crate::model::names::{CollectionName, check_name, check_tenant_name};
use crate::model::record::RecordView;

/// A record for a staged collection.
#[derive(Clone, Debug)]
pub struct StagedRecord {
    /// Its place in the order.
    pub ordinal: u64,
    /// Its canonical bytes; the hash is computed from them here.
    pub canonical: Vec<u8>,
}

/// A staged collection to make visible.
#[derive(Clone, Debug)]
pub struct Publication {
    /// The staged collection.
    pub staged: Uuid,
    /// The name it gets. A missing tenant or database is made.
    pub name: CollectionName,
    /// The collection that the name points to now, to be dropped; `None`: the name must be free.
    pub replaces: Option<Uuid>,
    /// The collection that the line of forks began with, if this is a fork.
    pub root: Option<Uuid>,
}

impl Engine {
    /// Creates an empty staged collection.
    ///
    /// # Errors
    /// `Unavailable`, `StorageFault`.
    pub fn stage(&self, name: CollectionName, definition: CollectionDefinition) -> Result<Uuid> {
        let descriptor = CollectionDescriptor {
            id: Uuid::new_v4(),
            name,
            definition,
            lifecycle: Lifecycle::Staging,
            root: None,
        };
        let id = descriptor.id;
        let inner = &self.inner;
        let mut writer = inner.writer.lock();
        let head = Head {
            sequence: writer.next(),
            ..Head::default()
        };
        let mut batch = Batch::default();
        batch.put_descriptor(&descriptor);
        batch.put_head(id, &head);
        inner.commit_locked(&mut writer, batch)?;
        let collection = Arc::new(Collection::new(descriptor, head));
        inner.catalog.write().collections.insert(id, collection);
        Ok(id)
    }

    /// Puts records into a staged collection, replacing those at the same ordinals. Not yet durable.
    ///
    /// # Errors
    /// `NotFound`, `StorageFault` for bytes that are no record, `Unavailable`.
    pub fn stage_records(&self, staged: Uuid, records: &[StagedRecord]) -> Result<()> {
        let inner = &self.inner;
        let collection = inner.collection(staged)?;
        let hashed: Vec<_> = records
            .iter()
            .map(|record| {
                let view = RecordView::parse(&record.canonical)?;
                Ok((
                    record,
                    RecordHash::of(&record.canonical),
                    view,
                    view.metadata()?,
                ))
            })
            .collect::<Result<_>>()?;
        let mut writer = inner.writer.lock();
        let sequence = writer.next();
        let mut head = collection.info().head;
        let mut batch = Batch::default();
        let mut replaced = Vec::new();
        for (record, hash, view, _) in &hashed {
            if let Some(payload) = collection.payload(&inner.store, record.ordinal)? {
                let old = StoredRecord::decode(&payload)?;
                head.subtract(&old.hash, old.canonical.len() as u64);
                replaced.push((record.ordinal, old.view.metadata()?));
            }
            head.add(hash, record.canonical.len() as u64);
            head.next_ordinal = head.next_ordinal.max(record.ordinal + 1);
            let payload = format::encode_record(sequence, hash, &record.canonical);
            batch.put(
                Tree::Records,
                format::record_key(staged, record.ordinal),
                payload,
            );
            batch.put(
                Tree::Ids,
                format::id_key(staged, view.id),
                record.ordinal.to_le_bytes().to_vec(),
            );
        }
        head.sequence = sequence;
        batch.put_head(staged, &head);
        inner.commit_locked(&mut writer, batch)?;
        let mut state = collection.state.write();
        let mut vector = Vec::new();
        for (ordinal, metadata) in &replaced {
            state.metadata.remove(*ordinal, metadata);
        }
        for (record, _, view, metadata) in &hashed {
            vector.clear();
            vector.extend(view.embedding());
            state.columns.put(record.ordinal, sequence, &vector);
            state.metadata.insert(record.ordinal, metadata);
        }
        state.head = head;
        Ok(())
    }

    /// Removes records from a staged collection by ordinal; those that are not there are passed over.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`, `StorageFault`.
    pub fn unstage_records(&self, staged: Uuid, ordinals: &[u64]) -> Result<()> {
        let inner = &self.inner;
        let collection = inner.collection(staged)?;
        let mut writer = inner.writer.lock();
        let mut head = collection.info().head;
        let mut batch = Batch::default();
        let mut removed = Vec::new();
        for ordinal in ordinals {
            let Some(payload) = collection.payload(&inner.store, *ordinal)? else {
                continue;
            };
            let old = StoredRecord::decode(&payload)?;
            head.subtract(&old.hash, old.canonical.len() as u64);
            removed.push((*ordinal, old.view.metadata()?));
            batch.remove(Tree::Records, format::record_key(staged, *ordinal));
            // The id may have moved to a newer ordinal meanwhile.
            if collection.ordinal_of(&inner.store, old.view.id)? == Some(*ordinal) {
                batch.remove(Tree::Ids, format::id_key(staged, old.view.id));
            }
        }
        if batch.len() == 0 {
            return Ok(());
        }
        head.sequence = writer.next();
        batch.put_head(staged, &head);
        inner.commit_locked(&mut writer, batch)?;
        let mut state = collection.state.write();
        for (ordinal, metadata) in &removed {
            state.columns.remove(*ordinal);
            state.metadata.remove(*ordinal, metadata);
        }
        state.head = head;
        Ok(())
    }

    /// Sets the ordinal that the next new record gets, where the copied collection was further.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`, `StorageFault`.
    pub fn finish_staging(
        &self,
        staged: Uuid,
        definition: &CollectionDefinition,
        next_ordinal: u64,
    ) -> Result<CollectionInfo> {
        let inner = &self.inner;
        let collection = inner.collection(staged)?;
        let mut writer = inner.writer.lock();
        let info = collection.info();
        let mut head = info.head;
        head.next_ordinal = head.next_ordinal.max(next_ordinal);
        let mut descriptor = CollectionDescriptor::clone(&info.descriptor);
        descriptor.definition = definition.clone();
        let mut batch = Batch::default();
        batch.put_head(staged, &head);
        batch.put_descriptor(&descriptor);
        let sequence = inner.commit_locked(&mut writer, batch)?;
        {
            let mut state = collection.state.write();
            state.head = head;
            state.descriptor = Arc::new(descriptor);
        }
        drop(writer);
        inner.store.wait_synced(sequence)?;
        Ok(collection.info())
    }

    /// Makes staged collections visible, all in one step, durable when this returns.
    ///
    /// # Errors
    /// `NameConflict` when a name no longer points where the publication says; nothing is changed then.
    pub fn publish(&self, publications: &[Publication]) -> Result<()> {
        let inner = &self.inner;
        for publication in publications {
            check_tenant_name(&publication.name.tenant)?;
            check_name(&publication.name.database)?;
            check_name(&publication.name.name)?;
        }
        let mut writer = inner.writer.lock();
        inner.check_names(publications)?;
        let mut batch = Batch::default();
        let (tenants, databases) = inner.missing_namespaces(publications);
        tenants.iter().for_each(|tenant| batch.put_tenant(tenant));
        databases
            .iter()
            .for_each(|database| batch.put_database(database));
        let mut descriptors = Vec::new();
        for publication in publications {
            if let Some(old) = publication.replaces {
                inner.drop_in_batch(&mut batch, &publication.name, old)?;
            }
            let collection = inner.collection(publication.staged)?;
            let mut descriptor = CollectionDescriptor::clone(&collection.info().descriptor);
            descriptor.name = publication.name.clone();
            descriptor.lifecycle = Lifecycle::Live;
            descriptor.root = publication.root;
            batch.put_descriptor(&descriptor);
            batch.put_name(&publication.name, publication.staged);
            descriptors.push((collection, descriptor));
        }
        let sequence = inner.commit_locked(&mut writer, batch)?;
        let replaced = {
            // One hold of the catalog's lock: readers see all names flipped or none.
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
                collection.state.write().descriptor = Arc::new(descriptor);
            }
            publications
                .iter()
                .filter_map(|publication| catalog.collections.remove(&publication.replaces?))
                .collect::<Vec<_>>()
        };
        drop(writer);
        inner.discard(replaced);
        inner.store.wait_synced(sequence)
    }

    /// Gives a staged collection up; its records are removed in the background.
    pub fn discard_staged(&self, staged: Uuid) {
        let removed = self.inner.catalog.write().collections.remove(&staged);
        self.inner.discard(removed);
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

    fn missing_namespaces(&self, publications: &[Publication]) -> (Vec<Tenant>, Vec<Database>) {
        let catalog = self.catalog.read();
        let mut tenants: Vec<Tenant> = Vec::new();
        let mut databases: Vec<Database> = Vec::new();
        for CollectionName {
            tenant, database, ..
        } in publications.iter().map(|p| &p.name)
        {
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
