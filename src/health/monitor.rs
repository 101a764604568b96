//! What is looked at from time to time in the background, so that `/health` waits for no disk and no repository.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use parking_lot::Mutex;
use serde_json::Value;

use super::{Report, Status, storage};
use crate::config::HealthConfig;
use crate::engine::Engine;
use crate::repository::{BackupsSeen, VerifiedBackup};

/// What was seen last. Its locks are never held across I/O.
#[derive(Default)]
pub struct Monitor {
    disk: Mutex<Option<Seen>>,
    backups: Mutex<Option<BackupsSeen>>,
}

struct Seen {
    report: Report,
    at: Instant,
    time: DateTime<Utc>,
}

impl Monitor {
    /// Asks the disk. Blocks for as long as it does not answer; what was seen before stands meanwhile.
    pub fn look_at_disk(&self, engine: &Engine, config: &HealthConfig) {
        let mut report = Report::default();
        storage::check_disk(&mut report, engine, config);
        *self.disk.lock() = Some(Seen {
            report,
            at: Instant::now(),
            time: Utc::now(),
        });
    }

    /// Keeps what is known of the backups.
    pub fn note_backups(&self, seen: BackupsSeen) {
        *self.backups.lock() = Some(seen);
    }

    /// The newest backup that a verification found sound, as far as is known.
    pub fn last_verified(&self) -> Option<VerifiedBackup> {
        self.backups.lock().as_ref()?.verified.clone()
    }

    /// Adds the disk as it was seen, how long ago that was, and whether the store takes writes.
    pub(super) fn report(&self, report: &mut Report, engine: &Engine, config: &HealthConfig) {
        let newest = self.backups.lock().as_ref().map(|seen| seen.newest.clone());
        storage::check_accepting(report, engine, newest);
        let seen = self.disk.lock();
        let (age, time) = match &*seen {
            Some(seen) => {
                for (name, checks) in &seen.report.checks {
                    let all = report.checks.entry(name.clone()).or_default();
                    all.extend(checks.iter().cloned());
                }
                (seen.at.elapsed(), Some(seen.time))
            }
            None => (Duration::MAX, None),
        };
        drop(seen);
        let late = Duration::from_millis(config.monitor_interval_ms.saturating_mul(3))
            .saturating_add(Duration::from_secs(1));
        let age_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        if age <= late {
            report.pass("storage:observed_age", age_ms, "ms");
            return;
        }
        let output = match time {
            Some(time) => format!(
                "the disk of the data directory has not answered since {}; it may hang",
                time.to_rfc3339()
            ),
            None => "the disk of the data directory was never looked at".to_owned(),
        };
        let (name, status) = ("storage:observed_age", Status::Warn);
        report.add(name, status, age_ms, "ms", Some(output));
    }

    /// Adds the age of the newest verified backup, held against the objective.
    pub(super) fn report_backups(
        &self,
        report: &mut Report,
        records: u64,
        config: &HealthConfig,
        now: DateTime<Utc>,
    ) {
        let (known, verified) = {
            let seen = self.backups.lock();
            (
                seen.is_some(),
                seen.as_ref().and_then(|seen| seen.verified.clone()),
            )
        };
        let age = verified.as_ref().map(|backup| {
            let age = (now - backup.created_at).to_std();
            age.unwrap_or_default()
        });
        let objective = Duration::from_millis(config.backup_objective_ms);
        let (late, output) = match (&verified, age) {
            (Some(backup), Some(age)) => (
                age > objective,
                format!("the newest verified backup is {}", backup.id),
            ),
            _ if !known => (
                records > 0,
                "the repository could not be read yet".to_owned(),
            ),
            _ => (
                records > 0,
                "no backup was verified yet: make one and verify it".to_owned(),
            ),
        };
        let late = late && !objective.is_zero();
        let (status, output) = if late {
            let bound = config.backup_objective_ms;
            let output = format!("{output}; health.backup_objective_ms = {bound}");
            (Status::Warn, output)
        } else {
            (Status::Pass, output)
        };
        let age = age.map_or(Value::Null, |age| age.as_secs().into());
        let name = "backups:last_verified_age";
        report.add(name, status, age, "s", Some(output));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::engine::{Durability, EngineOptions, OpenOptions};

    fn age(monitor: &Monitor, engine: &Engine, config: &HealthConfig) -> super::super::Check {
        let mut report = Report::default();
        monitor.report(&mut report, engine, config);
        report.checks["storage:observed_age"][0].clone()
    }

    #[test]
    fn a_disk_that_does_not_answer_is_a_warning_that_says_since_when() {
        let home = tempfile::tempdir().unwrap();
        let engine = Engine::open(EngineOptions {
            store: OpenOptions {
                data_dir: home.path().join("data"),
                cache_bytes: 1 << 20,
                accept_data_loss: false,
                min_free_bytes: 0,
            },
            durability: Durability::Always,
            max_tombstones: 10,
        })
        .unwrap();
        let config = Config::baseline().unwrap().health;
        let monitor = Monitor::default();
        assert_eq!(age(&monitor, &engine, &config).status, Status::Warn);
        monitor.look_at_disk(&engine, &config);
        assert_eq!(age(&monitor, &engine, &config).status, Status::Pass);
        let seen = monitor.disk.lock().as_mut().map(|seen| {
            seen.at -= Duration::from_millis(3 * config.monitor_interval_ms + 2_000);
            seen.time
        });
        let late = age(&monitor, &engine, &config);
        assert_eq!(late.status, Status::Warn);
        let output = late.output.unwrap();
        assert!(output.contains(&seen.unwrap().to_rfc3339()), "{output}");
        engine.close().unwrap();
    }
}
