//! What comes out of a verb, as a job's record holds it.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::jobs::Ended;
use crate::model::collection::HeldCollection;
use crate::model::names::CollectionName;
use crate::model::stored::{self, Stored, Unreadable};
use crate::operations::compact::CompactionOutcome;
use crate::operations::conflict::Action;
use crate::operations::drill::DrillOutcome;
use crate::operations::migrate::{End, MigrateOutcome, MigratePlan};
use crate::operations::prune::PruneOutcome;
use crate::operations::restore::RestoreOutcome;
use crate::operations::verify::VerificationOutcome;
use crate::repository::format::{Manifest, Summary, Totals};

/// What came out.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// A backup was made, or imported.
    Backup(Box<BackupOutcome>),
    /// The store was compacted.
    Compaction(CompactionOutcome),
    /// A restore was rehearsed.
    Drill(DrillOutcome),
    /// A collection was migrated.
    Migration(Box<MigrationOutcome>),
    /// Backups were deleted by rules.
    Prune(PruneOutcome),
    /// A backup was restored.
    Restore(RestoreOutcome),
    /// A backup was verified.
    Verification(VerificationOutcome),
}

/// A backup, without the packs that make it up.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BackupOutcome {
    /// What its manifest says of it.
    pub summary: Summary,
    /// Sums over its collections.
    pub totals: Totals,
    /// What each of them holds.
    pub collections: Vec<HeldCollection>,
}

impl From<&Manifest> for BackupOutcome {
    fn from(manifest: &Manifest) -> Self {
        Self {
            summary: Summary::clone(manifest),
            totals: manifest.totals,
            collections: manifest
                .collections
                .iter()
                .map(|found| found.held())
                .collect(),
        }
    }
}

/// A collection in an environment.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Place {
    /// The environment's name.
    pub environment: String,
    /// The collection there.
    #[serde(flatten)]
    pub name: CollectionName,
}

/// A migration: from where to where, and what it did.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MigrationOutcome {
    /// From.
    pub source: Place,
    /// To, by the name that it has now.
    pub target: Place,
    /// How the target came to its name.
    pub action: Action,
    /// What was done.
    pub done: MigrateOutcome,
}

impl From<&End> for Place {
    fn from(end: &End) -> Self {
        Self {
            environment: end.environment.clone(),
            name: end.name.clone(),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.environment, self.name)
    }
}

impl MigrationOutcome {
    pub(super) fn new(plan: &MigratePlan, done: MigrateOutcome) -> Self {
        Self {
            source: Place::from(plan.source()),
            target: Place::from(plan.target()),
            action: plan.action(),
            done,
        }
    }
}

/// An outcome within a record.
#[derive(Serialize, Deserialize)]
struct Recorded {
    outcome: Outcome,
}

impl Stored for Recorded {
    const NAME: &'static str = "a job's outcome";
}

/// Collections that the log names.
const MAX_NAMED: usize = 5;

impl Outcome {
    /// As a job's record holds it.
    pub fn recorded(self) -> Value {
        stored::to_value(&Recorded { outcome: self })
    }

    /// What a job's record holds. `None` for what is no outcome: the result as the first release answered it, or what a failed
    /// job found.
    ///
    /// # Errors
    /// [`Unreadable`] where it is damaged or of a newer version.
    pub fn of_record(result: &Value) -> Result<Option<Self>, Unreadable> {
        if result.get("outcome").is_none() {
            return Ok(None);
        }
        stored::from_value::<Recorded>(result).map(|recorded| Some(recorded.outcome))
    }

    /// What it is about, for the log: what was made comes before what it was made of.
    fn about(&self) -> String {
        match self {
            Self::Backup(made) => made.summary.id.clone(),
            Self::Compaction(_) | Self::Prune(_) => String::new(),
            Self::Drill(drill) => drill.backup.clone(),
            Self::Migration(migration) => migration.target.to_string(),
            Self::Restore(restore) => {
                let names = restore.collections.iter().map(|restored| &restored.to);
                about_collections(names, &restore.backup)
            }
            Self::Verification(found) => found.backup.clone(),
        }
    }

    /// Records that were stored, read or compared.
    fn records(&self) -> Option<u64> {
        match self {
            Self::Backup(made) => Some(made.totals.records),
            Self::Compaction(_) | Self::Prune(_) => None,
            Self::Drill(drill) => Some(drill.checked_records),
            Self::Migration(migration) => Some(migration.done.read),
            Self::Restore(restore) => {
                let restored = restore.collections.iter();
                Some(restored.fold(0, |sum, one| u64::saturating_add(sum, one.records)))
            }
            Self::Verification(found) => Some(found.checked_records),
        }
    }
}

impl From<Outcome> for Ended {
    fn from(outcome: Outcome) -> Self {
        Self {
            about: outcome.about(),
            records: outcome.records(),
            result: outcome.recorded(),
        }
    }
}

/// Names of collections that come from a backup; no more than a few of them.
pub(super) fn about_collections<'a>(
    names: impl ExactSizeIterator<Item = &'a CollectionName>,
    backup: &str,
) -> String {
    let count = names.len();
    if count == 0 {
        return backup.to_owned();
    }
    let named: Vec<String> = names.take(MAX_NAMED).map(ToString::to_string).collect();
    let more = match count.saturating_sub(MAX_NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("{}{more} from {backup}", named.join(", "))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn name(name: &str) -> CollectionName {
        CollectionName::new("t", "d", name)
    }

    #[test]
    fn the_log_names_a_few_collections_and_counts_the_others() {
        let names: Vec<CollectionName> = ["a", "b", "c", "d", "e", "f", "g"].map(name).into();
        let about = |count: usize| about_collections(names.iter().take(count), "backup_x");
        assert_eq!(about(0), "backup_x");
        assert_eq!(about(2), "t/d/a, t/d/b from backup_x");
        assert_eq!(
            about(7),
            "t/d/a, t/d/b, t/d/c, t/d/d, t/d/e and 2 more from backup_x"
        );
    }

    #[test]
    fn a_record_holds_the_outcome_with_its_version_and_older_results_are_none() {
        let outcome = Outcome::Compaction(CompactionOutcome {
            before_bytes: 9,
            after_bytes: 5,
            live_bytes: 2,
            duration_ms: 1,
        });
        let recorded = outcome.recorded();
        let done = json!({"before_bytes": 9, "after_bytes": 5, "live_bytes": 2, "duration_ms": 1});
        assert_eq!(
            recorded,
            json!({"format": 1, "outcome": {"compaction": done}})
        );
        let read = Outcome::of_record(&recorded).unwrap().unwrap();
        assert_eq!(read.recorded(), recorded);
        // As the first release wrote it, and what a failed migration found.
        for older in [&done, &json!({"verified": false, "differences": []})] {
            assert!(Outcome::of_record(older).unwrap().is_none());
        }
        let newer = json!({"format": 2, "outcome": {"compaction": done}});
        assert!(matches!(
            Outcome::of_record(&newer),
            Err(Unreadable::Newer(_))
        ));
    }

    #[test]
    fn what_is_logged_of_a_migration_is_its_target_and_what_it_read() {
        let place = |environment: &str, collection| Place {
            environment: environment.to_owned(),
            name: name(collection),
        };
        let ended = Ended::from(Outcome::Migration(Box::new(MigrationOutcome {
            source: place("staging", "a"),
            target: place("local", "b"),
            action: Action::Created,
            done: MigrateOutcome {
                read: 9,
                ..MigrateOutcome::default()
            },
        })));
        assert_eq!(
            (ended.about.as_str(), ended.records),
            ("local/t/d/b", Some(9))
        );
    }
}
