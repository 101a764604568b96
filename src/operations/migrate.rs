//! Migrating a collection to another name, here or in another environment: copied aside while writes go on,
//! caught up, proved equal, made visible at the end.
//!
//! Within this store that is one step (`copy`). Where another server is involved, records go through a bounded
//! queue from a thread that reads to one that writes, and a checkpoint says how far they are (`transfer`).

mod checkpoint;
mod copy;
mod differences;
mod ends;
mod into_live;
mod local;
mod transfer;
mod unfinished;

use std::time::Duration;

use chrono::Utc;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use self::checkpoint::Checkpoint;
pub(super) use self::copy::{check_copy_room, copy};
pub use self::ends::End;
use self::ends::Existing;
use self::unfinished::DONE_KEPT;
pub use self::unfinished::{RunningMigrations, sweep};
use super::conflict::{Action, DecidedTarget, OnConflict, RecordCounts, Winner, resolve};
use super::merge;
use super::restore::{DISK_FACTOR, RestoreSettings};
use crate::engine::{Engine, Staging};
use crate::environments::{BatchSize, Description, Environments, Loss};
use crate::error::{Error, Result};
use crate::model::claim::Claim;
use crate::model::configuration::Space;
use crate::model::digest::Digest;
use crate::model::names::CollectionName;
use crate::progress::Progress;

/// What is asked for.
pub struct MigrateRequest {
    /// From.
    pub source: End,
    /// To.
    pub target: End,
    /// What to do where the target exists.
    pub on_conflict: OnConflict,
    /// Whose record stays in a merge.
    pub winner: Winner,
    /// Records per batch; `None`: as configured.
    pub batch_size: Option<usize>,
    /// Whether the target is read back and compared.
    pub verify: bool,
    /// Whether what the target cannot hold may be left out.
    pub allow_loss: bool,
}

/// How a migration runs.
#[derive(Clone)]
pub struct MigrateSettings {
    /// Those that run.
    pub running: RunningMigrations,
    /// Of this run of the service.
    pub process: Uuid,
    /// Where collections may be migrated from and to.
    pub environments: Environments,
    /// What it has in common with a restore.
    pub restore: RestoreSettings,
    /// How much goes at a time where a request does not say.
    pub batch: BatchSize,
    /// Most records that a request may let go at a time.
    pub max_batch_records: usize,
    /// Differences that are named.
    pub max_differences: usize,
    /// Migrations that may be unfinished at the same time.
    pub max_checkpoints: usize,
    /// How long one may lie unfinished.
    pub checkpoint_kept: Duration,
}

/// A checked request.
pub struct MigratePlan {
    source: End,
    /// The source's id of the collection.
    source_id: String,
    described: Description,
    /// As it was asked for.
    wanted: End,
    /// As it will be.
    target: End,
    action: Action,
    replaces: Option<Existing>,
    on_conflict: OnConflict,
    winner: Winner,
    size: BatchSize,
    verify: bool,
    allow_loss: bool,
    losses: Vec<Loss>,
    /// Whether an earlier attempt gave the copy its name already.
    published: bool,
    /// Under which it is known while it is unfinished.
    key: String,
    /// Bytes of disk that it takes here, at most.
    pub needed_bytes: u64,
}

/// What a migration would do.
pub struct MigratePreview {
    /// Records in the source.
    pub records: u64,
    /// What would happen to records.
    pub counts: RecordCounts,
    /// What the target cannot hold.
    pub losses: Vec<Loss>,
    /// Whether there is a moment at which the target's name leads nowhere.
    pub gap: bool,
    /// What else is to be known.
    pub notes: Vec<&'static str>,
}

/// What a migration did.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct MigrateOutcome {
    /// Records read, those read again by catching up included.
    pub read: u64,
    /// What happened to records.
    pub counts: RecordCounts,
    /// Canonical bytes read.
    pub bytes: u64,
    /// How long it took.
    pub duration_ms: u64,
    /// The source's digest at the moment that was migrated.
    pub source_digest: Option<Digest>,
    /// The target's digest, of what it really holds.
    pub target_digest: Option<Digest>,
    /// Whether the target was found to hold what it has to.
    pub verified: bool,
    /// Whether it went on from where an earlier attempt stopped.
    pub resumed: bool,
    /// What the target could not hold.
    pub losses: Vec<Loss>,
    /// Ids of the first records that differ.
    pub differences: Vec<String>,
}

impl MigratePlan {
    /// From.
    pub fn source(&self) -> &End {
        &self.source
    }

    /// To.
    pub fn target(&self) -> &End {
        &self.target
    }

    /// How the target comes to its name.
    pub fn action(&self) -> Action {
        self.action
    }

    /// What no other job may work on meanwhile.
    pub fn claims(&self) -> [Claim; 2] {
        [self.target.claim(), Claim::migration(&self.key)]
    }

