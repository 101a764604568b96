//! Deep checks: a bounded number of threads that give way to requests, one run of a check at a time, its result
//! shared by all who asked for it meanwhile and remembered.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::watch;
use uuid::Uuid;

use super::{Report, Sample, Status};
use crate::background;
use crate::error::{Error, Kind, Result};
use crate::progress::Progress;

/// Reports that are remembered; a check of a single collection has its own.
const MAX_REMEMBERED: usize = 1_000;
/// Checks that may wait for a thread.
const MAX_WAITING: usize = 64;

/// What is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DeepCheck {
    /// The disk and the repository.
    Storage,
    /// These records, all without, against themselves.
    Collections(Option<Uuid>),
    /// Embeddings of one collection, or of all.
    Embeddings(Option<Uuid>, Sample),
}

impl DeepCheck {
    /// The collection, where it is of one.
    fn collection(self) -> Option<Uuid> {
        match self {
            Self::Storage => None,
            Self::Collections(id) | Self::Embeddings(id, _) => id,
        }
    }

    /// Whether it looks at all that another one looks at.
    fn covers(self, other: Self) -> bool {
        let all = |ours: Option<Uuid>, theirs: Option<Uuid>| ours.is_none() || ours == theirs;
        match (self, other) {
            (Self::Storage, Self::Storage) => true,
            (Self::Collections(ours), Self::Collections(theirs)) => all(ours, theirs),
            (Self::Embeddings(ours, sample), Self::Embeddings(theirs, other)) => {
                all(ours, theirs) && sample >= other
            }
            _ => false,
        }
    }

    /// The name of its last result in the overview.
    fn observation(self) -> &'static str {
        match self {
            Self::Storage => "storage:last_check",
            Self::Collections(_) => "collections:integrity",
            Self::Embeddings(..) => "embeddings:sample",
        }
    }
}

impl fmt::Display for DeepCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Storage => "storage",
            Self::Collections(_) => "collections",
            Self::Embeddings(..) => "embeddings",
        })
    }
}

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
    /// Of the run that is under way or waits.
    current: Option<(Progress, watch::Receiver<Option<Outcome>>)>,
}

struct Run {
    check: DeepCheck,
    work: Work,
    progress: Progress,
    outcome: watch::Sender<Option<Outcome>>,
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

