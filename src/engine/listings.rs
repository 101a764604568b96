//! Collections found and listed, from the catalog in memory.

use std::ops::Bound;

use uuid::Uuid;

use super::Engine;
use super::collection::CollectionInfo;
use super::namespaces::no_collection;
use crate::error::Result;
use crate::model::collection::Lifecycle;
use crate::model::names::CollectionName;

impl Engine {
    /// Finds a collection by its name.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn collection_by_name(&self, name: &CollectionName) -> Result<CollectionInfo> {
        let catalog = self.inner.catalog.read();
        let id = catalog.names.get(name);
        id.and_then(|id| catalog.collections.get(id))
            .map(|collection| collection.info())
            .ok_or_else(|| no_collection(&name.name))
    }

    /// How many live forks there are in the line that a collection is of.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn fork_count(&self, id: Uuid) -> Result<u64> {
        let collection = self.inner.addressed(id)?;
        let descriptor = collection.info().descriptor;
        let root = descriptor.root.unwrap_or_else(|| descriptor.public_id());
        let catalog = self.inner.catalog.read();
        let forks = catalog.collections.values().filter(|collection| {
            let descriptor = collection.info().descriptor;
            descriptor.lifecycle == Lifecycle::Live && descriptor.root == Some(root)
        });
        Ok(forks.count() as u64)
    }

    /// Finds a collection by the id that clients know it by.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn addressed(&self, public_id: Uuid) -> Result<CollectionInfo> {
        Ok(self.inner.addressed(public_id)?.info())
    }

    /// Finds a collection by the id of its content.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn collection(&self, id: Uuid) -> Result<CollectionInfo> {
        Ok(self.inner.live_collection(id)?.info())
    }

    /// All live collections, by id.
    pub fn all_collections(&self) -> Vec<CollectionInfo> {
        let catalog = self.inner.catalog.read();
        catalog
            .collections
            .values()
            .map(|collection| collection.info())
            .filter(|info| info.descriptor.lifecycle == Lifecycle::Live)
            .collect()
    }

    /// At most `limit` live collections after a name, by tenant, database and name, out of those that `wanted` takes.
    pub fn collections_after(
        &self,
        after: Option<&CollectionName>,
        limit: usize,
        wanted: impl Fn(&CollectionName) -> bool,
    ) -> Vec<CollectionInfo> {
        let catalog = self.inner.catalog.read();
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        catalog
            .names
            .range((start, Bound::Unbounded))
            .filter(|(name, _)| wanted(name))
            .filter_map(|(_, id)| catalog.collections.get(id))
            .map(|collection| collection.info())
            .take(limit)
            .collect()
    }

    /// The collections of a database, by id (Chroma's order); empty when there is no such database.
    pub fn collections(&self, tenant: &str, database: &str) -> Vec<CollectionInfo> {
        let catalog = self.inner.catalog.read();
        let mut found: Vec<_> = catalog
            .names_in(tenant, database)
            .filter_map(|(_, id)| catalog.collections.get(&id))
            .map(|collection| collection.info())
            .collect();
        found.sort_by_key(|info| info.descriptor.id);
        found
    }
}
