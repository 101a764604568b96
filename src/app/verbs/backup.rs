//! Making a backup.

use chrono::Utc;

use super::{BackupOutcome, Outcome, Planned};
use crate::app::App;
use crate::error::Result;
use crate::jobs::JobKind;
use crate::operations::backup::{self, BackupRequest};

/// Plans a backup of this moment.
///
/// # Errors
/// Those of [`backup::plan`].
pub fn plan(app: &App, request: BackupRequest) -> Result<Planned> {
    let (engine, settings) = (app.engine().clone(), app.backup_settings());
    let repository = app.repository()?;
    let plan = backup::plan(&engine, &repository, request, settings, Utc::now())?;
    Ok(Planned::new(JobKind::Backup, "", move |progress| {
        let manifest = backup::execute(&engine, &repository, plan, settings, progress)?;
        Ok(Outcome::Backup(Box::new(BackupOutcome::from(&manifest))))
    }))
}