    /// The result of a check: one that is recent enough, else that of the run that is under way or is begun with
    /// `work`. Past `timeout` the run goes on, and the answer is that, with the last result.
    ///
    /// # Errors
    /// `NotFound` for a collection that is not there, `Overloaded` when too many checks wait, `Unavailable` when
    /// the service stops.
    pub async fn result(&self, check: DeepCheck, timeout: Duration, work: Work) -> Result<Report> {
        let (progress, mut outcome) = match self.ask(check, self.inner.limits.max_age, work)? {
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
    pub fn begin(&self, check: DeepCheck, work: Work) -> Result<()> {
        self.ask(check, Duration::ZERO, work).map(|_| ())
    }

    /// Status of the last result.
    pub fn last_status(&self, check: DeepCheck) -> Option<Status> {
        let state = self.inner.state.lock();
        let last = state.entries.get(&check)?.last.as_ref()?;
        Some(last.report.status())
    }

    fn ask(&self, check: DeepCheck, max_age: Duration, work: Work) -> Result<Asked> {
        let mut state = self.inner.state.lock();
        if state.closed {
            return Err(stopping());
        }
        if let Some(entry) = state.entries.get(&check) {
            if let Some(last) = &entry.last
                && !max_age.is_zero()
                && last.at.elapsed() <= max_age
            {
                return Ok(Asked::Known(last.clone()));
            }
            if let Some((progress, outcome)) = &entry.current {
                return Ok(Asked::Running(progress.clone(), outcome.clone()));
            }
        }
        let free = *self.inner.running.borrow() < self.inner.limits.max_running;
        if !free && state.waiting.len() >= MAX_WAITING {
            return Err(Error::new(
                Kind::Overloaded,
                format!(
                    "{MAX_WAITING} deep checks are waiting already (health.max_deep_checks run at a time)"
                ),
            ));
        }
        state.make_room();
        let (sender, outcome) = watch::channel(None);
        let progress = Progress::default();
        let entry = state.entries.entry(check).or_default();
        entry.current = Some((progress.clone(), outcome.clone()));
        let run = Run {
            check,
            work,
            progress: progress.clone(),
            outcome: sender,
        };
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
                work,
                progress,
                outcome,
            } = run;
            let judged = judge(check, catch_unwind(AssertUnwindSafe(|| work(&progress))));
            let mut state = self.inner.state.lock();
            if let Some(entry) = state.entries.get_mut(&check) {
                entry.current = None;
                match &judged {
                    Ok(finished) => entry.last = Some(finished.clone()),
                    Err(error) if error.kind() == Kind::NotFound => {
                        state.entries.remove(&check);
                    }
                    Err(_) => {}
                }
            }
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

    /// Adds the last results to the overview: the newest of each kind, and those of parts that are not as they
    /// should be and that no newer one includes. What was found of collections that are gone does not count.
    pub(super) fn summarize(
        &self,
        report: &mut Report,
        is_live: impl Fn(Uuid) -> bool,
        most: usize,
    ) {
        let finished: Vec<(DeepCheck, Finished)> = {
            let state = self.inner.state.lock();
            let last = state.entries.iter();
            last.filter_map(|(check, entry)| Some((*check, entry.last.clone()?)))
                .collect()
        };
        let newest = |check: DeepCheck| {
            let kind = check.observation();
            let same = finished.iter().filter(|(other, _)| {
                other.observation() == kind && other.collection().is_none_or(&is_live)
            });
            same.map(|(_, other)| other.at).max()
        };
        let mut shown: Vec<(DeepCheck, &Finished, Status)> = finished
            .iter()
            .filter(|(check, _)| check.collection().is_none_or(&is_live))
            .map(|(check, last)| (*check, last, last.report.status_of(&is_live)))
            .filter(|(check, last, status)| {
                let superseded = finished
                    .iter()
                    .any(|(other, newer)| newer.at > last.at && other.covers(*check));
                let whole = check.collection().is_none();
                !superseded && (whole || *status > Status::Pass || newest(*check) == Some(last.at))
            })
            .collect();
        shown.sort_by_key(|(_, last, status)| (std::cmp::Reverse(*status), last.at));
        for (check, last, status) in shown.into_iter().take(most.max(3)) {
            let observed = json!({
                "check": check.to_string(),
                "collection_id": check.collection(),
                "status": status.word(),
                "age_ms": u64::try_from(last.at.elapsed().as_millis()).unwrap_or(u64::MAX),
            });
            report.put(
                check.observation(),
                super::Check {
                    status,
                    observed_value: observed,
                    observed_unit: "check",
                    time: last.time,
                    output: last.report.first_output(status, &is_live),
                    collection: None,
                },
            );
        }
    }

    /// No more checks: those that run end early, those that wait do not begin.
    pub fn close(&self) {
        let waiting = {
            let mut state = self.inner.state.lock();
            state.closed = true;
            for entry in state.entries.values() {
                if let Some((progress, _)) = &entry.current {
                    progress.cancel();
                }
            }
            std::mem::take(&mut state.waiting)
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
fn judge(check: DeepCheck, ended: std::thread::Result<Result<Report>>) -> Outcome {
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
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn checks(max_running: usize, max_age: Duration) -> DeepChecks {
        DeepChecks::new(DeepLimits {
            max_running,
            max_age,
        })
    }

    fn passing() -> Work {
        Box::new(|_| {
            let mut report = Report::default();
            report.pass("a:b", 1, "things");
            Ok(report)
        })
    }

    fn of(number: u128) -> DeepCheck {
        DeepCheck::Collections(Some(Uuid::from_u128(number)))
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn who_asks_meanwhile_shares_the_run_and_who_asks_soon_its_result() {
        let checks = checks(1, LONG);
        let runs = Arc::new(AtomicUsize::new(0));
        let (go, wait) = mpsc::channel::<()>();
        let counted = Arc::clone(&runs);
        let first: Work = Box::new(move |progress| {
            counted.fetch_add(1, Ordering::SeqCst);
            progress.phase("check", 10);
            progress.advance(4, 100);
            wait.recv().unwrap();
            passing()(progress)
        });
        // Past the bound it is said how far the run is.
        let so_far = checks
            .result(DeepCheck::Storage, Duration::ZERO, first)
            .await;
        let so_far = so_far.unwrap();
        assert_eq!(so_far.status(), Status::Warn);
        let joined: Vec<_> = (0..5)
            .map(|_| {
                let (checks, counted) = (checks.clone(), Arc::clone(&runs));
                let work: Work = Box::new(move |progress| {
                    counted.fetch_add(1, Ordering::SeqCst);
                    passing()(progress)
                });
                tokio::spawn(async move { checks.result(DeepCheck::Storage, LONG, work).await })
            })
            .collect();
        let mut running = checks.inner.running.subscribe();
        running.wait_for(|running| *running == 1).await.unwrap();
        go.send(()).unwrap();
        let mut times = Vec::new();
        for joined in joined {
            times.push(joined.await.unwrap().unwrap().checks["a:b"][0].time);
        }
        let again = checks.result(DeepCheck::Storage, LONG, passing()).await;
        times.push(again.unwrap().checks["a:b"][0].time);
        times.dedup();
        assert_eq!((times.len(), runs.load(Ordering::SeqCst)), (1, 1));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_failed_result_stays_a_failure_while_the_check_runs_again() {
        let checks = checks(1, Duration::ZERO);
        let panics: Work = Box::new(|_| panic!("of a check"));
        let failed = checks.result(DeepCheck::Storage, LONG, panics).await;
        assert_eq!(failed.unwrap().status(), Status::Fail);
        let (_go, wait) = mpsc::channel::<()>();
        let slow: Work = Box::new(move |progress| {
            while progress.check().is_ok() && wait.try_recv().is_err() {
                std::thread::yield_now();
            }
            progress.check().and_then(|()| passing()(progress))
        });
        let running = checks
            .result(DeepCheck::Storage, Duration::ZERO, slow)
            .await;
        let running = running.unwrap();
        assert_eq!(running.status(), Status::Fail);
        assert!(running.checks.contains_key("storage"), "{running:?}");
        // It ends early, what waits does not begin, and nothing begins any more.
        checks.begin(of(1), passing()).unwrap();
        checks.closed(LONG).await;
        let refused = checks.result(of(1), LONG, passing()).await.unwrap_err();
        assert_eq!(refused.kind(), Kind::Unavailable);
        assert_eq!(checks.last_status(of(1)), None);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_waits_and_what_is_remembered_is_bounded() {
        let checks = checks(2, Duration::ZERO);
        let (go, wait) = mpsc::channel::<()>();
        let wait = Arc::new(Mutex::new(wait));
        for number in 0..2 {
            let wait = Arc::clone(&wait);
            let held: Work = Box::new(move |progress| {
                // Both end when the sender is gone.
                let _ = wait.lock().recv();
                passing()(progress)
            });
            checks.begin(of(number), held).unwrap();
        }
        for number in 2..2 + MAX_WAITING as u128 {
            checks.begin(of(number), passing()).unwrap();
        }
        let refused = checks.begin(of(1_000_000), passing()).unwrap_err();
        assert_eq!(refused.kind(), Kind::Overloaded);
        drop(go);
        for number in 0..2 * MAX_REMEMBERED as u128 {
            // One that waits is not begun twice.
            let found = checks.result(of(number), LONG, passing()).await.unwrap();
            assert_eq!(found.status(), Status::Pass);
            assert!(checks.inner.state.lock().entries.len() <= MAX_REMEMBERED);
        }
        let missing: Work = Box::new(|_| Err(Error::not_found("gone")));
        let refused = checks
            .result(of(7_000_000), LONG, missing)
            .await
            .unwrap_err();
        assert_eq!(refused.kind(), Kind::NotFound);
    }

    #[test]
    fn the_overview_has_the_newest_results_and_no_failure_of_what_is_gone() {
        let checks = checks(1, Duration::ZERO);
        let (live, gone) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let finish = |check: DeepCheck, about: Option<Uuid>, status: Status| {
            let mut report = Report::default();
            let output = Some(format!("of {check}"));
            report.add_about(about, "a:b", status, 1, "things", output);
            let finished = judge(check, Ok(Ok(report))).ok();
            checks
                .inner
                .state
                .lock()
                .entries
                .entry(check)
                .or_default()
                .last = finished;
        };
        let shown = || {
            let mut report = Report::default();
            checks.summarize(&mut report, |id| id == live, 20);
            let found = report.checks.get("collections:integrity");
            found.map(|list| list.iter().map(|check| check.status).collect::<Vec<_>>())
        };
        assert_eq!(shown(), None);
        finish(DeepCheck::Collections(None), Some(live), Status::Fail);
        assert_eq!(shown(), Some(vec![Status::Fail]));
        // A part that passes does not speak for the rest.
        finish(of(1), Some(live), Status::Pass);
        assert_eq!(shown(), Some(vec![Status::Fail, Status::Pass]));
        finish(DeepCheck::Collections(None), Some(gone), Status::Fail);
        assert_eq!(shown(), Some(vec![Status::Pass]));
        finish(of(2), Some(gone), Status::Fail);
        assert_eq!(shown(), Some(vec![Status::Pass]));
        finish(of(1), Some(live), Status::Fail);
        assert_eq!(shown(), Some(vec![Status::Fail, Status::Pass]));
        finish(DeepCheck::Collections(None), None, Status::Pass);
        assert_eq!(shown(), Some(vec![Status::Pass]));
    }
}
