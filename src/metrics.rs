//! Where measurements are kept: one recorder for the process, the buckets of its histograms, and its text.
//!
//! Each layer names what it measures and keeps the handles: to ask for one takes a lock and allocates, to
//! use one does neither. Labels are words of this program, such as a route or the kind of a job; never an
//! id, nor a name that a client chose.

use std::sync::LazyLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder as _};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusRecorder};

/// Label names and values.
pub(crate) type Labels = [(&'static str, String)];

/// Of what takes less than a second where all is well.
const SECONDS: [f64; 18] = [
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0, 30.0, 60.0,
];
/// Of requests: there is a series for every route.
const REQUEST_SECONDS: [f64; 13] = [
    0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 120.0,
];
/// Of jobs, from a small backup to the migration of a day.
const JOB_SECONDS: [f64; 12] = [
    0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3_600.0, 14_400.0, 43_200.0, 86_400.0,
];
/// Of numbers of things.
const COUNTS: [f64; 11] = [
    1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1_024.0,
];

/// The name of the histogram whose buckets are those of requests.
pub(crate) const REQUEST_DURATION: &str = "vectorkeep_http_request_duration_seconds";
/// The name of the histogram whose buckets are those of jobs.
pub(crate) const JOB_DURATION: &str = "vectorkeep_job_duration_seconds";

const METADATA: Metadata<'static> =
    Metadata::new(module_path!(), Level::INFO, Some(module_path!()));

static RECORDER: LazyLock<PrometheusRecorder> = LazyLock::new(|| {
    let full = |name: &str| Matcher::Full(name.to_owned());
    let builder = PrometheusBuilder::new()
        .set_buckets(&COUNTS)
        .and_then(|builder| {
            builder.set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)
        })
        .and_then(|builder| {
            builder.set_buckets_for_metric(full(REQUEST_DURATION), &REQUEST_SECONDS)
        })
        .and_then(|builder| builder.set_buckets_for_metric(full(JOB_DURATION), &JOB_SECONDS))
        .expect("no list of buckets is empty");
    builder.build_recorder()
});

/// When the process started, as near as the first call tells; and what it is.
static PROCESS: LazyLock<()> = LazyLock::new(|| {
    let started = SystemTime::now().duration_since(UNIX_EPOCH);
    gauge(
        "process_start_time_seconds",
        "When the process started, in seconds since 1970.",
    )
    .set(started.unwrap_or_default().as_secs_f64());
    let name = "vectorkeep_build_info";
    RECORDER.describe_gauge(name.into(), None, "1, for the version that runs.".into());
    let labels = [("version", env!("CARGO_PKG_VERSION").to_owned())];
    RECORDER
        .register_gauge(&key(name, &labels), &METADATA)
        .set(1.0);
});

/// Notes that the process starts now; only the first call counts.
pub(crate) fn start() {
    LazyLock::force(&PROCESS);
}

fn key(name: &'static str, labels: &Labels) -> Key {
    let labels: Vec<Label> = labels
        .iter()
        .map(|(name, value)| Label::new(*name, value.clone()))
        .collect();
    Key::from_parts(name, labels)
}

/// A counter; its name ends with `_total`.
pub(crate) fn counter(name: &'static str, help: &'static str, labels: &Labels) -> Counter {
    RECORDER.describe_counter(name.into(), None, help.into());
    RECORDER.register_counter(&key(name, labels), &METADATA)
}

/// A gauge.
pub(crate) fn gauge(name: &'static str, help: &'static str) -> Gauge {
    RECORDER.describe_gauge(name.into(), None, help.into());
    RECORDER.register_gauge(&key(name, &[]), &METADATA)
}

/// A histogram; of durations where its name ends with `_seconds`, else of numbers.
pub(crate) fn histogram(name: &'static str, help: &'static str, labels: &Labels) -> Histogram {
    RECORDER.describe_histogram(name.into(), None, help.into());
    RECORDER.register_histogram(&key(name, labels), &METADATA)
}

/// Records the seconds since `started`.
pub(crate) fn record_since(histogram: &Histogram, started: Instant) {
    histogram.record(started.elapsed().as_secs_f64());
}

/// Sorts what was recorded into its buckets: until then every single observation is kept.
pub(crate) fn upkeep() {
    RECORDER.handle().run_upkeep();
}

/// Everything, in Prometheus' text format 0.0.4.
pub(crate) fn render() -> String {
    RECORDER.handle().render()
}
