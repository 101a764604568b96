//! Retention: which backups are kept, and why; the others go, and what only they needed.
//!
//! Backups are compared with those of the same store and scope only: ones of everything with each other,
//! ones of chosen collections with those of the same. Of each the rules keep the newest of the newest hours, days,
//! ISO weeks and months (UTC) that have one; an hour without a backup counts for nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::{Error, Kind, Result};
use crate::progress::Progress;
use crate::repository::format::{BackupScope, Summary, VerificationLevel};
use crate::repository::{Collected, LockMode, Repository, Restorable, is_future};

/// How many to keep by each rule; 0: the rule keeps none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Rules {
    /// The newest.
    #[serde(rename = "keep_last")]
    pub last: u32,
    /// The newest of an hour.
    #[serde(rename = "keep_hourly")]
    pub hourly: u32,
    /// The newest of a day.
    #[serde(rename = "keep_daily")]
    pub daily: u32,
    /// The newest of an ISO week.
    #[serde(rename = "keep_weekly")]
    pub weekly: u32,
    /// The newest of a month.
    #[serde(rename = "keep_monthly")]
    pub monthly: u32,
}

/// A backup that is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// The backup.
    pub id: String,
    /// By which rules, and for which period.
    pub reasons: Vec<String>,
}

/// What a pruning does or did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PruneOutcome {
    /// What stays, newest first.
    pub kept: Vec<Kept>,
    /// What goes, newest first.
    pub deleted: Vec<String>,
    /// Bytes freed and to be freed, what was waiting from before included.
    #[serde(flatten)]
    pub collected: Collected,
}

/// Checks the rules.
///
/// # Errors
/// `Unprocessable` when no rule keeps anything.
pub fn check(rules: Rules) -> Result<()> {
    if rules == Rules::default() {
        return Err(Error::unprocessable(
            "no rule keeps anything: give at least one of keep_last, keep_hourly, keep_daily, keep_weekly and \
             keep_monthly, above 0",
        ));
    }
    Ok(())
}

/// What pruning would do now; nothing is changed.
///
/// # Errors
/// `Unprocessable` when no rule keeps anything, `BackupCorrupt` when a manifest cannot be read,
/// `StorageFault`.
pub fn plan(
    repository: &Repository,
    rules: Rules,
    grace: Duration,
    now: DateTime<Utc>,
) -> Result<PruneOutcome> {
    check(rules)?;
    let (kept, deleted) = select(repository, rules, now)?;
    let without: BTreeSet<String> = deleted.iter().cloned().collect();
    Ok(PruneOutcome {
        kept,
        deleted,
        collected: repository.would_collect(&without, grace, now)?,
    })
}

/// Prunes. What is kept is decided again, under the lock: nothing comes or goes meanwhile.
///
/// # Errors
/// As [`plan`]; `Conflict` when the repository is in use for longer than is waited, `Canceled`.
pub fn execute(
    repository: &Repository,
    rules: Rules,
    grace: Duration,
    now: DateTime<Utc>,
    progress: &Progress,
) -> Result<PruneOutcome> {
    check(rules)?;
    progress.stage("lock");
    let lock = repository.lock(LockMode::Exclusive, progress)?;
    let (mut kept, mut deleted) = select(repository, rules, now)?;
    progress.phase("delete", deleted.len() as u64);
    // Oldest first: stopped anywhere, what is left is what a shorter list of rules would have left.
    let (mut pinned, mut freed) = (BTreeSet::new(), BTreeSet::new());
    for id in deleted.iter().rev() {
        progress.check()?;
        match repository.remove(id) {
            Ok(packs) => freed.extend(packs),
            Err(error) if error.kind() == Kind::Conflict => {
                pinned.insert(id.clone());
            }
            // Deleted by someone else since.
            Err(error) if error.kind() == Kind::NotFound => {}
            Err(error) => return Err(error),
        }
        progress.advance(1, 0);
    }
    deleted.retain(|id| !pinned.contains(id));
    kept.extend(pinned.into_iter().map(|id| Kept {
        id,
        reasons: vec!["pinned".to_owned()],
    }));
    progress.stage("collect");
    let collected = repository.collect(&lock, &freed, grace, now)?;
    Ok(PruneOutcome {
        kept,
        deleted,
        collected,
    })
}

