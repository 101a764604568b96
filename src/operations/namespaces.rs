//! Tenants and databases in backups: those without collections are there as well.

use std::collections::BTreeMap;

use crate::engine::{Namespaces, Tenant};
use crate::repository::format::{Manifest, ManifestTenant};

/// As a manifest has them.
pub(super) fn described(namespaces: Namespaces) -> Vec<ManifestTenant> {
    let tenants = namespaces.tenants.into_iter().map(|tenant| {
        let described = ManifestTenant {
            name: tenant.name.clone(),
            resource_name: tenant.resource_name,
            databases: Vec::new(),
        };
        (tenant.name, described)
    });
    let mut tenants: BTreeMap<String, ManifestTenant> = tenants.collect();
    for (tenant, database) in namespaces.databases {
        if let Some(tenant) = tenants.get_mut(&tenant) {
            tenant.databases.push(database);
        }
    }
    tenants.into_values().collect()
}

/// As a store has them.
pub(super) fn of(manifest: &Manifest) -> Namespaces {
    let tenants = manifest.tenants.iter();
    let databases = tenants.clone().flat_map(|tenant| {
        let databases = tenant.databases.iter();
        databases.map(|database| (tenant.name.clone(), database.clone()))
    });
    Namespaces {
        databases: databases.collect(),
        tenants: tenants
            .map(|tenant| Tenant {
                name: tenant.name.clone(),
                resource_name: tenant.resource_name.clone(),
            })
            .collect(),
    }
}
