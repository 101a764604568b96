//! What to do when the target collection exists.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::engine::Engine;
use crate::error::{Error, Kind, Result};
use crate::model::names::CollectionName;

/// Policy for a target that exists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnConflict {
    /// Refuse; nothing changes for any collection.
    #[default]
    Fail,
    /// Use the next free name.
    Rename,
    /// Swap the existing collection out.
    Replace,
}

/// What happens to one target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// The name was free.
    Created,
    /// The existing collection was swapped out.
    Replaced,
    /// The name was taken; another one was used.
    Renamed,
}

/// A target, decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The name it will have.
    pub name: CollectionName,
    /// How it comes to it.
    pub action: Action,
    /// The collection that goes.
    pub replaces: Option<Uuid>,
}

/// Names tried by `rename` before it gives up.
const MAX_RENAMES: u32 = 10_000;

/// Decides a target. `suffix` is what a renamed collection gets (`name-restored-1`); `taken` names are
/// spoken for by other targets of the same request.
///
/// # Errors
/// `NameConflict` under `fail`.
pub fn decide(
    engine: &Engine,
    wanted: CollectionName,
    policy: OnConflict,
    suffix: &str,
    taken: &[CollectionName],
) -> Result<Target> {
    let existing = |name: &CollectionName| match engine.collection_by_name(name) {
        Ok(info) => Ok(Some(info.descriptor.id)),
        Err(error) if error.kind() == Kind::NotFound => Ok(None),
        Err(error) => Err(error),
    };
    if taken.contains(&wanted) {
        return Err(Error::unprocessable(format!(
            "two collections would become {wanted}"
        )));
    }
    let Some(current) = existing(&wanted)? else {
        return Ok(Target {
            name: wanted,
            action: Action::Created,
            replaces: None,
        });
    };
    match policy {
        OnConflict::Fail => Err(Error::name_conflict(format!(
            "the collection {wanted} exists; choose on_conflict \"rename\" or \"replace\", or another name"
        ))
        .with("collection", wanted.to_string())),
        OnConflict::Replace => Ok(Target {
            name: wanted,
            action: Action::Replaced,
            replaces: Some(current),
        }),
        OnConflict::Rename => {
            for number in 1..=MAX_RENAMES {
                let mut name = wanted.clone();
                name.name = format!("{}-{suffix}-{number}", wanted.name);
                if existing(&name)?.is_none() && !taken.contains(&name) {
                    return Ok(Target {
                        name,
                        action: Action::Renamed,
                        replaces: None,
                    });
                }
            }
            Err(Error::name_conflict(format!("no free name was found for {wanted}")))
        }
    }
}