    fn space(&self) -> Space {
        self.described.definition.configuration.space()
    }

    /// Whether there is a moment at which the target's name leads nowhere.
    fn gap(&self) -> bool {
        self.action == Action::Replaced && !self.target.is_local() && !self.target.is_vectorkeep()
    }

    /// What it would do: reads both ends where that depends on the records.
    ///
    /// # Errors
    /// `RemoteUnavailable`, `Canceled`, `StorageFault`.
    pub fn preview(
        &self,
        engine: &Engine,
        settings: &MigrateSettings,
        progress: &Progress,
    ) -> Result<MigratePreview> {
        let mut notes = Vec::new();
        if self.gap() {
            notes.push(
                "for a moment the target's name leads nowhere: a Chroma server can only rename",
            );
        }
        if self.action == Action::Merged && !self.target.is_local() {
            notes.push(
                "records are merged into the live collection one by one; what is done stays done if it stops",
            );
        }
        let surveyed = differences::survey(engine, self, settings, progress)?;
        let mut losses = self.losses.clone();
        losses.extend(surveyed.losses);
        Ok(MigratePreview {
            records: self.described.records,
            counts: surveyed.counts,
            losses,
            gap: self.gap(),
            notes,
        })
    }
}

/// Checks a request.
///
/// # Errors
/// `NotFound` for the source, `NameConflict` under `fail`, `Unprocessable` when both are the same, or for what
/// cannot be brought over; `RemoteUnavailable`.
pub fn plan(
    engine: &Engine,
    request: MigrateRequest,
    settings: &MigrateSettings,
) -> Result<MigratePlan> {
    let MigrateRequest { source, target, .. } = request;
    if source.environment == target.environment && source.name == target.name {
        return Err(Error::unprocessable(
            "source and target are the same collection",
        ));
    }
    let records = request.batch_size.unwrap_or(settings.batch.records);
    if !(1..=settings.max_batch_records).contains(&records) {
        return Err(Error::unprocessable(format!(
            "batch_size must be 1 to {} (migration.max_batch_records)",
            settings.max_batch_records
        )));
    }
    let progress = Progress::default();
    let described = source.source(engine, settings)?.describe(&progress)?;
    let mut plan = MigratePlan {
        source_id: described.id.clone(),
        described,
        source,
        wanted: target.clone(),
        target,
        action: Action::Created,
        replaces: None,
        on_conflict: request.on_conflict,
        winner: request.winner,
        size: BatchSize {
            records,
            bytes: settings.batch.bytes,
        },
        verify: request.verify,
        allow_loss: request.allow_loss,
        losses: Vec::new(),
        published: false,
        key: String::new(),
        needed_bytes: 0,
    };
    plan.key = Checkpoint::key(engine, &plan);
    decide(engine, &mut plan, settings, &progress)?;
    let mut definition = plan.described.definition.clone();
    let end = plan.target.target(engine, Staging::ToPublish);
    let losses = end.fit_collection(&mut definition).into_iter();
    plan.losses = losses
        .map(|what| Loss {
            what,
            records: 0,
            examples: Vec::new(),
        })
        .collect();
    plan.needed_bytes = needed(engine, &plan)?;
    Ok(plan)
}

/// Refuses what would be lost, unless that is allowed.
///
/// # Errors
/// `Unprocessable` that names it.
fn check_losses(plan: &MigratePlan, losses: &[Loss]) -> Result<()> {
    let Some(first) = losses.first().filter(|_| !plan.allow_loss) else {
        return Ok(());
    };
    Err(Error::unprocessable(format!(
        "{} cannot hold {}; nothing was written. With \"allow_loss\": true it is left out",
        plan.target.environment, first.what
    ))
    .with("losses", serde_json::json!(losses)))
}

impl MigratePlan {
    /// # Errors
    /// `Unprocessable` that names what the target cannot hold of the collection itself.
    pub fn check_losses(&self) -> Result<()> {
        check_losses(self, &self.losses)
    }
}

