//! What the metrics say of the service as it stands. A scrape asks no disk and no repository: what costs
//! that is looked at from time to time and remembered.

use std::sync::LazyLock;

use ::metrics::Gauge;
use chrono::{DateTime, Utc};
use parking_lot::Mutex;

use super::App;
use crate::disk;
use crate::engine::Usage;
use crate::error::Result;
use crate::metrics::{self, gauge};
use crate::repository::{BackupsSeen, Restorable};

/// What was seen when it was last looked at.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Observed {
    usage: Option<Usage>,
    free_bytes: Option<u64>,
}

struct Gauges {
    collections: Gauge,
    records: Gauge,
    sequence: Gauge,
    poisoned: Gauge,
    longest_call: Gauge,
    draining: Gauge,
    searches: Gauge,
    queued: Gauge,
    running: Gauge,
    file_bytes: Gauge,
    live_bytes: Gauge,
    file_live_ratio: Gauge,
    free_bytes: Gauge,
}

/// They belong to the process; who sets them holds them until they are rendered, because a process may have
/// several services.
static GAUGES: LazyLock<Mutex<Gauges>> = LazyLock::new(|| {
    Mutex::new(Gauges {
        collections: gauge("vectorkeep_collections", "Collections of all databases."),
        records: gauge("vectorkeep_records", "Records of all collections."),
        sequence: gauge(
            "vectorkeep_last_sequence",
            "Number of the last committed write.",
        ),
        poisoned: gauge(
            "vectorkeep_store_poisoned",
            "1 when no writes are taken any more after a storage fault.",
        ),
        longest_call: gauge(
            "vectorkeep_store_longest_call_seconds",
            "How long the oldest call into the store's files has lasted, to an eighth of storage.sync_timeout_ms; a sync that hangs shows here first.",
        ),
        draining: gauge(
            "vectorkeep_draining",
            "1 when the service is about to stop.",
        ),
        searches: gauge(
            "vectorkeep_searches_running",
            "Searches that run at this moment.",
        ),
        queued: gauge("vectorkeep_jobs_queued", "Jobs that wait for a worker."),
        running: gauge("vectorkeep_jobs_running", "Jobs that run at this moment."),
        file_bytes: gauge("vectorkeep_store_file_bytes", "Bytes of the store's files."),
        live_bytes: gauge(
            "vectorkeep_store_live_bytes",
            "Bytes of what lives in the store's files, estimated from numbers and sizes of records.",
        ),
        file_live_ratio: gauge(
            "vectorkeep_store_file_live_ratio",
            "Bytes of the store's files per live byte; past compaction.ratio the store is compacted.",
        ),
        free_bytes: gauge(
            "vectorkeep_disk_free_bytes",
            "Bytes free on the disk of the data directory.",
        ),
    })
});

/// Metrics of the backups as they were seen last; those of an age are absent where there is no such backup.
fn backups_text(seen: &BackupsSeen) -> String {
    let mut text = String::new();
    let mut metric = |name: &str, help: &str, lines: &[(Option<Restorable>, f64)]| {
        text.push_str(&format!("# HELP {name} {help}\n# TYPE {name} gauge\n"));
        for (restorable, value) in lines {
            let labels = restorable.map(|word| format!("{{restorable=\"{}\"}}", word.word()));
            text.push_str(&format!("{name}{} {value}\n", labels.unwrap_or_default()));
        }
    };
    let of = |restorable: Restorable| seen.by_standing.get(&restorable).copied();
    let counts =
        Restorable::ALL.map(|word| (Some(word), of(word).map_or(0, |(count, _)| count) as f64));
    let age = |made: DateTime<Utc>| (Utc::now() - made).num_milliseconds().max(0) as f64 / 1_000.0;
    let ages = Restorable::ALL.map(|word| Some((Some(word), age(of(word)?.1?))));
    let ages: Vec<_> = ages.into_iter().flatten().collect();
    metric(
        "vectorkeep_backups",
        "Backups whose manifest can be read, by what is known of them.",
        &counts,
    );
    metric(
        "vectorkeep_newest_backup_age_seconds",
        "Age of the newest backup of each kind; absent without one.",
        &ages,
    );
    metric(
        "vectorkeep_damaged_packs",
        "Packs of backups that are known to be damaged or missing.",
        &[(None, seen.damaged_packs.len() as f64)],
    );
    metric(
        "vectorkeep_repository_bytes",
        "Stored bytes of all packs in the repository.",
        &[(None, seen.packs_bytes as f64)],
    );
    text
}

/// Not a number where it could not be found out.
fn number(value: Option<u64>) -> f64 {
    value.map_or(f64::NAN, |value| value as f64)
}

fn flag(set: bool) -> f64 {
    if set { 1.0 } else { 0.0 }
}

impl App {
    /// All metrics, as text. From memory; blocks for as long as the locks of collections are held.
    pub fn metrics(&self) -> String {
        let gauges = GAUGES.lock();
        self.set(&gauges);
        let mut text = metrics::render();
        drop(gauges);
        if let Some(verified) = self.last_verified_backup() {
            // A gauge of the recorder could not go away again with the backup. An older name of one of those below.
            let age_ms = (Utc::now() - verified.created_at).num_milliseconds();
            let name = "vectorkeep_newest_verified_backup_age_seconds";
            let help = "Age of the newest backup that a verification or a drill found sound; absent without one.";
            let age = age_ms.max(0) as f64 / 1_000.0;
            text.push_str(&format!(
                "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {age}\n"
            ));
        }
        if let Some(seen) = self.monitor().backups() {
            text.push_str(&backups_text(&seen));
        }
        text
    }

    fn set(&self, gauges: &Gauges) {
        let engine = self.engine();
        let collections = engine.all_collections();
        let records: u64 = collections.iter().map(|info| info.head.count).sum();
        gauges.collections.set(collections.len() as f64);
        gauges.records.set(records as f64);
        gauges.sequence.set(engine.sequence() as f64);
        gauges.poisoned.set(flag(engine.fault().is_some()));
        gauges.longest_call.set(engine.longest_call().as_secs_f64());
        gauges.draining.set(flag(self.is_draining()));
        gauges.searches.set(engine.running_searches() as f64);
        let (queued, running) = self.jobs().under_way();
        gauges.queued.set(queued as f64);
        gauges.running.set(running as f64);
        let observed = *self.inner.observed.lock();
        gauges.free_bytes.set(number(observed.free_bytes));
        let file_bytes = number(observed.usage.map(|usage| usage.file_bytes));
        let live_bytes = number(observed.usage.map(|usage| usage.live_bytes));
        gauges.file_bytes.set(file_bytes);
        gauges.live_bytes.set(live_bytes);
        let ratio = observed
            .usage
            .map_or(f64::NAN, |_| file_bytes / live_bytes.max(1.0));
        gauges.file_live_ratio.set(ratio);
    }

    /// Looks at what is too dear to look at for every scrape. Blocks.
    pub(super) fn observe(&self) -> Result<()> {
        let observed = Observed {
            usage: self.engine().usage().ok(),
            free_bytes: disk::available_bytes(self.engine().data_dir()).ok(),
        };
        *self.inner.observed.lock() = observed;
        Ok(())
    }
}
