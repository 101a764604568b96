//! Collections as requests and answers name them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::app::verbs::Place;
use crate::environments::LOCAL;
use crate::error::{Error, Result};
use crate::model::names::{
    CollectionName, DEFAULT_DATABASE, DEFAULT_TENANT, check_name, check_tenant_name,
};

/// A collection by name.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CollectionReference {
    /// `default_tenant` without.
    #[serde(default = "default_tenant")]
    #[schema(default = "default_tenant")]
    pub(super) tenant: String,
    /// `default_database` without.
    #[serde(default = "default_database")]
    #[schema(default = "default_database")]
    pub(super) database: String,
    #[schema(example = "articles")]
    pub(super) name: String,
}

pub(super) fn default_tenant() -> String {
    DEFAULT_TENANT.to_owned()
}

pub(super) fn default_database() -> String {
    DEFAULT_DATABASE.to_owned()
}

/// Checks a name that something will be created under.
///
/// # Errors
/// `Unprocessable`.
pub(super) fn checked(name: CollectionName) -> Result<CollectionName> {
    check_tenant_name(&name.tenant)
        .and_then(|()| check_name(&name.database))
        .and_then(|()| check_name(&name.name))
        .map_err(|error| Error::unprocessable(error.message()))?;
    Ok(name)
}

impl From<CollectionReference> for CollectionName {
    fn from(reference: CollectionReference) -> Self {
        Self::new(reference.tenant, reference.database, reference.name)
    }
}

impl From<&CollectionName> for CollectionReference {
    fn from(name: &CollectionName) -> Self {
        Self {
            tenant: name.tenant.clone(),
            database: name.database.clone(),
            name: name.name.clone(),
        }
    }
}

fn local() -> String {
    LOCAL.to_owned()
}

/// One end of a migration.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct MigrateEnd {
    /// A name of `GET /environments`.
    #[serde(default = "local")]
    #[schema(default = "local")]
    pub(super) environment: String,
    /// The environment's own without: `default_tenant`, unless configured otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tenant: Option<String>,
    /// The environment's own without: `default_database`, unless configured otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) database: Option<String>,
    #[schema(example = "articles")]
    pub(super) collection: String,
}

impl From<Place> for MigrateEnd {
    fn from(place: Place) -> Self {
        Self {
            environment: place.environment,
            tenant: Some(place.name.tenant),
            database: Some(place.name.database),
            collection: place.name.name,
        }
    }
}
