//! Damage and hanging calls that no request can cause, for tests of what has to notice them.

use std::sync::mpsc::Receiver;

use uuid::Uuid;

use super::Engine;
use super::store::Call;
use crate::error::{Error, Result};

/// Flips the lowest bit of a record's vector in memory; what is stored stays as it is.
///
/// # Errors
/// `NotFound`, `StorageFault`.
pub fn damage_vector(engine: &Engine, collection: Uuid, id: &str) -> Result<()> {
    let inner = &engine.inner;
    let _writer = inner.lock_writer()?;
    let collection = inner.live_collection(collection)?;
    let missing = || Error::not_found(format!("there is no record {id:?}"));
    let ordinal = collection
        .ordinal_of(&inner.store, id)?
        .ok_or_else(missing)?;
    let columns = &mut collection.memory.write().columns;
    let slot = columns.slot(ordinal).ok_or_else(missing)?;
    columns.damage(slot);
    Ok(())
}

/// Hangs in a commit, with the write lock held, as a thread does whose write sled never ends; until `end` is closed.
///
/// # Errors
/// `Unavailable` when another hangs already.
pub fn hang_in_commit(engine: &Engine, end: &Receiver<()>) -> Result<()> {
    let _writer = engine.inner.lock_writer()?;
    engine.inner.store.hang(Call::Commit, end)
}

/// As [`hang_in_commit`], in the sync that writes share; the write lock is free.
///
/// # Errors
/// None.
pub fn hang_in_sync(engine: &Engine, end: &Receiver<()>) -> Result<()> {
    engine.inner.store.hang(Call::Sync, end)
}
