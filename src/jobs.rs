//! Long work: durable records, bounded workers, progress, cancellation, and an honest end after a crash.
//!
//! It knows nothing of what the work is: the caller hands in a closure that returns the result as JSON.

mod record;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};

use crate::engine::Engine;
use crate::error::{Error, Kind, Result};
use crate::progress::Progress;

pub use record::{JobKind, JobProblem, JobRecord, JobState};

/// The work of a job: runs on a blocking thread, returns its result.
pub type Work = Box<dyn FnOnce(&Progress) -> Result<Value> + Send>;

/// Bounds on jobs.
#[derive(Clone, Copy, Debug)]
pub struct JobLimits {
    /// Running at the same time.
    pub workers: usize,
    /// Waiting.
    pub max_queued: usize,
    /// Finished ones that are remembered.
    pub kept: usize,
}

/// All jobs. Cheap to clone.
#[derive(Clone)]
pub struct Jobs {
    inner: Arc<Inner>,
}

struct Inner {
    engine: Engine,
    runtime: Handle,
    limits: JobLimits,
    workers: Arc<Semaphore>,
    entries: Mutex<BTreeMap<String, Entry>>,
    /// Bumped whenever a job changes its state.
    changes: watch::Sender<u64>,
}

struct Entry {
    record: JobRecord,
    progress: Progress,
}

impl Entry {
    /// The record with its progress as of now.
    fn current(&self) -> JobRecord {
        let mut record = self.record.clone();
        if record.state == JobState::Running {
            record.reading = self.progress.reading().into();
        }
        record.cancellable = match record.state {
            JobState::Queued => true,
            JobState::Running => self.progress.cancellable(),
            _ => false,
        };
        record
    }
}

impl Jobs {
    /// Loads the records; what was queued or running when the process ended is marked interrupted.
    ///
    /// # Errors
    /// `StorageFault`.
    pub fn open(engine: Engine, runtime: Handle, limits: JobLimits) -> Result<Self> {
        let mut entries = BTreeMap::new();
        for payload in engine.jobs()? {
            let mut record: JobRecord = serde_json::from_slice(&payload).map_err(|error| {
                Error::storage("a job's record cannot be decoded").because(error)
            })?;
            if !record.state.is_final() {
                record.state = JobState::Interrupted;
                record.finished_at = Some(Utc::now());
                record.problem = Some(JobProblem {
                    kind: Kind::Unavailable,
                    message: "the service was stopped while the job was running; it left nothing behind and can \
                              be started again"
                        .to_owned(),
                    members: Value::Null,
                });
                // A poisoned store takes no record; the state in memory is right all the same.
                if let Err(error) = persist(&engine, &record) {
                    tracing::warn!(job.id = record.id, %error, "an interrupted job was not recorded");
                }
            }
            let entry = Entry {
                record,
                progress: Progress::default(),
            };
            entries.insert(entry.record.id.clone(), entry);
        }
        Ok(Self {
            inner: Arc::new(Inner {
                engine,
                runtime,
                workers: Arc::new(Semaphore::new(limits.workers)),
                limits,
                entries: Mutex::new(entries),
                changes: watch::Sender::new(0),
            }),
        })
    }

    /// Queues a job; it is durable when this returns. Blocks on that sync.
    ///
    /// # Errors
    /// `Overloaded` when too many wait, `Unavailable` when the store takes no writes.
    pub fn submit(&self, kind: JobKind, request: Value, work: Work) -> Result<JobRecord> {
        let inner = &self.inner;
        let record = JobRecord::new(kind, request, Utc::now());
        let progress = Progress::default();
        {
            let mut entries = inner.entries.lock();
            let queued = entries
                .values()
                .filter(|entry| entry.record.state == JobState::Queued)
                .count();
            if queued >= inner.limits.max_queued {
                return Err(Error::new(
                    Kind::Overloaded,
                    format!("{queued} jobs are waiting already"),
                ));
            }
            let entry = Entry {
                record: record.clone(),
                progress: progress.clone(),
            };
            entries.insert(record.id.clone(), entry);
        }
        if let Err(error) = persist(&inner.engine, &record) {
            inner.entries.lock().remove(&record.id);
            return Err(error);
        }
        self.forget_old();
        let jobs = self.clone();
        let id = record.id.clone();
        inner.runtime.spawn(async move {
            let Ok(_permit) = Arc::clone(&jobs.inner.workers).acquire_owned().await else {
                return;
            };
            let runner = jobs.clone();
            let run = tokio::task::spawn_blocking(move || runner.run(&id, &progress, work));
            if run.await.is_err() {
                tracing::error!("a job's thread panicked outside its work");
            }
        });
        Ok(record)
    }

