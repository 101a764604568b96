//! What is measured of jobs: by kind and end, never by id.

use chrono::{DateTime, Utc};

use super::{JobKind, JobRecord, JobState};
use crate::metrics::{JOB_DURATION, counter, histogram};

fn ends(kind: JobKind, state: JobState) -> metrics::Counter {
    counter(
        "vectorkeep_jobs_total",
        "Jobs that are over, by kind and outcome.",
        &[("kind", kind.to_string()), ("outcome", state.to_string())],
    )
}

fn durations(kind: JobKind) -> metrics::Histogram {
    histogram(
        JOB_DURATION,
        "How long jobs ran, from the worker that took them to their end.",
        &[("kind", kind.to_string())],
    )
}

fn records(kind: JobKind) -> metrics::Counter {
    counter(
        "vectorkeep_job_records_total",
        "Records that jobs handled, by the last reading of their progress.",
        &[("kind", kind.to_string())],
    )
}

fn bytes(kind: JobKind) -> metrics::Counter {
    counter(
        "vectorkeep_job_bytes_total",
        "Bytes that jobs handled, by the last reading of their progress.",
        &[("kind", kind.to_string())],
    )
}

/// Makes all series, at zero: the first failure is then an increase, and not a series that appears with 1.
pub(super) fn start() {
    for kind in JobKind::ALL {
        for state in JobState::ALL.into_iter().filter(|state| state.is_final()) {
            let _ = ends(kind, state);
        }
        let _ = (durations(kind), records(kind), bytes(kind));
    }
}

/// Counts a job that is over and never ran in this process.
pub(super) fn ended_unrun(record: &JobRecord) {
    ends(record.kind, record.state).increment(1);
}

/// Counts a change of state, where it was the last one.
pub(super) fn changed(before: JobState, record: &JobRecord) {
    if before.is_final() || !record.state.is_final() {
        return;
    }
    if before == JobState::Running {
        durations(record.kind).record(ran_seconds(record.started_at, record.finished_at));
        records(record.kind).increment(record.reading.done);
        bytes(record.kind).increment(record.reading.bytes_done);
    }
    ends(record.kind, record.state).increment(1);
}

/// A clock that was set back meanwhile makes it 0.
fn ran_seconds(started: Option<DateTime<Utc>>, finished: Option<DateTime<Utc>>) -> f64 {
    let ran = started
        .zip(finished)
        .and_then(|(started, finished)| (finished - started).to_std().ok());
    ran.unwrap_or_default().as_secs_f64()
}
