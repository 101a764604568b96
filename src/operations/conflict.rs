//! What to do when the target collection exists.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::engine::{CollectionInfo, Engine};
use crate::error::{Error, Kind, Result};
use crate::model::names::CollectionName;

/// Policy for a target that exists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnConflict {
    /// Refuse; nothing changes for any collection.
    #[default]
    Fail,
    /// Leave the existing collection alone.
    Skip,
    /// Use the next free name.
    Rename,
    /// Swap the existing collection out.
    Replace,
    /// Unite both, record by record.
    Merge,
}

/// Whose record stays in a merge where both sides have its id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Winner {
    /// The one that is brought in.
    #[default]
    Incoming,
    /// The one that is there.
    Existing,
}

/// What happens to one target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// The name was free.
    Created,
    /// The existing collection was swapped out.
    Replaced,
    /// Existing and new records were united.
    Merged,
    /// The name was taken; another one was used.
    Renamed,
    /// The name was taken; nothing was done.
    Skipped,
}

/// A target, decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecidedTarget {
    /// The name it will have.
    pub name: CollectionName,
    /// How it comes to it.
    pub action: Action,
    /// The collection that has the name now and gives it up.
    pub replaces: Option<Uuid>,
}

/// How the records of two states of a collection compare, by id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordCounts {
    /// Not there before.
    pub inserted: u64,
    /// There with another content.
    pub updated: u64,
    /// There with the same content.
    pub unchanged: u64,
    /// Not brought in, because the other side's stays.
    pub skipped: u64,
    /// There before and not any more.
    pub deleted: u64,
}

/// Records that are brought in, sorted by what the other side has under their ids.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Overlap {
    /// Nothing.
    pub(super) inserted: u64,
    /// The same content.
    pub(super) same: u64,
    /// Another content.
    pub(super) different: u64,
}

impl Overlap {
    /// What that means for a target that has `there` records.
    pub(super) fn counts(self, action: Action, winner: Winner, there: u64) -> RecordCounts {
        let stays = action == Action::Merged && winner == Winner::Existing;
        RecordCounts {
            inserted: self.inserted,
            updated: if stays { 0 } else { self.different },
            unchanged: self.same,
            skipped: if stays { self.different } else { 0 },
            deleted: match action {
                Action::Replaced => there.saturating_sub(self.same + self.different),
                _ => 0,
            },
        }
    }
}

impl RecordCounts {
    /// Where the target is left alone.
    pub fn all_skipped(records: u64) -> Self {
        Self {
            skipped: records,
            ..Self::default()
        }
    }
}

/// Names tried by `rename` before it gives up.
const MAX_RENAMES: u32 = 10_000;

/// Refuses a winner where nothing is merged. `given` is the member's value as the caller knows it.
///
/// # Errors
/// `Unprocessable`.
pub fn winner(policy: OnConflict, given: Option<Winner>) -> Result<Winner> {
    if given.is_some() && policy != OnConflict::Merge {
        return Err(Error::unprocessable(
            "merge_winner is only for on_conflict \"merge\"",
        ));
    }
    Ok(given.unwrap_or_default())
}

/// The live collection of a name.
///
/// # Errors
/// `StorageFault`; that there is none is no error.
pub fn existing(engine: &Engine, name: &CollectionName) -> Result<Option<CollectionInfo>> {
    match engine.collection_by_name(name) {
        Ok(info) => Ok(Some(info)),
        Err(error) if error.kind() == Kind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

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
) -> Result<DecidedTarget> {
    if taken.contains(&wanted) {
        return Err(Error::unprocessable(format!(
            "two collections would become {wanted}"
        )));
    }
    let current = existing(engine, &wanted)?.map(|info| info.descriptor.id);
    let is_free =
        |name: &CollectionName| Ok(existing(engine, name)?.is_none() && !taken.contains(name));
    let (name, action) = resolve(wanted, current.is_some(), policy, suffix, is_free)?;
    Ok(DecidedTarget {
        name,
        action,
        replaces: current.filter(|_| matches!(action, Action::Replaced | Action::Merged)),
    })
}

/// The name and the way to it, for a place where `exists` says whether the wanted name is taken.
///
/// # Errors
/// `NameConflict` under `fail`; those of `is_free`.
pub fn resolve(
    wanted: CollectionName,
    exists: bool,
    policy: OnConflict,
    suffix: &str,
    is_free: impl Fn(&CollectionName) -> Result<bool>,
) -> Result<(CollectionName, Action)> {
    if !exists {
        return Ok((wanted, Action::Created));
    }
    match policy {
        OnConflict::Fail => Err(Error::name_conflict(format!(
            "the collection {wanted} exists; choose on_conflict \"skip\", \"rename\", \"replace\" or \"merge\", \
             or another name"
        ))
        .with("collection", wanted.to_string())),
        OnConflict::Skip => Ok((wanted, Action::Skipped)),
        OnConflict::Replace => Ok((wanted, Action::Replaced)),
        OnConflict::Merge => Ok((wanted, Action::Merged)),
        OnConflict::Rename => {
            for number in 1..=MAX_RENAMES {
                let mut name = wanted.clone();
                name.name = format!("{}-{suffix}-{number}", wanted.name);
                if is_free(&name)? {
                    return Ok((name, Action::Renamed));
                }
            }
            Err(Error::name_conflict(format!(
                "no free name was found for {wanted}"
            )))
        }
    }
}