    fn run(&self, id: &str, progress: &Progress, work: Work) {
        let started = self.update(id, |record| {
            if record.state == JobState::Queued {
                record.state = JobState::Running;
                record.started_at = Some(Utc::now());
            }
        });
        if started.is_none_or(|record| record.state != JobState::Running) {
            return;
        }
        let outcome = catch_unwind(AssertUnwindSafe(|| work(progress))).unwrap_or_else(|panic| {
            let text = panic
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
            Err(Error::internal("the job panicked").because(text.unwrap_or_default()))
        });
        let reading = progress.reading();
        let finished = self.update(id, |record| {
            record.reading = reading.into();
            record.finished_at = Some(Utc::now());
            match &outcome {
                Ok(result) => {
                    record.state = JobState::Succeeded;
                    record.result = Some(result.clone());
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
            match &outcome {
                Ok(_) => tracing::info!(job.id = id, job.kind = %record.kind, "job succeeded"),
                Err(error) => {
                    tracing::warn!(job.id = id, job.kind = %record.kind, error = ?error, "job ended without success");
                }
            }
        }
    }

    /// Changes a record, persists it, tells those who wait.
    fn update(&self, id: &str, change: impl FnOnce(&mut JobRecord)) -> Option<JobRecord> {
        let record = {
            let mut entries = self.inner.entries.lock();
            let entry = entries.get_mut(id)?;
            change(&mut entry.record);
            entry.record.clone()
        };
        if let Err(error) = persist(&self.inner.engine, &record) {
            tracing::error!(job.id = id, %error, "a job's state was not recorded");
        }
        self.inner.changes.send_modify(|version| *version += 1);
        Some(record)
    }

    fn forget_old(&self) {
        let forgotten: Vec<String> = {
            let mut entries = self.inner.entries.lock();
            // Ids are version 7 UUIDs: oldest first.
            let finished: Vec<String> = entries
                .values()
                .filter(|entry| entry.record.state.is_final())
                .map(|entry| entry.record.id.clone())
                .collect();
            let excess = finished.len().saturating_sub(self.inner.limits.kept);
            finished
                .into_iter()
                .take(excess)
                .inspect(|id| {
                    entries.remove(id);
                })
                .collect()
        };
        for id in forgotten {
            if let Err(error) = self.inner.engine.remove_job(&id) {
                tracing::warn!(job.id = id, %error, "an old job was not forgotten");
            }
        }
    }

    /// One job.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn get(&self, id: &str) -> Result<JobRecord> {
        let entries = self.inner.entries.lock();
        entries
            .get(id)
            .map(Entry::current)
            .ok_or_else(|| Error::not_found(format!("there is no job {id:?}")))
    }

    /// Jobs older than `before` (all without), newest first, at most `limit`.
    pub fn list(
        &self,
        state: Option<JobState>,
        kind: Option<JobKind>,
        before: Option<&str>,
        limit: usize,
    ) -> Vec<JobRecord> {
        let entries = self.inner.entries.lock();
        entries
            .values()
            .rev()
            .filter(|entry| before.is_none_or(|before| entry.record.id.as_str() < before))
            .filter(|entry| state.is_none_or(|state| entry.record.state == state))
            .filter(|entry| kind.is_none_or(|kind| entry.record.kind == kind))
            .take(limit)
            .map(Entry::current)
            .collect()
    }

    /// Asks a job to stop. Blocks on recording it.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` when it is over or past the point of no return.
    pub fn cancel(&self, id: &str) -> Result<JobRecord> {
        let too_late = || Error::new(Kind::Conflict, "the job can no longer be canceled");
        let (queued, progress) = {
            let entries = self.inner.entries.lock();
            let entry = entries
                .get(id)
                .ok_or_else(|| Error::not_found(format!("there is no job {id:?}")))?;
            if entry.record.state.is_final() {
                return Err(too_late());
            }
            (
                entry.record.state == JobState::Queued,
                entry.progress.clone(),
            )
        };
        if !progress.cancel() {
            return Err(too_late());
        }
        if queued {
            self.update(id, |record| {
                if record.state == JobState::Queued {
                    record.state = JobState::Canceled;
                    record.finished_at = Some(Utc::now());
                }
            });
        }
        self.get(id)
    }

    /// Waits until the job is over, or the time is.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn wait(&self, id: &str, timeout: Duration) -> Result<JobRecord> {
        let mut changes = self.inner.changes.subscribe();
        let over = async {
            loop {
                let record = self.get(id)?;
                if record.state.is_final() || changes.changed().await.is_err() {
                    return Ok(record);
                }
            }
        };
        match tokio::time::timeout(timeout, over).await {
            Ok(record) => record,
            Err(_) => self.get(id),
        }
    }

    /// Cancels what can be, and waits until nothing runs or the time is over.
    pub async fn drain(&self, timeout: Duration) {
        let mut changes = self.inner.changes.subscribe();
        let active: Vec<(String, Progress)> = {
            let entries = self.inner.entries.lock();
            entries
                .values()
                .filter(|entry| !entry.record.state.is_final())
                .map(|entry| (entry.record.id.clone(), entry.progress.clone()))
                .collect()
        };
        for (_, progress) in &active {
            progress.cancel();
        }
        let quiet = async { while self.running() > 0 && changes.changed().await.is_ok() {} };
        if tokio::time::timeout(timeout, quiet).await.is_err() {
            tracing::warn!("jobs were still running when the grace period ended");
        }
    }

    fn running(&self) -> usize {
        let entries = self.inner.entries.lock();
        entries
            .values()
            .filter(|entry| entry.record.state == JobState::Running)
            .count()
    }
}

fn persist(engine: &Engine, record: &JobRecord) -> Result<()> {
    let payload = serde_json::to_vec(record)
        .map_err(|error| Error::internal("a job's record cannot be encoded").because(error))?;
    engine.put_job(&record.id, payload)
}
