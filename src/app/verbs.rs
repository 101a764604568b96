//! The verbs that run as jobs, free of HTTP.
//!
//! Each module plans what a request asks for: it refuses what cannot be done, and says what is done and what nobody else may
//! work on meanwhile. What is planned runs as a job, whose record holds its [`Outcome`]. Routes, what the service does by itself
//! and what a restart takes up again all come through here.

pub mod backup;
pub mod compaction;
pub mod drill;
pub mod import;
pub mod migration;
mod outcome;
pub mod prune;
pub mod restore;
pub mod verification;

use serde_json::Value;

pub use self::outcome::{BackupOutcome, MigrationOutcome, Outcome, Place};
use super::App;
use crate::error::{Error, Result};
use crate::jobs::{Ended, JobKind, JobRecord, RequestKey, Submission, Work};
use crate::model::claim::Claim;
use crate::progress::Progress;

/// What a request leads to.
pub struct Planned {
    kind: JobKind,
    claims: Vec<Claim>,
    work: Work,
}

impl Planned {
    /// `about` is what it works on, for the log, as far as that is known before it ran.
    fn new(
        kind: JobKind,
        about: impl Into<String>,
        run: impl FnOnce(&Progress) -> Result<Outcome> + Send + 'static,
    ) -> Self {
        let run = move |progress: &Progress| run(progress).map(Ended::from);
        Self {
            kind,
            claims: Vec::new(),
            work: Work {
                about: about.into(),
                run: Box::new(run),
            },
        }
    }

    /// With what it works on alone.
    fn claiming(self, claims: impl IntoIterator<Item = Claim>) -> Self {
        let claims = claims.into_iter().collect();
        Self { claims, ..self }
    }
}

/// What a caller says of a job beside what is to be done.
pub struct JobRequest {
    /// What was asked for, as the job's record shows it.
    pub shown: Value,
    /// The caller's name for the request.
    pub key: Option<RequestKey>,
    /// Who asks; none where the service itself does.
    pub requested_by: Option<String>,
}

impl App {
    /// Plans and queues a job. A key that is known leads to its job at once: what was planned for it then need not be possible
    /// now. Blocks.
    ///
    /// # Errors
    /// Those of the plan, and those of [`Jobs::submit`](crate::jobs::Jobs::submit).
    pub fn submit(
        &self,
        request: JobRequest,
        plan: impl FnOnce(&Self) -> Result<Planned>,
    ) -> Result<JobRecord> {
        let known = request.key.as_ref().map(|key| self.jobs().keyed(key));
        if let Some(known) = known.transpose()?.flatten() {
            return self.jobs().whole(known);
        }
        let Planned { kind, claims, work } = plan(self)?;
        self.jobs().submit(Submission {
            kind,
            request: request.shown,
            key: request.key,
            claims,
            requested_by: request.requested_by,
            work,
        })
    }

    /// The work of a job that was stopped, made of what its record says.
    ///
    /// # Errors
    /// Where its record does not say enough.
    pub(super) fn work_again(&self, record: &JobRecord) -> Result<Work> {
        let unreadable =
            |error: serde_json::Error| Error::internal("its request cannot be read").because(error);
        let request = record.request.clone();
        let planned = match record.kind {
            JobKind::Verification => {
                verification::again(self, serde_json::from_value(request).map_err(unreadable)?)
            }
            JobKind::Prune => {
                prune::again(self, serde_json::from_value(request).map_err(unreadable)?)
            }
            kind => Err(Error::internal(format!("a {kind} is not taken up again"))),
        };
        planned.map(|planned| planned.work)
    }
}
