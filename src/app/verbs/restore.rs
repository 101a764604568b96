//! Restoring collections of a backup.

use super::outcome::about_collections;
use super::{Outcome, Planned};
use crate::app::App;
use crate::disk;
use crate::error::Result;
use crate::jobs::JobKind;
use crate::model::claim::Claim;
use crate::operations::restore::{self, RestoreRequest};
use crate::progress::Progress;

/// Plans a restore.
///
/// # Errors
/// Those of [`restore::plan`]; `InsufficientStorage`.
pub fn plan(app: &App, request: &RestoreRequest) -> Result<Planned> {
    let repository = app.repository()?;
    let plan = restore::plan(app.engine(), &repository, request)?;
    app.engine().check_room(plan.needed_bytes)?;
    let claims: Vec<Claim> = plan.target_names().map(Claim::collection).collect();
    let about = about_collections(plan.target_names(), plan.backup());
    let (engine, settings) = (app.engine().clone(), app.restore_settings());
    let planned = Planned::new(JobKind::Restore, about, move |progress| {
        let outcome = restore::execute(&engine, &repository, &plan, &settings, progress)?;
        Ok(Outcome::Restore(outcome))
    });
    Ok(planned.claiming(claims))
}

/// What a restore would do.
pub struct RestorePreview {
    /// What would happen to each collection.
    pub found: restore::RestorePreview,
    /// Bytes of disk that it takes, at most.
    pub needed_bytes: u64,
    /// Bytes that are free on the store's disk.
    pub available_bytes: u64,
}

/// Looks at what a restore would do; changes nothing.
///
/// # Errors
/// Those of [`restore::plan`] and of its preview.
pub fn preview(app: &App, request: &RestoreRequest, progress: &Progress) -> Result<RestorePreview> {
    let repository = app.repository()?;
    let plan = restore::plan(app.engine(), &repository, request)?;
    Ok(RestorePreview {
        found: plan.preview(app.engine(), &repository, progress)?,
        needed_bytes: plan.needed_bytes,
        available_bytes: disk::available_bytes(app.engine().data_dir())?,
    })
}