fn select(
    repository: &Repository,
    rules: Rules,
    now: DateTime<Utc>,
) -> Result<(Vec<Kept>, Vec<String>)> {
    let backups = repository.judged(repository.all_readable()?)?;
    let mut groups: BTreeMap<Group, Vec<Candidate>> = BTreeMap::new();
    for (backup, standing) in &backups {
        let candidates = groups.entry(group_of(repository, backup)?).or_default();
        candidates.push(Candidate {
            id: backup.id.clone(),
            created_at: backup.created_at,
            pinned: backup.pinned,
            future: is_future(backup.created_at, now),
            empty: backup.is_empty(),
            sound: standing.is_sound(VerificationLevel::Checksums) && !backup.is_empty(),
            damaged: standing.restorable == Restorable::Damaged,
        });
    }
    let mut reasons: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for candidates in groups.values() {
        reasons.extend(keep(candidates, rules));
    }
    let (mut kept, mut deleted) = (Vec::new(), Vec::new());
    for (Summary { id, .. }, _) in backups {
        match reasons.remove(&id) {
            Some(reasons) => kept.push(Kept { id, reasons }),
            None => deleted.push(id),
        }
    }
    Ok((kept, deleted))
}

/// Backups of the same are compared: the store they were made of, and the names of the chosen collections.
/// `None`: of everything.
type Group = (Uuid, Option<BTreeSet<String>>);

fn group_of(repository: &Repository, backup: &Summary) -> Result<Group> {
    let chosen = match backup.scope {
        BackupScope::All => None,
        BackupScope::Selection => {
            let collections = repository.with_collections(backup)?.collections;
            Some(collections.iter().map(|c| c.name.to_string()).collect())
        }
    };
    Ok((backup.store_id, chosen))
}

/// A backup as the rules see it.
#[derive(Clone, Debug)]
struct Candidate {
    id: String,
    created_at: DateTime<Utc>,
    pinned: bool,
    /// Made later than now: by a clock that was wrong, or judged by one.
    future: bool,
    /// It holds no record.
    empty: bool,
    /// Its newest verification found it sound, and there was something to look at.
    sound: bool,
    /// It cannot be restored whole, as far as is known.
    damaged: bool,
}

