//! The work of jobs that may be taken up again after a restart: made of what their record says.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use chrono::Utc;
use serde::Deserialize;
use serde_json::json;

use super::App;
use crate::engine::CatchUp;
use crate::error::{Error, Result};
use crate::jobs::{JobKind, JobRecord, Work};
use crate::model::selector::Selector;
use crate::operations::prune::{self, Rules};
use crate::operations::{compact, verify};
use crate::progress::Progress;
use crate::repository::format::VerificationLevel;

/// The request of a verification, as its job records it.
#[derive(Clone, Debug, Deserialize)]
struct VerificationRequest {
    backup: Selector,
    level: VerificationLevel,
}

impl App {
    /// The work of a job that was stopped.
    ///
    /// # Errors
    /// Where its record does not say enough.
    pub(super) fn work_again(&self, record: &JobRecord) -> Result<Work> {
        let unreadable =
            |error: serde_json::Error| Error::internal("its request cannot be read").because(error);
        match record.kind {
            JobKind::Verification => {
                let request: VerificationRequest =
                    serde_json::from_value(record.request.clone()).map_err(unreadable)?;
                Ok(self.verification_work(request.backup, request.level))
            }
            JobKind::Prune => {
                let rules = serde_json::from_value(record.request.clone()).map_err(unreadable)?;
                Ok(self.prune_work(rules))
            }
            kind => Err(Error::internal(format!("a {kind} is not taken up again"))),
        }
    }

    /// The work of a compaction's job.
    pub fn compaction_work(&self) -> Work {
        let weak = Arc::downgrade(&self.inner);
        let engine = self.engine().clone();
        let config = &self.config().compaction;
        let catch_up = CatchUp {
            max_last_round: config.max_last_round,
            max_rounds: config.max_rounds,
        };
        Box::new(move |progress: &Progress| {
            let outcome = compact::execute(&engine, catch_up, progress)?;
            if let Some(inner) = weak.upgrade() {
                let bytes = outcome.after_bytes;
                inner.compacted_bytes.store(bytes, Ordering::Relaxed);
            }
            Ok(json!(outcome))
        })
    }

    /// The work of a verification's job.
    pub fn verification_work(&self, backup: Selector, level: VerificationLevel) -> Work {
        let app = self.clone();
        Box::new(move |progress: &Progress| {
            let repository = app.repository()?;
            let id = repository.select(&backup)?;
            let outcome = verify::execute(&repository, &id, level, Utc::now(), progress)?;
            if outcome.ok {
                Ok(json!(outcome))
            } else {
                Err(verify::failure(&id, &outcome))
            }
        })
    }

    /// The work of a pruning's job.
    pub fn prune_work(&self, rules: Rules) -> Work {
        let app = self.clone();
        Box::new(move |progress: &Progress| {
            let (repository, grace) = (app.repository()?, app.grace());
            let outcome = prune::execute(&repository, rules, grace, Utc::now(), progress)?;
            Ok(json!(outcome))
        })
    }
}
