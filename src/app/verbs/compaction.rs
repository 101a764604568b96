//! Compacting the store.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Outcome, Planned};
use crate::app::App;
use crate::error::Result;
use crate::jobs::JobKind;
use crate::model::claim::Claim;
use crate::operations::compact;

/// Plans a compaction.
///
/// # Errors
/// Those of [`compact::plan`].
pub fn plan(app: &App) -> Result<Planned> {
    compact::plan(app.engine())?;
    let (engine, catch_up) = (app.engine().clone(), app.compaction_catch_up());
    let weak = Arc::downgrade(&app.inner);
    let planned = Planned::new(JobKind::Compaction, "", move |progress| {
        let outcome = compact::execute(&engine, catch_up, progress)?;
        if let Some(inner) = weak.upgrade() {
            let bytes = outcome.after_bytes;
            inner.compacted_bytes.store(bytes, Ordering::Relaxed);
        }
        Ok(Outcome::Compaction(outcome))
    });
    Ok(planned.claiming([Claim::store()]))
}