/// The kept ones of a group, newest first, with the reasons.
fn keep(candidates: &[Candidate], rules: Rules) -> BTreeMap<String, Vec<String>> {
    let (future, candidates): (Vec<&Candidate>, Vec<&Candidate>) =
        candidates.iter().partition(|candidate| candidate.future);
    let mut reasons: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut note = |candidate: &Candidate, reason: String| {
        reasons
            .entry(candidate.id.clone())
            .or_default()
            .push(reason);
    };
    // They must not count in the place of others.
    for candidate in future {
        note(candidate, "made_in_the_future".to_owned());
    }
    // Neither must what cannot be restored. What is newer than all that can be may be the only trace of what it holds.
    let newest = candidates.iter().position(|candidate| !candidate.damaged);
    let (damaged, whole): (Vec<_>, Vec<_>) = candidates
        .iter()
        .copied()
        .enumerate()
        .partition(|(_, candidate)| candidate.damaged);
    for (at, candidate) in damaged {
        if newest.is_none_or(|newest| at < newest) {
            note(candidate, "damaged_and_none_newer_is_whole".to_owned());
        }
    }
    let whole: Vec<&Candidate> = whole.into_iter().map(|(_, candidate)| candidate).collect();
    for candidate in candidates.iter().filter(|candidate| candidate.pinned) {
        note(candidate, "pinned".to_owned());
    }
    if let Some(newest) = candidates.iter().find(|candidate| candidate.sound) {
        note(newest, "newest_verified".to_owned());
    }
    // The newest state is kept even where it is that of nothing; other backups of nothing take nobody's place.
    if let Some(newest) = candidates.first().filter(|newest| newest.empty) {
        note(newest, "newest".to_owned());
    }
    let counted: Vec<&Candidate> = whole
        .into_iter()
        .filter(|candidate| !candidate.empty)
        .collect();
    for candidate in counted.iter().take(rules.last as usize) {
        note(candidate, "keep_last".to_owned());
    }
    for (rule, count, period) in [
        ("keep_hourly", rules.hourly, "%Y-%m-%dT%HZ"),
        ("keep_daily", rules.daily, "%Y-%m-%d"),
        ("keep_weekly", rules.weekly, "%G-W%V"),
        ("keep_monthly", rules.monthly, "%Y-%m"),
    ] {
        let mut seen = BTreeSet::new();
        for candidate in &counted {
            if seen.len() >= count as usize {
                break;
            }
            let period = candidate.created_at.format(period).to_string();
            if seen.insert(period.clone()) {
                note(candidate, format!("{rule} {period}"));
            }
        }
    }
    reasons
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> DateTime<Utc> {
        "2026-03-05T00:00:00Z".parse().unwrap()
    }

    fn candidates(times: &[&str]) -> Vec<Candidate> {
        let candidate = |time: &&str| Candidate {
            id: (*time).to_owned(),
            created_at: format!("{time}:00Z").parse().unwrap(),
            pinned: false,
            future: is_future(format!("{time}:00Z").parse().unwrap(), now()),
            empty: false,
            sound: false,
            damaged: false,
        };
        times.iter().map(candidate).collect()
    }

    fn kept(candidates: &[Candidate], rules: Rules) -> Vec<String> {
        let mut kept: Vec<String> = keep(candidates, rules).into_keys().collect();
        kept.reverse();
        kept
    }

    #[test]
    fn each_rule_keeps_the_newest_of_its_periods() {
        let times = [
            "2026-03-02T09:50",
            "2026-03-02T09:10",
            "2026-03-02T08:00",
            "2026-03-01T23:59",
            "2026-02-28T12:00",
            "2026-01-31T12:00",
            "2025-12-31T12:00",
            "2025-12-29T12:00",
        ];
        let all = candidates(&times);
        for (rules, expected) in [
            (
                Rules {
                    last: 2,
                    ..Rules::default()
                },
                vec![0, 1],
            ),
            (
                Rules {
                    hourly: 2,
                    ..Rules::default()
                },
                vec![0, 2],
            ),
            (
                Rules {
                    daily: 3,
                    ..Rules::default()
                },
                vec![0, 3, 4],
            ),
            // 2026-03-01 is a Sunday: its week has the 28th of February as well. 2025-12-31 and -29 are of
            // the first ISO week of 2026.
            (
                Rules {
                    weekly: 4,
                    ..Rules::default()
                },
                vec![0, 3, 5, 6],
            ),
            (
                Rules {
                    monthly: 9,
                    ..Rules::default()
                },
                vec![0, 4, 5, 6],
            ),
            (
                Rules {
                    last: 1,
                    daily: 2,
                    ..Rules::default()
                },
                vec![0, 3],
            ),
        ] {
            let expected: Vec<String> = expected.into_iter().map(|i| times[i].to_owned()).collect();
            assert_eq!(kept(&all, rules), expected, "{rules:?}");
        }
    }

    #[test]
    fn pinned_ones_and_the_newest_verified_stay_whatever_the_rules() {
        let mut all = candidates(&[
            "2026-03-04T00:00",
            "2026-03-03T00:00",
            "2026-03-02T00:00",
            "2026-03-01T00:00",
        ]);
        all[1].sound = true;
        all[2].sound = true;
        all[3].pinned = true;
        let rules = Rules {
            last: 1,
            ..Rules::default()
        };
        let reasons = keep(&all, rules);
        assert_eq!(reasons.len(), 3);
        assert_eq!(reasons["2026-03-04T00:00"], ["keep_last"]);
        assert_eq!(reasons["2026-03-03T00:00"], ["newest_verified"]);
        assert_eq!(reasons["2026-03-01T00:00"], ["pinned"]);
    }

    #[test]
    fn one_from_the_future_stays_and_takes_nobodys_place() {
        let all = candidates(&["2099-01-01T00:00", "2026-03-02T00:00", "2026-03-01T00:00"]);
        let rules = Rules {
            last: 1,
            ..Rules::default()
        };
        let reasons = keep(&all, rules);
        assert_eq!(reasons["2099-01-01T00:00"], ["made_in_the_future"]);
        assert_eq!(reasons["2026-03-02T00:00"], ["keep_last"]);
        assert_eq!(reasons.len(), 2);
    }

    #[test]
    fn damaged_ones_take_nobodys_place_and_go_unless_nothing_newer_is_whole() {
        let mut all = candidates(&[
            "2026-03-04T00:00",
            "2026-03-03T00:00",
            "2026-03-02T00:00",
            "2026-03-01T00:00",
        ]);
        all[0].damaged = true;
        all[2].damaged = true;
        let rules = Rules {
            last: 2,
            ..Rules::default()
        };
        let reasons = keep(&all, rules);
        assert_eq!(
            reasons["2026-03-04T00:00"],
            ["damaged_and_none_newer_is_whole"]
        );
        assert_eq!(reasons["2026-03-03T00:00"], ["keep_last"]);
        assert_eq!(reasons["2026-03-01T00:00"], ["keep_last"]);
        assert_eq!(reasons.len(), 3);
        all.iter_mut()
            .for_each(|candidate| candidate.damaged = true);
        assert_eq!(keep(&all, rules).len(), 4, "nothing is whole");
    }

    #[test]
    fn backups_of_nothing_take_nobodys_place() {
        let mut all = candidates(&[
            "2026-03-04T00:00",
            "2026-03-03T00:00",
            "2026-03-02T00:00",
            "2026-03-01T00:00",
        ]);
        (all[0].empty, all[1].empty) = (true, true);
        let rules = Rules {
            last: 1,
            daily: 1,
            ..Rules::default()
        };
        let reasons = keep(&all, rules);
        assert_eq!(reasons["2026-03-04T00:00"], ["newest"]);
        assert_eq!(
            reasons["2026-03-02T00:00"],
            ["keep_last", "keep_daily 2026-03-02"]
        );
        assert_eq!(reasons.len(), 2);
    }

    #[test]
    fn rules_that_keep_nothing_are_refused() {
        assert!(check(Rules::default()).is_err());
    }
}
