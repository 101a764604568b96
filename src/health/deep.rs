//! Deep checks: a bounded number of threads that give way to requests, one run of a check at a time, its result
//! shared by all who asked for it meanwhile and remembered.

mod check;
mod summary;

use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::watch;

use super::{Report, Status};
use crate::background;
use crate::error::{Error, Kind, Result};
use crate::progress::Progress;

pub use check::DeepCheck;

/// Reports that are remembered; a check of a single collection has its own.
const MAX_REMEMBERED: usize = 1_000;
/// Checks that may wait for a thread.
const MAX_WAITING: usize = 64;
/// Beyond them, the service's own.
const OWN_WAITING: usize = 4;

/// The work of a check; it counts records in the progress and asks it whether to go on.
pub type Work = Box<dyn FnOnce(&Progress) -> Result<Report> + Send>;

/// Bounds on deep checks.
#[derive(Clone, Copy, Debug)]
pub struct DeepLimits {
    /// Running at the same time.
    pub max_running: usize,
    /// How old a result may be that is answered again; zero: none is.
    pub max_age: Duration,
}

/// The result of a run.
#[derive(Clone)]
struct Finished {
    report: Arc<Report>,
    /// What the data was when it began.
    version: u64,
    time: DateTime<Utc>,
    at: Instant,
}

/// How a run ended; without a report where there was nothing to judge.
type Outcome = std::result::Result<Finished, Arc<Error>>;

/// What deep checks found last, and which are running. Cheap to clone.
#[derive(Clone)]
pub struct DeepChecks {
    inner: Arc<Inner>,
}

struct Inner {
    limits: DeepLimits,
    state: Mutex<State>,
    /// How many threads run.
    running: watch::Sender<usize>,
}

#[derive(Default)]
struct State {
    entries: BTreeMap<DeepCheck, Entry>,
    waiting: VecDeque<Run>,
    closed: bool,
}

#[derive(Default)]
struct Entry {
    last: Option<Finished>,
    /// The run that is under way or waits.
    current: Option<Current>,
    /// The one after it, for who asked when it had begun on older data.
    next: Option<(Run, watch::Receiver<Option<Outcome>>)>,
}

/// A run, for who waits for it.
#[derive(Clone)]
struct Current {
    version: u64,
    progress: Progress,
    outcome: watch::Receiver<Option<Outcome>>,
}

struct Run {
    check: DeepCheck,
    version: u64,
    work: Work,
    progress: Progress,
    outcome: watch::Sender<Option<Outcome>>,
}

impl Run {
    fn new(check: DeepCheck, version: u64, work: Work) -> (Self, watch::Receiver<Option<Outcome>>) {
        let (sender, outcome) = watch::channel(None);
        let run = Self {
            check,
            version,
            work,
            progress: Progress::default(),
            outcome: sender,
        };
        (run, outcome)
    }

    fn current(&self, outcome: &watch::Receiver<Option<Outcome>>) -> Current {
        Current {
            version: self.version,
            progress: self.progress.clone(),
            outcome: outcome.clone(),
        }
    }
}

/// What who asks gets.
enum Asked {
    Known(Finished),
    Running(Progress, watch::Receiver<Option<Outcome>>),
}

impl DeepChecks {
    /// Nothing known yet.
    pub fn new(limits: DeepLimits) -> Self {
        Self {
            inner: Arc::new(Inner {
                limits,
                state: Mutex::default(),
                running: watch::Sender::new(0),
            }),
        }
    }

