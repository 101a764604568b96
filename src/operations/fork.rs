//! Forking: a copy under another name of the same database that remembers which line it is of.

use uuid::Uuid;

use super::conflict::{Action, DecidedTarget, Winner};
use super::migrate;
use super::restore::RestoreSettings;
use crate::engine::{CollectionInfo, Engine, already_exists};
use crate::error::Result;
use crate::model::names::{CollectionName, check_name};
use crate::progress::Progress;

/// Forks a collection: records, order, metadata and configuration as of one moment, proved equal by
/// digest; from then on the two have nothing in common.
///
/// # Errors
/// `NotFound`; `InvalidArgument` for a bad name; `NameConflict` when it is taken; `InsufficientStorage`.
pub fn fork(
    engine: &Engine,
    source: Uuid,
    new_name: String,
    settings: &RestoreSettings,
    progress: &Progress,
) -> Result<CollectionInfo> {
    check_name(&new_name)?;
    let found = engine.addressed(source)?;
    let origin = &found.descriptor;
    let name = CollectionName {
        name: new_name,
        ..origin.name.clone()
    };
    if engine.collection_by_name(&name).is_ok() {
        return Err(already_exists(&name));
    }
    migrate::check_copy_room(engine, &found)?;
    let target = DecidedTarget {
        name,
        action: Action::Created,
        replaces: None,
    };
    let root = origin.root.unwrap_or_else(|| origin.public_id());
    let target = (&target, Winner::default());
    let copied = migrate::copy(engine, origin.id, target, Some(root), settings, progress)?;
    engine.collection(copied.id)
}
