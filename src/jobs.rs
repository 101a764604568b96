//! Long work: durable records, bounded workers, progress, cancellation, and an honest end after a crash.
//!
//! It knows nothing of what the work is: the caller hands in a closure, and says what stands in the log of it.

mod metrics;
mod record;
mod run;
mod submit;

use std::collections::BTreeMap;
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
use crate::model::stored;
use crate::progress::Progress;

pub use record::{JobKind, JobProblem, JobRecord, JobState, RequestKey};
pub use submit::Submission;

/// The work of a job.
pub struct Work {
    /// What it is about, for the log: a backup or collections, as far as that is known before it ran.
    pub about: String,
    /// What is done.
    pub run: Run,
}

/// Runs on a blocking thread. A failure may carry what was found as its member `result`.
pub type Run = Box<dyn FnOnce(&Progress) -> Result<Ended> + Send>;

/// What work that went well leaves.
pub struct Ended {
    /// What the record holds.
    pub result: Value,
    /// What it was about, for the log.
    pub about: String,
    /// Records that were stored, read or compared, where the work counts them.
    pub records: Option<u64>,
}

/// Bounds on jobs.
#[derive(Clone, Copy, Debug)]
pub struct JobLimits {
    /// Running at the same time, backups apart.
    pub workers: usize,
    /// Backups running at the same time.
    pub backup_workers: usize,
    /// Waiting.
    pub max_queued: usize,
    /// Finished ones that are remembered.
    pub kept: usize,
    /// For how long they are.
    pub kept_for: Duration,
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
    /// Nothing else makes a backup wait.
    backup_workers: Arc<Semaphore>,
    entries: Mutex<BTreeMap<String, Entry>>,
    /// Jobs whose records could not be read at the start, and why. They stay in the store as they are.
    unreadable: BTreeMap<String, String>,
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
        metrics::start();
        let mut entries = BTreeMap::new();
        let mut unreadable = BTreeMap::new();
        engine.each_job(|id, payload| {
            // Damaged, or of a newer version: no reason to keep the data from being served.
            let read = payload.and_then(|payload| Ok(stored::decode::<JobRecord>(&payload)?));
            match read {
                Ok(mut record) => {
                    leave_in_store(&mut record);
                    let entry = Entry {
                        record,
                        progress: Progress::default(),
                    };
                    entries.insert(entry.record.id.clone(), entry);
                }
                Err(error) => {
                    tracing::warn!(
                        job.id = id,
                        ?error,
                        "a job's record cannot be read; it is set aside"
                    );
                    unreadable.insert(id, error.message().to_owned());
                }
            }
        })?;
        let unfinished = entries.values_mut().map(|entry| &mut entry.record);
        for record in unfinished.filter(|record| !record.state.is_final()) {
            if record.resumes() {
                record.state = JobState::Queued;
                // Once, if it ran; one that only waited goes on waiting.
                record.resumed = true;
            } else if record.cancel_requested {
                cancel_unrun(record);
            } else {
                interrupt(record);
            }
            if record.state.is_final() {
                metrics::ended_unrun(record);
                run::audit(record);
            }
            // A poisoned store takes no record; the state in memory is right all the same.
            if let Err(error) = persist(&engine, record) {
                tracing::warn!(job.id = record.id, %error, "an interrupted job was not recorded");
            }
        }
        Ok(Self {
            inner: Arc::new(Inner {
                engine,
                runtime,
                workers: Arc::new(Semaphore::new(limits.workers)),
                backup_workers: Arc::new(Semaphore::new(limits.backup_workers)),
                limits,
                entries: Mutex::new(entries),
                unreadable,
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
                    self.start(record.id, record.kind, progress, work);
                }
                Err(error) => {
                    tracing::warn!(job.id = record.id, %error, "a job cannot be taken up again");
                    self.update(&record.id, interrupt);
                }
            }
        }
    }

