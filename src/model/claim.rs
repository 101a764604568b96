//! What a job works on alone: no other that claims the same is taken in before it is over.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::names::CollectionName;

/// A claim, as a refusal names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Claim(String);

impl Claim {
    /// On the store as a whole.
    pub fn store() -> Self {
        Self("store".to_owned())
    }

    /// On removing backups.
    pub fn retention() -> Self {
        Self("retention".to_owned())
    }

    /// On a collection of this store that is made or replaced.
    pub fn collection(name: &CollectionName) -> Self {
        Self(format!("collection {name}"))
    }

    /// On a collection of another environment that is made or replaced.
    pub fn remote_collection(environment: &str, name: &CollectionName) -> Self {
        Self(format!("collection {name} of {environment}"))
    }

    /// On a migration, by the key that it is known by while it is unfinished.
    pub fn migration(key: &str) -> Self {
        Self(format!("migration {key}"))
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