    /// The result of a check: one that is recent enough, and of data of this `version` (the number of the last write to
    /// it); else that of the run that is under way or is begun with `work`. Past `timeout` the run goes on, and the
    /// answer is that, with the last result.
    ///
    /// # Errors
    /// `NotFound` for a collection that is not there, `Overloaded` when too many checks wait, `Unavailable` when
    /// the service stops.
    pub async fn result(
        &self,
        check: DeepCheck,
        version: u64,
        timeout: Duration,
        work: Work,
    ) -> Result<Report> {
        let max_age = self.inner.limits.max_age;
        let (progress, mut outcome) = match self.ask(check, version, max_age, MAX_WAITING, work)? {
            Asked::Known(finished) => return Ok(Report::clone(&finished.report)),
            Asked::Running(progress, outcome) => (progress, outcome),
        };
        let ended = tokio::time::timeout(timeout, outcome.wait_for(Option::is_some)).await;
        match ended {
            Err(_) => Ok(self.still_running(check, &progress)),
            Ok(outcome) => match outcome.as_deref() {
                Ok(Some(Ok(finished))) => Ok(Report::clone(&finished.report)),
                Ok(Some(Err(error))) => Err(error.again()),
                Ok(None) | Err(_) => Err(stopping()),
            },
        }
    }

    /// Runs a check without waiting for it, unless it runs already.
    ///
    /// # Errors
    /// `Overloaded`, `Unavailable`.
    pub fn begin(&self, check: DeepCheck, version: u64, work: Work) -> Result<()> {
        // Callers cannot take all the places.
        let places = MAX_WAITING + OWN_WAITING;
        self.ask(check, version, Duration::ZERO, places, work)
            .map(|_| ())
    }

    /// Status of the last result.
    pub fn last_status(&self, check: DeepCheck) -> Option<Status> {
        let state = self.inner.state.lock();
        let last = state.entries.get(&check)?.last.as_ref()?;
        Some(last.report.status())
    }

    fn ask(
        &self,
        check: DeepCheck,
        version: u64,
        max_age: Duration,
        max_waiting: usize,
        work: Work,
    ) -> Result<Asked> {
        let mut state = self.inner.state.lock();
        if state.closed {
            return Err(stopping());
        }
        if let Some(entry) = state.entries.get(&check)
            && let Some(last) = &entry.last
            && !max_age.is_zero()
            && last.at.elapsed() <= max_age
            && last.version == version
        {
            return Ok(Asked::Known(last.clone()));
        }
        if let Some(entry) = state.entries.get_mut(&check)
            && let Some(current) = &entry.current
        {
            if current.version == version {
                return Ok(Asked::Running(
                    current.progress.clone(),
                    current.outcome.clone(),
                ));
            }
            // One at a time of a check: it begins when the other has ended, and is shared by all who ask until
            // then.
            let (run, outcome) = entry
                .next
                .get_or_insert_with(|| Run::new(check, version, work));
            run.version = version;
            return Ok(Asked::Running(run.progress.clone(), outcome.clone()));
        }
        let free = *self.inner.running.borrow() < self.inner.limits.max_running;
        if !free && state.waiting.len() >= max_waiting {
            return Err(Error::new(
                Kind::Overloaded,
                format!(
                    "{max_waiting} deep checks are waiting already (health.max_deep_checks run at a time)"
                ),
            ));
        }
        state.make_room();
        let (run, outcome) = Run::new(check, version, work);
        let progress = run.progress.clone();
        let entry = state.entries.entry(check).or_default();
        entry.current = Some(run.current(&outcome));
        if free {
            self.start(&mut state, run);
        } else {
            state.waiting.push_back(run);
        }
        Ok(Asked::Running(progress, outcome))
    }

    fn start(&self, state: &mut State, run: Run) {
        let (checks, check) = (self.clone(), run.check);
        self.inner.running.send_modify(|running| *running += 1);
        let spawned = background::spawn("deep-check", move || checks.work_off(run));
        if let Err(error) = spawned {
            self.inner.running.send_modify(|running| *running -= 1);
            tracing::error!(%error, "no thread for a deep check");
            // Its sender is gone with the run: who waits for it is told.
            state.entries.remove(&check);
        }
    }

