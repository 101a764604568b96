//! Migrating a collection to another name or environment.

use super::outcome::Place;
use super::{MigrationOutcome, Outcome, Planned};
use crate::app::App;
use crate::disk;
use crate::error::Result;
use crate::jobs::JobKind;
use crate::operations::migrate::{self, MigratePlan, MigratePreview, MigrateRequest};
use crate::progress::Progress;

/// Plans a migration.
///
/// # Errors
/// Those of [`migrate::plan`]; `Unprocessable` for what the target cannot hold, `InsufficientStorage`.
pub fn plan(app: &App, request: MigrateRequest) -> Result<Planned> {
    let settings = app.migrate_settings();
    let plan = migrate::plan(app.engine(), request, &settings)?;
    plan.check_losses()?;
    app.engine().check_room(plan.needed_bytes)?;
    let (engine, claims) = (app.engine().clone(), plan.claims());
    let about = Place::from(plan.target()).to_string();
    let planned = Planned::new(JobKind::Migration, about, move |progress| {
        let done = migrate::execute(&engine, &plan, &settings, progress)?;
        Ok(Outcome::Migration(Box::new(MigrationOutcome::new(
            &plan, done,
        ))))
    });
    Ok(planned.claiming(claims))
}

/// What a migration would do.
pub struct MigrationPreview {
    /// The checked request.
    pub plan: MigratePlan,
    /// What would happen.
    pub found: MigratePreview,
    /// Bytes that are free on the store's disk.
    pub available_bytes: u64,
}

/// Looks at what a migration would do; changes nothing.
///
/// # Errors
/// Those of [`migrate::plan`] and [`MigratePlan::preview`].
pub fn preview(
    app: &App,
    request: MigrateRequest,
    progress: &Progress,
) -> Result<MigrationPreview> {
    let settings = app.migrate_settings();
    let plan = migrate::plan(app.engine(), request, &settings)?;
    let found = plan.preview(app.engine(), &settings, progress)?;
    Ok(MigrationPreview {
        plan,
        found,
        available_bytes: disk::available_bytes(app.engine().data_dir())?,
    })
}
