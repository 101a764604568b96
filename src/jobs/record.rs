//! A job as it is stored and shown.

use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::error::{Error, Kind};
use crate::model::claim::Claim;
use crate::model::stored::Stored;
use crate::progress::Reading;

/// What a job does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobKind {
    /// Makes a backup.
    Backup,
    /// Restores one.
    Restore,
    /// Migrates a collection.
    Migration,
    /// Compacts the store.
    Compaction,
    /// Verifies a backup.
    Verification,
    /// Deletes backups by rules.
    Prune,
    /// Makes a backup of a document.
    Import,
    /// Rehearses a restore.
    Drill,
}

impl JobKind {
    /// All kinds.
    pub const ALL: [Self; 8] = [
        Self::Backup,
        Self::Restore,
        Self::Migration,
        Self::Compaction,
        Self::Verification,
        Self::Prune,
        Self::Import,
        Self::Drill,
    ];

    /// Whether a job that was stopped in the middle may simply be run again: what it does is found done, or
    /// done again with the same end.
    pub fn resumes(self) -> bool {
        matches!(self, Self::Verification | Self::Prune)
    }

    /// Whether it makes a backup of what is there now: these have workers of their own.
    pub(super) fn is_backup(self) -> bool {
        self == Self::Backup
    }

    /// Whether its end may change what backups there are, or what is known of them.
    pub fn touches_backups(self) -> bool {
        matches!(
            self,
            Self::Backup | Self::Import | Self::Verification | Self::Prune | Self::Drill
        )
    }
}

impl fmt::Display for JobKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Backup => "backup",
            Self::Restore => "restore",
            Self::Migration => "migration",
            Self::Compaction => "compaction",
            Self::Verification => "verification",
            Self::Prune => "prune",
            Self::Import => "import",
            Self::Drill => "drill",
        })
    }
}

/// Where a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Waits for a worker.
    Queued,
    /// Is worked on.
    Running,
    /// Did all it was asked to.
    Succeeded,
    /// Did not, and left nothing behind.
    Failed,
    /// Was stopped by a caller.
    Canceled,
    /// Was under way when the process ended.
    Interrupted,
}

impl JobState {
    /// All states.
    pub const ALL: [Self; 6] = [
        Self::Queued,
        Self::Running,
        Self::Succeeded,
        Self::Failed,
        Self::Canceled,
        Self::Interrupted,
    ];

    /// Whether it will not change any more.
    pub fn is_final(self) -> bool {
        !matches!(self, Self::Queued | Self::Running)
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Canceled => "canceled",
            Self::Interrupted => "interrupted",
        })
    }
}

/// Progress as stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredReading {
    /// What is or was being done.
    pub phase: String,
    /// Records done in this phase.
    pub done: u64,
    /// Records to do, as far as known.
    pub total: u64,
    /// Bytes done in this phase.
    pub bytes_done: u64,
}

impl From<Reading> for StoredReading {
    fn from(reading: Reading) -> Self {
        Self {
            phase: reading.phase.to_owned(),
            done: reading.done,
            total: reading.total,
            bytes_done: reading.bytes_done,
        }
    }
}

/// Why a job did not succeed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobProblem {
    /// What went wrong.
    pub kind: Kind,
    /// The public message.
    pub message: String,
    /// Members of the case.
    pub members: Value,
}

impl From<&Error> for JobProblem {
    fn from(error: &Error) -> Self {
        let members = error
            .members()
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone()));
        Self {
            kind: error.kind(),
            message: error.message().to_owned(),
            members: Value::Object(members.collect::<Map<_, _>>()),
        }
    }
}

impl JobProblem {
    /// Takes a member out.
    pub(super) fn take_member(&mut self, name: &str) -> Option<Value> {
        self.members.as_object_mut()?.remove(name)
    }
}

/// A caller's name for a request, so that sending it twice does it once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestKey {
    /// As the caller gave it.
    pub key: String,
    /// Hash of what was asked for.
    pub fingerprint: String,
}

/// A job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobRecord {
    /// A version 7 UUID: sorts by time.
    pub id: String,
    /// What it does.
    pub kind: JobKind,
    /// Where it stands.
    pub state: JobState,
    /// How far it is.
    pub reading: StoredReading,
    /// Whether a cancel would have an effect; not stored.
    #[serde(skip)]
    pub cancellable: bool,
    /// When it was submitted.
    pub created_at: DateTime<Utc>,
    /// When a worker took it.
    pub started_at: Option<DateTime<Utc>>,
    /// When it was over.
    pub finished_at: Option<DateTime<Utc>>,
    /// What was asked for.
    pub request: Value,
    /// The caller's name for the request.
    #[serde(default)]
    pub key: Option<RequestKey>,
    /// What no other job may work on meanwhile.
    #[serde(default)]
    pub claims: Vec<Claim>,
    /// Whether it was taken up again after a restart: that happens once.
    #[serde(default)]
    pub resumed: bool,
    /// Whether a caller asked to stop it.
    #[serde(default)]
    pub cancel_requested: bool,
    /// The name of the key that asked for it; none where the service itself did.
    #[serde(default)]
    pub requested_by: Option<String>,
    /// What came out.
    pub result: Option<Value>,
    /// Whether that is long and stands in the store only; not stored.
    #[serde(skip)]
    pub result_is_stored: bool,
    /// Why it did not succeed.
    pub problem: Option<JobProblem>,
}

impl Stored for JobRecord {
    const NAME: &'static str = "a job's record";
}

impl JobRecord {
    /// Whether it is run again when it was stopped in the middle.
    pub(super) fn resumes(&self) -> bool {
        self.kind.resumes() && !self.resumed && !self.cancel_requested
    }

    /// A queued job.
    pub fn new(kind: JobKind, request: Value, now: DateTime<Utc>) -> Self {
        Self {
            id: Uuid::now_v7().to_string(),
            kind,
            state: JobState::Queued,
            reading: StoredReading::default(),
            cancellable: true,
            created_at: now,
            started_at: None,
            finished_at: None,
            request,
            key: None,
            claims: Vec::new(),
            resumed: false,
            cancel_requested: false,
            requested_by: None,
            result: None,
            result_is_stored: false,
            problem: None,
        }
    }
}