    /// Runs checks until none waits.
    fn work_off(&self, first: Run) {
        let mut next = Some(first);
        while let Some(run) = next {
            let Run {
                check,
                version,
                work,
                progress,
                outcome,
            } = run;
            let ended = catch_unwind(AssertUnwindSafe(|| work(&progress)));
            let judged = judge(check, version, ended);
            let mut state = self.inner.state.lock();
            let mut follower = None;
            if let Some(entry) = state.entries.get_mut(&check) {
                follower = entry.next.take();
                entry.current = follower.as_ref().map(|(run, outcome)| run.current(outcome));
                match &judged {
                    Ok(finished) => entry.last = Some(finished.clone()),
                    Err(error) if error.kind() == Kind::NotFound && follower.is_none() => {
                        state.entries.remove(&check);
                    }
                    Err(_) => {}
                }
            }
            state.waiting.extend(follower.map(|(run, _)| run));
            outcome.send_replace(Some(judged));
            next = state.waiting.pop_front();
            if next.is_none() {
                // Under the lock: whoever asks from now on sees a free place.
                self.inner.running.send_modify(|running| *running -= 1);
            }
        }
    }

    /// The last result, with the word that the check runs and how far it is.
    fn still_running(&self, check: DeepCheck, progress: &Progress) -> Report {
        let last = {
            let state = self.inner.state.lock();
            let entry = state.entries.get(&check);
            entry.and_then(|entry| entry.last.clone())
        };
        let mut report = last.map_or_else(Report::default, |last| Report::clone(&last.report));
        let reading = progress.reading();
        let so_far = json!({
            "checked_records": reading.done,
            "total_records": reading.total,
            "checked_bytes": reading.bytes_done,
        });
        let output = Some("running".to_owned());
        report.add(&check.to_string(), Status::Warn, so_far, "records", output);
        report
    }

    /// No more checks: those that run end early, those that wait do not begin.
    pub fn close(&self) {
        let waiting = {
            let mut state = self.inner.state.lock();
            state.closed = true;
            let mut waiting = std::mem::take(&mut state.waiting);
            for entry in state.entries.values_mut() {
                if let Some(current) = &entry.current {
                    current.progress.cancel();
                }
                waiting.extend(entry.next.take().map(|(run, _)| run));
            }
            waiting
        };
        for run in waiting {
            run.outcome.send_replace(Some(Err(Arc::new(stopping()))));
        }
    }

    /// Returns when none runs any more, or the time is over.
    pub async fn closed(&self, timeout: Duration) {
        self.close();
        let mut running = self.inner.running.subscribe();
        let quiet = running.wait_for(|running| *running == 0);
        if tokio::time::timeout(timeout, quiet).await.is_err() {
            tracing::warn!("deep checks were still running when the grace period ended");
        }
    }
}

impl State {
    /// Forgets the oldest result when as many are remembered as may be.
    fn make_room(&mut self) {
        if self.entries.len() < MAX_REMEMBERED {
            return;
        }
        let idle = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.current.is_none());
        let oldest = idle
            .min_by_key(|(_, entry)| entry.last.as_ref().map(|last| last.at))
            .map(|(check, _)| *check);
        if let Some(oldest) = oldest {
            self.entries.remove(&oldest);
        }
    }
}

fn stopping() -> Error {
    Error::new(Kind::Unavailable, "the service is stopping")
}

/// A check that could not be made has failed, unless there was nothing to check or nobody wants to know any more.
fn judge(check: DeepCheck, version: u64, ended: std::thread::Result<Result<Report>>) -> Outcome {
    let report = match ended {
        Ok(Ok(report)) => report,
        Ok(Err(error)) if error.kind() == Kind::Canceled => return Err(Arc::new(stopping())),
        Ok(Err(error)) if error.kind() == Kind::NotFound => return Err(Arc::new(error)),
        Ok(Err(error)) => {
            tracing::warn!(%check, ?error, "a deep check could not be made");
            failed(check, error.message())
        }
        Err(_) => {
            tracing::error!(%check, "a deep check panicked");
            failed(check, "the check panicked; see the log")
        }
    };
    Ok(Finished {
        report: Arc::new(report),
        version,
        time: Utc::now(),
        at: Instant::now(),
    })
}

fn failed(check: DeepCheck, why: &str) -> Report {
    let mut report = Report::default();
    let output = Some(format!("the check could not be made: {why}"));
    report.add(
        &format!("{check}:checked"),
        Status::Fail,
        false,
        "boolean",
        output,
    );
    report
}

#[cfg(test)]
mod tests;
