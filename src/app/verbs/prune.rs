//! Deleting backups by rules.

use chrono::Utc;

use super::{Outcome, Planned};
use crate::app::App;
use crate::error::Result;
use crate::jobs::JobKind;
use crate::model::claim::Claim;
use crate::operations::prune::{self, PruneOutcome, Rules};

/// Plans a pruning.
///
/// # Errors
/// `Unprocessable` when no rule keeps anything.
pub fn plan(app: &App, rules: Rules) -> Result<Planned> {
    prune::check(rules)?;
    again(app, rules)
}

/// One that was taken in before a restart.
pub(super) fn again(app: &App, rules: Rules) -> Result<Planned> {
    let app = app.clone();
    let planned = Planned::new(JobKind::Prune, "", move |progress| {
        let (repository, grace) = (app.repository()?, app.grace());
        let outcome = prune::execute(&repository, rules, grace, Utc::now(), progress)?;
        Ok(Outcome::Prune(outcome))
    });
    Ok(planned.claiming([Claim::retention()]))
}

/// What a pruning would do; changes nothing.
///
/// # Errors
/// Those of [`prune::plan`].
pub fn preview(app: &App, rules: Rules) -> Result<PruneOutcome> {
    prune::plan(&app.repository()?, rules, app.grace(), Utc::now())
}
