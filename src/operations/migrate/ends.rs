//! The two ends of a migration: a collection, here or elsewhere.

use std::sync::Arc;

use super::MigrateSettings;
use super::local::{LocalSource, LocalTarget};
use crate::engine::{Engine, Staging};
use crate::environments::{
    EnvironmentKind, Environments, LOCAL, Remote, RemoteCollection, Source, Target,
};
use crate::error::Result;
use crate::model::claim::Claim;
use crate::model::names::CollectionName;
use crate::operations::conflict::existing;
use crate::progress::Progress;

/// One end of a migration.
#[derive(Clone)]
pub struct End {
    /// The environment's name.
    pub environment: String,
    /// `None`: this store.
    pub(super) remote: Option<Arc<Remote>>,
    /// The collection there.
    pub name: CollectionName,
}

impl End {
    /// The collection of an environment; what is not given is the environment's own.
    ///
    /// # Errors
    /// `NotFound` for an unknown environment.
    pub fn new(
        environments: &Environments,
        environment: String,
        tenant: Option<&str>,
        database: Option<&str>,
        name: &str,
    ) -> Result<Self> {
        if environment == LOCAL {
            return Ok(Self {
                environment,
                remote: None,
                name: CollectionName::with_defaults(tenant, database, name),
            });
        }
        let remote = environments.get(&environment)?;
        let settings = remote.settings();
        let tenant = tenant.unwrap_or(&settings.tenant);
        let database = database.unwrap_or(&settings.database);
        Ok(Self {
            environment,
            name: CollectionName::new(tenant, database, name),
            remote: Some(remote),
        })
    }

    pub(super) fn is_local(&self) -> bool {
        self.remote.is_none()
    }

    pub(super) fn is_vectorkeep(&self) -> bool {
        let kind = self.remote.as_ref().map(|remote| remote.settings().kind);
        kind == Some(EnvironmentKind::Vectorkeep)
    }

    pub(super) fn named(&self, name: CollectionName) -> Self {
        Self {
            name,
            ..self.clone()
        }
    }

    /// What no other job may make or replace meanwhile.
    pub(super) fn claim(&self) -> Claim {
        match &self.remote {
            None => Claim::collection(&self.name),
            Some(_) => Claim::remote_collection(&self.environment, &self.name),
        }
    }

    pub(super) fn collection(&self, remote: &Arc<Remote>) -> RemoteCollection {
        RemoteCollection::new(Arc::clone(remote), self.name.clone())
    }

    pub(super) fn source(
        &self,
        engine: &Engine,
        settings: &MigrateSettings,
    ) -> Result<Box<dyn Source>> {
        Ok(match &self.remote {
            Some(remote) => Box::new(self.collection(remote)),
            None => Box::new(LocalSource {
                engine: engine.clone(),
                id: engine.collection_by_name(&self.name)?.descriptor.id,
                catch_up: settings.restore.catch_up,
            }),
        })
    }

    pub(super) fn target(&self, engine: &Engine, staging: Staging) -> Box<dyn Target> {
        match &self.remote {
            Some(remote) => Box::new(self.collection(remote)),
            None => Box::new(LocalTarget {
                engine: engine.clone(),
                staging,
            }),
        }
    }

    /// The collection that has the name now: its id, dimension and number of records.
    pub(super) fn existing(
        &self,
        engine: &Engine,
        progress: &Progress,
    ) -> Result<Option<Existing>> {
        let Some(remote) = &self.remote else {
            return Ok(existing(engine, &self.name)?.map(|info| Existing {
                id: info.descriptor.id.to_string(),
                dimension: info.descriptor.definition.dimension,
                records: info.head.count,
            }));
        };
        if remote.id_of(&self.name, progress)?.is_none() {
            return Ok(None);
        }
        let found = self.collection(remote).describe(progress)?;
        Ok(Some(Existing {
            id: found.id,
            dimension: found.definition.dimension,
            records: found.records,
        }))
    }
}

/// A collection that has a name.
pub(super) struct Existing {
    pub(super) id: String,
    pub(super) dimension: Option<u32>,
    pub(super) records: u64,
}
