//! What is looked at from time to time in the background, so that `/health` waits for no disk and no repository.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use parking_lot::Mutex;
use serde_json::Value;

use super::{Report, Status, storage};
use crate::config::HealthConfig;
use crate::engine::Engine;
use crate::error::Result;
use crate::repository::{BackupsSeen, VerifiedBackup};

/// Names of a kind that one message holds.
const SHOWN: usize = 5;

/// What was seen last. Its locks are never held across I/O.
#[derive(Default)]
pub struct Monitor {
    disk: Mutex<Option<Seen>>,
    backups: Mutex<BackupsKnown>,
}

/// What is known of the backups. A look that failed leaves what was known, and says so.
#[derive(Default)]
struct BackupsKnown {
    seen: Option<BackupsSeen>,
    /// Why the last look failed, if it did.
    unreadable: Option<String>,
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

    /// Keeps what was seen of the backups, or why they could not be looked at.
    pub fn note_backups(&self, seen: Result<BackupsSeen>) {
        let mut known = self.backups.lock();
        match seen {
            Ok(seen) => {
                *known = BackupsKnown {
                    seen: Some(seen),
                    unreadable: None,
                };
            }
            Err(error) => known.unreadable = Some(error.message().to_owned()),
        }
    }

    /// What was seen of the backups last.
    pub fn backups(&self) -> Option<BackupsSeen> {
        self.backups.lock().seen.clone()
    }

    /// Whether the last look at the backups failed.
    pub fn is_unreadable(&self) -> bool {
        self.backups.lock().unreadable.is_some()
    }

    /// The newest backup that a verification found sound, as far as is known.
    pub fn last_verified(&self) -> Option<VerifiedBackup> {
        self.backups.lock().seen.as_ref()?.verified.clone()
    }

    /// Adds the disk as it was seen, how long ago that was, and whether the store takes writes.
    pub(super) fn report(&self, report: &mut Report, engine: &Engine, config: &HealthConfig) {
        let newest = self.backups().map(|seen| seen.newest);
        storage::check_accepting(report, engine, newest, self.room());
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

    /// Bytes that were free on the disk of the data directory when it was looked at last.
    fn room(&self) -> Option<u64> {
        let seen = self.disk.lock();
        let checks = &seen.as_ref()?.report.checks;
        checks
            .get("storage:disk_free")?
            .first()?
            .observed_value
            .as_u64()
    }

    /// Adds each collection that is known to be damaged, and the way out.
    pub(super) fn report_damage(&self, report: &mut Report, engine: &Engine) {
        let newest = self.backups().map(|seen| seen.newest);
        let newest = storage::newest_words(newest);
        for info in engine.all_collections() {
            let (id, name) = (info.descriptor.id, &info.descriptor.name);
            let Some(damage) = engine.damage_of(id) else {
                continue;
            };
            let output = format!(
                "{name} is damaged ({damage}) and takes no writes; others do. Restore it with on_conflict \"replace\" \
                 ({newest}), or drop it"
            );
            let (check, status) = ("collections:damaged", Status::Fail);
            report.add_about(
                Some(id),
                check,
                status,
                name.to_string(),
                "collection",
                Some(output),
            );
        }
    }

    /// Adds what is known of the backups: damage, and the age of the newest verified one, held against the objective.
    pub(super) fn report_backups(
        &self,
        report: &mut Report,
        records: u64,
        config: &HealthConfig,
        now: DateTime<Utc>,
    ) {
        let (seen, unreadable) = {
            let known = self.backups.lock();
            (known.seen.clone(), known.unreadable.clone())
        };
        let warn = |report: &mut Report, check, output| {
            report.add(check, Status::Warn, false, "boolean", Some(output));
        };
        if let Some(reason) = unreadable {
            let output =
                format!("the backups cannot be looked at, what is shown of them is old: {reason}");
            warn(report, "repository:readable", output);
        }
        if let Some(seen) = &seen {
            report_damage(report, seen);
            if let Some(other) = seen.other_repository {
                let output = format!(
                    "the newest backup of this store went to the repository {other}, which is not this one; if that is \
                     meant, make a backup"
                );
                warn(report, "repository:same", output);
            }
        }
        let known = seen.is_some();
        let verified = seen.and_then(|seen| seen.verified);
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

/// Damage of backups that is known, and its cure.
fn report_damage(report: &mut Report, seen: &BackupsSeen) {
    let name = "backups:damaged";
    let count = seen.damaged.len();
    if count == 0 {
        report.pass(name, 0, "backups");
        return;
    }
    let packs: Vec<String> = seen.damaged_packs.iter().cloned().collect();
    let packs = match packs.len() {
        0 => String::new(),
        number => format!(
            ", for {number} damaged or missing packs ({})",
            first_of(&packs)
        ),
    };
    let instead = match &seen.newest {
        Some(newest) => format!("the newest that nothing is known against is {newest}"),
        None => "nothing is known to be whole".to_owned(),
    };
    let output = format!(
        "{count} backups cannot be restored whole{packs}: {}; {instead}. Make a full backup now (it stores again what \
         it finds damaged and still has), verify these again, and delete what stays damaged",
        first_of(&seen.damaged)
    );
    report.add(name, Status::Fail, count, "backups", Some(output));
}

/// The first few, and how many more there are.
fn first_of(names: &[String]) -> String {
    let mut text = names
        .iter()
        .take(SHOWN)
        .cloned()
        .collect::<Vec<_>>()
        .join(", ");
    if names.len() > SHOWN {
        text.push_str(&format!(" and {} more", names.len() - SHOWN));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn age(monitor: &Monitor, engine: &Engine, config: &HealthConfig) -> super::super::Check {
        let mut report = Report::default();
        monitor.report(&mut report, engine, config);
        report.checks["storage:observed_age"][0].clone()
    }

    #[test]
    fn a_disk_that_does_not_answer_is_a_warning_that_says_since_when() {
        let home = tempfile::tempdir().unwrap();
        let engine = super::super::engine_in(home.path());
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
