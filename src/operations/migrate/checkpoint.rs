//! How far a migration is: kept in this store, so that the same request goes on after a crash or a break.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{End, MigrateOutcome, MigratePlan};
use crate::engine::{Engine, StoredCheckpoint};
use crate::environments::{Contents, Position};
use crate::error::Result;
use crate::model::names::CollectionName;
use crate::model::stored::{self, Stored, Unreadable};
use crate::operations::conflict::Action;

/// How far a migration is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Checkpoint {
    pub(super) key: String,
    /// When something was last done.
    pub(super) at: DateTime<Utc>,
    /// The environment that the copy grows in.
    pub(super) environment: String,
    /// Where it grows.
    pub(super) staging: CollectionName,
    /// The target's id of it.
    pub(super) staged: Option<String>,
    /// What is in it for sure.
    pub(super) position: Option<Position>,
    /// What was read up to there.
    pub(super) read: Contents,
    /// The target's name and the way to it, as they were planned first.
    pub(super) target: CollectionName,
    pub(super) action: Action,
    /// What was done, once all is there and compared, and names are changing.
    pub(super) outcome: Option<MigrateOutcome>,
    /// Set when all is done, by the process of this id: the job's record may not tell of it yet.
    pub(super) done_by: Option<Uuid>,
}

impl Checkpoint {
    /// The key of a migration: what it is of, where it goes and how, and whose it is.
    pub(super) fn key(engine: &Engine, plan: &MigratePlan) -> String {
        let end = |end: &End| (end.environment.clone(), end.name.clone());
        let request = serde_json::json!([
            engine.store_id(),
            end(&plan.source),
            plan.source_id,
            end(&plan.wanted),
            plan.on_conflict,
            plan.winner == super::Winner::Incoming,
            plan.allow_loss,
        ]);
        let hash = blake3::hash(request.to_string().as_bytes());
        hash.to_hex().chars().take(32).collect()
    }

    /// The one that was kept under a key. Of a damaged one nothing is known: the migration begins anew, and puts another
    /// one in its place.
    ///
    /// # Errors
    /// `Unprocessable` for one that a later program wrote, `StorageFault` or `Unavailable` when the store fails.
    pub(super) fn find(engine: &Engine, key: &str) -> Result<Option<Self>> {
        let found = match engine.checkpoint(key) {
            Ok(Some(found)) => stored::decode(&found.payload),
            Ok(None) => return Ok(None),
            Err(error) if engine.fault().is_some() => return Err(error),
            Err(error) => Err(Unreadable::Damaged(error)),
        };
        match found {
            Ok(checkpoint) => Ok(Some(checkpoint)),
            Err(Unreadable::Newer(error)) => Err(error),
            Err(Unreadable::Damaged(error)) => {
                tracing::warn!(
                    checkpoint = key,
                    ?error,
                    "a migration begins anew: its checkpoint is damaged"
                );
                Ok(None)
            }
        }
    }

    /// A new one.
    pub(super) fn new(plan: &MigratePlan, now: DateTime<Utc>) -> Self {
        let mut staging = plan.target.name.clone();
        staging.name = format!("vectorkeep-staging-{}", plan.key);
        Self {
            key: plan.key.clone(),
            at: now,
            environment: plan.target.environment.clone(),
            staging,
            target: plan.target.name.clone(),
            action: plan.action,
            done_by: None,
            staged: None,
            position: None,
            read: Contents::default(),
            outcome: None,
        }
    }

    /// The name that a collection has which is being replaced.
    pub(super) fn aside(&self) -> CollectionName {
        let mut name = self.staging.clone();
        name.name = format!("vectorkeep-replaced-{}", self.key);
        name
    }

    /// Keeps it; durable when this returns.
    pub(super) fn save(&mut self, engine: &Engine, target: &End) -> Result<()> {
        self.at = Utc::now();
        let payload = stored::encode(self);
        let staged = match (&self.staged, target.is_local()) {
            (Some(staged), true) => Some(super::local::staged_id(staged)?),
            _ => None,
        };
        engine.put_checkpoint(&StoredCheckpoint {
            key: self.key.clone(),
            staged,
            payload,
        })
    }
}

impl Stored for Checkpoint {
    const NAME: &'static str = "the checkpoint of a migration";
}
