//! Running a job: on a worker, to an end that is recorded whatever the work does.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use chrono::Utc;

use super::{Ended, JobKind, JobProblem, JobRecord, JobState, Jobs, Work, interrupt};
use crate::error::{Error, Kind, Result};
use crate::progress::Progress;

impl Jobs {
    /// Runs a queued job once a worker is free.
    pub(super) fn start(&self, id: String, kind: JobKind, progress: Progress, work: Work) {
        let jobs = self.clone();
        let workers = Arc::clone(if kind.is_backup() {
            &jobs.inner.backup_workers
        } else {
            &jobs.inner.workers
        });
        self.inner.runtime.spawn(async move {
            let Ok(_permit) = workers.acquire_owned().await else {
                return;
            };
            let runner = jobs.clone();
            let run = tokio::task::spawn_blocking(move || runner.run(&id, &progress, work));
            if run.await.is_err() {
                tracing::error!("a job's thread panicked outside its work");
            }
        });
    }

    fn run(&self, id: &str, progress: &Progress, work: Work) {
        let started = self.update(id, |record| {
            // One that got its worker when the service began to stop waits for the next start, as the others do.
            let stopping = self.inner.draining.load(Ordering::Acquire);
            if record.state == JobState::Queued && !stopping {
                record.state = JobState::Running;
                record.started_at = Some(Utc::now());
            }
        });
        if started.is_none_or(|record| record.state != JobState::Running) {
            return;
        }
        let Work { about, run } = work;
        let outcome = catch_unwind(AssertUnwindSafe(|| run(progress))).unwrap_or_else(|panic| {
            let text = panic
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
            Err(Error::internal("the job panicked").because(text.unwrap_or_default()))
        });
        let reading = progress.reading();
        let draining = self.inner.draining.load(Ordering::Acquire);
        let stopped = |error: &Error| draining && error.kind() == Kind::Canceled;
        let finished = self.update(id, |record| {
            record.reading = reading.into();
            record.finished_at = Some(Utc::now());
            match &outcome {
                Ok(ended) => {
                    record.state = JobState::Succeeded;
                    record.result = Some(ended.result.clone());
                }
                Err(error) if stopped(error) && !record.cancel_requested => {
                    if record.resumes() {
                        record.state = JobState::Queued;
                        record.finished_at = None;
                    } else {
                        interrupt(record);
                    }
                }
                Err(error) => {
                    record.state = match error.kind() {
                        Kind::Canceled => JobState::Canceled,
                        _ => JobState::Failed,
                    };
                    let mut problem = JobProblem::from(error);
                    // A failure may carry what was found.
                    record.result = problem.take_member("result");
                    record.problem = Some(problem);
                }
            }
        });
        if let Some(record) = finished {
            audit(&record);
            if record.kind.touches_backups() {
                self.inner.backups.send_modify(|version| *version += 1);
            }
            log_end(&record, about, outcome);
        }
    }
}

/// What a finished job's line in the log says: what was made, how many records, how long it took.
fn log_end(record: &JobRecord, about: String, outcome: Result<Ended>) {
    let (id, kind) = (&record.id, record.kind);
    let times = record.started_at.zip(record.finished_at);
    let duration = times.map_or(0, |(started, finished)| {
        (finished - started).num_milliseconds()
    });
    let duration_ms = u64::try_from(duration).unwrap_or(0);
    match outcome {
        Ok(Ended { about, records, .. }) => {
            tracing::info!(job.id = id, job.kind = %kind, what = about, records, duration_ms, "job succeeded");
        }
        Err(error) => {
            let records = record.reading.done;
            tracing::warn!(
                job.id = id, job.kind = %kind, what = about, records, duration_ms, ?error,
                "job ended without success"
            );
        }
    }
}

/// How it ended, for whoever reads who changed what.
pub(super) fn audit(record: &JobRecord) {
    // What is taken up again after the restart has not ended.
    if !record.state.is_final() {
        return;
    }
    tracing::info!(
        target: crate::telemetry::AUDIT,
        key = %record.requested_by.as_deref().unwrap_or("vectorkeep"),
        action = %record.kind,
        target = record.id,
        outcome = ?record.state,
        "audit"
    );
}
