//! Rehearsing a restore.

use chrono::Utc;

use super::{Outcome, Planned};
use crate::app::App;
use crate::error::Result;
use crate::jobs::JobKind;
use crate::model::selector::Selector;
use crate::operations::drill;

/// Plans a drill with a backup. One that does not go well fails the job, which keeps what was found.
///
/// # Errors
/// Those of [`drill::plan`].
pub fn plan(app: &App, backup: &Selector) -> Result<Planned> {
    let repository = app.repository()?;
    let manifest = drill::plan(app.engine(), &repository, backup)?;
    let (engine, settings) = (app.engine().clone(), app.drill_settings());
    let about = manifest.id.clone();
    Ok(Planned::new(JobKind::Drill, about, move |progress| {
        let now = Utc::now();
        let outcome = drill::execute(&engine, &repository, &manifest, settings, now, progress)?;
        if outcome.ok {
            return Ok(Outcome::Drill(outcome));
        }
        let failure = drill::failure(&outcome);
        Err(failure.with("result", Outcome::Drill(outcome).recorded()))
    }))
}
