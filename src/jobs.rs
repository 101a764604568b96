//! Long work: durable records, bounded workers, progress, cancellation, and an honest end after a crash.
//!
//! It knows nothing of what the work is: the caller hands in a closure that returns the result as JSON.

mod meters;
mod record;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chrono::Utc;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};

use crate::engine::Engine;
use crate::error::{Error, Kind, Result};
use crate::progress::Progress;

pub use record::{JobKind, JobProblem, JobRecord, JobState, RequestKey};

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
    /// For how long they are.
    pub kept_for: Duration,
}

/// A job to be.
pub struct Submission {
    /// What it does.
    pub kind: JobKind,
    /// What was asked for, as it is shown.
    pub request: Value,
    /// The caller's name for the request.
    pub key: Option<RequestKey>,
    /// What no other job may work on meanwhile.
    pub claims: Vec<String>,
    /// The name of the key that asked for it; none where the service itself did, or has no keys.
    pub requested_by: Option<String>,
    /// What it does.
    pub work: Work,
}

impl Submission {
    /// A job with no key and no claims.
    pub fn new(kind: JobKind, request: Value, work: Work) -> Self {
        Self {
            kind,
            request,
            key: None,
            claims: Vec::new(),
            requested_by: None,
            work,
        }
    }
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
    /// Bumped when a job has ended that may have changed the backups.
    backups: watch::Sender<u64>,
    /// Held from a change of a record until it is stored: records are stored in the order of their changes.
    recording: Mutex<()>,
    /// Set when the service stops: what is canceled from then on, nobody asked to cancel.
    draining: AtomicBool,
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
    /// Loads the records. What was queued or running when the process ended waits for [`Jobs::resume`] where
    /// its kind can be run again and was not already, else it is marked interrupted.
    ///
    /// # Errors
    /// `StorageFault`.
    pub fn open(engine: Engine, runtime: Handle, limits: JobLimits) -> Result<Self> {
        meters::start();
        let mut entries = BTreeMap::new();
        for payload in engine.jobs()? {
            let mut record: JobRecord = serde_json::from_slice(&payload).map_err(|error| {
                Error::storage("a job's record cannot be decoded").because(error)
            })?;
            if !record.state.is_final() {
                if record.resumes() {
                    record.state = JobState::Queued;
                    record.resumed = true;
                } else if record.cancel_requested {
                    record.state = JobState::Canceled;
                    record.finished_at = Some(Utc::now());
                } else {
                    interrupt(&mut record);
                }
                if record.state.is_final() {
                    meters::ended_unrun(&record);
                }
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
                backups: watch::Sender::new(0),
                recording: Mutex::new(()),
                draining: AtomicBool::new(false),
            }),
        })
    }

    /// Changes whenever a job has ended that may have changed the backups.
    pub fn backup_changes(&self) -> watch::Receiver<u64> {
        self.inner.backups.subscribe()
    }

    /// Takes up what waits from before the restart, with the work that `work_of` gives for a record.
    pub fn resume(&self, work_of: impl Fn(&JobRecord) -> Result<Work>) {
        let waiting: Vec<(JobRecord, Progress)> = {
            let entries = self.inner.entries.lock();
            entries
                .values()
                .filter(|entry| entry.record.state == JobState::Queued && entry.record.resumed)
                .map(|entry| (entry.record.clone(), entry.progress.clone()))
                .collect()
        };
        for (record, progress) in waiting {
            match work_of(&record) {
                Ok(work) => {
                    tracing::info!(job.id = record.id, job.kind = %record.kind, "a job is taken up again");
                    self.start(record.id, progress, work);
                }
                Err(error) => {
                    tracing::warn!(job.id = record.id, %error, "a job cannot be taken up again");
                    self.update(&record.id, interrupt);
                }
            }
        }
    }

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
    /// `Overloaded` when too many wait, `Conflict` when another job works on what this one claims,
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
        let _in_order = inner.recording.lock();
        if inner.draining.load(Ordering::Acquire) {
            return Err(Error::new(Kind::Unavailable, "the service is stopping"));
        }
        {
            let mut entries = inner.entries.lock();
            if let Some(key) = &key
                && let Some(known) = keyed(&entries, key)?
            {
                return Ok(known);
            }
            check_claims(&entries, &claims)?;
            let queued = entries
                .values()
                .filter(|entry| entry.record.state == JobState::Queued)
                .count();
            if queued >= inner.limits.max_queued {
                return Err(Error::new(
                    Kind::Overloaded,
                    format!("{queued} jobs are waiting already (jobs.max_queued)"),
                ));
            }
            (record.key, record.claims) = (key, claims);
            record.requested_by = requested_by;
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
        self.start(record.id.clone(), progress, work);
        Ok(record)
    }

    /// Runs a queued job once a worker is free.
    fn start(&self, id: String, progress: Progress, work: Work) {
        let jobs = self.clone();
        self.inner.runtime.spawn(async move {
            let Ok(_permit) = Arc::clone(&jobs.inner.workers).acquire_owned().await else {
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
        let draining = self.inner.draining.load(Ordering::Acquire);
        let stopped = |error: &Error| draining && error.kind() == Kind::Canceled;
        let finished = self.update(id, |record| {
            record.reading = reading.into();
            record.finished_at = Some(Utc::now());
            match &outcome {
                Ok(result) => {
                    record.state = JobState::Succeeded;
                    record.result = Some(result.clone());
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
        let _in_order = self.inner.recording.lock();
        let (before, record) = {
            let mut entries = self.inner.entries.lock();
            let entry = entries.get_mut(id)?;
            let before = entry.record.state;
            change(&mut entry.record);
            (before, entry.record.clone())
        };
        meters::changed(before, &record);
        if let Err(error) = persist(&self.inner.engine, &record) {
            tracing::error!(job.id = id, %error, "a job's state was not recorded");
        }
        self.inner.changes.send_modify(|version| *version += 1);
        Some(record)
    }

    /// Forgets finished jobs: the oldest beyond the number that is remembered, and those that are too old.
    pub fn forget_old(&self) {
        let limits = self.inner.limits;
        let now = Utc::now();
        let too_old = |record: &JobRecord| {
            let age = record.finished_at.map(|finished| now - finished);
            age.and_then(|age| age.to_std().ok())
                .is_some_and(|age| age > limits.kept_for)
        };
        let forgotten: Vec<String> = {
            let mut entries = self.inner.entries.lock();
            // Ids are version 7 UUIDs: oldest first.
            let finished: Vec<&JobRecord> = entries
                .values()
                .map(|entry| &entry.record)
                .filter(|record| record.state.is_final())
                .collect();
            let excess = finished.len().saturating_sub(limits.kept);
            let forgotten: Vec<String> = finished
                .into_iter()
                .enumerate()
                .filter(|(index, record)| *index < excess || too_old(record))
                .map(|(_, record)| record.id.clone())
                .collect();
            for id in &forgotten {
                entries.remove(id);
            }
            forgotten
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
        // Recorded: a job that was told to stop is not taken up again after a restart.
        self.update(id, |record| {
            record.cancel_requested = true;
            if queued && record.state == JobState::Queued {
                record.state = JobState::Canceled;
                record.finished_at = Some(Utc::now());
            }
        });
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
        self.inner.draining.store(true, Ordering::Release);
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
        // What waits is not begun any more, and what it holds is let go.
        self.inner.workers.close();
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

fn interrupt(record: &mut JobRecord) {
    record.state = JobState::Interrupted;
    record.finished_at = Some(Utc::now());
    record.problem = Some(JobProblem {
        kind: Kind::Unavailable,
        message: "the service was stopped while the job was running; it left nothing behind and can be started \
                  again"
            .to_owned(),
        members: Value::Null,
    });
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

fn check_claims(entries: &BTreeMap<String, Entry>, claims: &[String]) -> Result<()> {
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

fn persist(engine: &Engine, record: &JobRecord) -> Result<()> {
    let payload = serde_json::to_vec(record)
        .map_err(|error| Error::internal("a job's record cannot be encoded").because(error))?;
    engine.put_job(&record.id, payload)
}

/// How it ended, for whoever reads who changed what.
fn audit(record: &JobRecord) {
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