    /// Changes a record: persists it, then shows it, and tells those who wait. Nobody sees an end that a power cut could
    /// take back.
    fn update(&self, id: &str, change: impl FnOnce(&mut JobRecord)) -> Option<JobRecord> {
        // Where its holder hangs in the store nothing can be recorded any more; who waits is told all the same.
        let in_order = self.inner.engine.lock(&self.inner.recording);
        let mut record = {
            let entries = self.inner.entries.lock();
            entries.get(id)?.record.clone()
        };
        let before = record.state;
        // What is over stays as it is; its result may stand in the store alone.
        if before.is_final() {
            return Some(record);
        }
        change(&mut record);
        let recorded = match &in_order {
            Ok(_) => persist(&self.inner.engine, &record),
            Err(error) => Err(Error::new(error.kind(), error.message())),
        };
        let mut shown = record.clone();
        match recorded {
            Ok(()) => leave_in_store(&mut shown),
            Err(error) => {
                tracing::error!(job.id = id, %error, "a job's state was not recorded");
            }
        }
        if let Some(entry) = self.inner.entries.lock().get_mut(id) {
            entry.record = shown;
        }
        metrics::changed(before, &record);
        drop(in_order);
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

    /// A job with its result, also where that stands in the store only. Blocks.
    ///
    /// # Errors
    /// `NotFound` when it was forgotten meanwhile, `StorageFault` when its record cannot be read any more.
    pub fn whole(&self, mut record: JobRecord) -> Result<JobRecord> {
        if record.result_is_stored {
            let stored = self.inner.engine.job(&record.id)?;
            let stored = stored.ok_or_else(|| unknown(&record.id))?;
            record.result = stored::decode::<JobRecord>(&stored)?.result;
            record.result_is_stored = false;
        }
        Ok(record)
    }

    /// One job; a long result is left in the store (see [`Jobs::whole`]).
    ///
    /// # Errors
    /// `NotFound`; `StorageFault` for one whose record could not be read at the start.
    pub fn get(&self, id: &str) -> Result<JobRecord> {
        let entries = self.inner.entries.lock();
        entries
            .get(id)
            .map(Entry::current)
            .ok_or_else(|| match self.inner.unreadable.get(id) {
                Some(why) => Error::storage(format!(
                    "the record of the job {id} cannot be read: {why}. Nothing else depends on it"
                )),
                None => unknown(id),
            })
    }

    /// Jobs older than `before` (all without), newest first, at most `limit`; long results are left in the store.
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

    /// How many wait and how many run.
    pub fn under_way(&self) -> (usize, usize) {
        let entries = self.inner.entries.lock();
        let (mut queued, mut running) = (0, 0);
        for entry in entries.values() {
            match entry.record.state {
                JobState::Queued => queued += 1,
                JobState::Running => running += 1,
                _ => {}
            }
        }
        (queued, running)
    }

    /// Asks a job to stop. Blocks on recording it.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` when it is over or past the point of no return.
    pub fn cancel(&self, id: &str) -> Result<JobRecord> {
        let too_late = || Error::new(Kind::Conflict, "the job can no longer be canceled");
        let (queued, progress) = {
            let entries = self.inner.entries.lock();
            let entry = entries.get(id).ok_or_else(|| unknown(id))?;
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
        let updated = self.update(id, |record| {
            record.cancel_requested = true;
            if queued && record.state == JobState::Queued {
                cancel_unrun(record);
                run::audit(record);
            }
        });
        // It may have ended while its end was being recorded.
        if updated.is_some_and(|record| !record.cancel_requested) {
            return Err(too_late());
        }
        self.get(id)
    }

    /// Waits until the job is over, or the time is, or it will not begin before the service has stopped.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn wait(&self, id: &str, timeout: Duration) -> Result<JobRecord> {
        let mut changes = self.inner.changes.subscribe();
        let over = async {
            loop {
                let record = self.get(id)?;
                let stuck =
                    record.state == JobState::Queued && self.inner.draining.load(Ordering::Acquire);
                if stuck || record.state.is_final() || changes.changed().await.is_err() {
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
        self.inner.backup_workers.close();
        self.inner.changes.send_modify(|version| *version += 1);
        let quiet = async { while self.under_way().1 > 0 && changes.changed().await.is_ok() {} };
        if tokio::time::timeout(timeout, quiet).await.is_err() {
            tracing::warn!("jobs were still running when the grace period ended");
        }
    }
}

/// Longest result, as JSON, that is held in memory: jobs are remembered for weeks.
const MAX_HELD_BYTES: usize = 16_384;

/// Leaves a long result of a recorded job where it is recorded.
fn leave_in_store(record: &mut JobRecord) {
    let is_long = |result: &Value| result.to_string().len() > MAX_HELD_BYTES;
    if record.state.is_final() && record.result.as_ref().is_some_and(is_long) {
        record.result = None;
        record.result_is_stored = true;
    }
}

fn unknown(id: &str) -> Error {
    Error::not_found(format!("there is no job {id:?}"))
}

/// That a job was canceled before it ran.
fn cancel_unrun(record: &mut JobRecord) {
    record.state = JobState::Canceled;
    record.finished_at = Some(Utc::now());
    record.problem = Some(JobProblem {
        kind: Kind::Canceled,
        message: "the job was canceled before it ran".to_owned(),
        members: Value::Null,
    });
}

fn interrupt(record: &mut JobRecord) {
    let was = match record.started_at {
        Some(_) => "running; it left nothing behind",
        None => "waiting",
    };
    record.state = JobState::Interrupted;
    record.finished_at = Some(Utc::now());
    record.problem = Some(JobProblem {
        kind: Kind::Unavailable,
        message: format!(
            "the service was stopped while the job was {was}; it can be started again"
        ),
        members: Value::Null,
    });
}

fn persist(engine: &Engine, record: &JobRecord) -> Result<()> {
    engine.put_job(&record.id, stored::encode(record))
}
