//! Taking a job in: once per key, none beside another on what it claims, and only so many that wait.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use chrono::Utc;
use serde_json::Value;

use super::{Entry, JobKind, JobRecord, JobState, Jobs, RequestKey, Work, persist};
use crate::error::{Error, Kind, Result};
use crate::model::claim::Claim;
use crate::progress::Progress;

/// A job to be.
pub struct Submission {
    /// What it does.
    pub kind: JobKind,
    /// What was asked for, as it is shown.
    pub request: Value,
    /// The caller's name for the request.
    pub key: Option<RequestKey>,
    /// What no other job may work on meanwhile.
    pub claims: Vec<Claim>,
    /// The name of the key that asked for it, `anonymous` where none is needed; none where the service itself did.
    pub requested_by: Option<String>,
    /// What it does.
    pub work: Work,
}

impl Jobs {
    /// The job that was submitted with a key.
    ///
    /// # Errors
    /// `Unprocessable` when it was another request.
    pub fn keyed(&self, key: &RequestKey) -> Result<Option<JobRecord>> {
        keyed(&self.inner.entries.lock(), key)
    }

    /// Queues a job; it is durable when this returns. Blocks on that sync. With a key that is known, the job of
    /// that key is returned and nothing is queued.
    ///
    /// # Errors
    /// `Overloaded` when too many of its like wait (backups, or others), `Conflict` when another job works on what this one claims,
    /// `Unprocessable` when the key belongs to another request, `Unavailable` when the service stops or the
    /// store takes no writes.
    pub fn submit(&self, submission: Submission) -> Result<JobRecord> {
        let inner = &self.inner;
        let Submission {
            kind,
            request,
            key,
            claims,
            requested_by,
            work,
        } = submission;
        let mut record = JobRecord::new(kind, request, Utc::now());
        let progress = Progress::default();
        let _in_order = inner.engine.lock(&inner.recording)?;
        if inner.draining.load(Ordering::Acquire) {
            return Err(Error::new(Kind::Unavailable, "the service is stopping"));
        }
        {
            let entries = inner.entries.lock();
            if let Some(key) = &key
                && let Some(known) = keyed(&entries, key)?
            {
                return Ok(known);
            }
            check_claims(&entries, &claims)?;
            let queued = entries
                .values()
                .filter(|entry| entry.record.state == JobState::Queued)
                .filter(|entry| entry.record.kind.is_backup() == kind.is_backup())
                .count();
            if queued >= inner.limits.max_queued {
                return Err(Error::new(
                    Kind::Overloaded,
                    format!("{queued} jobs are waiting already (jobs.max_queued)"),
                ));
            }
        }
        (record.key, record.claims) = (key, claims);
        record.requested_by = requested_by;
        // Recorded before anybody sees it, who asks with the same key as well.
        persist(&inner.engine, &record)?;
        let entry = Entry {
            record: record.clone(),
            progress: progress.clone(),
        };
        inner.entries.lock().insert(record.id.clone(), entry);
        self.forget_old();
        self.start(record.id.clone(), kind, progress, work);
        Ok(record)
    }
}

fn keyed(entries: &BTreeMap<String, Entry>, key: &RequestKey) -> Result<Option<JobRecord>> {
    let named = |entry: &&Entry| entry.record.key.as_ref().is_some_and(|k| k.key == key.key);
    let Some(found) = entries.values().find(named) else {
        return Ok(None);
    };
    if found.record.key.as_ref() != Some(key) {
        return Err(Error::unprocessable(format!(
            "the Idempotency-Key was used for another request: job {}",
            found.record.id
        ))
        .with("job_id", found.record.id.clone()));
    }
    Ok(Some(found.current()))
}

fn check_claims(entries: &BTreeMap<String, Entry>, claims: &[Claim]) -> Result<()> {
    let active = entries.values().map(|entry| &entry.record);
    for record in active.filter(|record| !record.state.is_final()) {
        if let Some(claim) = claims.iter().find(|claim| record.claims.contains(claim)) {
            return Err(Error::new(
                Kind::Conflict,
                format!(
                    "a {} is under way on {claim}: job {}; try again when it is over",
                    record.kind, record.id
                ),
            )
            .with("job_id", record.id.clone()));
        }
    }
    Ok(())
}
