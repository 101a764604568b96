//! Verifying a backup.

use chrono::Utc;
use serde::Deserialize;

use super::{Outcome, Planned};
use crate::app::App;
use crate::error::{Kind, Result};
use crate::jobs::JobKind;
use crate::model::selector::Selector;
use crate::operations::verify;
use crate::repository::Named;
use crate::repository::format::VerificationLevel;

/// What is asked for, as a job's record holds it.
#[derive(Clone, Debug, Deserialize)]
pub struct VerificationRequest {
    /// Which backup.
    pub backup: Selector,
    /// How deep to look.
    pub level: VerificationLevel,
}

/// Plans a verification. Damage fails the job, which keeps what was found.
///
/// # Errors
/// `NotFound`, `StorageFault`.
pub fn plan(app: &App, request: &VerificationRequest) -> Result<Planned> {
    let repository = app.repository()?;
    // A restart asks again which one is the latest; what is in the queue keeps to this one.
    let Named { id, manifest } = repository.named(&request.backup)?;
    if manifest.is_none() {
        match repository.backup(&id) {
            // A damaged manifest is what a verification is to find.
            Err(error) if error.kind() != Kind::BackupCorrupt => return Err(error),
            _ => {}
        }
    }
    let (backup, level) = (Selector::Id(id), request.level);
    again(app, VerificationRequest { backup, level })
}

/// One that was taken in before a restart: its backup is looked for when it runs.
pub(super) fn again(app: &App, request: VerificationRequest) -> Result<Planned> {
    let VerificationRequest { backup, level } = request;
    let (app, about) = (app.clone(), backup.to_string());
    Ok(Planned::new(
        JobKind::Verification,
        about,
        move |progress| {
            let repository = app.repository()?;
            let id = repository.select(&backup)?;
            let outcome = verify::execute(&repository, &id, level, Utc::now(), progress)?;
            if outcome.ok {
                return Ok(Outcome::Verification(outcome));
            }
            let failure = verify::failure(&id, &outcome);
            Err(failure.with("result", Outcome::Verification(outcome).recorded()))
        },
    ))
}
