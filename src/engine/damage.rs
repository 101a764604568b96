//! Damage that no request can do, for tests of the checks that have to notice it.

use uuid::Uuid;

use super::Engine;
use crate::error::{Error, Result};

/// Flips the lowest bit of a record's vector in memory; what is stored stays as it is.
///
/// # Errors
/// `NotFound`, `StorageFault`.
pub fn damage_vector(engine: &Engine, collection: Uuid, id: &str) -> Result<()> {
    let inner = &engine.inner;
    let _writer = inner.writer.lock();
    let collection = inner.live_collection(collection)?;
    let missing = || Error::not_found(format!("there is no record {id:?}"));
    let ordinal = collection
        .ordinal_of(&inner.store, id)?
        .ok_or_else(missing)?;
    let columns = &mut collection.state.write().columns;
    let slot = columns.slot(ordinal).ok_or_else(missing)?;
    columns.damage(slot);
    Ok(())
}