/// The target's name, and the way to it.
fn decide(
    engine: &Engine,
    plan: &mut MigratePlan,
    settings: &MigrateSettings,
    progress: &Progress,
) -> Result<()> {
    let kept = Checkpoint::find(engine, &plan.key)?;
    if let Some(checkpoint) = &kept
        && checkpoint.outcome.is_some()
    {
        // An earlier attempt stopped while names changed: it is ended as it was begun.
        plan.target = plan.wanted.named(checkpoint.target.clone());
        plan.action = checkpoint.action;
        let there = plan.target.existing(engine, progress)?;
        let is_ours = there
            .as_ref()
            .is_some_and(|there| Some(&there.id) == checkpoint.staged.as_ref());
        // What is done is done: the next request is another one, in the same process at least.
        let age = Utc::now().signed_duration_since(checkpoint.at).to_std();
        let late = age.unwrap_or_default() > DONE_KEPT;
        let is_over = |process| process == settings.process || !is_ours || late;
        if checkpoint.done_by.is_some_and(is_over) {
            engine.remove_checkpoint(&plan.key)?;
        } else if is_ours || there.is_none() || plan.action == Action::Replaced {
            plan.published = is_ours;
            plan.replaces = there.filter(|_| !is_ours);
            return Ok(());
        }
        // Somebody else has taken the name.
    }
    let there = plan.wanted.existing(engine, progress)?;
    let is_free = |name: &CollectionName| {
        let other = plan.wanted.named(name.clone());
        Ok(other.existing(engine, progress)?.is_none())
    };
    let (name, action) = resolve(
        plan.wanted.name.clone(),
        there.is_some(),
        plan.on_conflict,
        "migrated",
        is_free,
    )?;
    plan.target = plan.wanted.named(name);
    plan.action = action;
    plan.replaces = there.filter(|_| matches!(action, Action::Replaced | Action::Merged));
    if let (Action::Merged, Some(there)) = (action, &plan.replaces)
        && let (Some(here), Some(there)) = (plan.described.definition.dimension, there.dimension)
        && here != there
    {
        return Err(Error::unprocessable(format!(
            "{} has {there} dimensions, {} {here}: they cannot be merged",
            plan.target.name, plan.source.name
        )));
    }
    Ok(())
}

/// Bytes that a record takes beside its embedding, where nobody knows.
const ASSUMED_TEXT_BYTES: u64 = 512;

fn needed(engine: &Engine, plan: &MigratePlan) -> Result<u64> {
    if !plan.target.is_local() || plan.action == Action::Skipped {
        return Ok(0);
    }
    let dimension = u64::from(plan.described.definition.dimension.unwrap_or(0));
    let incoming = match &plan.source.remote {
        None => engine.collection_by_name(&plan.source.name)?.head.bytes,
        Some(_) => plan
            .described
            .records
            .saturating_mul(dimension * 4 + ASSUMED_TEXT_BYTES),
    };
    let copies = match (&plan.replaces, plan.action) {
        (Some(there), Action::Merged) => {
            let there = engine.collection(local::staged_id(&there.id)?)?;
            merge::check_dimensions(plan.described.definition.dimension, &there)?;
            incoming.saturating_mul(2).saturating_add(there.head.bytes)
        }
        _ => incoming,
    };
    Ok(copies.saturating_mul(DISK_FACTOR))
}

/// Migrates.
///
/// # Errors
/// `NotFound` when the source is dropped meanwhile, `NameConflict` when names changed since the plan,
/// `RemoteUnavailable`, `Unprocessable` for what the target cannot hold, `Canceled`, `StorageFault`. Nothing is
/// visible under the target's name then.
pub fn execute(
    engine: &Engine,
    plan: &MigratePlan,
    settings: &MigrateSettings,
    progress: &Progress,
) -> Result<MigrateOutcome> {
    let started = std::time::Instant::now();
    let mut outcome = if plan.action == Action::Skipped {
        MigrateOutcome {
            counts: RecordCounts::all_skipped(plan.described.records),
            ..MigrateOutcome::default()
        }
    } else if plan.source.is_local() && plan.target.is_local() {
        within(engine, plan, settings, progress)?
    } else if plan.action == Action::Merged && !plan.target.is_local() {
        into_live::merge(engine, plan, settings, progress)?
    } else {
        transfer::transfer(engine, plan, settings, progress)?
    };
    outcome.duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(outcome)
}

/// Within this store.
fn within(
    engine: &Engine,
    plan: &MigratePlan,
    settings: &MigrateSettings,
    progress: &Progress,
) -> Result<MigrateOutcome> {
    let target = local_target(plan)?;
    let source = local::staged_id(&plan.source_id)?;
    let winner = plan.winner;
    let copied = copy(
        engine,
        source,
        (&target, winner),
        None,
        &settings.restore,
        progress,
    )?;
    Ok(MigrateOutcome {
        read: copied.read,
        counts: copied.counts,
        bytes: copied.bytes,
        source_digest: Some(copied.source.head.digest),
        target_digest: Some(copied.digest),
        // The copy compared them; of a merge, count and digest of the union.
        verified: true,
        ..MigrateOutcome::default()
    })
}

fn local_target(plan: &MigratePlan) -> Result<DecidedTarget> {
    let replaces: Option<Uuid> = match &plan.replaces {
        Some(there) => Some(local::staged_id(&there.id)?),
        None => None,
    };
    Ok(DecidedTarget {
        name: plan.target.name.clone(),
        action: plan.action,
        replaces,
    })
}
